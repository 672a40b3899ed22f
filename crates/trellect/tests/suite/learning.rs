//! Learning on the real CPU kernels. What is compared differs by far more than noise, calls are
//! bounded in number, and no test looks at a clock.

use std::sync::Arc;

use trellect::core::{Family, Hidden, KernelId, NumericClass, PreparedLayer};
use trellect::exl3::synth;
use trellect::select::adaptive::{ChoiceReason, Mode};
use trellect::select::{RuleConfig, Thresholds};
use trellect::{Dispatcher, DispatcherOptions, Policy, Report, Selector, SelectorOptions};

use crate::common::{Faults, SHAPE, by_hand, cpu, error_of, faulty, layer, sharing};

/// Options with a table that prefers the portable base kernel to one on vector instructions, many times faster.
/// `None` on a machine that has none.
pub(crate) fn mis_set(selector: &Selector) -> Option<(DispatcherOptions, [KernelId; 2])> {
    let prepared = trellect::core::Backend::prepare(&cpu(), &layer().view(), &mut |_| {});
    let prepared: Arc<dyn PreparedLayer> = prepared.expect("fits");
    let named = |family, generic: bool| {
        let is = |id: KernelId| id.variant.is_some_and(|v| (v.name() == "generic") == generic);
        let mut specs = prepared.specs();
        let found = specs.find(|s| s.id.family == family && is(s.id) && !s.id.fp32_acc);
        found.map(|spec| spec.id)
    };
    let slow = named(Family::Base, true).expect("portable kernels exist everywhere");
    let Some(fast) = named(Family::Prefill4, false) else {
        println!("skipped: this machine has portable kernels only");
        return None;
    };
    let thresholds =
        Thresholds { prefill4_from: 1, base_from: 1, large_batch_from: 99, ..Default::default() };
    let options = DispatcherOptions {
        rules: RuleConfig { thresholds: Some(thresholds), ..DispatcherOptions::default().rules },
        available: Some(vec![slow, fast]),
        ..sharing(selector)
    };
    Some((options, [slow, fast]))
}

/// A call whose context depends on its size alone.
pub(crate) fn call(dispatcher: &mut Dispatcher, num_tokens: usize, seed: u64) -> Report {
    let hidden = synth::hidden(num_tokens, SHAPE.0, seed);
    let routing = synth::routing(num_tokens, SHAPE.2, 2, 5).expect("valid");
    let hidden = Hidden::F16(&hidden);
    let (output, report) = dispatcher.forward(hidden, &routing).expect("runs");
    if seed.is_multiple_of(16) {
        assert!(error_of(&output, hidden, &routing) <= NumericClass::Half.max_relative_error());
    }
    report
}

/// Calls, each learned from at once, until the context has switched to `kernel`.
pub(crate) fn learn(dispatcher: &mut Dispatcher, selector: &Selector, kernel: KernelId) -> usize {
    const MOST: usize = 3000;
    let learned = (0..MOST).find(|&calls| {
        let report = call(dispatcher, 4, calls as u64);
        selector.step();
        report.kernel == Some(kernel) && report.reason() == "incumbent"
    });
    learned.expect("a kernel so much faster is proved within that many calls")
}

#[test]
fn a_table_that_is_wrong_is_left_by_proof() {
    let selector = Selector::new(by_hand());
    let Some((options, [slow, fast])) = mis_set(&selector) else { return };
    let mut dispatcher = Dispatcher::prepare(Arc::new(cpu()), &layer().view(), options).unwrap();
    let first = call(&mut dispatcher, 4, 1);
    assert_eq!((first.kernel, first.reason()), (Some(slow), "default"));
    assert!(first.decision.is_some() && first.selection.is_some());
    selector.step();
    let second = call(&mut dispatcher, 4, 2);
    // The context has a plan now: its incumbent, or a launch of the first pair.
    assert!(second.decision.is_none() && second.reason() != "default", "{second}");
    learn(&mut dispatcher, &selector, fast);

    selector.flush();
    let stats = selector.stats();
    let proof = stats.switches.iter().find(|switch| switch.to == fast).expect("it switched");
    assert_eq!(proof.from, slow);
    assert!(proof.pairs >= 4.0 && proof.gain > 0.07 && proof.log_wealth > 0.0, "{proof:?}");
    assert!(stats.probes >= 4 && stats.calls() > 4);
    assert!(stats.selections.iter().any(|s| s.reason == "probe" && s.kernel == fast));
    assert!(stats.regret() > 0.0 && stats.regret() < 1.0, "{}", stats.regret());
    assert!(stats.exploration() <= stats.regret());

    let routing = synth::routing(4, SHAPE.2, 2, 5).unwrap();
    let explained = dispatcher.explain(&routing).unwrap();
    let learned = explained.adaptive.as_ref().expect("adaptive");
    assert_eq!(learned.explanation.incumbent, Some(fast));
    let text = explained.to_string();
    assert!(text.contains("serves") && text.contains("by the rules"), "{text}");
}

