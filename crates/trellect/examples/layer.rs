//! Opens a checkpoint, prepares one layer and runs a few calls on it.
//!
//! `cargo run --release -p trellect --example layer -- [CHECKPOINT [LAYER]]`; without arguments a
//! small synthetic checkpoint is written to a temporary directory first.

use std::path::PathBuf;
use std::sync::Arc;

use trellect::core::{Codebook, Hidden, LayerShape};
use trellect::cpu::{CpuBackend, CpuOptions};
use trellect::exl3::synth::{self, OwnedLayer, SynthSpec};
use trellect::exl3::{Checkpoint, ExpertNaming, LayerToWrite, WriterConfig, write_checkpoint};
use trellect::{Dispatcher, DispatcherOptions};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = tempfile::tempdir()?;
    let path = match arguments.next() {
        Some(path) => PathBuf::from(path),
        None => {
            write_synthetic(directory.path())?;
            directory.path().to_owned()
        }
    };
    let checkpoint = Checkpoint::open(&path)?;
    let first = checkpoint.layers().first().map_or(0, |layer| layer.number());
    let number = arguments.next().map_or(Ok(first), |number| number.parse())?;

    let backend = Arc::new(CpuBackend::new(CpuOptions::from_env()?));
    let layer = trellect::prepare(backend.as_ref(), &checkpoint.layer(number)?, |_expert| {})?;
    let shape = *layer.shape();
    let mut dispatcher = Dispatcher::new(backend, layer, DispatcherOptions::default())?;
    for num_tokens in [1, 8, 64] {
        let hidden = synth::hidden(num_tokens, shape.hidden_size, 1);
        let routing = synth::routing(num_tokens, shape.num_experts, 2, 1)?;
        let (output, report) = dispatcher.forward(Hidden::F16(&hidden), &routing)?;
        println!("{report}; first output {:.4}", output[0]);
    }
    Ok(())
}

fn write_synthetic(directory: &std::path::Path) -> anyhow::Result<()> {
    let shape = LayerShape::new(512, 256, 8)?;
    let layer = OwnedLayer::new(&SynthSpec::mixed(shape, Codebook::Mul1, 1))?;
    let view = layer.view();
    let layer = LayerToWrite {
        number: 0,
        naming: ExpertNaming::Projections,
        view: &view,
        shared_expert: None,
        router: None,
    };
    Ok(write_checkpoint(directory, &[layer], &WriterConfig::default())?)
}
