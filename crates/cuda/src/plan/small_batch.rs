//! `kernels/small_batch.cu`: one to a few tokens, two launches, no list of work.

use trellect_core::HADAMARD;

use super::{Entry, Plan, Region, Sizes};
use crate::source::{SMALL_BATCH, Unit};

/// How many rows of W a block multiplies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SmallBatch {
    pub(crate) exact: bool,
    /// Whether calls have no more than one token.
    pub(crate) one_token: bool,
    /// A multiple of 128, of both products.
    pub(crate) slice: usize,
}

/// `MAX_PAIRS` of the kernels.
const MAX_PAIRS: usize = 256;

impl Plan for SmallBatch {
    fn unit(&self) -> &'static Unit {
        &SMALL_BATCH
    }

    fn defines(&self, _sizes: &Sizes) -> Vec<(&'static str, u32)> {
        let slice = self.slice as u32;
        vec![("ONE_TOKEN", self.one_token.into()), ("GATE_UP_SLICE", slice), ("DOWN_SLICE", slice)]
    }

    fn entries(&self) -> Vec<Entry> {
        ["gate_up", "down"].map(Entry::new).into()
    }

    fn grid(&self, entry: usize, sizes: &Sizes, _tokens: usize, pairs: usize) -> [u32; 3] {
        let (outputs, inputs) = match entry {
            0 => (sizes.intermediate, sizes.hidden),
            _ => (sizes.hidden, sizes.intermediate),
        };
        [outputs / HADAMARD, inputs.div_ceil(self.slice), pairs].map(|blocks| blocks as u32)
    }

    fn regions(&self, sizes: &Sizes) -> Vec<Region> {
        // Partial sums of gate and up, one set per slice of the hidden dimension.
        let sets = sizes.hidden.div_ceil(self.slice);
        vec![Region::per_pair(sets * 2 * sizes.intermediate * size_of::<f32>())]
    }

    fn pass_pairs(&self) -> usize {
        MAX_PAIRS
    }

    fn is_exact(&self) -> bool {
        self.exact
    }

    fn rows_per_decode(&self) -> usize {
        match (self.one_token, self.exact) {
            (true, _) => 1,
            (false, true) => 4,
            (false, false) => 8,
        }
    }

    fn is_deterministic(&self) -> bool {
        // A token's experts, and the slices of one, add to the same output.
        false
    }
}
