//! Rotated activations of many tokens for one linear each.

use trellect_core::HADAMARD;

use crate::buffer::{Arena, arena_bytes};
use crate::disjoint::Disjoint;
use crate::micro::{BLOCK_LANES, BlockMut, Lane, RowRef};

/// `rows` rows of `blocks` 128-wide blocks each.
pub(crate) struct Rows<'a, L> {
    lanes: &'a mut [L],
    scales: &'a mut [f32],
    sums: &'a mut [f32],
    blocks: usize,
    /// Floats from one row's scales to the next row's: whole cache lines, so that rows written by
    /// different threads share none.
    stride: usize,
}

impl<'a, L: Lane> Rows<'a, L> {
    /// Bytes of an arena that every row takes.
    pub(crate) fn bytes_per_row(in_features: usize) -> usize {
        let blocks = in_features / HADAMARD;
        arena_bytes::<L>(blocks * BLOCK_LANES) + 2 * arena_bytes::<f32>(blocks)
    }

    pub(crate) fn take(arena: &mut Arena<'a>, rows: usize, in_features: usize) -> Self {
        let blocks = in_features / HADAMARD;
        let stride = arena_bytes::<f32>(blocks) / size_of::<f32>();
        Self {
            lanes: arena.take(rows * blocks * BLOCK_LANES),
            scales: arena.take(rows * stride),
            sums: arena.take(rows * stride),
            blocks,
            stride,
        }
    }

    pub(crate) fn row(&self, row: usize) -> RowRef<'_, L> {
        let lanes = self.blocks * BLOCK_LANES;
        let start = row * self.stride;
        RowRef {
            lanes: &self.lanes[row * lanes..(row + 1) * lanes],
            scales: &self.scales[start..start + self.blocks],
            sums: &self.sums[start..start + self.blocks],
        }
    }

    /// For a phase in which threads write blocks of their own.
    pub(crate) fn writer(&mut self) -> RowsWriter<'_, L> {
        RowsWriter {
            lanes: Disjoint::new(self.lanes),
            scales: Disjoint::new(self.scales),
            sums: Disjoint::new(self.sums),
            blocks: self.blocks,
            stride: self.stride,
        }
    }
}

/// Writes blocks of [`Rows`] from several threads.
pub(crate) struct RowsWriter<'a, L> {
    lanes: Disjoint<'a, L>,
    scales: Disjoint<'a, f32>,
    sums: Disjoint<'a, f32>,
    blocks: usize,
    stride: usize,
}

impl<L: Lane> RowsWriter<'_, L> {
    /// Block `block` of row `row`.
    ///
    /// # Safety
    /// No two blocks with the same row and number are alive at once.
    pub(crate) unsafe fn block(&self, row: usize, block: usize) -> BlockMut<'_, L> {
        let start = (row * self.blocks + block) * BLOCK_LANES;
        // SAFETY: blocks are disjoint ranges, and the caller holds no block twice.
        let lanes = unsafe { self.lanes.part(start..start + BLOCK_LANES) };
        let at = row * self.stride + block;
        // SAFETY: as for the lanes.
        let scale = unsafe { self.scales.part(at..at + 1) };
        // SAFETY: as for the lanes.
        let sum = unsafe { self.sums.part(at..at + 1) };
        BlockMut {
            lanes: lanes.try_into().expect("a block's lanes"),
            scale: &mut scale[0],
            sum: &mut sum[0],
        }
    }
}
