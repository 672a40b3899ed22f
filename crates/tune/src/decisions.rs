//! What a selector decided, call by call: a file that a later run can be made to follow. The format
//! is in `docs/formats.md`.
//!
//! A log is of use as a whole only: what one decision leaves out, an earlier one foretells. So where
//! a [history](crate::history) skips what is damaged, a log is refused.

mod line;
#[cfg(test)]
mod tests;

use std::io::{self, BufRead, Write};

use trellect_core::{LayerShape, NumericClass};
use trellect_select::adaptive::DecisionRecord;

use self::line::Line;
use crate::lines::{LineFault, MAX_LINE, read_line};

pub use self::line::FORMAT;

/// The version that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// The decisions of a selector, by group of equal layers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DecisionLog {
    /// The groups, in the order in which they were met.
    pub groups: Vec<GroupDecisions>,
}

/// The decisions about the calls of a group of equal layers.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupDecisions {
    /// Dimensions of its layers.
    pub shape: LayerShape,
    /// The class of its calls.
    pub numeric: NumericClass,
    /// The decisions, by ascending ticket. What is left out is foretold by what is there, see
    /// [`DecisionRecord`].
    pub decisions: Vec<DecisionRecord>,
    /// Decisions that found no room, so that the log has gaps.
    pub lost: u64,
}

impl DecisionLog {
    /// Writes the log as JSON Lines.
    ///
    /// # Errors
    /// When writing fails.
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        let mut put = |line: &Line| {
            serde_json::to_writer(&mut to, line)?;
            to.write_all(b"\n")
        };
        put(&Line::Header { format: FORMAT.into(), version: VERSION })?;
        for (group, decided) in (0..).zip(&self.groups) {
            put(&Line::of_group(group, decided))?;
            for record in &decided.decisions {
                put(&Line::of_decision(group, record))?;
            }
        }
        put(&Line::End { decisions: self.len() })?;
        to.flush()
    }

    /// Reads a log that was written to its end and has no gaps.
    ///
    /// # Errors
    /// [`DecisionLogError`] names the line and what is wrong with it.
    pub fn read(mut from: impl BufRead) -> Result<Self, DecisionLogError> {
        let mut log = Self::default();
        let mut line = Vec::new();
        let mut has_header = false;
        for number in 1.. {
            let Some(length) = read_line(&mut from, &mut line)? else { break };
            let fault = |fault| DecisionLogError::Line { number, fault };
            let parsed = match length > MAX_LINE {
                true => Err(LineFault::TooLong { limit: MAX_LINE }),
                false => serde_json::from_slice(&line).map_err(LineFault::Json),
            };
            match parsed.map_err(fault)? {
                Line::Header { format, version } if !has_header && format == FORMAT => {
                    if version != VERSION {
                        return Err(DecisionLogError::Version { found: version });
                    }
                    has_header = true;
                }
                _ if !has_header => return Err(DecisionLogError::NoLog),
                Line::End { decisions } => {
                    let found = log.len();
                    if decisions != found || read_line(&mut from, &mut line)?.is_some() {
                        return Err(DecisionLogError::End { number, found, stated: decisions });
                    }
                    return Ok(log);
                }
                other => log.take(other).map_err(fault)?,
            }
        }
        match has_header {
            true => Err(DecisionLogError::Truncated { found: log.len() }),
            false => Err(DecisionLogError::NoLog),
        }
    }

    fn len(&self) -> u64 {
        self.groups.iter().map(|group| group.decisions.len() as u64).sum()
    }
}

/// A file that cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecisionLogError {
    /// Its first line is none of a log.
    #[error("this is no log of decisions")]
    NoLog,
    /// It is of another version.
    #[error("the log is of version {found}: expected {VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// A line that cannot be.
    #[error("line {number}: {fault}")]
    Line {
        /// Its number, from 1 on.
        number: u64,
        /// What is wrong with it.
        #[source]
        fault: LineFault,
    },
    /// The last line is missing: the file was not written to its end.
    #[error("the log ends after {found} decisions without saying so")]
    Truncated {
        /// Decisions found.
        found: u64,
    },
    /// The last line states another number of decisions, or is not the last.
    #[error("line {number}: the end of {stated} decisions, found after {found}")]
    End {
        /// The line's number.
        number: u64,
        /// Decisions found.
        found: u64,
        /// Decisions stated.
        stated: u64,
    },
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}
