use chacha20::ChaCha8Rng;
use rand::SeedableRng;

use super::{Bench, PROBING, arm, features, two_arms};
use crate::adaptive::{
    AdaptiveConfig, AdaptivePolicy, ArmVerdict, ChoiceReason, Conditions, MachineLimits,
    MemoryLevel, Mode, Outcome, Recorded,
};

fn bench(seed: u64) -> Bench {
    Bench { policy: two_arms(), now_ns: 0, rng: ChaCha8Rng::seed_from_u64(seed) }
}

/// Calls until the context switches, at most `calls`.
fn switch_after(bench: &mut Bench, calls: usize, ns: &[f64]) -> Option<usize> {
    (0..calls).find(|_| matches!(bench.call(4, ns).1, Recorded::Switched { .. }))
}

#[test]
fn a_faster_kernel_is_proved_and_served() {
    for (gain, calls) in [(1.3, 60), (1.1, 200), (1.04, 1500)] {
        let mut bench = bench(1);
        let after = switch_after(&mut bench, calls, &[100_000.0 * gain, 100_000.0]);
        assert!(after.is_some(), "gain {gain}");
        let explanation = bench.policy.explain(&features(4));
        assert_eq!(explanation.incumbent, Some(bench.policy.arms()[1].spec.id));
        assert_eq!(explanation.switches, 1);
        let (_, planned) = bench.policy.serving_plan().next().unwrap();
        assert_eq!(planned.kernel, 1);
    }
}

#[test]
fn equal_kernels_end_as_a_tie_that_costs_nothing() {
    let mut bench = bench(2);
    assert_eq!(switch_after(&mut bench, 20_000, &[100_000.0; 2]), None);
    let probes = bench.policy.totals().probes;
    assert!(probes < 10_000, "{probes}");
    let text = bench.policy.explain(&features(4)).to_string();
    assert!(text.contains("serves"), "{text}");
}

#[test]
fn a_slower_kernel_is_hardly_tried() {
    let mut bench = bench(3);
    assert_eq!(switch_after(&mut bench, 5_000, &[100_000.0, 150_000.0]), None);
    assert!(bench.policy.totals().probes < 25, "{}", bench.policy.totals().probes);
}

#[test]
fn a_shift_of_one_incumbent_restarts_its_race() {
    let mut bench = bench(4);
    for _ in 0..500 {
        for tokens in [4, 16, 64, 256, 1024] {
            bench.call(tokens, &[100_000.0, 130_000.0]);
        }
    }
    assert_eq!(bench.policy.totals().switches, 0);
    let after = (0..256).find(|_| {
        for tokens in [16, 64, 256, 1024] {
            bench.call(tokens, &[100_000.0, 130_000.0]);
        }
        matches!(bench.call(4, &[160_000.0, 130_000.0]).1, Recorded::Switched { from: 0, to: 1 })
    });
    assert!(after.is_some());
    assert!(bench.policy.totals().alarms >= 1);
}

#[test]
fn a_clock_step_switches_nothing() {
    let mut bench = bench(5);
    for call in 0..6_000 {
        let clock = if call < 3_000 { 1.0 } else { 1.15 };
        let tokens = [4, 16, 64, 256, 1024][call % 5];
        bench.call(tokens, &[100_000.0 * clock, 115_000.0 * clock]);
    }
    assert_eq!(bench.policy.totals().switches, 0);
}

#[test]
fn nothing_is_probed_where_it_must_not_be() {
    let mut bench = bench(6);
    let forbidden = Conditions { may_probe: false, ..PROBING };
    for now_ns in 0..500 {
        let choice = bench.policy.choose(&features(4), &forbidden, now_ns).unwrap();
        assert_eq!((choice.kernel, choice.reason), (0, ChoiceReason::Incumbent));
    }
    assert_eq!(bench.policy.observe_memory(95, 100), MemoryLevel::High);
    for _ in 0..500 {
        assert_eq!(bench.call(4, &[100_000.0, 50_000.0]).0.reason, ChoiceReason::Incumbent);
    }
    assert_eq!(bench.policy.totals().probes, 0);
}

