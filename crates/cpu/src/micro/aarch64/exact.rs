//! Class `exact`: the codebook's float16 values as f32, multiplied and added in f32.

use std::arch::aarch64::*;
use std::ops::Range;

use trellect_core::{HADAMARD, NumericClass, TILE};

use super::super::codebook::{CodebookMath, with_codebook};
use super::super::generic::{EXACT_SEGMENT_TILES, PAIR_SUMS, sum_pairs};
use super::super::panel::{Panel, Segment, scratch_bytes_past_registers};
use super::super::rotate as body;
use super::super::{
    Column, GROUPS, RowMut, RowRef, RowsRef, SPLIT_ROW_OF_LANE, TILE_WEIGHTS, tile_lanes,
};
use super::stream::{Stream, Tile, byte_sums, half_sums, load_f32, store_f32};
use crate::buffer::Arena;

/// Register block of a decoded panel: 16 sums, and room for operands.
const PANEL_ROWS: usize = 2;
const PANEL_COLUMNS: usize = 4;

pub(super) const fn class() -> NumericClass {
    NumericClass::Exact
}

pub(super) const fn segment_tiles() -> usize {
    EXACT_SEGMENT_TILES
}

#[target_feature(enable = "neon,fp16")]
pub(super) fn rotate(x: &mut [f32; HADAMARD], suh: &[f32]) {
    body::rotate(x, suh);
}

#[target_feature(enable = "neon,fp16")]
pub(super) fn quantise(rotated: &[f32], out: RowMut<'_, f32>) {
    body::quantise_f32(rotated, &SPLIT_ROW_OF_LANE, out);
}

#[target_feature(enable = "neon,fp16")]
pub(super) fn unrotate(raw: &mut [f32; HADAMARD], svh: &[f32], bias: Option<&[f32]>) {
    body::unrotate(raw, svh, bias);
}

#[target_feature(enable = "neon,fp16")]
pub(super) fn swiglu(gate: &mut [f32; HADAMARD], up: &[f32; HADAMARD]) {
    body::swiglu(gate, up);
}

pub(super) fn scratch_bytes(rows: usize) -> usize {
    scratch_bytes_past_registers::<f32, PAIR_SUMS>(rows, EXACT_SEGMENT_TILES)
}

#[target_feature(enable = "neon,fp16")]
pub(super) fn product<const K: u8>(
    column: Column<'_>,
    rows: RowsRef<'_, f32>,
    scratch: Arena<'_>,
    out: &mut [f32],
) {
    with_codebook!(column.codebook, C => match rows.len() {
        1 => few::<C, K, 1>(column, rows, out),
        2 => few::<C, K, 2>(column, rows, out),
        3 => few::<C, K, 3>(column, rows, out),
        4 => few::<C, K, 4>(column, rows, out),
        _ => many::<C, K>(column, rows, scratch, out),
    });
}

/// 16 weights or activations: even lanes, then odd ones.
type Lanes = [[float32x4_t; 2]; 2];

/// The values of column `g` (`column` 0) or `g + 8` (1) of group `g`.
#[inline]
#[target_feature(enable = "neon,fp16")]
fn weights<C: CodebookMath, const K: u8>(tile: Tile<'_>, g: usize, column: usize) -> Lanes {
    let [even_low, odd_low] = tile.products::<C, K>(g, column, 0);
    let [even_high, odd_high] = tile.products::<C, K>(g, column, 1);
    [values::<C>([even_low, even_high]), values::<C>([odd_low, odd_high])]
}

/// The values of eight products, with the one rounding to float16 that the format asks for.
#[inline]
#[target_feature(enable = "neon,fp16")]
fn values<C: CodebookMath>(products: [uint32x4_t; 2]) -> [float32x4_t; 2] {
    let values = if C::BYTE_SUM {
        /// 1024: a byte sum fits into its ten mantissa bits.
        const CARRIER: u16 = 0x6400;
        /// The codebook's step and offset.
        const STEP: u16 = 0x1EEE;
        const OFFSET: u16 = 0xC931;
        let [carrier, step, offset] = [CARRIER, STEP, OFFSET].map(|bits| vdupq_n_u16(bits));
        let sums = vreinterpretq_f16_u16(vorrq_u16(byte_sums(products), carrier));
        vfmaq_f16(vreinterpretq_f16_u16(offset), sums, vreinterpretq_f16_u16(step))
    } else {
        half_sums(products)
    };
    [vcvt_f32_f16(vget_low_f16(values)), vcvt_high_f32_f16(values)]
}

/// 16 lanes of a tile or panel.
#[inline]
#[target_feature(enable = "neon,fp16")]
fn load_lanes(lanes: &[f32; TILE]) -> Lanes {
    let quarters = lanes.as_chunks::<4>().0;
    [
        [load_f32(&quarters[0]), load_f32(&quarters[1])],
        [load_f32(&quarters[2]), load_f32(&quarters[3])],
    ]
}

