use std::collections::BTreeMap;

use trellect_core::{BitTuple, CallFacts, KernelSpec, LayerShape};

use super::MemoryLevel;
use crate::ContextKey;

/// An expert that has tokens in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertLoad {
    /// Its widths.
    pub tuple: BitTuple,
    /// Its tokens in this call.
    pub rows: u32,
}

/// What the adaptive policy knows of a call.
#[derive(Clone, Copy, Debug)]
pub struct CallFeatures<'a> {
    /// What legality goes by.
    pub facts: CallFacts<'a>,
    /// The layer's dimensions.
    pub shape: LayerShape,
    /// The experts that have tokens.
    pub loads: &'a [ExpertLoad],
}

impl CallFeatures<'_> {
    /// Weights that a kernel decodes: `Σ_experts ⌈rows / rows_per_decode⌉ ·
    /// weights_per_expert`, as [`LayerShape::weights_per_expert`] counts them.
    pub fn decoded_weights(&self, rows_per_decode: usize) -> u64 {
        let shared = rows_per_decode.max(1) as u64;
        let decodes: u64 = self.loads.iter().map(|l| u64::from(l.rows).div_ceil(shared)).sum();
        decodes * self.shape.weights_per_expert()
    }

    /// Multiply-adds: `num_pairs · weights_per_expert`.
    pub fn macs(&self) -> u64 {
        self.facts.num_pairs as u64 * self.shape.weights_per_expert()
    }

    /// Trellis bytes of the active experts, each counted once.
    pub fn bytes(&self) -> u64 {
        let bytes = |l: &ExpertLoad| {
            l.tuple.trellis_bytes(self.shape.padded_hidden(), self.shape.padded_intermediate())
        };
        self.loads.iter().map(bytes).sum()
    }

    /// Most tokens of one expert.
    pub fn max_load(&self) -> u32 {
        self.loads.iter().map(|l| l.rows).max().unwrap_or(0)
    }
}

/// What a [`ContextKey`] is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coordinates {
    /// Hash of the [`Cuts`]: other kernels may cut the token counts elsewhere.
    pub cuts: u32,
    /// Row of the token counts, cut where some kernel's number of decodes changes.
    pub token_bucket: u32,
    /// Logarithmic bucket of the number of experts with tokens.
    pub experts_bucket: u32,
    /// Logarithmic bucket of the largest number of tokens of one expert.
    pub load_bucket: u32,
    /// Hash of the tuple that has at least half of the rows, and of whether it has all.
    pub tuple_sketch: u32,
    /// How full the memory is.
    pub memory: MemoryLevel,
}

/// Where the token counts of a set of kernels part into contexts: wherever one of them decodes more
/// often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cuts(Vec<usize>);

impl Cuts {
    /// The cuts of `kernels`. Their rows per decoding count once each, so that a kernel which
    /// vanishes takes no context with it as long as another one decodes for as many rows.
    pub fn of<'k>(kernels: impl IntoIterator<Item = &'k KernelSpec>) -> Self {
        let mut rows: Vec<usize> =
            kernels.into_iter().map(|kernel| kernel.rows_per_decode.max(1)).collect();
        rows.sort_unstable();
        rows.dedup();
        Self(rows)
    }

    /// The coordinates of a call whose loads add up to `rows_per_tuple`, by ascending tuple.
    /// Allocates nothing.
    pub fn coordinates(
        &self,
        features: &CallFeatures<'_>,
        rows_per_tuple: impl Iterator<Item = (BitTuple, u64)> + Clone,
        memory: MemoryLevel,
    ) -> Coordinates {
        let tokens = features.facts.num_tokens;
        let mut cuts = Fnv::new();
        self.0.iter().for_each(|&rows| cuts.add(rows as u64));
        Coordinates {
            cuts: cuts.folded(),
            token_bucket: self.0.iter().map(|&rows| bucket(tokens.div_ceil(rows))).sum(),
            experts_bucket: bucket(features.loads.len()),
            load_bucket: bucket(features.max_load() as usize),
            tuple_sketch: tuple_sketch(rows_per_tuple),
            memory,
        }
    }
}

impl Coordinates {
    /// The coordinates of a call among `kernels`.
    pub fn of<'k>(
        features: &CallFeatures<'_>,
        kernels: impl IntoIterator<Item = &'k KernelSpec>,
        memory: MemoryLevel,
    ) -> Self {
        let mut rows: BTreeMap<BitTuple, u64> = BTreeMap::new();
        for load in features.loads {
            *rows.entry(load.tuple).or_default() += u64::from(load.rows);
        }
        let rows = rows.iter().map(|(&tuple, &rows)| (tuple, rows));
        Cuts::of(kernels).coordinates(features, rows, memory)
    }

    /// The key of these coordinates for `features`' layer dimensions and numeric class.
    pub fn key(&self, features: &CallFeatures<'_>) -> ContextKey {
        let shape = features.shape;
        let mut hash = Fnv::new();
        for part in [
            shape.hidden_size as u64,
            shape.intermediate_size as u64,
            shape.num_experts as u64,
            features.facts.numeric as u64,
            self.memory as u64,
            u64::from(self.cuts),
            u64::from(self.token_bucket),
            u64::from(self.experts_bucket),
            u64::from(self.load_bucket),
            u64::from(self.tuple_sketch),
        ] {
            hash.add(part);
        }
        ContextKey(hash.0)
    }
}

/// 0, 1, 2, 3–4, 5–8, …: non-decreasing, so that a sum over kernels changes where any of them does.
fn bucket(count: usize) -> u32 {
    match count {
        0 => 0,
        _ => 1 + count.next_power_of_two().ilog2(),
    }
}

/// Which tuple has at least half of the rows, if any, and whether it has all of them. Smaller shares
/// change with every draw of experts and seldom the ranking of kernels.
fn tuple_sketch(mut rows_per_tuple: impl Iterator<Item = (BitTuple, u64)> + Clone) -> u32 {
    let total: u64 = rows_per_tuple.clone().map(|(_, rows)| rows).sum();
    let mut hash = Fnv::new();
    if let Some((tuple, rows)) = rows_per_tuple.find(|&(_, rows)| rows > 0 && 2 * rows >= total) {
        let [gate, up, down] = tuple.widths().map(|bits| u64::from(bits.get()));
        hash.add(gate << 16 | up << 8 | down);
        hash.add(u64::from(rows == total));
    }
    hash.folded()
}

/// A hash of a text, the same on every machine and in every build.
pub(super) fn digest(text: &str) -> u64 {
    let mut hash = Fnv::new();
    text.bytes().for_each(|byte| hash.add(u64::from(byte)));
    hash.0
}

/// FNV-1a over 64-bit words: the same on every machine and in every build.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Both halves, folded together.
    const fn folded(&self) -> u32 {
        (self.0 ^ self.0 >> 32) as u32
    }

    fn add(&mut self, word: u64) {
        for byte in word.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
