//! What `run` prints. The field names are stable; `docs/cli.md` explains them.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use trellect::core::{Backend, LayerShape};
use trellect::exl3::MoeLayer;
use trellect::{Report, is_exploration};

use super::learning::LearningReport;
use super::measure::{KernelRuns, Row};
use super::source::Source;
use crate::device::Device;
use crate::facts;
use crate::table::{self, Column};

/// The outcome of a run.
#[derive(Debug, Serialize)]
pub(super) struct RunReport {
    /// The device.
    pub(super) machine: MachineReport,
    /// The layer.
    pub(super) layer: LayerReport,
    /// Where routings came from: `router`, `random` or `input`.
    pub(super) routing: &'static str,
    /// Experts per token.
    pub(super) top_k: usize,
    /// One entry per number of tokens.
    pub(super) rows: Vec<RowReport>,
    /// What the adaptive policy learned; `null` where the rules or a flag chose.
    pub(super) learning: Option<LearningReport>,
    /// Largest resident set of this process, where the system tells.
    pub(super) peak_memory_bytes: Option<u64>,
}

/// The device of a run.
#[derive(Debug, Serialize)]
pub(super) struct MachineReport {
    backend: String,
    device: String,
    /// Of the cpu backend.
    threads: Option<usize>,
    /// Of the cpu backend.
    max_isa: Option<&'static str>,
}

impl MachineReport {
    /// Describes `backend`.
    pub(super) fn new(backend: &Device) -> Self {
        Self {
            backend: backend.kind().to_string(),
            device: backend.describe().name,
            threads: backend.threads(),
            max_isa: backend.max_isa(),
        }
    }
}

/// The layer of a run.
#[derive(Debug, Serialize)]
pub(super) struct LayerReport {
    source: String,
    number: usize,
    prefix: String,
    #[serde(flatten)]
    shape: ShapeReport,
    tuples: BTreeMap<String, usize>,
    codebooks: BTreeMap<&'static str, usize>,
    trellis_bytes: u64,
    prepared_bytes: u64,
    prepare_seconds: f64,
    prepare_gb_per_s: f64,
}

#[derive(Debug, Serialize)]
struct ShapeReport {
    hidden_size: usize,
    intermediate_size: usize,
    experts: usize,
}

impl LayerReport {
    /// Describes a layer that took `prepare_seconds` to become `prepared_bytes`.
    pub(super) fn new(
        source: &Source,
        layer: &MoeLayer<'_>,
        prepared_bytes: u64,
        prepare_seconds: f64,
    ) -> Self {
        let view = layer.view();
        let &LayerShape { hidden_size, intermediate_size, num_experts } = view.shape();
        Self {
            source: source.name.clone(),
            number: layer.number(),
            prefix: layer.prefix().into(),
            shape: ShapeReport { hidden_size, intermediate_size, experts: num_experts },
            tuples: facts::tuples(view),
            codebooks: facts::codebooks(view),
            trellis_bytes: view.trellis_bytes(),
            prepared_bytes,
            prepare_seconds,
            prepare_gb_per_s: view.trellis_bytes() as f64 / prepare_seconds / 1e9,
        }
    }
}

/// One number of tokens. Times are of the kernel that served most launches; what describes one call
/// (`gb_per_s` and all below it) is of its median launch.
#[derive(Debug, Serialize)]
pub(super) struct RowReport {
    tokens: usize,
    kernel_name: Option<String>,
    reason: &'static str,
    launches: usize,
    latency_ms: Option<f64>,
    p10_ms: Option<f64>,
    p90_ms: Option<f64>,
    gb_per_s: Option<f64>,
    /// `null` where there is no token, or the result is not finite where it should be.
    error: Option<f64>,
    error_limit: Option<f64>,
    within_limit: bool,
    numeric: Option<&'static str>,
    numeric_downgrade: bool,
    memory_pressure: Option<f64>,
    active_experts: usize,
    activation_rate: f64,
    top_expert_share: f64,
    entropy_bits: f64,
    rows_per_tuple: BTreeMap<String, usize>,
    /// The kernel of the first launch.
    first_kernel: Option<String>,
    /// The kernel of the last launch that was no probe.
    last_kernel: Option<String>,
    other_kernels: Vec<OtherKernel>,
}

/// A kernel that served other launches of the row: another routing, another choice.
#[derive(Debug, Serialize)]
struct OtherKernel {
    kernel_name: String,
    reason: &'static str,
    launches: usize,
    latency_ms: Option<f64>,
    error: f64,
    error_limit: f64,
    within_limit: bool,
}

