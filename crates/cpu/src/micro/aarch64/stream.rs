//! From a column's bytes to products of states, and the loads that every class shares.

use std::arch::aarch64::*;
use std::arch::asm;

use super::super::codebook::{CodebookMath, HALF_MASK, HALF_XOR};
use super::super::cut::{CUTS, Cut};
use super::super::{Column, GROUPS, GUARD, width};

/// A column whose length has been checked, with its width's tables.
pub(super) struct Stream<'a> {
    column: Column<'a>,
    tile_bytes: usize,
    offset: [[usize; 2]; 2],
    shuffle: [[uint8x16_t; 2]; 2],
    /// Shifts that bring the even windows to the low half of their lanes.
    even: [int32x4_t; 2],
    /// Shifts that bring the odd windows to the high half of their lanes.
    odd: [int32x4_t; 2],
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
    #[target_feature(enable = "neon,fp16")]
    pub(super) fn new<const K: u8>(column: Column<'a>) -> Self {
        let tile_bytes = column.tile_bytes::<K>();
        assert_eq!(column.guarded.len(), column.k_tiles * tile_bytes + 2 * GUARD, "a whole column");
        let Cut { offset, shuffle, right, left } = &CUTS[width::<K>(column.bits)];
        Self {
            column,
            tile_bytes,
            offset: *offset,
            shuffle: [0, 1].map(|c| [0, 1].map(|half| load_bytes(&shuffle[c][half]))),
            // A shift to the left by less than nothing is one to the right.
            even: [0, 1].map(|c| vnegq_s32(load_shifts(&right[c][0]))),
            odd: [0, 1].map(|c| load_shifts(&left[c][0])),
        }
    }

    #[inline]
    #[target_feature(enable = "neon,fp16")]
    pub(super) fn tile<const K: u8>(&self, tile: usize) -> Tile<'_> {
        assert!(tile < self.column.k_tiles, "a tile of the column");
        let bytes = if K == 0 { self.tile_bytes } else { 32 * K as usize };
        // SAFETY: the tile lies within the column: asserted here and in `new`.
        let start = unsafe { self.column.guarded.as_ptr().add(GUARD + tile * bytes) };
        Tile { start, stream: self }
    }
}

impl Tile<'_> {
    /// Products of column `g`'s (`column` 0) or `g + 8`'s (1) states, of the first or the second half
    /// of group `g`: those of even lanes, then of odd ones.
    #[inline]
    #[target_feature(enable = "neon,fp16")]
    pub(super) fn products<C: CodebookMath, const K: u8>(
        &self,
        g: usize,
        column: usize,
        half: usize,
    ) -> [uint32x4_t; 2] {
        let stream = self.stream;
        let bytes = self.bytes::<K>(g, stream.offset[column][half]);
        let pairs = vreinterpretq_u32_u8(vqtbl1q_u8(bytes, stream.shuffle[column][half]));
        let even = vandq_u32(vshlq_u32(pairs, stream.even[column]), vdupq_n_u32(0xFFFF));
        let odd = vshrq_n_u32::<16>(vshlq_u32(pairs, stream.odd[column]));
        [product::<C>(even), product::<C>(odd)]
    }

    /// 16 bytes from `offset` bytes after the start of the word before group `g`.
    #[inline]
    #[target_feature(enable = "neon,fp16")]
    fn bytes<const K: u8>(&self, g: usize, offset: usize) -> uint8x16_t {
        assert!(g < GROUPS && offset < 32, "bytes of a group of the tile");
        let k = if K == 0 { self.stream.tile_bytes / 32 } else { K as usize };
        // SAFETY: the word before the tile is readable.
        let before = unsafe { self.start.sub(4) };
        // SAFETY: at most 28 bytes after the word before a group of the tile.
        let start = unsafe { before.add(4 * k * g + offset) };
        // SAFETY: 16 bytes that end within the guard after the tile.
        let bytes = unsafe { vld1q_u8(start) };
        if g > 0 || offset > 0 {
            return bytes;
        }
        // The word before a tile's first group is the tile's last.
        // SAFETY: the last word of the tile.
        let last = unsafe { start.add(32 * k) };
        // SAFETY: four bytes of the tile.
        let last = unsafe { last.cast::<u32>().read_unaligned() };
        vreinterpretq_u8_u32(vsetq_lane_u32::<0>(last, vreinterpretq_u32_u8(bytes)))
    }
}

