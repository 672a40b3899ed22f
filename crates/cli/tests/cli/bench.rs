//! `bench`: what it measures, says and keeps, and its exit codes.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Outcome, arg, trellect};

fn bench(more: &[&str]) -> Outcome {
    let args = ["bench", "--shape", "256x128x8x2", "--cold-mib", "1"];
    let rounds = if more.contains(&"--rounds") { [].as_slice() } else { &["--rounds", "3"] };
    trellect(args.iter().chain(rounds).chain(more).copied())
}

fn cells(run: &Value) -> &Vec<Value> {
    run["cells"].as_array().expect("a run has cells")
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn every_workload_has_its_kernels_with_error_and_pick() {
    let folder = tempfile::tempdir().unwrap();
    let (output, markdown) = (folder.path().join("b.json"), folder.path().join("b.md"));
    let args =
        ["--bits", "6,2,3", "mixed", "6_2_3", "--tokens", "1,5,1", "--threads", "1,2", "--numeric"];
    let files = ["exact,half", "--json", "--output", arg(&output), "--markdown", arg(&markdown)];
    let report = bench(&[&args[..], &files[..]].concat()).json();
    assert_eq!((&report["format"], &report["version"]), (&json!("trellect-bench"), &json!(1)));
    let machine = &report["machine"];
    assert_eq!(machine["backend"], "cpu");
    assert_eq!(machine["ceilings"].as_array().unwrap().len(), 2);
    assert!(machine["ceilings"][1]["read_gb_per_s"].as_f64().unwrap() > 0.0);
    assert!(machine["memory_bytes"].as_u64().unwrap() > 0);

    // 2 mixes of widths, 2 token counts, 2 thread counts, 2 classes.
    let picks = report["picks"].as_array().unwrap();
    assert_eq!(picks.len(), 16);
    assert!(picks.iter().all(|pick| pick["regret"].as_f64().unwrap() >= 1.0));
    let bests = cells(&report).iter().filter(|cell| cell["best"] == true);
    assert_eq!(bests.count(), 16);
    for cell in cells(&report) {
        let number = |name: &str| cell[name].as_f64().unwrap();
        assert!(number("low_ms") <= number("median_ms"), "{cell}");
        assert!(number("median_ms") <= number("high_ms"), "{cell}");
        assert!(number("gb_per_s") > 0.0 && number("gflop_per_s") > 0.0, "{cell}");
        let limit = if cell["numeric"] == "exact" { 1e-5 } else { 2e-3 };
        assert!(number("error") > 0.0 && number("error") <= limit, "{cell}");
        let samples = cell["samples_ms"].as_array().unwrap().len();
        assert!(if cell["dropped"] == true { samples == 1 } else { samples >= 3 }, "{cell}");
        let fp32 = cell["kernel"].as_str().unwrap().contains("fp32acc");
        assert_eq!(fp32, cell["numeric"] == "exact", "{cell}");
    }
    assert!(report["uniform"].as_array().unwrap().len() == 4);
    assert_eq!(cells(&read(&output)), cells(&report));
    let markdown = fs::read_to_string(&markdown).unwrap();
    assert!(markdown.contains("| 256x128x8x2 mixed | "), "{markdown}");
    assert!(markdown.contains("## Class exact, threads: 2"), "{markdown}");
}

#[test]
fn kernels_are_filtered_by_name_and_near_ones_suggested() {
    let report = bench(&["--tokens", "1", "--kernels", "moe_trellis_swiglu", "--every", "--json"]);
    let report = report.json();
    let plain = |cell: &Value| {
        cell["kernel"].as_str().unwrap().split('@').next() == Some("moe_trellis_swiglu")
    };
    assert!(!cells(&report).is_empty() && cells(&report).iter().all(plain));
    assert!(report["left_out"].as_array().unwrap().is_empty());
    let unknown = bench(&["--kernels", "moe_trellis_swiglu_prefil4"]);
    unknown.fails(2, "near: moe_trellis_swiglu_prefill4");
    bench(&["--kernels", "moe_trellis_swiglu_decode_7_7_7"]).fails(2, "near: ");
}

#[test]
fn what_cannot_be_measured_is_said() {
    let decode = ["--tokens", "4", "--kernels", "moe_trellis_swiglu_decode"];
    bench(&decode).fails(1, "no kernel is legal");
    bench(&["--rounds", "0"]).fails(2, "1..=10000");
    bench(&["--tokens", "0"]).fails(2, "at least one token");
    bench(&["--numeric", "int4"]).fails(2, "int4");
    bench(&["--warm"]).fails(2, "--cold-mib");
    bench(&["--assert-regret", "0.9"]).fails(2, "at least 1");
    bench(&["--compare", "/nonexistent/b.json"]).fails(1, "/nonexistent/b.json");
    bench(&["--peers", "/nonexistent/p.json"]).fails(1, "/nonexistent/p.json");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.json");
    fs::write(&path, "{\"format\": \"trellect-matrix\"}").unwrap();
    bench(&["--compare", arg(&path)]).fails(1, "not written by `trellect bench`");
    fs::write(&path, "no JSON").unwrap();
    bench(&["--compare", arg(&path)]).fails(1, "other.json");
    let nowhere = folder.path().join("none").join("b.json");
    bench(&["--tokens", "1", "--output", arg(&nowhere)]).fails(1, "writing");
}

#[test]
fn a_slower_kernel_and_a_bad_pick_are_regressions() {
    let folder = tempfile::tempdir().unwrap();
    let (old, fast) = (folder.path().join("old.json"), folder.path().join("fast.json"));
    let one = ["--tokens", "1", "--rounds", "20", "--policy", "rules"];
    let first = bench(&[&one[..], &["--output", arg(&old)]].concat());
    assert_eq!(first.code, 0, "{first:?}");
    assert!(first.stdout.contains("one kernel for all"), "{first:?}");
    // The same run as if it had taken a hundredth of the time.
    let mut run = read(&old);
    for cell in run["cells"].as_array_mut().unwrap() {
        for time in ["median_ms", "low_ms", "high_ms", "p10_ms", "p90_ms"] {
            cell[time] = json!(cell[time].as_f64().unwrap() / 100.0);
        }
        for sample in cell["samples_ms"].as_array_mut().unwrap() {
            *sample = json!(sample.as_f64().unwrap() / 100.0);
        }
    }
    fs::write(&fast, run.to_string()).unwrap();
    let slower = bench(&[&one[..], &["--compare", arg(&fast)]].concat());
    slower.fails(3, "slower than before");
    assert!(slower.stdout.contains("SLOWER"), "{slower:?}");

    // The pick is the portable kernel, the only one of its name but the rules' choice.
    let kernels = "moe_trellis_swiglu_decode@cpu.generic,moe_trellis_swiglu_prefill4";
    let bad = ["--kernels", kernels, "--assert-regret", "1.05"];
    let bad = bench(&[&one[..], &bad[..]].concat());
    // Only where there is a faster kernel than the portable ones.
    let kinds = trellect(["doctor"]).stdout;
    match kinds.contains("avx") {
        true => bad.fails(3, "times"),
        false => assert!(matches!(bad.code, 0 | 3), "{bad:?}"),
    }
}

#[test]
fn peers_have_ratios() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("peers.json");
    let row = json!({"engine": "another engine", "shape": "256x128x8x2", "bits": "any",
        "threads": 1, "ms": {"1": 5.0}});
    let peers = json!({"format": "trellect-peers", "source": "a test", "machine": "none",
        "rows": [row]});
    fs::write(&path, peers.to_string()).unwrap();
    let run = bench(&["--tokens", "1", "--threads", "1", "--peers", arg(&path)]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stdout.contains("another engine 5 ms"), "{run:?}");
    fs::write(&path, peers.to_string().replace("5.0", "-5.0")).unwrap();
    bench(&["--peers", arg(&path)]).fails(1, "not positive");
    fs::write(&path, "{}").unwrap();
    bench(&["--peers", arg(&path)]).fails(1, "peers.json");
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_keeps_and_reports_what_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("b.json");
    let child = Command::new(env!("CARGO_BIN_EXE_trellect"))
        .args(["bench", "--shape", "256x128x8x2,128x128x8x2", "--cold-mib", "1", "--tokens", "1"])
        .args(["--rounds", "10000", "--budget", "20", "--json", "--output", arg(&output)])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The first shape is written while the second is being measured.
    let start = Instant::now();
    while !output.exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing was kept for a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(report["interrupted"], true);
    assert!(cells(&report).iter().any(|cell| cell["shape"] == "256x128x8x2"));
    assert_eq!(cells(&read(&output)), cells(&report));
}
