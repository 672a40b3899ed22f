//! A launch on a reserved queue allocates nothing.

use std::sync::Arc;

use trellect_core::{Backend, Call, Codebook, Hidden, LayerShape};
use trellect_cpu::{CpuBackend, CpuOptions};
use trellect_exl3::synth::{self, OwnedLayer, SynthSpec};
use trellect_testkit::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn launches_allocate_nothing() {
    let shape = LayerShape::new(256, 256, 8).expect("positive");
    let owned = OwnedLayer::new(&SynthSpec::mixed(shape, Codebook::Mul1, 1)).expect("fits");
    let backend = CpuBackend::new(CpuOptions::from_env().expect("unset or known"));
    let layer = backend.prepare(&owned.view(), &mut |_| {}).expect("fits");
    for tokens in [1, 9, 70] {
        let hidden = synth::hidden(tokens, 256, 1);
        let routing = synth::routing(tokens, 8, 2, 2).expect("valid");
        let call = Call::new(&shape, Hidden::F16(&hidden), &routing).expect("agree");
        let mut out = vec![0.0; tokens * 256];
        for spec in layer.specs().filter(|s| s.tokens.contains(tokens) && s.id.tuple.is_none()) {
            let mut queue = Arc::clone(&layer).queue();
            // Threads that start late and the test harness allocate when they like, the first
            // launch fills tables that all launches share; a launch's own allocation would be
            // there every time.
            let allocates_nothing = (0..8).any(|_| {
                let before = CountingAllocator::of_process();
                queue.launch(spec.id, &call, &mut out).expect("runs");
                CountingAllocator::of_process() == before
            });
            assert!(allocates_nothing, "{} at {tokens} tokens", spec.id);
        }
    }
}
