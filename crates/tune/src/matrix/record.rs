//! Recording: rounds over contexts in random order, kernels in random order within a context, and
//! a read of a large buffer before every launch, so that weights come from memory and the
//! machine's ceiling is known for every round.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use chacha20::ChaCha8Rng;
use rand::SeedableRng;
use trellect_core::{
    Backend, BitTuple, Call, CallError, CallFacts, Hidden, KernelId, KernelSpec, LaunchError,
    LayerShape, NumericClass, PreparedLayer, Queue, Routing, RoutingError,
};

use super::{
    Cell, FORMAT, Machine, Matrix, MatrixContext, MatrixKernel, MatrixShape, Round, Tuple, VERSION,
};
use crate::bandwidth::BandwidthProbe;
use crate::calibrate::{CalibrateError, DEFAULT_BUDGET, KernelCost, calibrate};
use crate::rounds::{Inputs, LayerCall, Rotation, RoundError, shuffled};
use crate::statistics::{median, relative_error};
use crate::work::Workload;

/// A context to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextPlan {
    /// Tokens of a call.
    pub num_tokens: usize,
    /// How to route them, in the words of [`RecordPlan::draw`].
    pub routing: String,
}

/// Why a kernel should not be measured in a context; `None`: measure it.
pub type Skip<'a> = &'a dyn Fn(&KernelSpec, &ContextPlan) -> Option<String>;

/// Makes the inputs of a context from a layer's tuples and a seed.
pub type Draw<'a> = &'a dyn Fn(&ContextPlan, &[BitTuple], u64) -> Result<Inputs, RoutingError>;

/// What to record.
pub struct RecordPlan<'a> {
    /// The matrix's name, for people.
    pub name: String,
    /// Circumstances that a reader should know.
    pub note: String,
    /// Experts per token.
    pub top_k: usize,
    /// The class of kernels to measure.
    pub numeric: NumericClass,
    /// The contexts.
    pub contexts: Vec<ContextPlan>,
    /// Samples of every cell at most.
    pub rounds: usize,
    /// Bytes read before every launch; more than the last-level cache makes weights come from
    /// memory. 0: read nothing, measure no ceiling.
    pub cold_bytes: usize,
    /// Threads that read them.
    pub threads: NonZeroUsize,
    /// Which kernels to leave out where.
    pub skip: Skip<'a>,
    /// Where inputs come from.
    pub draw: Draw<'a>,
}

/// How far a recording is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The context whose latest round has just been measured.
    pub context: usize,
    /// Contexts measured, over all rounds.
    pub done: usize,
    /// Contexts times rounds.
    pub total: usize,
}

