//! What a sweep found.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use trellect_tune::matrix::{Matrix, MatrixContext};

use super::Keeper;
use crate::table::{self, Column};

/// The kernels of every context, and where the latencies are.
#[derive(Debug, Serialize)]
pub(super) struct TuneReport {
    name: String,
    device: String,
    history: String,
    environment: String,
    /// Latencies that went into the history.
    latencies: u64,
    interrupted: bool,
    contexts: Vec<ContextReport>,
}

#[derive(Debug, Serialize)]
struct ContextReport {
    tokens: usize,
    routing: String,
    rounds: usize,
    /// Mean over the rounds of the memory bandwidth measured beside the kernels.
    ceiling_gib_per_s: f64,
    /// Kernels by their median, fastest first.
    kernels: Vec<KernelReport>,
}

#[derive(Debug, Serialize)]
struct KernelReport {
    kernel_name: String,
    median_ms: f64,
    /// Median over that of the fastest kernel.
    ratio: f64,
}

impl TuneReport {
    pub(super) fn new(matrix: &Matrix, history: &Path, keeper: &Keeper, interrupted: bool) -> Self {
        Self {
            name: matrix.name.clone(),
            device: matrix.machine.device.clone(),
            history: history.display().to_string(),
            environment: keeper.environment.clone(),
            latencies: keeper.latencies,
            interrupted,
            contexts: matrix.contexts.iter().map(|it| ContextReport::new(matrix, it)).collect(),
        }
    }
}

impl ContextReport {
    fn new(matrix: &Matrix, context: &MatrixContext) -> Self {
        let medians = matrix.kernels.iter().zip(&context.cells);
        let medians = medians.filter_map(|(kernel, cell)| Some((kernel.name, cell.median_ns()?)));
        let mut medians: Vec<_> = medians.collect();
        medians.sort_by(|a, b| a.1.total_cmp(&b.1));
        let best = medians.first().map_or(f64::NAN, |(_, ns)| *ns);
        let kernels = medians.into_iter().map(|(name, ns)| KernelReport {
            kernel_name: name.to_string(),
            median_ms: ns / 1e6,
            ratio: ns / best,
        });
        let ceilings: f64 = context.rounds.iter().map(|round| round.ceiling_gib_per_s).sum();
        Self {
            tokens: context.num_tokens,
            routing: context.routing.clone(),
            rounds: context.rounds.len(),
            ceiling_gib_per_s: ceilings / context.rounds.len() as f64,
            kernels: kernels.collect(),
        }
    }
}

impl fmt::Display for TuneReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} on {}\n", self.name, self.device)?;
        let columns = [
            Column::Right("tokens"),
            Column::Left("routing"),
            Column::Right("rounds"),
            Column::Right("memory GiB/s"),
            Column::Left("fastest kernel"),
            Column::Right("median ms"),
            Column::Right("next"),
        ];
        let row = |it: &ContextReport| {
            let name = it.kernels.first().map(|kernel| kernel.kernel_name.clone());
            vec![
                it.tokens.to_string(),
                it.routing.clone(),
                it.rounds.to_string(),
                format!("{:.1}", it.ceiling_gib_per_s),
                name.unwrap_or_default(),
                table::optional(it.kernels.first(), |kernel| format!("{:.3}", kernel.median_ms)),
                table::optional(it.kernels.get(1), |kernel| format!("{:.2}x", kernel.ratio)),
            ]
        };
        f.write_str(&table::render(&columns, self.contexts.iter().map(row).collect()))?;
        let interrupted = if self.interrupted { "interrupted; " } else { "" };
        writeln!(f, "\n{interrupted}{} latencies are in {}", self.latencies, self.history)
    }
}
