//! Benchmarks: every kernel of a cell (tokens, numeric class) timed on weights that come from memory.
//!
//! A [`Bench`] holds the prepared layers of one shape and mix of widths and measures cell after cell
//! on them. [`BenchRun`] is what a whole run found, as a file; [`regret`] judges a selector's picks
//! by it, [`compare`] one run by another, and [`ab`] one kernel by
//! another. Nothing here makes layers or knows a right result: both
//! are handed in.

pub mod ab;
pub mod compare;
mod deck;
mod look;
pub mod regret;
mod run;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chacha20::ChaCha8Rng;
use rand::SeedableRng;
use trellect_core::{
    BitTuple, CallError, CallFacts, KernelId, KernelSpec, LaunchError, NumericClass, PreparedLayer,
    RoutingError, WhyNot,
};

use crate::rounds::{LayerCall, Rotation, RoundError};
use crate::work::Workload;
use deck::Deck;

pub use crate::rounds::Inputs;
pub use look::LeftOut;
pub use run::{
    BenchCell, BenchError, BenchLeftOut, BenchMachine, BenchMethod, BenchRun, Cache, Ceiling,
    FORMAT, VERSION, Workload as BenchWorkload,
};

/// Fewest samples of every kernel that is not dropped, whatever the time. A block of rounds that was
/// begun is finished: its first launches find the machine in another state than its last ones.
pub const MIN_ROUNDS: usize = 3;

/// Makes inputs: a number of tokens, uniformly routed by a seed. The first tokens of a seed are the
/// same for any number of them.
pub type Draw<'a> = &'a dyn Fn(usize, u64) -> Result<Inputs, RoutingError>;

/// What to measure in a cell.
#[derive(Clone, Copy, Debug)]
pub struct CellPlan<'a> {
    /// Tokens of every call, at least one.
    pub num_tokens: usize,
    /// The kernels to measure, where they can compute the calls.
    pub kernels: &'a [KernelSpec],
    /// A kernel that is measured in full, however slow it is.
    pub keep: Option<KernelId>,
    /// How many times as long as the fastest a kernel may take at a first look to be measured in
    /// full; `None`: every kernel is.
    pub drop_above: Option<f64>,
    /// Samples of every kernel, at least.
    pub rounds: usize,
    /// Fewer samples when they take longer than this, but [`MIN_ROUNDS`] and whole blocks.
    pub time: Duration,
}

/// What was found in a cell.
#[derive(Clone, Debug)]
pub struct CellTimes {
    /// The kernels that were launched on the cell's calls.
    pub kernels: Vec<KernelTimes>,
    /// Legal kernels that were not, and why.
    pub left_out: Vec<LeftOut>,
    /// The mean work of a call.
    pub load: Load,
    /// Rounds begun.
    pub rounds: usize,
}

/// The times of one kernel.
#[derive(Clone, Debug)]
pub struct KernelTimes {
    /// The kernel.
    pub spec: KernelSpec,
    /// Relative Frobenius error against the oracle on the first tokens of one call.
    pub error: f64,
    /// Nanoseconds by round; `None` where it was not launched in a round. Samples of one round are
    /// of the same call.
    pub ns: Vec<Option<u64>>,
    /// Whether `ns` is no more than a first look, on a call of its own: it was too slow for more.
    pub dropped: bool,
}

/// The work of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Trellis bytes of the active experts.
    pub bytes: f64,
    /// Their weights.
    pub weights: f64,
    /// Multiply-adds of all (token, expert) pairs.
    pub macs: f64,
}

/// Prepared layers of one shape and mix of widths, on which cells are measured.
///
/// Calls go round the layers, and each takes the experts of its layer that were longest unused, in a
/// fixed random order. So between two uses of an expert all others of all layers are read, and when
/// the layers together exceed the last-level cache, weights come from memory.
pub struct Bench<'a> {
    rotation: Rotation,
    decks: Vec<Deck>,
    draw: Draw<'a>,
    /// The oracle's first rows of the call of seed 0 on layer 0.
    expected: &'a [f64],
    cold_bytes: u64,
    /// Calls made so far.
    calls: u64,
    rng: ChaCha8Rng,
    /// What kernels took for one token.
    one_token_ns: HashMap<KernelId, u64>,
}

