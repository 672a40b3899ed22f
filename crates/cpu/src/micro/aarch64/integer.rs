//! Classes `half` and `int8`: 16-bit weights times integer activations in 32-bit lanes.

use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

use trellect_core::{HADAMARD, NumericClass, TILE};

use super::super::codebook::{CodebookMath, with_codebook};
use super::super::generic::{Activations, Int8Activations, PAIR_SUMS, sum_pairs};
use super::super::panel::{Panel, Segment, scratch_bytes_past_registers};
use super::super::rotate::{quantise_integer, store_tile};
use super::super::{
    Column, GROUPS, MR, Outputs, RowMut, RowRef, RowsRef, SPLIT_LANES, TILE_WEIGHTS, tile_lanes,
};
use super::stream::{
    Stream, Tile, byte_sums, half_sums, load_f32, load_i8, load_i16, store_f32, store_i16,
};
use crate::buffer::Arena;

pub(super) use super::exact::{rotate, swiglu, unrotate};

/// Register block of a decoded panel: 16 sums, and room for operands.
const PANEL_ROWS: usize = 2;
const PANEL_COLUMNS: usize = 4;

pub(super) const fn class<A: Activations>() -> NumericClass {
    A::CLASS
}

pub(super) const fn segment_tiles<A: Activations>() -> usize {
    A::SEGMENT_TILES
}

#[target_feature(enable = "neon,fp16")]
pub(super) fn quantise<A: Activations>(rotated: &[f32], out: RowMut<'_, i16>) {
    quantise_integer(rotated, A::SEGMENT_TILES, A::LARGEST, out, |row, tile, lanes| {
        store_tile(row, tile, split(lanes));
    });
}

/// Even lanes, then odd ones.
#[inline(always)]
pub(super) fn split(lanes: [i16; TILE]) -> [i16; TILE] {
    SPLIT_LANES.map(|lane| lanes[lane])
}

pub(super) fn scratch_bytes<A: Activations>(rows: usize) -> usize {
    scratch_bytes_past_registers::<i16, PAIR_SUMS>(rows, A::SEGMENT_TILES)
}

#[target_feature(enable = "neon,fp16")]
pub(super) fn product<A: Activations, const K: u8>(
    column: Column<'_>,
    rows: RowsRef<'_, i16>,
    scratch: Arena<'_>,
    out: &mut [f32],
) {
    with_codebook!(column.codebook, C => match rows.len() {
        1 => few::<A, i16, C, K, 1, 2>(column, rows, out, |x| load(x)),
        2 => few::<A, i16, C, K, 2, 1>(column, rows, out, |x| load(x)),
        3 => few::<A, i16, C, K, 3, 1>(column, rows, out, |x| load(x)),
        4 => few::<A, i16, C, K, 4, 1>(column, rows, out, |x| load(x)),
        _ => many::<A, C, K>(column, rows, scratch, out),
    });
}

/// The 16-bit weights of column `g` (`column` 0) or `g + 8` (1) of group `g`: even lanes, then odd
/// ones.
#[inline]
#[target_feature(enable = "neon,fp16")]
pub(super) fn weights<C: CodebookMath, const K: u8>(
    tile: Tile<'_>,
    g: usize,
    column: usize,
) -> [int16x8_t; 2] {
    let [even_low, odd_low] = tile.products::<C, K>(g, column, 0);
    let [even_high, odd_high] = tile.products::<C, K>(g, column, 1);
    [integers::<C>([even_low, even_high]), integers::<C>([odd_low, odd_high])]
}

/// The 16-bit weights of eight products: byte sums, or float16 sums in units of 2⁻¹⁰, which float16
/// can multiply out without rounding.
#[inline]
#[target_feature(enable = "neon,fp16")]
fn integers<C: CodebookMath>(products: [uint32x4_t; 2]) -> int16x8_t {
    if C::BYTE_SUM {
        return vreinterpretq_s16_u16(byte_sums(products));
    }
    /// 2¹⁰ as float16.
    const UNITS: u16 = 0x6400;
    let units = vreinterpretq_f16_u16(vdupq_n_u16(UNITS));
    vcvtnq_s16_f16(vmulq_f16(half_sums(products), units))
}

