use std::fmt;
use std::time::Duration;

use trellect_core::{BitTuple, Bits, KernelId, LaunchError};
use trellect_select::Decision;

use crate::ActivationPattern;

/// What a [`Dispatcher`](crate::Dispatcher) did for one call, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The kernel that computed the output; `None` when there was no token.
    pub kernel: Option<KernelId>,
    /// How it was chosen; `None` when there was no token, or the caller named the kernel.
    pub decision: Option<Decision>,
    /// Why another kernel than the chosen one ran.
    pub fallback: Option<Fallback>,
    /// Device time; `None` where the device has not told yet.
    pub latency: Option<Duration>,
    /// Tokens of the call.
    pub num_tokens: usize,
    /// The distinct widths of the active experts' projections, ascending.
    pub active_bits: Vec<Bits>,
    /// (token, expert) pairs per bit tuple, by ascending tuple.
    pub rows_per_tuple: Vec<(BitTuple, usize)>,
    /// Trellis bytes of the active experts: what the call must read at least.
    pub active_bytes: u64,
    /// Used share of the device's memory, 0 to 1.
    pub memory_pressure: f64,
    /// How the tokens spread over the experts.
    pub pattern: ActivationPattern,
}

impl Report {
    /// The reason in one word: the decision's, `launch_failure` when its kernel failed, `requested`
    /// when the caller named the kernel, `no_tokens` when there was nothing to do.
    pub fn reason(&self) -> &'static str {
        match (&self.fallback, &self.decision, self.kernel) {
            (Some(_), _, _) => "launch_failure",
            (None, Some(decision), _) => decision.reason.as_str(),
            (None, None, Some(_)) => "requested",
            (None, None, None) => "no_tokens",
        }
    }

    /// Trellis bytes of the active experts per second of device time, in 10⁹.
    pub fn gb_per_s(&self) -> Option<f64> {
        let seconds = self.latency?.as_secs_f64();
        (seconds > 0.0).then(|| self.active_bytes as f64 / seconds / 1e9)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(kernel) = self.kernel else { return f.write_str("no tokens, no kernel") };
        write!(f, "{} tokens on {kernel} ({})", self.num_tokens, self.reason())?;
        if let Some(latency) = self.latency {
            write!(f, " in {:.3} ms", latency.as_secs_f64() * 1e3)?;
        }
        Ok(())
    }
}

/// A chosen kernel that failed, so that the base kernel computed the call.
#[derive(Clone, Debug, PartialEq)]
pub struct Fallback {
    /// The kernel that failed; it is quarantined now.
    pub failed: KernelId,
    /// How it failed.
    pub error: LaunchError,
}
