//! Micro-kernels for AArch64: NEON with float16 arithmetic, and for class `int8` 8-bit matrix products
//! where there are some.
//!
//! Eight of a column's states of a group come from one 16-byte load: `tbl` puts the bytes of two
//! neighbouring windows, at most 31 bits, into a 32-bit lane, most significant first, and one
//! variable shift brings each window to an end of its lane. So a vector holds even lanes or odd
//! ones, and activations are kept in that order.

mod exact;
mod int8;
mod integer;
mod stream;

use std::marker::PhantomData;

use super::impl_micro;
use crate::isa::{Neon, NeonI8mm};

/// Classes `half` and `int8` on NEON.
#[derive(Clone, Copy)]
pub(crate) struct NeonInteger<A>(pub(crate) Neon, pub(crate) PhantomData<A>);

/// Class `exact` on NEON.
#[derive(Clone, Copy)]
pub(crate) struct NeonExact(pub(crate) Neon);

/// Class `int8` on NEON with 8-bit matrix products.
#[derive(Clone, Copy)]
pub(crate) struct NeonI8mmInt8(pub(crate) NeonI8mm);

impl_micro!(<A> NeonInteger, i16, integer);
impl_micro!(NeonExact, f32, exact);
impl_micro!(NeonI8mmInt8, i8, int8);
