//! A linear cost model of every kernel, fitted to a few launches: a prior for the time of calls
//! that were never made.
//!
//! Two hundred milliseconds are a handful of launches a kernel, each with the noise of a busy
//! machine. So kernels of one instruction set are fitted together first, towards what is typical of
//! that set, and each kernel's own launches then bend its model as far as their noise allows: see
//! `fit`.

mod fit;
mod stored;
mod typical;

use std::sync::Arc;
use std::time::{Duration, Instant};

use trellect_core::{
    BackendKind, BitTuple, Call, CallError, CallFacts, Hidden, KernelId, KernelSpec, LaunchError,
    NumericClass, PreparedLayer, Queue, Routing, RoutingError,
};

use trellect_select::adaptive::CostCoefficients;

use crate::launch::timed_launch;
use crate::nnls;
use crate::work::Workload;

use fit::{Model, Sample};

pub use stored::{StoredCalibration, StoredCost};
pub use typical::default_cost;

/// What a calibration may take.
pub const DEFAULT_BUDGET: Duration = Duration::from_millis(200);

/// A kernel that should take this many times as long as the fastest is not worth more than
/// [`SLOW_LAUNCHES`] launches of its implementation: it will not be chosen however long it takes.
const SLOW: f64 = 4.0;
const SLOW_LAUNCHES: usize = 2;

/// Probes of a CPU as (rows of every expert, experts), cheap and telling ones first: rows that share a
/// decoding tell it from the multiply-adds, experts tell both from what a call costs anyway.
const PROBES: [(usize, usize); 6] = [(1, 1), (4, 1), (1, 4), (16, 1), (2, 4), (4, 4)];

/// Those of a GPU, which a few experts do not fill: below that, work costs nothing and tells nothing.
const GPU_PROBES: [(usize, usize); 6] = [(1, 4), (1, 8), (8, 16), (4, 64), (16, 64), (64, 64)];

/// The time of a call in nanoseconds, going by a kernel's cost model.
pub fn predict_ns(cost: &CostCoefficients, work: &Workload, rows_per_decode: usize) -> f64 {
    cost.time_ns(work.decoded_weights(rows_per_decode), work.macs(), work.num_pairs())
}

fn columns(work: &Workload, rows_per_decode: usize) -> [f64; nnls::N] {
    let decoded = work.decoded_weights(rows_per_decode) as f64;
    [1.0, decoded, work.macs() as f64, work.num_pairs() as f64]
}

/// The model of one kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelCost {
    /// The kernel.
    pub kernel: KernelId,
    /// Most rows of one expert that share one decoding.
    pub rows_per_decode: usize,
    /// Its coefficients.
    pub cost: CostCoefficients,
    /// Launches of this kernel that the fit rests on; without any the model is that of its
    /// implementation.
    pub probes: usize,
    /// Root mean square of the relative errors at these launches; 0 without any.
    pub relative_error: f64,
}

/// The models of a backend's kernels.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Every kernel, those of one implementation name best first.
    pub kernels: Vec<KernelCost>,
    /// Those among them that were not launched, since the budget was too small.
    pub unprobed: Vec<KernelId>,
    /// What it took.
    pub elapsed: Duration,
}

