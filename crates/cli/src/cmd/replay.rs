//! `trellect replay`: any policies over a recorded matrix, or over simulated worlds.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use trellect_tune::evaluate::{Figures, PolicyKind, Recording, Scenario, Trace, plot, table};
use trellect_tune::matrix::Matrix;

use crate::output;
use crate::progress::Progress;

const EXAMPLES: &str = "\
Policies: uniform, rules, prior, static-table, first-call, plain-mean, epsilon-greedy, ucb1, thompson,
thompson-fast, adaptive, oracle. The tables are explained in docs/selection-evaluation.md, matrices
and traces in docs/selection-matrix.md.

Examples:
  trellect replay --simulated --calls 2000 --seeds 2 --policy rules,adaptive
  trellect replay matrix.json --calls 1000 --seeds 2 --svg regret.svg
  trellect replay matrix.json --trace trace.txt --seeds 2 --policy rules,ucb1,adaptive --json";

/// The flags of `replay`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ReplayArgs {
    /// A matrix, as `tune --record` writes it.
    #[arg(
        value_name = "FILE",
        required_unless_present = "simulated",
        conflicts_with = "simulated"
    )]
    matrix: Option<PathBuf>,
    /// Simulated worlds with known truth instead of a matrix.
    #[arg(long)]
    simulated: bool,
    /// The policies to compare [default: all].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    policy: Vec<PolicyKind>,
    /// The contexts to call, one line each: TOKENS ROUTING COUNT [default: drawn by Zipf's law].
    #[arg(long, value_name = "FILE", conflicts_with_all = ["simulated", "calls"])]
    trace: Option<PathBuf>,
    /// Calls of a run.
    #[arg(long, value_name = "N", default_value_t = 20_000,
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    calls: u32,
    /// Runs of every policy, each with another seed.
    #[arg(long, value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u64).range(1..=10_000))]
    seeds: u64,
    /// Draw the regret over the calls of the first world into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct ReplayReport {
    seeds: u64,
    worlds: Vec<WorldReport>,
}

/// One world.
#[derive(Debug, Serialize)]
struct WorldReport {
    name: String,
    /// Mean loss of the kernels that were fastest in the recording's other half.
    noise_floor: Option<f64>,
    policies: Vec<Figures>,
}

/// Replays and prints the figures.
///
/// # Errors
/// When the matrix or the trace cannot be read or contradicts itself, or the plot cannot be written.
pub(crate) fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    let recording = args.matrix.as_ref().map(|path| open(args, path)).transpose()?;
    let worlds = match &recording {
        Some((name, recording)) => vec![(name.clone(), Scenario::Recorded(recording))],
        None => Scenario::simulated(args.calls as usize),
    };
    let policies =
        if args.policy.is_empty() { PolicyKind::ALL.to_vec() } else { args.policy.clone() };
    let progress = Progress::new("replaying", worlds.len() * policies.len());
    let figures = |scenario: &Scenario<'_>, policy: &PolicyKind| {
        let figures = scenario.figures(*policy, args.seeds);
        progress.step();
        figures
    };
    let worlds = worlds.into_iter().map(|(name, scenario)| WorldReport {
        name,
        noise_floor: recording.as_ref().map(|(_, recording)| recording.noise_floor()),
        policies: policies.iter().map(|policy| figures(&scenario, policy)).collect(),
    });
    let report = ReplayReport { seeds: args.seeds, worlds: worlds.collect() };
    drop(progress);
    if let (Some(path), Some(world)) = (&args.svg, report.worlds.first()) {
        fs::write(path, plot::regret_plot(&world.name, &world.policies))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    match args.json {
        true => output::print_json(&report),
        false => output::print(&report.to_string()),
    }
}

fn open(args: &ReplayArgs, path: &Path) -> anyhow::Result<(String, Recording)> {
    let matrix = Matrix::read(path).with_context(|| format!("reading {}", path.display()))?;
    let (trace, calls) = match &args.trace {
        None => (Trace::Zipf { calls: args.calls as usize }, format!("{} calls", args.calls)),
        Some(trace) => {
            let calls = format!("calls of {}", trace.display());
            (Trace::read(trace, &matrix).context("reading the trace")?, calls)
        }
    };
    let name = format!("{} on {}, {calls}", matrix.name, matrix.machine.device);
    let recording = Recording::new(&matrix, trace);
    Ok((name, recording.with_context(|| format!("replaying {}", path.display()))?))
}

impl fmt::Display for ReplayReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for WorldReport { name, noise_floor, policies } in &self.worlds {
            writeln!(f, "## {name}, {} seeds\n", self.seeds)?;
            if let Some(floor) = noise_floor {
                writeln!(f, "Noise floor of the recording: {:.2} %\n", 100.0 * floor)?;
            }
            writeln!(f, "{}\n{}", table::regret_table(policies), table::conduct_table(policies))?;
        }
        Ok(())
    }
}
