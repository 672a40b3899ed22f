//! Learning across runs: `run --history`, `stats` and `select --policy adaptive`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Outcome, arg, trellect};

const TINY: &str = "256x128x8x2";

fn file() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.sqlite");
    (directory, path)
}

fn run(path: &Path, flags: &[&str]) -> Outcome {
    let fixed = ["run", "--shape", TINY, "--bits", "6,2,3", "--history", arg(path)];
    trellect(fixed.into_iter().chain(flags.iter().copied()))
}

fn stats(path: &Path) -> Value {
    trellect(["stats", "--history", arg(path), "--json"]).json()
}

/// Calls of all environments.
fn calls(stats: &Value) -> u64 {
    let environments = stats["environments"].as_array().unwrap();
    environments.iter().map(|environment| environment["calls"].as_u64().unwrap()).sum()
}

#[test]
fn runs_add_up_in_the_history_and_the_later_one_starts_warm() {
    let (_directory, path) = file();
    let first = run(&path, &["--tokens", "1,4", "--repeat", "20", "--json"]).json();
    let learning = &first["learning"];
    assert_eq!((&learning["mode"], &learning["calls"]), (&"learn".into(), &42.into()));
    assert_eq!(learning["history"]["path"], arg(&path));
    assert_eq!(learning["history"]["error"], Value::Null);
    assert!(learning["contexts"].as_u64().unwrap() >= 2);
    let row = &first["rows"][0];
    assert!(row["first_kernel"].is_string() && row["last_kernel"].is_string());
    assert_eq!(calls(&stats(&path)), 42);

    let frozen =
        run(&path, &["--tokens", "1", "--repeat", "5", "--mode", "frozen", "--json"]).json();
    assert_eq!(frozen["rows"][0]["reason"], "incumbent", "{frozen}");
    assert_eq!(frozen["learning"]["probes"], 0);
    let report = stats(&path);
    assert_eq!(calls(&report), 48);
    let environment = &report["environments"][0];
    assert_eq!(environment["numeric"], "half");
    let selections = environment["selections"].as_array().unwrap();
    assert!(selections.iter().all(|s| s["bucket"] == "decode" || s["bucket"] == "prefill4"));
    let context = &environment["contexts"][0];
    assert!(context["call"].as_str().unwrap().contains("of 8 experts"), "{context}");
    let kernel = &context["kernels"][0];
    assert!(kernel["p50_ms"].as_f64().unwrap() <= kernel["p95_ms"].as_f64().unwrap());
    for share in ["regret", "exploration"] {
        assert!((0.0..=1.0).contains(&environment[share].as_f64().unwrap()));
    }

    let text = trellect(["stats", "--history", arg(&path)]);
    assert!(text.stdout.contains("serves") && text.stdout.contains("incumbent"), "{text:?}");
}

#[test]
fn a_logged_run_is_replayed_launch_by_launch() {
    let (directory, path) = file();
    let log = directory.path().join("decisions.jsonl");
    let flags = ["--tokens", "1,4,20", "--repeat", "60", "--log", arg(&log), "--json"];
    let logged = run(&path, &flags).json();
    assert!(logged["learning"]["probes"].as_u64().unwrap() > 0, "{logged}");
    assert_eq!(logged["learning"]["replay"], Value::Null);
    let replay = |more: &[&str]| {
        let fixed = ["--mode", "replay", "--log", arg(&log), "--history", "none", "--json"];
        trellect(
            ["run", "--shape", TINY, "--bits", "6,2,3"].iter().chain(&fixed).chain(more).copied(),
        )
    };
    let replayed = replay(&["--tokens", "1,4,20", "--repeat", "60"]).json();
    let fit = &replayed["learning"]["replay"];
    assert_eq!((&fit["served"], &fit["mismatched"]), (&183.into(), &0.into()), "{fit}");
    assert_eq!(replayed["learning"]["probes"], logged["learning"]["probes"]);
    // How many launches each kernel served, the untimed first ones aside.
    let served = |report: &Value| {
        let rows = report["rows"].as_array().unwrap().iter();
        let of_row = |row: &Value| {
            let others = row["other_kernels"].as_array().unwrap().iter();
            let mut all: Vec<(String, u64)> = std::iter::once(row)
                .chain(others)
                .map(|k| {
                    (k["kernel_name"].as_str().unwrap().into(), k["launches"].as_u64().unwrap())
                })
                .collect();
            all.sort();
            all
        };
        rows.map(of_row).collect::<Vec<_>>()
    };
    assert_eq!(served(&replayed), served(&logged));

    let other = replay(&["--tokens", "64", "--repeat", "3"]);
    other.fails(1, "4 of 4 launches do not fit the log; first: decision 0 was made for context");
    assert_eq!(other.object()["rows"][0]["reason"], "fallback");
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, &text[..text.len() / 2]).unwrap();
    replay(&["--tokens", "1"]).fails(1, "decisions.jsonl");
    fs::write(&log, "{}").unwrap();
    replay(&["--tokens", "1"]).fails(1, "line 1: missing field `type`");
    fs::remove_file(&log).unwrap();
    replay(&["--tokens", "1"]).fails(1, "opening");
}

