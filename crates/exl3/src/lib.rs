//! EXL3 checkpoints: reading and writing them, making synthetic ones, and the slow, obvious
//! float64 [`oracle`] that every kernel is compared with. The format is in `docs/formats.md`.
//!
//! Not here: anything fast. A backend re-lays what this crate lends it. Start at [`Checkpoint`].

mod checkpoint;
mod codebook;
mod error;
mod hadamard;
pub mod oracle;
mod router;
pub mod synth;
mod tile;
mod writer;
