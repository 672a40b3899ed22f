//! `trellect ab`: two sides that take turns, and which of them is faster.
//!
//! Two kernels are timed in this process, on the same layers ([`kernels`]). Two thread counts or two
//! environments need a process each ([`children`]), and two commands are run again and again
//! ([`commands`]). All of them fill [`Pairs`], which say when they are enough; [`report`] judges them.

mod children;
mod commands;
mod kernels;
mod pairs;
mod report;

use std::num::NonZeroUsize;

use clap::{Args, ValueEnum};
use trellect::core::Codebook;
use trellect_tune::bench::ab::Verdict;

use self::pairs::Pairs;
use self::report::{AbReport, SideReport};
use super::bench::ColdArgs;
use crate::args::{
    BackendArg, BitsArg, ShapeArg, parse_codebook, parse_some_tokens, parse_threads,
};
use crate::output::{self, Regression, WrongUsage};

const EXAMPLES: &str = "\
Both sides run on the same calls, in random order, on cold weights; the first launch of each is not
timed. A name without implementation means the best one of this machine. Two numbers of threads and
two environments are two processes that take turns. A command is run by `sh` for every pair and prints
milliseconds: as its last line, or in a JSON object (--field). Exit code 3: the optimized side is slower.

Examples:
  trellect ab --baseline moe_trellis_swiglu@cpu.generic --optimized moe_trellis_swiglu --shape 256x128x8x2 --cold-mib 1 --iterations 20
  trellect ab --baseline moe_trellis_swiglu@cpu.generic --optimized moe_trellis_swiglu --shape 256x128x8x2 --cold-mib 1 --until-decided --json
  trellect ab --baseline moe_trellis_swiglu --env-a TRELLECT_MAX_ISA=generic --shape 256x128x8x2 --cold-mib 1 --iterations 20
  trellect ab --baseline moe_trellis_swiglu@cpu.generic --optimized moe_trellis_swiglu --threads-a 1 --threads-b 2 --shape 256x128x8x2 --cold-mib 1 --iterations 20
  trellect ab --cmd-a 'echo 2.5' --cmd-b 'echo 1.5' --iterations 10";

/// Pairs without `--until-decided`.
const ITERATIONS: u32 = 100;
/// Pairs at most with it.
const UNTIL_DECIDED: u32 = 10_000;

/// What only kernels have, as opposed to commands.
const OF_KERNELS: [&str; 13] = [
    "baseline",
    "optimized",
    "shape",
    "bits",
    "tokens",
    "codebook",
    "backend",
    "threads",
    "threads_a",
    "env_a",
    "env_b",
    "warm",
    "cold_mib",
];

/// The flags of `ab`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AbArgs {
    /// The kernel to compare with.
    #[arg(long, value_name = "KERNEL", required_unless_present = "cmd_a")]
    baseline: Option<String>,
    /// The kernel that is said to be faster [default with --threads-a, --env-a or --env-b: the
    /// baseline].
    #[arg(long, value_name = "KERNEL",
          required_unless_present_any = ["cmd_a", "threads_a", "env_a", "env_b"])]
    optimized: Option<String>,
    /// The layer's shape: a model's name, its letter A to D, or HIDDENxINTERxEXPERTSxTOPK.
    #[arg(long, value_name = "SHAPE", default_value = "glm-4.7-flash")]
    shape: ShapeArg,
    /// Bit widths of all experts: gate, up and down as in 6,2,3, or `mixed`.
    #[arg(long, value_name = "BITS", default_value = "mixed")]
    bits: BitsArg,
    /// Tokens of every call.
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_some_tokens)]
    tokens: usize,
    /// The trellis codebook: 3inst, mcg or mul1.
    #[arg(long, value_name = "NAME", default_value = "mul1", value_parser = parse_codebook)]
    codebook: Codebook,
    /// Where to run.
    #[arg(long, value_enum, default_value_t = BackendArg::Cpu)]
    backend: BackendArg,
    /// Threads of the cpu backend [default: all that this process may use].
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<NonZeroUsize>,
    /// Threads of the baseline, where the sides differ in them.
    #[arg(long, value_name = "N", value_parser = parse_threads, requires = "threads_b",
          conflicts_with = "threads")]
    threads_a: Option<NonZeroUsize>,
    /// Threads of the optimized side.
    #[arg(long, value_name = "N", value_parser = parse_threads, requires = "threads_a")]
    threads_b: Option<NonZeroUsize>,
    /// A variable of the baseline's environment, as in TRELLECT_MAX_ISA=avx2; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    env_a: Vec<Variable>,
    /// A variable of the optimized side's environment.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    env_b: Vec<Variable>,
    /// A command that prints the baseline's milliseconds, instead of a kernel.
    #[arg(long, value_name = "COMMAND", requires = "cmd_b", conflicts_with_all = OF_KERNELS)]
    cmd_a: Option<String>,
    /// The command of the optimized side.
    #[arg(long, value_name = "COMMAND", requires = "cmd_a")]
    cmd_b: Option<String>,
    /// Where the milliseconds are when a command prints a JSON object, as a JSON pointer.
    #[arg(long, value_name = "POINTER", default_value = "/latency_ms", value_parser = parse_pointer,
          requires = "cmd_a")]
    field: String,
    /// Pairs of launches [default: 100; with --until-decided 10000 at most].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    iterations: Option<u32>,
    /// Confidence of the interval and of the decision.
    #[arg(long, value_name = "SHARE", default_value_t = 0.95, value_parser = parse_confidence)]
    confidence: f64,
    /// End as soon as one is proved to be faster, by the selector's test, which may be asked after
    /// every pair.
    #[arg(long)]
    until_decided: bool,
    #[command(flatten)]
    cold: ColdArgs,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Be one side's process, see [`children`].
    #[arg(long, value_enum, hide = true)]
    serve: Option<Side>,
}

