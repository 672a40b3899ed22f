//! `trellect run`: one layer, a workload of several token counts, and a table of what happened.
//!
//! [`source`] finds the layer, [`workload`] makes hidden states and routings, [`measure`] runs and
//! checks them, [`report`] shows the outcome and [`learning`] what was learned on the way.

mod learning;
mod measure;
mod report;
mod source;
mod workload;

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory};
use trellect::core::{
    Backend, Candidate, KernelId, KernelSpec, LayerView, NumericClass, PreparedLayer, WhyNot,
};
use trellect::exl3::MoeLayer;
use trellect::select::RuleConfig;
use trellect::select::adaptive::AdaptiveConfig;
use trellect::tune::decisions::DecisionLog;
use trellect::{Decisions, Dispatcher, DispatcherOptions, Policy, Selector, SelectorOptions};

use crate::args::{
    Cli, DeviceArgs, ModeArg, PolicyArg, SynthLayerArgs, parse_numeric, parse_share, parse_tokens,
};
use crate::history_file::OptionalHistoryArgs;
use crate::output;
use crate::peak_memory::peak_memory_bytes;
use crate::progress::Progress;
use crate::tensor_file::write_result;
use learning::LearningReport;
use measure::{Measurer, Row};
use report::{LayerReport, MachineReport, RunReport};
use source::Source;
use workload::Workload;

const EXAMPLES: &str = "\
The error is the relative Frobenius error of up to two tokens of a call against the float64 oracle.
Exit code 1 when it is above the limit of the kernel's numeric class, or the log that is replayed does
not fit.

What is learned goes into the user's history, from which later runs start, unless --history names
another file or is `none`.

Examples:
  trellect run --shape 256x128x8x2
  trellect run --shape 256x128x8x2 --bits 6,2,3 --tokens 1,8 --numeric exact --json
  trellect run --shape 256x128x8x2 --tokens 1,4 --repeat 200
  trellect run --shape 256x128x8x2 --tokens 4 --repeat 20 --mode frozen --history none
  trellect run --shape 256x128x8x2 --tokens 4 --repeat 20 --log decisions.jsonl
  trellect run --shape 256x128x8x2 --tokens 4 --repeat 20 --mode replay --log decisions.jsonl
  trellect run --shape 256x128x8x2 --tokens 4 --repeat 200 --policy rules --exploration 0.2
  trellect run --shape 256x128x8x2 --kernel moe_trellis_swiglu --threads 1
  trellect run --model tiny-model --layer 1 --tokens 1,4";

/// The flags of `run`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunArgs {
    /// A checkpoint: a directory or a .safetensors file [default: a synthetic layer].
    #[arg(long, value_name = "PATH", conflicts_with_all = ["shape", "bits", "codebook"])]
    model: Option<PathBuf>,
    /// The layer's number [default: the first with experts].
    #[arg(long, value_name = "N", requires = "model")]
    layer: Option<usize>,
    #[command(flatten)]
    synth: SynthLayerArgs,
    /// Numbers of tokens, one row of the table each.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,4,16,64",
          value_parser = parse_tokens)]
    tokens: Vec<usize>,
    /// Experts per token [default: the checkpoint's, the shape's, else 2].
    #[arg(long, value_name = "N")]
    top_k: Option<usize>,
    /// Run exactly this batch: a safetensors file with `x` [tokens, hidden] f16, bf16 or f32,
    /// `topk_ids` [tokens, top_k] i32 or i64, `topk_weights` [tokens, top_k] f16, bf16 or f32.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tokens", "top_k"])]
    input: Option<PathBuf>,
    /// Write the batch's result here: a safetensors file with `y` [tokens, hidden] f32.
    #[arg(long, value_name = "FILE", requires = "input")]
    output: Option<PathBuf>,
    /// Numeric class: exact, half or int8.
    #[arg(long, value_name = "CLASS", default_value = "half", value_parser = parse_numeric)]
    numeric: NumericClass,
    /// Run this kernel and no other; a name without @variant means the best one here.
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// How to choose kernels.
    #[arg(long, value_enum, default_value_t = PolicyArg::Adaptive)]
    policy: PolicyArg,
    /// What the adaptive policy does with the launches' times.
    #[arg(long, value_enum, default_value_t = ModeArg::Learn)]
    mode: ModeArg,
    #[command(flatten)]
    history: OptionalHistoryArgs,
    /// With --mode replay, the decisions to serve; in another mode, the file to log this run's
    /// decisions to.
    #[arg(long, value_name = "FILE", conflicts_with = "kernel")]
    log: Option<PathBuf>,
    /// Timed launches per row [default: about 0.3 s of them, at least 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: Option<u32>,
    /// With --policy rules: probability that a launch tries another legal kernel; what was tried and
    /// found faster serves from then on.
    #[arg(long, value_name = "RATE", value_parser = parse_share, conflicts_with = "kernel")]
    exploration: Option<f64>,
    /// Seed of everything random.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Runs the layer and prints the report.
