//! `trellect select`: one decision from flags.

mod adaptive;

use std::fmt;

use clap::Args;
use serde::Serialize;
use trellect::core::{BitTuple, Bits, CallFacts, KernelId, NumericClass};
use trellect::select::{
    Considered, Decision, Reason, Request, RuleConfig, RulePolicy, Verdict, catalogue,
};

use crate::args::{DeviceArgs, PolicyArg, ShapeArg, parse_share};
use crate::history_file::OptionalHistoryArgs;
use crate::output;
use crate::table::{self, Column};

const EXAMPLES: &str = "\
The rules decide among the kernels of the catalogue by their plain names; no device is asked. With an
exploration rate above 0 and no seed, two runs may decide differently. The adaptive policy decides
among the processor's kernels for a layer whose experts all have the one tuple, going by the history,
for a call that spreads evenly over the experts. Nothing runs.

Examples:
  trellect select --batch 1 --gate 6 --up 2 --down 3 --exploration 0
  trellect select --batch 8 --bits 2,2,3,4 --explain --seed 1
  trellect select --batch 64 --pressure 0.95 --fp32-acc --json
  trellect select --policy adaptive --batch 4 --gate 6 --up 2 --down 3 --explain";

/// The flags of `select`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SelectArgs {
    /// Number of tokens.
    #[arg(long, value_name = "N", value_parser = parse_batch)]
    batch: usize,
    /// Widths of the active experts, each 1 to 8; they tell the reported family.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_bits)]
    bits: Vec<Bits>,
    /// Width of the gate projection.
    #[arg(long, value_name = "BITS", value_parser = parse_bits, requires_all = ["up", "down"])]
    gate: Option<Bits>,
    /// Width of the up projection.
    #[arg(long, value_name = "BITS", value_parser = parse_bits, requires_all = ["gate", "down"])]
    up: Option<Bits>,
    /// Width of the down projection.
    #[arg(long, value_name = "BITS", value_parser = parse_bits, requires_all = ["gate", "up"])]
    down: Option<Bits>,
    /// Used share of the device's memory, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = parse_share)]
    pressure: f64,
    /// Ask for float32 accumulation.
    #[arg(long)]
    fp32_acc: bool,
    /// The only kernels that may serve [default: all].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_kernel)]
    available: Option<Vec<KernelId>>,
    /// How to decide.
    #[arg(long, value_enum, default_value_t = PolicyArg::Rules)]
    policy: PolicyArg,
    /// With --policy adaptive, the layer's shape: a model's name or HIDDENxINTERxEXPERTSxTOPK.
    #[arg(long, value_name = "SHAPE", default_value = "glm-4.7-flash")]
    shape: ShapeArg,
    #[command(flatten)]
    history: OptionalHistoryArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Probability, 0 to 1, of trying another legal kernel.
    #[arg(long, value_name = "RATE", default_value_t = 0.05, value_parser = parse_share)]
    exploration: f64,
    /// Seed of the exploration [default: another one each time].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Show every candidate and what became of it.
    #[arg(long)]
    explain: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// A decision's metadata.
#[derive(Debug, Serialize)]
struct DecisionReport {
    kernel_name: String,
    reason: &'static str,
    tile_n: usize,
    bucket: &'static str,
    heuristic_family: &'static str,
    baseline_kernel: String,
    explored: bool,
    fallback_from: Option<String>,
    message: Option<String>,
    numeric: &'static str,
    numeric_downgrade: bool,
    /// With this the decision can be repeated.
    seed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    considered: Option<Vec<ConsideredReport>>,
}

/// What became of a candidate.
#[derive(Debug, Serialize)]
struct ConsideredReport {
    kernel_name: String,
    verdict: String,
}

/// Decides and prints the decision.
///
/// # Errors
/// When no kernel may serve.
pub(crate) fn run(args: &SelectArgs) -> anyhow::Result<()> {
    if args.policy == PolicyArg::Adaptive {
        return adaptive::run(args);
    }
    let config =
        RuleConfig { exploration_rate: args.exploration, seed: args.seed, ..RuleConfig::default() };
    let mut policy = RulePolicy::new(config)?;
    let candidates = catalogue(policy.thresholds());
    let tuple = args.tuple();
    let request = args.request(args.batch, tuple.as_slice());
    let decision = policy.select(&request, &candidates)?;
    let considered = match args.explain {
        true => Some(policy.explain(&request, &candidates)?.considered),
        false => None,
    };
    let report = DecisionReport::new(&decision, policy.seed(), considered.as_deref());
    match args.json {
        true => output::print_json(&report),
        false => output::print(&report.to_string()),
    }
}

