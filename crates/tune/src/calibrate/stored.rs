use serde::{Deserialize, Serialize};
use trellect_core::KernelId;
use trellect_select::adaptive::CostCoefficients;

use super::{Calibration, KernelCost};

/// The models of an environment's kernels and the machine's limit, as a history keeps them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredCalibration {
    /// Weight bytes that memory delivers per nanosecond, all threads together.
    pub bytes_per_ns: f64,
    /// The kernels that were probed.
    pub kernels: Vec<StoredCost>,
}

/// The model of one kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredCost {
    #[serde(with = "crate::text")]
    kernel: KernelId,
    launch_ns: f64,
    ns_per_decoded_weight: f64,
    ns_per_mac: f64,
    ns_per_pair: f64,
    relative_error: f64,
}

impl StoredCalibration {
    /// What `calibration` found, and the memory's bandwidth.
    pub fn new(calibration: &Calibration, bytes_per_ns: f64) -> Self {
        let stored = |model: &KernelCost| StoredCost {
            kernel: model.kernel,
            launch_ns: model.cost.launch_ns,
            ns_per_decoded_weight: model.cost.ns_per_decoded_weight,
            ns_per_mac: model.cost.ns_per_mac,
            ns_per_pair: model.cost.ns_per_pair,
            relative_error: model.relative_error,
        };
        Self { bytes_per_ns, kernels: calibration.kernels.iter().map(stored).collect() }
    }

    /// The model of `kernel`: its own, or that of the same kernel for any tuple.
    pub fn cost(&self, kernel: KernelId) -> Option<CostCoefficients> {
        let of = |id: KernelId| self.kernels.iter().find(|model| model.kernel == id);
        of(kernel).or_else(|| of(KernelId { tuple: None, ..kernel })).map(StoredCost::cost)
    }

    /// A model that is slower than every kernel that was probed, for those that were not; a guess
    /// where none was.
    pub fn slowest(&self) -> CostCoefficients {
        const GUESS: CostCoefficients = CostCoefficients {
            launch_ns: 1e4,
            ns_per_decoded_weight: 0.1,
            ns_per_mac: 0.05,
            ns_per_pair: 0.0,
        };
        let slower = |a: CostCoefficients, b: CostCoefficients| CostCoefficients {
            launch_ns: a.launch_ns.max(b.launch_ns),
            ns_per_decoded_weight: a.ns_per_decoded_weight.max(b.ns_per_decoded_weight),
            ns_per_mac: a.ns_per_mac.max(b.ns_per_mac),
            ns_per_pair: a.ns_per_pair.max(b.ns_per_pair),
        };
        self.kernels.iter().map(StoredCost::cost).reduce(slower).unwrap_or(GUESS)
    }

    /// Root mean square of the models' relative errors; `None` without a model.
    pub fn relative_error(&self) -> Option<f64> {
        let squares: f64 = self.kernels.iter().map(|model| model.relative_error.powi(2)).sum();
        let mean = squares / self.kernels.len() as f64;
        (!self.kernels.is_empty()).then(|| mean.sqrt())
    }
}

impl StoredCost {
    fn cost(&self) -> CostCoefficients {
        let &Self { launch_ns, ns_per_decoded_weight, ns_per_mac, ns_per_pair, .. } = self;
        CostCoefficients { launch_ns, ns_per_decoded_weight, ns_per_mac, ns_per_pair }
    }
}
