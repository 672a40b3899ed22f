//! `kernels/large_batch.cu`: many tokens, every weight decoded once for up to 128 rows of its
//! expert and fed to Hopper's matrix unit from registers.

use half::f16;
use trellect_core::HADAMARD;

use super::batch::{MAX_EXPERTS, MAX_PAIRS, TILE_BYTES, most_tiles};
use super::{Entry, Plan, Region, Sizes};
use crate::Arch;
use crate::source::{LARGE_BATCH, Unit};

/// It has nothing to choose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LargeBatch;

/// `MAX_ROWS` of the kernels.
const MAX_ROWS: usize = 128;
/// `SHARED_BYTES` of the kernels: the sums of two column groups, padded, and what aligning takes.
const SHARED_BYTES: u32 = 1024 + 2 * MAX_ROWS as u32 * (HADAMARD as u32 + 4) * 4;

const fn entry(name: &'static str, threads: u32, shared_bytes: u32) -> Entry {
    Entry { name, threads, shared_bytes, dependent: true }
}

const ENTRIES: [Entry; 4] = [
    entry("route", 256, 0),
    entry("gate_up", 512, SHARED_BYTES),
    entry("level", 256, 0),
    entry("down", 512, SHARED_BYTES),
];

impl Plan for LargeBatch {
    fn unit(&self) -> &'static Unit {
        &LARGE_BATCH
    }

    fn defines(&self, _sizes: &Sizes) -> Vec<(&'static str, u32)> {
        Vec::new()
    }

    fn entries(&self) -> &'static [Entry] {
        &ENTRIES
    }

    fn grid(&self, entry: usize, sizes: &Sizes, _tokens: usize, pairs: usize) -> [u32; 3] {
        let tiles = most_tiles(sizes, pairs, MAX_ROWS);
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

    fn only_arch(&self) -> Option<Arch> {
        Some(Arch::HOPPER)
    }

    fn is_exact(&self) -> bool {
        false
    }

    fn rows_per_decode(&self) -> usize {
        MAX_ROWS
    }

    fn is_deterministic(&self) -> bool {
        // A token's experts add to the same output.
        false
    }
}
