//! Rotated activations of many tokens for one linear each.

use trellect_core::TILE;

use crate::buffer::{Arena, arena_bytes};
use crate::disjoint::Disjoint;
use crate::micro::{Micro, RowMut, RowsRef};

/// Rows of one width, as a micro-kernel `M` wants them.
pub(crate) struct Rows<'a, M: Micro> {
    lanes: &'a mut [M::Lane],
    /// See [`RowsRef::scales`].
    scales: &'a mut [f32],
    layout: Layout,
}

#[derive(Clone, Copy)]
struct Layout {
    /// Lanes of a row.
    lanes: usize,
    /// Lanes from one row to the next.
    lane_stride: usize,
    segments: usize,
    /// Whole cache lines, so that rows written by different threads share none.
    scale_stride: usize,
}

impl Layout {
    fn new<M: Micro>(in_features: usize) -> Self {
        let segments = (in_features / TILE).div_ceil(M::SEGMENT_TILES);
        // A cache line more than the lanes: rows a power of two apart would share a cache's sets.
        let row_bytes = arena_bytes::<M::Lane>(in_features * M::LANES) + arena_bytes::<u8>(1);
        Self {
            lanes: in_features * M::LANES,
            lane_stride: row_bytes / size_of::<M::Lane>(),
            segments,
            scale_stride: arena_bytes::<f32>(segments + 1) / size_of::<f32>(),
        }
    }
}

impl<'a, M: Micro> Rows<'a, M> {
    /// Bytes of an arena that every row takes.
    pub(crate) fn bytes_per_row(in_features: usize) -> usize {
        let layout = Layout::new::<M>(in_features);
        arena_bytes::<M::Lane>(layout.lane_stride) + arena_bytes::<f32>(layout.scale_stride)
    }

    pub(crate) fn take(arena: &mut Arena<'a>, rows: usize, in_features: usize) -> Self {
        let layout = Layout::new::<M>(in_features);
        Self {
            lanes: arena.take(rows * layout.lane_stride),
            scales: arena.take(rows * layout.scale_stride),
            layout,
        }
    }

    /// Rows `first..first + rows`.
    pub(crate) fn range(&self, first: usize, rows: usize) -> RowsRef<'_, M::Lane> {
        let Layout { lanes: row_lanes, lane_stride, scale_stride, segments } = self.layout;
        RowsRef {
            rows,
            row_lanes,
            lanes: &self.lanes[first * lane_stride..][..rows * lane_stride],
            scales: &self.scales[first * scale_stride..][..rows * scale_stride],
            lane_stride,
            scale_stride,
            segments,
        }
    }

    /// For a phase in which threads write rows of their own.
    pub(crate) fn writer(&mut self) -> RowsWriter<'_, M> {
        RowsWriter {
            lanes: Disjoint::new(self.lanes),
            scales: Disjoint::new(self.scales),
            layout: self.layout,
        }
    }
}

/// Writes [`Rows`] from several threads.
pub(crate) struct RowsWriter<'a, M: Micro> {
    lanes: Disjoint<'a, M::Lane>,
    scales: Disjoint<'a, f32>,
    layout: Layout,
}

impl<M: Micro> RowsWriter<'_, M> {
    /// Row `row`.
    ///
    /// # Safety
    /// No row is alive twice.
    pub(crate) unsafe fn row(&self, row: usize) -> RowMut<'_, M::Lane> {
        let Layout { lanes, lane_stride, segments, scale_stride } = self.layout;
        // SAFETY: rows are disjoint ranges, and the caller holds no row twice.
        let lanes = unsafe { self.lanes.part(row * lane_stride..row * lane_stride + lanes) };
        let start = row * scale_stride;
        // SAFETY: as for the lanes.
        let scales = unsafe { self.scales.part(start..start + segments + 1) };
        let (scales, sum) = scales.split_at_mut(segments);
        RowMut { lanes, scales, sum: &mut sum[0] }
    }
}
