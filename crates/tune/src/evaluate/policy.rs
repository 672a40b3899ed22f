use trellect_select::adaptive::{
    AdaptiveConfig, AdaptivePolicy, CallFeatures, ChoiceReason, Conditions, MachineLimits, Outcome,
    Recorded, Ticket,
};

use super::World;

/// What a policy may know when it chooses.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// The context's index.
    pub context: usize,
    /// The call.
    pub features: CallFeatures<'a>,
    /// The prior's estimate for every kernel, nanoseconds.
    pub prior_ns: &'a [f64],
    /// The rules' pick.
    pub default: usize,
    /// The true expected latencies: only for an oracle.
    pub truth_ns: &'a [f64],
    /// Simulated time.
    pub now_ns: u64,
}

/// A change of what a policy serves in a context, by decision rather than by draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The old kernel.
    pub from: usize,
    /// The new kernel.
    pub to: usize,
}

/// A way to select kernels.
pub trait Policy {
    /// The kernel for a call.
    fn choose(&mut self, sight: &Sight<'_>) -> usize;

    /// Learns the latency of the latest choice; `None` where its launch failed. Tells of a switch.
    fn record(&mut self, context: usize, kernel: usize, latency_ns: Option<f64>) -> Option<Switch>;

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
    pub fn new(world: &World, config: AdaptiveConfig) -> Self {
        let policy = AdaptivePolicy::new(config, world.arms().to_vec(), MachineLimits::UNKNOWN)
            .expect("a world has kernels with finite costs");
        Self { policy, ticket: Ticket(0), now_ns: 0, serving: vec![None; world.config().contexts] }
    }

    /// The policy itself.
    pub const fn inner(&self) -> &AdaptivePolicy {
        &self.policy
    }
}

impl Policy for Adaptive {
    fn choose(&mut self, sight: &Sight<'_>) -> usize {
        let conditions = Conditions { default: sight.default, may_probe: true };
        let choice = self.policy.choose(&sight.features, &conditions, sight.now_ns);
        let choice = choice.expect("the base kernel of a world computes every call");
        if matches!(choice.reason, ChoiceReason::Incumbent | ChoiceReason::Control) {
            self.serving[sight.context] = Some(choice.kernel);
        }
        (self.ticket, self.now_ns) = (choice.ticket, sight.now_ns);
        choice.kernel
    }

    fn serving(&self, context: usize) -> Option<usize> {
        self.serving[context]
    }

    fn record(&mut self, context: usize, _: usize, latency_ns: Option<f64>) -> Option<Switch> {
        let outcome = latency_ns.map_or(Outcome::Failed, Outcome::LatencyNs);
        match self.policy.record(self.ticket, outcome, self.now_ns) {
            Recorded::Switched { from, to } => {
                self.serving[context] = Some(to);
                Some(Switch { from, to })
            }
            _ => None,
        }
    }
}
