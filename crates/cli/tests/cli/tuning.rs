//! `tune`, `replay` and `history`: measuring, judging, and keeping what was measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Outcome, arg, trellect};

const SHAPE: [&str; 4] = ["--shape", "256x128x8x2", "--cold-mib", "1"];

/// The recording of this repository.
fn recording() -> PathBuf {
    let record = "../../bench-record/cpu-2core-xeon/glm-4.7-flash-mixed.json";
    Path::new(env!("CARGO_MANIFEST_DIR")).join(record)
}

fn tune(directory: &Path, more: &[&str]) -> Outcome {
    let history = directory.join("h.sqlite");
    let args = ["tune", "--tokens", "1,5", "--history", arg(&history)];
    trellect(args.into_iter().chain(SHAPE).chain(more.iter().copied()))
}

fn exported(directory: &Path) -> Vec<Value> {
    let history = directory.join("h.sqlite");
    let export = trellect(["history", "export", "--history", arg(&history)]);
    assert_eq!(export.code, 0, "{export:?}");
    let lines = export.stdout.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().expect("every line is JSON")
}

fn latencies(lines: &[Value]) -> u64 {
    lines.iter().filter_map(|line| line["count"].as_u64()).sum()
}

#[test]
fn a_sweep_goes_into_the_history_and_the_matrix_can_be_replayed() {
    let directory = tempfile::tempdir().unwrap();
    let matrix = directory.path().join("matrix.json");
    let sweep = ["--rounds", "4", "--record", arg(&matrix), "--note", "a test", "--json"];
    let report = tune(directory.path(), &sweep).json();
    let contexts = report["contexts"].as_array().unwrap();
    assert_eq!(contexts.len(), 3);
    for context in contexts {
        assert_eq!(context["rounds"], 4);
        let kernels = context["kernels"].as_array().unwrap();
        assert_eq!(kernels[0]["ratio"], 1.0);
        assert!(kernels.len() > 3 && kernels[1]["ratio"].as_f64().unwrap() >= 1.0);
    }
    let lines = exported(directory.path());
    assert_eq!(latencies(&lines), report["latencies"].as_u64().unwrap());
    assert_eq!(lines[0]["type"], "environment");
    assert_eq!(lines[0]["id"], report["environment"]);

    let svg = directory.path().join("plot.svg");
    let trace = directory.path().join("trace");
    fs::write(&trace, "# decode and a prompt\n1 uniform 30\n5 uniform 2\n1 one_tuple\n").unwrap();
    let args = ["replay", arg(&matrix), "--trace", arg(&trace), "--seeds", "2", "--json"];
    let replay = trellect(args.into_iter().chain(["--svg", arg(&svg)])).json();
    let policies = replay["worlds"][0]["policies"].as_array().unwrap();
    assert_eq!(policies.len(), 12);
    let help = trellect(["replay", "--help"]).stdout;
    for policy in policies {
        assert!(help.contains(policy["policy"].as_str().unwrap()), "{policy}");
    }
    let regret = |name: &str| {
        let policy = policies.iter().find(|policy| policy["policy"] == name).unwrap();
        policy["regret"]["mean"].as_f64().unwrap()
    };
    assert_eq!(regret("oracle"), 0.0);
    assert!(regret("first-call") > 0.0);
    assert!(fs::read_to_string(&svg).unwrap().starts_with("<svg"));

    let text = tune(directory.path(), &["--rounds", "1"]);
    assert_eq!(text.code, 0, "{text:?}");
    assert!(text.stdout.contains("latencies are in"), "{text:?}");
    assert!(latencies(&exported(directory.path())) > latencies(&lines));
}

#[test]
fn a_sweep_ends_with_its_budget() {
    let directory = tempfile::tempdir().unwrap();
    let report = tune(directory.path(), &["--budget", "1", "--rounds", "10000", "--json"]).json();
    let rounds = report["contexts"][0]["rounds"].as_u64().unwrap();
    assert!((1..10_000).contains(&rounds), "{report}");
    assert_eq!(report["interrupted"], false);
    assert_eq!(latencies(&exported(directory.path())), report["latencies"].as_u64().unwrap());
}

/// Starts an endless sweep and waits until it has kept something.
#[cfg(unix)]
fn endless(directory: &Path) -> std::process::Child {
    let history = directory.join("h.sqlite");
    let child = Command::new(env!("CARGO_BIN_EXE_trellect"))
        .args(["tune", "--tokens", "1", "--rounds", "10000", "--json", "--history", arg(&history)])
        .args(SHAPE)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !history.exists() || latencies(&exported(directory)) == 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing was kept for a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

#[cfg(unix)]
#[test]
fn a_sweep_that_is_killed_loses_nothing_that_was_recorded() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = endless(directory.path());
    let before = latencies(&exported(directory.path()));
    child.kill().unwrap();
    child.wait().unwrap();
    let after = latencies(&exported(directory.path()));
    assert!(after >= before && before > 0, "{before} {after}");
    assert_eq!(tune(directory.path(), &["--rounds", "1"]).code, 0);
}