/// Measures every legal kernel in every context of `plan`, on `layers` in turns.
///
/// Round `r` uses layer `r mod layers` and seed `r`. Before the first round every kernel's answer
/// is compared with that of a kernel of class `exact`; the launches of that check are not timed. A
/// kernel that is not legal in every round of a context is skipped there, with the reason.
///
/// `progress` is shown the matrix after every context of every round, and may end the recording
/// there: contexts then differ by one round, and those without any are left out. Blocks until then.
///
/// # Errors
/// [`RecordError`] for layers that differ in more than their weights, inputs that do not fit, a
/// kernel that fails, and an answer outside its class.
pub fn record(
    backend: &dyn Backend,
    layers: &[Arc<dyn PreparedLayer>],
    plan: &RecordPlan<'_>,
    mut progress: impl FnMut(&Matrix, Progress) -> ControlFlow<()>,
) -> Result<Matrix, RecordError> {
    let first = layers.first().ok_or(RecordError::NoLayer)?;
    let shape = *first.shape();
    if let Some(layer) = layers.iter().position(|layer| *layer.shape() != shape) {
        return Err(RecordError::Shape { layer });
    }
    let probe = (plan.cold_bytes > 0).then(|| BandwidthProbe::new(plan.cold_bytes, plan.threads));
    let mut matrix = empty_matrix(backend, layers, plan);
    let specs: Vec<KernelSpec> =
        first.specs().filter(|spec| spec.class == plan.numeric).copied().collect();
    let costs = calibrate(layers, plan.numeric, DEFAULT_BUDGET)?.kernels;
    matrix.kernels = specs.iter().map(|spec| kernel_of(spec, &costs)).collect();
    let mut rotation = Rotation::new(layers);

    for context in &plan.contexts {
        let tuples = |round: usize| layers[round % layers.len()].expert_tuples();
        let mut refused: Vec<Option<String>> =
            specs.iter().map(|spec| (plan.skip)(spec, context)).collect();
        for round in 0..plan.rounds {
            let routing = (plan.draw)(context, tuples(round), round as u64)?.routing;
            for (spec, why) in specs.iter().zip(&mut refused).filter(|(_, why)| why.is_none()) {
                *why = refusal(spec, &routing, tuples(round), plan.numeric);
            }
        }
        let cell = |why: Option<String>| why.map_or_else(|| Cell::Ns(Vec::new()), Cell::Skipped);
        let cells: Vec<Cell> = refused.into_iter().map(cell).collect();
        let inputs = (plan.draw)(context, tuples(0), 0)?;
        check_class(first.as_ref(), rotation.queue(0), &specs, &cells, plan, &inputs)?;
        let (num_tokens, routing) = (context.num_tokens, context.routing.clone());
        matrix.contexts.push(MatrixContext { num_tokens, routing, rounds: Vec::new(), cells });
    }

    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let total = plan.rounds * plan.contexts.len();
    let mut done = 0;
    'rounds: for round in 0..plan.rounds {
        let layer = round % layers.len();
        for context in shuffled(plan.contexts.len(), &mut rng) {
            let tuples = layers[layer].expert_tuples();
            let inputs = (plan.draw)(&plan.contexts[context], tuples, round as u64)?;
            let cells = &mut matrix.contexts[context].cells;
            let measured = cells.iter_mut().zip(&specs);
            let (mut times, kernels): (Vec<&mut Vec<u64>>, Vec<KernelId>) = measured
                .filter_map(|(cell, spec)| match cell {
                    Cell::Ns(ns) => Some((ns, spec.id)),
                    Cell::Skipped(_) => None,
                })
                .unzip();
            let mut ceilings = Vec::new();
            let call = [LayerCall { layer, inputs }];
            let read = || ceilings.extend(probe.as_ref().map(BandwidthProbe::measure_gib_per_s));
            let _ = rotation.interleave(&call, &kernels, &mut rng, read, |timed| {
                times[timed.kernel].push(timed.ns);
                ControlFlow::Continue(())
            })?;
            let [LayerCall { inputs, .. }] = call;
            matrix.contexts[context].rounds.push(Round {
                layer,
                seed: round as u64,
                loads: Workload::of(&shape, &inputs.routing).loads().to_vec(),
                ceiling_gib_per_s: (median(ceilings).unwrap_or(0.0) * 100.0).round() / 100.0,
                clock_khz: clock_khz(),
            });
            done += 1;
            if progress(&matrix, Progress { context, done, total }).is_break() {
                break 'rounds;
            }
        }
    }
    matrix.contexts.retain(|context| !context.rounds.is_empty());
    Ok(matrix)
}

fn empty_matrix(
    backend: &dyn Backend,
    layers: &[Arc<dyn PreparedLayer>],
    plan: &RecordPlan<'_>,
) -> Matrix {
    let device = backend.describe();
    let facts = device.facts.into_iter().map(|(name, value)| (name.to_owned(), value));
    let LayerShape { hidden_size, intermediate_size, num_experts } = *layers[0].shape();
    let tuples =
        |layer: &Arc<dyn PreparedLayer>| layer.expert_tuples().iter().map(|&t| Tuple(t)).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Matrix {
        format: FORMAT.into(),
        version: VERSION,
        name: plan.name.clone(),
        recorded_unix_s: now.map_or(0, |since| since.as_secs()),
        machine: Machine {
            device: device.name,
            facts: facts.collect(),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            note: plan.note.clone(),
        },
        shape: MatrixShape { hidden_size, intermediate_size, num_experts, top_k: plan.top_k },
        numeric: plan.numeric,
        layers: layers.iter().map(tuples).collect(),
        kernels: Vec::new(),
        contexts: Vec::new(),
    }
}

