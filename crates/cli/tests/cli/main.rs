//! The binary as its users run it: output, exit codes, and what becomes of bad input.

mod ab;
mod bench;
mod checkpoints;
mod help;
mod manual;
mod report;
mod run;
mod run_input;
mod select;
mod snapshots;
mod stats;
mod tuning;

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

/// What a run of the binary left behind.
#[derive(Debug)]
struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Outcome {
    /// The JSON object on stdout, of a command that ended with exit code 0.
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        self.object()
    }

    /// The JSON object on stdout.
    fn object(&self) -> Value {
        let value: Value = serde_json::from_str(&self.stdout).expect("stdout is one JSON object");
        assert!(value.is_object());
        value
    }

    /// Asserts a failure: the exit code, and a part of the message on stderr.
    #[track_caller]
    fn fails(&self, code: i32, message: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.stderr.contains(message), "no `{message}` in {self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
    }
}

/// Runs the binary.
fn trellect<'a>(args: impl IntoIterator<Item = &'a str>) -> Outcome {
    trellect_in(Path::new("."), args)
}

/// Runs the binary in a directory.
fn trellect_in<'a>(directory: &Path, args: impl IntoIterator<Item = &'a str>) -> Outcome {
    let mut command = Command::cargo_bin("trellect").expect("the binary is built with its tests");
    // Never the user's own history.
    let history = tempfile::tempdir().expect("a temporary directory");
    command.env("TRELLECT_HISTORY", history.path().join("history.sqlite"));
    let output = command.current_dir(directory).args(args).output().expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    let code = output.status.code().expect("no signal ended it");
    Outcome { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A path as an argument.
fn arg(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}
