//! Opening checkpoints that are as they should be.

mod common;

use std::fs;

use common::{PREFIX, Tensor, Tensors, golden};
use serde_json::json;
use trellect_core::{Codebook, LayerShape, VectorView};
use trellect_exl3::{Checkpoint, ExpertNaming, LoadError};

#[test]
fn golden_layers_are_what_the_index_says() {
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(golden("index.json")).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(&golden("model")).unwrap();
    assert_eq!(checkpoint.config().hidden_size, Some(256));
    let quantization = checkpoint.quantization().unwrap();
    assert_eq!(quantization.quant_method.as_deref(), Some("exl3"));
    assert_eq!(quantization.bits, Some(3.67));

    let facts = index["layers"].as_array().unwrap();
    assert_eq!(checkpoint.layers().len(), facts.len());
    for (info, facts) in checkpoint.layers().iter().zip(facts) {
        let layer = checkpoint.layer(info.number()).unwrap();
        assert_eq!(layer.prefix(), facts["prefix"]);
        assert_eq!(layer.naming().projections()[1], facts["proj_names"]["up"]);
        let LayerShape { hidden_size, intermediate_size, num_experts } = *layer.view().shape();
        assert_eq!(hidden_size, facts["hidden"]);
        assert_eq!(intermediate_size, facts["intermediate"]);
        assert_eq!((num_experts, info.num_experts()), {
            let experts = facts["experts"].as_u64().unwrap() as usize;
            (experts, experts)
        });
        for (expert, view) in layer.view().experts().iter().enumerate() {
            let widths = view.tuple().widths().map(|bits| u64::from(bits.get()));
            assert_eq!(json!(widths), facts["bits_gate_up_down"][expert]);
            assert_eq!(view.up.codebook().name(), facts["codebook"][expert]);
        }
        let shared = layer.shared_expert().map(|shared| shared.experts()[0].tuple().widths());
        let shared = shared.map(|widths| json!(widths.map(|bits| bits.get())));
        assert_eq!(shared.as_ref(), facts.get("shared_expert_bits"));
        let router = layer.router().unwrap();
        assert_eq!((router.num_experts(), router.hidden_size()), (num_experts, hidden_size));
        assert_eq!(router.correction_bias().is_some(), facts["router"] == "sigmoid_bias");
    }
}

#[test]
fn files_directories_and_memory_give_the_same_layer() {
    let bytes = Tensors::tiny().bytes();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("odd name.safetensors");
    fs::write(&file, &bytes).unwrap();
    let config = r#"{"hidden_size": 100, "moe_intermediate_size": 90, "n_routed_experts": 2}"#;
    fs::write(dir.path().join("config.json"), config).unwrap();
    let mut tensors = Tensors::tiny();
    tensors.set("gate.weight", Tensor::zeros("BF16", &[2, 100]));
    fs::write(&file, tensors.bytes()).unwrap();
    for checkpoint in [
        Checkpoint::open(&file),
        Checkpoint::open(dir.path()),
        Checkpoint::from_bytes(tensors.bytes(), Some(config)),
    ] {
        let checkpoint = checkpoint.unwrap();
        let layer = checkpoint.layer(3).unwrap();
        assert_eq!(*layer.view().shape(), LayerShape::new(100, 90, 2).unwrap());
        assert_eq!(layer.router().unwrap().hidden_size(), 100);
        assert_eq!(checkpoint.config().routed_experts(), Some(2));
        layer.release_expert(0);
        layer.release_expert(99);
    }
    let checkpoint = Checkpoint::from_bytes(bytes, None).unwrap();
    let layer = checkpoint.layer(3).unwrap();
    assert_eq!(*layer.view().shape(), LayerShape::new(128, 128, 2).unwrap());
}

#[test]
fn shards_make_one_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut weight_map = serde_json::Map::new();
    let (mut first, mut second) = (Tensors::default(), Tensors::default());
    for (index, (name, tensor)) in Tensors::tiny().0.into_iter().enumerate() {
        let (shard, file) = if index % 2 == 0 {
            (&mut first, "a.safetensors")
        } else {
            (&mut second, "b.safetensors")
        };
        weight_map.insert(name.clone(), json!(file));
        shard.0.insert(name, tensor);
    }
    fs::write(dir.path().join("a.safetensors"), first.bytes()).unwrap();
    fs::write(dir.path().join("b.safetensors"), second.bytes()).unwrap();
    let index = json!({ "metadata": {}, "weight_map": weight_map }).to_string();
    fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.layer(3).unwrap().view().experts().len(), 2);
}

