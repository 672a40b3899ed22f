//! What is written reads back the same.

mod common;

use std::fs;
use std::path::Path;

use common::golden;
use proptest::prelude::*;
use trellect_core::{Bits, Codebook, ExpertView, LayerView, LinearView, VectorView};
use trellect_exl3::{
    Checkpoint, ExpertNaming, FloatBytes, LayerToWrite, LoadError, ModelConfig, RouterView,
    WriteError, WriterConfig, write_checkpoint,
};

fn assert_same_vector(a: VectorView<'_>, b: VectorView<'_>) {
    match (a, b) {
        (VectorView::F16(a), VectorView::F16(b))
        | (VectorView::F32(a), VectorView::F32(b))
        | (VectorView::Signs(a), VectorView::Signs(b)) => assert_eq!(a, b),
        (a, b) => panic!("{a:?} and {b:?} are encoded differently"),
    }
}

fn assert_same_layer(a: &LayerView<'_>, b: &LayerView<'_>) {
    assert_eq!(a.shape(), b.shape());
    for (a, b) in a.experts().iter().zip(b.experts()) {
        for (a, b) in [(a.gate, b.gate), (a.up, b.up), (a.down, b.down)] {
            assert_eq!((a.bits(), a.codebook()), (b.bits(), b.codebook()));
            assert!(a.trellis() == b.trellis());
            assert_same_vector(a.suh(), b.suh());
            assert_same_vector(a.svh(), b.svh());
            assert_eq!(a.bias().is_some(), b.bias().is_some());
            if let (Some(a), Some(b)) = (a.bias(), b.bias()) {
                assert_same_vector(a, b);
            }
        }
    }
}

fn assert_same_router(a: &RouterView<'_>, b: &RouterView<'_>) {
    assert_eq!(a.weight().bytes(), b.weight().bytes());
    assert_eq!(std::mem::discriminant(&a.weight()), std::mem::discriminant(&b.weight()));
    assert_eq!(a.correction_bias(), b.correction_bias());
}

fn file_names(dir: &Path) -> Vec<String> {
    let name = |file: std::io::Result<fs::DirEntry>| file.unwrap().file_name().into_string();
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(name).collect::<Result<_, _>>().unwrap();
    names.sort();
    names
}

#[test]
fn the_golden_checkpoint_survives_in_one_file_and_in_shards() {
    let source = Checkpoint::open(&golden("model")).unwrap();
    let layers: Vec<_> =
        source.layers().iter().map(|info| source.layer(info.number()).unwrap()).collect();
    let to_write: Vec<_> = layers
        .iter()
        .map(|layer| LayerToWrite {
            number: layer.number(),
            naming: layer.naming(),
            view: layer.view(),
            shared_expert: layer.shared_expert(),
            router: layer.router(),
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let mut shards_seen = Vec::new();
    for max_shard_bytes in [None, Some(500_000), Some(1), None] {
        let config = WriterConfig { max_shard_bytes, ..WriterConfig::default() };
        write_checkpoint(dir.path(), &to_write, &config).unwrap();
        let names = file_names(dir.path());
        assert!(names.iter().all(|name| !name.contains("tmp")), "{names:?}");
        assert_eq!(names.contains(&"model.safetensors".into()), max_shard_bytes.is_none());
        shards_seen.push(names.len());

        let copy = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(copy.layers(), source.layers());
        for layer in &layers {
            let copy = copy.layer(layer.number()).unwrap();
            assert_same_layer(copy.view(), layer.view());
            assert_same_router(copy.router().unwrap(), layer.router().unwrap());
            assert_eq!(copy.shared_expert().is_some(), layer.shared_expert().is_some());
            if let (Some(copy), Some(shared)) = (copy.shared_expert(), layer.shared_expert()) {
                assert_same_layer(copy, shared);
            }
        }
    }
    assert_eq!(shards_seen[0], 3);
    assert!(shards_seen[1] > 5 && shards_seen[2] > 100, "{shards_seen:?}");
}

#[test]
fn storage_is_described_as_the_source_describes_it() {
    let source = Checkpoint::open(&golden("model")).unwrap();
    let layer = source.layer(0).unwrap();
    let to_write = LayerToWrite {
        number: 0,
        naming: layer.naming(),
        view: layer.view(),
        shared_expert: layer.shared_expert(),
        router: layer.router(),
    };
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), &[to_write], &WriterConfig::default()).unwrap();
    let read = |dir: &Path| -> serde_json::Value {
        let file = fs::read(dir.join("quantization_config.json")).unwrap();
        serde_json::from_slice(&file).unwrap()
    };
    let (ours, theirs) = (read(dir.path()), read(&golden("model")));
    let key = "model.layers.0.mlp.shared_experts.down_proj";
    let (ours, theirs) = (&ours["tensor_storage"][key], &theirs["tensor_storage"][key]);
    for field in ["quant_format", "bits_per_weight", "mul1_multiplier"] {
        assert_eq!(ours[field], theirs[field]);
    }
    for part in ["trellis", "suh", "svh"] {
        let name = format!("{key}.{part}");
        assert_eq!(ours["stored_tensors"][&name], theirs["stored_tensors"][&name]);
    }
    let access = |name| fs::metadata(dir.path().join(name)).unwrap().permissions();
    assert_eq!(access("model.safetensors"), access("config.json"));
    let model = Checkpoint::open(dir.path()).unwrap().config().clone();
    assert_eq!((model.num_experts, model.n_shared_experts), (Some(8), Some(1)));
}

