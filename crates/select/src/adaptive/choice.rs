use std::fmt;
use std::str::FromStr;

use super::ReplayMismatch;
use crate::ContextKey;

/// Names one decision, for its feedback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Why a kernel was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChoiceReason {
    /// It is the context's incumbent.
    Incumbent,
    /// It is the rules' pick and the policy is off.
    Default,
    /// It is a challenger's leg of a pair.
    Probe,
    /// It is the incumbent's leg of a pair.
    Control,
    /// Its quarantine has run out.
    Recovery,
    /// The incumbent may not serve this call.
    Fallback,
    /// A leg of an idle sweep: nobody waits for it.
    Sweep,
}

impl ChoiceReason {
    /// Every reason.
    pub const ALL: [ChoiceReason; 7] = [
        Self::Incumbent,
        Self::Default,
        Self::Probe,
        Self::Control,
        Self::Recovery,
        Self::Fallback,
        Self::Sweep,
    ];

    /// Whether the launch was made to learn: it would not have been this kernel's otherwise.
    pub const fn is_exploration(self) -> bool {
        matches!(self, Self::Probe | Self::Recovery | Self::Sweep)
    }

    /// The reason's name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Incumbent => "incumbent",
            Self::Default => "default",
            Self::Probe => "probe",
            Self::Control => "control",
            Self::Recovery => "recovery",
            Self::Fallback => "fallback",
            Self::Sweep => "sweep",
        }
    }
}

impl fmt::Display for ChoiceReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ChoiceReason {
    type Err = UnknownChoiceReason;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|reason| reason.as_str() == text);
        found.ok_or_else(|| UnknownChoiceReason { found: text.into() })
    }
}

/// A text that names no reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{found}` is no reason of a choice: expected incumbent, default, probe, control, recovery, \
         fallback or sweep"
)]
pub struct UnknownChoiceReason {
    /// The text found.
    pub found: Box<str>,
}

/// A decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Index of the kernel among the policy's arms.
    pub kernel: usize,
    /// Why it was chosen.
    pub reason: ChoiceReason,
    /// To be handed back with the latency.
    pub ticket: Ticket,
    /// The context decided for.
    pub context: ContextKey,
}

/// What the caller allows and asks of one decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// Index of the rules' pick among the policy's arms.
    pub default: usize,
    /// Whether anything but the incumbent may run: not while a graph is captured nor close to a
    /// deadline.
    pub may_probe: bool,
}

/// A call that no arm may serve, or a rules' pick that is no arm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChooseError {
    /// The index of the rules' pick is out of range.
    #[error("the rules' pick is kernel {found}: expected an index below {arms}")]
    UnknownDefault {
        /// The index found.
        found: usize,
        /// Number of arms.
        arms: usize,
    },
    /// Every arm is illegal for this call or out of order.
    #[error("none of the {arms} kernels may serve this call")]
    NothingLegal {
        /// Number of arms.
        arms: usize,
    },
    /// The log that is replayed says something else of this call, or nothing.
    #[error(transparent)]
    Replay(#[from] ReplayMismatch),
}

/// What became of a decision's launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// Nanoseconds that it took.
    LatencyNs(f64),
    /// It failed to launch.
    Failed,
}

/// What became of a piece of feedback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// Learned from.
    Learned,
    /// Learned from, and the context has a new incumbent.
    Switched {
        /// Index of the old incumbent.
        from: usize,
        /// Index of the new one.
        to: usize,
    },
    /// Learned from, and the context's incumbent is no longer what it was.
    Drifted,
    /// The kernel is quarantined or blocked.
    Failure,
    /// Zero, negative, NaN or infinite; nothing is learned.
    BadLatency,
    /// Kept as evidence; the mode does not learn.
    NotLearning,
    /// Counted and kept as evidence; nothing is learned from a call that the policy was not asked
    /// for, since the work in it is not known.
    Counted,
    /// No arm has this index.
    UnknownKernel,
    /// No such decision was ever made.
    UnknownTicket,
    /// Answered before, or so late that the decision is forgotten.
    ForgottenTicket,
}
