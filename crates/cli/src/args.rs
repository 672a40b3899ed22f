//! The command line, and the values that several commands take.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

#[cfg(feature = "cuda")]
use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use trellect::core::{BitTuple, Codebook, LayerShape, NAMED_SHAPES, NamedShape, NumericClass};
use trellect::cpu::{CpuBackend, CpuOptions};
#[cfg(feature = "cuda")]
use trellect::cuda::CudaBackend;
use trellect::select::adaptive::Mode;

use crate::cmd::{
    ab, bench, doctor, history, inspect, manual, replay, report, run, select, stats, synth, tune,
};
use crate::device::Device;

/// Most tokens of one call that a flag may ask for.
const MAX_TOKENS: u64 = 1 << 16;
/// `CUDA_VISIBLE_DEVICES` says which of a machine's GPUs it is.
#[cfg(feature = "cuda")]
const FIRST_GPU: usize = 0;
/// Most threads that a flag may ask for.
const MAX_THREADS: usize = 1024;

/// Runs the mixture-of-experts layers of EXL3 models, each call on the fastest legal kernel.
///
/// Without a command: `trellect run` without flags.
#[derive(Debug, Parser)]
#[command(name = "trellect", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage. With --json every command prints exactly one JSON
object on stdout; errors are text on stderr.

Examples:
  trellect run --shape 256x128x8x2
  trellect doctor";

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a layer, of a checkpoint or synthetic: what was chosen, why, how fast, how exact.
    Run(run::RunArgs),
    /// Show what a checkpoint holds.
    Inspect(inspect::InspectArgs),
    /// Make one decision from flags and explain it.
    Select(select::SelectArgs),
    /// Show what has been chosen and learned, of the history.
    Stats(stats::StatsArgs),
    /// Write a synthetic checkpoint.
    Synth(synth::SynthArgs),
    /// Show what this machine can run, and what it lacks.
    Doctor(doctor::DoctorArgs),
    /// Measure every kernel on shapes, widths and tokens: how fast, how near the machine's limit, what
    /// the selector's picks cost.
    Bench(bench::BenchArgs),
    /// Compare two kernels, thread counts, environments or commands: speedup, its interval, and what
    /// is shown.
    Ab(ab::AbArgs),
    /// Measure every kernel in every context of a layer, into the history.
    Tune(tune::TuneArgs),
    /// Let policies choose on recorded or simulated times: regret, switches, convergence.
    Replay(replay::ReplayArgs),
    /// Show what was measured and decided: one self-contained HTML page with charts.
    Report(report::ReportArgs),
    /// Export, import or prune the history of latencies.
    History(history::HistoryCommand),
    /// Write the manual pages and the shells' completions.
    #[command(hide = true)]
    Manual(manual::ManualArgs),
}

/// Which device runs, and on how many threads.
#[derive(Debug, Args)]
pub(crate) struct DeviceArgs {
    /// Where to run.
    #[arg(long, value_enum, default_value_t = BackendArg::Cpu)]
    pub(crate) backend: BackendArg,
    /// Threads that work on a launch of the cpu backend [default: all that this process may use].
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    pub(crate) threads: Option<NonZeroUsize>,
}

impl DeviceArgs {
    /// Starts the backend.
    pub(crate) fn open(&self) -> anyhow::Result<Device> {
        match self.backend {
            BackendArg::Cpu => {
                let options = CpuOptions { threads: self.threads, ..CpuOptions::from_env()? };
                Ok(Device::Cpu(CpuBackend::new(options)))
            }
            #[cfg(feature = "cuda")]
            BackendArg::Cuda => {
                let backend = CudaBackend::open(FIRST_GPU).context("--backend cuda")?;
                Ok(Device::Cuda(backend))
            }
        }
    }
}

/// The backends of this build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendArg {
    /// The host's processor.
    Cpu,
    /// The first NVIDIA GPU of this process.
    #[cfg(feature = "cuda")]
    Cuda,
}

/// How kernels are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyArg {
    /// Rules on the call's size, bit widths and memory.
    Rules,
    /// What timings have proved, starting from the rules.
    Adaptive,
}

/// What is done with measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    /// Probe, learn and switch.
    Learn,
    /// Serve what has been learned, and learn nothing.
    Frozen,
    /// Serve what the log of a run says, and learn nothing.
    Replay,
    /// Serve the rules' picks.
    Off,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Learn => Self::Learn,
            ModeArg::Frozen => Self::Frozen,
            ModeArg::Replay => Self::Replay,
            ModeArg::Off => Self::Off,
        }
    }
}