/// Reports a measured row.
pub(super) fn row(row: &Row) -> RowReport {
    let runs = row.kernels.first();
    let median = runs.map(|runs| runs.quantile(0.5));
    let quantile = |q| runs.and_then(|runs| milliseconds(runs.quantile(q)));
    let pattern = median.map(|report| report.pattern).unwrap_or_default();
    let tuples = median.map(|report| report.rows_per_tuple.as_slice()).unwrap_or_default();
    RowReport {
        tokens: row.num_tokens,
        kernel_name: runs.map(|runs| runs.kernel.to_string()),
        reason: median.map_or("no_tokens", Report::reason),
        launches: runs.map_or(0, |runs| runs.reports.len()),
        latency_ms: quantile(0.5),
        p10_ms: quantile(0.1),
        p90_ms: quantile(0.9),
        gb_per_s: median.and_then(Report::gb_per_s),
        error: runs.map(|runs| runs.error),
        error_limit: runs.map(limit),
        within_limit: row.kernels.iter().all(is_within_limit),
        numeric: runs.map(|runs| runs.class.name()),
        numeric_downgrade: median
            .and_then(|report| report.decision)
            .is_some_and(|decision| decision.numeric_downgrade()),
        memory_pressure: median.map(|report| report.memory_pressure),
        active_experts: pattern.active_experts,
        activation_rate: pattern.activation_rate,
        top_expert_share: pattern.top_expert_share,
        entropy_bits: pattern.entropy_bits,
        rows_per_tuple: tuples.iter().map(|(tuple, rows)| (tuple.to_string(), *rows)).collect(),
        first_kernel: row.first_kernel.map(|kernel| kernel.to_string()),
        last_kernel: row.last_kernel.map(|kernel| kernel.to_string()),
        other_kernels: row.kernels.iter().skip(1).map(OtherKernel::new).collect(),
    }
}

impl OtherKernel {
    fn new(runs: &KernelRuns) -> Self {
        let median = runs.quantile(0.5);
        Self {
            kernel_name: runs.kernel.to_string(),
            reason: median.reason(),
            launches: runs.reports.len(),
            latency_ms: milliseconds(median),
            error: runs.error,
            error_limit: limit(runs),
            within_limit: is_within_limit(runs),
        }
    }
}

fn milliseconds(report: &Report) -> Option<f64> {
    Some(report.latency?.as_secs_f64() * 1e3)
}

fn limit(runs: &KernelRuns) -> f64 {
    runs.class.max_relative_error()
}

fn is_within_limit(runs: &KernelRuns) -> bool {
    runs.error <= limit(runs)
}

impl RunReport {
    /// One text for every kernel whose error is above its limit.
    pub(super) fn above_limit(&self) -> Vec<String> {
        self.rows.iter().flat_map(failures).collect()
    }
}

fn failures(row: &RowReport) -> Vec<String> {
    let first = (row.kernel_name.as_deref(), row.error, row.error_limit);
    let others = row
        .other_kernels
        .iter()
        .map(|other| (Some(&*other.kernel_name), Some(other.error), Some(other.error_limit)));
    let above = |(kernel, error, limit): (Option<&str>, Option<f64>, Option<f64>)| {
        let (kernel, error, limit) = (kernel?, error?, limit?);
        let tokens = table::plural(row.tokens, "token");
        let text = || format!("{kernel} at {tokens}: {error:.1e}, limit {limit:.1e}");
        (error > limit).then(text)
    };
    std::iter::once(first).chain(others).filter_map(above).collect()
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, layer, .. } = self;
        let ShapeReport { hidden_size, intermediate_size, experts } = layer.shape;
        writeln!(f, "{}: layer {} ({})", layer.source, layer.number, layer.prefix)?;
        writeln!(
            f,
            "  hidden {hidden_size}, intermediate {intermediate_size}, {}: {}",
            table::plural(experts, "expert"),
            facts::describe_tuples(&layer.tuples)
        )?;
        writeln!(
            f,
            "  {} of trellis, prepared as {} in {:.2} s ({:.2} GB/s)",
            table::bytes(layer.trellis_bytes),
            table::bytes(layer.prepared_bytes),
            layer.prepare_seconds,
            layer.prepare_gb_per_s
        )?;
        let threads = machine.threads.map(|threads| table::plural(threads, "thread"));
        let threads = threads.map_or_else(String::new, |threads| format!(", {threads}"));
        writeln!(
            f,
            "  {} on {}{threads}; routing: {}, top-{}\n",
            machine.backend, machine.device, self.routing, self.top_k
        )?;
        write_rows(f, &self.rows)?;
        if let Some(learning) = &self.learning {
            write!(f, "\n{learning}")?;
        }
        writeln!(f)?;
        if let Some(bytes) = self.peak_memory_bytes {
            writeln!(f, "peak memory {}", table::bytes(bytes))?;
        }
        match self.rows.iter().all(|row| row.within_limit) {
            true => writeln!(f, "every error is within the limit of its numeric class"),
            false => writeln!(f, "an error is ABOVE the limit of its numeric class"),
        }
    }
}

