//! A process that forks: the child's calls go on by the plans that it has, and what is learned and
//! kept is the parent's alone.
#![cfg(unix)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use trellect::core::{Codebook, Hidden, LayerShape};
use trellect::cpu::{CpuBackend, CpuOptions};
use trellect::exl3::oracle;
use trellect::exl3::synth::{self, OwnedLayer, SynthSpec};
use trellect::tune::history::History;
use trellect::{
    Decisions, Dispatcher, DispatcherOptions, Policy, Selector, SelectorOptions, SelectorStats,
};
use trellect_testkit::relative_error;

/// A child that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

fn layer() -> OwnedLayer {
    let shape = LayerShape::new(256, 128, 8).unwrap();
    OwnedLayer::new(&SynthSpec::mixed(shape, Codebook::Mul1, 3)).unwrap()
}

fn call(dispatcher: &mut Dispatcher, num_tokens: usize) {
    let hidden = synth::hidden(num_tokens, 256, 7);
    let routing = synth::routing(num_tokens, 8, 2, 5).unwrap();
    let hidden = Hidden::F16(&hidden);
    let (output, _) = dispatcher.forward(hidden, &routing).unwrap();
    let error = relative_error(&output, &oracle::forward(&layer().view(), hidden, &routing));
    assert!(error <= 2e-3, "{error}");
}

/// Runs `act` in a child and waits for it to end well.
fn in_a_child(act: impl FnOnce()) {
    // SAFETY: the child runs `act` and ends; it touches no lock that another thread of this process
    // can have held, but the allocator's, which the C library hands over in order.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", std::io::Error::last_os_error());
    if child == 0 {
        let done = catch_unwind(AssertUnwindSafe(act)).is_ok();
        // SAFETY: ends the child without what the parent has registered to be run at exit.
        unsafe { libc::_exit(i32::from(!done)) };
    }
    let start = Instant::now();
    let mut status = 0;
    // SAFETY: the child is this process's own, and `status` is a place for its status.
    while unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } == 0 {
        if start.elapsed() > PATIENCE {
            // SAFETY: the child has not been waited for, so the number is still its own.
            unsafe { libc::kill(child, libc::SIGKILL) };
            panic!("the child hangs");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(status, 0, "the child failed");
}

fn calls_of(path: &Path) -> u64 {
    let (history, _) = History::open(Some(path));
    let environments = history.environments().unwrap();
    let journals = environments.iter().map(|known| history.journal(&known.id).unwrap());
    journals.flat_map(|journal| journal.selections).map(|selection| selection.calls).sum()
}

fn a_child_goes_on(decisions: Decisions) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.sqlite");
    let selector = Selector::new(SelectorOptions {
        history: Some(path.clone()),
        calibration_budget: Duration::ZERO,
        decisions,
        ..SelectorOptions::default()
    });
    let backend = Arc::new(CpuBackend::new(CpuOptions::from_env().unwrap()));
    let policy = Policy::Adaptive(Some(selector.clone()));
    let options = DispatcherOptions { policy, ..DispatcherOptions::default() };
    let mut dispatcher = Dispatcher::prepare(backend, &layer().view(), options).unwrap();
    for _ in 0..20 {
        call(&mut dispatcher, 4);
    }
    selector.flush();
    let (mut own, mut teacher) = (Some(dispatcher), Some(selector));
    for round in 0..10 {
        in_a_child(|| {
            // What a child takes, its parent still has.
            let (mut dispatcher, selector) = (own.take().unwrap(), teacher.take().unwrap());
            for num_tokens in [4, 1, 40] {
                call(&mut dispatcher, num_tokens);
            }
            dispatcher.idle(Duration::from_millis(1));
            selector.step();
            selector.flush();
            assert_eq!(selector.stats(), SelectorStats::default());
            drop((dispatcher, selector));
        });
        let (Some(dispatcher), Some(selector)) = (&mut own, &teacher) else { unreachable!() };
        call(dispatcher, 4);
        selector.flush();
        let stats = selector.stats();
        assert_eq!((stats.calls(), stats.dropped, stats.history.error), (21 + round, 0, None));
    }
    drop((own, teacher));
    assert_eq!(calls_of(&path), 30, "the parent's calls and no other");
}

#[test]
fn a_child_goes_on_by_the_plans_that_it_has() {
    a_child_goes_on(Decisions::ByPlan);
}

#[test]
fn a_child_of_a_process_that_logs_goes_on_by_the_rules() {
    a_child_goes_on(Decisions::Logged);
}
