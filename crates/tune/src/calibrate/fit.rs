//! From launches to models. Relative errors count, so a stalled launch weighs no more than one that
//! should have taken no time at all, and small calls as much as large ones.
//!
//! Three levels, each pulled towards the one above it: what is typical of an implementation
//! ([`default_cost`], times how much slower this machine is), the implementation's kernels together,
//! one kernel. A pull counts as a fraction of a launch for every coefficient: as much as the noise of
//! the launches compared with how far kernels differ.

use trellect_core::{BackendKind, KernelId, KernelSpec};
use trellect_select::adaptive::CostCoefficients;

use super::{KernelCost, default_cost, predict_ns};
use crate::nnls::{self, Weighted};
use crate::statistics::median;
use crate::work::Workload;

/// Variance by which coefficients of one implementation's kernels differ, as a share.
const SPREAD: f64 = 0.3 * 0.3;

/// Weight of what is typical, in launches for every coefficient.
const TYPICAL_WEIGHT: f64 = 0.3;

/// A launch: how much of everything its work was, and its time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) kernel: usize,
    pub(super) columns: [f64; nnls::N],
    pub(super) ns: f64,
}

/// The launches so far.
#[derive(Debug)]
pub(super) struct Model {
    kernels: Vec<KernelSpec>,
    samples: Vec<Sample>,
}

impl Model {
    pub(super) const fn new(kernels: Vec<KernelSpec>) -> Self {
        Self { kernels, samples: Vec::new() }
    }

    pub(super) fn kernels(&self) -> &[KernelSpec] {
        &self.kernels
    }

    pub(super) fn push(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    /// What a kernel should take, going by its implementation.
    pub(super) fn predict_ns(&self, kernel: usize, work: &Workload) -> f64 {
        let cost = coefficients(self.of_variant(kernel));
        predict_ns(&cost, work, self.kernels[kernel].rows_per_decode)
    }

    /// What the fastest kernel that was launched should take.
    pub(super) fn fastest_ns(&self, work: &Workload) -> f64 {
        let launched =
            (0..self.kernels.len()).filter(|&kernel| self.launches_of_variant(kernel) > 0);
        launched.map(|kernel| self.predict_ns(kernel, work)).fold(f64::INFINITY, f64::min)
    }

    pub(super) fn launches_of_variant(&self, kernel: usize) -> usize {
        self.variant_samples(kernel).count()
    }

    /// The model of every kernel.
    pub(super) fn costs(&self) -> Vec<KernelCost> {
        (0..self.kernels.len()).map(|kernel| self.cost(kernel)).collect()
    }

    fn cost(&self, kernel: usize) -> KernelCost {
        let expected = self.of_variant(kernel);
        let error = mean_square_error(self.variant_samples(kernel), &expected);
        let weight = (error / SPREAD).clamp(0.05, 4.0);
        let own = || self.samples.iter().filter(move |sample| sample.kernel == kernel);
        let beta = solve(own(), &expected, weight);
        KernelCost {
            kernel: self.kernels[kernel].id,
            rows_per_decode: self.kernels[kernel].rows_per_decode,
            cost: coefficients(beta),
            probes: own().count(),
            relative_error: mean_square_error(own(), &beta).sqrt(),
        }
    }

    /// The common model of a kernel's implementation.
    fn of_variant(&self, kernel: usize) -> [f64; nnls::N] {
        let scale = self.slowness(self.variant_samples(kernel));
        let scale = scale.or_else(|| self.slowness(self.samples.iter())).unwrap_or(1.0);
        let typical = array(default_cost(self.kernels[kernel].id)).map(|beta| scale * beta);
        solve(self.variant_samples(kernel), &typical, TYPICAL_WEIGHT)
    }

    /// How many times longer than typical launches took; `None` without any.
    fn slowness<'a>(&'a self, samples: impl Iterator<Item = &'a Sample>) -> Option<f64> {
        let ratio = |it: &Sample| {
            it.ns / dot(&it.columns, &array(default_cost(self.kernels[it.kernel].id)))
        };
        median(samples.map(ratio).collect())
    }

    fn variant_samples(&self, kernel: usize) -> impl Iterator<Item = &Sample> {
        let of = self.kernels[kernel].id;
        self.samples.iter().filter(move |it| are_of_a_kind(of, self.kernels[it.kernel].id))
    }
}

/// Whether two kernels should cost much the same for every unit of work: on a CPU those of one
/// instruction set, on a GPU those of one family and tiling.
fn are_of_a_kind(a: KernelId, b: KernelId) -> bool {
    let on_cpu = a.backend().is_none_or(|backend| backend == BackendKind::Cpu);
    a.variant == b.variant && (on_cpu || a.family == b.family)
}

