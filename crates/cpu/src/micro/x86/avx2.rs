//! AVX2 with FMA and F16C.
//!
//! A group's 32 states come from four 16-byte loads: `vpshufb` puts the bytes of two neighbouring
//! windows, at most 31 bits, into a 32-bit lane, most significant first; one variable shift brings
//! the even window to the lane's low half and another the odd one to its high half.

use std::arch::x86_64::*;

use trellect_core::{Codebook, HADAMARD, NumericClass};

use super::super::codebook::with_codebook;
use super::super::codebook::{BYTE_SUM_BIAS, BYTE_SUM_STEP, CodebookMath, HALF_MASK, HALF_XOR};
use super::super::generic::finish_half;
use super::super::{
    BLOCK_LANES, BLOCK_TILES, BlockMut, Column, GROUPS, GUARD, Micro, Outputs, RowRef, TILE_LANES,
    pack_exact, pack_half, reduce_lanes, sum_groups, swiglu as swiglu_body,
    unrotate as unrotate_body, width,
};
use super::{Halves, MANTISSA_XOR, POWERS, impl_micro};
use crate::isa::Avx2;

/// Class `half` on AVX2.
#[derive(Clone, Copy)]
pub(crate) struct Avx2Half(pub(crate) Avx2);

/// Class `exact` on AVX2.
#[derive(Clone, Copy)]
pub(crate) struct Avx2Exact(pub(crate) Avx2);

impl_micro!(Avx2Half, i16, NumericClass::Half, half);
impl_micro!(Avx2Exact, f32, NumericClass::Exact, exact);

