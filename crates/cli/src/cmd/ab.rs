//! `trellect ab`: one kernel against another, on the same calls.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use trellect::core::{Candidate, Codebook, KernelSpec};
use trellect_tune::bench::ab::{Effect, Sequential, Verdict, WORTH_KNOWING, effect};
use trellect_tune::bench::{CellPlan, CellTimes, KernelTimes};

use super::bench::ColdArgs;
use super::bench::group::{Group, GroupPlan};
use super::bench::{kernels, machine};
use crate::args::{
    BackendArg, BitsArg, DeviceArgs, ShapeArg, parse_codebook, parse_some_tokens, parse_threads,
};
use crate::interrupt::on_interrupt;
use crate::output::{self, Regression};
use crate::progress::Progress;
use crate::table;

const EXAMPLES: &str = "\
Both kernels run on the same calls, in random order, on cold weights; the first launch of each is not
timed. A name without implementation means the best one of this machine. Exit code 3: the optimized
kernel is slower.

Examples:
  trellect ab --baseline moe_trellis_swiglu@cpu.generic --optimized moe_trellis_swiglu --shape 256x128x8x2 --cold-mib 1 --iterations 20
  trellect ab --baseline moe_trellis_swiglu@cpu.generic --optimized moe_trellis_swiglu --shape 256x128x8x2 --cold-mib 1 --until-decided --json";

/// Pairs without `--until-decided`.
const ITERATIONS: u32 = 100;
/// Pairs at most with it.
const UNTIL_DECIDED: u32 = 10_000;

/// The flags of `ab`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AbArgs {
    /// The kernel to compare with.
    #[arg(long, value_name = "KERNEL")]
    baseline: String,
    /// The kernel that is said to be faster.
    #[arg(long, value_name = "KERNEL")]
    optimized: String,
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
}

/// What was found.
#[derive(Debug, Serialize)]
struct AbReport {
    baseline: String,
    optimized: String,
    shape: String,
    bits: String,
    tokens: usize,
    threads: Option<usize>,
    backend: &'static str,
    confidence: f64,
    until_decided: bool,
    #[serde(flatten)]
    effect: Effect,
    baseline_error: Option<f64>,
    optimized_error: Option<f64>,
}

/// Measures pairs and prints what they show.
///
/// # Errors
/// When a kernel cannot compute the calls or fails; [`Regression`] where the optimized one is slower.
pub(crate) fn run(args: &AbArgs) -> anyhow::Result<()> {
    let interrupted = on_interrupt("the pairs so far")?;
    let device = DeviceArgs { backend: args.backend, threads: args.threads }.open()?;
    let beyond_caches = machine::beyond_caches(&machine::describe(&device), &device);
    let cold_bytes = args.cold.bytes(beyond_caches);
    let devices = [Arc::new(device)];
    let plan = GroupPlan { shape: &args.shape, bits: args.bits, codebook: args.codebook };
    let group = Group::new(&plan, &devices, cold_bytes)?;
    let candidates: Vec<Candidate> = group.layer(0).candidates().to_vec();
    let specs = [("--baseline", &args.baseline), ("--optimized", &args.optimized)]
        .map(|(flag, text)| kernels::find(flag, text, &candidates).1);
    let pairs = match (args.iterations, args.until_decided) {
        (Some(iterations), _) => iterations as usize,
        (None, true) => UNTIL_DECIDED as usize,
        (None, false) => ITERATIONS as usize,
    };
    let draw = group.draw();
    let mut benches = group.benches(&draw, cold_bytes);
    let bench = &mut benches[0];
    let cell = CellPlan {
        num_tokens: args.tokens,
        kernels: &specs,
        keep: None,
        drop_above: None,
        rounds: pairs,
        time: Duration::MAX,
    };
    for (spec, legality) in specs.iter().zip(bench.legality(&cell)?) {
        if let Err(why) = legality {
            bail!("{}: {why}", spec.id);
        }
    }
    let stop = || interrupted.load(Ordering::Relaxed);
    let mut times = bench.begin(&cell, &stop)?;
    if let Some(left) = times.left_out.first() {
        bail!("{}: {}", left.kernel, left.why);
    }
    let progress = Progress::new("pairs", pairs);
    let mut sequential = args.until_decided.then(|| Sequential::new(args.confidence));
    let (mut decided, mut told) = (None, 0);
    loop {
        let ended = |kernels: &[KernelTimes]| stop() || complete(kernels).count() >= pairs;
        let flow = bench.extend(args.tokens, &mut times, &ended)?;
        for pair in complete(&times.kernels).skip(told) {
            told += 1;
            progress.step();
            decided = decided.or_else(|| sequential.as_mut()?.push(pair));
        }
        if flow.is_break() || decided.is_some() {
            break;
        }
    }
    drop(progress);
    let report = AbReport::new(args, &specs, &times, decided, devices[0].threads())?;
    match args.json {
        true => output::print_json(&report)?,
        false => output::print(&report.to_string())?,
    }
    match report.effect.verdict {
        Verdict::Slower => Err(Regression(format!(
            "{} is slower than {}: {:.3} of its speed",
            report.optimized, report.baseline, report.effect.speedup
        ))
        .into()),
        _ => Ok(()),
    }
}

