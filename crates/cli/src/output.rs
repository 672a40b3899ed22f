//! Writing to stdout and stderr without ever panicking: a reader that has gone away, as in
//! `trellect run | head`, ends the output and is no failure.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

/// A regression that a command was asked to look for and found: exit code 3.
#[derive(Debug)]
pub(crate) struct Regression(pub(crate) String);

impl fmt::Display for Regression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Regression {}

/// A command line that cannot be done, found out by a process that this one started: exit code 2.
#[derive(Debug)]
pub(crate) struct WrongUsage(pub(crate) String);

impl fmt::Display for WrongUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongUsage {}

/// Prints `text` on stdout.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    print_to_reader(text).map(drop)
}

/// Prints `text` on stdout: whether anybody still reads it.
pub(crate) fn print_to_reader(text: &str) -> anyhow::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("writing to stdout"),
    }
}

/// Prints one JSON object on stdout.
pub(crate) fn print_json(object: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(object).context("making JSON")?;
    text.push('\n');
    print(&text)
}

/// Writes a file, which appears when it is complete.
pub(crate) fn write_file(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let write = || {
        // Unlike a temporary file's own, `create_new` has the permissions that users expect.
        let mut temporary = tempfile::Builder::new()
            .prefix(".trellect-")
            .make_in(directory, |path| File::create_new(path))?;
        temporary.write_all(content)?;
        temporary.persist(path)?;
        anyhow::Ok(())
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// An error and its causes in one line. A cause that the message before it already ends with is not
/// said again.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.ends_with(&cause) {
            let separator = if text.is_empty() { "" } else { ": " };
            text = text + separator + &cause;
        }
    }
    text
}

/// Prints a line on stderr. Where nobody can read it, there is nobody to tell so.
pub(crate) fn note(line: &str) {
    writeln!(io::stderr(), "{line}").ok();
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::describe;

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow!("disk full").context("writing y: disk full").context("running");
        assert_eq!(describe(&error), "running: writing y: disk full");
        assert_eq!(describe(&anyhow!("disk full").context("writing y")), "writing y: disk full");
    }
}
