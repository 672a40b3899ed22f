//! `trellect tune`: every kernel in every context of a layer, measured into the history.
//!
//! [`plan`] makes the layers and the calls, [`report`] shows what was found.

mod plan;
mod report;

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use trellect::core::NumericClass;
use trellect_tune::fingerprint::Fingerprint;
use trellect_tune::history::{History, HistoryError, Record};
use trellect_tune::matrix::{RecordPlan, record};

use crate::args::{DeviceArgs, SynthLayerArgs, parse_numeric, parse_some_tokens};
use crate::history_file::HistoryArgs;
use crate::interrupt::on_interrupt;
use crate::output;
use crate::progress::Progress;
use report::TuneReport;

const EXAMPLES: &str = "\
Measures in rounds; a round visits every context and every kernel in random order, on weights that
were pushed out of the caches. Ends after --rounds, after --budget, or at Ctrl-C; what was measured
is kept. Sampled layers are synthetic: their times are those of any layer of that shape and widths.

Examples:
  trellect tune --shape 256x128x8x2 --tokens 1,4 --rounds 2 --cold-mib 1 --history h.sqlite
  trellect tune --shape 256x128x8x2 --tokens 1,8 --rounds 4 --cold-mib 1 --history h.sqlite --record matrix.json --json";

/// The flags of `tune`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TuneArgs {
    #[command(flatten)]
    synth: SynthLayerArgs,
    /// Numbers of tokens; 16 is measured with one expert in every token, too.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,2,4,8,16,32,64",
          value_parser = parse_some_tokens)]
    tokens: Vec<usize>,
    /// Numeric class: exact, half or int8.
    #[arg(long, value_name = "CLASS", default_value = "half", value_parser = parse_numeric)]
    numeric: NumericClass,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    history: HistoryArgs,
    /// Write the matrix here, too, for `trellect replay`.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Circumstances to be noted in the matrix.
    #[arg(long, value_name = "TEXT", default_value = "", requires = "record")]
    note: String,
    /// Samples of every kernel and context.
    #[arg(long, value_name = "N", default_value_t = 30,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Seconds that measuring may take; it ends with the context at hand.
    #[arg(long, value_name = "SECONDS", default_value_t = 240,
          value_parser = clap::value_parser!(u32).range(1..))]
    budget: u32,
    /// MiB to read before every launch: more than the caches hold.
    #[arg(long, value_name = "MIB", default_value_t = 128,
          value_parser = clap::value_parser!(u32).range(0..=65_536))]
    cold_mib: u32,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Measures, writes the history round by round, and prints the best kernels.
///
/// # Errors
/// When the history cannot be written, a kernel fails or is not exact enough, or nothing was
/// measured.
pub(crate) fn run(args: &TuneArgs) -> anyhow::Result<()> {
    let (history, path) = args.history.open_for_writing()?;
    let interrupted = on_interrupt("the context at hand")?;
    let backend = args.device.open()?;
    let layers = plan::layers(&backend, &args.synth)?;
    let shape = &args.synth.shape;
    let contexts = plan::contexts(&args.tokens, &args.synth);
    let draw = plan::draw(shape);
    let record_plan = RecordPlan {
        name: format!("{} {}", shape.name, args.synth.bits),
        note: args.note.clone(),
        top_k: shape.top_k,
        numeric: args.numeric,
        contexts,
        rounds: args.rounds as usize,
        cold_bytes: (args.cold_mib as usize) << 20,
        threads: backend.threads().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN),
        skip: &plan::skip,
        draw: &draw,
    };
    let mut keeper = Keeper::new(history, &Fingerprint::of(&backend, args.numeric))?;
    let (start, budget) = (Instant::now(), Duration::from_secs(args.budget.into()));
    let progress = Progress::new("measuring", record_plan.rounds * record_plan.contexts.len());
    let mut kept = Ok(());
    let matrix = record(&backend, &layers, &record_plan, |matrix, now| {
        progress.step();
        let round = matrix.contexts[now.context].rounds.len() - 1;
        keeper.add(matrix.records(now.context, round, &keeper.environment, unix_s()));
        let stop = interrupted.load(Ordering::Relaxed) || start.elapsed() >= budget;
        if stop || now.done % record_plan.contexts.len() == 0 {
            kept = keeper.merge();
        }
        match stop || kept.is_err() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    drop(progress);
    if let Some(path) = &args.record {
        matrix.write(path).with_context(|| format!("writing {}", path.display()))?;
    }
    kept.with_context(|| format!("writing {}", path.display()))?;
    let report = TuneReport::new(&matrix, &path, &keeper, interrupted.load(Ordering::Relaxed));
    match args.json {
        true => output::print_json(&report),
        false => output::print(&report.to_string()),
    }
}

/// What was measured and is not in the history yet.
struct Keeper {
    history: History,
    environment: String,
    waiting: Vec<Record>,
    latencies: u64,
}

impl Keeper {
    fn new(mut history: History, fingerprint: &Fingerprint) -> Result<Self, HistoryError> {
        history.register(fingerprint)?;
        Ok(Self { history, environment: fingerprint.id(), waiting: Vec::new(), latencies: 0 })
    }

    fn add(&mut self, records: Vec<Record>) {
        self.waiting.extend(records);
    }

    fn merge(&mut self) -> Result<(), HistoryError> {
        self.history.merge(&self.waiting)?;
        self.latencies += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
