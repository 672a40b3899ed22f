//! What Trellect measures and keeps, so that a choice of kernel rests on evidence.
//!
//! - [`history`]: latencies of every kernel and context, kept between processes in SQLite;
//! - [`decisions`]: what a selector decided, call by call, to be replayed;
//! - [`fingerprint`]: what was measured where, and how far to trust it elsewhere;
//! - [`calibrate`]: a linear cost model of every kernel, fitted to a few launches;
//! - [`bandwidth`]: what memory delivers, the ceiling of every kernel;
//! - [`mod@bench`]: every kernel timed on cold weights, cell by cell, beside the machine's limits;
//! - [`matrix`]: every kernel timed in every context, for judging policies offline;
//! - [`evaluate`]: simulated worlds, baseline policies and their regret;
//! - [`statistics`]: medians, quantiles and intervals of measured times.
//!
//! Nothing here chooses a kernel. Start at [`history::History`] or [`matrix::Matrix`].
#![forbid(unsafe_code)]

pub mod bandwidth;
pub mod bench;
pub mod calibrate;
pub mod decisions;
pub mod evaluate;
pub mod fingerprint;
pub mod history;
mod launch;
mod lines;
pub mod matrix;
mod nnls;
mod rounds;
pub mod statistics;
mod text;
pub mod work;

pub use lines::LineFault;
