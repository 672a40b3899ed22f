//! The product of a column and any number of rows.

use std::arch::x86_64::*;
use std::ops::Range;

use trellect_core::{HADAMARD, TILE};

use super::super::super::codebook::{CodebookMath, with_codebook};
use super::super::super::{Column, Outputs, RowRef, RowsRef, TILE_WEIGHTS};
use super::super::avx512::stream::{Order, Stream};
use super::DIGITS;
use super::digits::{
    ACTIVATION_SHIFT, BLOCK_TILES, LANE_OF_CHANNEL, REGISTER_BYTES, low_digit_offset, unpack,
    weight_shift,
};
use super::tiles::{ACTIVATIONS, LINE, LINES, SUMS, Tiles, WEIGHTS};
use crate::buffer::{Arena, arena_bytes};
use crate::isa::Amx;

/// Tiles that are decoded at a time: 32 KB of digits. Every change from decoding to the matrix unit
/// and back costs a fraction of a microsecond, so smaller panels are slower.
const PANEL_TILES: usize = 64;

/// Sums of a register.
const REGISTER_SUMS: usize = REGISTER_BYTES / size_of::<i32>();

/// Sums of [`LINES`] rows: high by high, low by high and high by low digits, activations first.
type Sums = [[i32; REGISTER_SUMS]; SUMS];

pub(super) fn scratch_bytes(rows: usize) -> usize {
    let sums = rows.div_ceil(LINES) * SUMS * REGISTER_SUMS;
    arena_bytes::<i8>(PANEL_TILES * TILE_WEIGHTS * DIGITS) + arena_bytes::<i32>(sums)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn product<const K: u8>(
    isa: Amx,
    column: Column<'_>,
    rows: RowsRef<'_, i8>,
    scratch: Arena<'_>,
    out: &mut [f32],
) {
    with_codebook!(column.codebook, C => product_with::<C, K>(isa, column, rows, scratch, out));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn product_with<C: CodebookMath, const K: u8>(
    isa: Amx,
    column: Column<'_>,
    rows: RowsRef<'_, i8>,
    mut scratch: Arena<'_>,
    out: &mut [f32],
) {
    let panel: &mut [i8] = scratch.take(PANEL_TILES * TILE_WEIGHTS * DIGITS);
    let sums: &mut [i32] = scratch.take(rows.len().div_ceil(LINES) * SUMS * REGISTER_SUMS);
    let sums: &mut [Sums] = sums.as_chunks_mut().0.as_chunks_mut().0;
    let stream = Stream::new::<K>(column, Order::Rows);
    let mut registers = Tiles::new(isa, LINES.min(rows.len()));
    for (segment, tiles) in column.segments(PANEL_TILES) {
        let panel = &mut panel[..tiles.len() * TILE_WEIGHTS * DIGITS];
        unpack::<C, K>(&stream, tiles.clone(), panel);
        for (sums, first) in sums.iter_mut().zip((0..).step_by(LINES)) {
            registers.configure(LINES.min(rows.len() - first));
            match segment {
                0 => zero_sums(&mut registers),
                _ => load_sums(&mut registers, sums),
            }
            multiply::<C>(&mut registers, panel, &rows, first, tiles.clone());
            store_sums(&registers, sums);
        }
    }
    for row in 0..rows.len() {
        let out = out[row * HADAMARD..].first_chunk_mut().expect("a row of 128 outputs");
        finish::<C>(&sums[row / LINES], row % LINES, rows.row(row), out);
    }
}

fn zero_sums(registers: &mut Tiles) {
    registers.zero::<0>();
    registers.zero::<1>();
    registers.zero::<2>();
}

fn load_sums(registers: &mut Tiles, sums: &Sums) {
    registers.load_sums::<0>(&sums[0]);
    registers.load_sums::<1>(&sums[1]);
    registers.load_sums::<2>(&sums[2]);
}

fn store_sums(registers: &Tiles, sums: &mut Sums) {
    registers.store_sums::<0>(&mut sums[0]);
    registers.store_sums::<1>(&mut sums[1]);
    registers.store_sums::<2>(&mut sums[2]);
}

/// Adds the products of `tiles`, decoded in `panel`, and the rows from `first` on to the sums.
fn multiply<C: CodebookMath>(
    registers: &mut Tiles,
    panel: &[i8],
    rows: &RowsRef<'_, i8>,
    first: usize,
    tiles: Range<usize>,
) {
    const HIGH: usize = ACTIVATIONS;
    const LOW: usize = ACTIVATIONS + 1;
    const WEIGHTS_HIGH: usize = WEIGHTS;
    const WEIGHTS_LOW: usize = WEIGHTS + 1;
    let lanes = &rows.lanes[first * rows.lane_stride..];
    let (stride, low) = (rows.lane_stride, rows.row_lanes / DIGITS);
    for (at, block) in tiles.step_by(BLOCK_TILES).zip(panel.as_chunks::<{ 2 * REGISTER_BYTES }>().0)
    {
        registers.load::<HIGH>(&lanes[at * TILE..], stride);
        registers.load::<WEIGHTS_HIGH>(block, LINE);
        multiply_high::<C, 0, HIGH, WEIGHTS_HIGH>(registers);
        registers.load::<LOW>(&lanes[low + at * TILE..], stride);
        multiply_high::<C, 1, LOW, WEIGHTS_HIGH>(registers);
        registers.load::<WEIGHTS_LOW>(&block[REGISTER_BYTES..], LINE);
        registers.multiply_signed::<2, HIGH, WEIGHTS_LOW>();
    }
}

/// Register `S` += register `A` · register `B` of weights' high digits.
fn multiply_high<C: CodebookMath, const S: usize, const A: usize, const B: usize>(
    registers: &mut Tiles,
) {
    match C::BYTE_SUM {
        true => registers.multiply_unsigned::<S, A, B>(),
        false => registers.multiply_signed::<S, A, B>(),
    }
}

/// The outputs of row `line` of those that `sums` belong to.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn finish<C: CodebookMath>(sums: &Sums, line: usize, row: RowRef<'_, i8>, out: &mut Outputs) {
    let (x, w) = ((1 << ACTIVATION_SHIFT) as f32, (1 << weight_shift::<C>()) as f32);
    let scale = C::STEP * row.scales[0];
    let offset = (C::OFFSET - C::STEP * f32::from(low_digit_offset::<C>())) * row.sum;
    let mut total = _mm512_set1_ps(-offset);
    for (sums, unit) in sums.iter().zip([x * w, w, x]) {
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
