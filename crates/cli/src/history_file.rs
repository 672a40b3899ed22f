//! The history that a command works on: `--history`, else the environment's, else the platform's.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use trellect_tune::history::{HISTORY_VARIABLE, History, Outcome, default_location};

use crate::output;

/// What `--history` says for no history.
const NONE: &str = "none";

pub(crate) fn is_none(path: &Path) -> bool {
    path.as_os_str() == NONE
}

/// Which history.
#[derive(Clone, Debug, Args)]
pub(crate) struct HistoryArgs {
    /// The history's file [default: what TRELLECT_HISTORY names, else a file in the user's
    /// directory for state].
    #[arg(long, value_name = "PATH")]
    history: Option<PathBuf>,
}

impl HistoryArgs {
    /// The file's path.
    pub(crate) fn path(&self) -> anyhow::Result<PathBuf> {
        if self.history.as_deref().is_some_and(is_none) {
            bail!("--history {NONE}: this command works on a history; name a file");
        }
        let path = self.history.clone().or_else(default_location);
        path.with_context(|| {
            format!("no home directory to keep a history in; name a file with --history or {HISTORY_VARIABLE}")
        })
    }

    /// Opens the history to write to it, making one where there is none. A file that cannot be used
    /// was set aside, which is said.
    pub(crate) fn open_for_writing(&self) -> anyhow::Result<(History, PathBuf)> {
        let (history, path, read_only) = self.open()?;
        match read_only {
            false => Ok((history, path)),
            true => bail!("{}: the history is read-only", path.display()),
        }
    }

    /// Opens a history that must exist.
    pub(crate) fn open_existing(&self) -> anyhow::Result<(History, PathBuf)> {
        let path = self.path()?;
        if !path.exists() {
            bail!("{}: no history", path.display());
        }
        let (history, path, _) = self.open()?;
        Ok((history, path))
    }

    fn open(&self) -> anyhow::Result<(History, PathBuf, bool)> {
        let path = self.path()?;
        let (history, outcome) = History::open(Some(&path));
        let aside = |why: String, moved_to: &Path| {
            output::note(&format!(
                "{}: {why}; it is now {}, and a new history begins",
                path.display(),
                moved_to.display()
            ));
        };
        match outcome {
            Outcome::Ready => {}
            Outcome::ReadOnly => return Ok((history, path, true)),
            Outcome::SetAsideDamaged { moved_to, why } => aside(why.to_string(), &moved_to),
            Outcome::SetAsideNewer { moved_to, found, known } => {
                aside(format!("schema {found} is newer than the known {known}"), &moved_to);
            }
            Outcome::InMemory { why } => {
                return Err(why).with_context(|| format!("opening {}", path.display()));
            }
            other => bail!("{}: {other:?}", path.display()),
        }
        Ok((history, path, false))
    }
}

/// Which history, where there may be none.
#[derive(Clone, Debug, Args)]
pub(crate) struct OptionalHistoryArgs {
    /// The file that keeps what is learned, or `none` [default: what TRELLECT_HISTORY names, else a
    /// file in the user's directory for state].
    #[arg(long, value_name = "PATH")]
    history: Option<PathBuf>,
}

impl OptionalHistoryArgs {
    /// The file's path; `None` for `none`, and for a user without a home directory.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        match &self.history {
            Some(path) if is_none(path) => None,
            Some(path) => Some(path.clone()),
            None => default_location(),
        }
    }

    /// Opens a history to read it; `None` where none is named and there is none.
    ///
    /// # Errors
    /// When a history that is named does not exist, or one cannot be used.
    pub(crate) fn open_existing(&self) -> anyhow::Result<Option<(History, PathBuf)>> {
        match self.path() {
            Some(path) if self.history.is_some() || path.exists() => {
                HistoryArgs { history: Some(path) }.open_existing().map(Some)
            }
            _ => Ok(None),
        }
    }
}
