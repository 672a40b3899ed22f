//! A call for which the adaptive policy has a plan allocates nothing, and waits for no lock.

use std::sync::Arc;
use std::time::Duration;

use trellect::core::{Codebook, Hidden, LayerShape};
use trellect::cpu::{CpuBackend, CpuOptions};
use trellect::exl3::synth::{self, OwnedLayer, SynthSpec};
use trellect::{Dispatcher, DispatcherOptions, Policy, Selector, SelectorOptions};
use trellect_testkit::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn warm_calls_allocate_nothing() {
    let shape = LayerShape::new(256, 256, 8).expect("positive");
    let owned = OwnedLayer::new(&SynthSpec::mixed(shape, Codebook::Mul1, 1)).expect("fits");
    let backend = CpuBackend::new(CpuOptions::from_env().expect("unset or known"));
    // Nobody learns while allocations are counted: the process has one counter.
    let selector = Selector::new(SelectorOptions {
        background: false,
        calibration_budget: Duration::ZERO,
        ..SelectorOptions::default()
    });
    let policy = Policy::Adaptive(Some(selector.clone()));
    let options = DispatcherOptions { policy, ..DispatcherOptions::default() };
    let mut dispatcher =
        Dispatcher::prepare(Arc::new(backend), &owned.view(), options).expect("fits");
    for tokens in [1, 9, 70] {
        let hidden = synth::hidden(tokens, 256, 1);
        let routing = synth::routing(tokens, 8, 2, 2).expect("valid");
        let mut out = vec![0.0; tokens * 256];
        let mut planned = 0;
        // Threads that start late and the test harness allocate when they like, and the first use
        // of a kernel grows its workspace and is confirmed; a call's own allocation would be there
        // every time.
        let mut best = usize::MAX;
        for _ in 0..40 {
            let before = CountingAllocator::of_process();
            let report = dispatcher.forward_into(Hidden::F16(&hidden), &routing, &mut out);
            let allocations = CountingAllocator::of_process() - before;
            if report.expect("runs").reason() == "incumbent" {
                planned += 1;
                best = best.min(allocations);
            } else {
                selector.step();
            }
        }
        assert!(planned > 30 && best == 0, "{tokens} tokens: {planned} planned, {best}");
    }
    assert_eq!(selector.stats().dropped, 0);
}
