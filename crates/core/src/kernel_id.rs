use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use crate::{BitTuple, Bits};

/// What a kernel does with the tokens of a call; the middle part of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// One token; every selected expert is read once.
    Decode,
    /// Few tokens; one decoded weight serves up to four of them.
    Prefill4,
    /// Any number of tokens with the smallest workspace.
    Base,
    /// Many tokens; every weight is decoded once for all of its expert's tokens.
    LargeBatch,
    /// One pass per bit tuple instead of one mixed pass.
    Grouped,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 5] =
        [Self::Decode, Self::Prefill4, Self::Base, Self::LargeBatch, Self::Grouped];

    const fn suffix(self) -> &'static str {
        match self {
            Self::Decode => "_decode",
            Self::Prefill4 => "_prefill4",
            Self::Base => "",
            Self::LargeBatch => "_large_batch",
            Self::Grouped => "_grouped",
        }
    }
}

/// Where a kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BackendKind {
    /// The host's processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// Any GPU that Vulkan, Metal or DX12 reaches.
    Wgpu,
}

impl BackendKind {
    const ALL: [BackendKind; 3] = [Self::Cpu, Self::Cuda, Self::Wgpu];

    /// The name used in kernel names and flags.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Wgpu => "wgpu",
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One of several implementations of a kernel: the part of a name after `@`, as in `cpu.avx512`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Variant {
    backend: BackendKind,
    // Inline so that a KernelId is Copy and a launch allocates nothing.
    text: [u8; Self::MAX_LEN],
    len: u8,
}

impl Variant {
    /// Longest implementation name.
    pub const MAX_LEN: usize = 23;

    /// A variant called `name` (lower-case letters, digits and `_`) of `backend`.
    ///
    /// # Errors
    /// [`VariantError`] when the name is empty, too long or has another character.
    pub fn new(backend: BackendKind, name: &str) -> Result<Self, VariantError> {
        let legal = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_';
        if name.is_empty() || name.len() > Self::MAX_LEN || !name.as_bytes().iter().all(legal) {
            return Err(VariantError { found: name.into() });
        }
        let mut text = [0; Self::MAX_LEN];
        text[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Self { backend, text, len: name.len() as u8 })
    }

    /// The backend.
    pub const fn backend(&self) -> BackendKind {
        self.backend
    }

    /// The implementation's name.
    pub fn name(&self) -> &str {
        std::str::from_utf8(&self.text[..usize::from(self.len)]).expect("ASCII: checked by new")
    }
}

impl Hash for Variant {
    /// As three words: names are hashed for every latency that is recorded. The length is in the
    /// text, which is padded with zeros and has none of its own.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = [self.backend as u8; 24];
        bytes[..Self::MAX_LEN].copy_from_slice(&self.text);
        for word in bytes.as_chunks::<8>().0 {
            state.write_u64(u64::from_le_bytes(*word));
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.backend, self.name())
    }
}

impl fmt::Debug for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that cannot name an implementation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{found}` is no variant name: expected 1 to {max} lower-case letters, digits and `_`",
    max = Variant::MAX_LEN
)]
pub struct VariantError {
    /// The text found.
    pub found: Box<str>,
}

/// The stable name of a kernel: the key of history, filters, metrics and every API.
///
/// ```
/// # use trellect_core::{Family, KernelId};
/// let id: KernelId = "moe_trellis_swiglu_decode_6_2_3@cpu.avx512".parse().unwrap();
/// assert_eq!(id.family, Family::Decode);
/// assert_eq!(id.tuple.unwrap().to_string(), "6_2_3");
/// assert_eq!(id.plain().to_string(), "moe_trellis_swiglu_decode_6_2_3");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelId {
    /// What it does with the tokens.
    pub family: Family,
    /// float32 accumulation and intermediates throughout.
    pub fp32_acc: bool,
    /// The only tuple it computes, where its widths are compile-time constants.
    pub tuple: Option<BitTuple>,
    /// Which implementation, where a backend has several.
    pub variant: Option<Variant>,
}

impl KernelId {
    const PREFIX: &'static str = "moe_trellis_swiglu";

    /// The plain kernel of `family`.
    pub const fn new(family: Family) -> Self {
        Self { family, fp32_acc: false, tuple: None, variant: None }
    }

    /// The same with float32 accumulation.
    pub const fn with_fp32_acc(self, fp32_acc: bool) -> Self {
        Self { fp32_acc, ..self }
    }

    /// The same for one tuple only.
    pub const fn with_tuple(self, tuple: BitTuple) -> Self {
        Self { tuple: Some(tuple), ..self }
    }

    /// The same as one implementation.
    pub const fn with_variant(self, variant: Variant) -> Self {
        Self { variant: Some(variant), ..self }
    }

    /// The name without its implementation.
    pub const fn plain(self) -> Self {
        Self { variant: None, ..self }
    }

