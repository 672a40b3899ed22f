//! The dispatcher by the rules, on the real CPU backend and on one that fails or has little memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use trellect::core::{
    Backend, BitTuple, Bits, Family, Hidden, MemoryFigures, NumericClass, Routing,
};
use trellect::exl3::{oracle, synth};
use trellect::select::{RuleConfig, Verdict};
use trellect::{Dispatcher, DispatcherOptions, ForwardError};
use trellect_testkit::relative_error;

use crate::common::{Faults, PLENTY, SHAPE, cpu, error_of, faulty, layer, rules};

fn dispatcher(failing: &[Family], memory: MemoryFigures, options: DispatcherOptions) -> Dispatcher {
    let faults = Faults { memory: memory.into(), ..Faults::default() };
    faults.failing.lock().unwrap().extend(failing);
    faulty(&Arc::new(faults), options)
}

#[test]
fn every_batch_row_has_its_kernel_and_the_report_tells_of_the_call() {
    let mut dispatcher = dispatcher(&[], PLENTY, rules());
    for (tokens, family) in [
        (1, Family::Decode),
        (2, Family::Prefill4),
        (16, Family::Prefill4),
        (17, Family::Base),
        (33, Family::LargeBatch),
    ] {
        let hidden = synth::hidden(tokens, SHAPE.0, 1);
        let hidden = Hidden::F16(&hidden);
        let routing = synth::routing(tokens, SHAPE.2, 2, 5).expect("valid");
        let (output, report) = dispatcher.forward(hidden, &routing).expect("runs");
        assert!(error_of(&output, hidden, &routing) <= NumericClass::Half.max_relative_error());
        assert_eq!(report.kernel.expect("ran").family, family, "{tokens} tokens");
        assert_eq!((report.num_tokens, report.reason()), (tokens, "heuristic"));
        assert_eq!(report.rows_per_tuple.iter().map(|(_, rows)| rows).sum::<usize>(), 2 * tokens);
        let widths = report.active_bits().map(Bits::get);
        assert!(widths.is_sorted() && report.active_bits().count() >= 3);
        assert_eq!(report.pattern.active_experts, routing.active_experts().len());
        assert!(report.latency.expect("the CPU tells at once").as_nanos() > 0);
        assert!((report.memory_pressure - 0.1).abs() < 1e-9);
        assert!(report.gb_per_s().expect("timed") > 0.0);
        assert!(report.to_string().contains("heuristic"));
    }
    assert_eq!(dispatcher.statistics().total_selections(), 5);
}

#[test]
fn one_tuple_alone_takes_its_specialised_decode() {
    let mut dispatcher = dispatcher(&[], PLENTY, rules());
    let tuples = dispatcher.layer().expert_tuples().to_vec();
    let common = BitTuple::new(6, 2, 3).expect("1 to 8");
    let same: Vec<i32> =
        (0i32..).zip(&tuples).filter(|(_, t)| **t == common).map(|(e, _)| e).collect();
    let other = tuples.iter().position(|t| *t != common).expect("mixed") as i32;
    let hidden = synth::hidden(1, SHAPE.0, 1);
    for (ids, expected) in [([same[0], same[1]], Some(common)), ([same[0], other], None)] {
        let routing = Routing::new(SHAPE.2, 2, &ids, &[0.5, 0.5]).expect("valid");
        let (_, report) = dispatcher.forward(Hidden::F16(&hidden), &routing).expect("runs");
        assert_eq!(report.kernel.expect("ran").tuple, expected);
    }
}