#[cfg(unix)]
#[test]
fn an_interrupted_sweep_keeps_and_reports_what_was_measured() {
    let directory = tempfile::tempdir().unwrap();
    let child = endless(directory.path());
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["interrupted"], true);
    assert_eq!(latencies(&exported(directory.path())), report["latencies"].as_u64().unwrap());
}

#[test]
fn histories_travel_as_json_lines_and_are_pruned() {
    let directory = tempfile::tempdir().unwrap();
    let report = tune(directory.path(), &["--rounds", "1", "--json"]).json();
    let (history, file) = (directory.path().join("h.sqlite"), directory.path().join("h.jsonl"));
    let at = ["--history", arg(&history)];
    let history_command = |args: &[&str]| trellect(["history"].iter().chain(args).copied());
    let export =
        history_command(&["export", at[0], at[1], "--output", arg(&file), "--json"]).json();
    let records = export["records"].as_u64().unwrap();
    assert!(records > 0);

    let other = directory.path().join("other.sqlite");
    let import =
        history_command(&["import", "--history", arg(&other), arg(&file), "--json"]).json();
    assert_eq!((&import["records"], &import["records_left"]), (&records.into(), &records.into()));
    let prune = history_command(&["prune", at[0], at[1], "--older-than", "1", "--json"]).json();
    assert_eq!((&prune["records"], &prune["records_left"]), (&0.into(), &records.into()));
    let id = report["environment"].as_str().unwrap();
    let prune = history_command(&["prune", at[0], at[1], "--environment", id, "--json"]).json();
    assert_eq!((&prune["records_left"], &prune["environments_left"]), (&0.into(), &0.into()));

    let sound = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{{\"type\": \"record\"}}\n{sound}")).unwrap();
    let damaged = history_command(&["import", at[0], at[1], arg(&file), "--json"]);
    damaged.fails(1, &format!("{}: line 1: missing field", arg(&file)));
    damaged.fails(1, "1 damaged line left out");
    let import = damaged.object();
    assert_eq!((&import["damaged"], &import["records_left"]), (&1.into(), &records.into()));
    history_command(&["import", at[0], at[1], "absent.jsonl"]).fails(1, "absent.jsonl");
    let absent = directory.path().join("absent.sqlite");
    history_command(&["export", "--history", arg(&absent)]).fails(1, "no history");
    history_command(&["prune", "--history", arg(&absent), "--older-than", "1"])
        .fails(1, "no history");
    assert!(!absent.exists());
    history_command(&["prune", at[0], at[1]]).fails(2, "--older-than");
    history_command(&["export", at[0], at[1], "--json"]).fails(2, "--output");
    history_command(&["shrink"]).fails(2, "shrink");
}

#[test]
fn a_history_that_is_none_is_set_aside_or_refused() {
    let directory = tempfile::tempdir().unwrap();
    let history = directory.path().join("h.sqlite");
    fs::write(&history, "no database").unwrap();
    let outcome = tune(directory.path(), &["--rounds", "1"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.contains("damaged"), "{outcome:?}");
    // A directory can be no history.
    let args = ["tune", "--history", arg(directory.path())];
    trellect(args.into_iter().chain(SHAPE)).fails(1, "opening");
}

#[test]
fn wrong_flags_and_files_of_a_replay_are_named() {
    let recording = recording();
    trellect(["replay"]).fails(2, "FILE");
    trellect(["replay", arg(&recording), "--simulated"]).fails(2, "--simulated");
    trellect(["replay", arg(&recording), "--policy", "magic"]).fails(2, "thompson-fast");
    trellect(["replay", arg(&recording), "--calls", "0"]).fails(2, "--calls");
    trellect(["replay", "absent.json"]).fails(1, "absent.json");
    trellect(["replay", file!()]).fails(1, file!());
    trellect(["replay", arg(&recording), "--trace", "absent.txt"]).fails(1, "absent.txt");
    trellect(["tune", "--tokens", "0"]).fails(2, "at least one token");
    trellect(["tune", "--budget", "0"]).fails(2, "--budget");
}

#[test]
fn simulated_worlds_need_no_file() {
    let args =
        ["replay", "--simulated", "--calls", "500", "--seeds", "2", "--policy", "oracle,rules"];
    let text = trellect(args);
    assert_eq!(text.code, 0, "{text:?}");
    assert_eq!(text.stdout.matches("| oracle | 0.00").count(), 8, "{text:?}");
    let report = trellect(args.into_iter().chain(["--json"])).json();
    let worlds = report["worlds"].as_array().unwrap();
    assert_eq!(worlds.len(), 8);
    assert_eq!(worlds[0]["noise_floor"], Value::Null);
    // What does not apply is null.
    assert_eq!(worlds[0]["policies"][0]["exploration"]["mean"], Value::Null);
}
