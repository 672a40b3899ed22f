//! Honest looks: what a prior says is never believed for good.

use trellect_core::LayerShape;

use super::{PROBING, arm, features};
use crate::adaptive::{
    AdaptiveConfig, AdaptivePolicy, CallFeatures, ChoiceReason, MachineLimits, Outcome, ProbeBudget,
};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Kernels that the prior expects to take `expected_ns`.
fn policy(expected_ns: &[f64]) -> AdaptivePolicy {
    let arms = NAMES.iter().zip(expected_ns).map(|(name, &ns)| arm(name, ns)).collect();
    AdaptivePolicy::new(AdaptiveConfig::default(), arms, MachineLimits::UNKNOWN).unwrap()
}

/// Challengers in the order of their probes among `calls` of a layer, where kernel `k` takes `ns[k]`.
fn probed(policy: &mut AdaptivePolicy, hidden_size: usize, calls: u64, ns: &[f64]) -> Vec<usize> {
    let call = CallFeatures { shape: LayerShape::new(hidden_size, 128, 8).unwrap(), ..features(4) };
    let mut probed = Vec::new();
    for _ in 0..calls {
        let now_ns = policy.totals().spent_ns as u64;
        let choice = policy.choose(&call, &PROBING, now_ns).unwrap();
        if choice.reason == ChoiceReason::Probe {
            probed.push(choice.kernel);
        }
        policy.record(choice.ticket, Outcome::LatencyNs(ns[choice.kernel]), now_ns);
    }
    probed
}

#[test]
fn every_affordable_kernel_is_looked_at_once_the_cheapest_first() {
    for (expected_ns, order) in [
        ([1e5, 3e6, 1e6], vec![2, 1]),
        ([1e5, 1e6, 3e6], vec![1, 2]),
        // Together they would lose more than the 20 ms that looks may lose at once.
        ([1e5, 15e6, 10e6], vec![2]),
        // A look of 30 ms would be too dear by itself.
        ([1e5, 30e6, 1e6], vec![2]),
        ([1e5, 30e6, 30e6], vec![]),
    ] {
        let mut policy = policy(&expected_ns);
        assert_eq!(probed(&mut policy, 256, 500, &expected_ns), order, "{expected_ns:?}");
        // Another layer's calls of that size need no look.
        assert_eq!(probed(&mut policy, 512, 500, &expected_ns), [0; 0], "{expected_ns:?}");
    }
}

/// Without looks a Thompson draw would never come to a kernel that the prior calls a hundred times
/// slower.
#[test]
fn a_kernel_that_the_prior_calls_hopeless_is_found_to_be_the_fastest() {
    let mut policy = policy(&[1e5, 1e7]);
    probed(&mut policy, 256, 200, &[1e5, 5e4]);
    let explanation = policy.explain(&features(4));
    assert_eq!(explanation.incumbent, Some(policy.arms()[1].spec.id));
}

#[test]
fn looks_have_a_budget_of_their_own() {
    let second = 1_000_000_000;
    let mut budget = ProbeBudget::default();
    assert!(!budget.take_look(20.1e6, 0) && budget.take_look(19e6, 0) && !budget.take_look(2e6, 0));
    assert!(!budget.take(1.0, 0), "looks lend nothing to other probes");
    // A twentieth of a per cent of ten seconds.
    budget.earn(10e9, 0.0, 0.0, 20 * second);
    assert!(!budget.take_look(6.1e6, 20 * second) && budget.take_look(5.9e6, 20 * second));
    assert_eq!(budget.lost_ns(), 24.9e6);
}