#[test]
fn a_failed_launch_falls_back_in_the_same_call_and_is_quarantined() {
    let mut dispatcher = dispatcher(&[Family::Prefill4], PLENTY, rules());
    let hidden = synth::hidden(4, SHAPE.0, 1);
    let hidden = Hidden::F16(&hidden);
    let routing = synth::routing(4, SHAPE.2, 2, 5).expect("valid");

    let mut failures = 0;
    loop {
        let (output, report) = dispatcher.forward(hidden, &routing).expect("base serves");
        assert!(error_of(&output, hidden, &routing) <= NumericClass::Half.max_relative_error());
        assert_eq!(report.kernel.expect("ran").family, Family::Base);
        let Some(fallback) = report.fallback else {
            // Every implementation has failed: now the rules themselves take the base kernel.
            assert_eq!(report.reason(), "fallback_availability");
            break;
        };
        failures += 1;
        assert_eq!(fallback.failed.family, Family::Prefill4);
        assert!(fallback.error.to_string().contains("the test says so"));
        assert_eq!(dispatcher.quarantined().len(), failures);
        assert!(failures < 10, "every failure takes one kernel away");
    }
    let explanation = dispatcher.explain(&routing).expect("base is legal");
    let quarantined = |verdict: &Verdict| verdict.to_string().contains("quarantined");
    let count = explanation.rules.considered.iter().filter(|c| quarantined(&c.verdict)).count();
    assert_eq!(count, failures);
}

#[test]
fn when_the_base_kernels_fail_too_the_first_error_is_reported() {
    let failing = [Family::Prefill4, Family::Base];
    let mut dispatcher = dispatcher(&failing, PLENTY, rules());
    let hidden = synth::hidden(4, SHAPE.0, 1);
    let routing = synth::routing(4, SHAPE.2, 2, 5).expect("valid");
    let error = dispatcher.forward(Hidden::F16(&hidden), &routing).unwrap_err();
    assert!(matches!(error, ForwardError::Launch(_)));
    assert!(error.to_string().starts_with("moe_trellis_swiglu_prefill4@cpu."));
}

#[test]
fn memory_pressure_takes_the_base_kernel_and_no_memory_is_an_error() {
    let tight = MemoryFigures { available: 5 << 30, total: 100 << 30 };
    let hidden = synth::hidden(64, SHAPE.0, 1);
    let routing = synth::routing(64, SHAPE.2, 2, 5).expect("valid");
    let mut dispatcher_tight = dispatcher(&[], tight, rules());
    let (_, report) = dispatcher_tight.forward(Hidden::F16(&hidden), &routing).expect("runs");
    assert_eq!(report.kernel.expect("ran").family, Family::Base);
    assert_eq!(report.reason(), "memory_pressure");

    let none = MemoryFigures { available: 0, total: 100 << 30 };
    let mut dispatcher = dispatcher(&[], none, rules());
    let error = dispatcher.forward(Hidden::F16(&hidden), &routing).unwrap_err();
    assert!(error.to_string().contains("bytes of workspace, 0 are available"), "{error}");
}

#[test]
fn exact_calls_get_exact_kernels() {
    let options = DispatcherOptions { numeric: NumericClass::Exact, ..rules() };
    let mut dispatcher = dispatcher(&[], PLENTY, options);
    for tokens in [1, 5, 40] {
        let hidden = synth::hidden(tokens, SHAPE.0, 1);
        let hidden = Hidden::F16(&hidden);
        let routing = synth::routing(tokens, SHAPE.2, 2, 5).expect("valid");
        let (output, report) = dispatcher.forward(hidden, &routing).expect("runs");
        assert!(report.kernel.expect("ran").fp32_acc);
        assert!(error_of(&output, hidden, &routing) <= NumericClass::Exact.max_relative_error());
    }
}

#[test]
fn no_token_is_an_empty_result() {
    let mut dispatcher = dispatcher(&[], PLENTY, rules());
    let routing = Routing::new(SHAPE.2, 2, &[], &[]).expect("valid");
    let (output, report) = dispatcher.forward(Hidden::F32(&[]), &routing).expect("nothing to do");
    assert!(output.is_empty());
    assert_eq!((report.kernel, report.reason()), (None, "no_tokens"));
}