/// The choices that make a linear: width, codebook, legacy signs, bias (none, F16, F32).
type Parts = (u64, usize, bool, usize);

const VALUES: [u8; 4] = [0x00, 0x3C, 0x66, 0xB0];

fn fill(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|index| VALUES[(index * 7 + index / 5 + seed) % VALUES.len()]).collect()
}

fn linear(bytes: &[u8], (k, n): (usize, usize), parts: Parts) -> LinearView<'_> {
    let (bits, codebook, legacy, bias) = parts;
    let bits = Bits::new(bits).unwrap();
    let scales = |len: usize| match legacy {
        true => VectorView::Signs(&bytes[..len / 8]),
        false => VectorView::F16(&bytes[..2 * len]),
    };
    let bias = match bias {
        0 => None,
        1 => Some(VectorView::F16(&bytes[..2 * n])),
        _ => Some(VectorView::F32(&bytes[..4 * n])),
    };
    let trellis = &bytes[..k * n / 8 * usize::from(bits.get())];
    let codebook = Codebook::ALL[codebook];
    LinearView::new(trellis, bits, codebook, k, n, scales(k), scales(n), bias).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_layer_reads_back_the_same(
        experts in proptest::collection::vec(
            proptest::array::uniform3((1u64..=8, 0usize..3, any::<bool>(), 0usize..3)), 1..4,
        ),
        hidden_size in 1usize..=256,
        intermediate_size in 1usize..=256,
        mixtral in any::<bool>(),
        router_type in 0usize..4,
        has_bias in any::<bool>(),
        shared in any::<bool>(),
        max_shard_bytes in proptest::option::of(1u64..200_000),
    ) {
        let bytes = fill(256 * 256, hidden_size);
        let (k, n) = (hidden_size.next_multiple_of(128), intermediate_size.next_multiple_of(128));
        let view = |parts: &[Parts; 3]| ExpertView {
            gate: linear(&bytes, (k, n), parts[0]),
            up: linear(&bytes, (k, n), parts[1]),
            down: linear(&bytes, (n, k), parts[2]),
        };
        let layer = |experts: &[[Parts; 3]]| {
            let views = experts.iter().map(view).collect();
            LayerView::new(views, Some(hidden_size), Some(intermediate_size)).unwrap()
        };
        let (routed, shared) = (layer(&experts), shared.then(|| layer(&experts[..1])));
        let weights = experts.len() * hidden_size;
        let weight = match router_type {
            0 => Some(FloatBytes::F32(&bytes[..4 * weights])),
            1 => Some(FloatBytes::F16(&bytes[..2 * weights])),
            2 => Some(FloatBytes::Bf16(&bytes[..2 * weights])),
            _ => None,
        };
        let bias = has_bias.then(|| vec![0.5; experts.len()]);
        let router = weight
            .map(|weight| RouterView::new(weight, experts.len(), hidden_size, bias).unwrap());

        let naming = if mixtral { ExpertNaming::Mixtral } else { ExpertNaming::Projections };
        let to_write = LayerToWrite {
            number: 7,
            naming,
            view: &routed,
            shared_expert: shared.as_ref(),
            router: router.as_ref(),
        };
        let dir = tempfile::tempdir().unwrap();
        let config = WriterConfig { max_shard_bytes, ..WriterConfig::default() };
        write_checkpoint(dir.path(), &[to_write], &config).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let copy = checkpoint.layer(7).unwrap();
        prop_assert_eq!(copy.naming(), naming);
        assert_same_layer(copy.view(), &routed);
        prop_assert_eq!(copy.shared_expert().is_some(), shared.is_some());
        if let (Some(copy), Some(shared)) = (copy.shared_expert(), &shared) {
            assert_same_layer(copy, shared);
        }
        prop_assert_eq!(copy.router().is_some(), router.is_some());
        if let (Some(copy), Some(router)) = (copy.router(), &router) {
            assert_same_router(copy, router);
        }
    }
}

