//! What the learning dispatcher does when kernels fail, memory runs short and threads race.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use trellect::core::{Backend, Family, Hidden, MemoryFigures, NumericClass};
use trellect::exl3::{oracle, synth};
use trellect::{Dispatcher, ForwardError, Selector, SelectorOptions};
use trellect_testkit::relative_error;

use crate::common::{Faults, PLENTY, SHAPE, by_hand, cpu, error_of, faulty, layer, sharing};
use crate::learning::call;

#[test]
fn a_kernel_that_fails_is_replaced_in_the_call_and_avoided_by_all() {
    let selector = Selector::new(by_hand());
    let faults = Arc::new(Faults::default());
    faults.failing.lock().unwrap().push(Family::Prefill4);
    let mut first = faulty(&faults, sharing(&selector));
    let mut second = faulty(&faults, sharing(&selector));
    let mut failures = 0;
    // Every implementation fails once; what one dispatcher has seen the other need not.
    for seed in 0..40 {
        let dispatcher = if seed % 2 == 0 { &mut first } else { &mut second };
        let report = call(dispatcher, 4, seed);
        assert_ne!(report.kernel.unwrap().family, Family::Prefill4);
        if let Some(fallback) = &report.fallback {
            assert_eq!(fallback.failed.family, Family::Prefill4);
            assert_eq!(report.kernel.unwrap().family, Family::Base);
            assert_eq!(report.reason(), "launch_failure");
            assert!(fallback.error.to_string().contains("the test says so"));
            failures += 1;
            assert_eq!(second.quarantined().len(), failures);
        }
    }
    let implementations =
        first.layer().specs().filter(|s| s.id.family == Family::Prefill4 && !s.id.fp32_acc);
    assert!(failures >= 1 && failures <= implementations.count());
    selector.step();
    let stats = selector.stats();
    assert_eq!(stats.failures.iter().map(|(_, failed, _)| failed).sum::<u64>(), failures as u64);
    let routing = synth::routing(4, SHAPE.2, 2, 5).unwrap();
    let explained = first.explain(&routing).unwrap().to_string();
    assert!(explained.contains("quarantined after"), "{explained}");
}

/// The policy waits for two seconds, then lets one call try the kernel again.
#[test]
fn a_kernel_that_works_again_comes_back() {
    let selector = Selector::new(by_hand());
    let faults = Arc::new(Faults::default());
    let mut dispatcher = faulty(&faults, sharing(&selector));
    let mut step = |seed| {
        let report = call(&mut dispatcher, 4, seed);
        selector.step();
        (report, dispatcher.quarantined().len())
    };
    for seed in 0..5 {
        assert_eq!(step(seed).1, 0);
    }
    faults.failing.lock().unwrap().push(Family::Prefill4);
    let mut seed = 5;
    while step(seed).1 == 0 {
        seed += 1;
        assert!(seed < 500, "the incumbent is a prefill4 kernel, or is probed");
    }
    faults.failing.lock().unwrap().clear();
    std::thread::sleep(std::time::Duration::from_millis(2_100));
    let back = (0..500).find(|&seed| {
        let (report, quarantined) = step(seed);
        assert!(report.fallback.is_none());
        quarantined == 0
    });
    assert!(back.is_some(), "no kernel came back: {:?}", selector.stats());
}

#[test]
fn a_wrong_result_is_replaced_by_the_base_kernels() {
    let selector = Selector::new(by_hand());
    let faults = Arc::new(Faults::default());
    faults.wrong.lock().unwrap().push(Family::Prefill4);
    let mut dispatcher = faulty(&faults, sharing(&selector));
    let hidden = synth::hidden(4, SHAPE.0, 1);
    let hidden = Hidden::F16(&hidden);
    let routing = synth::routing(4, SHAPE.2, 2, 5).unwrap();
    let mut wrong = 0;
    for _ in 0..60 {
        let (output, report) = dispatcher.forward(hidden, &routing).unwrap();
        assert!(error_of(&output, hidden, &routing) <= NumericClass::Half.max_relative_error());
        wrong += usize::from(report.reason() == "wrong_result");
        selector.step();
    }
    assert!(wrong >= 1);
    let counted: u64 = selector.stats().failures.iter().map(|(_, _, wrong)| wrong).sum();
    assert_eq!(counted, wrong as u64);
}

