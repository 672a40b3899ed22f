//! What is learned outlives its process, and a history that cannot be used disturbs no call.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use trellect::core::Family;
use trellect::select::adaptive::{AdaptiveConfig, Mode};
use trellect::tune::history::{History, Journal};
use trellect::{Dispatcher, DispatcherOptions, Policy, Selector, SelectorOptions};

use crate::common::{Faults, by_hand, cpu, faulty, layer, sharing};
use crate::learning::{call, learn, mis_set};

fn file() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.sqlite");
    (directory, path)
}

fn keeping(path: &Path) -> SelectorOptions {
    SelectorOptions { history: Some(path.to_owned()), ..by_hand() }
}

fn dispatcher(options: DispatcherOptions) -> Dispatcher {
    Dispatcher::prepare(Arc::new(cpu()), &layer().view(), options).unwrap()
}

/// The journals of all environments.
fn journals(path: &Path) -> Vec<Journal> {
    let (history, _) = History::open(Some(path));
    let environments = history.environments().unwrap();
    environments.iter().map(|environment| history.journal(&environment.id).unwrap()).collect()
}

#[test]
fn the_next_selector_starts_warm() {
    let (_directory, path) = file();
    let selector = Selector::new(keeping(&path));
    let Some((options, [slow, fast])) = mis_set(&selector) else { return };
    let mut teacher = dispatcher(options.clone());
    learn(&mut teacher, &selector, fast);
    drop((teacher, options, selector));

    let journals = journals(&path);
    let [journal] = journals.as_slice() else { panic!("one environment: {journals:?}") };
    assert!(journal.switches.iter().any(|switch| (switch.from, switch.to) == (slow, fast)));
    assert_eq!(journal.contexts[0].incumbent, fast);
    assert!(journal.selections.iter().any(|selection| selection.reason == "probe"));
    let measured = |kernel| journal.records.iter().find(|record| record.kernel == kernel);
    let [slow_ln, fast_ln] =
        [slow, fast].map(|kernel| measured(kernel).unwrap().statistics.mean_ln().unwrap());
    assert!(slow_ln > fast_ln);

    for mode in [Mode::Learn, Mode::Frozen] {
        let adaptive = AdaptiveConfig { mode, ..by_hand().adaptive };
        let selector = Selector::new(SelectorOptions { adaptive, ..keeping(&path) });
        let (options, _) = mis_set(&selector).unwrap();
        let first = call(&mut dispatcher(options), 4, 1);
        // Already the first call may be a probe, but never the table's kernel but as its control.
        assert_eq!((first.kernel, first.reason()), (Some(fast), "incumbent"), "{mode:?}");
    }
}

#[test]
fn two_selectors_share_a_file() {
    let (_directory, path) = file();
    let selectors = [Selector::new(keeping(&path)), Selector::new(keeping(&path))];
    let mut dispatchers = selectors.each_ref().map(|selector| dispatcher(sharing(selector)));
    for seed in 0..30 {
        for (dispatcher, selector) in dispatchers.iter_mut().zip(&selectors) {
            call(dispatcher, 4, seed);
            selector.flush();
        }
    }
    let stats = selectors.each_ref().map(Selector::stats);
    assert!(stats.iter().all(|stats| stats.history.error.is_none()), "{stats:?}");
    drop((dispatchers, selectors));
    let calls = |journal: &Journal| journal.selections.iter().map(|s| s.calls).sum::<u64>();
    assert_eq!(journals(&path).iter().map(calls).sum::<u64>(), 60);
}

