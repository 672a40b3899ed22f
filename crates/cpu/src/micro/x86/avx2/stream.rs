//! From a column's bytes to pairs of states, and the loads that every class shares.

use std::arch::x86_64::*;

use super::super::super::cut::{CUTS, Cut};
use super::super::super::{Column, GROUPS, GUARD, width};

/// A column whose length has been checked, with its width's tables.
pub(super) struct Stream<'a> {
    column: Column<'a>,
    tile_bytes: usize,
    offset: [[usize; 2]; 2],
    shuffle: [__m256i; 2],
    /// Shifts that bring the even windows to the low half of their lanes.
    pub(super) right: [__m256i; 2],
    /// Shifts that bring the odd windows to the high half of their lanes.
    pub(super) left: [__m256i; 2],
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
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn new<const K: u8>(column: Column<'a>) -> Self {
        let tile_bytes = column.tile_bytes::<K>();
        assert_eq!(column.guarded.len(), column.k_tiles * tile_bytes + 2 * GUARD, "a whole column");
        let Cut { offset, shuffle, right, left } = &CUTS[width::<K>(column.bits)];
        let tables = [0, 1].map(|c| {
            let shuffle = _mm256_set_m128i(load_bytes(&shuffle[c][1]), load_bytes(&shuffle[c][0]));
            (shuffle, load_shifts(&right[c]), load_shifts(&left[c]))
        });
        Self {
            column,
            tile_bytes,
            offset: *offset,
            shuffle: tables.map(|(shuffle, _, _)| shuffle),
            right: tables.map(|(_, right, _)| right),
            left: tables.map(|(_, _, left)| left),
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn tile<const K: u8>(&self, tile: usize) -> Tile<'_> {
        assert!(tile < self.column.k_tiles, "a tile of the column");
        let bytes = if K == 0 { self.tile_bytes } else { 32 * K as usize };
        // SAFETY: the tile lies within the column: asserted here and in `new`.
        let start = unsafe { self.column.guarded.as_ptr().add(GUARD + tile * bytes) };
        Tile { start, stream: self }
    }
}

impl Tile<'_> {
    /// Group `g`'s states of column `g` (`column` 0) or `g + 8` (1), two neighbouring windows in
    /// every 32-bit lane.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn pairs<const K: u8>(&self, g: usize, column: usize) -> __m256i {
        let low = self.bytes::<K>(g, self.stream.offset[column][0]);
        let high = self.bytes::<K>(g, self.stream.offset[column][1]);
        _mm256_shuffle_epi8(_mm256_set_m128i(high, low), self.stream.shuffle[column])
    }

    /// 16 bytes from `offset` bytes after the start of the word before group `g`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn bytes<const K: u8>(&self, g: usize, offset: usize) -> __m128i {
        assert!(g < GROUPS && offset < 32, "bytes of a group of the tile");
        let k = if K == 0 { self.stream.tile_bytes / 32 } else { K as usize };
        // SAFETY: the word before the tile is readable.
        let before = unsafe { self.start.sub(4) };
        // SAFETY: at most 28 bytes after the word before a group of the tile.
        let start = unsafe { before.add(4 * k * g + offset) };
        // SAFETY: 16 bytes that end within the guard after the tile.
        let bytes = unsafe { _mm_loadu_si128(start.cast()) };
        if g > 0 || offset > 0 {
            return bytes;
        }
        // The word before a tile's first group is the tile's last.
        // SAFETY: the last word of the tile.
        let last = unsafe { start.add(32 * k) };
        // SAFETY: four bytes of the tile.
        let last = unsafe { last.cast::<i32>().read_unaligned() };
        _mm_insert_epi32::<0>(bytes, last)
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_bytes(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: 16 readable bytes.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_shifts(shifts: &[[u32; 4]; 2]) -> __m256i {
    let [[a, b, c, d], [e, f, g, h]] = shifts.map(|half| half.map(u32::cast_signed));
    _mm256_setr_epi32(a, b, c, d, e, f, g, h)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_i16(lanes: &[i16; 16]) -> __m256i {
    // SAFETY: 32 readable bytes.
    unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store_i16(lanes: &mut [i16; 16], value: __m256i) {
    // SAFETY: 32 writable bytes.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), value) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_f32(lanes: &[f32; 8]) -> __m256 {
    // SAFETY: 32 readable bytes.
    unsafe { _mm256_loadu_ps(lanes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store_f32(lanes: &mut [f32; 8], value: __m256) {
    // SAFETY: 32 writable bytes.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), value) }
}
