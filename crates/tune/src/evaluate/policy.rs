use trellect_select::adaptive::{
    AdaptiveConfig, AdaptivePolicy, ChoiceReason, Conditions, MachineLimits, Outcome, Recorded,
    Ticket,
};

use super::{Sight, World};

/// What a policy tells of itself when it has learned something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It serves a context by another kernel from now on, by decision rather than by draw.
    Switch {
        /// The old kernel.
        from: usize,
        /// The new kernel.
        to: usize,
    },
    /// It has found that a context is no longer what it was.
    Alarm,
}

/// A way to select kernels.
pub trait Policy {
    /// The kernel for a call, one of the open ones.
    fn choose(&mut self, sight: &Sight<'_>) -> usize;

    /// Learns the latency of the latest choice; `None` where its launch failed.
    fn record(
        &mut self,
        _context: usize,
        _kernel: usize,
        _latency_ns: Option<f64>,
    ) -> Option<Event> {
        None
    }

    /// What a context is served by while nothing is probed, for policies that serve and probe
    /// apart.
    fn serving(&self, _context: usize) -> Option<usize> {
        None
    }
}

/// The adaptive policy.
#[derive(Debug)]
pub struct Adaptive {
    policy: AdaptivePolicy,
    ticket: Ticket,
    now_ns: u64,
    serving: Vec<Option<usize>>,
}

impl Adaptive {
    /// The adaptive policy for the kernels of `world`, whose true latencies it does not see.
    pub fn new(world: &dyn World, config: AdaptiveConfig) -> Self {
        let policy = AdaptivePolicy::new(config, world.arms().to_vec(), MachineLimits::UNKNOWN)
            .expect("a world has kernels with finite costs");
        Self { policy, ticket: Ticket(0), now_ns: 0, serving: vec![None; world.contexts()] }
    }
}

impl Policy for Adaptive {
    fn choose(&mut self, sight: &Sight<'_>) -> usize {
        let conditions = Conditions { default: sight.default, may_probe: true };
        let choice = self.policy.choose(&sight.features, &conditions, sight.now_ns);
        let choice = choice.expect("a world's rules' pick may serve every call");
        if matches!(choice.reason, ChoiceReason::Incumbent | ChoiceReason::Control) {
            self.serving[sight.context] = Some(choice.kernel);
        }
        (self.ticket, self.now_ns) = (choice.ticket, sight.now_ns);
        choice.kernel
    }

    fn serving(&self, context: usize) -> Option<usize> {
        self.serving[context]
    }

    fn record(&mut self, context: usize, _: usize, latency_ns: Option<f64>) -> Option<Event> {
        let outcome = latency_ns.map_or(Outcome::Failed, Outcome::LatencyNs);
        match self.policy.record(self.ticket, outcome, self.now_ns) {
            Recorded::Switched { from, to } => {
                self.serving[context] = Some(to);
                Some(Event::Switch { from, to })
            }
            Recorded::Drifted => Some(Event::Alarm),
            _ => None,
        }
    }
}
