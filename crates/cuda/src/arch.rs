//! Which machine code a device wants.

use std::fmt;

/// The architecture that a kernel is compiled for, as in `sm_90a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arch {
    /// Compute capability, major part.
    pub major: u32,
    /// Compute capability, minor part.
    pub minor: u32,
}

impl Arch {
    /// Ampere, the oldest that the kernels are written for: `cp.async`, `mma.m16n8k16`.
    pub const OLDEST: Arch = Arch { major: 8, minor: 0 };
    /// Hopper.
    pub const HOPPER: Arch = Arch { major: 9, minor: 0 };

    /// Whether kernels may start before their predecessor ends, and clusters of blocks exist.
    pub const fn has_dependent_launch(self) -> bool {
        self.major >= 9
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only the architecture-specific target of Hopper has its matrix instructions.
        let suffix = if *self == Self::HOPPER { "a" } else { "" };
        write!(f, "sm_{}{}{suffix}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hopper_has_an_architecture_specific_target() {
        let name = |major, minor| Arch { major, minor }.to_string();
        assert_eq!([name(8, 0), name(8, 9), name(9, 0)], ["sm_80", "sm_89", "sm_90a"]);
        assert!(Arch { major: 7, minor: 5 } < Arch::OLDEST);
        assert!(Arch::OLDEST < Arch { major: 8, minor: 9 });
    }
}
