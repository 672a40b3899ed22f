//! The workspace's chores, as `cargo xtask CHORE`. What a chore runs is printed before it runs.
#![forbid(unsafe_code)]

mod arm;
mod chore;
mod python;
mod sanitize;
mod shell;

use std::process::ExitCode;

use chore::Chore;

const USAGE: &str = "\
usage: cargo xtask CHORE

  test            every test: unit and integration tests, documentation examples, then Python's
  check           formatting, lints, documentation; warnings are errors
  deny            licences, bans, advisories and sources of every dependency
  python          the Python package: builds it, compares its stubs, runs its tests
  loom            the models of the lock-free code, every interleaving
  kernels         every GPU kernel, compiled for every architecture; fetches the compiler
  arm             the CPU kernels of AArch64, in an emulator; installs it and the cross compiler
  miri            portable code that holds unsafe code or reads files, in an interpreter (nightly)
  asan            the CPU kernels and the lock-free code under AddressSanitizer (nightly)
  fuzz [SECONDS]  every fuzz target for SECONDS each (60)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["--help" | "-h" | "help"] = arguments[..] {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let Some(chore) = Chore::parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match chore.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}
