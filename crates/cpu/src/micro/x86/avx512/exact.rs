//! Class `exact`: the codebook's float16 values as f32, multiplied and added in f32.

use std::arch::x86_64::*;
use std::ops::Range;

use trellect_core::{HADAMARD, NumericClass, TILE};

use super::super::super::codebook::{
    BYTE_SUM_BIAS, BYTE_SUM_STEP, CodebookMath, HALF_MASK, HALF_XOR, with_codebook,
};
use super::super::super::generic::{EXACT_SEGMENT_TILES, ROW_SUMS, finish_exact};
use super::super::super::panel::{Panel, Segment, scratch_bytes_past_registers};
use super::super::super::rotate::quantise_f32;
use super::super::super::{
    Column, GROUP_WEIGHTS, GROUPS, ROW_OF_LANE, RowMut, RowRef, RowsRef, TILE_WEIGHTS, tile_lanes,
};
use super::stream::{Stream, load_f32, store_f32};
use crate::buffer::Arena;

pub(super) use super::rotate::{rotate, swiglu, unrotate};

pub(super) const fn class() -> NumericClass {
    NumericClass::Exact
}

pub(super) const fn segment_tiles() -> usize {
    EXACT_SEGMENT_TILES
}

/// Rows of a register block of a decoded panel: with two groups 24 sums, and room for operands.
const PANEL_ROWS: usize = 6;
const PANEL_GROUPS: usize = 2;

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn quantise(rotated: &[f32], out: RowMut<'_, f32>) {
    quantise_f32(rotated, &ROW_OF_LANE, out);
}

pub(super) fn scratch_bytes(rows: usize) -> usize {
    scratch_bytes_past_registers::<f32, ROW_SUMS>(rows, EXACT_SEGMENT_TILES)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn product<const K: u8>(
    column: Column<'_>,
    rows: RowsRef<'_, f32>,
    scratch: Arena<'_>,
    out: &mut [f32],
) {
    with_codebook!(column.codebook, C => match rows.len() {
        1 => few::<C, K, 1, 8>(column, rows, out),
        2 => few::<C, K, 2, 4>(column, rows, out),
        3 => few::<C, K, 3, 2>(column, rows, out),
        4 => few::<C, K, 4, 2>(column, rows, out),
        _ => many::<C, K>(column, rows, scratch, out),
    });
}

/// The values of 16 states in 32-bit lanes, rounded to float16 as the format asks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn values<C: CodebookMath>(states: __m512i) -> __m512 {
    let product = _mm512_add_epi32(
        _mm512_mullo_epi32(states, _mm512_set1_epi32(C::MULTIPLIER.cast_signed())),
        _mm512_set1_epi32(C::ADDEND.cast_signed()),
    );
    let value = if C::BYTE_SUM {
        let sums = _mm512_dpbusd_epi32(_mm512_set1_epi32(1024), product, _mm512_set1_epi8(1));
        let (step, bias) = (_mm512_set1_ps(BYTE_SUM_STEP), _mm512_set1_ps(BYTE_SUM_BIAS));
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), step, bias)
    } else {
        let mask = i32::from(HALF_MASK.cast_signed()) << 16 | i32::from(HALF_MASK);
        let xor = i32::from(HALF_XOR) << 16 | i32::from(HALF_XOR);
        let halves = _mm512_xor_si512(
            _mm512_and_si512(product, _mm512_set1_epi32(mask)),
            _mm512_set1_epi32(xor),
        );
        let low = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(halves));
        let high = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(halves)));
        _mm512_add_ps(low, high)
    };
    _mm512_cvtph_ps(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value))
}

/// The values of a group: column `g`, then column `g + 8`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn weights<C: CodebookMath>(states: __m512i) -> [__m512; 2] {
    let low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(states));
    let high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(states));
    [values::<C>(low), values::<C>(high)]
}