/// Milliseconds of the rounds that both kernels were launched in.
fn complete(kernels: &[KernelTimes]) -> impl Iterator<Item = (f64, f64)> + '_ {
    let ms = |ns: u64| ns as f64 / 1e6;
    let (baseline, optimized) = (&kernels[0].ns, &kernels[1].ns);
    baseline
        .iter()
        .zip(optimized)
        .filter_map(move |(one, other)| Some((ms((*one)?), ms((*other)?))))
}

impl AbReport {
    fn new(
        args: &AbArgs,
        specs: &[KernelSpec; 2],
        times: &CellTimes,
        decided: Option<bool>,
        threads: Option<usize>,
    ) -> anyhow::Result<Self> {
        let pairs: Vec<(f64, f64)> = complete(&times.kernels).collect();
        let Some(mut effect) = effect(&pairs, args.confidence) else {
            bail!("ended before the first pair");
        };
        if args.until_decided {
            // The interval does not know that one stopped when it looked best.
            effect.verdict = match (decided, effect.more_pairs) {
                (Some(true), _) => Verdict::Faster,
                (Some(false), _) => Verdict::Slower,
                (None, 0) => Verdict::NoDifferenceShown,
                (None, _) => Verdict::Underpowered,
            };
        }
        let error = |at: usize| Some(times.kernels[at].error).filter(|error| error.is_finite());
        Ok(Self {
            baseline: specs[0].id.to_string(),
            optimized: specs[1].id.to_string(),
            shape: args.shape.name.clone(),
            bits: args.bits.to_string(),
            tokens: args.tokens,
            threads,
            backend: match args.backend {
                BackendArg::Cpu => "cpu",
                #[cfg(feature = "cuda")]
                BackendArg::Cuda => "cuda",
            },
            confidence: args.confidence,
            until_decided: args.until_decided,
            effect,
            baseline_error: error(0),
            optimized_error: error(1),
        })
    }
}

impl fmt::Display for AbReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Effect { n, baseline_ms, optimized_ms, speedup, speedup_ci, t, p, verdict, more_pairs } =
            &self.effect;
        let tokens = table::plural(self.tokens, "token");
        writeln!(f, "{} {}, {tokens}, {}", self.shape, self.bits, table::plural(*n, "pair"))?;
        let error = |error| table::optional(error, |error: f64| format!("{error:.1e}"));
        let baseline_error = error(self.baseline_error);
        writeln!(f, "  baseline   {baseline_ms:.4} ms, error {baseline_error}  {}", self.baseline)?;
        let optimized_error = error(self.optimized_error);
        writeln!(
            f,
            "  optimized  {optimized_ms:.4} ms, error {optimized_error}  {}",
            self.optimized
        )?;
        let [low, high] = speedup_ci;
        let percent = 100.0 * self.confidence;
        writeln!(f, "  speedup    {speedup:.4} ({percent} %: {low:.4} to {high:.4})")?;
        let number = |value: &Option<f64>| table::optional(*value, |value| format!("{value:.3}"));
        let p = table::optional(*p, |p| format!("{p:.2e}"));
        writeln!(f, "  Welch      t {}, p {p}", number(t))?;
        write!(f, "  {}", verdict.words())?;
        match (verdict, more_pairs) {
            (Verdict::Underpowered, more) => writeln!(
                f,
                ": an effect of {} % needs about {more} more pairs",
                100.0 * WORTH_KNOWING
            ),
            (Verdict::NoDifferenceShown, _) => {
                writeln!(f, ": an effect of {} % would have shown", 100.0 * WORTH_KNOWING)
            }
            _ => writeln!(f),
        }
    }
}

fn parse_confidence(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err("expected a number between 0 and 1".into()),
    }
}
