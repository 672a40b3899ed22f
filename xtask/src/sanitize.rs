//! The checks that need the nightly compiler: an interpreter that sees every access to memory, and
//! instrumented builds of what is too slow to interpret.

use std::process::Command;

use crate::shell::{Failure, nightly_cargo, root, run, succeeds};

/// Portable code that holds unsafe code or reads files: packages and the tests of them, without
/// those that take the interpreter longer than a minute.
const INTERPRETED: [(&str, &[&str]); 5] = [
    ("trellect-core", &["--lib"]),
    ("trellect-cpu", &["--lib", "--", "--skip", "codebook", "--skip", "exponentials"]),
    ("trellect-cpu", &["--test", "suite", "--", "smallest_layer"]),
    ("trellect-exl3", &["--lib", "--", "checkpoint", "error", "tile"]),
    ("trellect-select", &["--lib", "--", "hot", "--skip", "table_agrees_with_a_map"]),
];

/// Random cases of a property under the interpreter.
const INTERPRETED_CASES: &str = "2";

/// Code for this machine's instruction sets, and lock-free code that frees memory.
const INSTRUMENTED: [(&str, &[&str]); 2] =
    [("trellect-cpu", &["--lib", "--tests"]), ("trellect-select", &["--lib", "--", "hot"])];

/// Miri. Files, clocks and the number of processors are the machine's own.
pub(crate) fn miri() -> Result<(), Failure> {
    install(&["miri", "rust-src"])?;
    for (package, tests) in INTERPRETED {
        let mut test = nightly_cargo(&["miri", "test", "--package", package]);
        test.args(tests)
            .env("MIRIFLAGS", "-Zmiri-disable-isolation")
            .env("PROPTEST_CASES", INTERPRETED_CASES)
            .env("CARGO_TARGET_DIR", root().join("target/miri"));
        run(test)?;
    }
    Ok(())
}

/// AddressSanitizer.
pub(crate) fn asan() -> Result<(), Failure> {
    install(&[])?;
    // A target of its own keeps the instrumentation out of build scripts and procedural macros.
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    for (package, tests) in INSTRUMENTED {
        let mut test = nightly_cargo(&["test", "--package", package, "--target", &target]);
        test.args(tests)
            .env("RUSTFLAGS", "-Zsanitizer=address --cfg slow")
            .env("CARGO_TARGET_DIR", root().join("target/asan"));
        run(test)?;
    }
    Ok(())
}

/// Adds what is missing of the nightly toolchain. One that is there stays as it is.
fn install(components: &[&str]) -> Result<(), Failure> {
    let rustup = |arguments: &[&str]| {
        let mut command = Command::new("rustup");
        command.args(arguments);
        command
    };
    if !succeeds(nightly_cargo(&["--version"])) {
        run(rustup(&["toolchain", "install", "nightly", "--profile", "minimal"]))?;
    }
    for component in components {
        run(rustup(&["component", "add", "--toolchain", "nightly", component]))?;
    }
    Ok(())
}