#[test]
fn memory_levels_have_contexts_of_their_own() {
    let mut bench = bench(7);
    assert!(switch_after(&mut bench, 200, &[150_000.0, 100_000.0]).is_some());
    let calls = bench.policy.explain(&features(4)).calls;
    bench.policy.observe_memory(95, 100);
    for _ in 0..50 {
        bench.call(4, &[100_000.0, 300_000.0]);
    }
    assert_eq!(bench.policy.serving_plan().count(), 2);
    bench.policy.observe_memory(10, 100);
    let explanation = bench.policy.explain(&features(4));
    assert_eq!(explanation.calls, calls);
    assert_eq!(explanation.incumbent, Some(bench.policy.arms()[1].spec.id));
}

#[test]
fn frozen_serves_what_was_learned_and_off_serves_the_rules() {
    let mut bench = bench(8);
    assert!(switch_after(&mut bench, 200, &[150_000.0, 100_000.0]).is_some());
    for (mode, kernel) in [(Mode::Frozen, 1), (Mode::Off, 0)] {
        bench.policy.set_mode(mode);
        for _ in 0..200 {
            let (choice, recorded) = bench.call(4, &[50_000.0, 100_000.0]);
            assert_eq!((choice.kernel, recorded), (kernel, Recorded::NotLearning));
        }
    }
    assert_eq!(bench.policy.totals().switches, 1);
}

#[test]
fn equal_seeds_decide_equally() {
    let run = || {
        let mut bench = bench(9);
        (0..2_000).map(|_| bench.call(4, &[103_000.0, 100_000.0])).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn explaining_changes_nothing_and_knows_unseen_contexts() {
    let policy = two_arms();
    let explanation = policy.explain(&features(4));
    assert_eq!(explanation.incumbent, None);
    assert!(explanation.considered.iter().all(|arm| arm.verdict == ArmVerdict::Unproven));
    assert_eq!(explanation, policy.explain(&features(4)));
}

#[test]
fn a_kernel_that_cannot_win_is_never_probed() {
    for (rows_per_decode, decoded_weights_per_ns) in [(1, 2.5), (4, 2.0)] {
        let mut arms = vec![arm("a", 100_000.0), arm("b", 100_000.0)];
        arms[1].spec.rows_per_decode = rows_per_decode;
        let limits = MachineLimits { decoded_weights_per_ns, ..MachineLimits::UNKNOWN };
        let policy = AdaptivePolicy::new(AdaptiveConfig::default(), arms, limits).unwrap();
        let mut bench = Bench { policy, ..bench(10) };
        for _ in 0..500 {
            bench.call(4, &[100_000.0, 90_000.0]);
        }
        assert_eq!(bench.policy.totals().probes, 0);
        let hopeless = bench.policy.explain(&features(4)).considered[1].verdict.clone();
        assert_eq!(hopeless == ArmVerdict::Hopeless, rows_per_decode == 1);
    }
}

#[test]
fn what_one_context_learns_of_a_kernel_starts_the_next() {
    let mut bench = bench(11);
    for _ in 0..2_000 {
        for tokens in [4, 16, 64, 256, 1024] {
            bench.call(tokens, &[150_000.0, 100_000.0]);
        }
    }
    // The call itself may be a look at the other one.
    bench.call(4096, &[150_000.0, 100_000.0]);
    let incumbent = bench.policy.explain(&features(4096)).incumbent;
    assert_eq!(incumbent, Some(bench.policy.arms()[1].spec.id));
}

/// A stall in a kernel's very first sample would else keep it from being probed for thousands of
/// calls.
#[test]
fn a_stall_in_the_first_sample_is_not_believed() {
    let mut policy = two_arms();
    let first = policy.choose(&features(4), &PROBING, 0).unwrap();
    let samples =
        |policy: &AdaptivePolicy| policy.explain(&features(4)).considered[first.kernel].samples;
    policy.record(first.ticket, Outcome::LatencyNs(1e6), 0);
    assert_eq!(samples(&policy), 0.0);
    // Twice is no accident.
    for call in 1..100 {
        let choice = policy.choose(&features(4), &PROBING, call).unwrap();
        let ns = if choice.kernel == first.kernel { 1e6 } else { 1e5 };
        policy.record(choice.ticket, Outcome::LatencyNs(ns), call);
    }
    assert!(samples(&policy) >= 1.0);
}
