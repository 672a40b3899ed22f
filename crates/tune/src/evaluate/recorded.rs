//! Replaying a recorded matrix (T1).
//!
//! The first half of every context's rounds is for *training*: tables tuned beforehand see it, and
//! nothing else. Runs draw from the second half, and its figures are the truth, so no policy is
//! judged on the samples that it was tuned on.
//!
//! A call takes the times of one round, the same for whatever kernel is chosen. Rounds come in
//! blocks of successive ones from a random start, one round a call over all contexts, so that what
//! slowed several kernels or contexts at once, or a while, does so in the replay.

use chacha20::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use trellect_core::{
    BitTuple, CallFacts, KernelId, KernelSpec, LayerShape, TokenRange, WorkspaceModel,
};
use trellect_select::adaptive::{Arm, CallFeatures, CostCoefficients, ExpertLoad};
use trellect_select::{ConfigError, Request, RuleConfig, RulePolicy, SelectError};

use super::world::best_of;
use super::{Sight, Trace, Trained, World};
use crate::calibrate::default_cost;
use crate::matrix::{Cell, Matrix, MatrixContext, MatrixKernel, Round, Tuple, median};

/// Most successive rounds of a block.
const BLOCK: usize = 5;

/// What a matrix says, made ready for any number of runs.
#[derive(Clone, Debug)]
pub struct Recording {
    shape: LayerShape,
    top_k: usize,
    arms: Vec<Arm>,
    contexts: Vec<RecordedContext>,
    trace: Trace,
    trained: Trained,
}

#[derive(Clone, Debug)]
struct RecordedContext {
    num_tokens: usize,
    /// Every tuple of any round's active experts.
    tuples: Vec<BitTuple>,
    open: Vec<usize>,
    truth_ns: Vec<f64>,
    rounds: Vec<RecordedRound>,
}

/// One round of the second half.
#[derive(Clone, Debug)]
struct RecordedRound {
    loads: Vec<ExpertLoad>,
    prior_ns: Vec<f64>,
    default: usize,
    /// Not a number where a kernel was not measured.
    ns: Vec<f64>,
}

impl Recording {
    /// Prepares a matrix, whose contexts occur as `trace` says.
    ///
    /// # Errors
    /// [`RecordingError`] where a context has fewer than two rounds, or none of its kernels may
    /// serve it, or one may that was not measured.
    pub fn new(matrix: &Matrix, trace: Trace) -> Result<Self, RecordingError> {
        if matrix.contexts.is_empty() {
            return Err(RecordingError::Empty);
        }
        let shape = matrix.shape.layer();
        let arms: Vec<Arm> = (0..matrix.kernels.len()).map(|kernel| arm(matrix, kernel)).collect();
        let candidates: Vec<KernelSpec> = arms.iter().map(|arm| arm.spec).collect();
        let quiet = RuleConfig { exploration_rate: 0.0, ..RuleConfig::default() };
        let mut rules = RulePolicy::new(quiet)?;
        let mut contexts = Vec::with_capacity(matrix.contexts.len());
        for (index, context) in matrix.contexts.iter().enumerate() {
            let half = context.rounds.len() / 2;
            if half == 0 {
                return Err(RecordingError::Rounds { context: index });
            }
            let tuples = tuples(matrix, context);
            let facts = facts(matrix, context.num_tokens, &tuples);
            let mut open = Vec::new();
            for (kernel, cell) in context.cells.iter().enumerate() {
                match (arms[kernel].spec.legal(&facts), cell) {
                    (Ok(()), Cell::Ns(_)) => open.push(kernel),
                    (Ok(()), Cell::Skipped(_)) => {
                        let kernel = candidates[kernel].id;
                        return Err(RecordingError::Unmeasured { context: index, kernel });
                    }
                    (Err(_), _) => {}
                }
            }
            let mut rounds = Vec::with_capacity(half);
            for (at, round) in context.rounds.iter().enumerate().skip(half) {
                let loads = loads(matrix, round);
                let decision = rules.select(&request(facts, &loads), &candidates)?;
                let features = CallFeatures { facts, shape, loads: &loads };
                rounds.push(RecordedRound {
                    prior_ns: arms.iter().map(|arm| arm.estimate_ns(&features)).collect(),
                    default: position(&candidates, decision.kernel),
                    ns: context.cells.iter().map(|cell| sample(cell, at)).collect(),
                    loads,
                });
            }
            let truth_ns = typical_ns(context, half..context.rounds.len());
            let num_tokens = context.num_tokens;
            contexts.push(RecordedContext { num_tokens, tuples, open, truth_ns, rounds });
        }
        let trained = train(matrix, &contexts, &trace);
        Ok(Self { shape, top_k: matrix.shape.top_k, arms, contexts, trace, trained })
    }

