//! Classes `half` and `int8`: integer weights times integer activations in 32-bit lanes.
//!
//! An 8-bit activation fills both bytes of its lane, so that it can meet the four bytes of a `mul1`
//! product, whose sum is the weight: `vpdpbusd` adds them up and multiplies in one instruction. Where
//! a weight is a 16-bit number, the lane is shifted back to the activation itself.

use std::arch::x86_64::*;
use std::ops::Range;

use trellect_core::{HADAMARD, NumericClass, TILE};

use super::super::super::codebook::{CodebookMath, with_codebook};
use super::super::super::generic::{Activations, PAIR_SUMS, finish_integer};
use super::super::super::panel::{Panel, Segment, scratch_bytes_past_registers};
use super::super::super::{
    Column, GROUP_WEIGHTS, GROUPS, ROW_OF_LANE, RowMut, RowRef, RowsRef, TILE_WEIGHTS,
};
use super::super::{MANTISSA_XOR, POWERS};
use super::stream::{
    Stream, broadcast_i16, dot_i16, load_bytes, load_f32, load_i16, products, store_f32, store_i16,
};
use crate::buffer::Arena;

use super::rotate::Rounding;
pub(super) use super::rotate::{rotate, swiglu, unrotate};

/// Rows of a register block of a decoded panel: with four groups 24 sums, and room for operands.
const PANEL_ROWS: usize = 6;
const PANEL_GROUPS: usize = 4;

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn quantise<A: Activations>(rotated: &[f32], out: RowMut<'_, i16>) {
    // SAFETY: 64 readable bytes.
    let order = unsafe { _mm512_loadu_si512(ROWS.as_ptr().cast()) };
    let mut total = 0.0;
    let segment_len = A::SEGMENT_TILES * TILE;
    let segments = rotated.chunks(segment_len).zip(out.lanes.chunks_mut(segment_len));
    for ((segment, lanes), scale) in segments.zip(out.scales) {
        let rounding = Rounding::new(segment, A::LARGEST);
        let mut sums = _mm512_setzero_si512();
        let tiles = segment.as_chunks::<TILE>().0;
        for (tile, lanes) in tiles.iter().zip(lanes.as_chunks_mut::<TILE>().0) {
            let x = rounding.round(tile);
            sums = _mm512_add_epi32(sums, x);
            let mut x = _mm512_permutexvar_epi32(order, x);
            if bytes::<A>() {
                let low = _mm512_and_si512(x, _mm512_set1_epi32(0xFF));
                x = _mm512_or_si512(_mm512_slli_epi32::<8>(x), low);
            }
            let x = _mm512_cvtepi32_epi16(x);
            // SAFETY: 32 writable bytes.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), x) }
        }
        *scale = rounding.scale;
        total += rounding.scale * _mm512_reduce_add_epi32(sums) as f32;
    }
    *out.sum = total;
}

/// [`ROW_OF_LANE`] for a permutation.
const ROWS: [i32; TILE] = {
    let mut rows = [0; TILE];
    let mut lane = 0;
    while lane < TILE {
        rows[lane] = ROW_OF_LANE[lane] as i32;
        lane += 1;
    }
    rows
};

pub(super) const fn class<A: Activations>() -> NumericClass {
    A::CLASS
}

pub(super) const fn segment_tiles<A: Activations>() -> usize {
    A::SEGMENT_TILES
}

/// Whether a lane holds its activation twice, as bytes.
const fn bytes<A: Activations>() -> bool {
    matches!(A::CLASS, NumericClass::Int8)
}

pub(super) fn scratch_bytes<A: Activations>(rows: usize) -> usize {
    scratch_bytes_past_registers::<i16, PAIR_SUMS>(rows, A::SEGMENT_TILES)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn product<A: Activations, const K: u8>(
    column: Column<'_>,
    rows: RowsRef<'_, i16>,
    scratch: Arena<'_>,
    out: &mut [f32],
) {
    with_codebook!(column.codebook, C => match rows.len() {
        1 => few::<A, C, K, 1, 8>(column, rows, out),
        2 => few::<A, C, K, 2, 8>(column, rows, out),
        3 => few::<A, C, K, 3, 4>(column, rows, out),
        4 => few::<A, C, K, 4, 4>(column, rows, out),
        _ => many::<A, C, K>(column, rows, scratch, out),
    });
}

/// The 16-bit weights of 32 states.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(in crate::micro::x86) fn weights<C: CodebookMath>(states: __m512i) -> __m512i {
    let [low, high] = products::<C>(states);
    if C::BYTE_SUM {
        let ones = _mm512_set1_epi8(1);
        return _mm512_add_epi16(_mm512_maddubs_epi16(low, ones), _mm512_maddubs_epi16(high, ones));
    }
    _mm512_add_epi16(fixed(low), fixed(high))
}

