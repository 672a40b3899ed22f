//! Mixture-of-experts layers of EXL3 models, each call on the fastest kernel that is legal for it.
//!
//! Open a checkpoint, prepare a layer for a backend, and hand calls to a [`Dispatcher`]; it picks
//! the kernel, runs it, and reports what it picked and why. It starts from rules and learns from its
//! own timings; a [`Selector`] shares what is learned between layers and keeps it for later.
//!
//! ```
//! use std::sync::Arc;
//!
//! use trellect::core::{Codebook, Hidden, LayerShape, Routing};
//! use trellect::cpu::{CpuBackend, CpuOptions};
//! use trellect::exl3::synth::{OwnedLayer, SynthSpec};
//! use trellect::{Dispatcher, DispatcherOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A synthetic layer; `Checkpoint::open(path)?.layer(3)?` borrows a real one.
//! let shape = LayerShape::new(256, 128, 8)?;
//! let layer = OwnedLayer::new(&SynthSpec::mixed(shape, Codebook::Mul1, 1))?;
//!
//! let backend = Arc::new(CpuBackend::new(CpuOptions::from_env()?));
//! let mut dispatcher =
//!     Dispatcher::prepare(backend, &layer.view(), DispatcherOptions::default())?;
//!
//! let hidden = vec![0.5f32; 256];
//! let routing = Routing::new(8, 2, &[3, 5], &[0.7, 0.3])?;
//! let (output, report) = dispatcher.forward(Hidden::F32(&hidden), &routing)?;
//! assert_eq!(output.len(), 256);
//! println!("{report}");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod call;
mod canary;
mod dispatcher;
mod explained;
mod options;
mod pattern;
mod report;
mod selector;

pub use call::TupleRows;
pub use canary::WrongResult;
pub use dispatcher::{Dispatcher, DispatcherError, ForwardError, IdleReport, prepare};
pub use explained::{Explained, Learned};
pub use options::{DispatcherOptions, Policy};
pub use pattern::ActivationPattern;
pub use report::{Failure, Fallback, Report, Selection};
pub use selector::{
    Decisions, HistoryStatus, ReplayStatus, Selector, SelectorOptions, SelectorStats,
    is_exploration, metric_names,
};
#[cfg(feature = "cuda")]
pub use trellect_cuda as cuda;
pub use {
    trellect_core as core, trellect_cpu as cpu, trellect_exl3 as exl3, trellect_select as select,
    trellect_tune as tune,
};
