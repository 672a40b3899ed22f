//! Full-information matrices: every kernel timed in every context of a layer, so that a policy can
//! be judged exactly, offline, on real times. The file format is in `docs/selection-matrix.md`.
//!
//! [`record`] makes one on a backend; [`Matrix::read`] checks whatever a file claims.

mod check;
mod record;
mod records;

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use trellect_core::{
    BitTuple, KernelId, KernelSpec, LayerShape, NumericClass, TokenRange, WorkspaceModel,
};
use trellect_select::adaptive::CostCoefficients;

use crate::statistics::median;
use crate::text;
use crate::work::Workload;

pub use crate::rounds::Inputs;
pub use record::{ContextPlan, Draw, Progress, RecordError, RecordPlan, Skip, record};

/// The first field of every matrix file.
pub const FORMAT: &str = "trellect-matrix";
/// The version of the format that is written and read.
pub const VERSION: u32 = 1;

/// Times of every kernel in every context.
///
/// Sample `r` of every kernel of a context was taken in round `r`, on the same tokens and routing,
/// so samples of one round may be compared in pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matrix {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// What was recorded, for people.
    pub name: String,
    /// When the recording began, in seconds since 1970.
    pub recorded_unix_s: u64,
    /// Where.
    pub machine: Machine,
    /// The layer's dimensions.
    pub shape: MatrixShape,
    /// The class of all kernels.
    #[serde(with = "text")]
    pub numeric: NumericClass,
    /// The tuple of every expert, for every layer that the rounds took turns on.
    pub layers: Vec<Vec<Tuple>>,
    /// The kernels, in the order of every context's cells.
    pub kernels: Vec<MatrixKernel>,
    /// The contexts.
    pub contexts: Vec<MatrixContext>,
}

/// The machine of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The device's name.
    pub device: String,
    /// What else the backend says of it.
    pub facts: Vec<(String, String)>,
    /// Operating system and architecture.
    pub system: String,
    /// Circumstances that a reader should know.
    pub note: String,
}

/// Dimensions of the recorded layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixShape {
    /// Width of a token.
    pub hidden_size: usize,
    /// Inner width of an expert.
    pub intermediate_size: usize,
    /// Number of routed experts.
    pub num_experts: usize,
    /// Experts per token.
    pub top_k: usize,
}

impl MatrixShape {
    /// The layer's shape.
    pub const fn layer(&self) -> LayerShape {
        LayerShape {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_experts: self.num_experts,
        }
    }
}

/// A bit tuple, written `6_2_3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tuple(#[serde(with = "text")] pub BitTuple);

/// A kernel of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixKernel {
    /// Its name.
    #[serde(with = "text")]
    pub name: KernelId,
    /// Most rows of one expert that share one decoding of its weights.
    pub rows_per_decode: usize,
    /// Columns of one work item.
    pub tile_n: usize,
    /// Its cost model, calibrated right before the recording; `None`: it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<MatrixCost>,
}

impl MatrixKernel {
    /// What is known of the kernel, taken to compute any number of tokens without workspace.
    pub fn spec(&self, class: NumericClass) -> KernelSpec {
        KernelSpec {
            id: self.name,
            class,
            tokens: TokenRange::ANY,
            tile_n: self.tile_n,
            rows_per_decode: self.rows_per_decode,
            workspace: WorkspaceModel::default(),
            capture_safe: true,
            deterministic: true,
        }
    }
}

/// A kernel's cost model, as of [`CostCoefficients`]: what a policy knew before the first call.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixCost {
    /// Nanoseconds of a call.
    pub launch_ns: f64,
    /// Nanoseconds per decoded weight.
    pub ns_per_decoded_weight: f64,
    /// Nanoseconds per multiply-add.
    pub ns_per_mac: f64,
    /// Nanoseconds per (token, expert) pair.
    pub ns_per_pair: f64,
}

impl From<MatrixCost> for CostCoefficients {
    fn from(cost: MatrixCost) -> Self {
        let MatrixCost { launch_ns, ns_per_decoded_weight, ns_per_mac, ns_per_pair } = cost;
        Self { launch_ns, ns_per_decoded_weight, ns_per_mac, ns_per_pair }
    }
}

impl From<CostCoefficients> for MatrixCost {
    /// Five significant digits: what was fitted to a few launches has no more.
    fn from(cost: CostCoefficients) -> Self {
        let round = |x: f64| format!("{x:.4e}").parse().unwrap_or(x);
        Self {
            launch_ns: round(cost.launch_ns),
            ns_per_decoded_weight: round(cost.ns_per_decoded_weight),
            ns_per_mac: round(cost.ns_per_mac),
            ns_per_pair: round(cost.ns_per_pair),
        }
    }
}

