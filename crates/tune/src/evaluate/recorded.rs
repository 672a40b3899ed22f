//! Replaying a recorded matrix (T1).
//!
//! The first half of every context's rounds is for *training*: tables tuned beforehand see it, and
//! nothing else. Runs draw from the second half, and its figures are the truth, so no policy is
//! judged on the samples that it was tuned on.
//!
//! A recorded time is the round's *level*, which all kernels of a context share, times what is left.
//! A call takes the level of one round and the rest of another. A level stays for as long as the
//! launches of its round took, over all contexts: levels of one round, measured seconds apart, are
//! alike between contexts (a correlation of 0.5 in the CPU's recordings), those of successive rounds
//! hardly (0.2). The rest changes with every call, for all kernels as in that round. Both come in
//! blocks of successive rounds from a random start, and are the same whatever kernel is chosen, so
//! what slowed everything for a while does so in the replay, and what scattered kernels apart does
//! that.
//!
//! The experts' loads that a policy sees are those of a round drawn apart. Were they those of the
//! same round, a policy that tells contexts apart by loads could tell the rounds apart, and learn
//! the noise of the few samples in each by heart.

use std::ops::Range;

use chacha20::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use trellect_core::{BitTuple, CallFacts, KernelId, KernelSpec, LayerShape, TokenRange};
use trellect_select::adaptive::{Arm, CallFeatures, CostCoefficients, ExpertLoad};
use trellect_select::{ConfigError, Request, RuleConfig, RulePolicy, SelectError, Thresholds};

use super::world::best_of;
use super::{Sight, Trace, Trained, World};
use crate::calibrate::default_cost;
use crate::matrix::{Cell, Matrix, MatrixContext};
use crate::statistics::median;

/// Most successive rounds of a block.
const BLOCK: usize = 5;

/// What a matrix says, made ready for any number of runs.
#[derive(Clone, Debug)]
pub struct Recording {
    shape: LayerShape,
    top_k: usize,
    arms: Vec<Arm>,
    contexts: Vec<RecordedContext>,
    /// What the launches of every round took.
    round_ns: Vec<f64>,
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
    /// What slowed all kernels, relative to the median round.
    level: f64,
    /// Every kernel's time without it, not a number where it was not measured.
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
        let device = candidates.first().and_then(|spec| spec.id.backend());
        let thresholds = device.map(Thresholds::of);
        let quiet = RuleConfig { exploration_rate: 0.0, thresholds, ..RuleConfig::default() };
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
            let levels = levels(context, half..context.rounds.len());
            let mut rounds = Vec::with_capacity(half);
            for (at, level) in (half..).zip(levels) {
                let loads = matrix.loads(&context.rounds[at]);
                let decision = rules.select(&request(facts, &loads), &candidates)?;
                let features = CallFeatures { facts, shape, loads: &loads };
                rounds.push(RecordedRound {
                    prior_ns: arms.iter().map(|arm| arm.estimate_ns(&features)).collect(),
                    default: position(&candidates, decision.kernel),
                    level,
                    ns: context.cells.iter().map(|cell| sample(cell, at) / level).collect(),
                    loads,
                });
            }
            let truth_ns = typical_ns(context, half..context.rounds.len());
            let num_tokens = context.num_tokens;
            contexts.push(RecordedContext { num_tokens, tuples, open, truth_ns, rounds });
        }
        let trained = train(matrix, &contexts, &trace);
        let round_ns = round_ns(matrix);
        let top_k = matrix.shape.top_k;
        Ok(Self { shape, top_k, arms, contexts, round_ns, trace, trained })
    }

    /// The world of a seed.
    pub fn world(&self, seed: u64) -> RecordedWorld<'_> {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let calls = self.trace.calls(self.contexts.len(), seed);
        let (level, rest) = (Blocks::default(), Blocks::default());
        let (level_until_ns, now_ns) = (0.0, 0.0);
        RecordedWorld { recording: self, calls, rng, level, level_until_ns, rest, shown: 0, now_ns }
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
    /// The round whose level counts; a context with fewer rounds starts over.
    level: Blocks,
    level_until_ns: f64,
    /// The round from which the rest is.
    rest: Blocks,
    /// The round whose loads are shown.
    shown: usize,
    now_ns: f64,
}

/// A way through the rounds: blocks of successive ones.
#[derive(Clone, Copy, Debug, Default)]
struct Blocks {
    round: usize,
    left: usize,
}

impl Blocks {
    fn advance(&mut self, rng: &mut ChaCha8Rng, rounds: usize) {
        *self = match self.left {
            0 => Self { round: rng.random_range(0..rounds), left: BLOCK.min(rounds) - 1 },
            left => Self { round: self.round + 1, left: left - 1 },
        };
    }
}

