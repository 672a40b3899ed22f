use std::fmt;

/// Which function turns a 16-bit trellis state into a weight. The arithmetic is in
/// `docs/formats.md`; a checkpoint names the codebook of every linear by a marker tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codebook {
    /// `3inst`: no marker.
    ThreeInst,
    /// `mcg`: marker tensor `mcg`.
    Mcg,
    /// `mul1`: marker tensor `mul1`.
    Mul1,
}

impl Codebook {
    /// Every codebook of the format.
    pub const ALL: [Codebook; 3] = [Codebook::ThreeInst, Codebook::Mcg, Codebook::Mul1];

    /// The name used in `quantization_config.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ThreeInst => "3inst",
            Self::Mcg => "mcg",
            Self::Mul1 => "mul1",
        }
    }

    /// The codebook called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codebook| codebook.name() == name)
    }
}

impl fmt::Display for Codebook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