impl SelectArgs {
    fn numeric(&self) -> NumericClass {
        if self.fp32_acc { NumericClass::Exact } else { NumericClass::Half }
    }

    /// What a policy is asked about a call of `num_pairs` pairs.
    fn request<'a>(&'a self, num_pairs: usize, active_tuples: &'a [BitTuple]) -> Request<'a> {
        Request {
            active_bits: &self.bits,
            memory_pressure: self.pressure,
            available: self.available.as_deref(),
            ..Request::new(CallFacts {
                num_tokens: self.batch,
                num_pairs,
                active_tuples,
                numeric: self.numeric(),
                workspace_limit: None,
            })
        }
    }

    /// The widths of the three projections, where they were given.
    fn tuple(&self) -> Option<BitTuple> {
        let widths = self.gate.zip(self.up).zip(self.down);
        widths.map(|((gate, up), down)| BitTuple { gate, up, down })
    }
}

impl DecisionReport {
    fn new(decision: &Decision, seed: u64, considered: Option<&[Considered]>) -> Self {
        let considered = considered.map(|considered| {
            considered.iter().map(|candidate| ConsideredReport::new(candidate, decision)).collect()
        });
        Self {
            kernel_name: decision.kernel.to_string(),
            reason: decision.reason.as_str(),
            tile_n: decision.tile_n,
            bucket: decision.bucket.as_str(),
            heuristic_family: decision.heuristic_family.as_str(),
            baseline_kernel: decision.baseline_kernel.to_string(),
            explored: decision.explored,
            fallback_from: decision.fallback_from.map(|kernel| kernel.to_string()),
            message: decision.message(),
            numeric: decision.class.name(),
            numeric_downgrade: decision.numeric_downgrade(),
            seed,
            considered,
        }
    }
}

impl ConsideredReport {
    /// What became of `candidate` in this very decision, which may have explored.
    fn new(candidate: &Considered, decision: &Decision) -> Self {
        let verdict = match &candidate.verdict {
            Verdict::Alternative if candidate.kernel == decision.kernel => {
                Verdict::Chosen(Reason::Exploration).to_string()
            }
            Verdict::Chosen(reason) if decision.explored => {
                format!("the rules' choice ({reason}), another was tried")
            }
            verdict => verdict.to_string(),
        };
        Self { kernel_name: candidate.kernel.to_string(), verdict }
    }
}

impl fmt::Display for DecisionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.kernel_name)?;
        writeln!(f, "  reason            {}", self.reason)?;
        writeln!(f, "  bucket            {}", self.bucket)?;
        writeln!(f, "  heuristic family  {}", self.heuristic_family)?;
        writeln!(f, "  tile_n            {}", self.tile_n)?;
        writeln!(f, "  numeric class     {}", self.numeric)?;
        if self.explored {
            writeln!(f, "  explored          instead of {}", self.baseline_kernel)?;
        }
        if let Some(message) = &self.message {
            writeln!(f, "  {message}")?;
        }
        if self.numeric_downgrade {
            writeln!(f, "  numeric downgrade: float32 accumulation was asked for")?;
        }
        let Some(considered) = &self.considered else { return Ok(()) };
        let columns = [Column::Left("kernel"), Column::Left("verdict")];
        let cells = considered.iter().map(|c| vec![c.kernel_name.clone(), c.verdict.clone()]);
        write!(f, "\n{}", table::render(&columns, cells.collect()))
    }
}

fn parse_batch(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(batch) if batch > 0 => Ok(batch),
        _ => Err("expected a number of tokens, 1 or more".into()),
    }
}

fn parse_bits(text: &str) -> Result<Bits, String> {
    let bits = text.trim().parse::<u64>().map_err(|_| "expected a width of 1 to 8".to_owned())?;
    Bits::new(bits).map_err(|error| error.to_string())
}

fn parse_kernel(text: &str) -> Result<KernelId, String> {
    text.trim().parse().map_err(|error: trellect::core::KernelNameError| error.to_string())
}
