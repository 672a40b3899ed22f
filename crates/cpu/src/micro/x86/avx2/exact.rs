//! Class `exact`: the codebook's float16 values as f32, multiplied and added in f32.

use std::arch::x86_64::*;
use std::ops::Range;

use trellect_core::{HADAMARD, NumericClass, TILE};

use super::super::super::codebook::{
    BYTE_SUM_BIAS, BYTE_SUM_STEP, CodebookMath, HALF_MASK, HALF_XOR, with_codebook,
};
use super::super::super::generic::{EXACT_SEGMENT_TILES, ROW_SUMS, finish_exact};
use super::super::super::panel::{Panel, Segment, scratch_bytes_past_registers};
use super::super::super::rotate as body;
use super::super::super::{
    Column, GROUPS, RowMut, RowRef, RowsRef, SPLIT_ROW_OF_LANE, TILE_WEIGHTS, tile_lanes,
};
use super::stream::{Stream, Tile, load_f32, store_f32};
use crate::buffer::Arena;

/// Register block of a decoded panel: eight sums, and room for operands.
const PANEL_ROWS: usize = 2;
const PANEL_COLUMNS: usize = 4;

pub(super) const fn class() -> NumericClass {
    NumericClass::Exact
}

pub(super) const fn segment_tiles() -> usize {
    EXACT_SEGMENT_TILES
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn rotate(x: &mut [f32; HADAMARD], suh: &[f32]) {
    body::rotate(x, suh);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn quantise(rotated: &[f32], out: RowMut<'_, f32>) {
    body::quantise_f32(rotated, &SPLIT_ROW_OF_LANE, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn unrotate(raw: &mut [f32; HADAMARD], svh: &[f32], bias: Option<&[f32]>) {
    body::unrotate(raw, svh, bias);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn swiglu(gate: &mut [f32; HADAMARD], up: &[f32; HADAMARD]) {
    body::swiglu(gate, up);
}

pub(super) fn scratch_bytes(rows: usize) -> usize {
    scratch_bytes_past_registers::<f32, ROW_SUMS>(rows, EXACT_SEGMENT_TILES)
}

#[target_feature(enable = "avx2,fma,f16c")]
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

/// The values of 8 states in 32-bit lanes, rounded to float16 as the format asks.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn values<C: CodebookMath>(states: __m256i) -> __m256 {
    let product = _mm256_add_epi32(
        _mm256_mullo_epi32(states, _mm256_set1_epi32(C::MULTIPLIER.cast_signed())),
        _mm256_set1_epi32(C::ADDEND.cast_signed()),
    );
    let value = if C::BYTE_SUM {
        let pairs = _mm256_maddubs_epi16(product, _mm256_set1_epi8(1));
        let sums = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        let sums = _mm256_cvtepi32_ps(_mm256_add_epi32(sums, _mm256_set1_epi32(1024)));
        let (step, bias) = (_mm256_set1_ps(BYTE_SUM_STEP), _mm256_set1_ps(BYTE_SUM_BIAS));
        _mm256_fmadd_ps(sums, step, bias)
    } else {
        let mask = i32::from(HALF_MASK.cast_signed()) << 16 | i32::from(HALF_MASK);
        let xor = i32::from(HALF_XOR) << 16 | i32::from(HALF_XOR);
        let halves = _mm256_xor_si256(
            _mm256_and_si256(product, _mm256_set1_epi32(mask)),
            _mm256_set1_epi32(xor),
        );
        _mm256_add_ps(widen(_mm256_slli_epi32::<16>(halves)), widen(halves))
    };
    _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value))
}

/// The normal float16 in the upper half of every lane as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen(halves: __m256i) -> __m256 {
    const REBIAS: i32 = (127 - 15) << 23;
    let sign = _mm256_and_si256(halves, _mm256_set1_epi32(i32::MIN));
    let rest = _mm256_srli_epi32::<3>(_mm256_and_si256(halves, _mm256_set1_epi32(0x7FFF_0000)));
    let magnitude = _mm256_add_epi32(rest, _mm256_set1_epi32(REBIAS));
    _mm256_castsi256_ps(_mm256_or_si256(sign, magnitude))
}

/// The values of column `g` (`column` 0) or `g + 8` (1) of group `g`: even lanes, then odd ones.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn weights<C: CodebookMath, const K: u8>(
    stream: &Stream<'_>,
    tile: Tile<'_>,
    g: usize,
    column: usize,
) -> [__m256; 2] {
    let pairs = tile.pairs::<K>(g, column);
    let even = _mm256_srlv_epi32(pairs, stream.right[column]);
    let even = _mm256_and_si256(even, _mm256_set1_epi32(0xFFFF));
    let odd = _mm256_srli_epi32::<16>(_mm256_sllv_epi32(pairs, stream.left[column]));
    [values::<C>(even), values::<C>(odd)]
}