/// Probes the kernels of class `numeric` on prepared layers and fits their models.
///
/// Kernels take turns, each with the next of the probes, over and over until `budget` is spent.
/// Every launch is on experts that the latest have left cold. One is left out when, going by what is
/// known of its kernel so far, it would not end in time; so the budget is passed by one launch at
/// most, one that took longer than predicted.
///
/// # Errors
/// [`CalibrateError`] when a kernel fails.
pub fn calibrate(
    layers: &[Arc<dyn PreparedLayer>],
    numeric: NumericClass,
    budget: Duration,
) -> Result<Calibration, CalibrateError> {
    let start = Instant::now();
    let mut model = Model::new(in_turn(layers, numeric));
    let probes = probes(model.kernels());
    let mut bench = Bench::new(layers, probes);
    let on_layers = |(rows, experts)| (0..layers.len()).map(move |layer| (layer, rows, experts));
    let turns: Vec<_> = probes.iter().copied().flat_map(on_layers).collect();
    let mut launched = true;
    while launched {
        launched = false;
        for &(layer, rows, experts) in &turns {
            for kernel in 0..model.kernels().len() {
                let spec = model.kernels()[kernel];
                let left = budget.saturating_sub(start.elapsed());
                if left.is_zero() {
                    return Ok(finish(&model, start));
                }
                let Some((routing, work)) = bench.probe(layer, rows, experts, &spec, numeric)?
                else {
                    continue;
                };
                let predicted = model.predict_ns(kernel, &work);
                let slow = predicted > SLOW * model.fastest_ns(&work)
                    && model.launches_of_variant(kernel) >= SLOW_LAUNCHES;
                if slow || predicted > left.as_nanos() as f64 {
                    continue;
                }
                let ns = bench.launch(layer, spec.id, &routing)?;
                model.push(Sample { kernel, columns: columns(&work, spec.rows_per_decode), ns });
                launched = true;
            }
        }
    }
    Ok(finish(&model, start))
}

fn finish(model: &Model, start: Instant) -> Calibration {
    let kernels = model.costs();
    let unprobed = kernels.iter().filter(|kernel| kernel.probes == 0).map(|kernel| kernel.kernel);
    Calibration { unprobed: unprobed.collect(), kernels, elapsed: start.elapsed() }
}

/// The kernels of all layers, the best of every family first, then the second best, and so on.
fn in_turn(layers: &[Arc<dyn PreparedLayer>], numeric: NumericClass) -> Vec<KernelSpec> {
    let mut ranked: Vec<(usize, KernelSpec)> = Vec::new();
    let of_class = layers.iter().flat_map(|layer| layer.specs()).filter(|s| s.class == numeric);
    for spec in of_class {
        if ranked.iter().all(|(_, known)| known.id != spec.id) {
            let rivals = ranked.iter().filter(|(_, known)| known.id.plain() == spec.id.plain());
            ranked.push((rivals.count(), *spec));
        }
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, spec)| spec).collect()
}

/// The probes of the device that has `kernels`.
fn probes(kernels: &[KernelSpec]) -> &'static [(usize, usize)] {
    match kernels.first().and_then(|spec| spec.id.backend()) {
        Some(BackendKind::Cuda | BackendKind::Wgpu) => &GPU_PROBES,
        Some(BackendKind::Cpu) | None => &PROBES,
    }
}

/// What launches need, and which experts are next.
struct Bench<'a> {
    layers: &'a [Arc<dyn PreparedLayer>],
    queues: Vec<Box<dyn Queue>>,
    hidden: Vec<f32>,
    out: Vec<f32>,
    /// How many experts were launched so far.
    turns: usize,
}

impl<'a> Bench<'a> {
    fn new(layers: &'a [Arc<dyn PreparedLayer>], probes: &[(usize, usize)]) -> Self {
        let widest = probes.iter().map(|(rows, _)| *rows).max().unwrap_or(0);
        let longest = layers.iter().map(|layer| layer.shape().hidden_size).max().unwrap_or(0);
        Self {
            layers,
            queues: layers.iter().map(|layer| Arc::clone(layer).queue()).collect(),
            hidden: activations(widest * longest),
            out: vec![0.0; widest * longest],
            turns: 0,
        }
    }

    /// `rows` rows for each of the next `experts` experts that `spec` computes, and their work;
    /// `None` where it computes no such call.
    fn probe(
        &mut self,
        layer: usize,
        rows: usize,
        experts: usize,
        spec: &KernelSpec,
        numeric: NumericClass,
    ) -> Result<Option<(Routing, Workload)>, RoutingError> {
        let prepared = &self.layers[layer];
        let all = prepared.expert_tuples();
        let able = |&expert: &usize| spec.id.tuple.is_none_or(|tuple| all[expert] == tuple);
        let able: Vec<usize> = (0..all.len()).filter(able).collect();
        if able.len() < experts {
            return Ok(None);
        }
        let chosen: Vec<usize> =
            (0..experts).map(|at| able[(self.turns + at) % able.len()]).collect();
        let mut tuples: Vec<BitTuple> = chosen.iter().map(|&expert| all[expert]).collect();
        tuples.sort_unstable();
        tuples.dedup();
        let facts = CallFacts {
            num_tokens: rows,
            num_pairs: rows * experts,
            active_tuples: &tuples,
            numeric,
            workspace_limit: None,
        };
        if spec.legal(&facts).is_err() {
            return Ok(None);
        }
        self.turns += experts;
        let ids: Vec<i32> = chosen.iter().map(|&expert| expert as i32).collect();
        let weights = vec![1.0 / experts as f32; rows * experts];
        let routing = Routing::new(all.len(), experts, &ids.repeat(rows), &weights)?;
        let work = Workload::of(prepared.shape(), &routing);
        Ok(Some((routing, work)))
    }

