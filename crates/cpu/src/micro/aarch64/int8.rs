//! Class `int8` with 8-bit matrix products.
//!
//! Few rows go the way of every integer class. Many rows meet a panel of 8-bit numbers: a weight is
//! `64·high + low` with both parts in 7 bits, and `smmla` multiplies two rows with two columns, eight
//! lanes of each, in one instruction.

use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

use trellect_core::{NumericClass, TILE};
use zerocopy::IntoBytes;

use super::super::codebook::{CodebookMath, with_codebook};
use super::super::generic::{Activations, Int8Activations};
use super::super::panel::{Panel, Segment, scratch_bytes_past_registers};
use super::super::rotate::{quantise_integer, store_tile};
use super::super::{Column, GROUPS, MR, RowMut, RowsRef, TILE_WEIGHTS, tile_lanes};
use super::integer::{few_bytes, finish, split, weights};
use super::stream::{Stream, load_i8};
use crate::buffer::Arena;

pub(super) use super::exact::{rotate, swiglu, unrotate};

const SEGMENT_TILES: usize = Int8Activations::SEGMENT_TILES;

/// Bits of a weight's low part.
const LOW_BITS: i32 = 6;

/// Register block of a decoded panel: 16 sums of two rows and two columns each.
const PANEL_ROWS: usize = 4;
const PANEL_GROUPS: usize = 4;

pub(super) const fn class() -> NumericClass {
    NumericClass::Int8
}

pub(super) const fn segment_tiles() -> usize {
    SEGMENT_TILES
}

#[target_feature(enable = "neon,fp16,i8mm")]
pub(super) fn quantise(rotated: &[f32], out: RowMut<'_, i8>) {
    quantise_integer(rotated, SEGMENT_TILES, Int8Activations::LARGEST, out, |row, tile, lanes| {
        store_tile(row, tile, split(lanes).map(|lane| lane as i8));
    });
}

pub(super) fn scratch_bytes(rows: usize) -> usize {
    scratch_bytes_past_registers::<i16, TILE>(rows, SEGMENT_TILES)
}

#[target_feature(enable = "neon,fp16,i8mm")]
pub(super) fn product<const K: u8>(
    column: Column<'_>,
    rows: RowsRef<'_, i8>,
    scratch: Arena<'_>,
    out: &mut [f32],
) {
    with_codebook!(column.codebook, C => match rows.len() {
        1..=MR => few_bytes::<C, K>(column, rows, out),
        _ => many::<C, K>(column, rows, scratch, out),
    });
}

#[target_feature(enable = "neon,fp16,i8mm")]
fn many<C: CodebookMath, const K: u8>(
    column: Column<'_>,
    rows: RowsRef<'_, i8>,
    scratch: Arena<'_>,
    out: &mut [f32],
) {
    let stream = Stream::new::<K>(column);
    let segment_tiles = SEGMENT_TILES;
    Panel { column, rows, segment_tiles, scratch, out }.product::<i16, TILE, PANEL_ROWS>(
        |tiles, panel| unpack::<C, K>(&stream, tiles, panel),
        |panel: &[i16], segment: Segment<'_, i8>, totals| match segment.len {
            1 => multiply::<1, 1>(panel, segment.rows(), totals),
            2 => multiply::<2, 1>(panel, segment.rows(), totals),
            3 => multiply::<3, 2>(panel, segment.rows(), totals),
            4 => multiply::<4, 2>(panel, segment.rows(), totals),
            len => unreachable!("{len} rows of {PANEL_ROWS}"),
        },
        |row, totals| finish::<C>(*totals, row.sum),
    );
}

/// A group in a panel: its high parts, then its low ones; of each the first eight lanes of both
/// columns, then the others.
const GROUP_BYTES: usize = 64;

