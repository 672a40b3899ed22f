//! EXL3 checkpoints: reading and writing them, making synthetic ones, and the slow, obvious
//! float64 [`oracle`] that every kernel is compared with. The format is in `docs/formats.md`.
//!
//! Not here: anything fast. A backend re-lays what this crate lends it. Start at [`Checkpoint`].

mod checkpoint;
pub mod codebook;
mod error;
pub mod hadamard;
pub mod oracle;
mod router;
pub mod synth;
pub mod tile;
mod writer;

pub use checkpoint::{
    Checkpoint, ExpertNaming, LayerInfo, ModelConfig, MoeLayer, QuantizationConfig,
};
pub use error::{LoadError, WriteError};
pub use router::{FloatBytes, GroupLimit, RouterConfig, RouterError, RouterView, Scoring};
pub use writer::{LayerToWrite, WriterConfig, write_checkpoint};