#[test]
fn every_part_of_a_linear_is_read() {
    let mut tensors = Tensors::tiny();
    for part in ["suh", "svh"] {
        tensors.remove(&format!("experts.0.up_proj.{part}"));
    }
    let mut signs = Tensor::zeros("I16", &[8]);
    signs.data[0] = 0b10;
    tensors.set("experts.0.up_proj.su", signs);
    tensors.set("experts.0.up_proj.sv", Tensor::zeros("I16", &[8]));
    tensors.set("experts.0.up_proj.mul1", Tensor::zeros("I32", &[]));
    tensors.set("experts.0.down_proj.mcg", Tensor::zeros("I32", &[]));
    tensors.set("experts.0.up_proj.bias", Tensor::zeros("F32", &[128]));
    tensors.set("experts.0.down_proj.bias", Tensor::zeros("F16", &[128]));
    tensors.set("gate.e_score_correction_bias", Tensor::zeros("BF16", &[2]));
    for projection in ["gate_proj", "up_proj"] {
        tensors.add_linear(&format!("{PREFIX}.shared_expert.{projection}"), 128, 256, 8);
    }
    tensors.add_linear(&format!("{PREFIX}.shared_expert.down_proj"), 256, 128, 7);

    let checkpoint = Checkpoint::from_bytes(tensors.bytes(), None).unwrap();
    let layer = checkpoint.layer(3).unwrap();
    let expert = layer.view().experts()[0];
    assert_eq!((expert.up.suh().get(0), expert.up.suh().get(1)), (1.0, -1.0));
    assert!(matches!(expert.up.svh(), VectorView::Signs(_)));
    assert_eq!(expert.gate.codebook(), Codebook::ThreeInst);
    assert_eq!(expert.up.codebook(), Codebook::Mul1);
    assert_eq!(expert.down.codebook(), Codebook::Mcg);
    assert!(expert.gate.bias().is_none());
    assert!(matches!(expert.up.bias(), Some(VectorView::F32(_))));
    assert!(matches!(expert.down.bias(), Some(VectorView::F16(_))));
    let shared = layer.shared_expert().unwrap();
    assert_eq!(*shared.shape(), LayerShape::new(128, 256, 1).unwrap());
    assert_eq!(shared.experts()[0].tuple().to_string(), "8_8_7");
    assert_eq!(layer.router().unwrap().correction_bias(), Some(&[0.0, 0.0][..]));
}

#[test]
fn unquantised_parts_are_left_out() {
    let mut tensors = Tensors::tiny();
    tensors.set("shared_experts.gate_proj.weight", Tensor::zeros("BF16", &[4, 4]));
    tensors.remove("gate.weight");
    let other = "model.layers.4.mlp.experts.0.gate_proj.weight";
    tensors.0.insert(other.into(), Tensor::zeros("BF16", &[4, 4]));
    let checkpoint = Checkpoint::from_bytes(tensors.bytes(), None).unwrap();
    let layer = checkpoint.layer(3).unwrap();
    assert!(layer.shared_expert().is_none());
    assert!(layer.router().is_none());
    assert!(matches!(checkpoint.layer(4), Err(LoadError::UnknownLayer { .. })));
    assert_eq!(checkpoint.layers()[0].naming(), ExpertNaming::Projections);
}

#[cfg(target_os = "linux")]
#[test]
fn released_experts_leave_memory_and_read_the_same() {
    let resident_kib = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<i64>().unwrap()
    };
    let mut tensors = Tensors::default();
    for projection in ["gate_proj", "up_proj", "down_proj"] {
        tensors.add_linear(&format!("{PREFIX}.experts.0.{projection}"), 2048, 2048, 8);
    }
    tensors.get_mut("experts.0.up_proj.trellis").data.fill(7);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("model.safetensors"), tensors.bytes()).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let layer = checkpoint.layer(3).unwrap();
    let sum = || -> u64 {
        let expert = layer.view().experts()[0];
        let linears = [expert.gate, expert.up, expert.down];
        linears.iter().flat_map(|linear| linear.trellis()).map(|byte| u64::from(*byte)).sum()
    };
    let expected = sum();
    let before = resident_kib();
    layer.release_expert(0);
    let after = resident_kib();
    assert!(before - after > 10 << 10, "{before} KiB before, {after} KiB after");
    assert_eq!(sum(), expected);
}
