//! `trellect synth`: writes a synthetic checkpoint.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde::Serialize;

use crate::args::SynthLayerArgs;
use crate::synthetic::Synthetic;
use crate::{facts, output, table};

const EXAMPLES: &str = "\
All layers are made in memory before the first is written.

Examples:
  trellect synth --shape 256x128x8x2 --layers 2 --router --output tiny-model
  trellect synth --shape 128x128x4x2 --bits 3,3,3 --codebook mcg --output other-model --json";

/// The flags of `synth`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SynthArgs {
    #[command(flatten)]
    layer: SynthLayerArgs,
    /// Number of layers.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    layers: u16,
    /// Give every layer a softmax router, so that `run --model` routes by it.
    #[arg(long)]
    router: bool,
    /// Seed of everything random.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The directory to write; made if it does not exist.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Write into a directory that is not empty; a checkpoint there is replaced.
    #[arg(long)]
    force: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// What was written.
#[derive(Debug, Serialize)]
struct SynthReport {
    output: String,
    layers: u16,
    hidden_size: usize,
    intermediate_size: usize,
    experts: usize,
    top_k: usize,
    bits: String,
    codebook: &'static str,
    router: bool,
    seed: u64,
    /// Bytes of all files in the directory.
    bytes: u64,
}

/// Writes the checkpoint.
///
/// # Errors
/// When the directory is not empty and `--force` is not given, or writing fails.
pub(crate) fn run(args: &SynthArgs) -> anyhow::Result<()> {
    let directory = args.output.as_path();
    if !args.force {
        ensure_empty(directory)?;
    }
    let layers = usize::from(args.layers);
    Synthetic { layer: &args.layer, layers, router: args.router, seed: args.seed }
        .write(directory)?;
    let SynthLayerArgs { shape, bits, codebook } = &args.layer;
    let report = SynthReport {
        output: directory.display().to_string(),
        layers: args.layers,
        hidden_size: shape.shape.hidden_size,
        intermediate_size: shape.shape.intermediate_size,
        experts: shape.shape.num_experts,
        top_k: shape.top_k,
        bits: bits.to_string(),
        codebook: codebook.name(),
        router: args.router,
        seed: args.seed,
        bytes: directory_bytes(directory)?,
    };
    if args.json {
        return output::print_json(&report);
    }
    output::print(&format!(
        "{}: {} of {}, top-{}, {} bits, {}, {}\n",
        report.output,
        table::plural(layers, "layer"),
        facts::describe_shape(&shape.shape),
        report.top_k,
        report.bits,
        report.codebook,
        table::bytes(report.bytes)
    ))
}

fn ensure_empty(directory: &Path) -> anyhow::Result<()> {
    match fs::read_dir(directory) {
        Ok(mut entries) => {
            let path = directory.display();
            ensure!(
                entries.next().is_none(),
                "{path}: not empty; --force writes there all the same"
            );
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => bail!("{}: {error}", directory.display()),
    }
}

fn directory_bytes(directory: &Path) -> anyhow::Result<u64> {
    let sum = || {
        let mut bytes = 0;
        for entry in fs::read_dir(directory)? {
            bytes += entry?.metadata()?.len();
        }
        Ok::<u64, std::io::Error>(bytes)
    };
    sum().with_context(|| format!("reading {}", directory.display()))
}