/// One of the two that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Side {
    /// What is compared with.
    Baseline,
    /// What is said to be faster.
    Optimized,
}

/// A variable of an environment.
#[derive(Clone, Debug)]
struct Variable {
    name: String,
    value: String,
}

/// Measures pairs and prints what they show.
///
/// # Errors
/// When a kernel cannot compute the calls or fails, or a command does or prints no milliseconds;
/// [`Regression`] where the optimized side is slower.
pub(crate) fn run(args: &AbArgs) -> anyhow::Result<()> {
    if let Some(side) = args.serve {
        return children::serve(args, side);
    }
    if args.threads_a.is_some() && args.backend != BackendArg::Cpu {
        return Err(WrongUsage("--threads-a: the cpu backend alone has threads".into()).into());
    }
    let most = match (args.iterations, args.until_decided) {
        (Some(iterations), _) => iterations,
        (None, true) => UNTIL_DECIDED,
        (None, false) => ITERATIONS,
    };
    let mut pairs = Pairs::new(most as usize, args.until_decided.then_some(args.confidence))?;
    let sides = match (&args.cmd_a, &args.cmd_b) {
        (Some(baseline), Some(optimized)) => {
            commands::measure([baseline, optimized], &args.field, &mut pairs)?
        }
        _ if args.needs_processes() => children::measure(args, &mut pairs)?,
        _ => kernels::measure(args, &mut pairs)?,
    };
    let report = AbReport::new(args, sides, &pairs.end())?;
    match args.json {
        true => output::print_json(&report)?,
        false => output::print(&report.to_string())?,
    }
    match report.effect.verdict {
        Verdict::Slower => Err(Regression(report.regression()).into()),
        _ => Ok(()),
    }
}

impl AbArgs {
    /// Whether the sides differ in what a process has only once.
    fn needs_processes(&self) -> bool {
        self.threads_a.is_some() || !self.env_a.is_empty() || !self.env_b.is_empty()
    }

    /// A side's kernel, and the flag that names it.
    fn kernel(&self, side: Side) -> (&'static str, &str) {
        let baseline = ("--baseline", self.baseline.as_deref());
        let named = match (side, self.optimized.as_deref()) {
            (Side::Optimized, Some(kernel)) => ("--optimized", Some(kernel)),
            _ => baseline,
        };
        (named.0, named.1.expect("clap asks for a baseline where there is no command"))
    }

    fn threads(&self, side: Side) -> Option<NonZeroUsize> {
        let own = match side {
            Side::Baseline => self.threads_a,
            Side::Optimized => self.threads_b,
        };
        own.or(self.threads)
    }

    fn environment(&self, side: Side) -> &[Variable] {
        match side {
            Side::Baseline => &self.env_a,
            Side::Optimized => &self.env_b,
        }
    }
}

impl Side {
    const BOTH: [Self; 2] = [Self::Baseline, Self::Optimized];

    /// As the flags have it.
    fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Optimized => "optimized",
        }
    }
}

fn parse_confidence(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err("expected a number between 0 and 1".into()),
    }
}

fn parse_variable(text: &str) -> Result<Variable, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            Ok(Variable { name: name.into(), value: value.into() })
        }
        _ => Err("expected NAME=VALUE".into()),
    }
}

fn parse_pointer(text: &str) -> Result<String, String> {
    match text.starts_with('/') {
        true => Ok(text.into()),
        false => Err("expected a JSON pointer, as in /rows/0/latency_ms".into()),
    }
}
