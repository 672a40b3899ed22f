mod beliefs;
mod contexts;
mod evidence;
mod faults;
mod learning;
mod ledger;
mod log;
mod looks;
mod parts;
mod properties;
mod replay;
mod sweep;
mod world;

use chacha20::ChaCha8Rng;
use rand::RngExt;
use trellect_core::{
    BackendKind, BitTuple, CallFacts, Family, KernelId, KernelSpec, LayerShape, NumericClass,
    TokenRange, Variant, WorkspaceModel,
};

use super::{
    AdaptiveConfig, AdaptivePolicy, Arm, CallFeatures, Choice, Conditions, CostCoefficients,
    ExpertLoad, MachineLimits, Outcome, Recorded,
};

pub(super) const TUPLES: [BitTuple; 2] = match (BitTuple::new(6, 2, 3), BitTuple::new(2, 2, 2)) {
    (Ok(a), Ok(b)) => [a, b],
    _ => panic!("widths of 1 to 8"),
};

pub(super) const LOADS: [ExpertLoad; 2] =
    [ExpertLoad { tuple: TUPLES[0], rows: 3 }, ExpertLoad { tuple: TUPLES[0], rows: 1 }];

pub(super) fn arm(name: &str, launch_ns: f64) -> Arm {
    let variant = Variant::new(BackendKind::Cpu, name).unwrap();
    Arm {
        spec: KernelSpec {
            id: KernelId::new(Family::Base).with_variant(variant),
            class: NumericClass::Half,
            tokens: TokenRange::ANY,
            tile_n: 64,
            rows_per_decode: 4,
            workspace: WorkspaceModel::default(),
            capture_safe: true,
            deterministic: true,
        },
        cost: CostCoefficients {
            launch_ns,
            ns_per_decoded_weight: 0.0,
            ns_per_mac: 0.0,
            ns_per_pair: 0.0,
        },
    }
}

pub(super) fn features(num_tokens: usize) -> CallFeatures<'static> {
    CallFeatures {
        facts: CallFacts {
            num_tokens,
            num_pairs: 4,
            active_tuples: &TUPLES[..1],
            numeric: NumericClass::Half,
            workspace_limit: None,
        },
        shape: LayerShape::new(256, 128, 8).unwrap(),
        loads: &LOADS,
    }
}

/// Two kernels that the prior takes for equal, the rules' pick first.
pub(super) fn two_arms() -> AdaptivePolicy {
    let arms = vec![arm("a", 100_000.0), arm("b", 100_000.0)];
    AdaptivePolicy::new(AdaptiveConfig::default(), arms, MachineLimits::UNKNOWN).unwrap()
}

pub(super) const PROBING: Conditions = Conditions { default: 0, may_probe: true };

/// A policy and its clock, on which kernel `k` takes `ns[k]` with 3 % noise.
pub(super) struct Bench {
    pub(super) policy: AdaptivePolicy,
    pub(super) now_ns: u64,
    pub(super) rng: ChaCha8Rng,
}

impl Bench {
    pub(super) fn call(&mut self, num_tokens: usize, ns: &[f64]) -> (Choice, Recorded) {
        let choice = self.policy.choose(&features(num_tokens), &PROBING, self.now_ns).unwrap();
        let latency = ns[choice.kernel] * self.noise();
        self.now_ns += latency as u64;
        let recorded = self.policy.record(choice.ticket, Outcome::LatencyNs(latency), self.now_ns);
        (choice, recorded)
    }

    fn noise(&mut self) -> f64 {
        let normal: f64 = (0..12).map(|_| self.rng.random::<f64>()).sum::<f64>() - 6.0;
        (0.03 * normal).exp()
    }
}
