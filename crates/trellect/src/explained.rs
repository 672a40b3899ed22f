use std::fmt;

use trellect_select::adaptive::AdaptiveExplanation;
use trellect_select::{ContextKey, Explanation};

/// What would become of every kernel for a call, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// What the rules think, with kernels that failed and those that this machine cannot run.
    pub rules: Explanation,
    /// What the adaptive policy thinks; `None` where the rules alone decide.
    pub adaptive: Option<Learned>,
}

/// What the adaptive policy thinks of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Learned {
    /// The call's context.
    pub context: ContextKey,
    /// Every arm with its bound, its estimate, its evidence and what became of it.
    pub explanation: AdaptiveExplanation,
}

impl fmt::Display for Explained {
    /// The adaptive policy's view, where there is one, then the rules'.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Learned { context, explanation }) = &self.adaptive {
            writeln!(f, "context {context}: {explanation}\nby the rules:")?;
        }
        self.rules.fmt(f)
    }
}
