use std::fmt;

/// Names a context: calls that are expected to rank the kernels alike, and so share a plan and what
/// was learned.
///
/// Any value is allowed; [`AdaptivePolicy::context_key`](crate::adaptive::AdaptivePolicy) makes a
/// stable one of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContextKey(pub u64);

impl fmt::Display for ContextKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
