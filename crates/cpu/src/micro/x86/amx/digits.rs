//! Activations and weights as 8-bit digits.

use std::arch::x86_64::*;
use std::ops::Range;

use trellect_core::TILE;

use super::super::super::codebook::{CodebookMath, Mcg, Mul1};
use super::super::super::rotate::quantise_integer;
use super::super::super::{GROUPS, Micro, RowMut};
use super::super::avx512::integer::weights;
use super::super::avx512::stream::{Stream, Tile};
use super::AmxHalf;
use super::tiles::{LINE, LINES};

/// An activation is 2⁷ times its high digit, plus its low digit.
pub(super) const ACTIVATION_SHIFT: u32 = 7;

/// Largest magnitude of an activation: its high digit is at most 64.
const LARGEST: f32 = 8191.0;

/// Tiles of a weight register: their rows of `k` fill the lines.
pub(super) const BLOCK_TILES: usize = 4;

/// Bytes of a weight register.
pub(super) const REGISTER_BYTES: usize = LINES * LINE;

/// A weight is `2^shift` times its high digit, plus its low digit, plus [`low_digit_offset`]. The
/// high digit of a `mul1` weight is not negative.
pub(super) const fn weight_shift<C: CodebookMath>() -> u32 {
    if C::BYTE_SUM { 2 } else { 6 }
}

/// Makes low digits as often negative as not, so that what is left out has no mean.
pub(super) const fn low_digit_offset<C: CodebookMath>() -> i8 {
    1 << (weight_shift::<C>() - 1)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn quantise(rotated: &[f32], out: RowMut<'_, i8>) {
    quantise_integer(rotated, AmxHalf::SEGMENT_TILES, LARGEST, out, |row, tile, lanes| {
        let (high_digits, low_digits) = row.split_at_mut(rotated.len());
        let (mut high, mut low) = ([0i8; TILE], [0i8; TILE]);
        for lane in 0..TILE {
            let digit = (lanes[lane] + (1 << (ACTIVATION_SHIFT - 1))) >> ACTIVATION_SHIFT;
            high[lane] = digit as i8;
            low[lane] = (lanes[lane] - (digit << ACTIVATION_SHIFT)) as i8;
        }
        high_digits[tile * TILE..][..TILE].copy_from_slice(&high);
        low_digits[tile * TILE..][..TILE].copy_from_slice(&low);
    });
}

/// Decodes `tiles` into registers' worth of high digits, each followed by that of low digits.
///
/// A line holds four neighbouring rows, in the order of `ROW_OF_LANE`, of 16 channels in the order
/// of [`LANE_OF_CHANNEL`].
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn unpack<C: CodebookMath, const K: u8>(
    stream: &Stream<'_>,
    tiles: Range<usize>,
    panel: &mut [i8],
) {
    let blocks = panel.as_chunks_mut::<{ 2 * REGISTER_BYTES }>().0;
    for (first, block) in tiles.step_by(BLOCK_TILES).zip(blocks) {
        let (high, low) = block.split_at_mut(REGISTER_BYTES);
        let (high, low) = (high.as_chunks_mut::<LINE>().0, low.as_chunks_mut::<LINE>().0);
        for t in 0..BLOCK_TILES {
            let [high_digits, low_digits] = tile_digits::<C, K>(stream.tile::<K>(first + t));
            store_lines(high_digits, &mut high[4 * t..]);
            store_lines(low_digits, &mut low[4 * t..]);
        }
    }
}

/// High and low digits of a tile, two groups to a vector: each of its 128-bit parts holds four rows
/// of four channels.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn tile_digits<C: CodebookMath, const K: u8>(tile: Tile<'_>) -> [[__m512i; GROUPS / 2]; 2] {
    let mut digits = [[_mm512_setzero_si512(); GROUPS / 2]; 2];
    for pair in 0..GROUPS / 2 {
        let [high_a, low_a] = split::<C>(weights::<C>(tile.states::<K>(2 * pair)));
        let [high_b, low_b] = split::<C>(weights::<C>(tile.states::<K>(2 * pair + 1)));
        digits[0][pair] = match C::BYTE_SUM {
            true => _mm512_packus_epi16(high_a, high_b),
            false => _mm512_packs_epi16(high_a, high_b),
        };
        let offset = _mm512_set1_epi8(low_digit_offset::<C>());
        digits[1][pair] = _mm512_sub_epi8(_mm512_packus_epi16(low_a, low_b), offset);
    }
    digits
}

/// Both digits of 16-bit weights, the low one with its offset.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn split<C: CodebookMath>(weights: __m512i) -> [__m512i; 2] {
    let low = _mm512_and_si512(weights, _mm512_set1_epi16((1 << weight_shift::<C>()) - 1));
    let high = match C::BYTE_SUM {
        true => _mm512_srli_epi16::<{ weight_shift::<Mul1>() }>(weights),
        false => _mm512_srai_epi16::<{ weight_shift::<Mcg>() }>(weights),
    };
    [high, low]
}

/// 32-bit lane of a line that holds a channel of a column: two groups to four lanes.
pub(super) const LANE_OF_CHANNEL: [i32; TILE] = {
    let mut lanes = [0; TILE];
    let mut channel = 0;
    while channel < TILE {
        let (group, upper) = (channel % GROUPS, channel / GROUPS);
        lanes[channel] = (4 * (group / 2) + 2 * (group % 2) + upper) as i32;
        channel += 1;
    }
    lanes
};

/// Four lines from the four parts of four vectors: line `i` is the parts `i` of all of them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn store_lines(parts: [__m512i; 4], lines: &mut [[i8; LINE]]) {
    let [a, b, c, d] = parts;
    let (ab_low, ab_high) =
        (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xEE>(a, b));
    let (cd_low, cd_high) =
        (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xEE>(c, d));
    let transposed = [
        _mm512_shuffle_i32x4::<0x88>(ab_low, cd_low),
        _mm512_shuffle_i32x4::<0xDD>(ab_low, cd_low),
        _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high),
        _mm512_shuffle_i32x4::<0xDD>(ab_high, cd_high),
    ];
    for (line, value) in lines.iter_mut().zip(transposed) {
        // SAFETY: 64 writable bytes.
        unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), value) }
    }
}
