use chacha20::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use trellect_core::{CallFacts, NumericClass};

use super::{Bench, PROBING, arm, features, two_arms};
use crate::adaptive::{
    AdaptiveConfig, AdaptivePolicy, CallFeatures, Choice, ChoiceReason, ChooseError,
    DecisionRecord, MachineLimits, Mode, Outcome, ReplayMismatch, Ticket,
};

const SECOND: u64 = 1_000_000_000;

fn policy(names: &[&str]) -> AdaptivePolicy {
    let arms = names.iter().map(|name| arm(name, 1e5)).collect();
    AdaptivePolicy::new(AdaptiveConfig::default(), arms, MachineLimits::UNKNOWN).unwrap()
}

/// The tokens of every call, what was chosen, and the log, drained in pieces.
fn learned(calls: usize) -> (Vec<usize>, Vec<Choice>, Vec<DecisionRecord>) {
    let (policy, rng) = (policy(&["a", "b", "c"]), ChaCha8Rng::seed_from_u64(3));
    let mut bench = Bench { policy, now_ns: 0, rng };
    let (mut tokens, mut choices, mut log) = (Vec::new(), Vec::new(), Vec::new());
    for call in 0..calls {
        tokens.push([4, 16, 64][bench.rng.random_range(0..3)]);
        let ns = [[130_000.0, 100_000.0, 150_000.0], [90_000.0, 100_000.0, 150_000.0]];
        let (choice, _) = bench.call(tokens[call], &ns[usize::from(call > calls / 2)]);
        choices.push(choice);
        if call % 700 == 0 {
            log.extend(bench.policy.drain_decisions());
        }
        if call % 500 == 1 {
            let recent = [features(4)];
            let sweep = bench.policy.sweep(&recent, bench.now_ns).unwrap();
            for choice in sweep.choices {
                bench.policy.record(choice.ticket, Outcome::LatencyNs(1e5), bench.now_ns);
            }
        }
    }
    assert!(bench.policy.totals().switches > 1, "{:?}", bench.policy.totals());
    log.extend(bench.policy.drain_decisions());
    assert!(log.len() < calls / 2, "the log must leave most decisions out: {}", log.len());
    (tokens, choices, log)
}

#[test]
fn a_log_reproduces_every_choice() {
    let (tokens, choices, log) = learned(6_000);
    // Other indices, and a kernel that the log does not know.
    let mut again = policy(&["d", "c", "b", "a"]);
    let names = policy(&["a", "b", "c"]);
    again.replay(log);
    assert_eq!(again.mode(), Mode::Replay);
    assert_eq!(again.serving_plan().count(), 0);
    for (call, (&tokens, before)) in tokens.iter().zip(&choices).enumerate() {
        let choice = again.choose(&features(tokens), &PROBING, 0).unwrap();
        again.record(choice.ticket, Outcome::LatencyNs(1.0), 0);
        let name = again.arms()[choice.kernel].spec.id;
        assert_eq!(name, names.arms()[before.kernel].spec.id, "call {call}");
        assert_eq!((choice.reason, choice.context), (before.reason, before.context), "call {call}");
    }
}

/// A log of two decisions, 7 and 8, for a context of 4 tokens, both for the first kernel.
fn short_log() -> Vec<DecisionRecord> {
    let mut policy = two_arms();
    let choice = policy.choose(&features(4), &PROBING, 0).unwrap();
    policy.record(choice.ticket, Outcome::LatencyNs(1e5), 0);
    let logged = policy.drain_decisions().remove(0);
    let (chosen, reason) = (policy.arms()[0].spec.id, ChoiceReason::Incumbent);
    let record = |ticket| DecisionRecord { ticket, chosen, reason, ..logged.clone() };
    vec![record(Ticket(7)), record(Ticket(8))]
}

#[test]
fn what_cannot_be_replayed_is_named() {
    let mut replaying = two_arms();
    replaying.replay(short_log());
    let mut choose = |tokens| replaying.choose(&features(tokens), &PROBING, 0);
    let mismatch = |error| match error {
        Err(ChooseError::Replay(mismatch)) => mismatch,
        other => panic!("{other:?}"),
    };
    assert!(matches!(mismatch(choose(64)), ReplayMismatch::Context { ticket: Ticket(7), .. }));
    assert_eq!(choose(4).unwrap().kernel, 0);
    assert_eq!(choose(4).unwrap().kernel, 0, "beyond the end it goes on");
    assert!(matches!(mismatch(choose(64)), ReplayMismatch::Unlogged { ticket: Ticket(10), .. }));

    let mut without = policy(&["b", "z"]);
    without.replay(short_log());
    let refused = mismatch(without.choose(&features(4), &PROBING, 0));
    assert!(matches!(refused, ReplayMismatch::NoSuchKernel { .. }), "{refused}");

    let mut failed = two_arms();
    let choice = loop {
        let choice = failed.choose(&features(4), &PROBING, 0).unwrap();
        if choice.kernel == 0 {
            break choice;
        }
    };
    failed.record(choice.ticket, Outcome::Failed, SECOND);
    failed.replay(short_log());
    let refused = mismatch(failed.choose(&features(4), &PROBING, SECOND));
    assert!(matches!(refused, ReplayMismatch::Unfit { .. }), "{refused}");

    let exact = CallFacts { numeric: NumericClass::Exact, ..features(4).facts };
    let illegal = failed.choose(&CallFeatures { facts: exact, ..features(4) }, &PROBING, 0);
    assert!(matches!(illegal, Err(ChooseError::NothingLegal { .. })));
}

#[test]
fn an_empty_log_says_so_of_every_call() {
    let mut policy = two_arms();
    policy.set_mode(Mode::Replay);
    for _ in 0..3 {
        let refused = policy.choose(&features(4), &PROBING, 0);
        assert!(matches!(refused, Err(ChooseError::Replay(ReplayMismatch::Unlogged { .. }))));
    }
}
