//! `run` on synthetic layers and on checkpoints with a router.

use serde_json::Value;

use crate::{Outcome, arg, trellect};

/// A shape that runs in no time.
const TINY: &str = "256x128x8x2";

fn tiny(flags: &[&str]) -> Outcome {
    let fixed = ["run", "--shape", TINY, "--repeat", "3"];
    trellect(fixed.into_iter().chain(flags.iter().copied()))
}

#[test]
fn the_table_has_four_rows() {
    let outcome = tiny(&[]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.is_empty(), "{outcome:?}");
    let first_cells: Vec<&str> = outcome
        .stdout
        .lines()
        .filter(|line| line.contains("moe_trellis_swiglu") && line.ends_with("half"))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(first_cells, ["1", "4", "16", "64"]);
    assert!(!outcome.stdout.contains('\u{1b}'), "no colour codes in a pipe");
    assert!(outcome.stdout.contains("every error is within the limit"));
}

#[test]
fn the_json_has_its_fields() {
    let flags = ["--json", "--threads", "1", "--bits", "6,2,3", "--policy", "rules"];
    let report = tiny(&flags).json();
    assert!(report["learning"].is_null());
    assert_eq!(report["machine"]["threads"], 1);
    assert_eq!(report["machine"]["backend"], "cpu");
    assert_eq!(report["layer"]["tuples"]["6_2_3"], 8);
    assert_eq!(report["layer"]["codebooks"]["mul1"], 24);
    assert_eq!((&report["routing"], &report["top_k"]), (&"random".into(), &2.into()));
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    for row in rows {
        for field in [
            "latency_ms",
            "p10_ms",
            "p90_ms",
            "gb_per_s",
            "error",
            "error_limit",
            "memory_pressure",
            "active_experts",
            "activation_rate",
            "top_expert_share",
            "entropy_bits",
        ] {
            assert!(row[field].is_number(), "{field} of {row}");
        }
        assert_eq!((&row["numeric"], &row["launches"]), (&"half".into(), &3.into()));
        assert_eq!(row["within_limit"], true);
        let pairs = row["tokens"].as_u64().unwrap() * 2;
        assert_eq!(row["rows_per_tuple"]["6_2_3"], pairs);
    }
    let name =
        |row: &Value| row["kernel_name"].as_str().unwrap().split('@').next().map(String::from);
    assert_eq!(name(&rows[0]).unwrap(), "moe_trellis_swiglu_decode_6_2_3");
    assert_eq!(name(&rows[1]).unwrap(), "moe_trellis_swiglu_prefill4");
    assert_eq!(name(&rows[3]).unwrap(), "moe_trellis_swiglu_large_batch");
    assert_eq!(rows[0]["reason"], "heuristic");
}

#[test]
fn every_class_and_codebook_stays_within_its_limit() {
    for codebook in ["3inst", "mcg", "mul1"] {
        let flags = ["--numeric", "exact", "--codebook", codebook, "--tokens", "1,5", "--json"];
        for row in tiny(&flags).json()["rows"].as_array().unwrap() {
            assert_eq!(row["numeric"], "exact");
            assert!(row["error"].as_f64().unwrap() <= 1e-5, "{row}");
        }
    }
}

#[test]
fn the_class_asked_for_serves() {
    for class in ["exact", "half", "int8"] {
        let report = tiny(&["--numeric", class, "--tokens", "4", "--json"]).json();
        let row = &report["rows"][0];
        assert_eq!((&row["numeric"], &row["numeric_downgrade"]), (&class.into(), &false.into()));
    }
}

#[test]
fn a_named_kernel_serves_alone() {
    let row = tiny(&["--kernel", "moe_trellis_swiglu_grouped@cpu.generic", "--json"]).json();
    for row in row["rows"].as_array().unwrap() {
        assert_eq!(row["kernel_name"], "moe_trellis_swiglu_grouped@cpu.generic");
        assert_eq!(row["reason"], "requested");
    }
    let plain = tiny(&["--kernel", "moe_trellis_swiglu_fp32acc", "--tokens", "2", "--json"]).json();
    assert_eq!(plain["rows"][0]["numeric"], "exact");
}

#[test]
fn kernels_that_cannot_serve_are_refused() {
    let listed = "it has: moe_trellis_swiglu_decode_6_2_3, ";
    tiny(&["--kernel", "fast", "--bits", "6,2,3"]).fails(1, listed);
    let other = "moe_trellis_swiglu_decode_8_8_8";
    tiny(&["--kernel", other, "--bits", "6,2,3"]).fails(1, listed);
    let decode = tiny(&["--kernel", "moe_trellis_swiglu_decode"]);
    decode.fails(1, "4 tokens, computes 0 to 1");
}

