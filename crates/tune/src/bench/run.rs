//! What a run of the benchmark found, as it is kept in a file.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{CellTimes, KernelTimes};
use crate::statistics::{median, median_interval, quantile};

/// The first field of every file.
pub const FORMAT: &str = "trellect-bench";
/// The version of the format that is written and read.
pub const VERSION: u32 = 1;

/// The confidence of every interval.
pub(super) const CONFIDENCE: f64 = 0.95;

/// A run: where, how, and one cell per workload and kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchRun {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// When it began, in seconds since 1970.
    pub recorded_unix_s: u64,
    /// What it took.
    pub seconds: f64,
    /// Whether it ended before all cells were measured.
    pub interrupted: bool,
    /// Where.
    pub machine: BenchMachine,
    /// How.
    pub method: BenchMethod,
    /// What was measured.
    pub cells: Vec<BenchCell>,
    /// Legal kernels that were not measured.
    pub left_out: Vec<BenchLeftOut>,
}

/// The machine of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchMachine {
    /// The backend.
    pub backend: String,
    /// The device's name.
    pub device: String,
    /// What else the backend says of it: instruction sets, driver and so on.
    pub facts: Vec<(String, String)>,
    /// Operating system and architecture.
    pub system: String,
    /// Processors that this process may use at once.
    pub processors: usize,
    /// The processor's caches, as far as the system tells.
    pub caches: Vec<Cache>,
    /// Bytes of memory, or the limit put on this process; of the device.
    pub memory_bytes: u64,
    /// Bytes of it that were available at the start.
    pub available_bytes: u64,
    /// The system's mode of transparent huge pages, where there is one; weights and the buffer of
    /// the ceiling both ask for them.
    pub huge_pages: Option<String>,
    /// What the machine delivers, by number of threads; empty where it was not measured.
    pub ceilings: Vec<Ceiling>,
}

/// One cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// 1 is next to the core.
    pub level: u32,
    /// `data`, `instruction` or `unified`.
    pub kind: String,
    /// Bytes.
    pub bytes: u64,
    /// Processors that share it, as the system numbers them.
    pub processors: String,
}

/// The machine's own limits with some number of threads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Threads.
    pub threads: usize,
    /// 10⁹ bytes read per second before the first cell.
    pub read_gb_per_s_before: f64,
    /// The same after the last one.
    pub read_gb_per_s_after: f64,
    /// The median of all measurements, one before and one after every cell.
    pub read_gb_per_s: f64,
    /// float32 multiply-adds in a bare loop, in 10⁹ operations per second, where it was measured.
    pub fp32_fma_gflop_per_s: Option<f64>,
    /// 8-bit dot products in a bare loop, likewise; AMX is not among them.
    pub int8_dot_gop_per_s: Option<f64>,
}

/// How a run measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchMethod {
    /// Bytes of other weights that are read between two launches on one call; 0: warm.
    pub cold_bytes: u64,
    /// The trellis codebook.
    pub codebook: String,
    /// Samples asked for.
    pub rounds: usize,
    /// Seconds that the run might take.
    pub budget_seconds: f64,
    /// See [`CellPlan::drop_above`](super::CellPlan::drop_above).
    pub drop_above: Option<f64>,
    /// The policy whose picks are marked.
    pub policy: String,
}

/// One kernel on one workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchCell {
    /// The shape's name, or its sizes.
    pub shape: String,
    /// Bit widths: a tuple as in `6_2_3`, or `mixed`.
    pub bits: String,
    /// Tokens of a call.
    pub tokens: usize,
    /// Threads; `None` but on the cpu backend.
    pub threads: Option<usize>,
    /// The backend.
    pub backend: String,
    /// The kernel's name.
    pub kernel: String,
    /// The numeric class.
    pub numeric: String,
    /// Median of the samples.
    pub median_ms: f64,
    /// Lower end of its 95 % bootstrap interval.
    pub low_ms: f64,
    /// Upper end.
    pub high_ms: f64,
    /// Quantile.
    pub p10_ms: f64,
    /// Quantile.
    pub p90_ms: f64,
    /// Trellis bytes of the active experts per second, in 10⁹, at the median.
    pub gb_per_s: f64,
    /// Their weights per second, in 10⁹, each counted once however often it is decoded.
    pub g_weights_per_s: f64,
    /// Two operations for each multiply-add of every (token, expert) pair, in 10⁹ per second.
    pub gflop_per_s: f64,
    /// The larger of the memory's read bandwidths before and after, where it was measured.
    pub ceiling_gb_per_s: Option<f64>,
    /// `gb_per_s / ceiling_gb_per_s`.
    pub share_of_ceiling: Option<f64>,
    /// Relative Frobenius error against the oracle on the first tokens of one call; `None` where it
    /// is infinite.
    pub error: Option<f64>,
    /// Whether that is within the class's limit.
    pub within_limit: bool,
    /// Whether the selector serves such calls with this kernel.
    pub picked: bool,
    /// Whether its median is the smallest of its workload.
    pub best: bool,
    /// Whether the only sample is a first look, on a call of its own: too slow for more.
    pub dropped: bool,
    /// Milliseconds by round; samples of one round are of the same call.
    pub samples_ms: Vec<Option<f64>>,
}