#[test]
fn arguments_that_do_not_fit_are_named() {
    let mut dispatcher = dispatcher(&[], PLENTY, rules());
    let hidden = synth::hidden(2, SHAPE.0, 1);
    let mut error = |hidden: Hidden<'_>, routing: &Routing, len: usize| {
        dispatcher.forward_into(hidden, routing, &mut vec![0.0; len]).unwrap_err().to_string()
    };
    let routing = synth::routing(2, SHAPE.2, 2, 5).expect("valid");
    assert_eq!(
        error(Hidden::F16(&hidden[1..]), &routing, 511),
        "hidden states have 511 elements: expected 2 tokens x 256 = 512"
    );
    assert_eq!(
        error(Hidden::F16(&hidden), &routing, 511),
        "the output has 511 elements: expected 512"
    );
    let other = synth::routing(2, 9, 2, 5).expect("valid");
    assert_eq!(
        error(Hidden::F16(&hidden), &other, 512),
        "the routing is for 9 experts, the layer has 8"
    );
}

#[test]
fn a_named_kernel_runs_or_says_why_not() {
    let mut dispatcher = dispatcher(&[], PLENTY, rules());
    let hidden = synth::hidden(2, SHAPE.0, 1);
    let hidden = Hidden::F16(&hidden);
    let routing = synth::routing(2, SHAPE.2, 2, 5).expect("valid");
    let mut out = vec![0.0; 512];
    let mut run = |name: &str| {
        let kernel = name.parse().expect("a name");
        dispatcher.forward_on(kernel, hidden, &routing, &mut out)
    };
    let report = run("moe_trellis_swiglu_grouped@cpu.generic").expect("runs");
    assert_eq!(report.reason(), "requested");
    let report = run("moe_trellis_swiglu_grouped").expect("the best implementation");
    assert_eq!(report.kernel.expect("ran").family, Family::Grouped);
    assert!(run("moe_trellis_swiglu_decode").unwrap_err().to_string().contains("2 tokens"));
    assert!(run("moe_trellis_swiglu_decode_8_8_8").unwrap_err().to_string().contains("no such"));
}

/// Every launch is recorded; a dispatcher that explores finds kernels that are faster here.
#[test]
fn latencies_are_recorded_and_exploring_times_other_kernels() {
    let config = RuleConfig { exploration_rate: 1.0, seed: Some(7), ..rules().rules };
    let options = DispatcherOptions { rules: config, ..rules() };
    let mut dispatcher = dispatcher(&[], PLENTY, options);
    let hidden = synth::hidden(4, SHAPE.0, 1);
    let routing = synth::routing(4, SHAPE.2, 2, 5).expect("valid");
    for _ in 0..60 {
        let (_, report) = dispatcher.forward(Hidden::F16(&hidden), &routing).expect("runs");
        assert_eq!(report.reason(), "exploration");
    }
    let history = dispatcher.history();
    assert!(history.len() > 3, "several kernels were tried");
    assert_eq!(history.iter().map(|row| row.timings.n).sum::<usize>(), 60);
    assert!(history.iter().all(|row| row.timings.mean_ms > 0.0));
}

/// Two dispatchers on two threads share a layer and its threads; each sees its own results.
#[test]
fn two_dispatchers_on_two_threads_do_not_disturb_each_other() {
    let backend: Arc<dyn Backend> = Arc::new(cpu());
    let owned = layer();
    let prepared = backend.prepare(&owned.view(), &mut |_| {}).expect("fits");
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let (backend, prepared) = (Arc::clone(&backend), Arc::clone(&prepared));
            let (owned, failed) = (&owned, &failed);
            scope.spawn(move || {
                let mut dispatcher = Dispatcher::new(backend, prepared, rules()).expect("valid");
                for round in 0..20 {
                    let tokens = 1 + (round * 7 + thread as usize * 3) % 40;
                    let hidden = synth::hidden(tokens, SHAPE.0, thread);
                    let hidden = Hidden::F16(&hidden);
                    let routing = synth::routing(tokens, SHAPE.2, 3, thread + 10).expect("valid");
                    let (output, _) = dispatcher.forward(hidden, &routing).expect("runs");
                    let expected = oracle::forward(&owned.view(), hidden, &routing);
                    if relative_error(&output, &expected).is_nan()
                        || relative_error(&output, &expected) > 2e-3
                    {
                        failed.store(true, Ordering::Relaxed);
                    }
                }
                assert_eq!(dispatcher.statistics().total_selections(), 20);
            });
        }
    });
    assert!(!failed.into_inner(), "a result was disturbed");
}
