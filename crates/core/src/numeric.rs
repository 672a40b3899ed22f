use std::fmt;
use std::str::FromStr;

/// How exact a kernel is: a bound on the relative Frobenius error of a layer's output against the
/// float64 oracle. Ordered from the most to the least exact.
///
/// Latency may never choose between classes: a call names the class it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NumericClass {
    /// At most 1e-5: float32 throughout, the codebook's exact float16 values.
    Exact,
    /// At most 2e-3: operands of at least float16's precision, wide accumulation.
    Half,
    /// At most 1.5e-2: 8-bit operands, activations or weights, in some of the projections.
    Int8,
}

impl NumericClass {
    /// Every class, most exact first.
    pub const ALL: [NumericClass; 3] = [Self::Exact, Self::Half, Self::Int8];

    /// The largest relative Frobenius error that a kernel of this class may have.
    pub const fn max_relative_error(self) -> f64 {
        match self {
            Self::Exact => 1e-5,
            Self::Half => 2e-3,
            Self::Int8 => 1.5e-2,
        }
    }

    /// The name used by flags and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Half => "half",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for NumericClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for NumericClass {
    type Err = UnknownClass;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|class| class.name() == text);
        found.ok_or_else(|| UnknownClass { found: text.into() })
    }
}

/// A text that names no numeric class.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no numeric class: expected exact, half or int8")]
pub struct UnknownClass {
    /// The text found.
    pub found: Box<str>,
}