/// How one width's windows are cut out of a group, for each quarter of 8 states.
struct Cut {
    /// Where the quarter's 16 bytes start, from the word before the group.
    offset: [usize; 4],
    shuffle: [[u8; 16]; 4],
    right: [[u32; 4]; 4],
    left: [[u32; 4]; 4],
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
    let mut cut =
        Cut { offset: [0; 4], shuffle: [[0; 16]; 4], right: [[0; 4]; 4], left: [[0; 4]; 4] };
    let mut quarter = 0;
    while quarter < 4 {
        // Bits are counted from the word before the group.
        let first = 32 + (8 * quarter + 1) * k - 16;
        let origin = first / 32 * 32;
        cut.offset[quarter] = origin / 8;
        let mut pair = 0;
        while pair < 4 {
            let start = 32 + (8 * quarter + 2 * pair + 1) * k - 16 - origin;
            let byte = start / 8;
            let mut i = 0;
            while i < 4 {
                // Words are little-endian, their bits run from the most significant one.
                cut.shuffle[quarter][4 * pair + i] = ((byte + 3 - i) ^ 3) as u8;
                i += 1;
            }
            cut.right[quarter][pair] = 16 - (start % 8) as u32;
            cut.left[quarter][pair] = (start % 8 + k) as u32;
            pair += 1;
        }
        quarter += 1;
    }
    cut
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_i16(x: &[i16], at: usize) -> __m256i {
    let lanes: &[i16; 16] = x[at..].first_chunk().expect("16 lanes");
    // SAFETY: `lanes` is 32 readable bytes.
    unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_f32(x: &[f32], at: usize) -> __m256 {
    let lanes: &[f32; 8] = x[at..].first_chunk().expect("8 lanes");
    // SAFETY: `lanes` is 32 readable bytes.
    unsafe { _mm256_loadu_ps(lanes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_bytes(bytes: &[u8], at: usize) -> __m128i {
    let chunk: &[u8; 16] = bytes[at..].first_chunk().expect("16 bytes");
    // SAFETY: `chunk` is 16 readable bytes.
    unsafe { _mm_loadu_si128(chunk.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_pair(low: &[u32; 4], high: &[u32; 4]) -> __m256i {
    let [a, b, c, d] = low.map(u32::cast_signed);
    let [e, f, g, h] = high.map(u32::cast_signed);
    _mm256_setr_epi32(a, b, c, d, e, f, g, h)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store_f32(lanes: &mut [f32], at: usize, value: __m256) {
    let out: &mut [f32; 8] = lanes[at..].first_chunk_mut().expect("8 lanes");
    // SAFETY: `out` is 32 writable bytes.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), value) }
}

/// Bytes of a group and of the word before it, with room for a load that starts at the last.
const WINDOW: usize = 64;

/// One width's cut, in registers.
struct Cutter {
    width: usize,
    offset: [usize; 4],
    shuffle: [__m256i; 2],
    right: [__m256i; 2],
    left: [__m256i; 2],
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn cutter<const K: u8>(bits: u8) -> Cutter {
    let width = width::<K>(bits);
    let Cut { offset, shuffle, right, left } = &CUTS[width];
    Cutter {
        width,
        offset: *offset,
        shuffle: [shuffles(shuffle, 0), shuffles(shuffle, 2)],
        right: [load_pair(&right[0], &right[1]), load_pair(&right[2], &right[3])],
        left: [load_pair(&left[0], &left[1]), load_pair(&left[2], &left[3])],
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn shuffles(shuffle: &[[u8; 16]; 4], low: usize) -> __m256i {
    _mm256_set_m128i(load_bytes(&shuffle[low + 1], 0), load_bytes(&shuffle[low], 0))
}

/// A group's bytes from the word before it on; for a tile's first group that word is its last.
#[inline(always)]
fn window<'a>(
    block: &'a [u8],
    tile: usize,
    g: usize,
    width: usize,
    wrapped: &'a mut [u8; WINDOW],
) -> &'a [u8; WINDOW] {
    let start = GUARD + 32 * width * tile + 4 * width * g - 4;
    let bytes = block[start..].first_chunk().expect("a guard follows");
    if g > 0 {
        return bytes;
    }
    *wrapped = *bytes;
    wrapped[..4].copy_from_slice(&block[start + 32 * width..][..4]);
    wrapped
}

/// Half a group: eight 32-bit lanes with two neighbouring windows each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pairs(cutter: &Cutter, window: &[u8; WINDOW], half: usize) -> __m256i {
    // Offsets are at most 24; the mask tells the compiler that no load leaves the window.
    let low = load_bytes(window, cutter.offset[2 * half] & 31);
    let high = load_bytes(window, cutter.offset[2 * half + 1] & 31);
    _mm256_shuffle_epi8(_mm256_set_m128i(high, low), cutter.shuffle[half])
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pack_f32(x: &[f32; HADAMARD], suh: &[f32], out: BlockMut<'_, f32>) {
    pack_exact(x, suh, out);
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pack_i16(x: &[f32; HADAMARD], suh: &[f32], out: BlockMut<'_, i16>) {
    pack_half(x, suh, out);
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unrotate(raw: &mut [f32; HADAMARD], svh: &[f32], bias: Option<&[f32]>) {
    unrotate_body(raw, svh, bias);
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn swiglu(gate: &mut [f32; HADAMARD], up: &[f32; HADAMARD]) {
    swiglu_body(gate, up);
}

mod half {
    use super::*;

    pub(super) use super::{pack_i16 as pack, swiglu, unrotate};

    /// 16 states as 16-bit lanes in stream order.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn states(cutter: &Cutter, window: &[u8; WINDOW], half: usize) -> __m256i {
        let pairs = pairs(cutter, window, half);
        let even = _mm256_srlv_epi32(pairs, cutter.right[half]);
        let odd = _mm256_sllv_epi32(pairs, cutter.left[half]);
        _mm256_blend_epi16::<0b1010_1010>(even, odd)
    }

    /// Their 16-bit weights.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn weights<C: CodebookMath>(states: __m256i) -> __m256i {
        let mut low = _mm256_mullo_epi16(states, _mm256_set1_epi16(Halves::<C>::LOW));
        let mut high = _mm256_add_epi16(
            _mm256_mulhi_epu16(states, _mm256_set1_epi16(Halves::<C>::LOW)),
            _mm256_mullo_epi16(states, _mm256_set1_epi16(Halves::<C>::HIGH)),
        );
        if C::BYTE_SUM {
            let ones = _mm256_set1_epi8(1);
            return _mm256_add_epi16(
                _mm256_maddubs_epi16(low, ones),
                _mm256_maddubs_epi16(high, ones),
            );
        }
        if C::ADDEND != 0 {
            let addend = _mm256_set1_epi16(Halves::<C>::ADD_LOW);
            low = _mm256_add_epi16(low, addend);
            // −1 where the addition did not carry: the sum is not below the addend.
            let no_carry =
                _mm256_cmpeq_epi16(_mm256_subs_epu16(addend, low), _mm256_setzero_si256());
            let addend = _mm256_set1_epi16(Halves::<C>::ADD_HIGH.wrapping_add(1));
            high = _mm256_add_epi16(_mm256_add_epi16(high, addend), no_carry);
        }
        let sum = _mm256_add_epi16(fixed(low), fixed(high));
        _mm256_srai_epi16::<2>(_mm256_add_epi16(sum, _mm256_set1_epi16(2)))
    }

    /// One half of the products as float16, in units of 2⁻¹³.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn fixed(half: __m256i) -> __m256i {
        let mantissa = _mm256_xor_si256(
            _mm256_and_si256(half, _mm256_set1_epi16(0x3FF)),
            _mm256_set1_epi16(MANTISSA_XOR),
        );
        let [a, b, c, d] = POWERS.map(u8::cast_signed);
        let powers = _mm256_broadcastsi128_si256(_mm_setr_epi8(
            a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ));
        // A high byte of 0x80 looks up zero.
        let index = _mm256_or_si256(
            _mm256_and_si256(_mm256_srli_epi16::<10>(half), _mm256_set1_epi16(3)),
            _mm256_set1_epi16(i16::MIN),
        );
        let magnitude = _mm256_mullo_epi16(mantissa, _mm256_shuffle_epi8(powers, index));
        _mm256_sign_epi16(magnitude, _mm256_or_si256(half, _mm256_set1_epi16(1)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn to_lanes(sums: [__m256i; 2]) -> [f32; 16] {
        let mut lanes = [0.0; 16];
        store_f32(&mut lanes, 0, _mm256_cvtepi32_ps(sums[0]));
        store_f32(&mut lanes, 8, _mm256_cvtepi32_ps(sums[1]));
        lanes
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn dot<const K: u8, const R: usize>(
        column: Column<'_>,
        rows: &[RowRef<'_, i16>; R],
    ) -> [Outputs; R] {
        with_codebook!(column.codebook, C => dot_with::<C, K, R>(column, rows))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn dot_with<C: CodebookMath, const K: u8, const R: usize>(
        column: Column<'_>,
        rows: &[RowRef<'_, i16>; R],
    ) -> [Outputs; R] {
        let cutter = cutter::<K>(column.bits);
        let sums = sum_groups(column.blocks(), rows, |block, g| {
            let bytes = column.block::<K>(block);
            let mut sums = [[_mm256_setzero_si256(); 2]; R];
            for tile in 0..BLOCK_TILES {
                let mut wrapped = [0; WINDOW];
                let window = window(bytes, tile, g, cutter.width, &mut wrapped);
                for half in 0..2 {
                    let weights = weights::<C>(states(&cutter, window, half));
                    for r in 0..R {
                        let at = block * BLOCK_LANES + tile * TILE_LANES + 16 * half;
                        let products = _mm256_madd_epi16(weights, load_i16(rows[r].lanes, at));
                        sums[r][half] = _mm256_add_epi32(sums[r][half], products);
                    }
                }
            }
            sums.map(|sums| to_lanes(sums))
        });
        finish_half(column.codebook, &sums, rows)
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn unpack(column: Column<'_>, panel: &mut [i16]) {
        with_codebook!(column.codebook, C => unpack_with::<C>(column, panel));
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn unpack_with<C: CodebookMath>(column: Column<'_>, panel: &mut [i16]) {
        let cutter = cutter::<0>(column.bits);
        for (group, lanes) in panel.chunks_exact_mut(TILE_LANES).enumerate() {
            let (tile, g) = (group / GROUPS, group % GROUPS);
            let mut wrapped = [0; WINDOW];
            let window = window(column.guarded, tile, g, cutter.width, &mut wrapped);
            for half in 0..2 {
                let weights = weights::<C>(states(&cutter, window, half));
                let out: &mut [i16; 16] = lanes[16 * half..].first_chunk_mut().expect("16 lanes");
                // SAFETY: `out` is 32 writable bytes.
                unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), weights) }
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn dot_panel<const R: usize>(
        panel: &[i16],
        codebook: Codebook,
        rows: &[RowRef<'_, i16>; R],
    ) -> [Outputs; R] {
        let sums = sum_groups(rows[0].scales.len(), rows, |block, g| {
            let mut sums = [[_mm256_setzero_si256(); 2]; R];
            for tile in 0..BLOCK_TILES {
                for half in 0..2 {
                    let group = (block * BLOCK_TILES + tile) * GROUPS + g;
                    let weights = load_i16(panel, group * TILE_LANES + 16 * half);
                    for r in 0..R {
                        let at = block * BLOCK_LANES + tile * TILE_LANES + 16 * half;
                        let products = _mm256_madd_epi16(weights, load_i16(rows[r].lanes, at));
                        sums[r][half] = _mm256_add_epi32(sums[r][half], products);
                    }
                }
            }
            sums.map(|sums| to_lanes(sums))
        });
        finish_half(codebook, &sums, rows)
    }
}

mod exact {
    use super::*;

    pub(super) use super::{pack_f32 as pack, swiglu, unrotate};

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

    /// The values of half a group: even stream positions, then odd ones.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn weights<C: CodebookMath>(
        cutter: &Cutter,
        window: &[u8; WINDOW],
        half: usize,
    ) -> [__m256; 2] {
        let pairs = pairs(cutter, window, half);
        let even = _mm256_srlv_epi32(pairs, cutter.right[half]);
        let even = _mm256_and_si256(even, _mm256_set1_epi32(0xFFFF));
        let odd = _mm256_srli_epi32::<16>(_mm256_sllv_epi32(pairs, cutter.left[half]));
        [values::<C>(even), values::<C>(odd)]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn to_lanes(sums: [__m256; 2]) -> [f32; 16] {
        let mut lanes = [0.0; 16];
        store_f32(&mut lanes, 0, sums[0]);
        store_f32(&mut lanes, 8, sums[1]);
        lanes
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn multiply(sum: __m256, weights: [__m256; 2], x: &[f32], at: usize) -> __m256 {
        let sum = _mm256_fmadd_ps(weights[0], load_f32(x, at), sum);
        _mm256_fmadd_ps(weights[1], load_f32(x, at + 16), sum)
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn dot<const K: u8, const R: usize>(
        column: Column<'_>,
        rows: &[RowRef<'_, f32>; R],
    ) -> [Outputs; R] {
        with_codebook!(column.codebook, C => dot_with::<C, K, R>(column, rows))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn dot_with<C: CodebookMath, const K: u8, const R: usize>(
        column: Column<'_>,
        rows: &[RowRef<'_, f32>; R],
    ) -> [Outputs; R] {
        let cutter = cutter::<K>(column.bits);
        let sums = sum_groups(column.blocks(), rows, |block, g| {
            let bytes = column.block::<K>(block);
            let mut sums = [[_mm256_setzero_ps(); 2]; R];
            for tile in 0..BLOCK_TILES {
                let mut wrapped = [0; WINDOW];
                let window = window(bytes, tile, g, cutter.width, &mut wrapped);
                for half in 0..2 {
                    let weights = weights::<C>(&cutter, window, half);
                    for r in 0..R {
                        let at = block * BLOCK_LANES + tile * TILE_LANES + 8 * half;
                        sums[r][half] = multiply(sums[r][half], weights, rows[r].lanes, at);
                    }
                }
            }
            sums.map(|sums| to_lanes(sums))
        });
        sums.map(|sums| reduce_lanes(&sums))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn unpack(column: Column<'_>, panel: &mut [f32]) {
        with_codebook!(column.codebook, C => unpack_with::<C>(column, panel));
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn unpack_with<C: CodebookMath>(column: Column<'_>, panel: &mut [f32]) {
        let cutter = cutter::<0>(column.bits);
        for (group, lanes) in panel.chunks_exact_mut(TILE_LANES).enumerate() {
            let (tile, g) = (group / GROUPS, group % GROUPS);
            let mut wrapped = [0; WINDOW];
            let window = window(column.guarded, tile, g, cutter.width, &mut wrapped);
            for half in 0..2 {
                let [even, odd] = weights::<C>(&cutter, window, half);
                store_f32(lanes, 8 * half, even);
                store_f32(lanes, 8 * half + 16, odd);
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn dot_panel<const R: usize>(
        panel: &[f32],
        _codebook: Codebook,
        rows: &[RowRef<'_, f32>; R],
    ) -> [Outputs; R] {
        let sums = sum_groups(rows[0].scales.len(), rows, |block, g| {
            let mut sums = [[_mm256_setzero_ps(); 2]; R];
            for tile in 0..BLOCK_TILES {
                for half in 0..2 {
                    let group = (block * BLOCK_TILES + tile) * GROUPS + g;
                    let start = group * TILE_LANES + 8 * half;
                    let weights = [load_f32(panel, start), load_f32(panel, start + 16)];
                    for r in 0..R {
                        let at = block * BLOCK_LANES + tile * TILE_LANES + 8 * half;
                        sums[r][half] = multiply(sums[r][half], weights, rows[r].lanes, at);
                    }
                }
            }
            sums.map(|sums| to_lanes(sums))
        });
        sums.map(|sums| reduce_lanes(&sums))
    }
}
