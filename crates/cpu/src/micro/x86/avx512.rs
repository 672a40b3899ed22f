//! AVX-512 with BW, VBMI and VNNI.
//!
//! A group's 32 states come from one 64-byte load: `vpermb` puts the bytes of four neighbouring
//! windows, at most 47 bits, into a 64-bit lane, most significant first, and `vpmultishiftqb` cuts
//! the four 16-bit windows out of it.

use std::arch::x86_64::*;

use trellect_core::{Codebook, HADAMARD, NumericClass};

use super::super::codebook::with_codebook;
use super::super::codebook::{BYTE_SUM_BIAS, BYTE_SUM_STEP, CodebookMath, HALF_MASK, HALF_XOR};
use super::super::generic::finish_half;
use super::super::{
    BLOCK_LANES, BLOCK_TILES, BlockMut, Column, GROUPS, GUARD, Micro, Outputs, RowRef, TILE_LANES,
    pack_exact, pack_half, reduce_lanes, sum_groups, swiglu as swiglu_body, tile_bytes,
    unrotate as unrotate_body, width,
};
use super::{Halves, MANTISSA_XOR, impl_micro};
use crate::isa::Avx512;

/// Class `half` on AVX-512.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Half(pub(crate) Avx512);

/// Class `exact` on AVX-512.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Exact(pub(crate) Avx512);

impl_micro!(Avx512Half, i16, NumericClass::Half, half);
impl_micro!(Avx512Exact, f32, NumericClass::Exact, exact);

/// How one width's windows are cut out of a group.
struct Cut {
    /// Bytes of every 64-bit lane, from the word before the group.
    gather: [u8; 64],
    /// Where the lane's eight result bytes start, in bits.
    shift: [u8; 64],
}

static CUTS: [Cut; 9] = {
    let mut cuts = [const { cut(1) }; 9];
    let mut bits = 1;
    while bits <= 8 {
        cuts[bits] = cut(bits);
        bits += 1;
    }
    cuts
};

