//! Activations and weights as 8-bit digits.

use std::arch::x86_64::*;

use trellect_core::{NumericClass, TILE};

use super::super::super::codebook::CodebookMath;
use super::super::super::{ROW_OF_LANE, RowMut};
use super::super::avx512::integer::weights;
use super::super::avx512::rotate::Rounding;
use super::super::avx512::stream::products;
use super::stream::{LANE_OF_BYTE, PAIRS, Stream};
use super::tiles::{LINE, REGISTER_BYTES};

/// What a digit is worth in units of the next one.
pub(super) const DIGIT: i32 = 256;

/// Largest magnitude of an activation. Its high digit is at most 64, that of a weight at most 255, so
/// that 131 000 of their products add up in 32 bits.
const LARGEST: f32 = 16383.0;

/// Which digits of a weight count.
pub(crate) trait WeightDigits: Copy + Send + Sync + 'static {
    const CLASS: NumericClass;
    const LOW: bool;
}

/// Both digits of a weight, class `half`.
#[derive(Clone, Copy)]
pub(crate) struct BothDigits;

/// The high digit of a weight, class `int8`: the low one counts by its mean.
#[derive(Clone, Copy)]
pub(crate) struct HighDigit;

impl WeightDigits for BothDigits {
    const CLASS: NumericClass = NumericClass::Half;
    const LOW: bool = true;
}

impl WeightDigits for HighDigit {
    const CLASS: NumericClass = NumericClass::Int8;
    const LOW: bool = false;
}

/// A codebook's weight as 16 bits without a sign, a high and a low digit, is
/// `w · 2^SHIFT` with `w` its 16-bit weight plus `BIAS`: 10 bits of `mul1`, 13 of the others.
struct Scaled<C>(std::marker::PhantomData<C>);

impl<C: CodebookMath> Scaled<C> {
    const SHIFT: u32 = if C::BYTE_SUM { 6 } else { 3 };
    const BIAS: i16 = if C::BYTE_SUM { 0 } else { 1 << 12 };
}

/// A weight's value is the first number times its 16 bits, less the second.
pub(super) const fn affine<C: CodebookMath, W: WeightDigits>() -> (f32, f32) {
    let unit = (1 << Scaled::<C>::SHIFT) as f32;
    let step = C::STEP / unit;
    let low = if W::LOW { 0.0 } else { (DIGIT as f32 - unit) / 2.0 };
    (step, C::OFFSET + C::STEP * Scaled::<C>::BIAS as f32 - step * low)
}

/// A row's high digits, then its low ones, from −128 to 127, all in the order of weight registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn quantise(rotated: &[f32], out: RowMut<'_, i8>) {
    const ROW_OF_BYTE: [i32; TILE] = {
        let mut rows = [0; TILE];
        let mut at = 0;
        while at < TILE {
            rows[at] = ROW_OF_LANE[at / 4 * 4 + LANE_OF_BYTE[at % 4]] as i32;
            at += 1;
        }
        rows
    };
    let rounding = Rounding::new(rotated, LARGEST);
    // SAFETY: 64 readable bytes.
    let order = unsafe { _mm512_loadu_si512(ROW_OF_BYTE.as_ptr().cast()) };
    let mut sums = _mm512_setzero_si512();
    let (high, low) = out.lanes.split_at_mut(rotated.len());
    let digits = high.as_chunks_mut::<TILE>().0.iter_mut().zip(low.as_chunks_mut::<TILE>().0);
    for (x, (high, low)) in rotated.as_chunks::<TILE>().0.iter().zip(digits) {
        let x = rounding.round(x);
        sums = _mm512_add_epi32(sums, x);
        let x = _mm512_permutexvar_epi32(order, x);
        let x_high = _mm512_srai_epi32::<8>(_mm512_add_epi32(x, _mm512_set1_epi32(DIGIT / 2)));
        let (x_high, x_low) = (_mm512_cvtepi32_epi8(x_high), _mm512_cvtepi32_epi8(x));
        // SAFETY: 16 writable bytes.
        unsafe { _mm_storeu_si128(high.as_mut_ptr().cast(), x_high) }
        // SAFETY: 16 writable bytes.
        unsafe { _mm_storeu_si128(low.as_mut_ptr().cast(), x_low) }
    }
    out.scales.fill(rounding.scale);
    *out.sum = rounding.scale * _mm512_reduce_add_epi32(sums) as f32;
}

/// The digits of a tile's weights: four lines of each register, a line for every four rows. A copy
/// for every `CALLER` has one call each, so that the compiler inlines it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn unpack<C: CodebookMath, W: WeightDigits, const CALLER: usize>(
    stream: &Stream<'_>,
    tile: usize,
    high: &mut [i8; REGISTER_BYTES / 4],
    low: &mut [i8; REGISTER_BYTES / 4],
) {
    const ODD: __mmask64 = 0xAAAA_AAAA_AAAA_AAAA;
    stream.prefetch(tile);
    for pair in 0..PAIRS {
        let [first, last] = stream.states(tile, pair);
        let (first, last) = (scaled::<C>(first), scaled::<C>(last));
        store_parts(_mm512_mask_blend_epi8(ODD, _mm512_srli_epi16::<8>(first), last), high, pair);
        if W::LOW {
            let digits = _mm512_mask_blend_epi8(ODD, first, _mm512_slli_epi16::<8>(last));
            store_parts(digits, low, pair);
        }
    }
}

/// The weights of 32 states as 16 bits without a sign.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn scaled<C: CodebookMath>(states: __m512i) -> __m512i {
    if C::BYTE_SUM {
        let [low, high] = products::<C>(states);
        let unit = _mm512_set1_epi8(1 << Scaled::<C>::SHIFT);
        return _mm512_add_epi16(_mm512_maddubs_epi16(low, unit), _mm512_maddubs_epi16(high, unit));
    }
    let bias = _mm512_set1_epi16(Scaled::<C>::BIAS);
    _mm512_slli_epi16::<3>(_mm512_add_epi16(weights::<C>(states), bias))
}

/// Four channels of four lines: the parts of `digits`, at the place of `pair` in a line. Stores
/// leave the ports of shuffles to the decoder.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn store_parts(digits: __m512i, lines: &mut [i8; REGISTER_BYTES / 4], pair: usize) {
    let parts = [
        _mm512_castsi512_si128(digits),
        _mm512_extracti32x4_epi32::<1>(digits),
        _mm512_extracti32x4_epi32::<2>(digits),
        _mm512_extracti32x4_epi32::<3>(digits),
    ];
    for (line, part) in lines.as_chunks_mut::<LINE>().0.iter_mut().zip(parts) {
        let bytes: &mut [i8; LINE / PAIRS] = &mut line.as_chunks_mut().0[pair];
        // SAFETY: 16 writable bytes.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), part) }
    }
}
