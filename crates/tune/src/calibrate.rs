//! A linear cost model of every kernel, fitted to a few launches: a prior for the time of calls
//! that were never made.
//!
//! One layer cannot tell the cost of a pair from that of its multiply-adds, which are then the same
//! column; the fit uses the multiply-adds. Layers of different sizes can.

mod stored;

use std::sync::Arc;
use std::time::{Duration, Instant};

use trellect_core::{
    BitTuple, Call, CallError, CallFacts, Hidden, KernelId, KernelSpec, LaunchError, NumericClass,
    PreparedLayer, Queue, Routing, RoutingError,
};

use trellect_select::adaptive::CostCoefficients;

use crate::launch::timed_launch;
use crate::nnls;
use crate::work::Workload;

pub use stored::{StoredCalibration, StoredCost};

/// What a calibration may take.
pub const DEFAULT_BUDGET: Duration = Duration::from_millis(200);

/// How much slower than the slowest kernel seen one may be that has not been run yet.
const UNSEEN_FACTOR: f64 = 4.0;

/// The share of the budget after which the best implementations of every name make room for others.
const BEST_SHARE: f64 = 0.75;

/// Probes as (tokens, experts per token, experts in all), cheap and telling ones first. Experts
/// beyond the layer's are cut.
const PROBES: [(usize, usize, usize); 12] = [
    (1, 1, 1),
    (4, 1, 1),
    (1, 2, 2),
    (16, 1, 1),
    (1, 4, 4),
    (4, 1, 4),
    (8, 1, 2),
    (32, 1, 1),
    (16, 1, 4),
    (1, 8, 8),
    (8, 1, 8),
    (32, 1, 4),
];

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
    /// Probes that the fit rests on; with fewer than four it is a guess.
    pub probes: usize,
    /// Root mean square of the relative errors at the probes.
    pub relative_error: f64,
}

/// The models of a backend's kernels.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Kernels that were probed.
    pub kernels: Vec<KernelCost>,
    /// Kernels for which the budget was too small.
    pub unprobed: Vec<KernelId>,
    /// What it took.
    pub elapsed: Duration,
}

/// A probe of one layer: the call and its work.
struct Probe {
    layer: usize,
    routing: Routing,
    work: Workload,
    tuples: Vec<BitTuple>,
}

/// A kernel on its way through the probes.
struct Probed {
    spec: KernelSpec,
    /// Whether it is the best of its name.
    best: bool,
    /// Every probe that was launched, with its nanoseconds.
    times: Vec<(usize, f64)>,
}

