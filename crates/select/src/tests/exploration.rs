use std::collections::BTreeSet;

use trellect_core::Family;

use super::*;
use crate::Reason;

const HALF: NumericClass = NumericClass::Half;

fn explored(rate: f64, selections: u32) -> u32 {
    let mut policy = policy(rate);
    let count = (0..selections)
        .filter(|_| policy.select(&one_token(HALF), &plain()).unwrap().explored)
        .count();
    u32::try_from(count).unwrap()
}

#[test]
fn the_rate_is_the_frequency() {
    assert_eq!(explored(0.0, 2000), 0);
    assert_eq!(explored(1.0, 2000), 2000);
    // 5 standard deviations of a binomial count, √(n·p·(1−p)), with a fixed seed.
    assert!(explored(0.5, 10_000).abs_diff(5000) < 250);
    assert!(explored(0.05, 10_000).abs_diff(500) < 109);
}

#[test]
fn explored_kernels_are_the_other_legal_ones() {
    let mut policy = policy(1.0);
    let mut seen = BTreeSet::new();
    for _ in 0..400 {
        let got = policy.select(&one_token(HALF), &plain()).unwrap();
        assert_eq!((got.reason, got.explored), (Reason::Exploration, true));
        assert_eq!(got.baseline_kernel, KernelId::new(Family::Decode));
        assert_eq!((got.fallback_from, got.message()), (None, None));
        seen.insert(got.kernel);
    }
    let others = [Family::Prefill4, Family::Base, Family::LargeBatch, Family::Grouped];
    assert_eq!(seen, others.map(KernelId::new).into());
}

#[test]
fn another_implementation_is_an_alternative() {
    let mut spec = plain()[0];
    spec.id = id("moe_trellis_swiglu_decode@cpu.avx512");
    let other = KernelSpec { id: id("moe_trellis_swiglu_decode@cpu.generic"), ..spec };
    let got = policy(1.0).select(&one_token(HALF), &[spec, other]).unwrap();
    assert_eq!((got.kernel, got.baseline_kernel), (other.id, spec.id));
}

#[test]
fn without_an_alternative_nothing_is_explored() {
    let available = [id("moe_trellis_swiglu_decode")];
    let request = Request { available: Some(&available), ..one_token(HALF) };
    let got = policy(1.0).select(&request, &plain()).unwrap();
    assert_eq!((got.reason, got.explored), (Reason::Heuristic, false));
}

#[test]
fn memory_pressure_beats_exploration() {
    let request = Request { memory_pressure: 0.91, ..one_token(HALF) };
    let got = policy(1.0).select(&request, &plain()).unwrap();
    assert_eq!((got.reason, got.explored), (Reason::MemoryPressure, false));
}

#[test]
fn equal_seeds_give_equal_decisions() {
    let run = |seed| {
        let config = RuleConfig { exploration_rate: 0.5, seed, ..RuleConfig::default() };
        let mut policy = RulePolicy::new(config).unwrap();
        let kernels: Vec<KernelId> =
            (0..200).map(|_| policy.select(&one_token(HALF), &plain()).unwrap().kernel).collect();
        (policy.seed(), kernels)
    };
    assert_eq!(run(Some(3)), run(Some(3)));
    assert_ne!(run(Some(3)).1, run(Some(4)).1);
    let (seed, kernels) = run(None);
    assert_eq!(run(Some(seed)).1, kernels);
    assert_ne!(run(None).0, seed);
}

#[test]
fn counters_follow_the_reasons_and_reset_keeps_the_configuration() {
    let mut policy = policy(0.0);
    let tight = Request { memory_pressure: 1.0, ..one_token(HALF) };
    for request in [one_token(HALF), one_token(HALF), tight] {
        policy.select(&request, &plain()).unwrap();
    }
    let invalid = Request { memory_pressure: 2.0, ..one_token(HALF) };
    policy.select(&invalid, &plain()).unwrap_err();
    policy.select(&one_token(HALF), &[]).unwrap_err();
    policy.set_exploration_rate(1.0).unwrap();
    policy.select(&one_token(HALF), &plain()).unwrap();

    let statistics = policy.statistics().clone();
    assert_eq!(statistics.total_selections(), 4);
    let counts = Reason::ALL.map(|reason| statistics.selections(reason));
    assert_eq!(counts, [1, 1, 0, 0, 2, 0, 0, 0]);

    policy.reset_history();
    assert_eq!(policy.statistics().total_selections(), 0);
    assert_eq!((policy.config().exploration_rate, policy.config().seed), (1.0, Some(7)));
}
