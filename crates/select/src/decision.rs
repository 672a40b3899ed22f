use std::fmt;

use trellect_core::{Bits, Family, KernelId, KernelSpec, NumericClass};

/// Which kernel serves a call, and everything that is reported about the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// The kernel; one of the candidates.
    pub kernel: KernelId,
    /// The rule that decided.
    pub reason: Reason,
    /// The kernel's numeric class.
    pub class: NumericClass,
    /// The class asked for.
    pub class_asked: NumericClass,
    /// Columns of one work item of the kernel.
    pub tile_n: usize,
    /// The row of the token table.
    pub bucket: Bucket,
    /// What the widths of the active experts look like; reported only.
    pub heuristic_family: HeuristicFamily,
    /// The kernel that the rules take without history and exploration; one of the candidates.
    pub baseline_kernel: KernelId,
    /// Whether exploration decided: another kernel was tried than would have served, or the two
    /// were run against each other.
    pub explored: bool,
    /// The plain name of the rules' choice, where it could not serve.
    pub fallback_from: Option<KernelId>,
}

impl Decision {
    /// Whether the kernel is less exact than asked for.
    pub fn numeric_downgrade(&self) -> bool {
        self.class > self.class_asked
    }

    /// The same with another legal kernel of the class asked for in its place.
    pub(crate) fn replaced_by(&self, spec: &KernelSpec, reason: Reason) -> Self {
        Self { kernel: spec.id, reason, tile_n: spec.tile_n, fallback_from: None, ..*self }
    }

    /// What to tell the user where the rules' choice could not serve.
    pub fn message(&self) -> Option<String> {
        let wanted = self.fallback_from?;
        let mut message =
            format!("Selected kernel {wanted} not available, using {} instead", self.kernel);
        if self.class < self.class_asked {
            message += &format!(" (class {}, {} was asked for)", self.class, self.class_asked);
        }
        Some(message)
    }
}

/// The rule that made a decision. The strings are stable: they are keys of metadata and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// `memory_pressure`: pressure above the threshold, so the base kernel.
    MemoryPressure,
    /// `exploration`: another legal kernel, drawn at random, or the winner of a paired test.
    Exploration,
    /// `feedback_optimization`: another legal kernel, significantly faster in this bucket's
    /// history.
    FeedbackOptimization,
    /// `activation_pattern_skewed`: one expert has most of the work, so the standard kernel of the
    /// table's row and no specialised one.
    ActivationPatternSkewed,
    /// `heuristic`: the table's row, or the specialised decode of the experts' only tuple.
    Heuristic,
    /// `fallback_availability`: the choice does not exist here, or the caller did not list it.
    FallbackAvailability,
    /// `fallback_workspace`: the choice needs more workspace than the call may take.
    FallbackWorkspace,
    /// `fallback_legality`: the choice cannot compute this call's token count or tuples.
    FallbackLegality,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 8] = [
        Self::MemoryPressure,
        Self::Exploration,
        Self::FeedbackOptimization,
        Self::ActivationPatternSkewed,
        Self::Heuristic,
        Self::FallbackAvailability,
        Self::FallbackWorkspace,
        Self::FallbackLegality,
    ];

    /// The reason's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MemoryPressure => "memory_pressure",
            Self::Exploration => "exploration",
            Self::FeedbackOptimization => "feedback_optimization",
            Self::ActivationPatternSkewed => "activation_pattern_skewed",
            Self::Heuristic => "heuristic",
            Self::FallbackAvailability => "fallback_availability",
            Self::FallbackWorkspace => "fallback_workspace",
            Self::FallbackLegality => "fallback_legality",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A row of the token table ([`Thresholds`](crate::Thresholds)), named after its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bucket {
    /// One token.
    Decode,
    /// Few tokens.
    Prefill4,
    /// Some more.
    Base,
    /// Many tokens.
    LargeBatch,
}

impl Bucket {
    /// Every row, fewest tokens first.
    pub const ALL: [Bucket; 4] = [Self::Decode, Self::Prefill4, Self::Base, Self::LargeBatch];

    /// The row's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Prefill4 => "prefill4",
            Self::Base => "base",
            Self::LargeBatch => "large_batch",
        }
    }

    /// The standard kernel of this row: what the table takes for a class.
    pub const fn standard_kernel(self, class: NumericClass) -> KernelId {
        let fp32_acc = matches!(class, NumericClass::Exact);
        let family = match self {
            Self::Decode => Family::Decode,
            Self::Prefill4 => Family::Prefill4,
            // float32 accumulation has no large-batch kernel.
            Self::LargeBatch if !fp32_acc => Family::LargeBatch,
            Self::Base | Self::LargeBatch => Family::Base,
        };
        KernelId::new(family).with_fp32_acc(fp32_acc)
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the widths of the active experts look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HeuristicFamily {
    /// `fast_2bit`: more than half are 2-bit.
    Fast2Bit,
    /// `mixed_bpw`: several widths.
    MixedBpw,
    /// `standard`: one width, or none known.
    Standard,
}

impl HeuristicFamily {
    /// The family of a list of widths.
    pub fn of(active_bits: &[Bits]) -> Self {
        let two_bit = active_bits.iter().filter(|bits| bits.get() == 2).count();
        if two_bit * 2 > active_bits.len() {
            Self::Fast2Bit
        } else if active_bits.windows(2).any(|pair| pair[0] != pair[1]) {
            Self::MixedBpw
        } else {
            Self::Standard
        }
    }

    /// The family's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fast2Bit => "fast_2bit",
            Self::MixedBpw => "mixed_bpw",
            Self::Standard => "standard",
        }
    }
}

impl fmt::Display for HeuristicFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
