use chacha20::ChaCha8Rng;
use rand::RngExt;
use trellect_core::{BitTuple, CallFacts, KernelId, KernelSpec, NumericClass};

use crate::{Request, RuleConfig, RulePolicy, Thresholds, catalogue};

mod ab;
mod backend;
mod explain;
mod exploration;
mod fallback;
mod feedback;
mod history;
mod properties;
mod remembered;
mod shared;
mod table;
mod validation;
mod welch;

fn id(name: &str) -> KernelId {
    name.parse().unwrap()
}

fn tuple(gate: u64, up: u64, down: u64) -> BitTuple {
    BitTuple::new(gate, up, down).unwrap()
}

fn call(num_tokens: usize, numeric: NumericClass, active_tuples: &[BitTuple]) -> CallFacts<'_> {
    let num_pairs = 8 * num_tokens;
    CallFacts { num_tokens, num_pairs, active_tuples, numeric, workspace_limit: None }
}

fn plain() -> Vec<KernelSpec> {
    catalogue(&Thresholds::default())
}

fn policy(exploration_rate: f64) -> RulePolicy {
    RulePolicy::new(RuleConfig { exploration_rate, seed: Some(7), ..RuleConfig::default() })
        .unwrap()
}

/// Records latencies of a kernel at one token.
fn record_all(policy: &mut RulePolicy, kernel: KernelId, latencies_ms: &[f64]) {
    for latency_ms in latencies_ms {
        policy.record(kernel, 1, *latency_ms).unwrap();
    }
}

/// Normal noise of unit variance, near enough: the sum of twelve even ones.
fn noise(rng: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| rng.random_range(-0.5..0.5)).sum()
}

fn one_token(numeric: NumericClass) -> Request<'static> {
    Request::new(call(1, numeric, &[]))
}
