//! What the backend says of itself.

use std::collections::BTreeSet;

use crate::common::{backend, prepare};
use trellect_core::{
    Backend, BitTuple, Call, Codebook, Family, Hidden, KernelId, LaunchError, LayerShape,
    NumericClass, Routing, WhyNot,
};
use trellect_cpu::{CpuBackend, CpuOptions, Isa};
use trellect_exl3::synth::{self, OwnedLayer, SynthSpec};
use trellect_select::{Thresholds, reachable_kernels};

fn tuple(gate: u64, up: u64, down: u64) -> BitTuple {
    BitTuple::new(gate, up, down).expect("1 to 8")
}

/// Every name that the selector may return is a kernel of this backend on every machine.
#[test]
fn every_reachable_name_exists() {
    let thresholds = Thresholds::default();
    let shape = LayerShape::new(128, 128, 4).expect("positive");
    let candidates = backend(1).kernels(&shape, &thresholds.specialised_decode);
    let plain: BTreeSet<KernelId> =
        candidates.iter().filter_map(|c| c.as_ref().ok()).map(|spec| spec.id.plain()).collect();
    for name in reachable_kernels(&thresholds) {
        assert!(plain.contains(&name), "{name}");
    }
}

/// Names are unique, and capping moves kernels from runnable to refused but loses none.
#[test]
fn names_are_unique_and_capping_only_refuses() {
    let shape = LayerShape::new(128, 128, 4).expect("positive");
    let names = |max_isa| {
        let backend = CpuBackend::new(CpuOptions { threads: None, max_isa });
        let candidates = backend.kernels(&shape, &[tuple(6, 2, 3), tuple(1, 1, 1)]);
        let id = |c: &trellect_core::Candidate| c.as_ref().map_or_else(|r| r.kernel, |s| s.id);
        let names: BTreeSet<KernelId> = candidates.iter().map(id).collect();
        assert_eq!(names.len(), candidates.len(), "no name twice");
        let runnable = candidates.iter().filter(|c| c.is_ok()).count();
        (names, runnable)
    };
    let (all, most) = names(Isa::Amx);
    let (capped, fewest) = names(Isa::Generic);
    assert_eq!(all, capped);
    let of = |isa: Isa| {
        let names = [isa.name().to_owned(), format!("{}_int8", isa.name())];
        let variant =
            |id: &&KernelId| id.variant.is_some_and(|v| names.iter().any(|n| n == v.name()));
        all.iter().filter(variant).count()
    };
    for isa in Isa::ALL {
        let expected = match isa {
            // Large batch, in two classes.
            Isa::Amx => 2,
            // Base and large batch.
            Isa::NeonI8mm => 2,
            Isa::Generic | Isa::Neon | Isa::Avx2 | Isa::Avx512 => fewest,
        };
        assert_eq!(of(isa), expected, "{isa}");
    }
    assert!(most >= fewest);
    let backend = CpuBackend::new(CpuOptions { threads: None, max_isa: Isa::Generic });
    let refused = backend.kernels(&shape, &[]).into_iter().filter_map(Result::err);
    assert!(refused.into_iter().all(|rejection| rejection.why == WhyNot::Capped));
}

#[test]
fn launches_that_cannot_run_say_why() {
    let shape = LayerShape::new(128, 128, 4).expect("positive");
    let spec = SynthSpec::uniform(shape, tuple(2, 2, 2), Codebook::Mul1, 1);
    let owned = OwnedLayer::new(&spec).expect("fits");
    let layer = prepare(&backend(1), &owned.view());
    let mut queue = std::sync::Arc::clone(&layer).queue();
    let hidden = synth::hidden(2, 128, 1);
    let routing = synth::routing(2, 4, 2, 1).expect("valid");
    let call = Call::new(&shape, Hidden::F16(&hidden), &routing).expect("agree");
    let mut out = vec![0.0; 256];

    let absent: KernelId = "moe_trellis_swiglu_decode_8_8_8".parse().expect("a name");
    let error = queue.launch(absent, &call, &mut out).unwrap_err();
    assert_eq!(error, LaunchError::UnknownKernel { kernel: absent });

    let decode = layer.specs().find(|s| s.id.family == Family::Decode).expect("exists").id;
    let error = queue.launch(decode, &call, &mut out).unwrap_err();
    assert!(matches!(error, LaunchError::Illegal { why: WhyNot::Tokens { found: 2, .. }, .. }));

    let base = layer.specs().find(|s| s.id.family == Family::Base).expect("exists").id;
    let error = queue.launch(base, &call, &mut out[..255]).unwrap_err();
    assert_eq!(error.to_string(), "the output has 255 elements: expected 256");
}

