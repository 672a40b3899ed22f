//! The command `trellect`: runs the MoE layers of EXL3 checkpoints and shows which kernel was
//! chosen and why.
//!
//! `args` holds what several commands take, `cmd` the commands, each with its own flags, JSON and
//! text. The work itself is in the crate `trellect`.
#![forbid(unsafe_code)]

mod args;
mod cmd;
mod device;
mod facts;
mod history_file;
mod interrupt;
mod output;
mod peak_memory;
mod progress;
mod switch;
mod synthetic;
mod table;
mod tensor_file;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cmd::run(args::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(&format!("error: {}", output::describe(&error)));
            match error {
                error if error.is::<output::Regression>() => ExitCode::from(3),
                error if error.is::<output::WrongUsage>() => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
