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
    /// Whether the two products are launched once for every tuple.
    pub(crate) by_tuple: bool,
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
            ("TUPLES", sizes.num_tuples as u32),
            ("GATE_UP_SLICE", self.gate_up_slice(sizes) as u32),
            ("DOWN_SLICE", self.down_slice(sizes) as u32),
        ]
    }

    fn entries(&self) -> Vec<Entry> {
        let product = |name| Entry { by_tuple: self.by_tuple, ..Entry::new(name) };
        let mut entries =
            vec![Entry::new("route"), product("gate_up"), Entry::new("swiglu"), product("down")];
        if self.ordered {
            entries.push(Entry { threads: HADAMARD as u32, ..Entry::new("combine") });
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
        let fixed_bytes = sizes.num_tuples * size_of::<i32>();
        regions.push(Region { fixed_bytes, bytes_per_pair: 0 });
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

    fn is_by_tuple(&self) -> bool {
        self.by_tuple
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
    fn the_products_alone_are_launched_by_tuple() {
        let plan = Batch {
            exact: false,
            ordered: false,
            by_tuple: true,
            row_tiles: 1,
            blocks_per_sm: 3,
            gate_up_slices: 2,
            down_slices: 1,
        };
        let by_tuple: Vec<_> =
            plan.entries().iter().filter(|e| e.by_tuple).map(|e| e.name).collect();
        assert_eq!(by_tuple, ["gate_up", "down"]);
        let sizes = Sizes { hidden: 256, intermediate: 128, num_experts: 8, num_tuples: 3 };
        assert!(plan.defines(&sizes).contains(&("TUPLES", 3)));
        assert_eq!(plan.regions(&sizes)[7].fixed_bytes, 3 * size_of::<i32>());
        // One expert of a tuple with seven pairs is one tile, with seventeen up to three.
        let of_tuple = Sizes { num_experts: 1, ..sizes };
        assert_eq!([7, 17].map(|pairs| plan.grid(1, &of_tuple, pairs, pairs)[2]), [1, 3]);
    }

    #[test]
    fn there_are_blocks_for_every_tile() {
        let plan = Batch {
            exact: true,
            ordered: true,
            by_tuple: false,
            row_tiles: 2,
            blocks_per_sm: 1,
            gate_up_slices: 2,
            down_slices: 1,
        };
        let sizes = Sizes { hidden: 2048, intermediate: 1536, num_experts: 4, num_tuples: 1 };
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