///
/// # Errors
/// When anything fails, or a kernel's error is above the limit of its class.
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<()> {
    if args.exploration.is_some() && args.policy != PolicyArg::Rules {
        let message = "--exploration is for --policy rules: the adaptive policy has a budget";
        Cli::command().error(ErrorKind::ArgumentConflict, message).exit();
    }
    if args.log.is_some() && args.policy == PolicyArg::Rules {
        let message = "--log is for --policy adaptive: the rules decide alike every time";
        Cli::command().error(ErrorKind::ArgumentConflict, message).exit();
    }
    if args.mode == ModeArg::Replay && args.log.is_none() {
        let message = "--mode replay needs the decisions to serve: --log FILE";
        Cli::command().error(ErrorKind::MissingRequiredArgument, message).exit();
    }
    let decisions = decisions(args)?;
    let backend = args.device.open()?;
    let source = Source::open(args)?;
    let layer = source.layer()?;
    let kernel = args.kernel.as_deref().map(|name| find_kernel(name, &backend, layer.view()));
    let kernel = kernel.transpose()?;
    let workload = Workload::new(args, &source, &layer)?;
    let token_counts = workload.token_counts(&args.tokens);
    if let Some(spec) = kernel {
        let mut counts = token_counts.iter();
        if let Some(&found) = counts.find(|&&tokens| !spec.tokens.contains(tokens)) {
            bail!("--kernel {}: {}", spec.id, WhyNot::Tokens { found, accepted: spec.tokens });
        }
    }
    let machine = MachineReport::new(&backend);
    let backend: Arc<dyn Backend> = Arc::new(backend);
    let (prepared, prepare_seconds) = prepare(backend.as_ref(), &layer)?;
    let layer_report =
        LayerReport::new(&source, &layer, prepared.prepared_bytes(), prepare_seconds);

    let dispatcher = Dispatcher::new(backend, prepared, options(args, decisions))?;
    let selector = dispatcher.selector().cloned();
    let kernel = kernel.map(|spec| spec.id);
    let mut measurer = Measurer::new(dispatcher, &layer, &workload, kernel, args.repeat);
    let progress = Progress::new("running", token_counts.len());
    let mut rows: Vec<Row> = Vec::new();
    for num_tokens in token_counts {
        let row = measurer.measure(num_tokens);
        rows.push(row.with_context(|| format!("running {num_tokens} tokens"))?);
        progress.step();
    }
    drop(progress);
    if let (Some(path), Some(row)) = (&args.output, rows.first()) {
        write_result(path, &row.first_output, layer.view().shape().hidden_size)?;
    }
    if let (Some(path), Some(selector)) = (&args.log, &selector)
        && args.mode != ModeArg::Replay
    {
        let mut file = Vec::new();
        selector.take_decisions().write(&mut file).context("writing to memory")?;
        output::write_file(path, &file)?;
    }
    let report = RunReport {
        machine,
        layer: layer_report,
        routing: workload.name(),
        top_k: workload.top_k(),
        rows: rows.iter().map(report::row).collect(),
        learning: selector.map(|selector| LearningReport::new(&selector, args.mode)),
        peak_memory_bytes: peak_memory_bytes(),
    };
    match args.json {
        true => output::print_json(&report)?,
        false => output::print(&report.to_string())?,
    }
    let failures = report.above_limit();
    ensure!(failures.is_empty(), "error above the limit of its class: {}", failures.join("; "));
    match report.learning.as_ref().and_then(LearningReport::mismatch) {
        Some(mismatch) => bail!(mismatch),
        None => Ok(()),
    }
}

