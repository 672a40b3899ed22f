use super::{AdaptivePolicy, Fitness, Mode};
use crate::ContextKey;

/// What a context serves until the plan changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Index of the kernel among the policy's arms.
    pub kernel: usize,
    /// Every so many calls one should ask [`AdaptivePolicy::choose`], 0 for none; the others are
    /// served without asking and told to [`AdaptivePolicy::observe`].
    pub ask_every: u16,
}

impl AdaptivePolicy {
    /// What each context would serve: the table to publish to the hot path, whose reader still
    /// checks legality. A context that is not in it must ask for every call: it is new, its
    /// incumbent has failed, or the mode says so.
    pub fn serving_plan(&self) -> impl Iterator<Item = (ContextKey, Serving)> {
        let contexts = self.contexts.iter();
        contexts.filter_map(|(key, context)| {
            let ask_every = match self.config.mode {
                Mode::Learn if context.settled => self.config.settled_ask_every.max(1),
                Mode::Learn => 1,
                Mode::Frozen => 0,
                Mode::Replay | Mode::Off => return None,
            };
            let kernel = context.incumbent;
            let fit = self.health[kernel].fitness(self.now_ns) == Fitness::Fit;
            fit.then_some((*key, Serving { kernel, ask_every }))
        })
    }

    /// A number that changes whenever [`serving_plan`](Self::serving_plan) may have changed.
    pub const fn plan_version(&self) -> u64 {
        self.plan_version
    }
}
