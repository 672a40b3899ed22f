//! Intel's matrix unit (AMX) with 8-bit operands; decoding and all else on AVX-512.
//!
//! Weights and activations are each cut into two 8-bit digits. Class `half` computes three of their
//! four products; what is left out, low digit times low digit, is some 2e-4 of the whole. That is more
//! exact than bfloat16 operands (8 significant bits for activations, two terms for a 10-bit weight) in
//! three multiplications of 64 rows where those need four of 32. [`HighDigit`] leaves out the low digit
//! of the weights, which saves a third of the products and some of the decoding; unlike 8-bit
//! activations it needs no scale for every few rows.
//!
//! Tokens are rows of the first operand, read where they lie; a decoded block of a column is the
//! second, four rows of `k` to a 32-bit lane and 16 channels to a line.

mod digits;
mod product;
mod stream;
mod tiles;

use std::marker::PhantomData;

use trellect_core::{HADAMARD, NumericClass};

pub(crate) use self::digits::{BothDigits, HighDigit, WeightDigits};
use super::super::{Column, Micro, RowMut, RowsRef};
use super::avx512::rotate;
use crate::buffer::Arena;
use crate::isa::Amx;

/// Classes `half` and `int8` on AMX.
#[derive(Clone, Copy)]
pub(crate) struct AmxInteger<W>(pub(crate) Amx, pub(crate) PhantomData<W>);

/// The 8-bit digits of an activation or a weight. A row's lanes are all its high digits, then all its
/// low ones.
const DIGITS: usize = 2;

/// Most rows of a product: their sums stay in registers.
const MOST_ROWS: usize = 48;

impl<W: WeightDigits> Micro for AmxInteger<W> {
    type Lane = i8;
    const CLASS: NumericClass = W::CLASS;
    const LANES: usize = DIGITS;
    /// A whole row: sums of digits' products are small.
    const SEGMENT_TILES: usize = usize::MAX;
    const MOST_ROWS: usize = MOST_ROWS;

    fn rotate(self, x: &mut [f32; HADAMARD], suh: &[f32]) {
        // SAFETY: `self` holds a token that only detection of these features makes.
        unsafe { rotate::rotate(x, suh) }
    }

    fn quantise(self, rotated: &[f32], out: RowMut<'_, i8>) {
        // SAFETY: as in `rotate`.
        unsafe { digits::quantise(rotated, out) }
    }

    fn unrotate(self, raw: &mut [f32; HADAMARD], svh: &[f32], bias: Option<&[f32]>) {
        // SAFETY: as in `rotate`.
        unsafe { rotate::unrotate(raw, svh, bias) }
    }

    fn swiglu(self, gate: &mut [f32; HADAMARD], up: &[f32; HADAMARD]) {
        // SAFETY: as in `rotate`.
        unsafe { rotate::swiglu(gate, up) }
    }

    fn scratch_bytes(_: usize) -> usize {
        product::scratch_bytes()
    }

    /// Reads the width from the column whatever `K` is: large batches know of no other way.
    fn product<const K: u8>(
        self,
        column: Column<'_>,
        rows: RowsRef<'_, i8>,
        scratch: Arena<'_>,
        out: &mut [f32],
    ) {
        // SAFETY: as in `rotate`.
        unsafe { product::product::<W>(self.0, column, rows, scratch, out) }
    }
}
