//! The help texts: every example in them runs.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::{trellect, trellect_in};

/// The lines of the examples in a help text.
fn examples(help: &str) -> Vec<&str> {
    let (_, examples) = help.split_once("Examples:\n").expect("every help text has examples");
    examples.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

/// Runs a line as a shell does where the binary is on the path.
fn run_line(directory: &Path, line: &str) -> Output {
    let binary = assert_cmd::cargo::cargo_bin("trellect");
    let folder = binary.parent().expect("the binary lies in a folder").to_owned();
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&others)));
    Command::new("sh")
        .args(["-c", line])
        .current_dir(directory)
        .env("PATH", path.expect("test paths have no separators"))
        // Never the user's own history.
        .env("TRELLECT_HISTORY", directory.join("history-of-examples.sqlite"))
        .stdin(Stdio::null())
        .output()
        .expect("sh starts")
}

/// The commands that a help text lists.
fn listed(help: &str) -> Vec<&str> {
    let (_, commands) = help.split_once("Commands:\n").expect("the help lists the commands");
    let lines = commands.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    names.filter(|name| *name != "help").collect()
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
    let mut commands = vec!["synth", "tune"];
    let help = trellect(["--help"]).stdout;
    commands.extend(listed(&help).into_iter().filter(|name| !["synth", "tune"].contains(name)));
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands {
        let help = trellect([command, "--help"]);
        assert_eq!(help.code, 0, "{help:?}");
        run_all(directory.path(), &help.stdout);
    }
    run_all(directory.path(), &help);
}

fn run_all(directory: &Path, help: &str) {
    let examples = examples(help);
    assert!(!examples.is_empty());
    for example in examples {
        let output = run_line(directory, example);
        assert!(output.status.success(), "{example}: {output:?}");
    }
}

#[test]
fn unknown_commands_are_wrong_usage() {
    trellect(["frobnicate"]).fails(2, "frobnicate");
    trellect(["inspect"]).fails(2, "PATH");
    assert_eq!(trellect(["--version"]).code, 0);
}
