//! Checks and times the kernels on a real GPU: what CI cannot do.
//!
//! `scripts/gpu` builds it to one file that runs on any Linux machine with an NVIDIA driver and
//! NVRTC. `check` compares every kernel with the float64 oracle, `time` fills the table of the
//! performance targets, `compile` shows registers and spills and needs no GPU.

mod ceiling;
mod check;
mod device_memory;
mod peer;
mod pool;
mod report;
mod time;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use trellect_core::{Backend, BitTuple, Codebook, LayerShape, NumericClass};
use trellect_cuda::{Arch, CudaBackend, devices, kernel_resources};

use check::CheckArguments;

#[derive(Parser)]
#[command(about = "Checks and times the CUDA kernels")]
struct Arguments {
    /// Which GPU.
    #[arg(long, global = true, default_value_t = 0)]
    device: usize,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the GPUs and what their memory delivers.
    Info,
    /// Compare every kernel with the oracle; exit code 1 when one is wrong.
    Check(CheckArguments),
    /// Time kernels over shapes, widths and tokens.
    Time(TimeArguments),
    /// Registers, spills and shared memory of every kernel.
    Compile {
        /// As in 9.0.
        #[arg(long, default_value = "9.0", value_parser = parse_arch)]
        arch: Arch,
        /// As in 2048x1536.
        #[arg(long, default_value = "2048x1536", value_parser = parse_sizes)]
        sizes: (usize, usize),
        /// The tuples of the layer's experts, as in 6,2,3;6,3,4.
        #[arg(long, default_value = "6,2,3", value_delimiter = ';')]
        bits: Vec<BitTuple>,
        /// The codebooks of the layer's experts.
        #[arg(long, default_value = "mul1", value_delimiter = ',', value_parser = parse_codebook)]
        codebooks: Vec<Codebook>,
    },
}

/// What to time.
#[derive(clap::Args)]
struct TimeArguments {
    /// Letters of the shapes: A glm-4.7-flash, B qwen3-30b-a3b, C glm-4.5-air, D mixtral-8x7b.
    #[arg(long, default_value = "A,B,C", value_delimiter = ',')]
    shapes: Vec<String>,
    /// Widths, as in `2,2,2;6,2,3;mixed` [default: those of the peer's table, and mixed].
    #[arg(long, value_delimiter = ';')]
    bits: Vec<String>,
    /// Numbers of tokens.
    #[arg(long, default_value = "1,2,4,8,16,32,64,128,512,2048", value_delimiter = ',')]
    tokens: Vec<usize>,
    /// Only kernels whose name contains one of these.
    #[arg(long, value_delimiter = ',')]
    kernels: Vec<String>,
    /// Also kernels that are hopeless for a number of tokens.
    #[arg(long)]
    every: bool,
    /// The codebook of all experts.
    #[arg(long, default_value = "mul1", value_parser = parse_codebook)]
    codebook: Codebook,
    /// The numeric class.
    #[arg(long, default_value = "half", value_parser = parse_class)]
    numeric: NumericClass,
    /// Write `table.json` and `table.md` into this directory.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn parse_arch(text: &str) -> Result<Arch, String> {
    let parts: Option<Vec<u32>> = text.split('.').map(|part| part.parse().ok()).collect();
    match parts.as_deref() {
        Some(&[major, minor]) => Ok(Arch { major, minor }),
        _ => Err("expected an architecture as in 9.0".into()),
    }
}

fn parse_sizes(text: &str) -> Result<(usize, usize), String> {
    let parts: Option<Vec<usize>> = text.split('x').map(|part| part.parse().ok()).collect();
    match parts.as_deref() {
        Some(&[hidden, intermediate]) => Ok((hidden, intermediate)),
        _ => Err("expected two sizes as in 2048x1536".into()),
    }
}

fn parse_codebook(text: &str) -> Result<Codebook, String> {
    Codebook::from_name(text).ok_or_else(|| "expected 3inst, mcg or mul1".into())
}

fn parse_class(text: &str) -> Result<NumericClass, String> {
    text.parse::<NumericClass>().map_err(|error| error.to_string())
}

fn main() -> anyhow::Result<ExitCode> {
    let Arguments { device, command } = Arguments::parse();
    match command {
        Command::Info => info(device)?,
        Command::Check(arguments) => {
            if !check::run(&CudaBackend::open(device)?, &arguments)? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Time(arguments) => time::run(&CudaBackend::open(device)?, &arguments)?,
        Command::Compile { arch, sizes, bits, codebooks } => {
            compile(arch, sizes, &bits, &codebooks)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn info(device: usize) -> anyhow::Result<()> {
    for facts in devices()? {
        println!("{facts:?}");
    }
    let backend = CudaBackend::open(device)?;
    println!("{:?}", backend.describe());
    println!("{:?}", backend.memory());
    println!("copy: {:.0} GB/s read and written", ceiling::copy_gb_per_s(&backend)?);
    Ok(())
}

fn compile(
    arch: Arch,
    (hidden, intermediate): (usize, usize),
    tuples: &[BitTuple],
    codebooks: &[Codebook],
) -> anyhow::Result<()> {
    let shape = LayerShape::new(hidden, intermediate, 64).context("--sizes")?;
    let mut refused = Vec::new();
    for (kernel, entries) in kernel_resources(&shape, tuples, codebooks, arch)? {
        println!("{kernel} on {arch}");
        match entries {
            Err(log) => refused.push(log),
            Ok(entries) => {
                for entry in entries {
                    println!("  {entry:?}");
                }
            }
        }
    }
    if !refused.is_empty() {
        bail!("{}", refused.join("\n"));
    }
    Ok(())
}