impl<'a> Bench<'a> {
    /// A bench over `layers`, which are at least one and of one shape.
    ///
    /// `cold_bytes` of other weights are read between two launches on one call; 0: every launch of a
    /// cell is on one and the same call, whose weights the caches may hold. `expected` are the first
    /// rows of the right result of `draw(num_tokens, 0)` on layer 0, for any number of tokens.
    ///
    /// # Panics
    /// Without a layer.
    pub fn new(
        layers: &[Arc<dyn PreparedLayer>],
        draw: Draw<'a>,
        expected: &'a [f64],
        cold_bytes: u64,
    ) -> Self {
        let num_experts = layers.first().expect("at least one layer").shape().num_experts;
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let decks = layers.iter().map(|_| Deck::new(num_experts, &mut rng)).collect();
        let rotation = Rotation::new(layers);
        let one_token_ns = HashMap::new();
        Self { rotation, decks, draw, expected, cold_bytes, calls: 0, rng, one_token_ns }
    }

    /// For each of the kernels of `plan`, whether it can compute the calls, whichever experts they
    /// take, or why not.
    ///
    /// # Errors
    /// [`CellError::Routing`] when the draw makes no routing.
    pub fn legality(&self, plan: &CellPlan<'_>) -> Result<Vec<Result<(), WhyNot>>, CellError> {
        let experts = self.rotation.layers.iter().flat_map(|layer| layer.expert_tuples());
        let mut active_tuples: Vec<BitTuple> = experts.copied().collect();
        active_tuples.sort_unstable();
        active_tuples.dedup();
        let facts = CallFacts {
            num_tokens: plan.num_tokens,
            num_pairs: (self.draw)(plan.num_tokens, 0)?.routing.num_pairs(),
            active_tuples: &active_tuples,
            // Its own class is not asked for.
            numeric: NumericClass::Exact,
            workspace_limit: None,
        };
        Ok(plan.kernels.iter().map(|spec| spec.can_compute(&facts)).collect())
    }

    /// The kernels of `plan` that can compute its calls.
    ///
    /// # Errors
    /// As [`legality`](Self::legality).
    pub fn legal(&self, plan: &CellPlan<'_>) -> Result<Vec<KernelSpec>, CellError> {
        let kernels = plan.kernels.iter().zip(self.legality(plan)?);
        Ok(kernels.filter(|(_, legality)| legality.is_ok()).map(|(spec, _)| *spec).collect())
    }

