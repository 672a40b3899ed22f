//! Random damage, and the fuzz target's corpus, through the fuzz target's own function.

mod common;
#[path = "../../../fuzz/src/exercise.rs"]
mod exercise;

use std::fs;
use std::path::Path;

use common::{PREFIX, Tensor, Tensors};
use proptest::prelude::*;
use serde_json::json;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/checkpoint");

#[derive(Clone, Debug)]
enum Damage {
    Flip { at: prop::sample::Index, mask: u8 },
    Set { at: prop::sample::Index, value: u8 },
    Remove { at: prop::sample::Index },
    Truncate { to: prop::sample::Index },
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        4 => (at(), 1u8..).prop_map(|(at, mask)| Damage::Flip { at, mask }),
        // Digits and punctuation keep a header's JSON plausible.
        4 => (at(), prop::sample::select(b" 0129-[]{},:\"".to_vec()))
            .prop_map(|(at, value)| Damage::Set { at, value }),
        1 => at().prop_map(|at| Damage::Remove { at }),
        1 => at().prop_map(|to| Damage::Truncate { to }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_files_never_panic(
        damages in proptest::collection::vec((damage(), any::<bool>()), 1..4),
    ) {
        let mut bytes = tiny_for_corpus().bytes();
        let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        for (damage, in_header) in damages {
            let len = if in_header { header.min(bytes.len()) } else { bytes.len() };
            if len == 0 {
                break;
            }
            match damage {
                Damage::Flip { at, mask } => bytes[at.index(len)] ^= mask,
                Damage::Set { at, value } => bytes[at.index(len)] = value,
                Damage::Remove { at } => drop(bytes.remove(at.index(len))),
                Damage::Truncate { to } => bytes.truncate(to.index(len)),
            }
        }
        exercise::checkpoint(&bytes);
    }
}

#[test]
fn the_corpus_never_panics() {
    let mut replayed = 0;
    for file in fs::read_dir(CORPUS).unwrap() {
        exercise::checkpoint(&fs::read(file.unwrap().path()).unwrap());
        replayed += 1;
    }
    assert!(replayed >= corpus().len(), "{replayed} files");
}

#[test]
fn the_corpus_is_the_one_made_here() {
    for (name, bytes) in corpus() {
        assert!(fs::read(Path::new(CORPUS).join(name)).unwrap() == bytes, "{name}");
    }
}

#[test]
#[ignore = "writes fuzz/corpus/checkpoint"]
fn write_the_corpus() {
    fs::create_dir_all(CORPUS).unwrap();
    for (name, bytes) in corpus() {
        fs::write(Path::new(CORPUS).join(name), bytes).unwrap();
    }
}

fn tiny_for_corpus() -> Tensors {
    let mut tensors = Tensors::default();
    for projection in ["gate_proj", "up_proj", "down_proj"] {
        tensors.add_linear(&format!("{PREFIX}.experts.0.{projection}"), 128, 128, 1);
    }
    tensors.set("gate.weight", Tensor::zeros("F16", &[1, 128]));
    tensors
}

/// A valid file, files with one lie each, and configurations.
fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    let valid = tiny_for_corpus();
    let changed = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = valid.clone();
        change(&mut tensors);
        tensors.bytes()
    };
    // Without data: the reader must refuse them by their headers.
    let header_only = |header: serde_json::Value| {
        let header = header.to_string();
        [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()
    };
    let tensor = |shape: serde_json::Value, offsets: [u64; 2]| json!({ "a": { "dtype": "I16", "shape": shape, "data_offsets": offsets } });
    vec![
        ("valid", valid.bytes()),
        (
            "every-part",
            changed(&|t| {
                t.set("experts.0.gate_proj.mcg", Tensor::zeros("I32", &[]));
                t.set("experts.0.up_proj.mul1", Tensor::zeros("I32", &[]));
                t.set("experts.0.up_proj.bias", Tensor::zeros("F32", &[128]));
                t.remove("experts.0.down_proj.suh");
                t.set("experts.0.down_proj.su", Tensor::zeros("I16", &[8]));
                t.set("gate.e_score_correction_bias", Tensor::zeros("F32", &[1]));
                for projection in ["gate_proj", "up_proj", "down_proj"] {
                    let key = format!("{PREFIX}.shared_experts.{projection}");
                    t.add_linear(&key, 128, 128, 1);
                }
            }),
        ),
        (
            "mixtral",
            changed(&|t| {
                t.0.clear();
                for projection in ["w1", "w2", "w3"] {
                    let key = format!("model.layers.0.block_sparse_moe.experts.0.{projection}");
                    t.add_linear(&key, 128, 128, 1);
                }
            }),
        ),
        ("missing-suh", changed(&|t| t.remove("experts.0.up_proj.suh"))),
        ("nan-suh", changed(&|t| t.get_mut("experts.0.up_proj.suh").data.fill(0xFF))),
        ("huge-router", changed(&|t| t.get_mut("gate.weight").data.fill(0x7B))),
        (
            "expert-4294967295",
            changed(&|t| {
                let name = format!("{PREFIX}.experts.4294967295.up_proj.mcg");
                t.0.insert(name, Tensor::zeros("I32", &[]));
            }),
        ),
        (
            "width-0",
            changed(&|t| {
                *t.get_mut("experts.0.up_proj.trellis") = Tensor::zeros("I16", &[1 << 60, 8, 0]);
            }),
        ),
        ("truncated", valid.bytes()[..4000].to_vec()),
        ("header-too-long", u64::MAX.to_le_bytes().to_vec()),
        ("header-of-nothing", vec![0; 8]),
        ("no-tensors", header_only(json!({}))),
        ("overflow", header_only(tensor(json!([u64::MAX, 2, 2]), [0, 8]))),
        ("out-of-file", header_only(tensor(json!([1u64 << 40]), [0, 1 << 41]))),
        ("backwards", header_only(tensor(json!([4]), [8, 0]))),
        ("metadata-of-numbers", header_only(json!({ "__metadata__": { "a": 1 } }))),
        (
            "config-sigmoid",
            br#"{"num_experts_per_tok":2,"n_group":4,"topk_group":2,"scoring_func":"sigmoid",
"routed_scaling_factor":1.8,"text_config":{"hidden_size":100}}"#
                .to_vec(),
        ),
        (
            "config-hostile",
            br#"{"num_experts_per_tok":18446744073709551615,"n_group":18446744073709551615,
"topk_group":0,"routed_scaling_factor":1e308,"text_config":[]}"#
                .to_vec(),
        ),
    ]
}