impl RecordedWorld<'_> {
    fn of_context(&self, context: usize, round: usize) -> &RecordedRound {
        let rounds = &self.recording.contexts[context].rounds;
        &rounds[round % rounds.len()]
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
        let rounds = self.recording.round_ns.len();
        while self.level_until_ns <= self.now_ns {
            self.level.advance(&mut self.rng, rounds);
            self.level_until_ns += self.recording.round_ns[self.level.round % rounds];
        }
        self.rest.advance(&mut self.rng, rounds);
        self.shown = self.rng.random_range(0..rounds);
        (self.calls[call], false)
    }

    fn sight(&self, context: usize) -> Sight<'_> {
        let it = &self.recording.contexts[context];
        let round = self.of_context(context, self.shown);
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
        let level = self.of_context(context, self.level.round).level;
        let ns = level * self.of_context(context, self.rest.round).ns[kernel];
        self.now_ns += ns;
        Some(ns)
    }
}

/// A kernel of the matrix. Its token range is that of the contexts in which it was measured.
fn arm(matrix: &Matrix, kernel: usize) -> Arm {
    let measured = matrix.contexts.iter().filter(|it| matches!(it.cells[kernel], Cell::Ns(_)));
    let most = measured.map(|it| it.num_tokens).max().unwrap_or(0);
    let kernel = &matrix.kernels[kernel];
    let tokens = TokenRange { min: 0, max: Some(most) };
    let cost = kernel.cost.map_or_else(|| default_cost(kernel.name), CostCoefficients::from);
    Arm { spec: KernelSpec { tokens, ..kernel.spec(matrix.numeric) }, cost }
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

fn sample(cell: &Cell, round: usize) -> f64 {
    match cell {
        Cell::Ns(ns) => ns[round] as f64,
        Cell::Skipped(_) => f64::NAN,
    }
}

fn position(candidates: &[KernelSpec], kernel: KernelId) -> usize {
    candidates.iter().position(|spec| spec.id == kernel).expect("a decision is a candidate")
}

/// What the launches of every round of the second half took together, at least a nanosecond.
fn round_ns(matrix: &Matrix) -> Vec<f64> {
    let second_half = |context: &MatrixContext| {
        let rounds = context.rounds.len();
        let of_round = move |at: usize| {
            let samples = context.cells.iter().map(move |cell| sample(cell, at));
            samples.filter(|ns| ns.is_finite()).sum::<f64>()
        };
        (rounds / 2..rounds).map(of_round).collect::<Vec<f64>>()
    };
    let contexts: Vec<Vec<f64>> = matrix.contexts.iter().map(second_half).collect();
    let rounds = contexts.iter().map(Vec::len).max().unwrap_or(0);
    let of_round = |at: usize| contexts.iter().filter_map(|ns| ns.get(at)).sum::<f64>();
    (0..rounds).map(|at| of_round(at).max(1.0)).collect()
}

/// How far every one of some rounds was from the usual: the median over kernels of how far each was
/// from its own median.
fn levels(context: &MatrixContext, rounds: Range<usize>) -> Vec<f64> {
    let samples = |cell: &Cell| rounds.clone().map(|at| sample(cell, at)).collect::<Vec<f64>>();
    let relative = |cell: &Cell| {
        let samples = samples(cell);
        let usual = middle(samples.clone());
        samples.into_iter().map(|ns| ns / usual).collect::<Vec<f64>>()
    };
    let measured = context.cells.iter().filter(|cell| matches!(cell, Cell::Ns(_)));
    let relative: Vec<Vec<f64>> = measured.map(relative).collect();
    (0..rounds.len()).map(|at| middle(relative.iter().map(|ratios| ratios[at]).collect())).collect()
}

/// What every kernel takes in a context, going by some of its rounds: the median over rounds of its
/// time without the round's level; infinite where it was not measured.
///
/// A median, since a stall that hit one of few samples says nothing of that kernel, but would rule a
/// mean. Without the level, since most of what varies between rounds varies for all kernels: of
/// plain medians, geometric and arithmetic means this is the figure in which the halves of
/// a recording agree best.
fn typical_ns(context: &MatrixContext, rounds: Range<usize>) -> Vec<f64> {
    let levels = levels(context, rounds.clone());
    let typical = |cell: &Cell| {
        let samples = rounds.clone().zip(&levels).map(|(at, level)| sample(cell, at) / level);
        middle(samples.collect())
    };
    let unmeasured = |ns: f64| if ns.is_nan() { f64::INFINITY } else { ns };
    context.cells.iter().map(|cell| unmeasured(typical(cell))).collect()
}

fn middle(values: Vec<f64>) -> f64 {
    median(values).unwrap_or(f64::NAN)
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
