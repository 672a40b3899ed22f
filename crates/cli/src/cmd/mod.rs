//! The commands: one file each, with its flags, what it prints, and its JSON.

pub(crate) mod ab;
pub(crate) mod bench;
pub(crate) mod doctor;
pub(crate) mod history;
pub(crate) mod inspect;
pub(crate) mod manual;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod select;
pub(crate) mod stats;
pub(crate) mod synth;
pub(crate) mod tune;

use clap::Parser;

use crate::args::{Cli, Command};

/// Does what the command line asks for.
pub(crate) fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        None => run(Cli::parse_from(["trellect", "run"])),
        Some(Command::Run(args)) => run::run(&args),
        Some(Command::Inspect(args)) => inspect::run(&args),
        Some(Command::Select(args)) => select::run(&args),
        Some(Command::Stats(args)) => stats::run(&args),
        Some(Command::Synth(args)) => synth::run(&args),
        Some(Command::Doctor(args)) => doctor::run(&args),
        Some(Command::Ab(args)) => ab::run(&args),
        Some(Command::Bench(args)) => bench::run(&args),
        Some(Command::Tune(args)) => tune::run(&args),
        Some(Command::Replay(args)) => replay::run(&args),
        Some(Command::Report(args)) => report::run(&args),
        Some(Command::History(args)) => history::run(&args),
        Some(Command::Manual(args)) => manual::run(&args),
    }
}