/// A legal kernel that was not measured on a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenchLeftOut {
    /// The shape's name, or its sizes.
    pub shape: String,
    /// Bit widths.
    pub bits: String,
    /// Tokens of a call.
    pub tokens: usize,
    /// Threads; `None` but on the cpu backend.
    pub threads: Option<usize>,
    /// The numeric class.
    pub numeric: String,
    /// The kernel's name.
    pub kernel: String,
    /// Why.
    pub why: String,
}

/// What a cell's kernels have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Workload<'a> {
    /// The shape's name, or its sizes.
    pub shape: &'a str,
    /// Bit widths.
    pub bits: &'a str,
    /// Tokens of a call.
    pub tokens: usize,
    /// Threads.
    pub threads: Option<usize>,
    /// The backend.
    pub backend: &'a str,
    /// The numeric class.
    pub numeric: &'a str,
}

impl BenchCell {
    /// What it has in common with the other kernels of its workload.
    pub fn workload(&self) -> Workload<'_> {
        let Self { shape, bits, tokens, threads, backend, numeric, .. } = self;
        Workload { shape, bits, tokens: *tokens, threads: *threads, backend, numeric }
    }

    /// Milliseconds, without the rounds that have none.
    pub fn samples(&self) -> impl Iterator<Item = f64> + '_ {
        self.samples_ms.iter().copied().flatten()
    }
}

impl BenchRun {
    /// A run that begins now.
    pub fn new(machine: BenchMachine, method: BenchMethod) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            format: FORMAT.into(),
            version: VERSION,
            recorded_unix_s: now.map_or(0, |since| since.as_secs()),
            seconds: 0.0,
            interrupted: false,
            machine,
            method,
            cells: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// Adds what was found on a workload. `picked` names the selector's kernel.
    pub fn add(
        &mut self,
        workload: &Workload<'_>,
        times: &CellTimes,
        picked: Option<&str>,
        ceiling_gb_per_s: Option<f64>,
    ) {
        let Workload { shape, bits, tokens, threads, numeric, .. } = *workload;
        let first = self.cells.len();
        let cells = times.kernels.iter().map(|kernel| {
            let cell = cell_of(workload, kernel, times, ceiling_gb_per_s);
            BenchCell { picked: picked == Some(cell.kernel.as_str()), ..cell }
        });
        self.cells.extend(cells);
        let new = &mut self.cells[first..];
        if let Some(best) = new.iter_mut().min_by(|a, b| a.median_ms.total_cmp(&b.median_ms)) {
            best.best = true;
        }
        self.left_out.extend(times.left_out.iter().map(|left| BenchLeftOut {
            shape: shape.into(),
            bits: bits.into(),
            tokens,
            threads,
            numeric: numeric.into(),
            kernel: left.kernel.to_string(),
            why: left.why.clone(),
        }));
    }

