use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;
use std::{fmt, io};

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies below the root")
}

/// The cargo that runs this program, at the root of the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    command
}

/// The nightly toolchain's cargo, at the root of the workspace. Goes through rustup, since a
/// toolchain's own cargo does not switch toolchains.
pub(crate) fn nightly_cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]).args(arguments).current_dir(root());
    command
}

/// Whether a command can be started and succeeds; its output is dropped.
pub(crate) fn succeeds(mut command: Command) -> bool {
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Runs a command in the foreground, between its name and its duration.
pub(crate) fn run(mut command: Command) -> Result<(), Failure> {
    let name = describe(&command);
    eprintln!("--> {name}");
    let start = Instant::now();
    let status =
        command.status().map_err(|source| Failure::NotStarted { name: name.clone(), source })?;
    if !status.success() {
        return Err(Failure::Unsuccessful { name, status });
    }
    eprintln!("<-- {name}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_stem().unwrap_or_default();
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A chore that did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    NotStarted {
        name: String,
        source: io::Error,
    },
    Unsuccessful {
        name: String,
        status: ExitStatus,
    },
    Unreadable {
        path: PathBuf,
        source: io::Error,
    },
    /// The tests of the Python package cannot start here.
    NoPython {
        why: String,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted { name, source } => write!(f, "`{name}` could not start: {source}"),
            Self::Unsuccessful { name, status } => write!(f, "`{name}` failed: {status}"),
            Self::Unreadable { path, source } => write!(f, "{}: {source}", path.display()),
            Self::NoPython { why } => f.write_str(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_name_the_command() {
        let failure = run(cargo(&["--no-such-flag"])).unwrap_err().to_string();
        assert!(failure.starts_with("`cargo --no-such-flag` failed: "), "{failure}");
        let failure = run(Command::new("no-such-program-at-all")).unwrap_err().to_string();
        assert!(failure.starts_with("`no-such-program-at-all` could not start: "), "{failure}");
    }

    #[test]
    fn a_missing_tool_is_no_success() {
        assert!(succeeds(cargo(&["--version"])));
        assert!(!succeeds(cargo(&["no-such-subcommand"])));
        assert!(!succeeds(Command::new("no-such-program-at-all")));
    }
}
