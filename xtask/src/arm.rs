//! The CPU kernels of AArch64 on a machine of another kind: cross-compiled, and run by an emulator
//! of single programs.

use std::process::Command;

use crate::shell::{Failure, cargo, install_packages, root, run, succeeds};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const COMPILER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64";
/// Where Debian's packages put the target's libraries.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";
/// Debian's names of what holds the compiler, its libraries and the emulator.
const PACKAGES: [&str; 3] = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user"];

/// Every test of the CPU's crate on a processor with all that its kernels ask for, then one layer
/// on older ones, which must refuse what they lack. Never skipped: without the emulator it fails.
pub(crate) fn arm() -> Result<(), Failure> {
    install()?;
    run(tests("max"))?;
    for processor in ["neoverse-n1", "cortex-a53"] {
        let mut test = tests(processor);
        test.args(["--test", "suite", "--", "--nocapture", "kernels::smallest_layer"]);
        run(test)?;
    }
    Ok(())
}

fn tests(processor: &str) -> Command {
    let mut test = cargo(&["test", "--package", "trellect-cpu", "--target", TARGET]);
    let runner = format!("{EMULATOR} -cpu {processor} -L {LIBRARIES}");
    test.env("RUSTFLAGS", "--cfg slow")
        .env("CARGO_TARGET_DIR", root().join("target/arm"))
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", COMPILER)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", runner);
    test
}

/// Adds what is missing of the target's standard library, linker and emulator.
fn install() -> Result<(), Failure> {
    let mut target = Command::new("rustup");
    target.args(["target", "add", TARGET]);
    run(target)?;
    let starts = |program: &str| {
        let mut version = Command::new(program);
        version.arg("--version");
        succeeds(version)
    };
    if starts(COMPILER) && starts(EMULATOR) {
        return Ok(());
    }
    install_packages(&format!("{COMPILER} or {EMULATOR}"), &PACKAGES)
}
