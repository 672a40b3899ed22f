//! Decisions of a learning run, written to a file and served again call by call.

use std::sync::Arc;
use std::time::Duration;

use trellect::core::{Family, KernelId, LayerShape, NumericClass};
use trellect::select::adaptive::{AdaptiveConfig, ChoiceReason, DecisionRecord, Mode};
use trellect::tune::decisions::DecisionLog;
use trellect::{Decisions, Dispatcher, Selector, SelectorOptions};

use crate::common::{Faults, by_hand, faulty, sharing};
use crate::learning::call;

type Served = Vec<(Option<KernelId>, &'static str)>;

const SIZES: [usize; 4] = [1, 3, 24, 40];
/// While it learns, and frozen.
const CALLS: [usize; 2] = [240, 40];

fn selector(decisions: Decisions) -> Selector {
    // As often as can be: every sweep is in the log, too.
    let adaptive = AdaptiveConfig { sweep_share: 1.0, ..by_hand().adaptive };
    Selector::new(SelectorOptions { adaptive, decisions, ..by_hand() })
}

fn serve(dispatcher: &mut Dispatcher, selector: &Selector, calls: usize) -> Served {
    let each = |at: usize| {
        let report = call(dispatcher, SIZES[at % SIZES.len()], at as u64);
        selector.step();
        (report.kernel, report.reason())
    };
    (0..calls).map(each).collect()
}

/// A run that probes and sweeps, and its log, as it comes back from its file.
fn logged() -> (Served, DecisionLog) {
    let selector = selector(Decisions::Logged);
    let mut dispatcher = faulty(&Arc::new(Faults::default()), sharing(&selector));
    dispatcher.idle(Duration::ZERO);
    let mut served = serve(&mut dispatcher, &selector, CALLS[0] / 2);
    assert!(dispatcher.idle(Duration::from_millis(50)).launches > 0);
    served.extend(serve(&mut dispatcher, &selector, CALLS[0] / 2));
    selector.set_mode(Mode::Frozen);
    served.extend(serve(&mut dispatcher, &selector, CALLS[1]));
    let mut file = Vec::new();
    selector.take_decisions().write(&mut file).unwrap();
    assert_eq!(selector.take_decisions().groups[0].decisions, [], "they were taken");
    (served, DecisionLog::read(file.as_slice()).unwrap())
}

fn replayed(log: DecisionLog, faults: Faults) -> (Dispatcher, Selector) {
    let selector = selector(Decisions::Replayed(Arc::new(log)));
    (faulty(&Arc::new(faults), sharing(&selector)), selector)
}

#[test]
fn every_call_is_served_as_it_was() {
    let (served, log) = logged();
    let reasons =
        |reason: ChoiceReason| served.iter().filter(|(_, r)| *r == reason.as_str()).count();
    assert!(reasons(ChoiceReason::Probe) > 0 && reasons(ChoiceReason::Control) > 0, "{served:?}");
    let [group] = log.groups.as_slice() else { panic!("one group of layers: {log:?}") };
    let records = &group.decisions;
    assert!(records.iter().any(|record| record.reason == ChoiceReason::Sweep));
    let is_drawn = |r: &&DecisionRecord| r.reason == ChoiceReason::Probe && r.propensity < 1.0;
    assert!(records.iter().any(|record| is_drawn(&record)), "probes are drawn");
    // A sweep may have been broken off.
    let of_calls = records.iter().filter(|record| record.reason != ChoiceReason::Sweep);
    assert!(of_calls.clone().all(|record| record.outcome.is_some()));
    let logged = of_calls.count();
    assert!(logged < served.len(), "what can be foretold is left out: {logged}");

    let (mut dispatcher, selector) = replayed(log, Faults::default());
    let mut again = serve(&mut dispatcher, &selector, CALLS[0] / 2);
    again.extend(serve(&mut dispatcher, &selector, CALLS[0] / 2));
    again.extend(serve(&mut dispatcher, &selector, CALLS[1]));
    assert_eq!(again, served);
    let stats = selector.stats();
    let fit = stats.replay.as_ref().unwrap();
    assert_eq!((fit.served, fit.mismatched, &fit.first_mismatch), (served.len() as u64, 0, &None));
    assert_eq!((stats.calls(), stats.switches.len()), (served.len() as u64, 0));
    assert_eq!(dispatcher.idle(Duration::from_millis(5)).launches, 0, "nothing is learned");

    // More calls than entries: contexts go on as they were last.
    let beyond = serve(&mut dispatcher, &selector, SIZES.len());
    assert_eq!(beyond, served[served.len() - SIZES.len()..]);
    assert_eq!(selector.stats().replay.unwrap().mismatched, 0);
}

/// Serves some calls and asserts that the rules served all of them, for the reason given.
#[track_caller]
fn assert_unfit(log: DecisionLog, faults: Faults, why: &str) {
    let (mut dispatcher, selector) = replayed(log, faults);
    let served = serve(&mut dispatcher, &selector, 8);
    assert!(served.iter().all(|(kernel, reason)| kernel.is_some() && *reason == "fallback"));
    let fit = selector.stats().replay.unwrap();
    assert_eq!((fit.served, fit.mismatched), (0, 8));
    let first = fit.first_mismatch.unwrap();
    assert!(first.contains(why), "{first}, not {why}");
}

#[test]
fn a_log_that_does_not_fit_leaves_calls_to_the_rules() {
    let (_, log) = logged();
    let mut other_layer = log.clone();
    other_layer.groups[0].shape = LayerShape::new(512, 128, 8).unwrap();
    let expected = "no decisions about layers of 256 x 128 x 8, class half";
    assert_unfit(other_layer, Faults::default(), expected);
    let mut other_class = log.clone();
    other_class.groups[0].numeric = NumericClass::Exact;
    assert_unfit(other_class, Faults::default(), expected);
    assert_unfit(DecisionLog::default(), Faults::default(), expected);

    let change = |change: fn(&mut DecisionRecord)| {
        let mut log = log.clone();
        log.groups[0].decisions.retain(|record| record.reason != ChoiceReason::Sweep);
        log.groups[0].decisions.iter_mut().for_each(change);
        log
    };
    let vanished = change(|record| {
        record.chosen = "moe_trellis_swiglu_decode_1_1_1@cpu.avx2".parse().unwrap();
    });
    assert_unfit(vanished, Faults::default(), "was for moe_trellis_swiglu_decode_1_1_1@cpu.avx2");
    let elsewhere = change(|record| record.context.0 ^= 1);
    assert_unfit(elsewhere, Faults::default(), "this call's context is");
    let mut late = change(|_| {});
    late.groups[0].decisions.clear();
    assert_unfit(late, Faults::default(), "is not in the log");
}

#[test]
fn a_kernel_that_fails_in_a_replay_is_replaced_in_the_call() {
    let (served, log) = logged();
    let faults = Faults::default();
    faults.failing.lock().unwrap().push(Family::Prefill4);
    let (mut dispatcher, selector) = replayed(log, faults);
    let mut failures = 0;
    for (at, (kernel, reason)) in served.iter().enumerate().take(100) {
        let report = call(&mut dispatcher, SIZES[at % SIZES.len()], at as u64);
        selector.step();
        match kernel.unwrap().family {
            Family::Prefill4 => {
                failures += usize::from(report.fallback.is_some());
                assert_ne!(report.kernel.unwrap().family, Family::Prefill4);
            }
            _ => assert_eq!((report.kernel, report.reason()), (*kernel, *reason), "call {at}"),
        }
    }
    assert!(failures > 0);
    let fit = selector.stats().replay.unwrap();
    assert!(fit.mismatched > 0 && fit.first_mismatch.unwrap().contains("may not serve this call"));
}
