use super::*;
use crate::{PAIRS, Reason};

const DECODE: &str = "moe_trellis_swiglu_decode";

/// Selections at one token, each with a paired test; decode takes 1 ms and all others `other_ms`.
fn tested(policy: &mut RulePolicy, other_ms: f64, selections: usize) -> Vec<(KernelId, bool)> {
    let mut benchmark = |kernel| if kernel == id(DECODE) { 1.0 } else { other_ms };
    let request = one_token(NumericClass::Half);
    (0..selections)
        .map(|_| policy.select_with_benchmark(&request, &plain(), &mut benchmark).unwrap())
        .map(|got| (got.kernel, got.explored))
        .collect()
}

#[test]
fn the_winner_serves_and_the_tests_are_counted() {
    for (other_ms, incumbent_wins) in [(2.0, true), (1.0, true), (0.991, true), (0.98, false)] {
        let mut policy = policy(1.0);
        let (kernel, explored) = tested(&mut policy, other_ms, 1)[0];
        assert_eq!((kernel == id(DECODE), explored), (incumbent_wins, true), "{other_ms}");
        let statistics = policy.statistics();
        assert_eq!(statistics.ab_tests_run(), 1);
        assert_eq!(statistics.correct_selections(), u64::from(incumbent_wins), "{other_ms}");
        assert_eq!(statistics.selection_accuracy(), f64::from(u8::from(incumbent_wins)));
        assert_eq!(statistics.selections(Reason::Exploration), 1);
        assert_eq!(statistics.total_selections(), 1);
        let timed: Vec<usize> = policy.history().iter().map(|row| row.timings.n).collect();
        assert_eq!(timed, [PAIRS; 2]);
    }
}

#[test]
fn latencies_of_zero_are_a_tie() {
    let mut policy = policy(1.0);
    let request = one_token(NumericClass::Half);
    let got = policy.select_with_benchmark(&request, &plain(), &mut |_| 0.0).unwrap();
    assert_eq!((got.kernel, policy.statistics().selection_accuracy()), (id(DECODE), 1.0));
}

#[test]
fn tests_feed_the_history() {
    let mut policy = policy(1.0);
    tested(&mut policy, 0.5, 50);
    policy.set_exploration_rate(0.0).unwrap();
    let mut unused = |_| unreachable!("nothing is explored");
    let request = one_token(NumericClass::Half);
    let got = policy.select_with_benchmark(&request, &plain(), &mut unused).unwrap();
    assert_eq!((got.reason, got.explored), (Reason::FeedbackOptimization, false));
    let statistics = policy.statistics();
    assert_eq!((statistics.ab_tests_run(), statistics.total_selections()), (50, 51));
    assert!(statistics.selection_accuracy() > 0.5, "once feedback serves, the tests are ties");
}

#[test]
fn runs_come_in_balanced_blocks_of_drawn_order() {
    let mut policy = policy(1.0);
    let request = one_token(NumericClass::Half);
    let mut beginnings = [0; 2];
    for _ in 0..100 {
        let mut order = Vec::new();
        let mut benchmark = |kernel| {
            order.push(kernel == id(DECODE));
            1.0
        };
        policy.select_with_benchmark(&request, &plain(), &mut benchmark).unwrap();
        assert_eq!(order.len(), 2 * PAIRS);
        for block in order.chunks(4) {
            let (a, b) = (block[0], !block[0]);
            assert_eq!(block, [a, b, b, a]);
            beginnings[usize::from(a)] += 1;
        }
    }
    assert!(beginnings.iter().all(|n| (60..140).contains(n)), "{beginnings:?}");
}

#[test]
fn a_failed_run_leaves_no_trace() {
    for found in [f64::NAN, f64::INFINITY, -1.0] {
        let mut policy = policy(1.0);
        let mut runs = 0;
        let mut benchmark = |_| {
            runs += 1;
            if runs == 3 { found } else { 1.0 }
        };
        let request = one_token(NumericClass::Half);
        let error = policy.select_with_benchmark(&request, &plain(), &mut benchmark).unwrap_err();
        let text = error.to_string();
        let expected = format!("returned {found} ms: expected a finite number, 0 or more");
        assert!(text.starts_with("the benchmark of moe_trellis_swiglu"), "{text}");
        assert!(text.ends_with(&expected), "{text}");
        assert_eq!((runs, policy.tracked_kernels()), (3, 0));
        let statistics = policy.statistics();
        assert_eq!((statistics.total_selections(), statistics.ab_tests_run()), (0, 0));
    }
}

#[test]
fn before_the_first_test_the_accuracy_is_a_number() {
    assert_eq!(policy(0.0).statistics().selection_accuracy(), 0.0);
}

#[test]
fn equal_seeds_test_alike() {
    let run = |seed| {
        let config =
            RuleConfig { exploration_rate: 0.5, seed: Some(seed), ..RuleConfig::default() };
        let mut policy = RulePolicy::new(config).unwrap();
        (tested(&mut policy, 0.9, 100), policy.statistics().clone(), policy.history())
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}
