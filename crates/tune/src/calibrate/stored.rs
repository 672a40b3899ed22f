use serde::{Deserialize, Serialize};
use trellect_core::KernelId;
use trellect_select::adaptive::CostCoefficients;

use super::{Calibration, KernelCost, default_cost};

/// The models of an environment's kernels and the machine's limit, as a history keeps them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredCalibration {
    /// Weight bytes that memory delivers per nanosecond, all threads together.
    pub bytes_per_ns: f64,
    /// Every kernel of the layer that was calibrated on.
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
    probes: usize,
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
            probes: model.probes,
            relative_error: model.relative_error,
        };
        Self { bytes_per_ns, kernels: calibration.kernels.iter().map(stored).collect() }
    }

    /// The model of `kernel`: its own, that of the same kernel for any tuple, or what is typical.
    pub fn cost(&self, kernel: KernelId) -> CostCoefficients {
        let of = |id: KernelId| self.kernels.iter().find(|model| model.kernel == id);
        let found = of(kernel).or_else(|| of(KernelId { tuple: None, ..kernel }));
        let valid = found.map(StoredCost::cost).filter(CostCoefficients::is_valid);
        valid.unwrap_or_else(|| default_cost(kernel))
    }

    /// Names the first number that no calibration finds, with its value and what it should be.
    pub(crate) fn fault(&self) -> Option<(&'static str, String, &'static str)> {
        let expected = "a finite number of at least 0";
        let is_sound = |number: f64| number.is_finite() && number >= 0.0;
        if !is_sound(self.bytes_per_ns) {
            return Some(("bytes_per_ns", self.bytes_per_ns.to_string(), expected));
        }
        let unsound =
            |model: &&StoredCost| !model.cost().is_valid() || !is_sound(model.relative_error);
        let model = self.kernels.iter().find(unsound)?;
        Some(("kernels", format!("{:?}", model.cost()), expected))
    }

    /// Root mean square of the relative errors of the models that were measured; `None` without any.
    pub fn relative_error(&self) -> Option<f64> {
        let measured = self.kernels.iter().filter(|model| model.probes > 0);
        let squares = measured.clone().map(|model| model.relative_error.powi(2));
        let count = measured.count();
        (count > 0).then(|| (squares.sum::<f64>() / count as f64).sqrt())
    }
}

impl StoredCost {
    fn cost(&self) -> CostCoefficients {
        let &Self { launch_ns, ns_per_decoded_weight, ns_per_mac, ns_per_pair, .. } = self;
        CostCoefficients { launch_ns, ns_per_decoded_weight, ns_per_mac, ns_per_pair }
    }
}
