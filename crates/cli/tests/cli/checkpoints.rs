//! Commands on checkpoints, good and bad: `inspect`, `synth`, `run --model`, and `doctor`.

use std::fs;

use trellect_testkit::golden::model_dir;

use crate::{arg, trellect};

#[test]
fn inspect_shows_the_golden_layers() {
    let model = model_dir();
    let report = trellect(["inspect", arg(&model), "--json"]).json();
    let layers = report["layers"].as_array().unwrap();
    let numbers: Vec<_> = layers.iter().map(|layer| layer["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    assert_eq!(layers[0]["tuples"]["6_2_3"], 8);
    assert_eq!(layers[0]["shared_expert"]["tuple"], "4_4_4");
    assert_eq!(layers[0]["router"]["correction_bias"], true);
    assert_eq!(layers[2]["tuples"].as_object().unwrap().len(), 8);
    assert_eq!(layers[2]["codebooks"].as_object().unwrap().len(), 3);
    assert_eq!(layers[3]["prefix"], "model.layers.3.block_sparse_moe");
    assert_eq!(
        (&layers[3]["hidden_size"], &layers[3]["bits_per_weight"]),
        (&128.into(), &2.5.into())
    );

    let text = trellect(["inspect", arg(&model)]);
    assert_eq!(text.code, 0, "{text:?}");
    for part in ["4 MoE layers", "8 x 6_2_3", "3inst mcg mul1", "block_sparse_moe"] {
        assert!(text.stdout.contains(part), "{part}: {text:?}");
    }
}

#[test]
fn inspect_shows_the_rest_beside_an_invalid_layer() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("model.safetensors");
    let bytes = fs::read(model_dir().join("model.safetensors")).unwrap();
    // As long as the name it replaces, so that no offset moves.
    let (name, broken) = (
        "model.layers.1.mlp.experts.5.up_proj.suh\"",
        "model.layers.1.mlp.experts.5.up_proj.zzz\"",
    );
    let at = bytes.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
    let changed = [&bytes[..at], broken.as_bytes(), &bytes[at + name.len()..]].concat();
    fs::write(&file, changed).unwrap();
    let outcome = trellect(["inspect", arg(&file), "--json"]);
    outcome.fails(1, "invalid layers: 1");
    let report = outcome.object();
    let layers = report["layers"].as_array().unwrap();
    assert!(layers[1]["error"].as_str().unwrap().contains("experts.5.up_proj"));
    assert_eq!(layers[2]["experts"], 8);
    let text = trellect(["inspect", arg(&file)]);
    text.fails(1, "invalid layers: 1");
    assert!(text.stdout.contains("layer 1 is invalid"), "{text:?}");
}

#[test]
fn an_unknown_layer_lists_those_that_exist() {
    let model = model_dir();
    trellect(["run", "--model", arg(&model), "--layer", "9"]).fails(1, "layers with them: 0-3");
}

#[test]
fn missing_and_truncated_checkpoints_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let truncated = directory.path().join("truncated.safetensors");
    let bytes = fs::read(model_dir().join("model.safetensors")).unwrap();
    fs::write(&truncated, &bytes[..bytes.len() / 2]).unwrap();
    let empty = directory.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for command in [vec!["inspect"], vec!["run", "--model"]] {
        for path in [&missing, &truncated, &empty] {
            let outcome = trellect(command.iter().copied().chain([arg(path)]));
            outcome.fails(1, "error: ");
            assert_eq!(outcome.stderr.matches(arg(path)).count(), 1, "{outcome:?}");
        }
    }
}

#[test]
fn synth_writes_what_was_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("model");
    let flags = ["synth", "--shape", "200x100x6x2", "--bits", "5,1,8", "--codebook", "mcg"];
    let output = ["--layers", "3", "--router", "--output", arg(&model)];
    let written = trellect(flags.into_iter().chain(output).chain(["--json"])).json();
    assert_eq!((&written["layers"], &written["hidden_size"]), (&3.into(), &200.into()));
    assert!(written["bytes"].as_u64().unwrap() > 0);
    let report = trellect(["inspect", arg(&model), "--json"]).json();
    for (number, layer) in report["layers"].as_array().unwrap().iter().enumerate() {
        assert_eq!(layer["number"], number);
        assert_eq!(
            (&layer["hidden_size"], &layer["intermediate_size"]),
            (&200.into(), &100.into())
        );
        assert_eq!(
            (&layer["tuples"]["5_1_8"], &layer["codebooks"]["mcg"]),
            (&6.into(), &18.into())
        );
        assert_eq!(
            (&layer["router"]["kind"], &layer["router"]["top_k"]),
            (&"softmax".into(), &2.into())
        );
    }
}

#[test]
fn synth_spares_a_directory_in_use() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("precious"), "text").unwrap();
    let flags = ["synth", "--shape", "128x128x2x1", "--output", arg(directory.path())];
    trellect(flags).fails(1, "not empty");
    assert_eq!(trellect(flags.into_iter().chain(["--force"])).code, 0);
    assert!(directory.path().join("precious").exists());
    let file = directory.path().join("precious");
    trellect(["synth", "--shape", "128x128x2x1", "--output", arg(&file)]).fails(1, "precious");
    trellect(["synth"]).fails(2, "--output");
}

#[test]
fn doctor_lists_kernels_and_knobs() {
    let report = trellect(["doctor", "--json", "--threads", "2"]).json();
    assert_eq!(report["threads"], 2);
    let kernels = report["kernels"].as_array().unwrap();
    let generic = |kernel: &&serde_json::Value| {
        kernel["kernel_name"] == "moe_trellis_swiglu_decode_6_2_3@cpu.generic"
    };
    assert_eq!(kernels.iter().find(generic).unwrap()["runnable"], true);
    for kernel in kernels {
        assert_ne!(kernel["runnable"].as_bool().unwrap(), kernel["why"].is_string(), "{kernel}");
    }
    assert_eq!(report["environment"][0]["name"], "TRELLECT_MAX_ISA");
    assert_eq!(report["backends"][1]["name"], "cuda");
    let state = report["backends"][1]["state"].as_str().unwrap();
    let gpu = trellect(["doctor", "--json", "--backend", "cuda"]).json();
    for kernel in gpu["kernels"].as_array().unwrap() {
        let why = kernel["why"].as_str().unwrap_or_default();
        assert!(state.contains("ready") || why.contains(state), "{state}: {kernel}");
    }
    let text = trellect(["doctor"]);
    assert!(text.code == 0 && text.stdout.contains("kernels can run"), "{text:?}");
}

#[test]
fn the_environment_caps_the_kernels() {
    let capped = |value| {
        let mut command = assert_cmd::Command::cargo_bin("trellect").unwrap();
        command.args(["doctor"]).env("TRELLECT_MAX_ISA", value).output().unwrap()
    };
    let generic = capped("generic");
    let text = String::from_utf8(generic.stdout).unwrap();
    assert!(
        generic.status.success() && text.contains("switched off by TRELLECT_MAX_ISA"),
        "{text}"
    );
    let unknown = capped("sse9");
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8(unknown.stderr).unwrap().contains("`sse9` is no instruction set"));
}
