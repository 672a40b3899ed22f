use chacha20::ChaCha8Rng;
use rand::SeedableRng;

use super::{Bench, PROBING, arm, features};
use crate::adaptive::probe::{Belief, Draw};
use crate::adaptive::{
    AdaptiveConfig, AdaptivePolicy, ChoiceReason, DecisionRecord, MachineLimits, Outcome,
};

fn draw(incumbent: (f64, f64), challengers: &[(f64, f64)]) -> Draw {
    let belief = |&(mean, sd): &(f64, f64)| Belief { mean, sd };
    Draw {
        incumbent: belief(&incumbent),
        challengers: challengers.iter().map(belief).enumerate().map(|(k, b)| (k + 1, b)).collect(),
        undrawn: None,
        is_look: false,
        margin: 0.005,
        affordable_ns: f64::INFINITY,
    }
}

#[test]
fn propensities_are_the_frequencies_of_the_draw_and_sum_to_one() {
    const DRAWS: u32 = 200_000;
    for (incumbent, challengers) in [
        ((0.0, 0.02), vec![(0.0, 0.02)]),
        ((0.0, 0.01), vec![(0.05, 0.1), (0.02, 0.03), (-0.01, 0.005)]),
        ((0.0, 0.1), vec![(0.3, 0.12), (0.31, 0.12), (0.1, 0.01), (0.5, 0.2)]),
        ((0.0, 0.02), vec![(1.0, 0.02)]),
    ] {
        let draw = draw(incumbent, &challengers);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut counts = vec![0u32; challengers.len() + 1];
        for _ in 0..DRAWS {
            counts[draw.challenger(&mut rng).unwrap_or(0)] += 1;
        }
        let mut total = draw.propensity(0, 0);
        for (kernel, &count) in counts.iter().enumerate().skip(1) {
            let (share, seen) = (2.0 * draw.propensity(kernel, 0), f64::from(count));
            total += share / 2.0;
            let sd = (f64::from(DRAWS) * share * (1.0 - share)).sqrt();
            assert!(
                (seen - f64::from(DRAWS) * share).abs() <= 4.0 * sd + 20.0,
                "{kernel}: {share}"
            );
        }
        assert!((total - 1.0).abs() < 1e-12, "{total}");
    }
}

#[test]
fn what_the_budget_does_not_afford_has_no_propensity() {
    let open = draw((10.0, 0.02), &[(10.0, 0.02), (10.3, 0.3)]);
    let closed = Draw { affordable_ns: open.expected_loss_ns(1), ..open.clone() };
    assert_eq!(closed.propensity(2, 0), 0.0);
    assert_eq!(closed.propensity(1, 0), open.propensity(1, 0));
    assert_eq!(closed.propensity(0, 0), 1.0 - closed.propensity(1, 0));
    let undrawn = Draw { undrawn: Some(2), ..open };
    assert_eq!([0, 1, 2].map(|kernel| undrawn.propensity(kernel, 0)), [0.5, 0.0, 0.5]);
}

fn logging_all(seed: u64) -> Bench {
    let arms = [1.0, 1.02, 1.05].map(|factor| factor * 100_000.0);
    let arms = arms.iter().enumerate().map(|(k, ns)| arm(["a", "b", "c"][k], *ns)).collect();
    let config = AdaptiveConfig { seed, log_one_in: 1, ..AdaptiveConfig::default() };
    let policy = AdaptivePolicy::new(config, arms, MachineLimits::UNKNOWN).unwrap();
    Bench { policy, now_ns: 0, rng: ChaCha8Rng::seed_from_u64(seed) }
}

/// A policy in the middle of a race, with no leg open.
fn racing() -> Bench {
    const NS: [f64; 3] = [100_000.0, 101_000.0, 103_000.0];
    let mut bench = logging_all(5);
    for _ in 0..40 {
        bench.call(4, &NS);
    }
    while bench.call(4, &NS).0.reason != ChoiceReason::Incumbent {}
    bench.policy.drain_decisions();
    bench
}

