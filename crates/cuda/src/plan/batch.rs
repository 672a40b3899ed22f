//! `kernels/batch.cu`: any number of tokens, grouped by expert on the device, four launches.

use half::f16;
use trellect_core::HADAMARD;

use super::{Entry, FEW_KINDS, Plan, Region, Sizes, slice};
use crate::source::{BATCH, Unit};

/// How much a block computes, and into how many slices the two products cut their inputs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch {
    pub(crate) exact: bool,
    /// Whether a fifth launch adds the experts' shares up in a fixed order.
    pub(crate) ordered: bool,
    /// Eights of matrix rows that share a decoded weight.
    pub(crate) row_tiles: usize,
    /// Blocks that shall fit a multiprocessor: the compiler's limit on registers.
    pub(crate) blocks_per_sm: u32,
    pub(crate) gate_up_slices: usize,
    pub(crate) down_slices: usize,
}

/// Keeps every dimension of a grid far below 65536.
pub(super) const MAX_PAIRS: usize = 1 << 16;
/// `MAX_EXPERTS` of `kernels/route.cuh`.
pub(super) const MAX_EXPERTS: usize = 1024;
/// `Tile` of the same file; a tile has at least one pair.
pub(super) const TILE_BYTES: usize = 16;

/// Most tiles of at most `rows` rows that `pairs` pairs make.
pub(super) fn most_tiles(sizes: &Sizes, pairs: usize, rows: usize) -> usize {
    pairs.min(sizes.num_experts + pairs / rows)
}

impl Batch {
    /// Class `exact` splits every activation in two.
    fn parts(&self) -> usize {
        if self.exact { 2 } else { 1 }
    }

    fn rows(&self) -> usize {
        8 * self.row_tiles / self.parts()
    }

    fn gate_up_slice(&self, sizes: &Sizes) -> usize {
        slice(sizes.hidden, self.gate_up_slices)
    }

    fn down_slice(&self, sizes: &Sizes) -> usize {
        slice(sizes.intermediate, self.down_slices)
    }
}

impl Plan for Batch {
    fn unit(&self) -> &'static Unit {
        &BATCH
    }

    fn defines(&self, sizes: &Sizes) -> Vec<(&'static str, u32)> {
        vec![
            ("ROW_TILES", self.row_tiles as u32),
            ("BLOCKS_PER_SM", self.blocks_per_sm),
            ("ORDERED", self.ordered.into()),
            ("GATE_UP_SLICE", self.gate_up_slice(sizes) as u32),
            ("DOWN_SLICE", self.down_slice(sizes) as u32),
        ]
    }

    fn entries(&self) -> Vec<Entry> {
        let entry = |name, threads| Entry { name, threads, shared_bytes: 0 };
        let mut entries =
            ["route", "gate_up", "swiglu", "down"].map(|name| entry(name, 256)).to_vec();
        if self.ordered {
            entries.push(entry("combine", HADAMARD as u32));
        }
        entries
    }

    fn grid(&self, entry: usize, sizes: &Sizes, tokens: usize, pairs: usize) -> [u32; 3] {
        let tiles = most_tiles(sizes, pairs, self.rows());
        let product = |outputs: usize, inputs: usize, slice: usize| {
            [outputs / HADAMARD, inputs.div_ceil(slice), tiles]
        };
        let grid = match entry {
            0 => [1 + pairs, 1, 1],
            1 => product(sizes.intermediate, sizes.hidden, self.gate_up_slice(sizes)),
            2 => [pairs, 1, 1],
            3 => product(sizes.hidden, sizes.intermediate, self.down_slice(sizes)),
            _ => [sizes.hidden / HADAMARD, tokens, 1],
        };
        grid.map(|blocks| blocks as u32)
    }

    fn regions(&self, sizes: &Sizes) -> Vec<Region> {
        let (hidden, intermediate) = (sizes.hidden, sizes.intermediate);
        let activations = |length: usize| self.parts() * length * size_of::<f16>();
        let gate_up_slices = hidden.div_ceil(self.gate_up_slice(sizes));
        let down_slices = intermediate.div_ceil(self.down_slice(sizes));
        let mut regions: Vec<Region> = [
            2 * activations(hidden),
            2 * size_of::<f32>(),
            gate_up_slices * 2 * intermediate * size_of::<f32>(),
            activations(intermediate),
            size_of::<f32>(),
            size_of::<i32>(),
            TILE_BYTES,
        ]
        .map(Region::per_pair)
        .into();
        regions.push(Region { fixed_bytes: size_of::<i32>(), bytes_per_pair: 0 });
        if self.ordered {
            regions.push(Region::per_pair(down_slices * hidden * size_of::<f32>()));
        }
        regions
    }

    fn pass_pairs(&self) -> usize {
        MAX_PAIRS
    }

    fn max_experts(&self) -> usize {
        MAX_EXPERTS
    }

    fn max_kinds(&self) -> u32 {
        if self.row_tiles < 8 { u32::MAX } else { FEW_KINDS }
    }

    fn is_exact(&self) -> bool {
        self.exact
    }

    fn rows_per_decode(&self) -> usize {
        self.rows()
    }

    fn is_deterministic(&self) -> bool {
        self.ordered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_whole_blocks_that_cover_the_input() {
        for length in [128, 384, 1408, 1536, 4096] {
            for slices in 1..=8 {
                let slice = slice(length, slices);
                assert!(slice.is_multiple_of(HADAMARD) && length.div_ceil(slice) <= slices);
            }
        }
    }

    #[test]
    fn there_are_blocks_for_every_tile() {
        let plan = Batch {
            exact: true,
            ordered: true,
            row_tiles: 2,
            blocks_per_sm: 1,
            gate_up_slices: 2,
            down_slices: 1,
        };
        let sizes = Sizes { hidden: 2048, intermediate: 1536, num_experts: 4 };
        assert_eq!(plan.rows(), 8);
        // 17 pairs on four experts are up to five tiles of eight, and fit six.
        assert_eq!(plan.grid(1, &sizes, 17, 17), [12, 2, 6]);
        assert_eq!(plan.grid(3, &sizes, 3, 3), [16, 1, 3]);
        assert_eq!(plan.grid(0, &sizes, 3, 3), [4, 1, 1]);
        assert_eq!(plan.grid(4, &sizes, 5, 10), [16, 5, 1]);
        for (entry, pairs) in (0..5).flat_map(|entry| [1, 9, MAX_PAIRS].map(|p| (entry, p))) {
            let [_, y, z] = plan.grid(entry, &sizes, pairs, pairs);
            assert!(y <= 65_536 && z <= 65_535);
        }
    }
}
