//! The product of a column and up to [`MOST_ROWS`] rows.
//!
//! While the matrix unit multiplies a block of 64 rows of `k`, the vector units decode the next one:
//! a quarter of the one's instructions follows a quarter of the other's, near enough for the processor
//! to run both at once.

use std::arch::x86_64::*;

use trellect_core::{HADAMARD, TILE};

use super::super::super::codebook::{CodebookMath, with_codebook};
use super::super::super::{Column, Outputs, RowRef, RowsRef};
use super::digits::{DIGIT, WeightDigits, affine, unpack};
use super::stream::{LANE_OF_CHANNEL, Stream};
use super::tiles::{ACTIVATIONS, LINE, LINES, REGISTER_BYTES, Tiles, WEIGHTS};
use super::{DIGITS, MOST_ROWS};
use crate::buffer::{Arena, arena_bytes};
use crate::isa::Amx;

/// Tiles of a block: their rows of `k` fill a weight register's lines.
const BLOCK_TILES: usize = 4;

/// A block's weights, high digits and low ones, tile by tile.
type Block = [[[i8; REGISTER_BYTES / BLOCK_TILES]; BLOCK_TILES]; DIGITS];

/// The sums of [`LINES`] rows: of high by high digits, and of high by low ones either way.
type Sums = [[i32; REGISTER_BYTES / size_of::<i32>()]; 2];

/// Most parts of [`LINES`] rows.
const MOST_PARTS: usize = MOST_ROWS / LINES;

pub(super) fn scratch_bytes() -> usize {
    2 * arena_bytes::<Block>(1) + arena_bytes::<Sums>(MOST_PARTS)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn product<W: WeightDigits>(
    isa: Amx,
    column: Column<'_>,
    rows: RowsRef<'_, i8>,
    scratch: Arena<'_>,
    out: &mut [f32],
) {
    with_codebook!(column.codebook, C => match rows.len().div_ceil(LINES) {
        1 => in_parts::<C, W, 1>(isa, column, rows, scratch, out),
        2 => in_parts::<C, W, 2>(isa, column, rows, scratch, out),
        MOST_PARTS => in_parts::<C, W, MOST_PARTS>(isa, column, rows, scratch, out),
        parts => unreachable!("{parts} parts of {MOST_PARTS}"),
    });
}

/// The product with `P` parts of rows, all with as many lines; the last may share rows with the one
/// before it.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn in_parts<C: CodebookMath, W: WeightDigits, const P: usize>(
    isa: Amx,
    column: Column<'_>,
    rows: RowsRef<'_, i8>,
    mut scratch: Arena<'_>,
    out: &mut [f32],
) {
    let (mut decoded, mut other) = (take_block(&mut scratch), take_block(&mut scratch));
    let sums: &mut [i32] = scratch.take(P * size_of::<Sums>() / size_of::<i32>());
    let sums: &mut [Sums] = sums.as_chunks_mut().0.as_chunks_mut().0;

    let lines = rows.len().div_ceil(P);
    let first_rows: [usize; P] = std::array::from_fn(|part| (part * lines).min(rows.len() - lines));
    let stream = Stream::new(column);
    let mut registers = Tiles::new(isa, lines);
    let mut unit = Unit { registers: &mut registers, rows, first_rows };
    // One call of `unpack`, in one loop, or the compiler would not inline it.
    for tile in 0..column.k_tiles + BLOCK_TILES {
        let quarter = tile % BLOCK_TILES;
        if quarter == 0 {
            std::mem::swap(&mut decoded, &mut other);
        }
        if tile < column.k_tiles {
            let [high, low] = &mut *other;
            unpack::<C, W, P>(&stream, tile, &mut high[quarter], &mut low[quarter]);
        }
        if let Some(multiplied) = tile.checked_sub(BLOCK_TILES + quarter) {
            match quarter {
                0 => unit.multiply::<W, 0>(multiplied, decoded),
                1 => unit.multiply::<W, 1>(multiplied, decoded),
                2 => unit.multiply::<W, 2>(multiplied, decoded),
                _ => unit.multiply::<W, 3>(multiplied, decoded),
            }
        }
    }
    for (part, sums) in sums.iter_mut().enumerate() {
        registers.store(2 * part, &mut sums[0]);
        registers.store(2 * part + 1, &mut sums[1]);
        for line in 0..lines {
            let row = first_rows[part] + line;
            let out = out[row * HADAMARD..].first_chunk_mut().expect("a row of 128 outputs");
            finish::<C, W>(sums, line, rows.row(row), out);
        }
    }
}

fn take_block<'a>(scratch: &mut Arena<'a>) -> &'a mut Block {
    let bytes: &mut [i8] = scratch.take(size_of::<Block>());
    let blocks = bytes.as_chunks_mut().0.as_chunks_mut().0.as_chunks_mut().0;
    blocks.first_mut().expect("one block")
}

/// What the matrix unit works on.
struct Unit<'a, const P: usize> {
    registers: &'a mut Tiles,
    rows: RowsRef<'a, i8>,
    first_rows: [usize; P],
}

impl<const P: usize> Unit<'_, P> {
    /// Adds quarter `Q` of the products of the rows and a block that starts at tile `tile` to the
    /// sums.
    #[inline(always)]
    fn multiply<W: WeightDigits, const Q: usize>(&mut self, tile: usize, block: &Block) {
        let steps = if W::LOW { 2 * P } else { P };
        for step in (Q * steps).div_ceil(4)..((Q + 1) * steps).div_ceil(4) {
            let (digit, part) = (step / P, step % P);
            if part == 0 {
                self.registers.load::<WEIGHTS>(block[digit].as_flattened(), LINE);
            }
            let lanes = &self.rows.lanes[self.first_rows[part] * self.rows.lane_stride..];
            let low = &lanes[self.rows.row_lanes / DIGITS..];
            let stride = self.rows.lane_stride;
            self.registers.load::<ACTIVATIONS>(&lanes[tile * TILE..], stride);
            if digit == 0 {
                self.registers.multiply(2 * part);
                self.registers.load::<ACTIVATIONS>(&low[tile * TILE..], stride);
            }
            self.registers.multiply(2 * part + 1);
        }
    }
}

/// The outputs of row `line` of those that `sums` belong to.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn finish<C: CodebookMath, W: WeightDigits>(
    sums: &Sums,
    line: usize,
    row: RowRef<'_, i8>,
    out: &mut Outputs,
) {
    let (step, offset) = affine::<C, W>();
    let scale = step * row.scales[0];
    let mut total = _mm512_set1_ps(-offset * row.sum);
    for (sums, unit) in sums.iter().zip([(DIGIT * DIGIT) as f32, DIGIT as f32]) {
        let lanes = &sums.as_chunks::<TILE>().0[line];
        // SAFETY: 64 readable bytes.
        let lanes = unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) };
        total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(lanes), _mm512_set1_ps(scale * unit), total);
    }
    // SAFETY: 64 readable bytes.
    let lane_of_channel = unsafe { _mm512_loadu_si512(LANE_OF_CHANNEL.as_ptr().cast()) };
    let total = _mm512_permutexvar_ps(lane_of_channel, total);
    // SAFETY: 64 writable bytes.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), total) }
}