/// Few rows: as in class `half`.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn few<C: CodebookMath, const K: u8, const R: usize, const G: usize>(
    column: Column<'_>,
    rows: RowsRef<'_, f32>,
    out: &mut [f32],
) {
    let stream = Stream::new::<K>(column);
    let rows: [RowRef<'_, f32>; R] = rows.rows(0);
    let mut totals = [[0.0; ROW_SUMS]; R];
    for first in (0..GROUPS).step_by(G) {
        let mut sums = [[[_mm512_setzero_ps(); 2]; G]; R];
        for tile in 0..column.k_tiles {
            let mut x = [_mm512_setzero_ps(); R];
            for r in 0..R {
                x[r] = load_f32(tile_lanes(rows[r].lanes, tile));
            }
            if first == 0 {
                stream.prefetch::<K>(tile);
            }
            let tile = stream.tile::<K>(tile);
            for g in 0..G {
                let weights = weights::<C>(tile.states::<K>(first + g));
                for r in 0..R {
                    for c in 0..2 {
                        sums[r][g][c] = _mm512_fmadd_ps(weights[c], x[r], sums[r][g][c]);
                    }
                }
            }
        }
        for r in 0..R {
            let lanes = &mut totals[r].as_chunks_mut::<TILE>().0[2 * first..];
            for (lanes, sum) in lanes.iter_mut().zip(sums[r].as_flattened()) {
                store_f32(lanes, *sum);
            }
        }
    }
    for r in 0..R {
        out[r * HADAMARD..][..TILE].copy_from_slice(&finish_exact(&totals[r]));
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
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
        |panel: &[f32], segment: Segment<'_, f32>, totals| multiply_rows(panel, segment, totals),
        |_, totals| finish_exact(totals),
    );
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn unpack<C: CodebookMath, const K: u8>(
    stream: &Stream<'_>,
    tiles: Range<usize>,
    panel: &mut [f32],
) {
    for (tile, panel) in tiles.zip(panel.as_chunks_mut::<TILE_WEIGHTS>().0) {
        stream.prefetch::<K>(tile);
        let tile = stream.tile::<K>(tile);
        for (g, lanes) in panel.as_chunks_mut::<GROUP_WEIGHTS>().0.iter_mut().enumerate() {
            let weights = weights::<C>(tile.states::<K>(g));
            for (lanes, weights) in lanes.as_chunks_mut::<TILE>().0.iter_mut().zip(weights) {
                store_f32(lanes, weights);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn multiply_rows(panel: &[f32], segment: Segment<'_, f32>, totals: &mut [[f32; ROW_SUMS]]) {
    match segment.len {
        1 => multiply(panel, segment.rows::<1>(), totals),
        2 => multiply(panel, segment.rows::<2>(), totals),
        3 => multiply(panel, segment.rows::<3>(), totals),
        4 => multiply(panel, segment.rows::<4>(), totals),
        5 => multiply(panel, segment.rows::<5>(), totals),
        PANEL_ROWS => multiply(panel, segment.rows::<PANEL_ROWS>(), totals),
        len => unreachable!("{len} rows of {PANEL_ROWS}"),
    }
}

/// `totals[r] += rows[r] · panel`.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn multiply<const R: usize>(
    panel: &[f32],
    rows: [(&[f32], f32); R],
    totals: &mut [[f32; ROW_SUMS]],
) {
    let tiles = panel.as_chunks::<TILE_WEIGHTS>().0;
    for part in 0..GROUPS / PANEL_GROUPS {
        const COLUMNS: usize = 2 * PANEL_GROUPS;
        let mut sums = [[_mm512_setzero_ps(); COLUMNS]; R];
        for (t, tile) in tiles.iter().enumerate() {
            let mut x = [_mm512_setzero_ps(); R];
            for r in 0..R {
                x[r] = load_f32(tile_lanes(rows[r].0, t));
            }
            let columns = &tile.as_chunks::<TILE>().0[part * COLUMNS..];
            for c in 0..COLUMNS {
                let weights = load_f32(&columns[c]);
                for r in 0..R {
                    sums[r][c] = _mm512_fmadd_ps(weights, x[r], sums[r][c]);
                }
            }
        }
        for r in 0..R {
            let totals = &mut totals[r].as_chunks_mut::<TILE>().0[part * COLUMNS..];
            for c in 0..COLUMNS {
                let total = _mm512_add_ps(load_f32(&totals[c]), sums[r][c]);
                store_f32(&mut totals[c], total);
            }
        }
    }
}
