use trellect_core::KernelSpec;

use super::CallFeatures;

/// A kernel's cost model: `t̂ = launch + decoded · a + macs · b + pairs · c`, every term in
/// nanoseconds and every coefficient non-negative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostCoefficients {
    /// Nanoseconds of a call whatever its size.
    pub launch_ns: f64,
    /// Nanoseconds per decoded weight ([`CallFeatures::decoded_weights`]).
    pub ns_per_decoded_weight: f64,
    /// Nanoseconds per multiply-add.
    pub ns_per_mac: f64,
    /// Nanoseconds per (token, expert) pair.
    pub ns_per_pair: f64,
}

impl CostCoefficients {
    /// The estimate for a call, at least one nanosecond.
    pub fn estimate_ns(&self, features: &CallFeatures<'_>, rows_per_decode: usize) -> f64 {
        let decoded_weights = features.decoded_weights(rows_per_decode);
        self.time_ns(decoded_weights, features.macs(), features.facts.num_pairs as u64).max(1.0)
    }

    /// The model itself: nanoseconds for so much work.
    pub fn time_ns(&self, decoded_weights: u64, macs: u64, num_pairs: u64) -> f64 {
        self.launch_ns
            + self.ns_per_decoded_weight * decoded_weights as f64
            + self.ns_per_mac * macs as f64
            + self.ns_per_pair * num_pairs as f64
    }

    /// Whether every coefficient is finite and non-negative.
    pub fn is_valid(&self) -> bool {
        [self.launch_ns, self.ns_per_decoded_weight, self.ns_per_mac, self.ns_per_pair]
            .into_iter()
            .all(|c| c.is_finite() && c >= 0.0)
    }
}

/// A candidate of the adaptive policy: what the backend says of it and what it should cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arm {
    /// Legality and workspace.
    pub spec: KernelSpec,
    /// The cost model.
    pub cost: CostCoefficients,
}

impl Arm {
    /// The cost model's estimate for a call.
    pub fn estimate_ns(&self, features: &CallFeatures<'_>) -> f64 {
        self.cost.estimate_ns(features, self.spec.rows_per_decode)
    }
}

/// What no kernel can beat. Infinite rates bound nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MachineLimits {
    /// Weight bytes read per nanosecond at most.
    pub bytes_per_ns: f64,
    /// Weights decoded per nanosecond at most.
    pub decoded_weights_per_ns: f64,
    /// Multiply-adds per nanosecond at most.
    pub macs_per_ns: f64,
}

impl MachineLimits {
    /// No limit known.
    pub const UNKNOWN: MachineLimits = MachineLimits {
        bytes_per_ns: f64::INFINITY,
        decoded_weights_per_ns: f64::INFINITY,
        macs_per_ns: f64::INFINITY,
    };

    /// Nanoseconds below which a kernel cannot get:
    /// `max(bytes / bytes_per_ns, decoded / decoded_weights_per_ns, macs / macs_per_ns)`.
    pub fn lower_bound_ns(&self, features: &CallFeatures<'_>, rows_per_decode: usize) -> f64 {
        let bytes = features.bytes() as f64 / self.bytes_per_ns;
        let decode = features.decoded_weights(rows_per_decode) as f64 / self.decoded_weights_per_ns;
        let macs = features.macs() as f64 / self.macs_per_ns;
        bytes.max(decode).max(macs)
    }
}