    fn launch(
        &mut self,
        layer: usize,
        kernel: KernelId,
        routing: &Routing,
    ) -> Result<f64, CalibrateError> {
        let shape = self.layers[layer].shape();
        let len = routing.num_tokens() * shape.hidden_size;
        let call = Call::new(shape, Hidden::F32(&self.hidden[..len]), routing)?;
        let queue = self.queues[layer].as_mut();
        Ok(timed_launch(queue, kernel, &call, &mut self.out[..len])? as f64)
    }
}

/// Values of both signs and unit size; the time of a kernel does not depend on them.
fn activations(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i % 23) as f32 / 11.0 - 1.0).collect()
}

/// A calibration that ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrateError {
    /// A probe that cannot be routed.
    #[error(transparent)]
    Routing(#[from] RoutingError),
    /// A probe that does not fit its layer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A kernel that failed.
    #[error(transparent)]
    Launch(#[from] LaunchError),
}

#[cfg(test)]
mod tests {
    use trellect_core::{Backend, Codebook, LayerShape};
    use trellect_cpu::{CpuBackend, CpuOptions};
    use trellect_exl3::synth::{OwnedLayer, SynthSpec};

    use super::*;

    fn layer(intermediate_size: usize) -> Arc<dyn PreparedLayer> {
        let shape = LayerShape::new(128, intermediate_size, 8).unwrap();
        let layer = OwnedLayer::new(&SynthSpec::mixed(shape, Codebook::Mul1, 1)).unwrap();
        let backend = CpuBackend::new(CpuOptions::from_env().unwrap());
        backend.prepare(&layer.view(), &mut |_| {}).unwrap()
    }

    #[test]
    fn a_tiny_layer_is_calibrated_within_its_budget() {
        let layers = [layer(128), layer(384)];
        let found = calibrate(&layers, NumericClass::Half, DEFAULT_BUDGET).unwrap();
        // One launch may pass the budget, and other work may hold it up.
        assert!(found.elapsed < 20 * DEFAULT_BUDGET, "{:?}", found.elapsed);
        assert!(found.kernels.iter().any(|model| model.probes > 0));
        let unseen = Workload::new(layers[0].shape(), vec![5, 0, 3, 0, 0, 1, 0, 9]);
        for model in &found.kernels {
            assert!(model.cost.is_valid() && model.relative_error.is_finite(), "{model:?}");
            let predicted = predict_ns(&model.cost, &unseen, model.rows_per_decode);
            assert!(predicted.is_finite() && predicted > 0.0, "{model:?}");
        }
    }

    #[test]
    fn without_time_or_layers_nothing_is_launched() {
        let found = calibrate(&[layer(128)], NumericClass::Half, Duration::ZERO).unwrap();
        assert_eq!(found.kernels.len(), found.unprobed.len());
        let work = Workload::new(layer(128).shape(), vec![2; 8]);
        for model in &found.kernels {
            let [guess, default] = [model.cost, default_cost(model.kernel)]
                .map(|cost| predict_ns(&cost, &work, model.rows_per_decode));
            assert!((guess / default - 1.0).abs() < 1e-9, "{model:?}");
        }
        let none = calibrate(&[], NumericClass::Half, DEFAULT_BUDGET).unwrap();
        assert!(none.kernels.is_empty() && none.unprobed.is_empty());
    }
}
