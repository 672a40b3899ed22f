//! `kernels/large_batch.cu`: many tokens, every weight decoded once for up to 160 rows of its
//! expert and fed to Hopper's matrix unit from registers.

use half::f16;
use trellect_core::HADAMARD;

use super::batch::{MAX_EXPERTS, MAX_PAIRS, TILE_BYTES, most_tiles};
use super::{Entry, FEW_KINDS, Plan, Region, Sizes};
use crate::Arch;
use crate::source::{LARGE_BATCH, Unit};

/// How many rows a block multiplies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LargeBatch {
    /// 64 or 160.
    pub(crate) rows: usize,
    /// Blocks that shall fit a multiprocessor: the compiler's limit on registers.
    pub(crate) blocks_per_sm: u32,
}

impl LargeBatch {
    /// `SHARED_BYTES` of the kernels: four stages of 64 rows of two operands, or the sums of two
    /// column groups, padded; and what aligning takes.
    fn shared_bytes(&self) -> u32 {
        let stages = 2 * 4 * self.rows * 64 * size_of::<f16>();
        let sums = 2 * self.rows * (HADAMARD + 4) * size_of::<f32>();
        1024 + stages.max(sums) as u32
    }
}

impl Plan for LargeBatch {
    fn unit(&self) -> &'static Unit {
        &LARGE_BATCH
    }

    fn defines(&self, _sizes: &Sizes) -> Vec<(&'static str, u32)> {
        vec![("MAX_ROWS", self.rows as u32), ("BLOCKS_PER_SM", self.blocks_per_sm)]
    }

    fn entries(&self) -> Vec<Entry> {
        let product = |name| Entry { shared_bytes: self.shared_bytes(), ..Entry::new(name) };
        vec![Entry::new("route"), product("gate_up"), Entry::new("level"), product("down")]
    }

    fn grid(&self, entry: usize, sizes: &Sizes, _tokens: usize, pairs: usize) -> [u32; 3] {
        let tiles = most_tiles(sizes, pairs, self.rows);
        let grid = match entry {
            0 => [1 + pairs, 1, 1],
            1 => [sizes.intermediate / HADAMARD, tiles, 1],
            2 => [pairs.div_ceil(8), 1, 1],
            _ => [sizes.hidden.div_ceil(2 * HADAMARD), tiles, 1],
        };
        grid.map(|blocks| blocks as u32)
    }

    fn regions(&self, sizes: &Sizes) -> Vec<Region> {
        let (hidden, intermediate) = (sizes.hidden, sizes.intermediate);
        let mut regions: Vec<Region> = [
            2 * hidden * size_of::<f16>(),
            2 * size_of::<f32>(),
            intermediate * size_of::<f16>(),
            intermediate / HADAMARD * size_of::<f32>(),
            size_of::<f32>(),
            size_of::<i32>(),
            TILE_BYTES,
        ]
        .map(Region::per_pair)
        .into();
        regions.push(Region { fixed_bytes: size_of::<i32>(), bytes_per_pair: 0 });
        regions
    }

    fn pass_pairs(&self) -> usize {
        MAX_PAIRS
    }

    fn max_experts(&self) -> usize {
        MAX_EXPERTS
    }

    fn max_kinds(&self) -> u32 {
        if self.rows < 160 { u32::MAX } else { FEW_KINDS }
    }

    fn refuses(&self, arch: Arch) -> Option<&'static str> {
        (arch != Arch::HOPPER).then_some("is written for sm_90a alone")
    }

    fn is_exact(&self) -> bool {
        false
    }

    fn rows_per_decode(&self) -> usize {
        self.rows
    }

    fn is_deterministic(&self) -> bool {
        // A token's experts add to the same output.
        false
    }
}
