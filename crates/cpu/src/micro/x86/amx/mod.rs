//! Intel's matrix unit (AMX) with 8-bit operands, class `half`; decoding and all else on AVX-512.
//!
//! Weights and activations are each cut into two 8-bit digits, of which three of the four products
//! count: what is left out, low digit times low digit, is below 4e-4 of the whole. That is more exact
//! than bfloat16 operands (8 significant bits for activations, two terms for a 10-bit weight) in
//! three multiplications of 64 rows where those need four of 32.
//!
//! Tokens are rows of the first operand, read where they lie; a decoded segment of a column is the
//! second, four rows of `k` to a 32-bit lane and 16 channels to a line.

mod digits;
mod product;
mod tiles;

use trellect_core::{HADAMARD, NumericClass};

use super::super::{Column, Micro, RowMut, RowsRef};
use super::avx512::exact;
use crate::buffer::Arena;
use crate::isa::Amx;

/// Class `half` on AMX.
#[derive(Clone, Copy)]
pub(crate) struct AmxHalf(pub(crate) Amx);

/// The 8-bit digits of an activation: the high one, and the low one of 7 bits. A row's lanes are all
/// its high digits, then all its low ones.
const DIGITS: usize = 2;

impl Micro for AmxHalf {
    type Lane = i8;
    const CLASS: NumericClass = NumericClass::Half;
    const LANES: usize = DIGITS;
    /// A whole row: sums of digits' products are small.
    const SEGMENT_TILES: usize = usize::MAX;

    fn rotate(self, x: &mut [f32; HADAMARD], suh: &[f32]) {
        // SAFETY: `self` holds a token that only detection of these features makes.
        unsafe { exact::rotate(x, suh) }
    }

    fn quantise(self, rotated: &[f32], out: RowMut<'_, i8>) {
        // SAFETY: as in `rotate`.
        unsafe { digits::quantise(rotated, out) }
    }

    fn unrotate(self, raw: &mut [f32; HADAMARD], svh: &[f32], bias: Option<&[f32]>) {
        // SAFETY: as in `rotate`.
        unsafe { exact::unrotate(raw, svh, bias) }
    }

    fn swiglu(self, gate: &mut [f32; HADAMARD], up: &[f32; HADAMARD]) {
        // SAFETY: as in `rotate`.
        unsafe { exact::swiglu(gate, up) }
    }

    fn scratch_bytes(rows: usize) -> usize {
        product::scratch_bytes(rows)
    }

    fn product<const K: u8>(
        self,
        column: Column<'_>,
        rows: RowsRef<'_, i8>,
        scratch: Arena<'_>,
        out: &mut [f32],
    ) {
        // SAFETY: as in `rotate`.
        unsafe { product::product::<K>(self.0, column, rows, scratch, out) }
    }
}
