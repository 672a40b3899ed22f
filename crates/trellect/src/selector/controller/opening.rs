use std::path::PathBuf;

use trellect_tune::history::{History, HistoryError, Outcome};

use crate::HistoryStatus;

/// Opens the history; in memory where there is no path.
pub(super) fn open_history(path: Option<PathBuf>) -> (History, HistoryStatus) {
    let Some(path) = path else {
        return (History::in_memory(), HistoryStatus::new(None, "in memory, as asked for", true));
    };
    let (history, outcome) = History::open(Some(&path));
    let (state, is_writable) = match outcome {
        Outcome::Ready => ("ready".to_owned(), true),
        Outcome::ReadOnly => ("read-only: nothing is written".to_owned(), false),
        Outcome::SetAsideDamaged { moved_to, why } => {
            (format!("a damaged file was moved to {}: {why}", moved_to.display()), true)
        }
        Outcome::SetAsideNewer { moved_to, found, known } => {
            let moved_to = moved_to.display();
            (format!("a file of schema {found} was moved to {moved_to}; {known} is known"), true)
        }
        Outcome::InMemory { why } => (format!("in memory: {}", chain(&why)), true),
        other => (format!("{other:?}"), true),
    };
    (history, HistoryStatus::new(Some(path), &state, is_writable))
}

/// An error and its causes.
pub(in crate::selector) fn chain(error: &HistoryError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
