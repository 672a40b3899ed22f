//! AVX2 with FMA and F16C.
//!
//! A column's 16 states of a group come from two 16-byte loads: `vpshufb` puts the bytes of two
//! neighbouring windows, at most 31 bits, into a 32-bit lane, most significant first; one variable
//! shift brings the even window to the lane's low half and another the odd one to its high half.

mod exact;
mod integer;
mod stream;

use std::marker::PhantomData;

use super::super::impl_micro;
use crate::isa::Avx2;

/// Classes `half` and `int8` on AVX2.
#[derive(Clone, Copy)]
pub(crate) struct Avx2Integer<A>(pub(crate) Avx2, pub(crate) PhantomData<A>);

/// Class `exact` on AVX2.
#[derive(Clone, Copy)]
pub(crate) struct Avx2Exact(pub(crate) Avx2);

impl_micro!(<A> Avx2Integer, i16, integer);
impl_micro!(Avx2Exact, f32, exact);
