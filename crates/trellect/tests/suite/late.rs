//! Times that come after their launches have returned, as those of a GPU do. The times are those of
//! the real kernels; only when they are told is made up.

use std::sync::Arc;

use trellect::Selector;
use trellect::select::adaptive::Mode;

use crate::common::{Faults, Times, by_hand, faulty, rules, sharing};
use crate::learning::{call, learn, mis_set};

fn telling(times: Times) -> Arc<Faults> {
    Arc::new(Faults { times: times.into(), ..Faults::default() })
}

#[test]
fn a_late_time_is_learned_from_when_it_comes() {
    let selector = Selector::new(by_hand());
    let faults = telling(Times::After(3));
    let mut dispatcher = faulty(&faults, sharing(&selector));
    for seed in 0..9 {
        let report = call(&mut dispatcher, 4, seed);
        assert_eq!(report.latency, None, "it has not been told");
        selector.step();
    }
    let told = selector.stats().calls();
    assert!(told > 0 && told < 9, "{told}");
    *faults.times.lock().unwrap() = Times::AtOnce;
    dispatcher.harvest();
    selector.step();
    assert_eq!(selector.stats().calls(), 9);
    dispatcher.harvest();
    selector.step();
    assert_eq!(selector.stats().calls(), 9, "there was nothing more");
}

#[test]
fn a_wrong_table_is_left_by_proof_from_late_times() {
    let selector = Selector::new(by_hand());
    let Some((options, [slow, fast])) = mis_set(&selector) else { return };
    let mut dispatcher = faulty(&telling(Times::After(2)), options);
    learn(&mut dispatcher, &selector, fast);
    let stats = selector.stats();
    let proof = stats.switches.iter().find(|switch| switch.to == fast).expect("it switched");
    assert_eq!(proof.from, slow);
    assert!(proof.gain > 0.07, "{proof:?}");
}

#[test]
fn a_time_that_comes_twice_counts_once() {
    let selector = Selector::new(by_hand());
    let mut dispatcher = faulty(&telling(Times::Twice), sharing(&selector));
    for seed in 0..30 {
        assert!(call(&mut dispatcher, 4, seed).latency.is_some());
        selector.step();
    }
    dispatcher.harvest();
    selector.step();
    assert_eq!(selector.stats().calls(), 30);
}

/// Nothing is learned of such calls, nothing grows without bound, and learning goes on once times
/// come again.
#[test]
fn times_that_never_come_are_given_up() {
    let selector = Selector::new(by_hand());
    let faults = telling(Times::Never);
    let mut dispatcher = faulty(&faults, sharing(&selector));
    for seed in 0..600 {
        assert_eq!(call(&mut dispatcher, 4, seed).latency, None);
        selector.step();
    }
    assert_eq!(selector.stats().calls(), 0);
    *faults.times.lock().unwrap() = Times::AtOnce;
    for seed in 0..20 {
        call(&mut dispatcher, 4, seed);
        selector.step();
    }
    assert_eq!(selector.stats().calls(), 20);
}

/// A pair whose second time comes when nothing is learned any more proves nothing.
#[test]
fn a_time_that_comes_in_another_mode_is_counted() {
    let selector = Selector::new(by_hand());
    let faults = telling(Times::After(1000));
    let mut dispatcher = faulty(&faults, sharing(&selector));
    for seed in 0..40 {
        call(&mut dispatcher, 4, seed);
        selector.step();
    }
    selector.set_mode(Mode::Frozen);
    *faults.times.lock().unwrap() = Times::AtOnce;
    dispatcher.harvest();
    selector.step();
    let stats = selector.stats();
    assert_eq!((stats.calls(), stats.switches.len()), (40, 0));
}

#[test]
fn rules_record_late_times_too() {
    let faults = telling(Times::After(3));
    let mut dispatcher = faulty(&faults, rules());
    for seed in 0..8 {
        assert_eq!(call(&mut dispatcher, 4, seed).latency, None);
    }
    *faults.times.lock().unwrap() = Times::AtOnce;
    dispatcher.harvest();
    assert_eq!(dispatcher.history().iter().map(|row| row.timings.n).sum::<usize>(), 8);
}
