//! One body for every kernel: run it, compare with the oracle, demand its class.

use std::num::NonZeroUsize;

use trellect_core::{
    Backend, Call, Family, Hidden, KernelSpec, LayerView, NumericClass, PreparedLayer, Queue,
    Routing,
};
use trellect_cpu::{CpuBackend, CpuOptions};
use trellect_testkit::relative_error;

pub(crate) fn backend(threads: usize) -> CpuBackend {
    let options = CpuOptions::from_env().expect("TRELLECT_MAX_ISA is unset or known");
    CpuBackend::new(CpuOptions { threads: NonZeroUsize::new(threads), ..options })
}

pub(crate) fn prepare(
    backend: &CpuBackend,
    layer: &LayerView<'_>,
) -> std::sync::Arc<dyn PreparedLayer> {
    backend.prepare(layer, &mut |_| {}).expect("a small layer fits")
}

/// Runs one kernel into an output full of NaN.
pub(crate) fn launch(
    queue: &mut dyn Queue,
    spec: &KernelSpec,
    layer: &dyn PreparedLayer,
    hidden: Hidden<'_>,
    routing: &Routing,
) -> Vec<f32> {
    let call = Call::new(layer.shape(), hidden, routing).expect("hidden and routing agree");
    let mut out = vec![f32::NAN; hidden.len()];
    queue.launch(spec.id, &call, &mut out).unwrap_or_else(|error| panic!("{}: {error}", spec.id));
    out
}

/// Compares every kernel that can compute the call with `expected`; returns how many could.
pub(crate) fn check_all(
    layer: &std::sync::Arc<dyn PreparedLayer>,
    hidden: Hidden<'_>,
    routing: &Routing,
    expected: &[f64],
    case: &dyn std::fmt::Debug,
) -> usize {
    let mut queue = std::sync::Arc::clone(layer).queue();
    let mut checked = 0;
    for spec in layer.specs() {
        if !spec.tokens.contains(routing.num_tokens()) {
            continue;
        }
        // The other families are other plans of the same code, the other classes fill large tables.
        if cfg!(miri) && (spec.id.family, spec.class) != (Family::Base, NumericClass::Half) {
            continue;
        }
        let other_tuple = |&expert: &u32| {
            spec.id.tuple.is_some_and(|only| only != layer.expert_tuples()[expert as usize])
        };
        if routing.active_experts().iter().any(other_tuple) {
            continue;
        }
        let out = launch(queue.as_mut(), spec, layer.as_ref(), hidden, routing);
        let error = relative_error(&out, expected);
        let limit = spec.class.max_relative_error();
        assert!(error <= limit, "{}: error {error:.2e} above {limit:.0e} in {case:?}", spec.id);
        checked += 1;
    }
    checked
}

/// Prints what this machine cannot run, and why.
pub(crate) fn list_skipped(layer: &dyn PreparedLayer) {
    for rejection in layer.candidates().iter().filter_map(|c| c.as_ref().err()) {
        println!("skipped: {rejection}");
    }
}