/// A context: calls that are alike but for their seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixContext {
    /// Tokens of a call.
    pub num_tokens: usize,
    /// How tokens were routed, such as `uniform`.
    pub routing: String,
    /// What each round ran on.
    pub rounds: Vec<Round>,
    /// One cell per kernel.
    pub cells: Vec<Cell>,
}

/// One round of a context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Round {
    /// Which of the layers.
    pub layer: usize,
    /// The seed of tokens and routing.
    pub seed: u64,
    /// Rows of every expert.
    pub loads: Vec<u32>,
    /// Median memory bandwidth measured between the launches of this round, in GiB/s
    /// to two places; 0 where it was not measured.
    pub ceiling_gib_per_s: f64,
    /// The processor's clock after the round, in kHz, where the system tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_khz: Option<u64>,
}

/// What is known of one kernel in one context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cell {
    /// Device time of every round in nanoseconds.
    Ns(Vec<u64>),
    /// Not measured, with the reason.
    Skipped(String),
}

impl Cell {
    /// The median in nanoseconds; `None` where nothing was measured.
    pub fn median_ns(&self) -> Option<f64> {
        match self {
            Self::Skipped(_) => None,
            Self::Ns(ns) => median(ns.iter().map(|&ns| ns as f64).collect()),
        }
    }
}

impl Matrix {
    /// Reads and checks a matrix file.
    ///
    /// # Errors
    /// [`MatrixError`]: the file cannot be read, is no JSON, or contradicts itself.
    pub fn read(path: &Path) -> Result<Self, MatrixError> {
        let io = |source| MatrixError::Io { path: path.into(), source };
        let reader = BufReader::new(File::open(path).map_err(io)?);
        let matrix: Self = serde_json::from_reader(reader)
            .map_err(|source| MatrixError::Json { path: path.into(), source })?;
        matrix.validate()?;
        Ok(matrix)
    }

    /// Checks and writes a matrix file, replacing what is there.
    ///
    /// # Errors
    /// [`MatrixError`]: the matrix contradicts itself, or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), MatrixError> {
        self.validate()?;
        let io = |source| MatrixError::Io { path: path.into(), source };
        let mut writer = BufWriter::new(File::create(path).map_err(io)?);
        serde_json::to_writer(&mut writer, self)
            .map_err(|source| MatrixError::Json { path: path.into(), source })?;
        writer.write_all(b"\n").and_then(|()| writer.flush()).map_err(io)
    }

    /// The work of a round.
    pub fn workload(&self, round: &Round) -> Workload {
        Workload::new(&self.shape.layer(), round.loads.clone())
    }

    /// Rows per tuple of a round's active experts, ascending by tuple.
    pub fn rows_per_tuple(&self, round: &Round) -> Vec<(BitTuple, u32)> {
        let mut rows: Vec<(BitTuple, u32)> = Vec::new();
        for (&Tuple(tuple), &load) in self.layers[round.layer].iter().zip(&round.loads) {
            match rows.iter_mut().find(|(known, _)| *known == tuple) {
                Some((_, sum)) => *sum += load,
                None => rows.push((tuple, load)),
            }
        }
        rows.retain(|(_, load)| *load > 0);
        rows.sort_unstable();
        rows
    }

    /// The fastest kernel of a context by median, as `(index, ns)`.
    pub fn best(&self, context: &MatrixContext) -> Option<(usize, f64)> {
        let medians = context.cells.iter().enumerate();
        let medians = medians.filter_map(|(kernel, cell)| Some((kernel, cell.median_ns()?)));
        medians.min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// What always serving one kernel costs: its mean regret over all contexts, 0 for none.
    /// `None` when it was not measured in every context.
    pub fn uniform_regret(&self, kernel: usize) -> Option<f64> {
        let regrets = self.contexts.iter().map(|context| {
            let (_, best) = self.best(context)?;
            Some(context.cells[kernel].median_ns()? / best - 1.0)
        });
        let regrets = regrets.collect::<Option<Vec<f64>>>().filter(|all| !all.is_empty())?;
        Some(regrets.iter().sum::<f64>() / regrets.len() as f64)
    }
}

/// A matrix that cannot be read, written or believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MatrixError {
    /// The file.
    #[error("{path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not JSON, or fields that are missing, unknown or of the wrong type.
    #[error("{path}")]
    Json {
        /// Which file.
        path: PathBuf,
        /// What and where.
        source: serde_json::Error,
    },
    /// A field that contradicts the others.
    #[error("{field}: found {found}, expected {expected}")]
    Field {
        /// Path of the field, such as `contexts[2].cells[0].ns`.
        field: String,
        /// The value found.
        found: String,
        /// What it should be.
        expected: String,
    },
}

#[cfg(test)]
mod tests;
