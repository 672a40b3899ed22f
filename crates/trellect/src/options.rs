use trellect_core::{KernelId, NumericClass};
use trellect_select::RuleConfig;

use crate::Selector;

/// What a [`Dispatcher`](crate::Dispatcher) goes by.
#[derive(Clone, Debug)]
pub struct DispatcherOptions {
    /// The numeric class of every call.
    pub numeric: NumericClass,
    /// The rules.
    pub rules: RuleConfig,
    /// The only kernels that may serve; `None`: every kernel of the backend.
    pub available: Option<Vec<KernelId>>,
    /// How kernels are chosen.
    pub policy: Policy,
}

impl Default for DispatcherOptions {
    /// Class `half`, every kernel, the default rules without exploration, and a selector of the
    /// dispatcher's own, which starts from the rules and learns.
    fn default() -> Self {
        let rules = RuleConfig { exploration_rate: 0.0, ..RuleConfig::default() };
        Self { numeric: NumericClass::Half, rules, available: None, policy: Policy::default() }
    }
}

/// How a dispatcher chooses.
#[derive(Clone, Debug)]
pub enum Policy {
    /// By the rules alone, with their exploration and feedback.
    Rules,
    /// By what the selector has learned; `None`: a new selector with its default options. The rules'
    /// pick, without exploration and feedback, serves until a context has a plan and wherever the
    /// plan cannot. Give clones of one selector to all layers of a model: equal ones share what they
    /// learn.
    Adaptive(Option<Selector>),
}

impl Default for Policy {
    /// Adaptive, with a selector of its own.
    fn default() -> Self {
        Self::Adaptive(None)
    }
}