#[test]
fn when_the_base_kernels_fail_too_the_first_error_is_reported() {
    let faults = Arc::new(Faults::default());
    faults.failing.lock().unwrap().extend([Family::Prefill4, Family::Base]);
    let mut dispatcher = faulty(&faults, sharing(&Selector::new(by_hand())));
    let hidden = synth::hidden(4, SHAPE.0, 1);
    let routing = synth::routing(4, SHAPE.2, 2, 5).unwrap();
    let error = dispatcher.forward(Hidden::F16(&hidden), &routing).unwrap_err();
    assert!(matches!(error, ForwardError::Launch(_)), "{error}");
    assert!(error.to_string().starts_with("moe_trellis_swiglu_prefill4@cpu."));
}

/// Bytes are checked in the call: a plan made when there was memory is not followed without.
#[test]
fn memory_that_runs_short_overrules_the_plan() {
    let selector = Selector::new(by_hand());
    let faults = Arc::new(Faults::default());
    let mut dispatcher = faulty(&faults, sharing(&selector));
    for seed in 0..20 {
        call(&mut dispatcher, 40, seed);
        selector.step();
    }
    assert_eq!(call(&mut dispatcher, 40, 1).memory_pressure, PLENTY.pressure());
    *faults.memory.lock().unwrap() = MemoryFigures { available: 4 << 30, total: 100 << 30 };
    std::thread::sleep(std::time::Duration::from_millis(110));
    selector.step();
    let tight = call(&mut dispatcher, 40, 1);
    // Another memory level is another context, which the rules open with the base kernel.
    assert_eq!(tight.reason(), "default");
    assert_eq!(tight.kernel.unwrap().family, Family::Base);
    assert!(tight.memory_pressure > 0.95);

    // A new queue holds nothing yet, and there is nothing to be had.
    let mut empty = faulty(&faults, sharing(&selector));
    *faults.memory.lock().unwrap() = MemoryFigures { available: 0, total: 100 << 30 };
    std::thread::sleep(std::time::Duration::from_millis(110));
    selector.step();
    let hidden = synth::hidden(40, SHAPE.0, 1);
    let routing = synth::routing(40, SHAPE.2, 2, 5).unwrap();
    let error = empty.forward(Hidden::F16(&hidden), &routing).unwrap_err();
    assert!(error.to_string().contains("bytes of workspace, 0 are available"), "{error}");
}

#[test]
fn many_dispatchers_on_threads_share_a_selector() {
    const THREADS: u64 = 4;
    const CALLS: usize = 60;
    let selector = Selector::new(SelectorOptions { background: true, ..by_hand() });
    let backend: Arc<dyn Backend> = Arc::new(cpu());
    let owned = layer();
    let prepared = backend.prepare(&owned.view(), &mut |_| {}).expect("fits");
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (backend, prepared) = (Arc::clone(&backend), Arc::clone(&prepared));
            let (selector, owned, failed) = (&selector, &owned, &failed);
            scope.spawn(move || {
                let mut dispatcher =
                    Dispatcher::new(backend, prepared, sharing(selector)).expect("valid");
                for round in 0..CALLS {
                    let tokens = [1, 4, 20][round % 3];
                    let hidden = synth::hidden(tokens, SHAPE.0, thread);
                    let hidden = Hidden::F16(&hidden);
                    let routing = synth::routing(tokens, SHAPE.2, 2, 5).expect("valid");
                    let (output, report) = dispatcher.forward(hidden, &routing).expect("runs");
                    let expected = oracle::forward(&owned.view(), hidden, &routing);
                    let error = relative_error(&output, &expected);
                    if report.fallback.is_some() || error.is_nan() || error > 2e-3 {
                        failed.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert!(!failed.into_inner(), "a result was disturbed");
    selector.flush();
    let stats = selector.stats();
    assert_eq!((stats.calls(), stats.dropped), (THREADS * CALLS as u64, 0));
    assert_eq!(stats.contexts.len(), 3);
}
