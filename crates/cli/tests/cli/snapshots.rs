//! What the commands print, text and JSON, as a whole: `snapshots/` holds it.
//!
//! Portable kernels alone, so that every machine has the same ones. What differs from run to run is a
//! `#`; what differs from machine to machine is left out. JSON that is made of measurements is reduced to
//! its names and types. After a change that is meant: `INSTA_UPDATE=always cargo test -p trellect-cli`,
//! and look at the difference.

use std::path::Path;

use assert_cmd::Command;
use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::Outcome;

/// An export of a history: two environments, with switches in one.
const HISTORY: &str = include_str!("../data/history.jsonl");

const TINY: [&str; 4] = ["--shape", "256x128x8x2", "--bits", "6,2,3"];

/// Runs the binary with portable kernels in a directory.
fn portable(directory: &Path, args: &[&str]) -> Outcome {
    let mut command = Command::cargo_bin("trellect").expect("the binary is built with its tests");
    command.env("TRELLECT_MAX_ISA", "generic").env("TRELLECT_HISTORY", "none.sqlite");
    let output = command.current_dir(directory).args(args).output().expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    let outcome = Outcome {
        code: output.status.code().expect("no signal ended it"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    };
    // Which side of a comparison is slower is up to the machine.
    assert!([0, 3].contains(&outcome.code), "{outcome:?}");
    outcome
}

/// Runs a command on the tiny layer.
fn tiny(directory: &Path, command: &str, flags: &[&str]) -> Outcome {
    let args = [command].into_iter().chain(TINY).chain(flags.iter().copied());
    portable(directory, &args.collect::<Vec<_>>())
}

fn history(directory: &Path) {
    std::fs::write(directory.join("export.jsonl"), HISTORY).unwrap();
    portable(directory, &["history", "import", "export.jsonl", "--history", "h.sqlite"]);
}

/// The text with every number as `#`, every run of blanks as one, and without this machine's name.
fn redact(text: &str) -> String {
    let doctor = portable(Path::new("."), &["doctor", "--json"]).object();
    let text = text.replace(doctor["device"].as_str().unwrap(), "DEVICE");
    text.lines().map(|line| redact_numbers(line) + "\n").collect()
}

/// Digits that are part of a name, as in `p10_ms`, stay.
fn redact_numbers(line: &str) -> String {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '@';
    let mut words = Vec::new();
    for word in line.split_whitespace() {
        let mut redacted = String::new();
        let mut rest = word;
        while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
            let (before, from) = rest.split_at(start);
            let mut end = from.find(|c| !is_number(c)).unwrap_or(from.len());
            if from[end..].starts_with("e-") {
                let exponent = &from[end + 2..];
                let digits = exponent.find(|c: char| !c.is_ascii_digit());
                end += 2 + digits.unwrap_or(exponent.len());
            }
            let of_name = before.ends_with(is_name) || from[end..].starts_with(['_', 'x']);
            redacted += before;
            redacted += if of_name { &from[..end] } else { "#" };
            rest = &from[end..];
        }
        words.push(redacted + rest);
    }
    words.join(" ")
}

/// The names and types of a JSON value; of an array its first element.
fn types(value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::Bool(_) => json!("bool"),
        Value::Number(_) => json!("number"),
        Value::String(_) => json!("string"),
        Value::Array(values) => values.iter().take(1).map(types).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), types(value))).collect())
        }
    }
}

fn types_of(outcome: &Outcome) -> String {
    serde_json::to_string_pretty(&types(&outcome.object())).unwrap()
}

#[test]
fn numbers_are_redacted_and_names_are_not() {
    let line = redact_numbers(
        "  1.5 p10 ms 6_2_3 prefill4@cpu.avx512 4.1e-4, (95 %: 0.9 to 1) 256x128x8x2",
    );
    assert_eq!(line, "# p10 ms 6_2_3 prefill4@cpu.avx512 #, (# %: # to #) 256x128x8x2");
}

#[test]
fn the_help_lists_the_commands() {
    assert_snapshot!(portable(Path::new("."), &["--help"]).stdout);
}

