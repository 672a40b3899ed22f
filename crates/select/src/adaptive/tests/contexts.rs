use chacha20::ChaCha8Rng;
use rand::SeedableRng;

use super::{Bench, PROBING, arm, features, two_arms};
use crate::ContextKey;
use crate::adaptive::{
    AdaptiveConfig, AdaptivePolicy, Arm, Conditions, MachineLimits, Mode, Outcome, Recorded,
    Serving,
};

const SECOND: u64 = 1_000_000_000;

fn small(max_contexts: usize) -> Bench {
    let config = AdaptiveConfig { max_contexts, ..AdaptiveConfig::default() };
    let arms = vec![arm("a", 1e5), arm("b", 1e5)];
    let policy = AdaptivePolicy::new(config, arms, MachineLimits::UNKNOWN).unwrap();
    Bench { policy, now_ns: 0, rng: ChaCha8Rng::seed_from_u64(1) }
}

fn key(bench: &Bench, tokens: usize) -> ContextKey {
    bench.policy.context_key(&features(tokens))
}

fn known(bench: &Bench) -> Vec<ContextKey> {
    bench.policy.serving_plan().map(|(key, _)| key).collect()
}

#[test]
fn the_least_recently_used_context_goes_first() {
    let mut bench = small(3);
    let ns = [100_000.0; 2];
    for tokens in [4, 16, 64] {
        bench.call(tokens, &ns);
    }
    bench.call(4, &ns);
    // Served from the plan: a use like any other.
    let context = key(&bench, 16);
    assert_eq!(bench.policy.observe(context, 0, Outcome::LatencyNs(1e5), 0), Recorded::Counted);
    bench.call(256, &ns);
    let mut expected = [4, 16, 256].map(|tokens| key(&bench, tokens));
    expected.sort();
    assert_eq!(known(&bench), expected);
    assert_eq!(bench.policy.totals().evicted, 1);
    let taken = bench.policy.take_evidence();
    assert!(taken.iter().any(|row| row.context == key(&bench, 64)), "its evidence outlives it");
}

#[test]
fn any_number_of_contexts_needs_bounded_room() {
    let mut bench = small(64);
    let mut late = Vec::new();
    for tokens in 1..2_000 {
        let choice = bench.policy.choose(&features(1 << (tokens % 20)), &PROBING, 0).unwrap();
        let shape = trellect_core::LayerShape::new(128 * (tokens % 500 + 1), 128, 8).unwrap();
        let call = crate::adaptive::CallFeatures { shape, ..features(tokens) };
        late.push(bench.policy.choose(&call, &PROBING, 0).unwrap());
        bench.policy.record(choice.ticket, Outcome::LatencyNs(1e5), 0);
        assert!(known(&bench).len() <= 64);
    }
    assert!(bench.policy.totals().evicted > 400);
    for choice in late {
        let recorded = bench.policy.record(choice.ticket, Outcome::LatencyNs(1e5), 0);
        assert!(matches!(recorded, Recorded::Learned | Recorded::ForgottenTicket), "{recorded:?}");
    }
    let (pending, pairs) = bench.policy.tickets.under_way();
    assert!(pending == 0 && pairs <= 64, "{pending} {pairs}");
}

#[test]
fn the_plan_says_who_serves_and_how_often_to_ask() {
    let mut bench = Bench { policy: two_arms(), now_ns: 0, rng: ChaCha8Rng::seed_from_u64(2) };
    let context = key(&bench, 4);
    assert_eq!(bench.policy.serving_plan().count(), 0);
    bench.call(4, &[100_000.0, 200_000.0]);
    let plan = |bench: &Bench| bench.policy.serving_plan().collect::<Vec<_>>();
    assert_eq!(plan(&bench), [(context, Serving { kernel: 0, ask_every: 1 })]);
    let before = bench.policy.plan_version();
    while plan(&bench)[0].1.ask_every == 1 {
        bench.call(4, &[100_000.0, 200_000.0]);
        assert!(bench.policy.totals().choices < 2_000);
    }
    assert_eq!(plan(&bench), [(context, Serving { kernel: 0, ask_every: 8 })]);
    assert_ne!(bench.policy.plan_version(), before);

    let before = bench.policy.plan_version();
    bench.policy.set_mode(Mode::Frozen);
    assert_eq!(plan(&bench), [(context, Serving { kernel: 0, ask_every: 0 })]);
    assert_ne!(bench.policy.plan_version(), before);
    bench.policy.set_mode(Mode::Off);
    assert_eq!(plan(&bench), []);
    bench.policy.set_mode(Mode::Learn);

    let before = bench.policy.plan_version();
    let failed = bench.policy.observe(context, 0, Outcome::Failed, SECOND);
    assert_eq!((failed, plan(&bench)), (Recorded::Failure, Vec::new()));
    assert_ne!(bench.policy.plan_version(), before);
}