    /// The workloads in the order of their cells, each with its cells.
    pub fn workloads(&self) -> Vec<(Workload<'_>, Vec<&BenchCell>)> {
        let mut workloads: Vec<(Workload<'_>, Vec<&BenchCell>)> = Vec::new();
        for cell in &self.cells {
            match workloads.iter_mut().find(|(known, _)| *known == cell.workload()) {
                Some((_, cells)) => cells.push(cell),
                None => workloads.push((cell.workload(), vec![cell])),
            }
        }
        workloads
    }

    /// Reads a file and checks that it is one of a benchmark.
    ///
    /// # Errors
    /// [`BenchError`]: the file cannot be read, is no JSON or no benchmark, or is of another version.
    pub fn read(path: &Path) -> Result<Self, BenchError> {
        let io = |source| BenchError::Io { path: path.into(), source };
        let json = |source| BenchError::Json { path: path.into(), source };
        let reader = BufReader::new(File::open(path).map_err(io)?);
        let value: serde_json::Value = serde_json::from_reader(reader).map_err(json)?;
        let found = value["format"].as_str().unwrap_or("none");
        if found != FORMAT {
            return Err(BenchError::Format { path: path.into(), found: found.into() });
        }
        if value["version"] != VERSION {
            let found = value["version"].to_string();
            return Err(BenchError::Version { path: path.into(), found });
        }
        let run: Self = serde_json::from_value(value).map_err(json)?;
        let is_time = |ms: f64| ms.is_finite() && ms > 0.0;
        for cell in &run.cells {
            let samples = cell.samples().all(is_time) && cell.samples().next().is_some();
            if !(samples && is_time(cell.median_ms)) {
                let kernel = cell.kernel.clone();
                return Err(BenchError::Times { path: path.into(), kernel, tokens: cell.tokens });
            }
        }
        Ok(run)
    }
}

fn cell_of(
    workload: &Workload<'_>,
    kernel: &KernelTimes,
    times: &CellTimes,
    ceiling_gb_per_s: Option<f64>,
) -> BenchCell {
    let samples_ms: Vec<Option<f64>> =
        kernel.ns.iter().map(|ns| ns.map(|ns| digits(ns as f64 / 1e6))).collect();
    let ms: Vec<f64> = samples_ms.iter().copied().flatten().collect();
    let median_ms = median(ms.clone()).expect("a kernel without a sample is no cell");
    let interval = median_interval(&ms, CONFIDENCE).expect("as above");
    let per_s = |amount: f64| digits(amount / median_ms / 1e6);
    let gb_per_s = per_s(times.load.bytes);
    BenchCell {
        shape: workload.shape.into(),
        bits: workload.bits.into(),
        tokens: workload.tokens,
        threads: workload.threads,
        backend: workload.backend.into(),
        kernel: kernel.spec.id.to_string(),
        numeric: workload.numeric.into(),
        median_ms: digits(median_ms),
        low_ms: digits(interval.low),
        high_ms: digits(interval.high),
        p10_ms: digits(quantile(ms.clone(), 0.1)),
        p90_ms: digits(quantile(ms, 0.9)),
        gb_per_s,
        g_weights_per_s: per_s(times.load.weights),
        gflop_per_s: per_s(2.0 * times.load.macs),
        ceiling_gb_per_s: ceiling_gb_per_s.map(digits),
        share_of_ceiling: ceiling_gb_per_s.map(|ceiling| digits(gb_per_s / ceiling)),
        error: kernel.error.is_finite().then(|| digits(kernel.error)),
        within_limit: kernel.error <= kernel.spec.class.max_relative_error(),
        picked: false,
        best: false,
        dropped: kernel.dropped,
        samples_ms,
    }
}

/// Five significant digits: more than any measurement has.
pub(super) fn digits(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(value)
}

/// A file that is no benchmark's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The file.
    #[error("{path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not JSON, or fields that are missing or of the wrong type.
    #[error("{path}")]
    Json {
        /// Which file.
        path: PathBuf,
        /// What and where.
        source: serde_json::Error,
    },
    /// JSON of something else.
    #[error("{path}: its `format` is {found}, expected {FORMAT}: not written by `trellect bench`")]
    Format {
        /// Which file.
        path: PathBuf,
        /// What it says it is.
        found: String,
    },
    /// Of another version.
    #[error("{path}: its `version` is {found}, expected {VERSION}")]
    Version {
        /// Which file.
        path: PathBuf,
        /// The version found.
        found: String,
    },
    /// Times that are none.
    #[error("{path}: {kernel} at {tokens} tokens has no sample or times that are not positive")]
    Times {
        /// Which file.
        path: PathBuf,
        /// Of which kernel.
        kernel: String,
        /// At how many tokens.
        tokens: usize,
    },
}