#[inline]
#[target_feature(enable = "neon,fp16")]
fn product<C: CodebookMath>(states: uint32x4_t) -> uint32x4_t {
    let product = vmulq_u32(states, vdupq_n_u32(C::MULTIPLIER));
    match C::ADDEND {
        0 => product,
        addend => vaddq_u32(product, vdupq_n_u32(addend)),
    }
}

/// The halves of four products as float16, pairs to be added.
#[inline]
#[target_feature(enable = "neon,fp16")]
fn halves(product: uint32x4_t) -> uint16x8_t {
    let kept = vandq_u16(vreinterpretq_u16_u32(product), vdupq_n_u16(HALF_MASK));
    veorq_u16(kept, vdupq_n_u16(HALF_XOR))
}

/// The byte sums of eight products.
#[inline]
#[target_feature(enable = "neon,fp16")]
pub(super) fn byte_sums(products: [uint32x4_t; 2]) -> uint16x8_t {
    let [a, b] = products.map(|product| vpaddlq_u8(vreinterpretq_u8_u32(product)));
    vpaddq_u16(a, b)
}

/// The float16 sums of the halves of eight products.
#[inline]
#[target_feature(enable = "neon,fp16")]
pub(super) fn half_sums(products: [uint32x4_t; 2]) -> float16x8_t {
    faddp(halves(products[0]), halves(products[1]))
}

/// `vpaddq_f16` as the one instruction that it is: the compiler would rather sort even and odd lanes
/// into two vectors and add those.
#[inline]
#[target_feature(enable = "neon,fp16")]
fn faddp(a: uint16x8_t, b: uint16x8_t) -> float16x8_t {
    let sums: uint16x8_t;
    // SAFETY: the instruction has no effect but on `sums`, and this function's features include it.
    unsafe {
        asm!(
            "faddp {sums:v}.8h, {a:v}.8h, {b:v}.8h",
            sums = lateout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    vreinterpretq_f16_u16(sums)
}

#[inline]
#[target_feature(enable = "neon,fp16")]
fn load_bytes(bytes: &[u8; 16]) -> uint8x16_t {
    // SAFETY: 16 readable bytes.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon,fp16")]
fn load_shifts(shifts: &[u32; 4]) -> int32x4_t {
    // SAFETY: 16 readable bytes.
    vreinterpretq_s32_u32(unsafe { vld1q_u32(shifts.as_ptr()) })
}

#[inline]
#[target_feature(enable = "neon,fp16")]
pub(super) fn load_i8(lanes: &[i8; 16]) -> int8x16_t {
    // SAFETY: 16 readable bytes.
    unsafe { vld1q_s8(lanes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon,fp16")]
pub(super) fn load_i16(lanes: &[i16; 8]) -> int16x8_t {
    // SAFETY: 16 readable bytes.
    unsafe { vld1q_s16(lanes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon,fp16")]
pub(super) fn store_i16(lanes: &mut [i16; 8], value: int16x8_t) {
    // SAFETY: 16 writable bytes.
    unsafe { vst1q_s16(lanes.as_mut_ptr(), value) }
}

#[inline]
#[target_feature(enable = "neon,fp16")]
pub(super) fn load_f32(lanes: &[f32; 4]) -> float32x4_t {
    // SAFETY: 16 readable bytes.
    unsafe { vld1q_f32(lanes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon,fp16")]
pub(super) fn store_f32(lanes: &mut [f32; 4], value: float32x4_t) {
    // SAFETY: 16 writable bytes.
    unsafe { vst1q_f32(lanes.as_mut_ptr(), value) }
}
