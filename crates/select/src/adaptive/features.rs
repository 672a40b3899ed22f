use std::collections::BTreeSet;

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
    /// Row of the token counts, cut where some kernel's number of decodes changes.
    pub token_bucket: u32,
    /// Logarithmic bucket of the number of experts with tokens.
    pub experts_bucket: u32,
    /// Logarithmic bucket of the largest number of tokens of one expert.
    pub load_bucket: u32,
    /// Hash of every tuple's share of the rows, in powers of two.
    pub tuple_sketch: u32,
    /// How full the memory is.
    pub memory: MemoryLevel,
}

impl Coordinates {
    /// The coordinates of a call among `kernels`.
    pub fn of<'k>(
        features: &CallFeatures<'_>,
        kernels: impl IntoIterator<Item = &'k KernelSpec>,
        memory: MemoryLevel,
    ) -> Self {
        // Distinct, so that a kernel which vanishes takes no context with it as long as another
        // one decodes for as many rows.
        let rows: BTreeSet<usize> = kernels.into_iter().map(|k| k.rows_per_decode.max(1)).collect();
        let tokens = features.facts.num_tokens;
        Self {
            token_bucket: rows.into_iter().map(|rows| bucket(tokens.div_ceil(rows))).sum(),
            experts_bucket: bucket(features.loads.len()),
            load_bucket: bucket(features.max_load() as usize),
            tuple_sketch: tuple_sketch(features.loads),
            memory,
        }
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

fn tuple_sketch(loads: &[ExpertLoad]) -> u32 {
    let mut rows: Vec<(BitTuple, u64)> = Vec::new();
    for load in loads {
        match rows.binary_search_by_key(&load.tuple, |&(tuple, _)| tuple) {
            Ok(at) => rows[at].1 += u64::from(load.rows),
            Err(at) => rows.insert(at, (load.tuple, u64::from(load.rows))),
        }
    }
    let total: u64 = rows.iter().map(|&(_, rows)| rows).sum();
    let mut hash = Fnv::new();
    for (tuple, rows) in rows.into_iter().filter(|&(_, rows)| rows * 16 >= total && rows > 0) {
        let [gate, up, down] = tuple.widths().map(|bits| u64::from(bits.get()));
        hash.add(gate << 16 | up << 8 | down);
        hash.add(u64::from((total / rows).ilog2()));
    }
    (hash.0 ^ hash.0 >> 32) as u32
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

    fn add(&mut self, word: u64) {
        for byte in word.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