#[test]
fn what_would_read_back_differently_is_refused() {
    let bytes = fill(256 * 256, 0);
    let plain = (1, 0, false, 0);
    let expert = ExpertView {
        gate: linear(&bytes, (128, 128), plain),
        up: linear(&bytes, (128, 128), plain),
        down: linear(&bytes, (128, 128), plain),
    };
    let layer = |hidden, inner| LayerView::new(vec![expert], Some(hidden), Some(inner)).unwrap();
    let (full, narrow, two) =
        (layer(128, 128), layer(128, 100), LayerView::new(vec![expert; 2], None, None).unwrap());
    let thin = layer(100, 128);
    let router = RouterView::new(FloatBytes::F16(&bytes[..512]), 2, 128, None).unwrap();
    let mut odd = expert;
    odd.up = LinearView::new(
        odd.up.trellis(),
        odd.up.bits(),
        odd.up.codebook(),
        128,
        128,
        VectorView::F32(&bytes[..512]),
        odd.up.svh(),
        None,
    )
    .unwrap();
    let odd = LayerView::new(vec![odd], None, None).unwrap();
    let naming = ExpertNaming::Projections;
    let write =
        |number, view| LayerToWrite { number, naming, view, shared_expert: None, router: None };
    let plain = write(0, &full);
    let hidden_100 = ModelConfig { hidden_size: Some(100), ..ModelConfig::default() };
    let default = ModelConfig::default();
    let cases = [
        (vec![plain, plain], &default, "layer 0 is given twice"),
        (
            vec![plain, write(1, &narrow)],
            &default,
            "layer 1: intermediate_size is 100, expected 128",
        ),
        (vec![plain], &hidden_100, "layer 0: hidden_size is 128, expected 100"),
        (
            vec![LayerToWrite { router: Some(&router), ..plain }],
            &default,
            "the router's number of experts is 2, expected 1",
        ),
        (
            vec![LayerToWrite { shared_expert: Some(&two), ..plain }],
            &default,
            "the number of shared experts is 2, expected 1",
        ),
        (
            vec![LayerToWrite { shared_expert: Some(&thin), ..plain }],
            &default,
            "the shared expert's hidden_size is 100, expected 128",
        ),
        (
            vec![write(4, &odd)],
            &default,
            "`model.layers.4.mlp.experts.0.up_proj.suh` is given as float32",
        ),
    ];
    for (layers, model, message) in cases {
        let dir = tempfile::tempdir().unwrap();
        let config = WriterConfig { model: model.clone(), ..WriterConfig::default() };
        let error = write_checkpoint(dir.path(), &layers, &config).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert!(file_names(dir.path()).is_empty());
    }
}

#[test]
fn failed_writes_leave_nothing_behind() {
    let source = Checkpoint::open(&golden("model")).unwrap();
    let layer = source.layer(3).unwrap();
    let to_write = LayerToWrite {
        number: 3,
        naming: layer.naming(),
        view: layer.view(),
        shared_expert: None,
        router: None,
    };
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    let error = write_checkpoint(dir.path(), &[to_write], &WriterConfig::default()).unwrap_err();
    assert!(matches!(error, WriteError::Io { .. }), "{error:?}");
    assert_eq!(file_names(dir.path()), ["model.safetensors"]);

    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = write_checkpoint(&file, &[to_write], &WriterConfig::default()).unwrap_err();
    assert!(matches!(error, WriteError::Io { .. }), "{error:?}");

    let empty = tempfile::tempdir().unwrap();
    write_checkpoint(empty.path(), &[], &WriterConfig::default()).unwrap();
    let error = Checkpoint::open(empty.path()).unwrap().layer(0).map(drop).unwrap_err();
    assert!(matches!(error, LoadError::UnknownLayer { .. }));
}
