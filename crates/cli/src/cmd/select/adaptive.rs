//! `select --policy adaptive`: what the history says of a call on this processor.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::CommandFactory;
use clap::error::ErrorKind;
use serde::Serialize;
use trellect::core::{Backend, KernelId, KernelSpec, NumericClass};
use trellect::select::adaptive::{AdaptiveExplanation, ExpertLoad, Mode};
use trellect::select::{RuleConfig, RulePolicy, Thresholds};
use trellect::{Selector, SelectorOptions};

use super::SelectArgs;
use crate::args::Cli;
use crate::output;
use crate::table::{self, Column};

/// What the adaptive policy thinks of a call.
#[derive(Debug, Serialize)]
struct AdaptiveReport {
    kernel_name: String,
    /// `incumbent` where the history knows the context, else `default`: the rules' pick.
    reason: &'static str,
    /// The rules' pick.
    default_kernel: String,
    numeric: &'static str,
    /// Log wealth that the next winner needs.
    winning_wealth: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    considered: Option<Vec<ArmReport>>,
}

/// An arm and what became of it.
#[derive(Debug, Serialize)]
struct ArmReport {
    kernel_name: String,
    bound_ms: f64,
    estimate_ms: f64,
    /// Standard deviation of the estimate, as a share.
    estimate_sd: f64,
    samples: f64,
    pairs: f64,
    /// Mean log ratio of the incumbent's time to its own in those pairs.
    gain: f64,
    verdict: String,
}

/// Decides and prints the decision.
///
/// # Errors
/// When no kernel may serve.
pub(super) fn run(args: &SelectArgs) -> anyhow::Result<()> {
    let Some(tuple) = args.tuple() else {
        let message = "--policy adaptive needs --gate, --up and --down";
        Cli::command().error(ErrorKind::MissingRequiredArgument, message).exit();
    };
    let backend: Arc<dyn Backend> = Arc::new(args.device.open()?);
    let numeric = args.numeric();
    let shape = args.shape.shape;
    let candidates: Vec<KernelSpec> =
        backend.kernels(&shape, &[tuple]).into_iter().flatten().collect();
    let tuples = [tuple];
    let request = args.request(args.batch * args.shape.top_k, &tuples);
    let thresholds = Some(Thresholds::of(backend.kind()));
    let rules = RuleConfig { exploration_rate: 0.0, thresholds, ..RuleConfig::default() };
    let decision = RulePolicy::new(rules)?.select(&request, &candidates)?;
    let is_listed = |spec: &&KernelSpec| {
        let names = |name: &KernelId| name.names(spec.id);
        spec.class == numeric && args.available.as_ref().is_none_or(|list| list.iter().any(names))
    };
    let arms: Vec<KernelSpec> = candidates.iter().filter(is_listed).copied().collect();
    let selector = Selector::new(SelectorOptions {
        history: args.history.path().filter(|path| path.exists()),
        calibration_budget: Duration::ZERO,
        background: false,
        ..SelectorOptions::default()
    });
    selector.set_mode(Mode::Frozen);
    let loads: Vec<ExpertLoad> = even_loads(args).map(|rows| ExpertLoad { tuple, rows }).collect();
    let explanation = selector.explain(&backend, shape, arms, numeric, args.batch, loads);
    let explanation = explanation.context("no kernel of the class asked for")?;
    let report = AdaptiveReport::new(&explanation, decision.kernel, numeric, args.explain);
    match args.json {
        true => output::print_json(&report),
        false => output::print(&report.to_string()),
    }
}

/// Rows of every active expert when the pairs spread evenly.
fn even_loads(args: &SelectArgs) -> impl Iterator<Item = u32> {
    let pairs = args.batch.saturating_mul(args.shape.top_k);
    let experts = args.shape.shape.num_experts.min(pairs);
    let rows = move |expert: usize| pairs / experts + usize::from(expert < pairs % experts);
    (0..experts).map(move |expert| u32::try_from(rows(expert)).unwrap_or(u32::MAX))
}

impl AdaptiveReport {
    fn new(
        explanation: &AdaptiveExplanation,
        default: KernelId,
        numeric: NumericClass,
        explain: bool,
    ) -> Self {
        let arms = explanation.considered.iter().map(|arm| ArmReport {
            kernel_name: arm.kernel.to_string(),
            bound_ms: arm.bound_ns / 1e6,
            estimate_ms: arm.estimate_ns / 1e6,
            estimate_sd: arm.estimate_sd,
            samples: arm.samples,
            pairs: arm.pairs,
            gain: arm.gain,
            verdict: arm.verdict.to_string(),
        });
        Self {
            kernel_name: explanation.incumbent.unwrap_or(default).to_string(),
            reason: if explanation.incumbent.is_some() { "incumbent" } else { "default" },
            default_kernel: default.to_string(),
            numeric: numeric.name(),
            winning_wealth: explanation.winning_wealth,
            considered: explain.then(|| arms.collect()),
        }
    }
}

impl fmt::Display for AdaptiveReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.kernel_name)?;
        writeln!(f, "  reason            {}", self.reason)?;
        writeln!(f, "  rules' pick       {}", self.default_kernel)?;
        writeln!(f, "  numeric class     {}", self.numeric)?;
        let Some(considered) = &self.considered else { return Ok(()) };
        let columns = [
            Column::Left("kernel"),
            Column::Right("bound ms"),
            Column::Right("estimate ms"),
            Column::Right("+- %"),
            Column::Right("samples"),
            Column::Right("pairs"),
            Column::Right("gain %"),
            Column::Left("verdict"),
        ];
        let cells = considered.iter().map(|arm| {
            vec![
                arm.kernel_name.clone(),
                format!("{:.3}", arm.bound_ms),
                format!("{:.3}", arm.estimate_ms),
                format!("{:.0}", 100.0 * arm.estimate_sd),
                format!("{:.0}", arm.samples),
                format!("{:.0}", arm.pairs),
                format!("{:+.1}", 100.0 * arm.gain),
                arm.verdict.clone(),
            ]
        });
        write!(f, "\n{}", table::render(&columns, cells.collect()))
    }
}