/// A queue holds exactly what the specification says, and small calls after large ones reuse it.
#[test]
fn workspaces_are_as_specified() {
    let shape = LayerShape::new(256, 128, 4).expect("positive");
    let owned = OwnedLayer::new(&SynthSpec::mixed(shape, Codebook::Mul1, 1)).expect("fits");
    let layer = prepare(&backend(2), &owned.view());
    for spec in layer.specs() {
        let mut queue = std::sync::Arc::clone(&layer).queue();
        for pairs in [1, 7, 64, 5000, 3] {
            queue.reserve(spec.id, pairs).expect("a small workspace");
        }
        assert_eq!(queue.workspace_bytes(), spec.workspace.bytes(5000), "{}", spec.id);
    }
    let bytes = |family, class| {
        let found = layer.specs().find(|s| s.id.family == family && s.class == class);
        found.expect("exists").workspace.bytes(2048)
    };
    let (base, large) = (Family::Base, Family::LargeBatch);
    assert!(bytes(base, NumericClass::Half) * 8 < bytes(large, NumericClass::Half));
}

#[test]
fn preparing_reports_every_expert_once_and_times_are_harvested_once() {
    let shape = LayerShape::new(128, 128, 9).expect("positive");
    let owned = OwnedLayer::new(&SynthSpec::mixed(shape, Codebook::Mul1, 1)).expect("fits");
    let mut seen = Vec::new();
    let layer = backend(2).prepare(&owned.view(), &mut |expert| seen.push(expert)).expect("fits");
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..9));
    assert!(layer.prepared_bytes() >= owned.view().trellis_bytes());

    let mut queue = std::sync::Arc::clone(&layer).queue();
    let hidden = synth::hidden(1, 128, 1);
    let routing = Routing::new(9, 1, &[4], &[1.0]).expect("valid");
    let call = Call::new(&shape, Hidden::F16(&hidden), &routing).expect("agree");
    let kernel = layer.specs().next().expect("exists").id;
    let kernel = KernelId { tuple: None, ..kernel };
    let launches: Vec<_> =
        (0..3).map(|_| queue.launch(kernel, &call, &mut [0.0; 128]).expect("runs")).collect();
    let mut harvested = Vec::new();
    queue.harvest(&mut |time| harvested.push(time));
    assert!(harvested.iter().map(|time| time.launch).eq(launches));
    assert!(harvested.iter().all(|time| !time.elapsed.is_zero()));
    queue.harvest(&mut |time| panic!("{time:?} again"));
}

/// Integers that could overflow in a layer so large are not trusted with it.
#[test]
fn amx_refuses_sums_that_its_registers_cannot_hold() {
    let runnable = |intermediate_size| {
        let shape = LayerShape::new(128, intermediate_size, 2).expect("positive");
        let candidates = backend(1).kernels(&shape, &[tuple(4, 4, 4)]);
        let is_amx = |id: &KernelId| id.variant.is_some_and(|v| v.name().starts_with("amx"));
        let specs = candidates.iter().filter_map(|c| c.as_ref().ok());
        specs.filter(|spec| is_amx(&spec.id)).count()
    };
    assert_eq!(runnable(1 << 15), runnable(128));
    assert_eq!(runnable((1 << 15) + 1), 0);
}