#[test]
fn a_history_that_cannot_be_used_fails_no_call() {
    let (directory, path) = file();
    let damaged = directory.path().join("damaged.sqlite");
    std::fs::write(&damaged, "no database at all, but long enough to look at").unwrap();
    let newer = directory.path().join("newer.sqlite");
    drop(History::open(Some(&newer)));
    let database = rusqlite::Connection::open(&newer).unwrap();
    database.pragma_update(None, "user_version", 1000).unwrap();
    drop(database);
    std::fs::write(&path, "a file where a directory should be").unwrap();
    let nowhere = path.join("history.sqlite");
    for (path, state) in [(damaged, "damaged"), (newer, "schema 1000"), (nowhere, "in memory")] {
        let selector = Selector::new(keeping(&path));
        let mut dispatcher = dispatcher(sharing(&selector));
        for seed in 0..5 {
            call(&mut dispatcher, 4, seed);
        }
        selector.flush();
        let stats = selector.stats();
        assert!(stats.history.state.contains(state), "{:?}", stats.history);
        assert_eq!((stats.calls(), stats.history.error), (5, None));
    }
}

/// Another process that never ends its transaction: what was learned waits, calls do not.
#[test]
fn a_locked_history_is_written_when_it_is_free_again() {
    let (_directory, path) = file();
    let selector = Selector::new(keeping(&path));
    let mut dispatcher = dispatcher(sharing(&selector));
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    call(&mut dispatcher, 4, 1);
    selector.flush();
    let error = selector.stats().history.error.expect("it is locked");
    assert!(error.contains("locked"), "{error}");
    other.execute_batch("ROLLBACK").unwrap();
    call(&mut dispatcher, 4, 2);
    selector.flush();
    let calls = |journal: &Journal| journal.selections.iter().map(|s| s.calls).sum::<u64>();
    assert_eq!(journals(&path).iter().map(calls).sum::<u64>(), 2);
}

#[test]
fn a_read_only_history_is_believed_and_left_alone() {
    let (_directory, path) = file();
    let selector = Selector::new(keeping(&path));
    let mut teacher = dispatcher(sharing(&selector));
    call(&mut teacher, 4, 1);
    drop((teacher, selector));
    let before = journals(&path);
    // `query_only` stands for permissions, which do not stop a superuser.
    let (history, _) = History::open(Some(&path));
    drop(history);
    let mut permissions = std::fs::metadata(&path).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&path, permissions).unwrap();
    let selector = Selector::new(keeping(&path));
    let mut pupil = dispatcher(sharing(&selector));
    assert_eq!(call(&mut pupil, 4, 2).reason(), "incumbent", "the context is known");
    selector.flush();
    let status = selector.stats().history;
    drop((pupil, selector));
    if !status.is_writable {
        assert_eq!(journals(&path), before);
    }
}

#[test]
fn a_kernel_that_vanished_serves_no_more() {
    let (_directory, path) = file();
    let selector = Selector::new(keeping(&path));
    let all = Arc::new(Faults::default());
    let mut before = faulty(&all, sharing(&selector));
    for seed in 0..10 {
        call(&mut before, 4, seed);
        selector.step();
    }
    drop((before, selector));
    assert_eq!(journals(&path)[0].contexts[0].incumbent.family, Family::Prefill4);

    let absent = vec![Family::Prefill4, Family::Grouped];
    let fewer = Arc::new(Faults { absent, ..Faults::default() });
    let selector = Selector::new(keeping(&path));
    let mut after = faulty(&fewer, sharing(&selector));
    for seed in 0..10 {
        let report = call(&mut after, 4, seed);
        assert!(!fewer.absent.contains(&report.kernel.unwrap().family), "{report}");
        selector.step();
    }
    assert!(selector.stats().history.error.is_none());
}

#[test]
fn without_a_selector_of_its_own_a_dispatcher_makes_one() {
    let options = DispatcherOptions { policy: Policy::Adaptive(None), ..Default::default() };
    let mut dispatcher = dispatcher(options);
    call(&mut dispatcher, 4, 1);
    let selector = dispatcher.selector().expect("adaptive").clone();
    selector.flush();
    let stats = selector.stats();
    assert_eq!((stats.calls(), stats.history.path), (1, None));
}
