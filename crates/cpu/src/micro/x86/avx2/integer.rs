//! Classes `half` and `int8`: 16-bit weights times integer activations in 32-bit lanes.

use std::arch::x86_64::*;
use std::ops::Range;

use trellect_core::{HADAMARD, NumericClass, TILE};

use super::super::super::codebook::{CodebookMath, with_codebook};
use super::super::super::generic::{Activations, PAIR_SUMS, finish_integer};
use super::super::super::panel::{Panel, Segment, scratch_bytes_past_registers};
use super::super::super::rotate::{quantise_integer, store_tile};
use super::super::super::{Column, GROUPS, RowMut, RowRef, RowsRef, TILE_WEIGHTS, tile_lanes};
use super::super::{Halves, MANTISSA_XOR, POWERS};
use super::stream::{Stream, Tile, load_bytes, load_f32, load_i16, store_f32, store_i16};
use crate::buffer::Arena;

pub(super) use super::exact::{rotate, swiglu, unrotate};

/// Register block of a decoded panel: eight sums, a product, and room for operands.
const PANEL_ROWS: usize = 2;
const PANEL_COLUMNS: usize = 4;

pub(super) const fn class<A: Activations>() -> NumericClass {
    A::CLASS
}

pub(super) const fn segment_tiles<A: Activations>() -> usize {
    A::SEGMENT_TILES
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn quantise<A: Activations>(rotated: &[f32], out: RowMut<'_, i16>) {
    quantise_integer(rotated, A::SEGMENT_TILES, A::LARGEST, out, store_tile);
}

pub(super) fn scratch_bytes<A: Activations>(rows: usize) -> usize {
    scratch_bytes_past_registers::<i16, PAIR_SUMS>(rows, A::SEGMENT_TILES)
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn product<A: Activations, const K: u8>(
    column: Column<'_>,
    rows: RowsRef<'_, i16>,
    scratch: Arena<'_>,
    out: &mut [f32],
) {
    with_codebook!(column.codebook, C => match rows.len() {
        1 => few::<A, C, K, 1, 2>(column, rows, out),
        2 => few::<A, C, K, 2, 1>(column, rows, out),
        3 => few::<A, C, K, 3, 1>(column, rows, out),
        4 => few::<A, C, K, 4, 1>(column, rows, out),
        _ => many::<A, C, K>(column, rows, scratch, out),
    });
}

/// The 16-bit weights of column `g` (`column` 0) or `g + 8` (1) of group `g`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn weights<C: CodebookMath, const K: u8>(
    stream: &Stream<'_>,
    tile: Tile<'_>,
    g: usize,
    column: usize,
) -> __m256i {
    let pairs = tile.pairs::<K>(g, column);
    let even = _mm256_srlv_epi32(pairs, stream.right[column]);
    let odd = _mm256_sllv_epi32(pairs, stream.left[column]);
    let states = _mm256_blend_epi16::<0b1010_1010>(even, odd);
    let mut low = _mm256_mullo_epi16(states, _mm256_set1_epi16(Halves::<C>::LOW));
    let mut high = _mm256_add_epi16(
        _mm256_mulhi_epu16(states, _mm256_set1_epi16(Halves::<C>::LOW)),
        _mm256_mullo_epi16(states, _mm256_set1_epi16(Halves::<C>::HIGH)),
    );
    if C::BYTE_SUM {
        let ones = _mm256_set1_epi8(1);
        return _mm256_add_epi16(_mm256_maddubs_epi16(low, ones), _mm256_maddubs_epi16(high, ones));
    }
    if C::ADDEND != 0 {
        let addend = _mm256_set1_epi16(Halves::<C>::ADD_LOW);
        low = _mm256_add_epi16(low, addend);
        // −1 where the addition did not carry: the sum is not below the addend.
        let no_carry = _mm256_cmpeq_epi16(_mm256_subs_epu16(addend, low), _mm256_setzero_si256());
        let addend = _mm256_set1_epi16(Halves::<C>::ADD_HIGH.wrapping_add(1));
        high = _mm256_add_epi16(_mm256_add_epi16(high, addend), no_carry);
    }
    _mm256_add_epi16(fixed(low), fixed(high))
}

/// One half of the products as float16, in units of 1/960.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fixed(half: __m256i) -> __m256i {
    let mantissa = _mm256_xor_si256(
        _mm256_and_si256(half, _mm256_set1_epi16(0x3FF)),
        _mm256_set1_epi16(MANTISSA_XOR),
    );
    // A shuffle takes four bits of a byte, here the two of the exponent and two that do not count,
    // and gives zero where the byte's highest is set.
    let index = _mm256_or_si256(_mm256_srli_epi16::<2>(half), _mm256_set1_epi16(0x80));
    let powers = _mm256_broadcastsi128_si256(load_bytes(&POSITIVE_POWERS));
    let magnitude = _mm256_mulhrs_epi16(mantissa, _mm256_shuffle_epi8(powers, index));
    _mm256_sign_epi16(magnitude, _mm256_or_si256(half, _mm256_set1_epi16(1)))
}

