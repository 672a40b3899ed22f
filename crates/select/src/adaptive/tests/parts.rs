use proptest::prelude::*;
use trellect_core::KernelSpec;

use super::{arm, features};
use crate::ContextKey;
use crate::adaptive::{
    CallFeatures, CommonMode, Coordinates, Cusum, ExpertLoad, Fitness, Health, MachineLimits,
    MemoryGauge, MemoryLevel, Moments, ProbeBudget,
};

fn moments(samples: &[f64]) -> Moments {
    let mut moments = Moments::default();
    samples.iter().for_each(|&x| moments.push(x));
    moments
}

proptest! {
    #[test]
    fn pooling_is_commutative_and_equals_one_stream(
        a in proptest::collection::vec(-2.0f64..2.0, 0..40),
        b in proptest::collection::vec(-2.0f64..2.0, 0..40),
    ) {
        let (left, right) = (moments(&a), moments(&b));
        let (merged, other) = (left.merge(&right), right.merge(&left));
        let all = moments(&[a, b].concat());
        for (x, y) in [(merged, other), (merged, all)] {
            prop_assert_eq!(x.n, y.n);
            prop_assert!((x.mean - y.mean).abs() < 1e-12);
            prop_assert!((x.m2 - y.m2).abs() < 1e-9);
        }
    }

    #[test]
    fn token_buckets_ascend_and_cut_at_decode_counts(rows_per_decode in 1usize..64) {
        let mut spec = arm("a", 1.0).spec;
        spec.rows_per_decode = rows_per_decode;
        let bucket = |tokens| bucket_of(&spec, tokens);
        for tokens in 1..300 {
            prop_assert!(bucket(tokens) <= bucket(tokens + 1));
        }
        prop_assert_eq!(bucket(1), bucket(rows_per_decode));
        prop_assert!(bucket(rows_per_decode) < bucket(rows_per_decode + 1));
    }
}

fn bucket_of(spec: &KernelSpec, tokens: usize) -> u32 {
    Coordinates::of(&features(tokens), [spec], MemoryLevel::Normal).token_bucket
}

#[test]
fn keys_are_stable_and_tell_contexts_apart() {
    let spec = arm("a", 1.0).spec;
    let key = |features: &CallFeatures<'_>, memory| {
        Coordinates::of(features, [&spec], memory).key(features)
    };
    let usual = key(&features(8), MemoryLevel::Normal);
    assert_eq!(usual.to_string(), key(&features(7), MemoryLevel::Normal).to_string());
    assert_ne!(usual, key(&features(8), MemoryLevel::High));
    assert_ne!(usual, key(&features(9), MemoryLevel::Normal));
    let skewed = [ExpertLoad { rows: 30, ..features(8).loads[0] }];
    let other = CallFeatures { loads: &skewed, ..features(8) };
    assert_ne!(usual, key(&other, MemoryLevel::Normal));
}

#[test]
fn estimates_and_bounds_follow_their_formulas() {
    let mut arm = arm("a", 10.0);
    (arm.cost.ns_per_decoded_weight, arm.cost.ns_per_pair) = (0.5, 2.0);
    arm.spec.rows_per_decode = 2;
    let weights = 3.0 * 256.0 * 128.0;
    let call = features(4);
    assert_eq!(arm.estimate_ns(&call), 10.0 + 0.5 * 3.0 * weights + 2.0 * 4.0);
    let limits = MachineLimits { bytes_per_ns: 2.0, ..MachineLimits::UNKNOWN };
    let bytes = 2.0 * 256.0 * 128.0 * 11.0 / 8.0;
    assert_eq!(limits.lower_bound_ns(&call, 2), bytes / 2.0);
    assert_eq!(MachineLimits::UNKNOWN.lower_bound_ns(&call, 2), 0.0);
}

#[test]
fn memory_has_hysteresis() {
    let mut gauge = MemoryGauge::default();
    let levels = [91, 92, 86, 85, 84, 91].map(|used| gauge.observe(used, 100));
    use MemoryLevel::{High, Normal};
    assert_eq!(levels, [Normal, High, High, High, Normal, Normal]);
    assert_eq!(gauge.observe(5, 0), Normal);
    assert_eq!(gauge.observe(u64::MAX, u64::MAX), High);
}

#[test]
fn quarantine_doubles_and_ends_in_a_block() {
    let second = 1_000_000_000;
    let mut health = Health::default();
    health.fail(0);
    assert_eq!(health.fitness(2 * second - 1), Fitness::Quarantined);
    assert_eq!(health.fitness(2 * second), Fitness::OnTrial);
    health.fail(2 * second);
    assert_eq!(health.fitness(6 * second - 1), Fitness::Quarantined);
    let mut recovered = health;
    recovered.succeed(6 * second);
    assert_eq!(recovered.fitness(6 * second), Fitness::Fit);
    health.fail(6 * second);
    health.succeed(u64::MAX);
    assert_eq!((health.fitness(u64::MAX), health.failures()), (Fitness::Blocked, 3));
}

#[test]
fn the_common_part_is_the_median_of_enough_contexts() {
    let mut clock = CommonMode::default();
    for _ in 0..50 {
        clock.push(ContextKey(0), 0.5);
    }
    assert_eq!(clock.level(), 0.0);
    for round in 0..60 {
        clock.push(ContextKey(round % 6), if round % 6 == 0 { 0.5 } else { 0.14 });
    }
    assert!((clock.level() - 0.14).abs() < 1e-3, "{}", clock.level());
}

#[test]
fn cusum_alarms_on_a_shift_and_not_on_a_stall() {
    let mut cusum = Cusum::default();
    assert!(!cusum.push(1000.0));
    assert!((0..1000).all(|i| !cusum.push(if i % 2 == 0 { 1.0 } else { -1.0 })));
    let alarm = (0..20).position(|_| cusum.push(-2.0));
    assert!(alarm.is_some_and(|after| after < 12), "{alarm:?}");
}

#[test]
fn the_budget_is_never_overdrawn() {
    let mut budget = ProbeBudget::default();
    budget.earn(1000.0, 0.0, 0.01, 0);
    assert!(!budget.take(10.5, 0) && budget.take(10.0, 0) && !budget.take(0.1, 0));
    budget.alarm(5);
    budget.earn(1000.0, 0.0, 0.01, 4);
    assert!(budget.take(40.0, 0) && !budget.take(0.1, 0));
    budget.grant(1.0);
    assert!(budget.take(1.0, 0));
    assert_eq!(budget.lost_ns(), 51.0);
}

/// However much was granted, only a five hundredth of ten seconds is lost in them, and what serving
/// saves.
#[test]
fn losses_in_a_row_are_bounded() {
    const SECOND: u64 = 1_000_000_000;
    let mut budget = ProbeBudget::default();
    budget.grant(1e12);
    let lost = |budget: &mut ProbeBudget, second: u64| {
        (0..1000).filter(|_| budget.take(1e6, second * SECOND)).count()
    };
    assert_eq!(lost(&mut budget, 100), 20);
    assert_eq!(lost(&mut budget, 109), 0);
    // Idle but for one second of work.
    budget.earn(1e9, 0.0, 0.0, 112 * SECOND);
    assert_eq!(lost(&mut budget, 112), 2);
    budget.earn(1e9, 7e6, 0.0, 113 * SECOND);
    assert_eq!(lost(&mut budget, 113), 9);
    assert_eq!(lost(&mut budget, 200), 0);
    budget.earn(1e9, -1e9, 0.0, 200 * SECOND);
    assert_eq!(lost(&mut budget, 200), 2);
}
