//! Checkpoints that lie: each lie has its error, and none a panic.

mod common;

use std::fs;
use std::path::Path;

use common::{PREFIX, Tensor, Tensors};
use serde_json::{Value, json};
use trellect_exl3::{Checkpoint, LoadError, MoeLayer};

/// Whether an error is of the variant that a case expects, and what its message must contain.
struct Expected {
    variant: fn(&LoadError) -> bool,
    message: &'static str,
}

macro_rules! expect {
    ($variant:ident, $message:expr) => {
        Expected { variant: |error| matches!(error, LoadError::$variant { .. }), message: $message }
    };
}

fn assert_error(case: &str, error: &LoadError, expected: &Expected) {
    let message = error.to_string();
    assert!((expected.variant)(error), "{case}: {error:?}");
    assert!(message.contains(expected.message), "{case}: {message}");
}

fn failure(bytes: Vec<u8>, config: Option<&str>) -> LoadError {
    let checkpoint = match Checkpoint::from_bytes(bytes, config) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return error,
    };
    checkpoint.layer(3).map(drop).expect_err("the layer should be refused")
}

#[test]
fn broken_files() {
    let tensors = Tensors::tiny();
    let good = tensors.bytes();
    let with = |change: &dyn Fn(&mut std::collections::BTreeMap<String, Value>)| {
        let mut header = tensors.header();
        change(&mut header);
        tensors.bytes_with_header(&header)
    };
    let trellis = format!("{PREFIX}.experts.0.down_proj.trellis");
    let set = |field: &str, value: Value| {
        with(&|header| header.get_mut(&trellis).expect("is there")[field] = value.clone())
    };
    let header_length = |length: u64| {
        let mut bytes = good.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        bytes
    };
    let cases = [
        ("empty", vec![], expect!(EmptyFile, "the file is empty")),
        ("seven bytes", vec![0; 7], expect!(HeaderLength, "file of 7")),
        ("cut in the header", good[..100].to_vec(), expect!(HeaderLength, "of a file of 100")),
        ("cut in the data", good[..good.len() - 1].to_vec(), expect!(OutOfFile, "gate.weight")),
        (
            "cut at the data",
            good[..good.len() - 10_000].to_vec(),
            expect!(OutOfFile, "the file has"),
        ),
        ("longer", [&good[..], &[0]].concat(), expect!(TrailingBytes, "the tensors end at byte")),
        ("long header", header_length(1 << 40), expect!(HeaderLength, "1099511627776 bytes")),
        ("endless header", header_length(u64::MAX), expect!(HeaderLength, "18446744073709551615")),
        ("short header", header_length(20), expect!(Header, "not a safetensors header")),
        ("no header", header_length(0), expect!(Header, "not a safetensors header")),
        ("not JSON", [&[4, 0, 0, 0, 0, 0, 0, 0], &b"{]}}"[..]].concat(), expect!(Header, "JSON")),
        (
            "not UTF-8",
            [&[2, 0, 0, 0, 0, 0, 0, 0], &b"\xff\xfe"[..]].concat(),
            expect!(Header, "UTF-8"),
        ),
        ("no such type", set("dtype", json!("I17")), expect!(Header, "I17")),
        ("negative shape", set("shape", json!([-8, 8, 16])), expect!(Header, "-8")),
        (
            "overlap",
            set("data_offsets", json!([0, 2048])),
            expect!(TensorOffsets, "wants bytes 0..2048"),
        ),
        (
            "backwards",
            set("data_offsets", json!([512, 0])),
            expect!(TensorOffsets, "wants bytes 512..0"),
        ),
        (
            "far away",
            set("data_offsets", json!([1u64 << 40, (1u64 << 40) + 2048])),
            expect!(TensorOffsets, "expected it to start at 512"),
        ),
        (
            "out of the file",
            with(&|header| {
                let router = header.get_mut(&format!("{PREFIX}.gate.weight")).expect("is there");
                router["shape"] = json!([1u64 << 40, 128]);
                router["data_offsets"] = json!([15_360, 15_360 + (1u64 << 48)]);
            }),
            expect!(
                OutOfFile,
                "`model.layers.3.mlp.gate.weight` wants bytes 15360..281474976726016"
            ),
        ),
        (
            "shape and bytes disagree",
            set("shape", json!([8, 8, 17])),
            expect!(TensorLength, "spans 2048 bytes, its type and shape need 2176"),
        ),
        (
            "overflowing shape",
            set("shape", json!([u64::MAX, u64::MAX, 16])),
            expect!(ShapeOverflow, "experts.0.down_proj.trellis"),
        ),
        (
            "overflowing bytes",
            set("shape", json!([u64::MAX / 8, 1, 1])),
            expect!(ShapeOverflow, "overflows"),
        ),
        (
            "one tensor less than data",
            with(&|header| drop(header.remove(&format!("{PREFIX}.gate.weight")))),
            expect!(TrailingBytes, "the file has"),
        ),
    ];
    for (case, bytes, expected) in cases {
        assert_error(case, &failure(bytes.clone(), None), &expected);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        let error = Checkpoint::open(dir.path()).unwrap_err();
        assert_error(case, &error, &expected);
        assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{case}: {error}");
    }
}

