//! Which instructions this processor has. An instruction set is a token that only detection makes;
//! holding one is the proof that its instructions may be executed.

use std::fmt;
use std::str::FromStr;

/// Caps detection: `generic`, `neon`, `neon_i8mm`, `avx2`, `avx512` or `amx`.
pub const MAX_ISA_VARIABLE: &str = "TRELLECT_MAX_ISA";

/// An instruction set that kernels are written for, in ascending order within an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Portable code.
    Generic,
    /// NEON with float16 arithmetic.
    Neon,
    /// NEON with float16 arithmetic and 8-bit matrix products.
    NeonI8mm,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VBMI and VNNI.
    Avx512,
    /// AMX with 8-bit operands, and what AVX-512 asks for.
    Amx,
}

impl Isa {
    /// Every instruction set, best first.
    pub const ALL: [Isa; 6] =
        [Self::Amx, Self::Avx512, Self::Avx2, Self::NeonI8mm, Self::Neon, Self::Generic];

    /// The name used in kernel names and by the cap.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Neon => "neon",
            Self::NeonI8mm => "neon_i8mm",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }

    /// What a processor must have.
    pub const fn requirement(self) -> &'static str {
        match self {
            Self::Generic => "nothing",
            Self::Neon => "NEON with fp16",
            Self::NeonI8mm => "NEON with fp16 and i8mm",
            Self::Avx2 => "AVX2 with FMA and F16C",
            Self::Avx512 => "AVX-512 with BW, VBMI and VNNI",
            Self::Amx => "AMX with INT8 that the system permits, and AVX-512 with VBMI and VNNI",
        }
    }

    /// Whether this processor has it.
    pub fn is_detected(self) -> bool {
        match self {
            Self::Generic => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Amx::detect().is_some(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => Neon::detect().is_some(),
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm => NeonI8mm::detect().is_some(),
            // Another architecture's.
            _ => false,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|isa| isa.name() == text);
        found.ok_or_else(|| UnknownIsa { found: text.into() })
    }
}

/// A text that names no instruction set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no instruction set: expected generic, neon, neon_i8mm, avx2, avx512 or amx")]
pub struct UnknownIsa {
    /// The text found.
    pub found: Box<str>,
}

/// Proof that NEON and its float16 arithmetic may be executed.
#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon(());

#[cfg(target_arch = "aarch64")]
impl Neon {
    pub(crate) fn detect() -> Option<Self> {
        use std::arch::is_aarch64_feature_detected;
        let found = is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("fp16");
        found.then_some(Self(()))
    }
}

/// Proof that 8-bit matrix products may be executed, and all that [`Neon`] proves.
#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct NeonI8mm(());

#[cfg(target_arch = "aarch64")]
impl NeonI8mm {
    pub(crate) fn detect() -> Option<Self> {
        let found = Neon::detect().is_some() && std::arch::is_aarch64_feature_detected!("i8mm");
        found.then_some(Self(()))
    }
}

/// Proof that AVX2, FMA and F16C may be executed.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }
}

/// Proof that AVX-512 F, BW, VBMI and VNNI may be executed, and all that [`Avx2`] proves.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        let found = Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vnni");
        found.then_some(Self(()))
    }
}

/// Proof that AMX with 8-bit operands may be executed by every thread of this process, and all that
/// [`Avx512`] proves.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amx(());

#[cfg(target_arch = "x86_64")]
impl Amx {
    /// Asks the system for permission: the registers are large, and Linux saves them only for
    /// processes that asked. Other systems are not known to grant it.
    pub(crate) fn detect() -> Option<Self> {
        // First, since an interpreter has neither AVX-512 nor the instruction that lists features.
        Avx512::detect()?;
        let features = raw_cpuid::CpuId::new().get_extended_feature_info()?;
        let found = features.has_amx_tile() && features.has_amx_int8() && permitted();
        found.then_some(Self(()))
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
fn permitted() -> bool {
    /// `ARCH_REQ_XCOMP_PERM` and the number of the tiles' state, of the kernel's interface.
    const REQUEST_PERMISSION: libc::c_int = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;
    // SAFETY: the call reads its arguments only, and unknown requests fail.
    let failure = unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) };
    failure == 0
}

#[cfg(all(target_arch = "x86_64", any(not(target_os = "linux"), miri)))]
fn permitted() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_inverse_and_order_is_strength() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse(), Ok(isa));
        }
        assert!(Isa::ALL.is_sorted_by(|a, b| a > b));
        assert!("sse9".parse::<Isa>().unwrap_err().to_string().contains("sse9"));
        assert!(Isa::Generic.is_detected());
    }
}