/// Both halves of a tile's activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn activations(lanes: &[f32], tile: usize) -> [__m256; 2] {
    let halves = tile_lanes(lanes, tile).as_chunks::<8>().0;
    [load_f32(&halves[0]), load_f32(&halves[1])]
}

/// Few rows: every weight is used from the register it was decoded into, one group at a time.
#[target_feature(enable = "avx2,fma,f16c")]
fn few<C: CodebookMath, const K: u8, const R: usize>(
    column: Column<'_>,
    rows: RowsRef<'_, f32>,
    out: &mut [f32],
) {
    let stream = Stream::new::<K>(column);
    let rows: [RowRef<'_, f32>; R] = rows.rows(0);
    let mut totals = [[0.0; ROW_SUMS]; R];
    for g in 0..GROUPS {
        // Even and odd lanes apart: a multiply-add waits for the one before it.
        let mut sums = [[[_mm256_setzero_ps(); 2]; 2]; R];
        for tile in 0..column.k_tiles {
            let mut x = [[_mm256_setzero_ps(); 2]; R];
            for r in 0..R {
                x[r] = activations(rows[r].lanes, tile);
            }
            let tile = stream.tile::<K>(tile);
            for c in 0..2 {
                let weights = weights::<C, K>(&stream, tile, g, c);
                for r in 0..R {
                    for half in 0..2 {
                        let sum = &mut sums[r][c][half];
                        *sum = _mm256_fmadd_ps(weights[half], x[r][half], *sum);
                    }
                }
            }
        }
        for r in 0..R {
            let totals = &mut totals[r].as_chunks_mut::<8>().0[4 * g..];
            for (total, &sum) in totals.iter_mut().zip(sums[r].as_flattened()) {
                store_f32(total, sum);
            }
        }
    }
    for r in 0..R {
        out[r * HADAMARD..][..TILE].copy_from_slice(&finish_exact(&totals[r]));
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn many<C: CodebookMath, const K: u8>(
    column: Column<'_>,
    rows: RowsRef<'_, f32>,
    scratch: Arena<'_>,
    out: &mut [f32],
) {
    let stream = Stream::new::<K>(column);
    let segment_tiles = EXACT_SEGMENT_TILES;
    Panel { column, rows, segment_tiles, scratch, out }.product::<f32, ROW_SUMS, PANEL_ROWS>(
        |tiles, panel| unpack::<C, K>(&stream, tiles, panel),
        |panel: &[f32], segment: Segment<'_, f32>, totals| match segment.len {
            1 => multiply::<1>(panel, segment.rows(), totals),
            PANEL_ROWS => multiply::<PANEL_ROWS>(panel, segment.rows(), totals),
            len => unreachable!("{len} rows of {PANEL_ROWS}"),
        },
        |_, totals| finish_exact(totals),
    );
}

/// Decodes `tiles` into `panel`, group by group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack<C: CodebookMath, const K: u8>(
    stream: &Stream<'_>,
    tiles: Range<usize>,
    panel: &mut [f32],
) {
    for (tile, panel) in tiles.zip(panel.as_chunks_mut::<TILE_WEIGHTS>().0) {
        let tile = stream.tile::<K>(tile);
        for (at, lanes) in panel.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
            let weights = weights::<C, K>(stream, tile, at / 2, at % 2);
            for (lanes, weights) in lanes.as_chunks_mut::<8>().0.iter_mut().zip(weights) {
                store_f32(lanes, weights);
            }
        }
    }
}

/// `totals[r] += rows[r] · panel`.
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply<const R: usize>(
    panel: &[f32],
    rows: [(&[f32], f32); R],
    totals: &mut [[f32; ROW_SUMS]],
) {
    let tiles = panel.as_chunks::<TILE_WEIGHTS>().0;
    for part in 0..TILE / PANEL_COLUMNS {
        let mut sums = [[_mm256_setzero_ps(); PANEL_COLUMNS]; R];
        for (t, tile) in tiles.iter().enumerate() {
            let columns = &tile.as_chunks::<TILE>().0[part * PANEL_COLUMNS..];
            for half in 0..2 {
                let mut x = [_mm256_setzero_ps(); R];
                for r in 0..R {
                    x[r] = activations(rows[r].0, t)[half];
                }
                for c in 0..PANEL_COLUMNS {
                    let weights = load_f32(&columns[c].as_chunks::<8>().0[half]);
                    for r in 0..R {
                        sums[r][c] = _mm256_fmadd_ps(weights, x[r], sums[r][c]);
                    }
                }
            }
        }
        for r in 0..R {
            let totals = &mut totals[r].as_chunks_mut::<TILE>().0[part * PANEL_COLUMNS..];
            for c in 0..PANEL_COLUMNS {
                let total = &mut totals[c].as_chunks_mut::<8>().0[0];
                let sum = _mm256_add_ps(load_f32(total), sums[r][c]);
                store_f32(total, sum);
            }
        }
    }
}