/// Turns sums over 16-bit weights into outputs.
#[inline(always)]
pub(super) fn finish<C: CodebookMath>(sums: Outputs, row_sum: f32) -> Outputs {
    let step = if C::BYTE_SUM { C::STEP } else { 1.0 / 1024.0 };
    sums.map(|sum| step * sum - C::OFFSET * row_sum)
}

/// A tile's activations, or 16 weights of a panel: even lanes, then odd ones.
#[inline]
#[target_feature(enable = "neon,fp16")]
fn load(lanes: &[i16; TILE]) -> [int16x8_t; 2] {
    let halves = lanes.as_chunks::<8>().0;
    [load_i16(&halves[0]), load_i16(&halves[1])]
}

/// Adds the products of 16 weights and activations to eight pair sums.
#[inline]
#[target_feature(enable = "neon,fp16")]
fn multiply_add(sums: &mut [int32x4_t; 2], weights: [int16x8_t; 2], x: [int16x8_t; 2]) {
    for half in 0..2 {
        let sum = vmlal_s16(sums[half], vget_low_s16(weights[half]), vget_low_s16(x[half]));
        sums[half] = smlal2(sum, weights[half], x[half]);
    }
}

/// `vmlal_high_s16` as the one instruction that it is: the compiler would rather move the upper halves
/// down.
#[inline]
#[target_feature(enable = "neon,fp16")]
fn smlal2(mut sum: int32x4_t, a: int16x8_t, b: int16x8_t) -> int32x4_t {
    // SAFETY: the instruction has no effect but on `sum`, and this function's features include it.
    unsafe {
        asm!(
            "smlal2 {sum:v}.4s, {a:v}.8h, {b:v}.8h",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// Few rows of 8-bit activations.
#[target_feature(enable = "neon,fp16")]
pub(super) fn few_bytes<C: CodebookMath, const K: u8>(
    column: Column<'_>,
    rows: RowsRef<'_, i8>,
    out: &mut [f32],
) {
    let load = |lanes: &[i8; TILE]| {
        let lanes = load_i8(lanes);
        [vmovl_s8(vget_low_s8(lanes)), vmovl_high_s8(lanes)]
    };
    match rows.len() {
        1 => few::<Int8Activations, i8, C, K, 1, 2>(column, rows, out, load),
        2 => few::<Int8Activations, i8, C, K, 2, 1>(column, rows, out, load),
        3 => few::<Int8Activations, i8, C, K, 3, 1>(column, rows, out, load),
        4 => few::<Int8Activations, i8, C, K, 4, 1>(column, rows, out, load),
        rows => unreachable!("{rows} rows of {MR}"),
    }
}

/// Few rows: every weight is used from the register it was decoded into. `G` groups at a time, so
/// that the sums of all rows stay in registers.
#[target_feature(enable = "neon,fp16")]
fn few<A: Activations, L, C: CodebookMath, const K: u8, const R: usize, const G: usize>(
    column: Column<'_>,
    rows: RowsRef<'_, L>,
    out: &mut [f32],
    load: impl Fn(&[L; TILE]) -> [int16x8_t; 2],
) {
    let stream = Stream::new::<K>(column);
    let rows: [RowRef<'_, L>; R] = rows.rows(0);
    let mut totals = [[0.0; PAIR_SUMS]; R];
    for first in (0..GROUPS).step_by(G) {
        for (segment, tiles) in column.segments(A::SEGMENT_TILES) {
            let mut sums = [[[[vdupq_n_s32(0); 2]; 2]; G]; R];
            for tile in tiles {
                let mut x = [[vdupq_n_s16(0); 2]; R];
                for r in 0..R {
                    x[r] = load(tile_lanes(rows[r].lanes, tile));
                }
                let tile = stream.tile::<K>(tile);
                for g in 0..G {
                    for c in 0..2 {
                        let weights = weights::<C, K>(tile, first + g, c);
                        for r in 0..R {
                            multiply_add(&mut sums[r][g][c], weights, x[r]);
                        }
                    }
                }
            }
            for r in 0..R {
                let totals = &mut totals[r].as_chunks_mut::<8>().0[2 * first..];
                add_scaled(totals, sums[r].as_flattened(), rows[r].scales[segment]);
            }
        }
    }
    for r in 0..R {
        let outputs = finish::<C>(sum_pairs(&totals[r]), rows[r].sum);
        out[r * HADAMARD..][..TILE].copy_from_slice(&outputs);
    }
}

/// `totals += scale · sums`.
#[inline]
#[target_feature(enable = "neon,fp16")]
fn add_scaled(totals: &mut [[f32; 8]], sums: &[[int32x4_t; 2]], scale: f32) {
    for (totals, sums) in totals.iter_mut().zip(sums) {
        for (total, &sum) in totals.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
            let scaled = vfmaq_n_f32(load_f32(total), vcvtq_f32_s32(sum), scale);
            store_f32(total, scaled);
        }
    }
}

#[target_feature(enable = "neon,fp16")]
fn many<A: Activations, C: CodebookMath, const K: u8>(
    column: Column<'_>,
    rows: RowsRef<'_, i16>,
    scratch: Arena<'_>,
    out: &mut [f32],
) {
    let stream = Stream::new::<K>(column);
    let segment_tiles = A::SEGMENT_TILES;
    Panel { column, rows, segment_tiles, scratch, out }.product::<i16, PAIR_SUMS, PANEL_ROWS>(
        |tiles, panel| unpack::<C, K>(&stream, tiles, panel),
        |panel: &[i16], segment: Segment<'_, i16>, totals| match segment.len {
            1 => multiply::<1>(panel, segment.rows(), totals),
            PANEL_ROWS => multiply::<PANEL_ROWS>(panel, segment.rows(), totals),
            len => unreachable!("{len} rows of {PANEL_ROWS}"),
        },
        |row, totals| finish::<C>(sum_pairs(totals), row.sum),
    );
}

/// Decodes `tiles` into `panel`, group by group.
#[inline]
#[target_feature(enable = "neon,fp16")]
fn unpack<C: CodebookMath, const K: u8>(
    stream: &Stream<'_>,
    tiles: Range<usize>,
    panel: &mut [i16],
) {
    for (tile, panel) in tiles.zip(panel.as_chunks_mut::<TILE_WEIGHTS>().0) {
        let tile = stream.tile::<K>(tile);
        for (at, lanes) in panel.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
            let weights = weights::<C, K>(tile, at / 2, at % 2);
            for (lanes, weights) in lanes.as_chunks_mut::<8>().0.iter_mut().zip(weights) {
                store_i16(lanes, weights);
            }
        }
    }
}

/// `totals[r] += rows[r] · panel`.
#[target_feature(enable = "neon,fp16")]
fn multiply<const R: usize>(
    panel: &[i16],
    rows: [(&[i16], f32); R],
    totals: &mut [[f32; PAIR_SUMS]],
) {
    let tiles = panel.as_chunks::<TILE_WEIGHTS>().0;
    for part in 0..TILE / PANEL_COLUMNS {
        let mut sums = [[[vdupq_n_s32(0); 2]; PANEL_COLUMNS]; R];
        for (t, tile) in tiles.iter().enumerate() {
            let mut x = [[vdupq_n_s16(0); 2]; R];
            for r in 0..R {
                x[r] = load(tile_lanes(rows[r].0, t));
            }
            let columns = &tile.as_chunks::<TILE>().0[part * PANEL_COLUMNS..];
            for c in 0..PANEL_COLUMNS {
                let weights = load(&columns[c]);
                for r in 0..R {
                    multiply_add(&mut sums[r][c], weights, x[r]);
                }
            }
        }
        for r in 0..R {
            let totals = &mut totals[r].as_chunks_mut::<8>().0[part * PANEL_COLUMNS..];
            add_scaled(totals, &sums[r], rows[r].1);
        }
    }
}