/// [`POWERS`] of the positive sign.
const POSITIVE_POWERS: [u8; 16] = {
    let mut powers = [0; 16];
    let mut bits = 0;
    while bits < 16 {
        powers[bits] = POWERS[bits].cast_unsigned();
        bits += 1;
    }
    powers
};

/// Few rows: every weight is used from the register it was decoded into. `G` groups at a time, so
/// that the sums of all rows stay in registers.
#[target_feature(enable = "avx2,fma,f16c")]
fn few<A: Activations, C: CodebookMath, const K: u8, const R: usize, const G: usize>(
    column: Column<'_>,
    rows: RowsRef<'_, i16>,
    out: &mut [f32],
) {
    let stream = Stream::new::<K>(column);
    let rows: [RowRef<'_, i16>; R] = rows.rows(0);
    let mut totals = [[0.0; PAIR_SUMS]; R];
    for first in (0..GROUPS).step_by(G) {
        for (segment, tiles) in column.segments(A::SEGMENT_TILES) {
            let mut sums = [[[_mm256_setzero_si256(); 2]; G]; R];
            for tile in tiles {
                let mut x = [_mm256_setzero_si256(); R];
                for r in 0..R {
                    x[r] = load_i16(tile_lanes(rows[r].lanes, tile));
                }
                let tile = stream.tile::<K>(tile);
                for g in 0..G {
                    for c in 0..2 {
                        let weights = weights::<C, K>(&stream, tile, first + g, c);
                        for r in 0..R {
                            let products = _mm256_madd_epi16(weights, x[r]);
                            sums[r][g][c] = _mm256_add_epi32(sums[r][g][c], products);
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
        let outputs = finish_integer(column.codebook, rows[r], &totals[r]);
        out[r * HADAMARD..][..TILE].copy_from_slice(&outputs);
    }
}

/// `totals += scale · sums`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_scaled(totals: &mut [[f32; 8]], sums: &[__m256i], scale: f32) {
    for (total, &sum) in totals.iter_mut().zip(sums) {
        let sum = _mm256_cvtepi32_ps(sum);
        store_f32(total, _mm256_fmadd_ps(sum, _mm256_set1_ps(scale), load_f32(total)));
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
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
        |row, totals| finish_integer(column.codebook, row, totals),
    );
}

/// Decodes `tiles` into `panel`, group by group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack<C: CodebookMath, const K: u8>(
    stream: &Stream<'_>,
    tiles: Range<usize>,
    panel: &mut [i16],
) {
    for (tile, panel) in tiles.zip(panel.as_chunks_mut::<TILE_WEIGHTS>().0) {
        let tile = stream.tile::<K>(tile);
        for (at, lanes) in panel.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
            store_i16(lanes, weights::<C, K>(stream, tile, at / 2, at % 2));
        }
    }
}

/// `totals[r] += rows[r] · panel`.
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply<const R: usize>(
    panel: &[i16],
    rows: [(&[i16], f32); R],
    totals: &mut [[f32; PAIR_SUMS]],
) {
    let tiles = panel.as_chunks::<TILE_WEIGHTS>().0;
    for part in 0..TILE / PANEL_COLUMNS {
        let mut sums = [[_mm256_setzero_si256(); PANEL_COLUMNS]; R];
        for (t, tile) in tiles.iter().enumerate() {
            let mut x = [_mm256_setzero_si256(); R];
            for r in 0..R {
                x[r] = load_i16(tile_lanes(rows[r].0, t));
            }
            let columns = &tile.as_chunks::<TILE>().0[part * PANEL_COLUMNS..];
            for c in 0..PANEL_COLUMNS {
                let weights = load_i16(&columns[c]);
                for r in 0..R {
                    sums[r][c] = _mm256_add_epi32(sums[r][c], _mm256_madd_epi16(weights, x[r]));
                }
            }
        }
        for r in 0..R {
            let totals = &mut totals[r].as_chunks_mut::<8>().0[part * PANEL_COLUMNS..];
            add_scaled(totals, &sums[r], rows[r].1);
        }
    }
}