/// One decision again and again from one state, each time with other random numbers: kernels must
/// come as often as their propensities say.
#[test]
fn logged_propensities_are_the_frequencies_of_decisions() {
    const RUNS: u32 = 4_000;
    let (mut seen, mut inverse) = ([0.0; 3], [0.0; 3]);
    for run in 0..RUNS {
        let Bench { mut policy, now_ns, .. } = racing();
        policy.rng = ChaCha8Rng::seed_from_u64(u64::from(run));
        let choice = policy.choose(&features(4), &PROBING, now_ns).unwrap();
        policy.record(choice.ticket, Outcome::LatencyNs(1e5), now_ns);
        let record = policy.drain_decisions().pop().unwrap();
        assert_eq!(record.chosen, policy.arms()[choice.kernel].spec.id);
        seen[choice.kernel] += 1.0 / f64::from(RUNS);
        inverse[choice.kernel] += 1.0 / f64::from(RUNS) / record.propensity;
    }
    assert!(seen[1] > 0.02 && seen[0] < 0.98, "{seen:?}");
    for kernel in (0..3).filter(|&kernel| seen[kernel] > 0.01) {
        assert!((inverse[kernel] - 1.0).abs() < 0.25, "{kernel}: {inverse:?}, {seen:?}");
    }
}

#[test]
fn records_say_what_was_known_and_what_came_of_it() {
    let mut bench = logging_all(6);
    bench.policy.observe_memory(40, 100);
    let (choice, _) = bench.call(4, &[100_000.0; 3]);
    let lost = bench.policy.choose(&features(4), &PROBING, bench.now_ns).unwrap();
    let records = bench.policy.drain_decisions();
    let [record] = &records[..] else { panic!("{records:?}") };
    let DecisionRecord { ticket, context, chosen, outcome, .. } = record;
    assert_eq!((*ticket, *context), (choice.ticket, choice.context));
    assert_eq!(*chosen, bench.policy.arms()[choice.kernel].spec.id);
    assert!(matches!(outcome, Some(Outcome::LatencyNs(ns)) if *ns > 5e4), "{outcome:?}");
    assert_eq!((record.legal, record.headroom_bytes), (3, Some(60)));
    assert!((record.predicted_ns / 1e5).ln().abs() < 0.1 && record.predicted_sd > 0.0);
    bench.policy.record(lost.ticket, Outcome::Failed, bench.now_ns);
    let late = bench.policy.drain_decisions();
    assert_eq!((late[0].ticket, late[0].outcome), (lost.ticket, Some(Outcome::Failed)));
}

#[test]
fn probes_are_always_logged_and_others_at_the_rate_said() {
    let config = AdaptiveConfig { log_one_in: 10, ..AdaptiveConfig::default() };
    let arms = vec![arm("a", 1e5), arm("b", 1e5)];
    let policy = AdaptivePolicy::new(config, arms, MachineLimits::UNKNOWN).unwrap();
    let mut bench = Bench { policy, now_ns: 0, rng: ChaCha8Rng::seed_from_u64(7) };
    let (mut legs, mut others) = (0, 0);
    for _ in 0..4_000 {
        match bench.call(4, &[100_000.0, 110_000.0]).0.reason {
            ChoiceReason::Incumbent => others += 1,
            _ => legs += 1,
        }
    }
    let records = bench.policy.drain_decisions();
    let logged = |one_in| records.iter().filter(|record| record.one_in == one_in).count();
    assert_eq!(logged(1), legs + 1);
    let expected = f64::from(others) / 10.0;
    assert!((logged(10) as f64 - expected).abs() < 4.0 * expected.sqrt(), "{}", logged(10));
    assert!(records.is_sorted_by_key(|record| record.ticket));
}

#[test]
fn a_log_that_nobody_drains_is_bounded_and_says_so() {
    let config = AdaptiveConfig { log_one_in: 1, log_capacity: 8, ..AdaptiveConfig::default() };
    let arms = vec![arm("a", 1e5)];
    let policy = AdaptivePolicy::new(config, arms, MachineLimits::UNKNOWN).unwrap();
    let mut bench = Bench { policy, now_ns: 0, rng: ChaCha8Rng::seed_from_u64(8) };
    for _ in 0..20 {
        bench.call(4, &[100_000.0]);
    }
    assert_eq!(bench.policy.dropped_decisions(), 12);
    let tickets: Vec<u64> = bench.policy.drain_decisions().iter().map(|r| r.ticket.0).collect();
    assert_eq!(tickets, (12..20).collect::<Vec<_>>());
}
