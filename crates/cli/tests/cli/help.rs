//! The help texts: every example in them runs.

use std::path::Path;

use crate::{trellect, trellect_in};

/// The lines of the examples in a help text, environment variables dropped.
fn examples(help: &str) -> Vec<Vec<&str>> {
    let (_, examples) = help.split_once("Examples:\n").expect("every help text has examples");
    let lines = examples.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let words = line.split_whitespace();
            let mut words = words.skip_while(|word| word.contains('='));
            assert_eq!(words.next(), Some("trellect"), "{line}");
            words.collect()
        })
        .collect()
}

/// Makes the history that is exported for the examples of `history`.
const TUNE: [&str; 11] = [
    "tune",
    "--shape",
    "256x128x8x2",
    "--tokens",
    "1",
    "--rounds",
    "1",
    "--cold-mib",
    "1",
    "--history",
    "h.sqlite",
];

#[test]
fn every_example_runs() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("trace.txt"), "1 uniform 50\n8 uniform\n").unwrap();
    let history = trellect_in(directory.path(), TUNE);
    assert_eq!(history.code, 0, "{history:?}");
    let export = ["history", "export", "--history", "h.sqlite", "--output", "exported.jsonl"];
    assert_eq!(trellect_in(directory.path(), export).code, 0);
    // `synth` and `tune` come first: their examples write what the others read.
    for command in [
        "synth", "inspect", "run", "select", "bench", "ab", "stats", "doctor", "tune", "replay",
        "report", "history",
    ] {
        let help = trellect([command, "--help"]);
        assert_eq!(help.code, 0, "{help:?}");
        run_all(directory.path(), &help.stdout);
    }
    run_all(directory.path(), &trellect(["--help"]).stdout);
}

fn run_all(directory: &Path, help: &str) {
    let examples = examples(help);
    assert!(!examples.is_empty());
    for example in examples {
        let outcome = trellect_in(directory, example.iter().copied());
        assert_eq!(outcome.code, 0, "{example:?}: {outcome:?}");
    }
}

#[test]
fn unknown_commands_are_wrong_usage() {
    trellect(["frobnicate"]).fails(2, "frobnicate");
    trellect(["inspect"]).fails(2, "PATH");
    assert_eq!(trellect(["--version"]).code, 0);
}
