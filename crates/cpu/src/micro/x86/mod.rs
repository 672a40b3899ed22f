//! Micro-kernels for x86-64: one file per instruction set.

mod avx2;
mod avx512;

pub(crate) use avx2::{Avx2Exact, Avx2Half};
pub(crate) use avx512::{Avx512Exact, Avx512Half};

use super::codebook::CodebookMath;

/// A codebook's 32-bit multiplier and addend as 16-bit halves, for kernels that multiply in 16-bit
/// lanes: the low half of the product is `s·low`, the high half `mulhi(s, low) + s·high`.
struct Halves<C>(std::marker::PhantomData<C>);

impl<C: CodebookMath> Halves<C> {
    const LOW: i16 = C::MULTIPLIER as i16;
    const HIGH: i16 = (C::MULTIPLIER >> 16) as i16;
    const ADD_LOW: i16 = C::ADDEND as i16;
    const ADD_HIGH: i16 = (C::ADDEND >> 16) as i16;
}

/// Exponent of a float16 half in units of 2⁻¹³ is its two low exponent bits xor 2; this is the
/// power of two that the mantissa is multiplied by, per value of those bits.
const POWERS: [u8; 4] = [4, 8, 1, 2];

/// The mantissa bits of [`HALF_XOR`](super::codebook::HALF_XOR) with the implicit one.
const MANTISSA_XOR: i16 = (super::codebook::HALF_XOR & 0x3FF | 0x400) as i16;

/// Implements [`Micro`](super::Micro) for `$name`, whose field proves the features of the functions
/// in `$room`: every method hands over to the function of its name.
macro_rules! impl_micro {
    ($name:ident, $lane:ty, $class:expr, $room:ident) => {
        impl Micro for $name {
            type Lane = $lane;
            const CLASS: NumericClass = $class;

            fn pack(self, x: &[f32; HADAMARD], suh: &[f32], out: BlockMut<'_, $lane>) {
                // SAFETY: `self` holds a token that only detection of these features makes.
                unsafe { $room::pack(x, suh, out) }
            }

            fn unrotate(self, raw: &mut [f32; HADAMARD], svh: &[f32], bias: Option<&[f32]>) {
                // SAFETY: as in `pack`.
                unsafe { $room::unrotate(raw, svh, bias) }
            }

            fn swiglu(self, gate: &mut [f32; HADAMARD], up: &[f32; HADAMARD]) {
                // SAFETY: as in `pack`.
                unsafe { $room::swiglu(gate, up) }
            }

            fn dot<const K: u8, const R: usize>(
                self,
                column: Column<'_>,
                rows: [RowRef<'_, $lane>; R],
            ) -> [Outputs; R] {
                // SAFETY: as in `pack`.
                unsafe { $room::dot::<K, R>(column, &rows) }
            }

            fn unpack(self, column: Column<'_>, panel: &mut [$lane]) {
                // SAFETY: as in `pack`.
                unsafe { $room::unpack(column, panel) }
            }

            fn dot_panel<const R: usize>(
                self,
                panel: &[$lane],
                codebook: Codebook,
                rows: [RowRef<'_, $lane>; R],
            ) -> [Outputs; R] {
                // SAFETY: as in `pack`.
                unsafe { $room::dot_panel(panel, codebook, &rows) }
            }
        }
    };
}
use impl_micro;