#[test]
fn broken_layers() {
    type Change = fn(&mut Tensors);
    fn halves(value: f32, len: usize) -> Vec<u8> {
        half::f16::from_f32(value).to_le_bytes().repeat(len)
    }
    fn reshape(tensors: &mut Tensors, name: &str, dtype: &'static str, shape: &[u64]) {
        *tensors.get_mut(name) = Tensor::zeros(dtype, shape);
    }
    let cases: &[(&str, Change, Expected)] = &[
        (
            "no trellis",
            |t| t.remove("experts.1.up_proj.trellis"),
            expect!(MissingTensor, "experts.1.up_proj.trellis` is missing"),
        ),
        (
            "no suh",
            |t| t.remove("experts.0.gate_proj.suh"),
            expect!(MissingTensor, "experts.0.gate_proj.suh"),
        ),
        (
            "no svh",
            |t| t.remove("experts.0.down_proj.svh"),
            expect!(MissingTensor, "experts.0.down_proj.svh"),
        ),
        (
            "no up at all",
            |t| {
                for part in ["trellis", "suh", "svh"] {
                    t.remove(&format!("experts.1.up_proj.{part}"));
                }
            },
            expect!(MissingTensor, "experts.1.up_proj.trellis"),
        ),
        (
            "an expert unquantised",
            |t| t.set("experts.2.gate_proj.weight", Tensor::zeros("BF16", &[128, 128])),
            expect!(MissingTensor, "experts.2.gate_proj.trellis"),
        ),
        (
            "width of 17 words",
            |t| reshape(t, "experts.0.up_proj.trellis", "I16", &[8, 8, 17]),
            expect!(Width, "17 words a tile"),
        ),
        (
            "width of 0",
            |t| reshape(t, "experts.0.up_proj.trellis", "I16", &[8, 8, 0]),
            expect!(Width, "0 words a tile"),
        ),
        (
            "width of 9",
            |t| reshape(t, "experts.0.up_proj.trellis", "I16", &[8, 8, 144]),
            expect!(Width, "144 words a tile"),
        ),
        (
            "odd rows",
            |t| reshape(t, "experts.0.up_proj.trellis", "I16", &[7, 8, 16]),
            expect!(WrongShape, "[7, 8, 16]"),
        ),
        (
            "odd columns",
            |t| reshape(t, "experts.0.up_proj.trellis", "I16", &[8, 12, 16]),
            expect!(WrongShape, "multiples of 8"),
        ),
        (
            "no rows",
            |t| reshape(t, "experts.0.up_proj.trellis", "I16", &[0, 8, 16]),
            expect!(WrongShape, "[0, 8, 16]"),
        ),
        (
            "endless rows of nothing",
            |t| reshape(t, "experts.0.up_proj.trellis", "I16", &[1 << 60, 8, 0]),
            expect!(WrongShape, "multiples of 8"),
        ),
        (
            "rank 2",
            |t| reshape(t, "experts.0.up_proj.trellis", "I16", &[8, 128]),
            expect!(WrongShape, "expected [in/16, out/16, 16·bits]"),
        ),
        (
            "trellis of floats",
            |t| reshape(t, "experts.0.up_proj.trellis", "F16", &[8, 8, 16]),
            expect!(WrongType, "is of type F16, expected I16"),
        ),
        (
            "both markers",
            |t| {
                t.set("experts.1.gate_proj.mcg", Tensor::zeros("I32", &[]));
                t.set("experts.1.gate_proj.mul1", Tensor::zeros("I32", &[]));
            },
            expect!(BothCodebooks, "experts.1.gate_proj` has both"),
        ),
        (
            "retired scale",
            |t| t.set("experts.1.gate_proj.scale", Tensor::zeros("F32", &[])),
            expect!(LegacyScale, "experts.1.gate_proj.scale"),
        ),
        (
            "suh of f32",
            |t| reshape(t, "experts.0.gate_proj.suh", "F32", &[128]),
            expect!(WrongType, "is of type F32, expected F16"),
        ),
        (
            "short suh",
            |t| reshape(t, "experts.0.gate_proj.suh", "F16", &[127]),
            expect!(WrongShape, "[127], expected [128]"),
        ),
        (
            "svh of rank 2",
            |t| reshape(t, "experts.0.gate_proj.svh", "F16", &[1, 128]),
            expect!(WrongShape, "[1, 128], expected [128]"),
        ),
        (
            "short legacy signs",
            |t| {
                t.remove("experts.0.gate_proj.suh");
                t.set("experts.0.gate_proj.su", Tensor::zeros("I16", &[7]));
            },
            expect!(WrongShape, "gate_proj.su` has shape [7], expected [8]"),
        ),
        (
            "legacy signs of floats",
            |t| {
                t.remove("experts.0.gate_proj.svh");
                t.set("experts.0.gate_proj.sv", Tensor::zeros("F16", &[8]));
            },
            expect!(WrongType, "expected I16"),
        ),
        (
            "bias of bf16",
            |t| t.set("experts.0.gate_proj.bias", Tensor::zeros("BF16", &[128])),
            expect!(WrongType, "is of type BF16, expected F16 or F32"),
        ),
        (
            "long bias",
            |t| t.set("experts.0.gate_proj.bias", Tensor::zeros("F32", &[129])),
            expect!(WrongShape, "[129], expected [128]"),
        ),
        (
            "NaN in suh",
            |t| t.get_mut("experts.1.down_proj.suh").data = halves(f32::NAN, 128),
            expect!(NonFinite, "experts.1.down_proj.suh`[0] is NaN"),
        ),
        (
            "inf in svh",
            |t| {
                t.get_mut("experts.1.down_proj.svh").data[10..12]
                    .copy_from_slice(&halves(f32::INFINITY, 1));
            },
            expect!(NonFinite, "svh`[5] is inf"),
        ),
        (
            "-inf in bias",
            |t| {
                let data = f32::NEG_INFINITY.to_le_bytes().repeat(128);
                t.set("experts.0.up_proj.bias", Tensor { data, ..Tensor::zeros("F32", &[128]) });
            },
            expect!(NonFinite, "bias`[0] is -inf"),
        ),
        (
            "NaN in the router",
            |t| t.get_mut("gate.weight").data = halves(f32::NAN, 256),
            expect!(NonFinite, "gate.weight`[0] is NaN"),
        ),
        (
            "NaN in the correction bias",
            |t| {
                let data = halves(f32::NAN, 2);
                t.set(
                    "gate.e_score_correction_bias",
                    Tensor { data, ..Tensor::zeros("F16", &[2]) },
                );
            },
            expect!(NonFinite, "correction_bias`[0] is NaN"),
        ),
        (
            "gate and up disagree",
            |t| t.add_linear(&format!("{PREFIX}.experts.0.up_proj"), 128, 256, 2),
            expect!(Layer, "expert 0: up is 128x256, expected 128x128"),
        ),
        (
            "down disagrees",
            |t| t.add_linear(&format!("{PREFIX}.experts.0.down_proj"), 256, 128, 2),
            expect!(Layer, "expert 0: down is 256x128, expected 128x128"),
        ),
        (
            "experts disagree",
            |t| {
                for projection in ["gate_proj", "up_proj", "down_proj"] {
                    t.add_linear(&format!("{PREFIX}.experts.1.{projection}"), 256, 256, 1);
                }
            },
            expect!(Layer, "expert 1: gate is 256x256, expected 128x128"),
        ),
        (
            "a gap",
            |t| t.add_linear(&format!("{PREFIX}.experts.3.gate_proj"), 128, 128, 1),
            expect!(MissingExpert, "experts.2` is missing: 4 experts were expected"),
        ),
        (
            "an absurd expert",
            |t| t.add_linear(&format!("{PREFIX}.experts.4294967295.gate_proj"), 128, 128, 1),
            expect!(MissingExpert, "experts.2` is missing: 4294967296 experts"),
        ),
        (
            "no last expert",
            |t| reshape(t, "gate.weight", "F16", &[3, 128]),
            expect!(MissingExpert, "experts.2` is missing: 3 experts were expected"),
        ),
        (
            "router of too few experts",
            |t| reshape(t, "gate.weight", "F16", &[1, 128]),
            expect!(WrongShape, "[1, 128], expected [2, 128]"),
        ),
        (
            "router of another width",
            |t| reshape(t, "gate.weight", "F32", &[2, 256]),
            expect!(WrongShape, "[2, 256], expected [2, 128]"),
        ),
        (
            "router of rank 1",
            |t| reshape(t, "gate.weight", "F32", &[256]),
            expect!(WrongShape, "expected [num_experts, hidden_size]"),
        ),
        (
            "router of integers",
            |t| reshape(t, "gate.weight", "I16", &[2, 128]),
            expect!(WrongType, "expected F16, BF16 or F32"),
        ),
        (
            "long correction bias",
            |t| t.set("gate.e_score_correction_bias", Tensor::zeros("F32", &[3])),
            expect!(WrongShape, "[3], expected [2]"),
        ),
        (
            "half a shared expert",
            |t| t.add_linear(&format!("{PREFIX}.shared_experts.up_proj"), 128, 128, 1),
            expect!(MissingTensor, "shared_experts.gate_proj.trellis"),
        ),
        (
            "shared expert of another width",
            |t| {
                for projection in ["gate_proj", "up_proj", "down_proj"] {
                    t.add_linear(&format!("{PREFIX}.shared_experts.{projection}"), 256, 256, 1);
                }
            },
            expect!(Layer, "shared_experts`: hidden_size is 128"),
        ),
        (
            "two prefixes",
            |t| t.add_linear("visual.layers.3.mlp.experts.0.w1", 128, 128, 1),
            expect!(AmbiguousLayer, "both `model.layers.3.mlp` and `visual.layers.3.mlp`"),
        ),
    ];
    for (case, change, expected) in cases {
        let mut tensors = Tensors::tiny();
        change(&mut tensors);
        assert_error(case, &failure(tensors.bytes(), None), expected);
    }
}

