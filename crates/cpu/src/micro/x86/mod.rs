//! Micro-kernels for x86-64: one folder per instruction set.

mod amx;
mod avx2;
mod avx512;
pub(crate) mod peak;

pub(crate) use amx::AmxHalf;
pub(crate) use avx2::{Avx2Exact, Avx2Integer};
pub(crate) use avx512::{Avx512Exact, Avx512Integer};

use super::codebook::{CodebookMath, POWER_UNIT};

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

/// Implements [`Micro`](super::Micro) for `$name`, whose first field proves the features of the
/// functions in `$room`: every method hands over to the function of its name.
macro_rules! impl_micro {
    ($(<$a:ident>)? $name:ident, $lane:ty, $room:ident) => {
        impl$(<$a: $crate::micro::generic::Activations>)? $crate::micro::Micro for $name$(<$a>)? {
            type Lane = $lane;
            const CLASS: trellect_core::NumericClass = $room::class$(::<$a>)?();
            const LANES: usize = 1;
            const SEGMENT_TILES: usize = $room::segment_tiles$(::<$a>)?();

            fn rotate(self, x: &mut [f32; trellect_core::HADAMARD], suh: &[f32]) {
                // SAFETY: `self` holds a token that only detection of these features makes.
                unsafe { $room::rotate(x, suh) }
            }

            fn quantise(self, rotated: &[f32], out: $crate::micro::RowMut<'_, $lane>) {
                // SAFETY: as in `rotate`.
                unsafe { $room::quantise$(::<$a>)?(rotated, out) }
            }

            fn unrotate(
                self,
                raw: &mut [f32; trellect_core::HADAMARD],
                svh: &[f32],
                bias: Option<&[f32]>,
            ) {
                // SAFETY: as in `rotate`.
                unsafe { $room::unrotate(raw, svh, bias) }
            }

            fn swiglu(
                self,
                gate: &mut [f32; trellect_core::HADAMARD],
                up: &[f32; trellect_core::HADAMARD],
            ) {
                // SAFETY: as in `rotate`.
                unsafe { $room::swiglu(gate, up) }
            }

            fn scratch_bytes(rows: usize, _k_tiles: usize) -> usize {
                $room::scratch_bytes$(::<$a>)?(rows)
            }

            fn product<const K: u8>(
                self,
                column: $crate::micro::Column<'_>,
                rows: $crate::micro::RowsRef<'_, $lane>,
                scratch: $crate::buffer::Arena<'_>,
                out: &mut [f32],
            ) {
                // SAFETY: as in `rotate`.
                unsafe { $room::product::<$($a,)? K>(column, rows, scratch, out) }
            }
        }
    };
}
use impl_micro;