    /// The world of a seed.
    pub fn world(&self, seed: u64) -> RecordedWorld<'_> {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let calls = self.trace.calls(self.contexts.len(), seed);
        RecordedWorld { recording: self, calls, rng, round: 0, left: 0, now_ns: 0.0 }
    }

    /// Share by which the kernels that were fastest in the first half of the rounds are slower than
    /// the fastest of the second half, averaged over contexts: what is left to chance in the
    /// matrix itself.
    pub fn noise_floor(&self) -> f64 {
        let losses = self.contexts.iter().zip(&self.trained.table).map(|(context, &kernel)| {
            let truth = &context.truth_ns;
            truth[kernel] / truth[best_of(truth)] - 1.0
        });
        losses.sum::<f64>() / self.contexts.len() as f64
    }
}

/// A run over a recording.
#[derive(Debug)]
pub struct RecordedWorld<'a> {
    recording: &'a Recording,
    calls: Vec<usize>,
    rng: ChaCha8Rng,
    /// The present round; a context with fewer rounds starts over.
    round: usize,
    /// Rounds that follow it before the next jump.
    left: usize,
    now_ns: f64,
}

impl RecordedWorld<'_> {
    fn round_of(&self, context: usize) -> &RecordedRound {
        let rounds = &self.recording.contexts[context].rounds;
        &rounds[self.round % rounds.len()]
    }
}

impl World for RecordedWorld<'_> {
    fn arms(&self) -> &[Arm] {
        &self.recording.arms
    }

    fn calls(&self) -> usize {
        self.calls.len()
    }

    fn contexts(&self) -> usize {
        self.recording.contexts.len()
    }

    fn trained(&self) -> &Trained {
        &self.recording.trained
    }

    fn next_call(&mut self, call: usize) -> (usize, bool) {
        let contexts = &self.recording.contexts;
        if self.left == 0 {
            let rounds = contexts.iter().map(|context| context.rounds.len()).max().unwrap_or(1);
            self.round = self.rng.random_range(0..rounds);
            self.left = BLOCK.min(rounds);
        } else {
            self.round += 1;
        }
        self.left -= 1;
        (self.calls[call], false)
    }

    fn sight(&self, context: usize) -> Sight<'_> {
        let it = &self.recording.contexts[context];
        let round = self.round_of(context);
        let facts = CallFacts {
            num_tokens: it.num_tokens,
            num_pairs: it.num_tokens * self.recording.top_k,
            active_tuples: &it.tuples,
            numeric: self.recording.arms[0].spec.class,
            workspace_limit: None,
        };
        Sight {
            context,
            features: CallFeatures { facts, shape: self.recording.shape, loads: &round.loads },
            open: &it.open,
            prior_ns: &round.prior_ns,
            default: round.default,
            truth_ns: &it.truth_ns,
            now_ns: self.now_ns as u64,
        }
    }

    fn truth_ns(&self, context: usize) -> &[f64] {
        &self.recording.contexts[context].truth_ns
    }

    fn run(&mut self, context: usize, kernel: usize) -> Option<f64> {
        let ns = self.round_of(context).ns[kernel];
        self.now_ns += ns;
        Some(ns)
    }
}

/// A kernel of the matrix. Its token range is that of the contexts in which it was measured.
fn arm(matrix: &Matrix, kernel: usize) -> Arm {
    let MatrixKernel { name, rows_per_decode, tile_n, cost } = matrix.kernels[kernel];
    let measured = matrix.contexts.iter().filter(|it| matches!(it.cells[kernel], Cell::Ns(_)));
    let spec = KernelSpec {
        id: name,
        class: matrix.numeric,
        tokens: TokenRange {
            min: 0,
            max: Some(measured.map(|it| it.num_tokens).max().unwrap_or(0)),
        },
        tile_n,
        rows_per_decode,
        workspace: WorkspaceModel::default(),
        capture_safe: true,
        deterministic: true,
    };
    let cost = cost.map_or_else(|| default_cost(name), CostCoefficients::from);
    Arm { spec, cost }
}

fn facts<'a>(matrix: &Matrix, num_tokens: usize, tuples: &'a [BitTuple]) -> CallFacts<'a> {
    CallFacts {
        num_tokens,
        num_pairs: num_tokens * matrix.shape.top_k,
        active_tuples: tuples,
        numeric: matrix.numeric,
        workspace_limit: None,
    }
}

