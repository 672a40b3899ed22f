//! MoE kernels on the host's processor: the backend that runs everywhere.
//!
//! A call goes [`CpuBackend`] → `queue` (checks, workspace, timing) → `driver` (experts, rows and
//! columns over threads) → `micro` (the arithmetic of 16 output channels, per instruction set).
//! `prepared` is the one weight layout that all of them read; `catalogue` lists the kernels.

mod backend;
mod buffer;
mod catalogue;
mod disjoint;
mod driver;
mod isa;
mod micro;
mod peak;
mod prepared;
mod queue;
mod rows;
mod team;

pub use backend::{CpuBackend, CpuOptions, memory};
pub use isa::{Isa, MAX_ISA_VARIABLE, UnknownIsa};
pub use peak::Peak;
