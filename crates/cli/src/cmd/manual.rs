//! `trellect manual`: manual pages and completions, made of the commands' own definitions. Hidden:
//! who packages the program calls it, by `cargo xtask manual`.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Command, CommandFactory, ValueEnum};
use clap_complete::Shell;

use crate::args::Cli;

/// The flags of `manual`.
#[derive(Debug, Args)]
pub(crate) struct ManualArgs {
    /// The folder to write to, made where there is none: `man1/` for `man`, `completions/` for shells.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

/// Writes a page per command, and the completions of every shell.
///
/// # Errors
/// When the folder cannot be written to.
pub(crate) fn run(args: &ManualArgs) -> anyhow::Result<()> {
    let folder = |name: &str| {
        let folder = args.output.join(name);
        let made = fs::create_dir_all(&folder);
        made.with_context(|| format!("making {}", folder.display())).map(|()| folder)
    };
    let mut command = Cli::command();
    let pages = folder("man1")?;
    // `help` tells what the pages do.
    let written = clap_mangen::generate_to(without_help(command.clone()), &pages);
    written.with_context(|| format!("writing to {}", pages.display()))?;
    let completions = folder("completions")?;
    for shell in Shell::value_variants() {
        let written = clap_complete::generate_to(*shell, &mut command, "trellect", &completions);
        written.with_context(|| format!("writing to {}", completions.display()))?;
    }
    Ok(())
}

fn without_help(command: Command) -> Command {
    command.disable_help_subcommand(true).mut_subcommands(without_help)
}