#[test]
fn ab() {
    let directory = tempfile::tempdir().unwrap();
    let commands = ["ab", "--cmd-a", "echo 2.5", "--cmd-b", "echo 1.5", "--iterations", "10"];
    assert_snapshot!("ab_text", portable(directory.path(), &commands).stdout);
    let json: Vec<&str> = commands.into_iter().chain(["--json"]).collect();
    assert_snapshot!("ab_commands_json", portable(directory.path(), &json).stdout);
    let kernel = "moe_trellis_swiglu";
    let flags = ["--baseline", kernel, "--env-a", "A=1", "--iterations", "5", "--cold-mib", "1"];
    let flags: Vec<&str> = flags.into_iter().chain(["--json"]).collect();
    assert_snapshot!("ab_kernels_json", types_of(&tiny(directory.path(), "ab", &flags)));
}

#[test]
fn bench() {
    let directory = tempfile::tempdir().unwrap();
    let flags = [
        "--tokens",
        "4",
        "--threads",
        "1",
        "--rounds",
        "3",
        "--cold-mib",
        "1",
        "--policy",
        "rules",
        "--kernels",
        "moe_trellis_swiglu_prefill4",
    ];
    let text = tiny(directory.path(), "bench", &flags).stdout;
    // Above it stands the machine.
    let (_, text) = text.split_once("\n\n").expect("the machine is a paragraph");
    assert_snapshot!("bench_text", redact(text));
    let json: Vec<&str> = flags.into_iter().chain(["--json"]).collect();
    let mut report = tiny(directory.path(), "bench", &json).object();
    report["machine"]["caches"] = json!([]);
    report["machine"]["huge_pages"] = Value::Null;
    assert_snapshot!("bench_json", serde_json::to_string_pretty(&types(&report)).unwrap());
}

#[test]
fn run() {
    let directory = tempfile::tempdir().unwrap();
    let rules = ["--tokens", "1,4", "--policy", "rules", "--repeat", "3"];
    assert_snapshot!("run_text", redact(&tiny(directory.path(), "run", &rules).stdout));
    let json: Vec<&str> = rules.into_iter().chain(["--json"]).collect();
    assert_snapshot!("run_json", types_of(&tiny(directory.path(), "run", &json)));
}

#[test]
fn select() {
    let directory = tempfile::tempdir().unwrap();
    let shape = [
        "--shape",
        "256x128x8x2",
        "--batch",
        "4",
        "--gate",
        "6",
        "--up",
        "2",
        "--down",
        "3",
        "--seed",
        "1",
    ];
    let flags: Vec<&str> = ["select"].into_iter().chain(shape).chain(["--explain"]).collect();
    assert_snapshot!("select_text", portable(directory.path(), &flags).stdout);
    let json: Vec<&str> = flags.into_iter().chain(["--json"]).collect();
    assert_snapshot!("select_json", portable(directory.path(), &json).stdout);
}

#[test]
fn inspect() {
    let directory = tempfile::tempdir().unwrap();
    assert_snapshot!(
        "synth_json",
        tiny(directory.path(), "synth", &["--output", "m", "--json"]).stdout
    );
    assert_snapshot!("inspect_text", portable(directory.path(), &["inspect", "m"]).stdout);
    assert_snapshot!(
        "inspect_json",
        portable(directory.path(), &["inspect", "m", "--json"]).stdout
    );
}

#[test]
fn stats() {
    let directory = tempfile::tempdir().unwrap();
    history(directory.path());
    let stats = |flags: &[&'static str]| {
        let fixed = ["stats", "--history", "h.sqlite"];
        portable(
            directory.path(),
            &fixed.into_iter().chain(flags.iter().copied()).collect::<Vec<_>>(),
        )
        .stdout
    };
    assert_snapshot!("stats_text", stats(&[]));
    assert_snapshot!("stats_json", stats(&["--json"]));
    assert_snapshot!("stats_watch", stats(&["--watch", "1", "--times", "2"]));
    let mut lines: Vec<String> = stats(&["--prometheus"]).lines().map(str::to_owned).collect();
    lines.sort();
    assert_snapshot!("stats_prometheus", lines.join("\n"));
}

#[test]
fn tune_and_replay() {
    let directory = tempfile::tempdir().unwrap();
    let flags =
        ["--tokens", "1", "--rounds", "3", "--cold-mib", "1", "--history", "t.sqlite", "--json"];
    assert_snapshot!("tune_json", types_of(&tiny(directory.path(), "tune", &flags)));
    let replay =
        ["replay", "--simulated", "--calls", "500", "--seeds", "1", "--policy", "rules", "--json"];
    assert_snapshot!("replay_json", types_of(&portable(directory.path(), &replay)));
    let doctor = portable(directory.path(), &["doctor", "--json"]);
    assert_snapshot!("doctor_json", types_of(&doctor));
}