#[test]
fn the_same_in_the_background() {
    let options = SelectorOptions { background: true, ..by_hand() };
    let selector = Selector::new(options);
    let Some((options, [_, fast])) = mis_set(&selector) else { return };
    let mut dispatcher = Dispatcher::prepare(Arc::new(cpu()), &layer().view(), options).unwrap();
    for round in 0..400 {
        for seed in 0..50 {
            call(&mut dispatcher, 4, round * 50 + seed);
        }
        selector.flush();
        if selector.stats().switches.iter().any(|switch| switch.to == fast) {
            let report = call(&mut dispatcher, 4, 1);
            assert_eq!(report.kernel, Some(fast));
            return;
        }
    }
    panic!("no switch in 20000 calls: {:?}", selector.stats());
}

#[test]
fn equal_layers_learn_from_each_other_and_others_do_not() {
    let selector = Selector::new(by_hand());
    let Some((options, [slow, fast])) = mis_set(&selector) else { return };
    let make = |options| Dispatcher::prepare(Arc::new(cpu()), &layer().view(), options).unwrap();
    let mut teacher = make(options.clone());
    let mut pupil = make(options.clone());
    learn(&mut teacher, &selector, fast);
    assert_eq!(call(&mut pupil, 4, 3).kernel, Some(fast));
    let alone = Policy::Adaptive(Some(Selector::new(by_hand())));
    let mut stranger = make(DispatcherOptions { policy: alone, ..options });
    assert_eq!(call(&mut stranger, 4, 3).kernel, Some(slow));
}

#[test]
fn modes_serve_what_was_learned_or_the_rules() {
    let selector = Selector::new(by_hand());
    let Some((options, [slow, fast])) = mis_set(&selector) else { return };
    let mut dispatcher = Dispatcher::prepare(Arc::new(cpu()), &layer().view(), options).unwrap();
    learn(&mut dispatcher, &selector, fast);
    for (mode, kernel, reason) in [
        (Mode::Frozen, fast, "incumbent"),
        (Mode::Off, slow, "default"),
        (Mode::Frozen, fast, "incumbent"),
    ] {
        selector.set_mode(mode);
        let probes = selector.stats().probes;
        for seed in 0..50 {
            let report = call(&mut dispatcher, 4, seed);
            selector.step();
            assert_eq!((report.kernel, report.reason()), (Some(kernel), reason), "{mode:?}");
        }
        assert_eq!(selector.stats().probes, probes);
    }
    // A context that was never met is served by the rules and stays unmet.
    selector.set_mode(Mode::Frozen);
    for seed in 0..3 {
        let report = call(&mut dispatcher, 32, seed);
        selector.step();
        assert_eq!((report.kernel, report.reason()), (Some(slow), "default"));
    }
    selector.set_mode(Mode::Learn);
    call(&mut dispatcher, 32, 4);
    selector.step();
    assert_ne!(call(&mut dispatcher, 32, 4).reason(), "default");
}

/// Every kernel of the catalogue, every choice legal: what is probed is checked by the canary and,
/// now and then, by the oracle.
#[test]
fn the_default_policy_serves_every_size_and_probes_within_its_budget() {
    let selector = Selector::new(by_hand());
    let mut dispatcher =
        Dispatcher::prepare(Arc::new(cpu()), &layer().view(), sharing(&selector)).unwrap();
    let mut reasons = Vec::new();
    for seed in 0..120 {
        for num_tokens in [1, 3, 24, 40] {
            let report = call(&mut dispatcher, num_tokens, seed);
            assert_eq!(report.num_tokens, num_tokens);
            assert!(report.fallback.is_none(), "{report:?}");
            assert_eq!(report.is_probe(), report.reason() == ChoiceReason::Probe.as_str());
            reasons.push(report.reason());
            selector.step();
        }
    }
    assert_eq!(reasons.iter().filter(|reason| **reason == "default").count(), 4, "once a size");
    assert!(reasons.contains(&"incumbent"));
    let stats = selector.stats();
    assert_eq!(stats.calls(), 480);
    assert_eq!((stats.dropped, stats.failures.len()), (0, 0));
}

/// The sketch in a context's key leaves out tuples with less than a sixteenth of the rows, so a
/// kernel for one tuple may be the plan of a call that has another one, too. It is not launched.
#[test]
fn a_plan_that_is_illegal_for_a_call_is_not_followed() {
    let selector = Selector::new(by_hand());
    let faults = Arc::new(Faults::default());
    let mut dispatcher = faulty(&faults, sharing(&selector));
    let tuples = dispatcher.layer().expert_tuples().to_vec();
    let common = trellect::core::BitTuple::new(6, 2, 3).unwrap();
    let same: Vec<i32> =
        (0i32..).zip(&tuples).filter(|(_, t)| **t == common).map(|(e, _)| e).collect();
    let other = tuples.iter().position(|t| *t != common).unwrap() as i32;
    let hidden = synth::hidden(1, SHAPE.0, 1);
    let mut decode = |ids: [i32; 2]| {
        let routing = trellect::core::Routing::new(SHAPE.2, 2, &ids, &[0.5, 0.5]).unwrap();
        let (output, report) = dispatcher.forward(Hidden::F16(&hidden), &routing).unwrap();
        let error = error_of(&output, Hidden::F16(&hidden), &routing);
        assert!(error <= NumericClass::Half.max_relative_error());
        selector.step();
        report
    };
    for _ in 0..300 {
        decode([same[0], same[1]]);
        let mixed = decode([same[0], other]).kernel.unwrap();
        assert_eq!(mixed.tuple, None, "{mixed}");
    }
}