#[test]
fn prometheus_text_has_every_metric() {
    let (_directory, path) = file();
    run(&path, &["--tokens", "4", "--repeat", "10"]);
    let text = trellect(["stats", "--history", arg(&path), "--prometheus"]).stdout;
    for (name, kind) in [
        ("trellect_selections_total", "counter"),
        ("trellect_device_nanoseconds_total", "counter"),
        ("trellect_lost_nanoseconds_total", "counter"),
        ("trellect_latency_quantile_seconds", "gauge"),
        ("trellect_regret_ratio", "gauge"),
    ] {
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}: {text}");
    }
    let is_count = |line: &&str| line.starts_with("trellect_selections_total{");
    let count = |line: &str| line.rsplit(' ').next()?.parse::<u64>().ok();
    let counted: u64 = text.lines().filter(is_count).filter_map(count).sum();
    assert_eq!(counted, 11);
}

/// What a run has written is there, whatever becomes of it.
#[cfg(unix)]
#[test]
fn a_killed_run_loses_nothing_it_had_written() {
    let (_directory, path) = file();
    run(&path, &["--tokens", "4", "--repeat", "20"]);
    let before = calls(&stats(&path));
    assert_eq!(before, 21);
    let endless = ["run", "--shape", TINY, "--bits", "6,2,3", "--tokens", "4", "--repeat"];
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("trellect"))
        .args(endless)
        .args(["100000000", "--history", arg(&path)])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It writes every two seconds.
    let written = (0..600).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let now = calls(&stats(&path));
        (now > before).then_some(now)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let written = written.expect("it writes while it runs");
    assert!(calls(&stats(&path)) >= written);
}

#[test]
fn select_goes_by_the_history() {
    let (_directory, path) = file();
    let flags = |history| {
        [
            "select",
            "--policy",
            "adaptive",
            "--shape",
            TINY,
            "--batch",
            "1",
            "--gate",
            "6",
            "--up",
            "2",
            "--down",
            "3",
            "--history",
            history,
            "--explain",
            "--json",
        ]
    };
    let unknown = trellect(flags(arg(&path))).json();
    assert_eq!(unknown["reason"], "default");
    assert_eq!(unknown["kernel_name"], unknown["default_kernel"]);
    assert!(!path.exists(), "selecting begins no history");
    run(&path, &["--tokens", "1", "--repeat", "20"]);
    let known = trellect(flags(arg(&path))).json();
    assert_eq!(known["reason"], "incumbent");
    let considered = known["considered"].as_array().unwrap();
    let serving = considered.iter().find(|arm| arm["verdict"] == "serves").unwrap();
    assert_eq!(serving["kernel_name"], known["kernel_name"]);
    assert!(considered.iter().any(|arm| arm["samples"].as_f64().unwrap() > 0.0), "{known}");
    assert!(considered.iter().all(|arm| arm["estimate_ms"].as_f64().unwrap() > 0.0));
    let text = trellect(flags("none").into_iter().filter(|flag| *flag != "--json"));
    assert!(text.stdout.contains("estimate ms"), "{text:?}");
}

#[test]
fn a_damaged_history_is_set_aside_and_the_run_goes_on() {
    let (directory, path) = file();
    std::fs::write(&path, "no database at all, but long enough to look at").unwrap();
    let report = run(&path, &["--tokens", "1", "--repeat", "3", "--json"]).json();
    let state = report["learning"]["history"]["state"].as_str().unwrap();
    assert!(state.contains("damaged"), "{state}");
    assert_eq!(calls(&stats(&path)), 4);
    assert!(std::fs::read_dir(directory.path()).unwrap().count() >= 2);
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let (_directory, path) = file();
    run(&path, &["--exploration", "0.1"]).fails(2, "--policy rules");
    run(&path, &["--mode", "replay"]).fails(2, "--log FILE");
    run(&path, &["--policy", "rules", "--log", "x"]).fails(2, "--policy adaptive");
    run(&path, &["--kernel", "moe_trellis_swiglu", "--log", "x"]).fails(2, "cannot be used with");
    run(&path, &["--mode", "dream"]).fails(2, "possible values: learn, frozen, replay, off");
    trellect(["select", "--policy", "adaptive", "--batch", "1"]).fails(2, "--gate");
    trellect(["stats", "--json", "--prometheus"]).fails(2, "cannot be used with");
    trellect(["stats", "--history", arg(&path)]).fails(1, "no history");
}