    /// Measures a cell.
    ///
    /// First every kernel is launched once on the call that the oracle knows, for its error and a
    /// first look at its time. Those that are hopelessly slow are then left out or dropped: an
    /// implementation that takes many times as long as another of the same kernel for one token,
    /// and by [`CellPlan::drop_above`]. The others take turns in rounds; see
    /// [`MIN_ROUNDS`] and the plan for how many. `stop` is asked after every launch and ends the
    /// cell with what there is.
    ///
    /// # Errors
    /// [`CellError`] when inputs do not fit or a kernel fails in a round; one that fails at the
    /// first look is left out.
    pub fn measure(
        &mut self,
        plan: &CellPlan<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Result<CellTimes, CellError> {
        let mut times = self.begin(plan, stop)?;
        let start = Instant::now();
        let enough = |rounds| start.elapsed() >= plan.time && rounds >= MIN_ROUNDS;
        while times.rounds < plan.rounds && !enough(times.rounds) {
            if self.extend(plan.num_tokens, &mut times, &|_| stop())?.is_break() {
                break;
            }
        }
        times.kernels.retain(|kernel| kernel.ns.iter().any(Option::is_some));
        Ok(times)
    }

    /// The first look of [`measure`](Self::measure), without a round.
    ///
    /// # Errors
    /// As [`measure`](Self::measure).
    pub fn begin(
        &mut self,
        plan: &CellPlan<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Result<CellTimes, CellError> {
        let (kernels, left_out) = self.look(plan, stop)?;
        Ok(CellTimes { kernels, left_out, load: Load::default(), rounds: 0 })
    }

    /// One more block of rounds of the kernels that are not dropped. `ended` is asked before it and
    /// after every launch, and ends it at once.
    ///
    /// # Errors
    /// As [`measure`](Self::measure).
    pub fn extend(
        &mut self,
        num_tokens: usize,
        times: &mut CellTimes,
        ended: &dyn Fn(&[KernelTimes]) -> bool,
    ) -> Result<ControlFlow<()>, CellError> {
        let CellTimes { kernels, load, rounds, .. } = times;
        let measured: Vec<usize> = (0..kernels.len()).filter(|&at| !kernels[at].dropped).collect();
        let ids: Vec<KernelId> = measured.iter().map(|&at| kernels[at].spec.id).collect();
        if ids.is_empty() || ended(kernels) {
            return Ok(ControlFlow::Break(()));
        }
        let calls = self.next_calls(num_tokens)?;
        for (call, before) in calls.iter().zip(*rounds..) {
            load.average_in(&self.load(call), before);
        }
        for &at in &measured {
            kernels[at].ns.resize(*rounds + calls.len(), None);
        }
        let first = *rounds;
        *rounds += calls.len();
        let flow = self.rotation.interleave(
            &calls,
            &ids,
            &mut self.rng,
            || (),
            |timed| {
                kernels[measured[timed.kernel]].ns[first + timed.call] = Some(timed.ns);
                match ended(kernels) {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            },
        )?;
        Ok(flow)
    }

    /// Launches one kernel on the next call: nanoseconds. The calls are those of the rounds, in the
    /// same order on every bench of equal layers, so that the launches of two of them are pairs.
    ///
    /// # Errors
    /// As [`measure`](Self::measure).
    pub fn time_next(&mut self, kernel: KernelId, num_tokens: usize) -> Result<u64, CellError> {
        let call = self.next_call(num_tokens)?;
        Ok(self.rotation.time(&call, kernel, || ())?)
    }

    /// The calls of the next rounds: as many as read [`cold_bytes`](Self::new).
    fn next_calls(&mut self, num_tokens: usize) -> Result<Vec<LayerCall>, RoutingError> {
        let (mut calls, mut bytes) = (Vec::new(), 0.0);
        while calls.is_empty() || bytes < self.cold_bytes as f64 {
            let call = self.next_call(num_tokens)?;
            bytes += self.load(&call).bytes;
            calls.push(call);
        }
        Ok(calls)
    }

    fn next_call(&mut self, num_tokens: usize) -> Result<LayerCall, RoutingError> {
        if self.cold_bytes == 0 {
            return Ok(LayerCall { layer: 0, inputs: (self.draw)(num_tokens, 0)? });
        }
        let layer = (self.calls % self.decks.len() as u64) as usize;
        let drawn = (self.draw)(num_tokens, self.calls)?;
        let routing = self.decks[layer].deal(&drawn.routing)?;
        self.calls += 1;
        Ok(LayerCall { layer, inputs: Inputs { routing, ..drawn } })
    }

    fn load(&self, call: &LayerCall) -> Load {
        let layer = &self.rotation.layers[call.layer];
        let (shape, tuples) = (layer.shape(), layer.expert_tuples());
        let (hidden, intermediate) = (shape.padded_hidden(), shape.padded_intermediate());
        let active = call.inputs.routing.active_experts();
        let bytes = |&expert: &u32| tuples[expert as usize].trellis_bytes(hidden, intermediate);
        Load {
            bytes: active.iter().map(bytes).sum::<u64>() as f64,
            weights: (active.len() as u64 * shape.weights_per_expert()) as f64,
            macs: Workload::of(shape, &call.inputs.routing).macs() as f64,
        }
    }
}

impl Load {
    /// Makes the mean of `count` loads that of one more.
    fn average_in(&mut self, other: &Self, count: usize) {
        let mean = |mean: f64, value: f64| mean + (value - mean) / (count + 1) as f64;
        self.bytes = mean(self.bytes, other.bytes);
        self.weights = mean(self.weights, other.weights);
        self.macs = mean(self.macs, other.macs);
    }
}

/// A cell that could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CellError {
    /// Inputs that cannot be routed.
    #[error(transparent)]
    Routing(#[from] RoutingError),
    /// Inputs that do not fit the layers.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A kernel that failed.
    #[error(transparent)]
    Launch(#[from] LaunchError),
}

impl From<RoundError> for CellError {
    fn from(error: RoundError) -> Self {
        match error {
            RoundError::Call(error) => error.into(),
            RoundError::Launch(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