    /// The backend that this is an implementation of; `None` where the name leaves it open.
    pub fn backend(self) -> Option<BackendKind> {
        self.variant.map(|variant| variant.backend())
    }

    /// Whether this name means `kernel`: a name without implementation means every one of them.
    #[inline]
    pub fn names(self, kernel: Self) -> bool {
        self == kernel || self == kernel.plain()
    }
}

impl fmt::Display for KernelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, self.family.suffix())?;
        if self.fp32_acc {
            f.write_str("_fp32acc")?;
        }
        if let Some(tuple) = self.tuple {
            write!(f, "_{tuple}")?;
        }
        if let Some(variant) = self.variant {
            write!(f, "@{variant}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for KernelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KernelId {
    type Err = KernelNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || KernelNameError { found: text.into() };
        let (name, variant) = match text.split_once('@') {
            None => (text, None),
            Some((name, variant)) => (name, Some(parse_variant(variant).ok_or_else(error)?)),
        };
        let rest = name.strip_prefix(Self::PREFIX).ok_or_else(error)?;
        let (family, rest) =
            [Family::Decode, Family::Prefill4, Family::LargeBatch, Family::Grouped]
                .into_iter()
                .find_map(|family| Some((family, rest.strip_prefix(family.suffix())?)))
                .unwrap_or((Family::Base, rest));
        let (fp32_acc, rest) = match rest.strip_prefix("_fp32acc") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let tuple = match rest {
            "" => None,
            rest => Some(parse_tuple(rest).ok_or_else(error)?),
        };
        Ok(Self { family, fp32_acc, tuple, variant })
    }
}

fn parse_variant(text: &str) -> Option<Variant> {
    let (backend, name) = text.split_once('.')?;
    let backend = BackendKind::ALL.into_iter().find(|kind| kind.name() == backend)?;
    Variant::new(backend, name).ok()
}

/// Reads exactly `_G_U_D`: one spelling a name, so that names stay keys.
fn parse_tuple(text: &str) -> Option<BitTuple> {
    let [b'_', gate, b'_', up, b'_', down] = text.as_bytes() else { return None };
    let width = |digit: &u8| Bits::new(u64::from(digit.checked_sub(b'0')?)).ok();
    Some(BitTuple { gate: width(gate)?, up: width(up)?, down: width(down)? })
}

/// A text that is no kernel name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{found}` is no kernel name: expected \
     moe_trellis_swiglu[_decode|_prefill4|_large_batch|_grouped][_fp32acc][_G_U_D][@backend.variant]"
)]
pub struct KernelNameError {
    /// The text found.
    pub found: Box<str>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_the_design_parse() {
        for name in [
            "moe_trellis_swiglu",
            "moe_trellis_swiglu_decode",
            "moe_trellis_swiglu_decode_6_2_3",
            "moe_trellis_swiglu_prefill4",
            "moe_trellis_swiglu_prefill4_fp32acc",
            "moe_trellis_swiglu_large_batch",
            "moe_trellis_swiglu_grouped",
            "moe_trellis_swiglu_fp32acc",
            "moe_trellis_swiglu_decode_fp32acc",
            "moe_trellis_swiglu_decode@cpu.avx512",
            "moe_trellis_swiglu_large_batch@cuda.w8_s4_pdl",
        ] {
            assert_eq!(name.parse::<KernelId>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn near_names_are_refused() {
        for name in [
            "",
            "moe_trellis",
            "moe_trellis_swiglu_",
            "moe_trellis_swiglu_decode_6_2",
            "moe_trellis_swiglu_decode_6_2_9",
            "moe_trellis_swiglu_decode_06_2_3",
            "moe_trellis_swiglu_decode_6_2_3_fp32acc",
            "moe_trellis_swiglu_decode@cpu",
            "moe_trellis_swiglu_decode@tpu.v5",
            "moe_trellis_swiglu_decode@cpu.AVX",
            "moe_trellis_swiglu_decode@cpu.",
            "Moe_trellis_swiglu",
        ] {
            assert!(name.parse::<KernelId>().is_err(), "{name}");
        }
    }

    fn any_id() -> impl Strategy<Value = KernelId> {
        let tuple = proptest::option::of((1u64..=8, 1u64..=8, 1u64..=8))
            .prop_map(|t| t.map(|(g, u, d)| BitTuple::new(g, u, d).unwrap()));
        let variant = proptest::option::of((0usize..3, "[a-z0-9_]{1,23}"))
            .prop_map(|v| v.map(|(b, name)| Variant::new(BackendKind::ALL[b], &name).unwrap()));
        (0usize..5, any::<bool>(), tuple, variant).prop_map(|(f, fp32_acc, tuple, variant)| {
            KernelId { family: Family::ALL[f], fp32_acc, tuple, variant }
        })
    }

    proptest! {
        #[test]
        fn printing_and_parsing_are_inverse(id in any_id()) {
            prop_assert_eq!(id.to_string().parse::<KernelId>().unwrap(), id);
        }
    }
}
