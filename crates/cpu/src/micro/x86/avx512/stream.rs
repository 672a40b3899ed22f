//! From a column's bytes to states, and the loads and small steps that every class shares.

use std::arch::asm;
use std::arch::x86_64::*;

use super::super::super::codebook::CodebookMath;
use super::super::super::{Column, GROUPS, GUARD, width};
use super::super::{Halves, prefetch_ahead};

/// How one width's windows are cut out of a group.
struct Cut {
    /// Bytes of every 64-bit lane, from the word before the group.
    gather: [u8; 64],
    /// Where the lane's eight result bytes start, in bits.
    shift: [u8; 64],
}

static CUTS: [Cut; 9] = {
    let mut cuts = [const { Cut { gather: [0; 64], shift: [0; 64] } }; 9];
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
        // Column `g` first, then column `g + 8`.
        let first = 4 * (2 * (lane % 4) + lane / 4);
        // Bits are counted from the word before the group.
        let byte = (32 + (first + 1) * k - 16) / 8;
        let mut i = 0;
        while i < 8 {
            // Words are little-endian, their bits run from the most significant one.
            cut.gather[8 * lane + i] = ((byte + 7 - i) ^ 3) as u8;
            i += 1;
        }
        let mut window = 0;
        while window < 4 {
            let start = 32 + (first + window + 1) * k - 16 - 8 * byte;
            cut.shift[8 * lane + 2 * window] = (48 - start) as u8;
            cut.shift[8 * lane + 2 * window + 1] = (56 - start) as u8;
            window += 1;
        }
        lane += 1;
    }
    cut
}

/// A column whose length has been checked, with its width's tables in registers.
pub(super) struct Stream<'a> {
    column: Column<'a>,
    tile_bytes: usize,
    gather: __m512i,
    shift: __m512i,
}

/// One tile of a stream.
#[derive(Clone, Copy)]
pub(super) struct Tile<'s> {
    /// Where the tile starts: [`GUARD`] bytes before it and as many after it may be read.
    start: *const u8,
    stream: &'s Stream<'s>,
}

impl<'a> Stream<'a> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    pub(super) fn new<const K: u8>(column: Column<'a>) -> Self {
        let tile_bytes = column.tile_bytes::<K>();
        assert_eq!(column.guarded.len(), column.k_tiles * tile_bytes + 2 * GUARD, "a whole column");
        let cut = &CUTS[width::<K>(column.bits)];
        Self { column, tile_bytes, gather: load_bytes(&cut.gather), shift: load_bytes(&cut.shift) }
    }

    pub(super) fn column(&self) -> &Column<'a> {
        &self.column
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    pub(super) fn tile<const K: u8>(&self, tile: usize) -> Tile<'_> {
        assert!(tile < self.column.k_tiles, "a tile of the column");
        let bytes = if K == 0 { self.tile_bytes } else { 32 * K as usize };
        // SAFETY: the tile lies within the column: asserted here and in `new`.
        let start = unsafe { self.column.guarded.as_ptr().add(GUARD + tile * bytes) };
        Tile { start, stream: self }
    }

    /// Asks for the bytes that come some time after tile `tile`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    pub(super) fn prefetch<const K: u8>(&self, tile: usize) {
        let bytes = if K == 0 { self.tile_bytes } else { 32 * K as usize };
        prefetch_ahead(&self.column, tile, bytes);
    }
}

impl Tile<'_> {
    /// The states of group `g` as 16-bit lanes: column `g`, then column `g + 8`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    pub(super) fn states<const K: u8>(&self, g: usize) -> __m512i {
        assert!(g < GROUPS, "a group of the tile");
        let k = if K == 0 { self.stream.tile_bytes / 32 } else { K as usize };
        // SAFETY: the word before the tile is readable.
        let before = unsafe { self.start.sub(4) };
        // SAFETY: the word before a group of the tile.
        let start = unsafe { before.add(4 * k * g) };
        // SAFETY: 64 bytes from the word before a group of the tile end within the guard after it.
        let mut bytes = unsafe { _mm512_loadu_si512(start.cast()) };
        if g == 0 {
            // The word before a tile's first group is the tile's last.
            // SAFETY: the last word of the tile.
            let last = unsafe { start.add(32 * k) };
            // SAFETY: the mask leaves four bytes of the tile.
            bytes = unsafe { _mm512_mask_loadu_epi32(bytes, 1, last.cast()) };
        }
        let gathered = _mm512_permutexvar_epi8(self.stream.gather, bytes);
        _mm512_multishift_epi64_epi8(self.stream.shift, gathered)
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(in crate::micro::x86) fn load_bytes<B>(bytes: &[B; 64]) -> __m512i {
    const { assert!(size_of::<B>() == 1) };
    // SAFETY: 64 readable bytes.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// The low and high 16 bits of the codebook's product for every state.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(in crate::micro::x86) fn products<C: CodebookMath>(states: __m512i) -> [__m512i; 2] {
    let mut low = _mm512_mullo_epi16(states, _mm512_set1_epi16(Halves::<C>::LOW));
    let mut high = _mm512_add_epi16(
        _mm512_mulhi_epu16(states, _mm512_set1_epi16(Halves::<C>::LOW)),
        _mm512_mullo_epi16(states, _mm512_set1_epi16(Halves::<C>::HIGH)),
    );
    if C::ADDEND != 0 {
        let addend = _mm512_set1_epi16(Halves::<C>::ADD_LOW);
        low = _mm512_add_epi16(low, addend);
        let carry = _mm512_cmplt_epu16_mask(low, addend);
        high = _mm512_add_epi16(high, _mm512_set1_epi16(Halves::<C>::ADD_HIGH));
        high = _mm512_mask_add_epi16(high, carry, high, _mm512_set1_epi16(1));
    }
    [low, high]
}

/// A tile's 16-bit activations, once for each of a group's columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn broadcast_i16(lanes: &[i16; 16]) -> __m512i {
    // SAFETY: 32 readable bytes.
    let tile = unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) };
    _mm512_broadcast_i64x4(tile)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn load_i16(lanes: &[i16; 32]) -> __m512i {
    // SAFETY: 64 readable bytes.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn store_i16(lanes: &mut [i16; 32], value: __m512i) {
    // SAFETY: 64 writable bytes.
    unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), value) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn load_f32(lanes: &[f32; 16]) -> __m512 {
    // SAFETY: 64 readable bytes.
    unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn store_f32(lanes: &mut [f32; 16], value: __m512) {
    // SAFETY: 64 writable bytes.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), value) }
}

/// `vpdpwssd`: adds the products of two neighbouring 16-bit lanes to a 32-bit lane. The compiler
/// makes two instructions of the intrinsic of that name.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn dot_i16(mut sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: one instruction on registers, of a feature that the caller has.
    unsafe {
        asm!(
            "vpdpwssd {sum}, {a}, {b}",
            sum = inout(zmm_reg) sum, a = in(zmm_reg) a, b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}
