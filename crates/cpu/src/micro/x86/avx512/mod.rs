//! AVX-512 with BW, VBMI and VNNI.
//!
//! A group's 32 states come from one 64-byte load: `vpermb` puts the bytes of four neighbouring
//! windows, at most 47 bits, into a 64-bit lane, most significant first, and `vpmultishiftqb` cuts
//! the four 16-bit windows out of it.

mod exact;
pub(super) mod integer;
pub(super) mod rotate;
pub(super) mod stream;

use std::marker::PhantomData;

use super::super::impl_micro;
use crate::isa::Avx512;

/// Classes `half` and `int8` on AVX-512.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Integer<A>(pub(crate) Avx512, pub(crate) PhantomData<A>);

/// Class `exact` on AVX-512.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Exact(pub(crate) Avx512);

impl_micro!(<A> Avx512Integer, i16, integer);
impl_micro!(Avx512Exact, f32, exact);