/// Decodes `tiles` into `panel`, group by group.
#[inline]
#[target_feature(enable = "neon,fp16,i8mm")]
fn unpack<C: CodebookMath, const K: u8>(
    stream: &Stream<'_>,
    tiles: Range<usize>,
    panel: &mut [i16],
) {
    for (tile, panel) in tiles.zip(panel.as_chunks_mut::<TILE_WEIGHTS>().0) {
        let tile = stream.tile::<K>(tile);
        let groups = panel.as_mut_bytes().as_chunks_mut::<GROUP_BYTES>().0;
        for (g, group) in groups.iter_mut().enumerate() {
            let columns = [0, 1].map(|column| weights::<C, K>(tile, g, column));
            let parts = group.as_chunks_mut::<16>().0;
            for half in 0..2 {
                let [a, b] = columns.map(|lanes| lanes[half]);
                let high = vmovn_s16(vshrq_n_s16::<LOW_BITS>(a));
                let high = vmovn_high_s16(high, vshrq_n_s16::<LOW_BITS>(b));
                store(&mut parts[half], high);
                let mask = vdupq_n_s16((1 << LOW_BITS) - 1);
                let low = vmovn_s16(vandq_s16(a, mask));
                let low = vmovn_high_s16(low, vandq_s16(b, mask));
                store(&mut parts[2 + half], low);
            }
        }
    }
}

/// `totals[r] += rows[r] · panel`, `P` pairs of rows.
#[target_feature(enable = "neon,fp16,i8mm")]
fn multiply<const R: usize, const P: usize>(
    panel: &[i16],
    rows: [(&[i8], f32); R],
    totals: &mut [[f32; TILE]],
) {
    let tiles = panel.as_chunks::<TILE_WEIGHTS>().0;
    for first in (0..GROUPS).step_by(PANEL_GROUPS) {
        // High parts, then low ones.
        let mut sums = [[[vdupq_n_s32(0); PANEL_GROUPS]; P]; 2];
        for (t, tile) in tiles.iter().enumerate() {
            let mut x = [[vdupq_n_s8(0); 2]; P];
            for p in 0..P {
                // Without a second row, the first one once more.
                let [a, b] = [2 * p, (2 * p + 1).min(R - 1)]
                    .map(|r| vreinterpretq_s64_s8(load_i8(tile_lanes(rows[r].0, t))));
                x[p] = [
                    vreinterpretq_s8_s64(vzip1q_s64(a, b)),
                    vreinterpretq_s8_s64(vzip2q_s64(a, b)),
                ];
            }
            let groups = &tile.as_bytes().as_chunks::<GROUP_BYTES>().0[first..];
            for g in 0..PANEL_GROUPS {
                let parts = groups[g].as_chunks::<16>().0;
                for part in 0..2 {
                    for half in 0..2 {
                        let weights = load(&parts[2 * part + half]);
                        for p in 0..P {
                            let sum = &mut sums[part][p][g];
                            *sum = smmla(*sum, x[p][half], weights);
                        }
                    }
                }
            }
        }
        for p in 0..P {
            for g in 0..PANEL_GROUPS {
                let [high, low] = [sums[0][p][g], sums[1][p][g]];
                let sums = vcvtq_f32_s32(vaddq_s32(vshlq_n_s32::<LOW_BITS>(high), low));
                let [a, b] = [vget_low_f32(sums), vget_high_f32(sums)];
                for (r, sums) in (2 * p..R).zip([a, b]) {
                    totals[r][first + g] += rows[r].1 * vget_lane_f32::<0>(sums);
                    totals[r][first + g + 8] += rows[r].1 * vget_lane_f32::<1>(sums);
                }
            }
        }
    }
}

/// `sum[2·i + j] += Σₖ a[8·i + k] · b[8·j + k]` for `i`, `j` below 2 and `k` below 8.
#[inline]
#[target_feature(enable = "neon,fp16,i8mm")]
fn smmla(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction has no effect but on `sum`, and this function's features include it.
    unsafe {
        asm!(
            "smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

#[inline]
#[target_feature(enable = "neon,fp16,i8mm")]
fn load(bytes: &[u8; 16]) -> int8x16_t {
    // SAFETY: 16 readable bytes.
    vreinterpretq_s8_u8(unsafe { vld1q_u8(bytes.as_ptr()) })
}

#[inline]
#[target_feature(enable = "neon,fp16,i8mm")]
fn store(bytes: &mut [u8; 16], value: int8x16_t) {
    let value = vreinterpretq_u8_s8(value);
    // SAFETY: 16 writable bytes.
    unsafe { vst1q_u8(bytes.as_mut_ptr(), value) }
}