fn request<'a>(facts: CallFacts<'a>, loads: &[ExpertLoad]) -> Request<'a> {
    let most = loads.iter().map(|load| load.rows).max().unwrap_or(0);
    let top_expert_share = Some(f64::from(most) / facts.num_pairs as f64);
    Request { top_expert_share, ..Request::new(facts) }
}

fn tuples(matrix: &Matrix, context: &MatrixContext) -> Vec<BitTuple> {
    let rows = context.rounds.iter().flat_map(|round| matrix.rows_per_tuple(round));
    let mut tuples: Vec<BitTuple> = rows.map(|(tuple, _)| tuple).collect();
    tuples.sort_unstable();
    tuples.dedup();
    tuples
}

fn loads(matrix: &Matrix, round: &Round) -> Vec<ExpertLoad> {
    let experts = matrix.layers[round.layer].iter().zip(&round.loads);
    let active = experts.filter(|(_, rows)| **rows > 0);
    active.map(|(&Tuple(tuple), &rows)| ExpertLoad { tuple, rows }).collect()
}

fn sample(cell: &Cell, round: usize) -> f64 {
    match cell {
        Cell::Ns(ns) => ns[round] as f64,
        Cell::Skipped(_) => f64::NAN,
    }
}

fn position(candidates: &[KernelSpec], kernel: KernelId) -> usize {
    candidates.iter().position(|spec| spec.id == kernel).expect("a decision is a candidate")
}

/// What every kernel takes in a context, going by some of its rounds: the median over rounds of its
/// time relative to the round's level, times the median level; infinite where it was not measured.
///
/// Medians, since a stall that hit one of few samples says nothing of that kernel, but would rule a
/// mean. Relative to the round, since most of what varies between rounds varies for all kernels: the
/// level is the median over kernels of how far each is from its own median.
fn typical_ns(context: &MatrixContext, rounds: std::ops::Range<usize>) -> Vec<f64> {
    let of = |cell: &Cell| rounds.clone().map(|round| sample(cell, round)).collect::<Vec<f64>>();
    let samples: Vec<Vec<f64>> = context.cells.iter().map(of).collect();
    let middle = |values: Vec<f64>| median(values).unwrap_or(f64::NAN);
    let medians: Vec<f64> = samples.iter().map(|ns| middle(ns.clone())).collect();
    let level = |at: usize| {
        let ratios = samples.iter().zip(&medians).map(|(ns, median)| ns[at] / median);
        middle(ratios.filter(|ratio| !ratio.is_nan()).collect())
    };
    let levels: Vec<f64> = (0..rounds.len()).map(level).collect();
    let typical =
        |ns: &Vec<f64>| middle(ns.iter().zip(&levels).map(|(ns, level)| ns / level).collect());
    let unmeasured = |ns: f64| if ns.is_nan() { f64::INFINITY } else { ns };
    samples.iter().map(|ns| unmeasured(typical(ns))).collect()
}

/// Learns a table from the first half of the rounds.
fn train(matrix: &Matrix, contexts: &[RecordedContext], trace: &Trace) -> Trained {
    let halves = matrix.contexts.iter().map(|it| typical_ns(it, 0..it.rounds.len() / 2));
    let times: Vec<Vec<f64>> = halves.collect();
    let mut calls = vec![0.0; contexts.len()];
    trace.calls(contexts.len(), 0).into_iter().for_each(|context| calls[context] += 1.0);
    let total = |kernel: usize| {
        let weighted = times.iter().zip(&calls).filter(|(_, calls)| **calls > 0.0);
        weighted.map(|(ns, calls)| ns[kernel] * calls).sum::<f64>()
    };
    Trained {
        single: best_of(&(0..matrix.kernels.len()).map(total).collect::<Vec<_>>()),
        table: times.iter().map(|ns| best_of(ns)).collect(),
    }
}

/// A matrix that cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordingError {
    /// No context.
    #[error("contexts: found none, expected at least one")]
    Empty,
    /// Too few rounds for two halves.
    #[error(
        "contexts[{context}]: found fewer than two rounds, expected one to train on and one to test on"
    )]
    Rounds {
        /// Index of the context.
        context: usize,
    },
    /// A kernel that a policy might choose, whose time is not known.
    #[error("contexts[{context}]: {kernel} could serve, but was not measured")]
    Unmeasured {
        /// Index of the context.
        context: usize,
        /// The kernel.
        kernel: KernelId,
    },
    /// A context that no kernel may serve.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// The rules' own configuration.
    #[error(transparent)]
    Rules(#[from] ConfigError),
}
