//! The CPU backend from outside.

mod catalogue;
mod common;
mod kernels;
