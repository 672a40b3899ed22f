//! `report`: pages and charts from files, and what becomes of bad ones.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Outcome, arg, trellect, trellect_in};

fn records() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench-record")
}

fn record(name: &str) -> String {
    records().join(name).to_str().unwrap().to_owned()
}

fn report(directory: &Path, args: &[&str]) -> Outcome {
    trellect_in(directory, ["report"].iter().chain(args).copied())
}

/// The names of files in a directory.
fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn files_of_every_kind_make_one_page() {
    let directory = tempfile::tempdir().unwrap();
    let names =
        ["bench.json", "decisions.jsonl", "history.jsonl", "ab-decode.json", "ab-large.json"];
    let inputs: Vec<String> = names.iter().map(|name| record(&format!("report/{name}"))).collect();
    let matrix = record("h100/qwen3-30b-a3b-4-4-4.json");
    let mut args: Vec<&str> = inputs.iter().map(String::as_str).collect();
    args.extend([matrix.as_str(), "--output", "page.html", "--svg", "charts", "--json"]);
    let json = report(directory.path(), &args).json();
    assert_eq!(json["output"], "page.html");
    let counts = ["benches", "matrices", "logs", "histories", "comparisons"];
    assert_eq!(counts.map(|field| json[field].as_u64().unwrap()), [1, 1, 1, 1, 2]);
    let page = fs::read_to_string(directory.path().join("page.html")).unwrap();
    assert_eq!(json["bytes"].as_u64(), Some(page.len() as u64));
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    assert!(page.contains("h100/qwen3-30b-a3b-4-4-4.json"));
    assert_eq!(files(directory.path()), ["charts", "page.html"]);
    let charts = files(&directory.path().join("charts"));
    assert_eq!(json["charts"].as_array().unwrap().len(), charts.len());
    assert!(charts.iter().any(|name| name == "winners-glm-4-7-flash-2-half.svg"), "{charts:?}");
}

#[test]
fn the_history_is_part_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let run = ["run", "--shape", "256x128x8x2", "--tokens", "4", "--repeat", "5"];
    let run = run.into_iter().chain(["--threads", "1", "--history", "h.sqlite"]);
    assert_eq!(trellect_in(directory.path(), run).code, 0);
    let made = report(directory.path(), &["--history", "h.sqlite"]);
    assert_eq!(made.code, 0, "{made:?}");
    assert!(made.stdout.starts_with("report.html: 1 history, "), "{made:?}");
    let page = fs::read_to_string(directory.path().join("report.html")).unwrap();
    assert!(page.contains("who served") && page.contains("Not in this report"));
    report(directory.path(), &["--history", "h.sqlite", "h.sqlite"])
        .fails(1, "h.sqlite: a history is named with --history");
}

#[test]
fn without_anything_it_says_so() {
    let directory = tempfile::tempdir().unwrap();
    report(directory.path(), &[]).fails(1, "nothing to report");
    report(directory.path(), &["--history", "none"]).fails(1, "nothing to report");
    report(directory.path(), &["--history", "none.sqlite"]).fails(1, "none.sqlite: no history");
    assert_eq!(files(directory.path()), [""; 0]);
}

#[test]
fn foreign_and_damaged_files_are_named_and_write_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let log = fs::read_to_string(records().join("report/decisions.jsonl")).unwrap();
    let history = fs::read_to_string(records().join("report/history.jsonl")).unwrap();
    let bench = fs::read_to_string(records().join("report/bench.json")).unwrap();
    let half = |text: &str| text[..text.len() / 2].to_owned();
    let expected = "expected what `bench --output`";
    let cases: [(&str, String, &str); 12] = [
        ("empty.json", String::new(), expected),
        ("text.md", "# A page\n".into(), "no JSON: expected what"),
        ("other.json", r#"{"rows": []}"#.into(), "JSON of something else: expected what"),
        ("list.json", "[1, 2]".into(), "JSON of something else"),
        ("number.json", "7".into(), "JSON of something else"),
        ("peers.json", r#"{"format": "trellect-peers"}"#.into(), "its `format` is trellect-peers"),
        ("cut.json", half(&bench), "no JSON"),
        ("version.json", r#"{"format": "trellect-bench", "version": 9}"#.into(), "`version` is 9"),
        ("fields.json", r#"{"format": "trellect-matrix", "version": 1}"#.into(), "missing field"),
        ("cut.jsonl", half(&log), "line "),
        ("half.jsonl", half(&history), "1 damaged line; first, line "),
        (
            "ab.json",
            r#"{"baseline": "a", "optimized": "b", "n": 1, "baseline_ms": 1, "optimized_ms": 1,
          "speedup": 0, "speedup_ci": [1, 1], "verdict": "faster"}"#
                .into(),
            "speedup: found 0",
        ),
    ];
    for (name, content, message) in &cases {
        fs::write(directory.path().join(name), content).unwrap();
        let good = record("report/ab-base.json");
        let outcome = report(directory.path(), &[&good, name]);
        outcome.fails(1, message);
        outcome.fails(1, &format!("reading {name}: "));
    }
    let binary = directory.path().join("binary");
    fs::write(&binary, [0, 159, 146, 150]).unwrap();
    report(directory.path(), &["binary"]).fails(1, "reading binary: ");
    report(directory.path(), &["gone.json"]).fails(1, "reading gone.json: No such file");
    report(directory.path(), &["."]).fails(1, "reading .: ");
    assert!(
        !files(directory.path())
            .iter()
            .any(|name| name.contains("report") || name.starts_with('.'))
    );
}

#[test]
fn no_input_is_overwritten_and_no_page_is_half_written() {
    let directory = tempfile::tempdir().unwrap();
    let ab = fs::read_to_string(records().join("report/ab-base.json")).unwrap();
    let input = directory.path().join("ab.json");
    fs::write(&input, &ab).unwrap();
    report(directory.path(), &["ab.json", "--output", arg(&input)])
        .fails(1, "would be overwritten");
    assert_eq!(fs::read_to_string(&input).unwrap(), ab);
    report(directory.path(), &["ab.json", "--output", "gone/page.html"])
        .fails(1, "writing gone/page.html");
    report(directory.path(), &["ab.json", "--svg", "ab.json"]).fails(1, "creating ab.json");
    trellect(["report", "--frob"]).fails(2, "--frob");
}
