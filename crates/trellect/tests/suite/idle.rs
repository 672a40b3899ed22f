//! Sweeps of real kernels in idle time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use trellect::core::Family;
use trellect::exl3::synth;
use trellect::select::adaptive::{AdaptiveConfig, Mode};
use trellect::{Dispatcher, Selector, SelectorOptions};

use crate::common::{Faults, SHAPE, by_hand, cpu, faulty, layer, rules, sharing};
use crate::learning::{call, mis_set};

const BUDGET: Duration = Duration::from_millis(20);

/// A selector that may sweep all the time.
fn sweeping() -> SelectorOptions {
    let adaptive = AdaptiveConfig { sweep_share: 1.0, ..by_hand().adaptive };
    SelectorOptions { adaptive, ..by_hand() }
}

/// Makes the dispatcher keep calls, and gives it one of 4 tokens whose context is known.
fn with_a_call(dispatcher: &mut Dispatcher, selector: &Selector) {
    assert_eq!(dispatcher.idle(BUDGET).launches, 0, "there is nothing to repeat");
    for seed in 0..2 {
        call(dispatcher, 4, seed);
        selector.step();
    }
}

#[test]
fn idle_time_proves_a_switch_that_costs_no_call_anything() {
    let selector = Selector::new(sweeping());
    let Some((options, [slow, fast])) = mis_set(&selector) else { return };
    let mut dispatcher = Dispatcher::prepare(Arc::new(cpu()), &layer().view(), options).unwrap();
    with_a_call(&mut dispatcher, &selector);
    let before = selector.stats();
    assert!(before.switches.is_empty());
    let swept = (0..3000).find(|_| {
        dispatcher.idle(BUDGET);
        std::thread::sleep(Duration::from_millis(1));
        !selector.stats().switches.is_empty()
    });
    assert!(swept.is_some(), "a kernel so much faster is proved: {:?}", selector.stats());
    let stats = selector.stats();
    let proof = &stats.switches[0];
    assert_eq!((proof.from, proof.to), (slow, fast));
    assert!(proof.pairs >= 4.0 && proof.gain > 0.07 && proof.log_wealth > 0.0, "{proof:?}");
    assert!(stats.sweeps >= 4, "{stats:?}");
    assert_eq!((stats.calls(), stats.probes), (before.calls(), before.probes), "no call was made");
    selector.step();
    let routing = synth::routing(4, SHAPE.2, 2, 5).unwrap();
    let learned = dispatcher.explain(&routing).unwrap().adaptive.expect("adaptive");
    assert_eq!(learned.explanation.incumbent, Some(fast));
    let served = (0..8).filter(|&seed| call(&mut dispatcher, 4, seed).kernel == Some(fast));
    assert!(served.count() >= 4, "it serves, trials aside");
}

#[test]
fn idling_keeps_to_its_budget_and_to_what_may_be_swept() {
    let selector = Selector::new(sweeping());
    let mut dispatcher = faulty(&Arc::new(Faults::default()), sharing(&selector));
    with_a_call(&mut dispatcher, &selector);
    assert_eq!(dispatcher.idle(Duration::ZERO).launches, 0);
    let start = Instant::now();
    let report = dispatcher.idle(BUDGET);
    // Beyond its budget by a launch of a tiny layer, and by how long this machine looks away.
    assert!(report.launches > 0 && start.elapsed() < BUDGET + Duration::from_secs(2), "{report:?}");
    assert!(report.spent <= start.elapsed());
    for mode in [Mode::Frozen, Mode::Off] {
        selector.set_mode(mode);
        assert_eq!(dispatcher.idle(BUDGET).launches, 0, "{mode:?}");
    }
    let mut by_rules = faulty(&Arc::new(Faults::default()), rules());
    by_rules.idle(BUDGET);
    call(&mut by_rules, 4, 1);
    assert_eq!(by_rules.idle(BUDGET).launches, 0);
}

/// A tenth of the time, unless the options say otherwise: a round is followed by a rest.
#[test]
fn sweeps_rest_between_rounds() {
    let adaptive = AdaptiveConfig { sweep_share: 1e-9, ..by_hand().adaptive };
    let selector = Selector::new(SelectorOptions { adaptive, ..by_hand() });
    let mut dispatcher = faulty(&Arc::new(Faults::default()), sharing(&selector));
    with_a_call(&mut dispatcher, &selector);
    let rounds: u32 = (0..20).map(|_| dispatcher.idle(BUDGET).rounds).sum();
    assert_eq!((rounds, selector.stats().sweeps), (1, 1));
}

#[test]
fn a_kernel_that_fails_in_a_sweep_is_quarantined_before_a_call_meets_it() {
    for is_wrong in [false, true] {
        let selector = Selector::new(sweeping());
        let faults = Arc::new(Faults::default());
        let mut dispatcher = faulty(&faults, sharing(&selector));
        with_a_call(&mut dispatcher, &selector);
        let known = dispatcher.quarantined().len();
        let families = if is_wrong { &faults.wrong } else { &faults.failing };
        families.lock().unwrap().push(Family::Grouped);
        for _ in 0..50 {
            dispatcher.idle(BUDGET);
        }
        let quarantined = dispatcher.quarantined();
        assert_eq!(known, 0);
        assert!(!quarantined.is_empty(), "{:?}", selector.stats());
        assert!(quarantined.iter().all(|kernel| kernel.family == Family::Grouped));
        let failures = selector.stats().failures;
        let counted: u64 =
            failures.iter().map(|(_, failed, wrong)| if is_wrong { wrong } else { failed }).sum();
        assert!(counted as usize >= quarantined.len());
        assert!(call(&mut dispatcher, 4, 1).fallback.is_none());
    }
}