/// Adds the products of 16 weights and activations to eight sums.
#[inline]
#[target_feature(enable = "neon,fp16")]
fn multiply_add(sums: &mut [float32x4_t; 2], weights: Lanes, x: Lanes) {
    for half in 0..2 {
        let sum = vfmaq_f32(sums[half], weights[half][0], x[half][0]);
        sums[half] = vfmaq_f32(sum, weights[half][1], x[half][1]);
    }
}

/// Few rows: every weight is used from the register it was decoded into, one group at a time.
#[target_feature(enable = "neon,fp16")]
fn few<C: CodebookMath, const K: u8, const R: usize>(
    column: Column<'_>,
    rows: RowsRef<'_, f32>,
    out: &mut [f32],
) {
    let stream = Stream::new::<K>(column);
    let rows: [RowRef<'_, f32>; R] = rows.rows(0);
    let mut totals = [[0.0; PAIR_SUMS]; R];
    for g in 0..GROUPS {
        let mut sums = [[[vdupq_n_f32(0.0); 2]; 2]; R];
        for t in 0..column.k_tiles {
            let tile = stream.tile::<K>(t);
            for c in 0..2 {
                let weights = weights::<C, K>(tile, g, c);
                for r in 0..R {
                    let x = load_lanes(tile_lanes(rows[r].lanes, t));
                    multiply_add(&mut sums[r][c], weights, x);
                }
            }
        }
        for r in 0..R {
            let totals = &mut totals[r].as_chunks_mut::<4>().0[4 * g..];
            for (total, &sum) in totals.iter_mut().zip(sums[r].as_flattened()) {
                store_f32(total, sum);
            }
        }
    }
    for r in 0..R {
        out[r * HADAMARD..][..TILE].copy_from_slice(&sum_pairs(&totals[r]));
    }
}

#[target_feature(enable = "neon,fp16")]
fn many<C: CodebookMath, const K: u8>(
    column: Column<'_>,
    rows: RowsRef<'_, f32>,
    scratch: Arena<'_>,
    out: &mut [f32],
) {
    let stream = Stream::new::<K>(column);
    let segment_tiles = EXACT_SEGMENT_TILES;
    Panel { column, rows, segment_tiles, scratch, out }.product::<f32, PAIR_SUMS, PANEL_ROWS>(
        |tiles, panel| unpack::<C, K>(&stream, tiles, panel),
        |panel: &[f32], segment: Segment<'_, f32>, totals| match segment.len {
            1 => multiply::<1>(panel, segment.rows(), totals),
            PANEL_ROWS => multiply::<PANEL_ROWS>(panel, segment.rows(), totals),
            len => unreachable!("{len} rows of {PANEL_ROWS}"),
        },
        |_, totals| sum_pairs(totals),
    );
}

/// Decodes `tiles` into `panel`, group by group.
#[inline]
#[target_feature(enable = "neon,fp16")]
fn unpack<C: CodebookMath, const K: u8>(
    stream: &Stream<'_>,
    tiles: Range<usize>,
    panel: &mut [f32],
) {
    for (tile, panel) in tiles.zip(panel.as_chunks_mut::<TILE_WEIGHTS>().0) {
        let tile = stream.tile::<K>(tile);
        for (at, lanes) in panel.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
            let weights = weights::<C, K>(tile, at / 2, at % 2);
            let quarters = lanes.as_chunks_mut::<4>().0.iter_mut();
            for (lanes, &weights) in quarters.zip(weights.as_flattened()) {
                store_f32(lanes, weights);
            }
        }
    }
}

/// `totals[r] += rows[r] · panel`.
#[target_feature(enable = "neon,fp16")]
fn multiply<const R: usize>(
    panel: &[f32],
    rows: [(&[f32], f32); R],
    totals: &mut [[f32; PAIR_SUMS]],
) {
    let tiles = panel.as_chunks::<TILE_WEIGHTS>().0;
    for part in 0..TILE / PANEL_COLUMNS {
        let mut sums = [[[vdupq_n_f32(0.0); 2]; PANEL_COLUMNS]; R];
        for (t, tile) in tiles.iter().enumerate() {
            let mut x = [[[vdupq_n_f32(0.0); 2]; 2]; R];
            for r in 0..R {
                x[r] = load_lanes(tile_lanes(rows[r].0, t));
            }
            let columns = &tile.as_chunks::<TILE>().0[part * PANEL_COLUMNS..];
            for c in 0..PANEL_COLUMNS {
                let weights = load_lanes(&columns[c]);
                for r in 0..R {
                    multiply_add(&mut sums[r][c], weights, x[r]);
                }
            }
        }
        for r in 0..R {
            let totals = &mut totals[r].as_chunks_mut::<4>().0[2 * part * PANEL_COLUMNS..];
            for (total, &sum) in totals.iter_mut().zip(sums[r].as_flattened()) {
                let sum = vaddq_f32(load_f32(total), sum);
                store_f32(total, sum);
            }
        }
    }
}