/// One half of the products as float16, in units of 1/960.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn fixed(half: __m512i) -> __m512i {
    // The truth table of (a & b) ^ c.
    const AND_XOR: i32 = 0b0110_1010;
    const HIGH_BYTES: __mmask64 = 0xAAAA_AAAA_AAAA_AAAA;
    let mantissa = _mm512_ternarylogic_epi32::<AND_XOR>(
        half,
        _mm512_set1_epi16(0x3FF),
        _mm512_set1_epi16(MANTISSA_XOR),
    );
    let index = _mm512_srli_epi16::<2>(half);
    let power = _mm512_maskz_permutexvar_epi8(HIGH_BYTES, index, load_bytes(&POWERS));
    _mm512_mulhrs_epi16(mantissa, power)
}

/// A tile's activations for both columns of a group; `wide` asks for 16-bit numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn activations<A: Activations>(lanes: &[i16; TILE], wide: bool) -> __m512i {
    let x = broadcast_i16(lanes);
    if bytes::<A>() && wide { _mm512_srai_epi16::<8>(x) } else { x }
}

/// Few rows: every weight is used from the register it was decoded into. `G` groups at a time, so
/// that the sums of all rows stay in registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn few<A: Activations, C: CodebookMath, const K: u8, const R: usize, const G: usize>(
    column: Column<'_>,
    rows: RowsRef<'_, i16>,
    out: &mut [f32],
) {
    const { assert!(G == GROUPS || 2 * G == GROUPS, "all groups in one or two goes") };
    let stream = Stream::new::<K>(column);
    let rows: [RowRef<'_, i16>; R] = rows.rows(0);
    let mut totals = [[0.0; PAIR_SUMS]; R];
    multiply_groups::<A, C, K, R, G, 0>(&stream, &rows, &mut totals);
    if G < GROUPS {
        multiply_groups::<A, C, K, R, G, { GROUPS / 2 }>(&stream, &rows, &mut totals);
    }
    for r in 0..R {
        let outputs = finish_integer(column.codebook, rows[r], &totals[r]);
        out[r * HADAMARD..][..TILE].copy_from_slice(&outputs);
    }
}

/// The pair sums of groups `FIRST..FIRST + G`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn multiply_groups<
    A: Activations,
    C: CodebookMath,
    const K: u8,
    const R: usize,
    const G: usize,
    const FIRST: usize,
>(
    stream: &Stream<'_>,
    rows: &[RowRef<'_, i16>; R],
    totals: &mut [[f32; PAIR_SUMS]; R],
) {
    let mut group_totals = [[_mm512_setzero_ps(); G]; R];
    for (segment, tiles) in stream.column().segments(A::SEGMENT_TILES) {
        let mut lanes = [&[][..]; R];
        for r in 0..R {
            lanes[r] = &rows[r].lanes.as_chunks::<TILE>().0[tiles.clone()];
        }
        let mut sums = [[_mm512_setzero_si512(); G]; R];
        for (t, tile) in tiles.enumerate() {
            let mut x = [_mm512_setzero_si512(); R];
            for r in 0..R {
                x[r] = activations::<A>(&lanes[r][t], !C::BYTE_SUM);
            }
            if FIRST == 0 {
                stream.prefetch::<K>(tile);
            }
            let tile = stream.tile::<K>(tile);
            for g in 0..G {
                let states = tile.states::<K>(FIRST + g);
                if bytes::<A>() && C::BYTE_SUM {
                    let [low, high] = products::<C>(states);
                    for r in 0..R {
                        let sum = _mm512_dpbusd_epi32(sums[r][g], low, x[r]);
                        sums[r][g] = _mm512_dpbusd_epi32(sum, high, x[r]);
                    }
                } else {
                    let weights = weights::<C>(states);
                    for r in 0..R {
                        sums[r][g] = dot_i16(sums[r][g], weights, x[r]);
                    }
                }
            }
        }
        for r in 0..R {
            let scale = _mm512_set1_ps(rows[r].scales[segment]);
            for g in 0..G {
                let sum = _mm512_cvtepi32_ps(sums[r][g]);
                group_totals[r][g] = _mm512_fmadd_ps(sum, scale, group_totals[r][g]);
            }
        }
    }
    for r in 0..R {
        let totals = totals[r].as_chunks_mut::<TILE>().0[FIRST..].iter_mut();
        for (lanes, total) in totals.zip(group_totals[r]) {
            store_f32(lanes, total);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
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
        |panel: &[i16], segment: Segment<'_, i16>, totals| {
            multiply_rows::<A>(panel, segment, totals);
        },
        |row, totals| finish_integer(column.codebook, row, totals),
    );
}

/// Decodes `tiles` into `panel`, group by group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn unpack<C: CodebookMath, const K: u8>(
    stream: &Stream<'_>,
    tiles: Range<usize>,
    panel: &mut [i16],
) {
    for (tile, panel) in tiles.zip(panel.as_chunks_mut::<TILE_WEIGHTS>().0) {
        stream.prefetch::<K>(tile);
        let tile = stream.tile::<K>(tile);
        for (g, lanes) in panel.as_chunks_mut::<GROUP_WEIGHTS>().0.iter_mut().enumerate() {
            store_i16(lanes, weights::<C>(tile.states::<K>(g)));
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn multiply_rows<A: Activations>(
    panel: &[i16],
    segment: Segment<'_, i16>,
    totals: &mut [[f32; PAIR_SUMS]],
) {
    match segment.len {
        1 => multiply::<A, 1>(panel, segment.rows(), totals),
        2 => multiply::<A, 2>(panel, segment.rows(), totals),
        3 => multiply::<A, 3>(panel, segment.rows(), totals),
        4 => multiply::<A, 4>(panel, segment.rows(), totals),
        5 => multiply::<A, 5>(panel, segment.rows(), totals),
        PANEL_ROWS => multiply::<A, PANEL_ROWS>(panel, segment.rows(), totals),
        len => unreachable!("{len} rows of {PANEL_ROWS}"),
    }
}

/// `totals[r] += rows[r] · panel`.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn multiply<A: Activations, const R: usize>(
    panel: &[i16],
    rows: [(&[i16], f32); R],
    totals: &mut [[f32; PAIR_SUMS]],
) {
    let tiles = panel.as_chunks::<TILE_WEIGHTS>().0;
    let mut lanes = [&[][..]; R];
    for r in 0..R {
        lanes[r] = &rows[r].0.as_chunks::<TILE>().0[..tiles.len()];
    }
    for half in 0..GROUPS / PANEL_GROUPS {
        let mut sums = [[_mm512_setzero_si512(); PANEL_GROUPS]; R];
        for (t, tile) in tiles.iter().enumerate() {
            let mut x = [_mm512_setzero_si512(); R];
            for r in 0..R {
                x[r] = activations::<A>(&lanes[r][t], true);
            }
            let groups = &tile.as_chunks::<GROUP_WEIGHTS>().0[half * PANEL_GROUPS..];
            for g in 0..PANEL_GROUPS {
                let weights = load_i16(&groups[g]);
                for r in 0..R {
                    sums[r][g] = dot_i16(sums[r][g], weights, x[r]);
                }
            }
        }
        for r in 0..R {
            let scale = _mm512_set1_ps(rows[r].1);
            let totals = &mut totals[r].as_chunks_mut::<TILE>().0[half * PANEL_GROUPS..];
            for g in 0..PANEL_GROUPS {
                let sum = _mm512_cvtepi32_ps(sums[r][g]);
                let total = _mm512_fmadd_ps(sum, scale, load_f32(&totals[g]));
                store_f32(&mut totals[g], total);
            }
        }
    }
}
