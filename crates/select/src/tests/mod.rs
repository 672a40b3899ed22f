use trellect_core::{BitTuple, CallFacts, KernelId, KernelSpec, NumericClass};

use crate::{Request, RuleConfig, RulePolicy, Thresholds, catalogue};

mod backend;
mod explain;
mod exploration;
mod fallback;
mod properties;
mod table;
mod validation;

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

fn one_token(numeric: NumericClass) -> Request<'static> {
    Request::new(call(1, numeric, &[]))
}
