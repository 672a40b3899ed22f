//! Products of more rows than can share a decoded weight in a register: a segment of a column is
//! decoded into a panel that stays in the first-level cache while all rows pass over it.

use std::ops::Range;

use super::{Column, HADAMARD, Lane, MR, Outputs, RowRef, RowsRef, TILE, TILE_WEIGHTS};
use crate::buffer::{Arena, arena_bytes};

/// Bytes of an arena for a panel of `segment_tiles` and `TOTALS` sums for each of `rows` rows.
pub(crate) fn panel_scratch_bytes<W, const TOTALS: usize>(
    rows: usize,
    segment_tiles: usize,
) -> usize {
    arena_bytes::<W>(segment_tiles * TILE_WEIGHTS) + arena_bytes::<f32>(rows * TOTALS)
}

/// The same, where up to [`MR`] rows use a weight from the register it was decoded into.
pub(crate) fn scratch_bytes_past_registers<W, const TOTALS: usize>(
    rows: usize,
    segment_tiles: usize,
) -> usize {
    match rows > MR {
        true => panel_scratch_bytes::<W, TOTALS>(rows, segment_tiles),
        false => 0,
    }
}

/// A product of many rows.
pub(crate) struct Panel<'a, L> {
    pub(crate) column: Column<'a>,
    pub(crate) rows: RowsRef<'a, L>,
    pub(crate) segment_tiles: usize,
    /// [`panel_scratch_bytes`].
    pub(crate) scratch: Arena<'a>,
    /// As in [`Micro::product`](super::Micro::product).
    pub(crate) out: &'a mut [f32],
}

impl<L: Lane> Panel<'_, L> {
    /// The loop over segments and rows that every instruction set shares.
    ///
    /// `unpack` decodes the given tiles into a panel; `multiply` adds the products of a segment of the
    /// panel and at most `MOST_ROWS` rows to their sums; `finish` turns a row's sums into its outputs.
    #[inline(always)]
    pub(crate) fn product<W: Lane, const TOTALS: usize, const MOST_ROWS: usize>(
        self,
        unpack: impl Fn(Range<usize>, &mut [W]),
        multiply: impl Fn(&[W], Segment<'_, L>, &mut [[f32; TOTALS]]),
        finish: impl Fn(RowRef<'_, L>, &[f32; TOTALS]) -> Outputs,
    ) {
        let Self { column, rows, segment_tiles, mut scratch, out } = self;
        let panel: &mut [W] = scratch.take(segment_tiles * TILE_WEIGHTS);
        let totals: &mut [f32] = scratch.take(rows.len() * TOTALS);
        totals.fill(0.0);
        let totals = totals.as_chunks_mut::<TOTALS>().0;
        for (number, tiles) in column.segments(segment_tiles) {
            let panel = &mut panel[..tiles.len() * TILE_WEIGHTS];
            unpack(tiles.clone(), panel);
            for first in (0..rows.len()).step_by(MOST_ROWS) {
                let len = MOST_ROWS.min(rows.len() - first);
                let segment = Segment { rows, first, len, number, tiles: tiles.clone() };
                multiply(panel, segment, &mut totals[first..first + len]);
            }
        }
        for (row, totals) in totals.iter().enumerate() {
            out[row * HADAMARD..][..TILE].copy_from_slice(&finish(rows.row(row), totals));
        }
    }
}

/// A few rows' activations of one segment.
pub(crate) struct Segment<'a, L> {
    rows: RowsRef<'a, L>,
    first: usize,
    /// Rows.
    pub(crate) len: usize,
    number: usize,
    tiles: Range<usize>,
}

impl<'a, L> Segment<'a, L> {
    /// The first `R` rows' lanes and scales.
    #[inline(always)]
    pub(crate) fn rows<const R: usize>(&self) -> [(&'a [L], f32); R] {
        let lanes = self.tiles.start * TILE..self.tiles.end * TILE;
        let mut rows = [(&[][..], 0.0); R];
        for (row, at) in rows.iter_mut().zip(self.first..) {
            let whole = self.rows.row(at);
            *row = (&whole.lanes[lanes.clone()], whole.scales[self.number]);
        }
        rows
    }
}