const fn cut(k: usize) -> Cut {
    let mut cut = Cut { gather: [0; 64], shift: [0; 64] };
    let mut lane = 0;
    while lane < 8 {
        // Bits are counted from the word before the group.
        let byte = (32 + (4 * lane + 1) * k - 16) / 8;
        let mut i = 0;
        while i < 8 {
            // Words are little-endian, their bits run from the most significant one.
            cut.gather[8 * lane + i] = ((byte + 7 - i) ^ 3) as u8;
            i += 1;
        }
        let mut window = 0;
        while window < 4 {
            let start = 32 + (4 * lane + window + 1) * k - 16 - 8 * byte;
            cut.shift[8 * lane + 2 * window] = (48 - start) as u8;
            cut.shift[8 * lane + 2 * window + 1] = (56 - start) as u8;
            window += 1;
        }
        lane += 1;
    }
    cut
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn load_bytes(bytes: &[u8], at: usize) -> __m512i {
    let chunk: &[u8; 64] = bytes[at..].first_chunk().expect("64 bytes");
    // SAFETY: `chunk` is 64 readable bytes.
    unsafe { _mm512_loadu_si512(chunk.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn load_i16(x: &[i16], at: usize) -> __m512i {
    let lanes: &[i16; 32] = x[at..].first_chunk().expect("32 lanes");
    // SAFETY: `lanes` is 64 readable bytes.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn load_f32(x: &[f32], at: usize) -> __m512 {
    let lanes: &[f32; 16] = x[at..].first_chunk().expect("16 lanes");
    // SAFETY: `lanes` is 64 readable bytes.
    unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn to_lanes(value: __m512) -> [f32; 16] {
    let mut lanes = [0.0; 16];
    // SAFETY: `lanes` is 64 writable bytes.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), value) }
    lanes
}

/// A group's 32 states as 16-bit lanes in stream order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn states<const K: u8>(block: &[u8], tile: usize, g: usize, bits: u8) -> __m512i {
    let (k, cut) = (width::<K>(bits), &CUTS[width::<K>(bits)]);
    let start = GUARD + tile * tile_bytes::<K>(bits) + 4 * k * g - 4;
    let mut bytes = load_bytes(block, start);
    if g == 0 {
        // The word before a tile's first group is the tile's last.
        let last: &[u8; 4] = block[start + 32 * k..].first_chunk().expect("a word");
        bytes = _mm512_mask_set1_epi32(bytes, 1, i32::from_le_bytes(*last));
    }
    let gathered = _mm512_permutexvar_epi8(load_bytes(&cut.gather, 0), bytes);
    _mm512_multishift_epi64_epi8(load_bytes(&cut.shift, 0), gathered)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn pack_f32(x: &[f32; HADAMARD], suh: &[f32], out: BlockMut<'_, f32>) {
    pack_exact(x, suh, out);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn pack_i16(x: &[f32; HADAMARD], suh: &[f32], out: BlockMut<'_, i16>) {
    pack_half(x, suh, out);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn unrotate(raw: &mut [f32; HADAMARD], svh: &[f32], bias: Option<&[f32]>) {
    unrotate_body(raw, svh, bias);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn swiglu(gate: &mut [f32; HADAMARD], up: &[f32; HADAMARD]) {
    swiglu_body(gate, up);
}

mod half {
    use super::*;

    pub(super) use super::{pack_i16 as pack, swiglu, unrotate};

    /// The 16-bit weights of 32 states.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    fn weights<C: CodebookMath>(states: __m512i) -> __m512i {
        let mut low = _mm512_mullo_epi16(states, _mm512_set1_epi16(Halves::<C>::LOW));
        let mut high = _mm512_add_epi16(
            _mm512_mulhi_epu16(states, _mm512_set1_epi16(Halves::<C>::LOW)),
            _mm512_mullo_epi16(states, _mm512_set1_epi16(Halves::<C>::HIGH)),
        );
        if C::BYTE_SUM {
            let ones = _mm512_set1_epi8(1);
            return _mm512_add_epi16(
                _mm512_maddubs_epi16(low, ones),
                _mm512_maddubs_epi16(high, ones),
            );
        }
        if C::ADDEND != 0 {
            let addend = _mm512_set1_epi16(Halves::<C>::ADD_LOW);
            low = _mm512_add_epi16(low, addend);
            let carry = _mm512_cmplt_epu16_mask(low, addend);
            high = _mm512_add_epi16(high, _mm512_set1_epi16(Halves::<C>::ADD_HIGH));
            high = _mm512_mask_add_epi16(high, carry, high, _mm512_set1_epi16(1));
        }
        let sum = _mm512_add_epi16(fixed(low), fixed(high));
        _mm512_srai_epi16::<2>(_mm512_add_epi16(sum, _mm512_set1_epi16(2)))
    }

    /// One half of the products as float16, in units of 2⁻¹³.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    fn fixed(half: __m512i) -> __m512i {
        // The truth table of (a & b) ^ c.
        const AND_XOR: i32 = 0b0110_1010;
        let mantissa = _mm512_ternarylogic_epi32::<AND_XOR>(
            half,
            _mm512_set1_epi16(0x3FF),
            _mm512_set1_epi16(MANTISSA_XOR),
        );
        let shift = _mm512_ternarylogic_epi32::<AND_XOR>(
            _mm512_srli_epi16::<10>(half),
            _mm512_set1_epi16(3),
            _mm512_set1_epi16(2),
        );
        let magnitude = _mm512_sllv_epi16(mantissa, shift);
        let negative = _mm512_movepi16_mask(half);
        _mm512_mask_sub_epi16(magnitude, negative, _mm512_setzero_si512(), magnitude)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    pub(super) fn dot<const K: u8, const R: usize>(
        column: Column<'_>,
        rows: &[RowRef<'_, i16>; R],
    ) -> [Outputs; R] {
        with_codebook!(column.codebook, C => dot_with::<C, K, R>(column, rows))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    fn dot_with<C: CodebookMath, const K: u8, const R: usize>(
        column: Column<'_>,
        rows: &[RowRef<'_, i16>; R],
    ) -> [Outputs; R] {
        let sums = sum_groups(column.blocks(), rows, |block, g| {
            let bytes = column.block::<K>(block);
            let mut sums = [_mm512_setzero_si512(); R];
            for tile in 0..BLOCK_TILES {
                let weights = weights::<C>(states::<K>(bytes, tile, g, column.bits));
                for r in 0..R {
                    let x = load_i16(rows[r].lanes, block * BLOCK_LANES + tile * TILE_LANES);
                    sums[r] = _mm512_dpwssd_epi32(sums[r], weights, x);
                }
            }
            sums.map(|sum| to_lanes(_mm512_cvtepi32_ps(sum)))
        });
        finish_half(column.codebook, &sums, rows)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    pub(super) fn unpack(column: Column<'_>, panel: &mut [i16]) {
        with_codebook!(column.codebook, C => unpack_with::<C>(column, panel));
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    fn unpack_with<C: CodebookMath>(column: Column<'_>, panel: &mut [i16]) {
        for (group, lanes) in panel.chunks_exact_mut(TILE_LANES).enumerate() {
            let (tile, g) = (group / GROUPS, group % GROUPS);
            let weights = weights::<C>(states::<0>(column.guarded, tile, g, column.bits));
            // SAFETY: `lanes` is 64 writable bytes.
            unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), weights) }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    pub(super) fn dot_panel<const R: usize>(
        panel: &[i16],
        codebook: Codebook,
        rows: &[RowRef<'_, i16>; R],
    ) -> [Outputs; R] {
        let sums = sum_groups(rows[0].scales.len(), rows, |block, g| {
            let mut sums = [_mm512_setzero_si512(); R];
            for tile in 0..BLOCK_TILES {
                let group = (block * BLOCK_TILES + tile) * GROUPS + g;
                let weights = load_i16(panel, group * TILE_LANES);
                for r in 0..R {
                    let x = load_i16(rows[r].lanes, block * BLOCK_LANES + tile * TILE_LANES);
                    sums[r] = _mm512_dpwssd_epi32(sums[r], weights, x);
                }
            }
            sums.map(|sum| to_lanes(_mm512_cvtepi32_ps(sum)))
        });
        finish_half(codebook, &sums, rows)
    }
}

mod exact {
    use super::*;

    pub(super) use super::{pack_f32 as pack, swiglu, unrotate};

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

    /// The values of a group: even stream positions, then odd ones.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    fn weights<C: CodebookMath>(states: __m512i) -> [__m512; 2] {
        let even = _mm512_and_si512(states, _mm512_set1_epi32(0xFFFF));
        [values::<C>(even), values::<C>(_mm512_srli_epi32::<16>(states))]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    fn multiply(sum: __m512, weights: [__m512; 2], x: &[f32], at: usize) -> __m512 {
        let sum = _mm512_fmadd_ps(weights[0], load_f32(x, at), sum);
        _mm512_fmadd_ps(weights[1], load_f32(x, at + 16), sum)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    pub(super) fn dot<const K: u8, const R: usize>(
        column: Column<'_>,
        rows: &[RowRef<'_, f32>; R],
    ) -> [Outputs; R] {
        with_codebook!(column.codebook, C => dot_with::<C, K, R>(column, rows))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    fn dot_with<C: CodebookMath, const K: u8, const R: usize>(
        column: Column<'_>,
        rows: &[RowRef<'_, f32>; R],
    ) -> [Outputs; R] {
        let sums = sum_groups(column.blocks(), rows, |block, g| {
            let bytes = column.block::<K>(block);
            let mut sums = [_mm512_setzero_ps(); R];
            for tile in 0..BLOCK_TILES {
                let weights = weights::<C>(states::<K>(bytes, tile, g, column.bits));
                for r in 0..R {
                    let at = block * BLOCK_LANES + tile * TILE_LANES;
                    sums[r] = multiply(sums[r], weights, rows[r].lanes, at);
                }
            }
            sums.map(|sum| to_lanes(sum))
        });
        sums.map(|sums| reduce_lanes(&sums))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    pub(super) fn unpack(column: Column<'_>, panel: &mut [f32]) {
        with_codebook!(column.codebook, C => unpack_with::<C>(column, panel));
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    fn unpack_with<C: CodebookMath>(column: Column<'_>, panel: &mut [f32]) {
        for (group, lanes) in panel.chunks_exact_mut(TILE_LANES).enumerate() {
            let (tile, g) = (group / GROUPS, group % GROUPS);
            let [even, odd] = weights::<C>(states::<0>(column.guarded, tile, g, column.bits));
            lanes[..16].copy_from_slice(&to_lanes(even));
            lanes[16..].copy_from_slice(&to_lanes(odd));
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    pub(super) fn dot_panel<const R: usize>(
        panel: &[f32],
        _codebook: Codebook,
        rows: &[RowRef<'_, f32>; R],
    ) -> [Outputs; R] {
        let sums = sum_groups(rows[0].scales.len(), rows, |block, g| {
            let mut sums = [_mm512_setzero_ps(); R];
            for tile in 0..BLOCK_TILES {
                let group = (block * BLOCK_TILES + tile) * GROUPS + g;
                let start = group * TILE_LANES;
                let weights = [load_f32(panel, start), load_f32(panel, start + 16)];
                for r in 0..R {
                    let at = block * BLOCK_LANES + tile * TILE_LANES;
                    sums[r] = multiply(sums[r], weights, rows[r].lanes, at);
                }
            }
            sums.map(|sum| to_lanes(sum))
        });
        sums.map(|sums| reduce_lanes(&sums))
    }
}
