use super::{PROBING, arm, features, two_arms};
use crate::adaptive::ArmVerdict;
use crate::adaptive::{
    AdaptiveConfig, AdaptivePolicy, ArmsError, ChoiceReason, ChooseError, Conditions, Fitness,
    MachineLimits, Outcome, Recorded, Ticket,
};

const SECOND: u64 = 1_000_000_000;

#[test]
fn bad_latencies_teach_nothing() {
    let mut policy = two_arms();
    for bad in [0.0, -0.0, -5.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let choice = policy.choose(&features(4), &PROBING, 0).unwrap();
        let recorded = policy.record(choice.ticket, Outcome::LatencyNs(bad), 0);
        assert_eq!(recorded, Recorded::BadLatency, "{bad}");
    }
    assert_eq!(policy.totals().spent_ns, 0.0);
    assert!(policy.explain(&features(4)).considered.iter().all(|arm| arm.samples == 0.0));
}

#[test]
fn tickets_are_unknown_forgotten_or_used_once() {
    let config = AdaptiveConfig { max_pending: 2, ..AdaptiveConfig::default() };
    let arms = vec![arm("a", 1e5), arm("b", 1e5)];
    let mut policy = AdaptivePolicy::new(config, arms, MachineLimits::UNKNOWN).unwrap();
    let latency = Outcome::LatencyNs(1e5);
    assert_eq!(policy.record(Ticket(0), latency, 0), Recorded::UnknownTicket);
    assert_eq!(policy.record(Ticket(u64::MAX), latency, 0), Recorded::UnknownTicket);
    let mut choose = || policy.choose(&features(4), &PROBING, 0).unwrap().ticket;
    let tickets = [choose(), choose(), choose()];
    let recorded = [0, 2, 2, 1].map(|at| policy.record(tickets[at], latency, 0));
    use Recorded::{ForgottenTicket, Learned};
    assert_eq!(recorded, [ForgottenTicket, Learned, ForgottenTicket, Learned]);
}

#[test]
fn missing_and_late_feedback_does_no_harm() {
    let mut policy = two_arms();
    let mut late = Vec::new();
    for call in 0..4_000u64 {
        let choice = policy.choose(&features(4), &PROBING, call * 100_000).unwrap();
        match call % 3 {
            0 => late.push(choice),
            1 => {}
            _ => {
                let ns = [150_000.0, 100_000.0][choice.kernel];
                policy.record(choice.ticket, Outcome::LatencyNs(ns), call * 100_000);
            }
        }
        if late.len() > 300 {
            let old = late.remove(0);
            let ns = [150_000.0, 100_000.0][old.kernel];
            policy.record(old.ticket, Outcome::LatencyNs(ns), call * 100_000);
        }
    }
    assert_eq!(policy.explain(&features(4)).incumbent, Some(policy.arms()[1].spec.id));
}

#[test]
fn a_clock_that_goes_backwards_stands_still() {
    let mut policy = two_arms();
    let choice = policy.choose(&features(4), &PROBING, 100 * SECOND).unwrap();
    assert_eq!(policy.record(choice.ticket, Outcome::Failed, 0), Recorded::Failure);
    let during = policy.choose(&features(4), &PROBING, 5).unwrap();
    assert_ne!(during.kernel, choice.kernel);
    let verdict = &policy.explain(&features(4)).considered[choice.kernel].verdict;
    assert_eq!(*verdict, ArmVerdict::Unfit(Fitness::Quarantined));
}

#[test]
fn a_failing_kernel_is_quarantined_tried_and_blocked() {
    let mut policy = two_arms();
    let mut now = 0;
    for failures in 1..=3u32 {
        let choice = loop {
            let choice = policy.choose(&features(4), &PROBING, now).unwrap();
            if choice.kernel == 0 {
                break choice;
            }
            policy.record(choice.ticket, Outcome::LatencyNs(1e5), now);
        };
        let wanted = [ChoiceReason::Incumbent, ChoiceReason::Control, ChoiceReason::Fallback];
        assert!(failures > 1 || wanted.contains(&choice.reason), "{:?}", choice.reason);
        assert_eq!(policy.record(choice.ticket, Outcome::Failed, now), Recorded::Failure);
        for _ in 0..50 {
            assert_eq!(policy.choose(&features(4), &PROBING, now).unwrap().kernel, 1);
        }
        now += SECOND << failures;
        if failures < 3 {
            policy.set_mode(crate::adaptive::Mode::Off);
            let off = policy.choose(&features(4), &PROBING, now).unwrap();
            assert_eq!((off.kernel, off.reason), (1, ChoiceReason::Fallback));
            policy.set_mode(crate::adaptive::Mode::Learn);
        }
    }
    for _ in 0..500 {
        now += SECOND;
        assert_eq!(policy.choose(&features(4), &PROBING, now).unwrap().kernel, 1);
    }
}

#[test]
fn when_every_kernel_fails_choosing_says_so() {
    let mut policy = two_arms();
    for _ in 0..2 {
        let choice = policy.choose(&features(4), &PROBING, 0).unwrap();
        policy.record(choice.ticket, Outcome::Failed, 0);
    }
    let refused = policy.choose(&features(4), &PROBING, 1);
    assert_eq!(refused, Err(ChooseError::NothingLegal { arms: 2 }));
    let recovering = policy.choose(&features(4), &PROBING, 2 * SECOND);
    assert_eq!(recovering.unwrap().reason, ChoiceReason::Recovery);
}

#[test]
fn wrong_arms_and_picks_are_named() {
    let new = |arms| AdaptivePolicy::new(AdaptiveConfig::default(), arms, MachineLimits::UNKNOWN);
    assert_eq!(new(Vec::new()).unwrap_err(), ArmsError::None);
    for bad in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(new(vec![arm("a", bad)]), Err(ArmsError::Cost { .. })));
    }
    let default = Conditions { default: 2, ..PROBING };
    let refused = two_arms().choose(&features(4), &default, 0);
    assert_eq!(refused, Err(ChooseError::UnknownDefault { found: 2, arms: 2 }));
}