#[test]
fn what_the_plan_served_is_counted_but_not_learned() {
    let mut policy = two_arms();
    let choice = policy.choose(&features(4), &PROBING, 0).unwrap();
    let before = policy.explain(&features(4));
    for ns in [1.0, 1e5, 1e12] {
        let recorded = policy.observe(choice.context, 0, Outcome::LatencyNs(ns), 0);
        assert_eq!(recorded, Recorded::Counted);
    }
    for bad in [0.0, f64::NAN, -1.0] {
        let recorded = policy.observe(choice.context, 0, Outcome::LatencyNs(bad), 0);
        assert_eq!(recorded, Recorded::BadLatency);
    }
    assert_eq!(policy.observe(choice.context, 2, Outcome::Failed, 0), Recorded::UnknownKernel);
    let after = policy.explain(&features(4));
    assert_eq!(after.calls, before.calls + 6);
    assert_eq!(after.considered[0].samples, before.considered[0].samples);
    assert_eq!(policy.totals().observed, 6);
    let unknown = policy.observe(ContextKey(0), 1, Outcome::LatencyNs(1e5), 0);
    assert_eq!(unknown, Recorded::Counted);
}

#[test]
fn a_reopened_context_keeps_the_incumbent_that_was_proved() {
    let mut policy = two_arms();
    assert!(!policy.reopen(&features(4), 2), "no such arm");
    assert!(policy.reopen(&features(4), 1));
    assert!(!policy.reopen(&features(4), 0), "known");
    let quiet = crate::adaptive::Conditions { may_probe: false, ..PROBING };
    assert_eq!(policy.choose(&features(4), &quiet, 0).unwrap().kernel, 1);
    policy.set_mode(Mode::Frozen);
    assert!(!policy.reopen(&features(64), 1), "frozen");
    assert_eq!(policy.choose(&features(4), &quiet, 0).unwrap().kernel, 1);
}

/// Predictions that tie, beside a rules' pick that is clearly slower: which one starts goes by
/// workspace, then by decoded weights, then by name, and not by the order of the arms.
#[test]
fn ties_are_broken_alike_whatever_the_order() {
    let start = |mut arms: Vec<Arm>, turn: usize| {
        arms.rotate_left(turn);
        arms.push(arm("default", 2e5));
        let default = arms.len() - 1;
        let mut policy =
            AdaptivePolicy::new(AdaptiveConfig::default(), arms, MachineLimits::UNKNOWN).unwrap();
        let conditions = Conditions { default, may_probe: false };
        let choice = policy.choose(&features(4), &conditions, 0).unwrap();
        policy.arms()[choice.kernel].spec.id
    };
    let mut arms = vec![arm("a", 1.003e5), arm("b", 1.006e5), arm("c", 1e5), arm("d", 1.05e5)];
    let mut expect = |name: &str, change: fn(&mut Vec<Arm>)| {
        change(&mut arms);
        for turn in 0..4 {
            assert_eq!(start(arms.clone(), turn), arm(name, 1.0).spec.id, "turn {turn}");
        }
    };
    expect("a", |_| ());
    expect("b", |arms| {
        arms[0].spec.rows_per_decode = 1;
        arms[2].spec.rows_per_decode = 1;
    });
    expect("c", |arms| {
        arms[0].spec.workspace.fixed_bytes = 2;
        arms[1].spec.workspace.fixed_bytes = 1;
    });
    expect("b", |arms| arms[2].spec.workspace.fixed_bytes = 5);
}

fn bench(arms: Vec<Arm>, seed: u64) -> Bench {
    let policy =
        AdaptivePolicy::new(AdaptiveConfig::default(), arms, MachineLimits::UNKNOWN).unwrap();
    Bench { policy, now_ns: 0, rng: ChaCha8Rng::seed_from_u64(seed) }
}

/// Two contexts that start on a prediction; in one of them it was wrong.
#[test]
fn an_unproven_start_is_taken_back_by_its_pairs() {
    let mut bench = bench(vec![arm("a", 1.1e5), arm("b", 1e5)], 3);
    for _ in 0..20 {
        bench.call(4, &[1.1e5, 1e5]);
        bench.call(64, &[1.1e5, 1.5e5]);
    }
    let totals = *bench.policy.totals();
    assert_eq!((totals.reverts, totals.switches), (1, 0));
    let incumbent = |tokens| bench.policy.explain(&features(tokens)).incumbent;
    let name = |name| Some(arm(name, 1.0).spec.id);
    assert_eq!((incumbent(4), incumbent(64)), (name("b"), name("a")));
}

/// A neighbour's burst doubles everything for some of a context's first calls. The start, right in its
/// prediction, must not pay for it.
#[test]
fn a_burst_does_not_take_a_start_back() {
    for (seed, burst) in (0..20).flat_map(|seed| (1..12).map(move |burst| (seed, burst))) {
        let mut bench = bench(vec![arm("a", 1.1e5), arm("b", 1e5)], seed);
        for call in 0..60 {
            let level = if call < burst { 2.0 } else { 1.0 };
            bench.call(4, &[1.1e5 * level, 1e5 * level]);
        }
        assert_eq!(bench.policy.totals().reverts, 0, "seed {seed}, a burst of {burst} calls");
    }
}

#[test]
fn a_start_is_measured_against_the_rules_pick_before_anybody_else() {
    let mut bench = bench(vec![arm("a", 1.1e5), arm("b", 1e5), arm("c", 1.02e5)], 1);
    let mut kernels: Vec<usize> =
        (0..4).map(|_| bench.call(4, &[1.1e5, 1e5, 1.02e5]).0.kernel).collect();
    kernels.sort_unstable();
    assert_eq!(kernels, [0, 0, 1, 1]);
}