/// What a synthetic layer shall be.
#[derive(Clone, Debug, Args)]
pub(crate) struct SynthLayerArgs {
    /// The layer's shape: a model's name, or HIDDENxINTERxEXPERTSxTOPK as in 256x128x8x2.
    #[arg(long, value_name = "SHAPE", default_value = "glm-4.7-flash")]
    pub(crate) shape: ShapeArg,
    /// Bit widths: gate, up and down as in 6,2,3, or `mixed`: 80 % of the experts 6,2,3, 15 %
    /// 6,3,4 and 5 % 6,2,4.
    #[arg(long, value_name = "BITS", default_value = "mixed")]
    pub(crate) bits: BitsArg,
    /// The trellis codebook: 3inst, mcg or mul1.
    #[arg(long, value_name = "NAME", default_value = "mul1", value_parser = parse_codebook)]
    pub(crate) codebook: Codebook,
}

/// A layer's dimensions and how many experts a token takes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ShapeArg {
    /// As it was written.
    pub(crate) name: String,
    /// The dimensions.
    pub(crate) shape: LayerShape,
    /// Experts per token.
    pub(crate) top_k: usize,
}

impl FromStr for ShapeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(NamedShape { name, shape, top_k }) = NamedShape::find(text) {
            return Ok(Self { name: name.into(), shape, top_k });
        }
        let sizes: Option<Vec<usize>> = text.split('x').map(|size| size.parse().ok()).collect();
        let Some([hidden_size, intermediate_size, num_experts, top_k]) = sizes.as_deref() else {
            let names = NAMED_SHAPES.map(|named| named.name).join(", ");
            return Err(format!("expected {names}, or four sizes as in 256x128x8x2"));
        };
        let shape = LayerShape::new(*hidden_size, *intermediate_size, *num_experts)
            .map_err(|error| error.to_string())?;
        match (1..=shape.num_experts).contains(top_k) {
            true => Ok(Self { name: text.into(), shape, top_k: *top_k }),
            false => Err(format!("top_k is {top_k}: expected 1 to the {num_experts} experts")),
        }
    }
}

/// Bit widths of a synthetic layer's experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BitsArg {
    /// The mix of three tuples.
    Mixed,
    /// The same for every expert.
    Uniform(BitTuple),
}

impl FromStr for BitsArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "mixed" => Ok(Self::Mixed),
            tuple => match tuple.parse() {
                Ok(tuple) => Ok(Self::Uniform(tuple)),
                Err(error) => Err(format!("{error}, or `mixed`")),
            },
        }
    }
}

impl fmt::Display for BitsArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mixed => f.write_str("mixed"),
            Self::Uniform(tuple) => tuple.fmt(f),
        }
    }
}

/// Reads a number of tokens.
pub(crate) fn parse_tokens(text: &str) -> Result<usize, String> {
    match text.parse::<u64>() {
        Ok(tokens) if tokens <= MAX_TOKENS => Ok(tokens as usize),
        _ => Err(format!("expected a number of tokens, 0 to {MAX_TOKENS}")),
    }
}

/// Reads a number of tokens that is not zero.
pub(crate) fn parse_some_tokens(text: &str) -> Result<usize, String> {
    match parse_tokens(text)? {
        0 => Err("expected at least one token".into()),
        tokens => Ok(tokens),
    }
}

/// Reads a number from 0 to 1.
pub(crate) fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a finite number from 0 to 1".into()),
    }
}

/// Reads the name of a numeric class.
pub(crate) fn parse_numeric(text: &str) -> Result<NumericClass, String> {
    text.parse::<NumericClass>().map_err(|error| error.to_string())
}

/// Reads the name of a codebook.
pub(crate) fn parse_codebook(text: &str) -> Result<Codebook, String> {
    let names = Codebook::ALL.map(Codebook::name).join(", ");
    Codebook::from_name(text).ok_or_else(|| format!("expected {names}"))
}

/// Reads a number of threads.
pub(crate) fn parse_threads(text: &str) -> Result<NonZeroUsize, String> {
    match text.parse::<NonZeroUsize>() {
        Ok(threads) if threads.get() <= MAX_THREADS => Ok(threads),
        _ => Err(format!("expected 1 to {MAX_THREADS} threads")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn shapes_parse_by_name_and_by_sizes() {
        let flash: ShapeArg = "glm-4.7-flash".parse().unwrap();
        assert_eq!((flash.shape.num_experts, flash.top_k), (64, 4));
        let free: ShapeArg = "256x100x8x2".parse().unwrap();
        assert_eq!((free.shape.intermediate_size, free.top_k), (100, 2));
        for text in ["", "gpt", "256x128x8", "256x128x8x2x1", "256x0x8x2", "256x128x8x9", "1x1x1x0"]
        {
            assert!(text.parse::<ShapeArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn shares_are_finite_and_within_one() {
        assert_eq!(parse_share("0.9"), Ok(0.9));
        for text in ["1.5", "-0.1", "NaN", "inf", "", "x"] {
            assert!(parse_share(text).is_err(), "{text}");
        }
    }
}