fn kernel_of(spec: &KernelSpec, costs: &[KernelCost]) -> MatrixKernel {
    let KernelSpec { id: name, rows_per_decode, tile_n, .. } = *spec;
    let cost = costs.iter().find(|model| model.kernel == name).map(|model| model.cost.into());
    MatrixKernel { name, rows_per_decode, tile_n, cost }
}

/// Why a kernel may not serve a call.
fn refusal(
    spec: &KernelSpec,
    routing: &Routing,
    tuples: &[BitTuple],
    numeric: NumericClass,
) -> Option<String> {
    let mut active_tuples: Vec<BitTuple> =
        routing.active_experts().iter().map(|&expert| tuples[expert as usize]).collect();
    active_tuples.sort_unstable();
    active_tuples.dedup();
    let facts = CallFacts {
        num_tokens: routing.num_tokens(),
        num_pairs: routing.num_pairs(),
        active_tuples: &active_tuples,
        numeric,
        workspace_limit: None,
    };
    spec.legal(&facts).err().map(|why| why.to_string())
}

/// Compares the answers of all kernels that will be measured with the first kernel of class
/// `exact` that can compute the call; where there is none, with the first of them.
fn check_class(
    layer: &dyn PreparedLayer,
    queue: &mut dyn Queue,
    specs: &[KernelSpec],
    cells: &[Cell],
    plan: &RecordPlan<'_>,
    inputs: &Inputs,
) -> Result<(), RecordError> {
    let call = Call::new(layer.shape(), Hidden::F16(&inputs.hidden), &inputs.routing)?;
    let measured = || {
        let pairs = specs.iter().zip(cells);
        pairs.filter(|(_, cell)| matches!(cell, Cell::Ns(_))).map(|(spec, _)| spec)
    };
    let tuples = layer.expert_tuples();
    let exact = layer
        .specs()
        .find(|spec| refusal(spec, &inputs.routing, tuples, NumericClass::Exact).is_none());
    let Some(reference) = exact.or_else(|| measured().next()) else { return Ok(()) };
    let allowed = plan.numeric.max_relative_error() + reference.class.max_relative_error();
    let mut out = vec![0.0; inputs.hidden.len()];
    queue.launch(reference.id, &call, &mut out)?;
    let expected: Vec<f64> = out.iter().copied().map(f64::from).collect();
    for spec in measured() {
        queue.launch(spec.id, &call, &mut out)?;
        let found = relative_error(&out, &expected);
        if found.is_nan() || found > allowed {
            let num_tokens = inputs.routing.num_tokens();
            return Err(RecordError::Class { kernel: spec.id, num_tokens, found, allowed });
        }
    }
    queue.harvest(&mut |_| {});
    Ok(())
}

/// The clock of the first core, where the system tells it.
fn clock_khz() -> Option<u64> {
    let file = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq";
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

impl From<RoundError> for RecordError {
    fn from(error: RoundError) -> Self {
        match error {
            RoundError::Call(error) => error.into(),
            RoundError::Launch(error) => error.into(),
        }
    }
}

/// A recording that ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The calibration that precedes every recording.
    #[error(transparent)]
    Calibrate(#[from] CalibrateError),
    /// No layer to record on.
    #[error("a recording needs at least one prepared layer")]
    NoLayer,
    /// A layer of another shape.
    #[error("layer {layer} has another shape than layer 0")]
    Shape {
        /// Which layer.
        layer: usize,
    },
    /// A context that cannot be routed.
    #[error(transparent)]
    Routing(#[from] RoutingError),
    /// Inputs that do not fit the layer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A kernel that failed.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A kernel whose answer is not in its class.
    #[error(
        "{kernel}: relative error {found:.3e} at {num_tokens} tokens, its class allows {allowed:.3e}"
    )]
    Class {
        /// The kernel.
        kernel: KernelId,
        /// Tokens of the call.
        num_tokens: usize,
        /// Its relative Frobenius error.
        found: f64,
        /// What its class and the reference's allow.
        allowed: f64,
    },
}