/// Probes the kernels of class `numeric` on prepared layers and fits their models.
///
/// Kernels take turns, each with the next of its probes, until all probes were launched or `budget`
/// is spent; three quarters of it go to the best implementation of every name first. A launch is
/// left out when, going by what its kernel (or, before its first launch, the slowest kernel so far)
/// has shown, it would not end in time; so the budget is passed by one launch at most, one that took
/// longer than predicted.
///
/// # Errors
/// [`CalibrateError`] when a kernel fails.
pub fn calibrate(
    layers: &[Arc<dyn PreparedLayer>],
    numeric: NumericClass,
    budget: Duration,
) -> Result<Calibration, CalibrateError> {
    let start = Instant::now();
    let probes = probes(layers)?;
    let widest = probes.iter().map(|probe| probe.routing.num_tokens()).max().unwrap_or(0);
    let longest = layers.iter().map(|layer| layer.shape().hidden_size).max().unwrap_or(0);
    let hidden = activations(widest * longest);
    let mut out = vec![0.0; hidden.len()];
    let mut queues: Vec<Box<dyn Queue>> =
        layers.iter().map(|layer| Arc::clone(layer).queue()).collect();
    let mut kernels = in_turn(layers, numeric);
    let mut slowest_ns_per_mac = 0.0f64;

    for (index, probe, best) in turns(&probes) {
        let budget = if best { budget.mul_f64(BEST_SHARE) } else { budget };
        for kernel in kernels.iter_mut().filter(|kernel| kernel.best == best) {
            if !legal(&kernel.spec, probe, numeric) {
                continue;
            }
            let rows = kernel.spec.rows_per_decode;
            let predicted = match fit(kernel, &probes) {
                Some(known) => predict_ns(&known.cost, &probe.work, rows),
                None => UNSEEN_FACTOR * slowest_ns_per_mac * probe.work.macs() as f64,
            };
            let left = budget.saturating_sub(start.elapsed());
            if left.is_zero() || predicted > left.as_nanos() as f64 {
                continue;
            }
            let shape = layers[probe.layer].shape();
            let len = probe.routing.num_tokens() * shape.hidden_size;
            let call = Call::new(shape, Hidden::F32(&hidden[..len]), &probe.routing)?;
            let queue = queues[probe.layer].as_mut();
            let ns = timed_launch(queue, kernel.spec.id, &call, &mut out[..len])? as f64;
            kernel.times.push((index, ns));
            let per_mac = ns / probe.work.macs() as f64;
            slowest_ns_per_mac = slowest_ns_per_mac.max(per_mac);
        }
    }
    let unprobed = kernels.iter().filter(|kernel| kernel.times.is_empty());
    let unprobed = unprobed.map(|kernel| kernel.spec.id).collect();
    let kernels = kernels.iter().filter_map(|kernel| fit(kernel, &probes)).collect();
    Ok(Calibration { kernels, unprobed, elapsed: start.elapsed() })
}

/// Every probe for the best kernels, then every probe for the others.
fn turns(probes: &[Probe]) -> impl Iterator<Item = (usize, &Probe, bool)> {
    let pass = |best| probes.iter().enumerate().map(move |(index, probe)| (index, probe, best));
    pass(true).chain(pass(false))
}

