use std::fmt;
use std::time::Duration;

use trellect_core::{Bits, KernelId, LaunchError};
use trellect_select::adaptive::ChoiceReason;
use trellect_select::{ContextKey, Decision};

use crate::{ActivationPattern, TupleRows, WrongResult};

/// What a [`Dispatcher`](crate::Dispatcher) did for one call, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The kernel that computed the output; `None` when there was no token.
    pub kernel: Option<KernelId>,
    /// The rules' decision; `None` where they were not asked: a plan served, there was no token, or
    /// the caller named the kernel.
    pub decision: Option<Decision>,
    /// How the adaptive policy chose; `None` where it was not asked.
    pub selection: Option<Selection>,
    /// Why another kernel than the chosen one ran.
    pub fallback: Option<Fallback>,
    /// Device time; `None` where the device has not told yet.
    pub latency: Option<Duration>,
    /// Tokens of the call.
    pub num_tokens: usize,
    /// (token, expert) pairs per bit tuple, by ascending tuple.
    pub rows_per_tuple: TupleRows,
    /// Trellis bytes of the active experts: what the call must read at least.
    pub active_bytes: u64,
    /// Used share of the device's memory, 0 to 1.
    pub memory_pressure: f64,
    /// How the tokens spread over the experts.
    pub pattern: ActivationPattern,
}

/// How the adaptive policy chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The call's context.
    pub context: ContextKey,
    /// Why this kernel; with [`Default`](ChoiceReason::Default) and
    /// [`Fallback`](ChoiceReason::Fallback) the rules picked it.
    pub reason: ChoiceReason,
}

impl Report {
    /// The reason in one word: the adaptive policy's, or the rules' where they decide;
    /// `launch_failure` or `wrong_result` when the chosen kernel failed, `requested` when the caller
    /// named the kernel, `no_tokens` when there was nothing to do.
    pub fn reason(&self) -> &'static str {
        match (&self.fallback, &self.selection, &self.decision, self.kernel) {
            (Some(Fallback { error: Failure::Launch(_), .. }), ..) => "launch_failure",
            (Some(Fallback { error: Failure::Wrong(_), .. }), ..) => "wrong_result",
            (None, Some(selection), ..) => selection.reason.as_str(),
            (None, None, Some(decision), _) => decision.reason.as_str(),
            (None, None, None, Some(_)) => "requested",
            (None, None, None, None) => "no_tokens",
        }
    }

    /// Whether the call was used to learn what a challenger takes.
    pub fn is_probe(&self) -> bool {
        self.selection.is_some_and(|selection| selection.reason == ChoiceReason::Probe)
    }

    /// The distinct widths of the active experts' projections, ascending.
    pub fn active_bits(&self) -> impl Iterator<Item = Bits> + '_ {
        let has = |bits: &Bits| {
            self.rows_per_tuple.iter().any(|(tuple, _)| tuple.widths().contains(bits))
        };
        Bits::ALL.into_iter().filter(has)
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
    pub error: Failure,
}

/// How a chosen kernel failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// It did not launch.
    #[error(transparent)]
    Launch(LaunchError),
    /// It computed something that the base kernel does not confirm.
    #[error(transparent)]
    Wrong(WrongResult),
}
