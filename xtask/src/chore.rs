use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::arm::arm;
use crate::python::{python, python_where_possible};
use crate::sanitize::{asan, miri};
use crate::shell::{Failure, cargo, nightly_cargo, root, run, succeeds};

const FUZZ_SECONDS: u32 = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chore {
    Test,
    Check,
    Deny,
    Python,
    Loom,
    Kernels,
    Arm,
    Miri,
    Asan,
    Fuzz { seconds: u32 },
}

impl Chore {
    pub(crate) fn parse(arguments: &[&str]) -> Option<Self> {
        match arguments {
            ["test"] => Some(Self::Test),
            ["check"] => Some(Self::Check),
            ["deny"] => Some(Self::Deny),
            ["python"] => Some(Self::Python),
            ["loom"] => Some(Self::Loom),
            ["kernels"] => Some(Self::Kernels),
            ["arm"] => Some(Self::Arm),
            ["miri"] => Some(Self::Miri),
            ["asan"] => Some(Self::Asan),
            ["fuzz"] => Some(Self::Fuzz { seconds: FUZZ_SECONDS }),
            ["fuzz", seconds] => {
                // libFuzzer takes 0 for "without end".
                let seconds = seconds.parse().ok().filter(|seconds| *seconds > 0)?;
                Some(Self::Fuzz { seconds })
            }
            _ => None,
        }
    }

    pub(crate) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Test => test(),
            Self::Check => check(),
            Self::Deny => deny(),
            Self::Python => python(),
            Self::Loom => loom(),
            Self::Kernels => kernels(),
            Self::Arm => arm(),
            Self::Miri => miri(),
            Self::Asan => asan(),
            Self::Fuzz { seconds } => fuzz(seconds),
        }
    }
}

fn test() -> Result<(), Failure> {
    if succeeds(cargo(&["nextest", "--version"])) {
        run(cargo(&["nextest", "run", "--workspace"]))?;
    } else {
        println!("cargo-nextest is not installed: using cargo's own test runner");
        run(cargo(&["test", "--workspace", "--lib", "--bins", "--tests"]))?;
    }
    run(cargo(&["test", "--workspace", "--doc"]))?;
    python_where_possible()
}

fn check() -> Result<(), Failure> {
    run(cargo(&["fmt", "--all", "--check"]))?;
    run(cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    let mut doc = cargo(&["doc", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    run(doc)
}

fn deny() -> Result<(), Failure> {
    if !succeeds(cargo(&["deny", "--version"])) {
        println!("cargo-deny is not installed: dependencies are not checked");
        return Ok(());
    }
    run(cargo(&["deny", "check"]))
}

/// The models are tests of a build of their own: `cfg(loom)` swaps the atomics.
fn loom() -> Result<(), Failure> {
    for (package, models) in [("trellect-cpu", "team::gate"), ("trellect-select", "hot")] {
        let mut test = cargo(&["test", "--package", package, "--lib", models]);
        test.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", root().join("target/loom"));
        run(test)?;
    }
    Ok(())
}

/// The compiler of GPU kernels, as its maker publishes it for Python; it needs no GPU.
const NVRTC: &str = "nvidia-cuda-nvrtc==13.0.88";
/// A folder with libnvrtc.so.13, for machines that have it already.
const NVRTC_VARIABLE: &str = "TRELLECT_NVRTC_DIR";

/// The tests that need the compiler: every GPU kernel for every architecture. Never skipped: without
/// the compiler they fail.
fn kernels() -> Result<(), Failure> {
    let libraries = match std::env::var_os(NVRTC_VARIABLE) {
        Some(folder) => folder.into(),
        None => install_nvrtc()?,
    };
    let mut test = cargo(&["test", "--package", "trellect-cuda", "--lib"]);
    test.args(["--", "--ignored", "--nocapture"]);
    test.env("LD_LIBRARY_PATH", libraries);
    run(test)
}

/// Puts the compiler beside the system's temporary files, once, and returns where its libraries
/// are.
fn install_nvrtc() -> Result<PathBuf, Failure> {
    let folder = std::env::temp_dir().join(format!("trellect-{}", NVRTC.replace("==", "-")));
    let libraries = folder.join("nvidia/cu13/lib");
    if !libraries.join("libnvrtc.so.13").exists() {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target"]);
        pip.arg(&folder).arg(NVRTC);
        run(pip)?;
    }
    Ok(libraries)
}

fn fuzz(seconds: u32) -> Result<(), Failure> {
    if !succeeds(nightly_cargo_fuzz(&["--version"])) {
        println!("cargo-fuzz on a nightly toolchain is not installed: nothing is fuzzed");
        return Ok(());
    }
    for target in fuzz_targets()? {
        let limit = format!("-max_total_time={seconds}");
        run(nightly_cargo_fuzz(&["run", &target, "--", &limit]))?;
    }
    Ok(())
}

fn nightly_cargo_fuzz(arguments: &[&str]) -> Command {
    let mut command = nightly_cargo(&["fuzz"]);
    command.args(arguments);
    command
}

fn fuzz_targets() -> Result<Vec<String>, Failure> {
    let folder = root().join("fuzz/fuzz_targets");
    let unreadable = |source| Failure::Unreadable { path: folder.clone(), source };
    let mut targets = Vec::new();
    for entry in fs::read_dir(&folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if let (Some(name), Some("rs")) =
            (path.file_stem(), path.extension().and_then(|e| e.to_str()))
        {
            targets.push(name.to_string_lossy().into_owned());
        }
    }
    targets.sort();
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chores_parse() {
        assert_eq!(Chore::parse(&["test"]), Some(Chore::Test));
        assert_eq!(Chore::parse(&["check"]), Some(Chore::Check));
        assert_eq!(Chore::parse(&["deny"]), Some(Chore::Deny));
        assert_eq!(Chore::parse(&["python"]), Some(Chore::Python));
        assert_eq!(Chore::parse(&["loom"]), Some(Chore::Loom));
        assert_eq!(Chore::parse(&["kernels"]), Some(Chore::Kernels));
        assert_eq!(Chore::parse(&["arm"]), Some(Chore::Arm));
        assert_eq!(Chore::parse(&["miri"]), Some(Chore::Miri));
        assert_eq!(Chore::parse(&["asan"]), Some(Chore::Asan));
        assert_eq!(Chore::parse(&["fuzz"]), Some(Chore::Fuzz { seconds: FUZZ_SECONDS }));
        assert_eq!(Chore::parse(&["fuzz", "5"]), Some(Chore::Fuzz { seconds: 5 }));
    }

    #[test]
    fn anything_else_is_refused() {
        for arguments in
            [&[][..], &["tests"], &["test", "now"], &["fuzz", "0"], &["fuzz", "-1"], &["fuzz", "x"]]
        {
            assert_eq!(Chore::parse(arguments), None, "{arguments:?}");
        }
    }
}
