//! Kernels as charts tell them apart: colour by family, dashes by implementation, short names.

use trellect_core::{Family, KernelId};

/// What shares a colour, in the order of the legend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Series {
    Decode,
    /// Decode for one bit tuple only.
    Specialised,
    Prefill4,
    Base,
    Grouped,
    LargeBatch,
    /// A name that is none of ours.
    Other,
}

impl Series {
    /// The series of a kernel.
    pub(crate) fn of(kernel: &KernelId) -> Self {
        match (kernel.family, kernel.tuple) {
            (Family::Decode, Some(_)) => Self::Specialised,
            (Family::Decode, None) => Self::Decode,
            (Family::Prefill4, _) => Self::Prefill4,
            (Family::Base, _) => Self::Base,
            (Family::Grouped, _) => Self::Grouped,
            (Family::LargeBatch, _) => Self::LargeBatch,
        }
    }

    /// The name of its class and colour.
    pub(crate) const fn class(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Specialised => "specialised",
            Self::Prefill4 => "prefill4",
            Self::Base => "base",
            Self::Grouped => "grouped",
            Self::LargeBatch => "large-batch",
            Self::Other => "other",
        }
    }

    /// The name in the legend.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Specialised => "decode for one tuple",
            Self::Prefill4 => "prefill4",
            Self::Base => "base",
            Self::Grouped => "grouped",
            Self::LargeBatch => "large batch",
            Self::Other => "other",
        }
    }

    /// A few letters, for cells.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Decode => "dec",
            Self::Specialised => "dec1",
            Self::Prefill4 => "pre4",
            Self::Base => "base",
            Self::Grouped => "grp",
            Self::LargeBatch => "large",
            Self::Other => "?",
        }
    }
}

/// Longest name that is shown of a kernel that is none of ours.
const MAX_FOREIGN: usize = 24;

/// A kernel's name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kernel {
    pub(crate) series: Series,
    /// Without the common part of all names: `decode 6_2_3`.
    pub(crate) short: String,
    /// The implementation: `avx512`; empty where there is none.
    pub(crate) variant: String,
}

impl Kernel {
    /// Reads any text as a kernel's name.
    pub(crate) fn named(name: &str) -> Self {
        match name.parse::<KernelId>() {
            Ok(id) => Self::from(&id),
            Err(_) => {
                let mut short: String = name.chars().take(MAX_FOREIGN).collect();
                if short.len() < name.len() {
                    short.push('…');
                }
                Self { series: Series::Other, short, variant: String::new() }
            }
        }
    }

    /// The short name with the implementation.
    pub(crate) fn label(&self) -> String {
        match self.variant.as_str() {
            "" => self.short.clone(),
            variant => format!("{} {variant}", self.short),
        }
    }

    /// The same in few letters, for where the class is said elsewhere.
    pub(crate) fn brief(&self) -> String {
        self.label().replace("large batch", "large").replace(" fp32acc", "").replace("_int8", "")
    }
}

impl From<&KernelId> for Kernel {
    fn from(id: &KernelId) -> Self {
        let series = Series::of(id);
        let mut short = match id.family {
            Family::Decode => Series::Decode.name().to_owned(),
            _ => series.name().to_owned(),
        };
        if id.fp32_acc {
            short.push_str(" fp32acc");
        }
        if let Some(tuple) = id.tuple {
            short = format!("{short} {tuple}");
        }
        let variant = id.variant.map_or_else(String::new, |variant| variant.name().to_owned());
        Self { series, short, variant }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        for (name, series, label) in [
            ("moe_trellis_swiglu", Series::Base, "base"),
            (
                "moe_trellis_swiglu_decode_6_2_3@cpu.avx512",
                Series::Specialised,
                "decode 6_2_3 avx512",
            ),
            (
                "moe_trellis_swiglu_prefill4_fp32acc@cuda.s8",
                Series::Prefill4,
                "prefill4 fp32acc s8",
            ),
            ("moe_trellis_swiglu_large_batch", Series::LargeBatch, "large batch"),
            ("<b>of another program altogether</b>", Series::Other, "<b>of another program al…"),
        ] {
            let kernel = Kernel::named(name);
            assert_eq!((kernel.series, kernel.label().as_str()), (series, label));
        }
    }
}