/// The coefficients that fit `samples`, pulled towards `expected`; those expected to be 0 stay so.
fn solve<'a>(
    samples: impl Iterator<Item = &'a Sample>,
    expected: &[f64; nnls::N],
    weight: f64,
) -> [f64; nnls::N] {
    let known = |j: usize| expected[j] > 0.0;
    let launch = |it: &Sample| -> Weighted {
        (std::array::from_fn(|j| if known(j) { it.columns[j] / it.ns } else { 0.0 }), 1.0)
    };
    let pull = |j: usize| -> Weighted {
        (std::array::from_fn(|i| if i == j { expected[j].recip() } else { 0.0 }), weight)
    };
    let pulls = (0..nnls::N).filter(|&j| known(j)).map(pull);
    nnls::solve(&samples.map(launch).chain(pulls).collect::<Vec<_>>()).0
}

fn mean_square_error<'a>(samples: impl Iterator<Item = &'a Sample>, beta: &[f64; nnls::N]) -> f64 {
    let errors: Vec<f64> =
        samples.map(|it| (dot(&it.columns, beta) / it.ns - 1.0).powi(2)).collect();
    errors.iter().sum::<f64>() / errors.len().max(1) as f64
}

fn dot(columns: &[f64; nnls::N], beta: &[f64; nnls::N]) -> f64 {
    columns.iter().zip(beta).map(|(x, b)| x * b).sum()
}

const fn array(cost: CostCoefficients) -> [f64; nnls::N] {
    [cost.launch_ns, cost.ns_per_decoded_weight, cost.ns_per_mac, cost.ns_per_pair]
}

const fn coefficients(beta: [f64; nnls::N]) -> CostCoefficients {
    let [launch_ns, ns_per_decoded_weight, ns_per_mac, ns_per_pair] = beta;
    CostCoefficients { launch_ns, ns_per_decoded_weight, ns_per_mac, ns_per_pair }
}

#[cfg(test)]
mod tests {
    use trellect_core::LayerShape;
    use trellect_select::{Thresholds, catalogue};

    use super::super::columns;
    use super::*;

    const TRUTH: CostCoefficients = CostCoefficients {
        launch_ns: 5e4,
        ns_per_decoded_weight: 0.4,
        ns_per_mac: 0.05,
        ns_per_pair: 900.0,
    };

    fn work(rows: u32, experts: usize) -> Workload {
        let mut loads = vec![0; 16];
        loads[..experts].fill(rows);
        Workload::new(&LayerShape::new(2048, 1536, 16).unwrap(), loads)
    }

    /// Probes every second kernel, whose truth is `TRUTH` times its factor, with noise.
    fn probed(factor: impl Fn(usize) -> f64, noise: f64) -> Model {
        let mut model = Model::new(catalogue(&Thresholds::default()));
        for repeat in 0..3 {
            for (rows, experts) in [(1, 1), (4, 1), (1, 4), (16, 1), (2, 4), (4, 4)] {
                for kernel in (0..model.kernels.len()).step_by(2) {
                    let spec = model.kernels[kernel];
                    let draw = (repeat * 31 + rows as usize * 7 + experts * 3 + kernel * 5) % 11;
                    let noise = 1.0 + noise * (draw as f64 - 5.0) / 5.0;
                    let work = work(rows, experts);
                    let ns =
                        factor(kernel) * noise * predict_ns(&TRUTH, &work, spec.rows_per_decode);
                    model.push(Sample {
                        kernel,
                        columns: columns(&work, spec.rows_per_decode),
                        ns,
                    });
                }
            }
        }
        model
    }

    fn error(model: &KernelCost, factor: f64) -> f64 {
        let unseen = work(9, 13);
        let predicted = predict_ns(&model.cost, &unseen, model.rows_per_decode);
        predicted / factor / predict_ns(&TRUTH, &unseen, model.rows_per_decode) - 1.0
    }

    #[test]
    fn kernels_are_predicted_where_they_were_not_probed_and_the_unprobed_by_the_others() {
        let model = probed(|_| 1.0, 0.2);
        for cost in model.costs() {
            assert!(error(&cost, 1.0).abs() < 0.12, "{cost:?}");
        }
    }

    #[test]
    fn a_kernel_of_its_own_kind_is_told_apart() {
        let odd = |kernel: usize| if kernel == 4 { 1.5 } else { 1.0 };
        let costs = probed(odd, 0.1).costs();
        assert!(error(&costs[4], 1.5).abs() < 0.1, "{:?}", costs[4]);
        assert!(error(&costs[2], 1.0).abs() < 0.1, "{:?}", costs[2]);
    }

    #[test]
    fn one_launch_scales_what_is_typical() {
        let mut model = Model::new(catalogue(&Thresholds::default()));
        let small = work(1, 1);
        let ns = 7.0 * model.predict_ns(0, &small);
        model.push(Sample { kernel: 0, columns: columns(&small, 1), ns });
        let ratio = model.predict_ns(5, &work(3, 8))
            / predict_ns(
                &default_cost(model.kernels[5].id),
                &work(3, 8),
                model.kernels[5].rows_per_decode,
            );
        assert!((ratio - 7.0).abs() < 1e-6, "{ratio}");
    }
}