fn write_rows(f: &mut fmt::Formatter<'_>, rows: &[RowReport]) -> fmt::Result {
    let columns = [
        Column::Right("tokens"),
        Column::Left("kernel"),
        Column::Left("reason"),
        Column::Right("ms"),
        Column::Right("p10-p90"),
        Column::Right("GB/s"),
        Column::Right("error"),
        Column::Right("limit"),
    ];
    let cells = |row: &RowReport| {
        let range = row.p10_ms.zip(row.p90_ms);
        vec![
            row.tokens.to_string(),
            row.kernel_name.clone().unwrap_or_else(|| "-".into()),
            row.reason.into(),
            table::optional(row.latency_ms, |ms| format!("{ms:.3}")),
            table::optional(range, |(p10, p90)| format!("{p10:.2}-{p90:.2}")),
            table::optional(row.gb_per_s, |rate| format!("{rate:.2}")),
            table::optional(row.error, |error| format!("{error:.1e}")),
            table::optional(row.error_limit, |limit| {
                format!("{limit:.1e} {}", row.numeric.unwrap_or_default())
            }),
        ]
    };
    f.write_str(&table::render(&columns, rows.iter().map(cells).collect()))?;
    for row in rows {
        let tokens = table::plural(row.tokens, "token");
        let all = row.launches + row.other_kernels.iter().map(|o| o.launches).sum::<usize>();
        let (tried, served): (Vec<_>, Vec<_>) =
            row.other_kernels.iter().partition(|other| is_exploration(other.reason));
        for other in served {
            writeln!(
                f,
                "  at {tokens} {} of {all} launches were served by {} ({}): {} ms, error {:.1e}",
                other.launches,
                other.kernel_name,
                other.reason,
                table::optional(other.latency_ms, |ms| format!("{ms:.3}")),
                other.error
            )?;
        }
        if !tried.is_empty() {
            let launches: usize = tried.iter().map(|other| other.launches).sum();
            let kernels = table::plural(tried.len(), "other kernel");
            writeln!(f, "  at {tokens} {launches} of {all} launches tried {kernels}")?;
        }
        if row.numeric_downgrade {
            let class = row.numeric.unwrap_or_default();
            writeln!(f, "  numeric downgrade at {tokens}: only class {class} could serve")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use trellect::core::{Family, KernelId, NumericClass};

    use super::*;

    fn runs(family: Family, error: f64) -> KernelRuns {
        let kernel = KernelId::new(family);
        let report = |ms| Report {
            kernel: Some(kernel),
            decision: None,
            selection: None,
            fallback: None,
            latency: Some(Duration::from_millis(ms)),
            num_tokens: 1,
            rows_per_tuple: Default::default(),
            active_bytes: 3_000_000,
            memory_pressure: 0.0,
            pattern: Default::default(),
        };
        let reports = (1..=11).map(report).collect();
        KernelRuns { kernel, class: NumericClass::Half, error, reports }
    }

    fn measured(kernels: Vec<KernelRuns>) -> Row {
        let (first_kernel, last_kernel) = (None, None);
        Row { num_tokens: 1, kernels, first_kernel, last_kernel, first_output: Vec::new() }
    }

    #[test]
    fn a_row_reports_the_quantiles_of_its_first_kernel() {
        let kernels = vec![runs(Family::Decode, 1e-4), runs(Family::Base, 1e-4)];
        let row = row(&measured(kernels));
        assert_eq!((row.p10_ms, row.latency_ms, row.p90_ms), (Some(2.0), Some(6.0), Some(10.0)));
        assert_eq!((row.gb_per_s, row.launches), (Some(0.5), 11));
        assert_eq!(row.other_kernels[0].kernel_name, "moe_trellis_swiglu");
        assert!(row.within_limit && failures(&row).is_empty());
    }

    #[test]
    fn every_kernel_above_its_limit_is_named() {
        let kernels = vec![runs(Family::Decode, 3e-3), runs(Family::Base, f64::INFINITY)];
        let row = row(&measured(kernels));
        assert!(!row.within_limit);
        assert_eq!(
            failures(&row),
            [
                "moe_trellis_swiglu_decode at 1 token: 3.0e-3, limit 2.0e-3",
                "moe_trellis_swiglu at 1 token: inf, limit 2.0e-3",
            ]
        );
    }
}