#[test]
fn broken_directories() {
    type Build = fn(&Path);
    let cases: &[(&str, Build, Expected)] = &[
        ("nothing there", |dir| fs::remove_dir(dir).unwrap(), expect!(Io, "No such file")),
        ("empty directory", |_| {}, expect!(NoModel, "holds no .safetensors file")),
        (
            "two files, no index",
            |dir| {
                for name in ["a", "b"] {
                    write(dir, &format!("{name}.safetensors"), Tensors::tiny().bytes());
                }
            },
            expect!(NoIndex, "2 .safetensors files"),
        ),
        (
            "a directory as the model",
            |dir| fs::create_dir(dir.join("model.safetensors")).unwrap(),
            expect!(NotAFile, "model.safetensors: expected a regular file"),
        ),
        (
            "a directory as the config",
            |dir| {
                write(dir, "model.safetensors", Tensors::tiny().bytes());
                fs::create_dir(dir.join("config.json")).unwrap();
            },
            expect!(NotAFile, "config.json: expected a regular file"),
        ),
        (
            "config cut off",
            |dir| {
                write(dir, "model.safetensors", Tensors::tiny().bytes());
                write(dir, "config.json", b"{\"hidden_size\": 12");
            },
            expect!(Json, "config.json: EOF while parsing"),
        ),
        (
            "config of a wrong type",
            |dir| {
                write(dir, "model.safetensors", Tensors::tiny().bytes());
                write(dir, "config.json", b"{\"hidden_size\": \"wide\"}");
            },
            expect!(Json, "config.json: invalid type: string \"wide\""),
        ),
        (
            "quantization cut off",
            |dir| {
                write(dir, "model.safetensors", Tensors::tiny().bytes());
                write(dir, "quantization_config.json", b"[");
            },
            expect!(Json, "quantization_config.json: EOF"),
        ),
        (
            "index without a map",
            |dir| index(dir, &json!({})),
            expect!(Json, "missing field `weight_map`"),
        ),
        (
            "index of numbers",
            |dir| index(dir, &json!({ "weight_map": { "a": 1 } })),
            expect!(Json, "index.json: invalid type"),
        ),
        (
            "shard outside",
            |dir| index(dir, &json!({ "weight_map": { "a": "../a.safetensors" } })),
            expect!(ShardName, "`../a.safetensors` is not a plain file name"),
        ),
        (
            "shard at the root",
            |dir| index(dir, &json!({ "weight_map": { "a": "/etc/passwd" } })),
            expect!(ShardName, "`/etc/passwd`"),
        ),
        (
            "missing shard",
            |dir| index(dir, &json!({ "weight_map": { "a": "a.safetensors" } })),
            expect!(MissingShard, "shard `a.safetensors` does not exist"),
        ),
        (
            "tensor not in its shard",
            |dir| {
                write(dir, "a.safetensors", Tensors::tiny().bytes());
                index(dir, &json!({ "weight_map": { "a": "a.safetensors" } }));
            },
            expect!(NotInShard, "a.safetensors: has no `a`"),
        ),
        (
            "tensor twice",
            |dir| {
                for name in ["a.safetensors", "b.safetensors"] {
                    write(dir, name, Tensors::tiny().bytes());
                }
                let name = |expert| format!("{PREFIX}.experts.{expert}.up_proj.suh");
                index(
                    dir,
                    &json!({ "weight_map": { name(0): "a.safetensors", name(1): "b.safetensors" } }),
                );
            },
            expect!(DuplicateTensor, "b.safetensors"),
        ),
    ];
    for (case, build, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        build(dir.path());
        assert_error(case, &Checkpoint::open(dir.path()).unwrap_err(), expected);
    }
    assert!(matches!(failure(Tensors::tiny().bytes(), Some("{")), LoadError::Json { .. }));
}

fn write(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    fs::write(dir.join(name), bytes).unwrap();
}

fn index(dir: &Path, json: &Value) {
    write(dir, "model.safetensors.index.json", json.to_string());
}

#[test]
fn unknown_layers_are_told_which_exist() {
    let mut tensors = Tensors::tiny();
    for number in [4, 5, 9] {
        let key = format!("model.layers.{number}.mlp.experts.0.gate_proj");
        tensors.add_linear(&key, 128, 128, 1);
    }
    let checkpoint = Checkpoint::from_bytes(tensors.bytes(), None).unwrap();
    let message = |number| checkpoint.layer(number).map(|l: MoeLayer<'_>| l.number()).unwrap_err();
    assert!(
        message(0).to_string().ends_with("layer 0 has no EXL3 experts; layers with them: 3-5, 9")
    );
    assert!(matches!(
        message(usize::MAX),
        LoadError::UnknownLayer { existing, .. } if existing == [3, 4, 5, 9]
    ));
    let bytes = Tensors::default().bytes();
    let none = Checkpoint::from_bytes(bytes, None).unwrap();
    assert!(none.layer(0).unwrap_err().to_string().ends_with("layers with them: none"));
}
