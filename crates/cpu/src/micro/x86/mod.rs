//! Micro-kernels for x86-64: one folder per instruction set.

mod amx;
mod avx2;
mod avx512;
pub(crate) mod peak;

pub(crate) use amx::{AmxInteger, BothDigits, HighDigit};
pub(crate) use avx2::{Avx2Exact, Avx2Integer};
pub(crate) use avx512::{Avx512Exact, Avx512Integer};

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use super::Column;
use super::codebook::{CodebookMath, POWER_UNIT};

/// Asks for bytes that will be read soon.
pub(crate) fn prefetch(bytes: &[u8]) {
    prefetch_lines(bytes.as_ptr(), bytes.len());
}

/// Asks for what a decoder at tile `tile` of `tile_bytes` will read after a few cache misses' time,
/// a tile's worth, be it in this column or after it.
#[inline(always)]
fn prefetch_ahead(column: &Column<'_>, tile: usize, tile_bytes: usize) {
    const AHEAD_BYTES: usize = 2048;
    let ahead = column.guarded.as_ptr().wrapping_add(tile * tile_bytes + AHEAD_BYTES);
    prefetch_lines(ahead, tile_bytes);
}

#[inline(always)]
fn prefetch_lines(start: *const u8, bytes: usize) {
    for at in (0..bytes).step_by(64) {
        // SAFETY: a hint, which reads nothing; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(at).cast()) }
    }
}

/// A codebook's 32-bit multiplier and addend as 16-bit halves, for kernels that multiply in 16-bit
/// lanes: the low half of the product is `s·low`, the high half `mulhi(s, low) + s·high`.
struct Halves<C>(std::marker::PhantomData<C>);

impl<C: CodebookMath> Halves<C> {
    const LOW: i16 = C::MULTIPLIER as i16;
    const HIGH: i16 = (C::MULTIPLIER >> 16) as i16;
    const ADD_LOW: i16 = C::ADDEND as i16;
    const ADD_HIGH: i16 = (C::ADDEND >> 16) as i16;
}

/// The high byte of what a mantissa is multiplied by, per value of a product half's six high bits:
/// the sign and, two bits of the exponent's xor 2, the power of two; the bits between do not count.
const POWERS: [i8; 64] = {
    let mut powers = [0; 64];
    let mut bits = 0;
    while bits < 64 {
        let power = 1 << ((bits & 3) ^ 2);
        let unit = (POWER_UNIT >> 8) as i8;
        powers[bits] = if bits & 32 == 0 { unit * power } else { -unit * power };
        bits += 1;
    }
    powers
};

/// The mantissa bits of [`HALF_XOR`](super::codebook::HALF_XOR) with the implicit one.
const MANTISSA_XOR: i16 = (super::codebook::HALF_XOR & 0x3FF | 0x400) as i16;
