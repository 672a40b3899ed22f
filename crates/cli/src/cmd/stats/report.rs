//! What `stats` prints. The field names are stable; `docs/cli.md` explains them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Serialize;
use trellect::is_exploration;
use trellect::tune::history::{
    EnvironmentSummary, History, HistoryError, Journal, Record, SelectionCount,
};

use crate::switch::SwitchReport;
use crate::table::{self, Column};

/// What a history holds.
#[derive(Debug, Serialize)]
pub(super) struct StatsReport {
    pub(super) history: String,
    pub(super) environments: Vec<EnvironmentReport>,
}

/// What was chosen in one environment.
#[derive(Debug, Serialize)]
pub(super) struct EnvironmentReport {
    pub(super) id: String,
    pub(super) device: Option<String>,
    threads: Option<String>,
    pub(super) numeric: Option<String>,
    pub(super) calls: u64,
    pub(super) device_seconds: f64,
    /// Share of the device time that the kernels believed fastest would have saved.
    pub(super) regret: f64,
    /// The part of it that probes have cost.
    pub(super) exploration: f64,
    pub(super) selections: Vec<SelectionReport>,
    contexts: Vec<ContextReport>,
    pub(super) switches: Vec<SwitchReport>,
}

/// Calls that one kernel served for one reason, over all contexts of a bucket.
#[derive(Debug, Serialize)]
pub(super) struct SelectionReport {
    pub(super) bucket: String,
    pub(super) kernel_name: String,
    pub(super) reason: String,
    pub(super) calls: u64,
    pub(super) total_ms: f64,
    pub(super) lost_ms: f64,
}

/// A context and the kernels that were measured in it.
#[derive(Debug, Serialize)]
struct ContextReport {
    context: String,
    bucket: String,
    /// Its first call, in words.
    call: String,
    incumbent: String,
    calls: u64,
    kernels: Vec<KernelReport>,
}

/// The latencies of a kernel in a context.
#[derive(Debug, Serialize)]
struct KernelReport {
    kernel_name: String,
    samples: u64,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
}

impl StatsReport {
    /// Reads everything.
    pub(super) fn read(path: &Path, history: &History) -> Result<Self, HistoryError> {
        let mut environments = Vec::new();
        for summary in history.environments()? {
            let journal = history.journal(&summary.id)?;
            environments.push(EnvironmentReport::new(&summary, &journal));
        }
        Ok(Self { history: path.display().to_string(), environments })
    }
}

impl EnvironmentReport {
    fn new(summary: &EnvironmentSummary, journal: &Journal) -> Self {
        let field = |name: &str| summary.fingerprint.as_ref()?.hard.get(name).cloned();
        let sum = |of: fn(&SelectionCount) -> u64| journal.selections.iter().map(of).sum::<u64>();
        let total_ns = sum(|selection| selection.total_ns);
        let share = |lost: u64| if total_ns == 0 { 0.0 } else { lost as f64 / total_ns as f64 };
        let explored = journal.selections.iter().filter(|s| is_exploration(&s.reason));
        let switches = journal.switches.iter();
        Self {
            id: summary.id.clone(),
            device: field("device"),
            threads: field("threads"),
            numeric: field("numeric"),
            calls: sum(|selection| selection.calls),
            device_seconds: total_ns as f64 / 1e9,
            regret: share(sum(|selection| selection.lost_ns)),
            exploration: share(explored.map(|selection| selection.lost_ns).sum()),
            selections: selections(journal),
            contexts: contexts(journal),
            switches: switches.map(|s| SwitchReport::new(s, &journal.contexts)).collect(),
        }
    }
}

/// Selections summed over the contexts of a bucket, the most calls first.
fn selections(journal: &Journal) -> Vec<SelectionReport> {
    let buckets: BTreeMap<u64, &str> =
        journal.contexts.iter().map(|note| (note.context, note.bucket.as_str())).collect();
    let mut sums: BTreeMap<(&str, String, &str), (u64, u64, u64)> = BTreeMap::new();
    for selection in &journal.selections {
        let bucket = buckets.get(&selection.context).copied().unwrap_or("unknown");
        let key = (bucket, selection.kernel.to_string(), selection.reason.as_str());
        let (calls, total_ns, lost_ns) = sums.entry(key).or_default();
        *calls += selection.calls;
        *total_ns += selection.total_ns;
        *lost_ns += selection.lost_ns;
    }
    let report = |((bucket, kernel_name, reason), (calls, total_ns, lost_ns))| SelectionReport {
        bucket: str::to_owned(bucket),
        kernel_name,
        reason: str::to_owned(reason),
        calls,
        total_ms: milliseconds(total_ns),
        lost_ms: milliseconds(lost_ns),
    };
    let mut reports: Vec<SelectionReport> = sums.into_iter().map(report).collect();
    reports.sort_by_key(|report| std::cmp::Reverse(report.calls));
    reports
}