#[test]
fn no_token_is_a_row_without_a_kernel() {
    let report = tiny(&["--tokens", "0", "--json"]).json();
    let row = &report["rows"][0];
    assert_eq!((&row["kernel_name"], &row["reason"]), (&Value::Null, &"no_tokens".into()));
    assert_eq!(row["latency_ms"], Value::Null);
    assert!(tiny(&["--tokens", "0"]).stdout.contains("no_tokens"));
}

#[test]
fn a_seed_makes_runs_repeatable() {
    let error = |seed| {
        tiny(&["--seed", seed, "--tokens", "3", "--json"]).json()["rows"][0]["error"].clone()
    };
    assert_eq!(error("5"), error("5"));
    assert_ne!(error("5"), error("6"));
}

#[test]
fn a_router_decides_where_there_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("model");
    let synth = ["synth", "--shape", TINY, "--layers", "2", "--output", arg(&model)];
    assert_eq!(trellect(synth.into_iter().chain(["--router"])).code, 0);
    let run = ["run", "--model", arg(&model), "--tokens", "1,8", "--repeat", "2", "--json"];
    let report = trellect(run).json();
    assert_eq!((&report["routing"], &report["layer"]["number"]), (&"router".into(), &0.into()));
    let rows_per_tuple = report["rows"][1]["rows_per_tuple"].as_object().unwrap();
    assert_eq!(rows_per_tuple.values().filter_map(Value::as_u64).sum::<u64>(), 16);
    let wider = trellect(run.into_iter().chain(["--top-k", "3", "--layer", "1"])).json();
    assert_eq!((&wider["routing"], &wider["layer"]["number"]), (&"router".into(), &1.into()));

    let plain = synth.into_iter().chain(["--force"]);
    assert_eq!(trellect(plain).code, 0);
    let outcome = trellect(run);
    assert_eq!(outcome.json()["routing"], "random");
    assert!(outcome.stderr.contains("no router for this layer: routing at random"), "{outcome:?}");
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for (flags, message) in [
        (vec!["--shape", "256x128x8"], "256x128x8x2"),
        (vec!["--shape", "256x128x8x9"], "top_k is 9"),
        (vec!["--bits", "6,2,9"], "no bit tuple"),
        (vec!["--codebook", "qtip"], "expected 3inst"),
        (vec!["--tokens", "1,x"], "expected a number of tokens"),
        (vec!["--tokens", "99999999999"], "expected a number of tokens"),
        (vec!["--numeric", "fp8"], "expected exact, half or int8"),
        (vec!["--threads", "0"], "expected 1 to 1024 threads"),
        (vec!["--repeat", "0"], "0 is not in 1.."),
        (vec!["--backend", "tpu"], "possible values: cpu"),
        (vec!["--model", "x", "--bits", "2,2,2"], "cannot be used with"),
        (vec!["--layer", "1"], "--model"),
        (vec!["--output", "y"], "--input"),
        (vec!["--frobnicate"], "--frobnicate"),
    ] {
        trellect(std::iter::once("run").chain(flags)).fails(2, message);
    }
}

#[test]
fn more_experts_per_token_than_experts_are_refused() {
    tiny(&["--top-k", "9"]).fails(1, "top_k is 9: expected 1 to the layer's 8 experts");
}

#[test]
fn without_a_command_the_default_layer_runs_in_little_memory() {
    let outcome = trellect([]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let text = &outcome.stdout;
    assert!(text.starts_with("synthetic glm-4.7-flash mixed: "), "{text}");
    assert!(text.contains("64 experts: 51 x 6_2_3, 10 x 6_3_4, 3 x 6_2_4"), "{text}");
    let megabytes = |label: &str| -> Option<f64> {
        text.split_once(label)?.1.split_once(" MB")?.0.parse().ok()
    };
    let prepared = megabytes("prepared as ").unwrap();
    assert!(prepared > 250.0, "{text}");
    if cfg!(target_os = "linux") {
        let limit = 1.25 * prepared + f64::from(200 << 20) / 1e6;
        assert!(megabytes("peak memory ").unwrap() <= limit, "limit {limit} MB: {text}");
    }
}

#[test]
#[cfg(unix)]
fn a_reader_that_goes_away_is_no_failure() {
    let binary = assert_cmd::cargo::cargo_bin("trellect");
    let mut child = std::process::Command::new(binary)
        .args(["doctor"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