/// Whether the launches' decisions are logged, or come from a log.
fn decisions(args: &RunArgs) -> anyhow::Result<Decisions> {
    let Some(path) = &args.log else { return Ok(Decisions::ByPlan) };
    if args.mode != ModeArg::Replay {
        return Ok(Decisions::Logged);
    }
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let log = DecisionLog::read(BufReader::new(file));
    let log = log.with_context(|| format!("reading {}", path.display()))?;
    Ok(Decisions::Replayed(Arc::new(log)))
}

/// The policy that the flags ask for. It learns between launches, so that a run with the same
/// history and the same times decides the same.
fn options(args: &RunArgs, decisions: Decisions) -> DispatcherOptions {
    let rules = RuleConfig {
        exploration_rate: args.exploration.unwrap_or(0.0),
        seed: Some(args.seed),
        ..RuleConfig::default()
    };
    let policy = match args.policy {
        PolicyArg::Adaptive if args.kernel.is_none() => {
            Policy::Adaptive(Some(Selector::new(SelectorOptions {
                adaptive: AdaptiveConfig {
                    mode: args.mode.into(),
                    seed: args.seed,
                    ..AdaptiveConfig::default()
                },
                history: args.history.path(),
                background: false,
                decisions,
                ..SelectorOptions::default()
            })))
        }
        _ => Policy::Rules,
    };
    DispatcherOptions { numeric: args.numeric, rules, available: None, policy }
}

/// Prepares `layer` and tells how many seconds it took.
fn prepare(
    backend: &dyn Backend,
    layer: &MoeLayer<'_>,
) -> anyhow::Result<(Arc<dyn PreparedLayer>, f64)> {
    let progress = Progress::new("preparing experts", layer.view().experts().len());
    let start = Instant::now();
    let prepared = trellect::prepare(backend, layer, |_| progress.step())?;
    Ok((prepared, start.elapsed().as_secs_f64()))
}

/// The kernel that `--kernel` names, as this machine has it.
fn find_kernel(
    name: &str,
    backend: &dyn Backend,
    layer: &LayerView<'_>,
) -> anyhow::Result<KernelSpec> {
    let tuples: Vec<_> = layer.experts().iter().map(|expert| expert.tuple()).collect();
    let candidates = backend.kernels(layer.shape(), &tuples);
    if let Ok(asked) = name.parse::<KernelId>() {
        let named = |id: KernelId| asked.names(id);
        if let Some(spec) = candidates.iter().flatten().find(|spec| named(spec.id)) {
            return Ok(*spec);
        }
        let mut absent = candidates.iter().filter_map(|candidate| candidate.as_ref().err());
        if let Some(rejection) = absent.find(|rejection| named(rejection.kernel)) {
            bail!("--kernel {rejection}");
        }
    }
    let mut names: Vec<String> = Vec::new();
    for spec in candidates.iter().filter_map(|candidate: &Candidate| candidate.as_ref().ok()) {
        let plain = spec.id.plain().to_string();
        if !names.contains(&plain) {
            names.push(plain);
        }
    }
    bail!("--kernel: this layer has no kernel `{name}` here; it has: {}", names.join(", "))
}