fn contexts(journal: &Journal) -> Vec<ContextReport> {
    let kernel = |record: &Record| KernelReport {
        kernel_name: record.kernel.to_string(),
        samples: record.statistics.count(),
        p50_ms: record.statistics.quantile_ns(0.5).map(milliseconds),
        p95_ms: record.statistics.quantile_ns(0.95).map(milliseconds),
    };
    let report = |note: &trellect::tune::history::ContextNote| {
        let of_context = journal.selections.iter().filter(|s| s.context == note.context);
        let records = journal.records.iter().filter(|record| record.context == note.context);
        let mut kernels: Vec<KernelReport> = records.map(kernel).collect();
        kernels.sort_by_key(|kernel| std::cmp::Reverse(kernel.samples));
        ContextReport {
            context: format!("{:016x}", note.context),
            bucket: note.bucket.clone(),
            call: note.call.to_string(),
            incumbent: note.incumbent.to_string(),
            calls: of_context.map(|selection| selection.calls).sum(),
            kernels,
        }
    };
    let mut reports: Vec<ContextReport> = journal.contexts.iter().map(report).collect();
    reports.sort_by_key(|report| std::cmp::Reverse(report.calls));
    reports
}

fn milliseconds(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// Rows of selections that the text shows.
const MOST_SELECTIONS: usize = 16;
/// Contexts that the text shows.
const MOST_CONTEXTS: usize = 12;

impl fmt::Display for StatsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "history {}", self.history)?;
        for environment in &self.environments {
            write!(f, "\n{environment}")?;
        }
        Ok(())
    }
}

impl fmt::Display for EnvironmentReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title())?;
        writeln!(
            f,
            "  {} calls, {:.2} s; lost to slower kernels {:.2} %, by probing {:.2} %",
            self.calls,
            self.device_seconds,
            100.0 * self.regret,
            100.0 * self.exploration
        )?;
        if self.selections.is_empty() {
            return Ok(());
        }
        let columns = [
            Column::Left("bucket"),
            Column::Left("kernel"),
            Column::Left("reason"),
            Column::Right("calls"),
            Column::Right("ms"),
            Column::Right("lost ms"),
        ];
        let cells = self.selections.iter().take(MOST_SELECTIONS).map(|selection| {
            vec![
                selection.bucket.clone(),
                selection.kernel_name.clone(),
                selection.reason.clone(),
                selection.calls.to_string(),
                format!("{:.1}", selection.total_ms),
                format!("{:.2}", selection.lost_ms),
            ]
        });
        write!(f, "\n{}", table::render(&columns, cells.collect()))?;
        if self.selections.len() > MOST_SELECTIONS {
            writeln!(f, "and {} rows more", self.selections.len() - MOST_SELECTIONS)?;
        }
        write_contexts(f, &self.contexts)?;
        if !self.switches.is_empty() {
            writeln!(f, "\nswitches, oldest first:")?;
        }
        self.switches.iter().try_for_each(|switch| writeln!(f, "  {switch}"))
    }
}

fn write_contexts(f: &mut fmt::Formatter<'_>, contexts: &[ContextReport]) -> fmt::Result {
    for context in contexts.iter().take(MOST_CONTEXTS) {
        writeln!(f, "\n{} ({} calls):", context.call, context.calls)?;
        let columns = [
            Column::Left("kernel"),
            Column::Right("samples"),
            Column::Right("p50 ms"),
            Column::Right("p95 ms"),
            Column::Left(""),
        ];
        let cells = context.kernels.iter().map(|kernel| {
            let serves = kernel.kernel_name == context.incumbent;
            vec![
                kernel.kernel_name.clone(),
                kernel.samples.to_string(),
                table::optional(kernel.p50_ms, |ms| format!("{ms:.3}")),
                table::optional(kernel.p95_ms, |ms| format!("{ms:.3}")),
                if serves { "serves" } else { "" }.into(),
            ]
        });
        f.write_str(&table::render(&columns, cells.collect()))?;
    }
    match contexts.len().saturating_sub(MOST_CONTEXTS) {
        0 => Ok(()),
        more => writeln!(f, "\nand {more} contexts more; --json has them all"),
    }
}

impl EnvironmentReport {
    /// Kernels with their latencies, by bucket: those of the context with the most samples.
    pub(super) fn latencies(&self) -> impl Iterator<Item = Latency<'_>> {
        let mut most: BTreeMap<(&str, &str), &KernelReport> = BTreeMap::new();
        for context in &self.contexts {
            for kernel in &context.kernels {
                let place = most.entry((&context.bucket, &kernel.kernel_name)).or_insert(kernel);
                if kernel.samples > place.samples {
                    *place = kernel;
                }
            }
        }
        most.into_iter().filter_map(|((bucket, kernel_name), kernel)| {
            let (p50_ms, p95_ms) = (kernel.p50_ms?, kernel.p95_ms?);
            Some(Latency { bucket, kernel_name, samples: kernel.samples, p50_ms, p95_ms })
        })
    }

    /// Device, threads and numeric class, in words.
    pub(super) fn title(&self) -> String {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".into());
        let threads = match self.threads.as_deref() {
            Some("1") => "1 thread".into(),
            _ => format!("{} threads", text(&self.threads)),
        };
        format!("{}, {threads}, class {}", text(&self.device), text(&self.numeric))
    }
}

/// Latencies of a kernel in a bucket.
pub(super) struct Latency<'a> {
    pub(super) bucket: &'a str,
    pub(super) kernel_name: &'a str,
    pub(super) samples: u64,
    pub(super) p50_ms: f64,
    pub(super) p95_ms: f64,
}