/// The kernels of all layers, the best of every family first, then the second best, and so on.
fn in_turn(layers: &[Arc<dyn PreparedLayer>], numeric: NumericClass) -> Vec<Probed> {
    let mut ranked: Vec<(usize, KernelSpec)> = Vec::new();
    let of_class = layers.iter().flat_map(|layer| layer.specs()).filter(|s| s.class == numeric);
    for spec in of_class {
        if ranked.iter().all(|(_, known)| known.id != spec.id) {
            let rivals = ranked.iter().filter(|(_, known)| known.id.plain() == spec.id.plain());
            ranked.push((rivals.count(), *spec));
        }
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked
        .into_iter()
        .map(|(rank, spec)| Probed { spec, best: rank == 0, times: Vec::new() })
        .collect()
}

/// All probes of all layers; probe `i` of every layer before probe `i + 1` of any.
fn probes(layers: &[Arc<dyn PreparedLayer>]) -> Result<Vec<Probe>, RoutingError> {
    let mut probes: Vec<Probe> = Vec::new();
    let mut first_expert = 0;
    for (tokens, top_k, experts) in PROBES {
        for (layer, prepared) in layers.iter().enumerate() {
            let shape = prepared.shape();
            let num_experts = shape.num_experts;
            let (top_k, experts) = (top_k.min(num_experts), experts.min(num_experts));
            // Every probe starts at experts that the last one has left cold.
            let pairs = 0..tokens * top_k;
            let expert = |pair: usize| ((first_expert + pair % experts) % num_experts) as i32;
            let ids: Vec<i32> = pairs.map(expert).collect();
            let weights = vec![1.0 / top_k as f32; ids.len()];
            let routing = Routing::new(num_experts, top_k, &ids, &weights)?;
            first_expert = (first_expert + experts) % num_experts;
            let active = routing.active_experts().iter();
            let mut tuples: Vec<BitTuple> =
                active.map(|&expert| prepared.expert_tuples()[expert as usize]).collect();
            tuples.sort_unstable();
            tuples.dedup();
            let work = Workload::of(shape, &routing);
            probes.push(Probe { layer, routing, work, tuples });
        }
    }
    Ok(probes)
}

fn legal(spec: &KernelSpec, probe: &Probe, numeric: NumericClass) -> bool {
    let facts = CallFacts {
        num_tokens: probe.routing.num_tokens(),
        num_pairs: probe.routing.num_pairs(),
        active_tuples: &probe.tuples,
        numeric,
        workspace_limit: None,
    };
    spec.legal(&facts).is_ok()
}

/// The model that fits a kernel's launches so far; `None` before the first.
fn fit(kernel: &Probed, probes: &[Probe]) -> Option<KernelCost> {
    let rows_per_decode = kernel.spec.rows_per_decode;
    let rows: Vec<[f64; nnls::N]> = kernel
        .times
        .iter()
        .map(|&(probe, ns)| columns(&probes[probe].work, rows_per_decode).map(|x| x / ns))
        .collect();
    if rows.is_empty() {
        return None;
    }
    let ([launch_ns, ns_per_decoded_weight, ns_per_mac, ns_per_pair], loss) = nnls::solve(&rows);
    Some(KernelCost {
        kernel: kernel.spec.id,
        rows_per_decode,
        cost: CostCoefficients { launch_ns, ns_per_decoded_weight, ns_per_mac, ns_per_pair },
        probes: rows.len(),
        relative_error: (loss / rows.len() as f64).sqrt(),
    })
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
        assert!(!found.kernels.is_empty());
        let unseen = Workload::new(layers[0].shape(), vec![5, 0, 3, 0, 0, 1, 0, 9]);
        for model in &found.kernels {
            let CostCoefficients { launch_ns, ns_per_decoded_weight, ns_per_mac, ns_per_pair } =
                model.cost;
            for coefficient in [launch_ns, ns_per_decoded_weight, ns_per_mac, ns_per_pair] {
                assert!(coefficient.is_finite() && coefficient >= 0.0, "{model:?}");
            }
            assert!(model.relative_error.is_finite() && model.probes > 0, "{model:?}");
            let predicted = predict_ns(&model.cost, &unseen, model.rows_per_decode);
            assert!(predicted.is_finite() && predicted > 0.0, "{model:?}");
        }
    }

    #[test]
    fn without_time_or_layers_nothing_is_launched() {
        let found = calibrate(&[layer(128)], NumericClass::Half, Duration::ZERO).unwrap();
        assert!(found.kernels.is_empty() && !found.unprobed.is_empty());
        let none = calibrate(&[], NumericClass::Half, DEFAULT_BUDGET).unwrap();
        assert!(none.kernels.is_empty() && none.unprobed.is_empty());
    }

    #[test]
    fn a_kernel_that_follows_the_model_is_predicted_where_it_was_not_probed() {
        let layers = [layer(128), layer(384)];
        let probes = probes(&layers).unwrap();
        let truth = CostCoefficients {
            launch_ns: 4e3,
            ns_per_decoded_weight: 0.4,
            ns_per_mac: 0.05,
            ns_per_pair: 90.0,
        };
        let spec = *layers[0].specs().find(|spec| spec.rows_per_decode == 4).unwrap();
        let noise = |i: usize| 1.0 + 0.02 * ((i * 7 % 5) as f64 - 2.0) / 2.0;
        let time = |i: usize| predict_ns(&truth, &probes[i].work, 4) * noise(i);
        let times = (0..probes.len()).map(|i| (i, time(i))).collect();
        let model = fit(&Probed { spec, best: true, times }, &probes).unwrap();
        assert!(model.relative_error < 0.02, "{model:?}");
        for loads in [vec![50, 7, 0, 0, 1], vec![3; 8], vec![200]] {
            let work = Workload::new(layers[1].shape(), loads);
            let ratio = predict_ns(&model.cost, &work, 4) / predict_ns(&truth, &work, 4);
            assert!((0.9..1.1).contains(&ratio), "{ratio}");
        }
    }
}
