//! JSON Lines: a history as text that can be read, compared and merged elsewhere. The fields are in
//! `docs/selection-matrix.md`.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};
use trellect_core::{KernelId, NumericClass};
use trellect_select::LatencyStatistics;

use super::{History, HistoryError, Record, merge_one, put_environment};
use crate::fingerprint::Fingerprint;
use crate::text;

/// One line.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Environment { id: String, fingerprint: Fingerprint },
    Record(RecordLine),
}

/// A record; numbers that JSON readers would round are text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordLine {
    environment: String,
    #[serde(with = "text")]
    kernel: KernelId,
    context: String,
    #[serde(with = "text")]
    class: NumericClass,
    count: u64,
    #[serde(with = "text")]
    sum: i128,
    #[serde(with = "text")]
    sum_squares: i128,
    min_ns: u64,
    max_ns: u64,
    histogram: Vec<(u8, u64)>,
    first_unix_s: u64,
    last_unix_s: u64,
}

impl History {
    /// Writes every environment and record, one JSON object a line.
    ///
    /// # Errors
    /// [`HistoryError`] when reading or writing fails.
    pub fn export_jsonl(&self, mut to: impl Write) -> Result<(), HistoryError> {
        let mut write = |line: &Line| -> io::Result<()> {
            serde_json::to_writer(&mut to, line)?;
            to.write_all(b"\n")
        };
        for (id, fingerprint) in self.fingerprints()? {
            write(&Line::Environment { id, fingerprint })?;
        }
        for environment in self.environments()? {
            for record in self.load(&environment.id)? {
                write(&Line::Record(record.into()))?;
            }
        }
        Ok(to.flush()?)
    }

    /// Adds the records of an export to this history and returns how many; all of them or, on an
    /// error, none. Importing the same lines twice counts their latencies twice. Empty lines are
    /// skipped.
    ///
    /// # Errors
    /// [`ImportError`] names the first line that is wrong, and what is wrong with it.
    pub fn import_jsonl(&mut self, from: impl BufRead) -> Result<usize, ImportError> {
        let mut environments = Vec::new();
        let mut records = Vec::new();
        for (line, number) in from.lines().zip(1..) {
            let line = line.map_err(|error| ImportError::History(error.into()))?;
            if line.trim().is_empty() {
                continue;
            }
            let wrong = |fault| ImportError::Line { line: number, fault };
            match serde_json::from_str(&line).map_err(|error| wrong(LineFault::Json(error)))? {
                Line::Environment { id, fingerprint } => {
                    if id != fingerprint.id() {
                        let expected = "the hash of the fingerprint";
                        return Err(wrong(LineFault::Field { field: "id", found: id, expected }));
                    }
                    environments.push((id, fingerprint));
                }
                Line::Record(line) => records.push(line.checked().map_err(wrong)?),
            }
        }
        let transaction = self.writing()?;
        for (id, fingerprint) in &environments {
            put_environment(&transaction, id, fingerprint)?;
        }
        for record in &records {
            merge_one(&transaction, record)?;
        }
        transaction.commit().map_err(HistoryError::from)?;
        Ok(records.len())
    }
}

impl From<Record> for RecordLine {
    fn from(record: Record) -> Self {
        let LatencyStatistics { count, sum, sum_squares, min_ns, max_ns, histogram } =
            record.statistics;
        Self {
            environment: record.environment,
            kernel: record.kernel,
            context: format!("{:016x}", record.context),
            class: record.class,
            count,
            sum,
            sum_squares,
            min_ns,
            max_ns,
            histogram: histogram.into_iter().collect(),
            first_unix_s: record.first_unix_s,
            last_unix_s: record.last_unix_s,
        }
    }
}

impl RecordLine {
    fn checked(self) -> Result<Record, LineFault> {
        let fault = |field, found, expected| Err(LineFault::Field { field, found, expected });
        let hexadecimal = |id: &str, digits| {
            id.len() == digits && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        if !hexadecimal(&self.environment, 32) {
            return fault("environment", self.environment, "32 hexadecimal digits");
        }
        let context = match u64::from_str_radix(&self.context, 16) {
            Ok(context) if hexadecimal(&self.context, 16) => context,
            _ => return fault("context", self.context, "16 hexadecimal digits"),
        };
        let histogram: BTreeMap<u8, u64> = self.histogram.iter().copied().collect();
        if histogram.len() != self.histogram.len() {
            return fault("histogram", format!("{:?}", self.histogram), "every bucket once");
        }
        let Self { count, sum, sum_squares, min_ns, max_ns, .. } = self;
        let statistics = LatencyStatistics { count, sum, sum_squares, min_ns, max_ns, histogram };
        if let Some((field, found, expected)) = statistics.fault() {
            return fault(field, found, expected);
        }
        let (first_unix_s, last_unix_s) = (self.first_unix_s, self.last_unix_s);
        if first_unix_s > last_unix_s || i64::try_from(last_unix_s).is_err() {
            return fault("last_unix_s", last_unix_s.to_string(), "first_unix_s or later");
        }
        let Self { environment, kernel, class, .. } = self;
        Ok(Record { environment, kernel, context, class, statistics, first_unix_s, last_unix_s })
    }
}

/// An import that changed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A line that is no record.
    #[error("line {line}")]
    Line {
        /// Its number, from 1 on.
        line: u64,
        /// What is wrong.
        #[source]
        fault: LineFault,
    },
    /// Reading the lines or writing the history failed.
    #[error(transparent)]
    History(#[from] HistoryError),
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineFault {
    /// Not JSON, or fields that are missing, unknown or of the wrong type.
    #[error(transparent)]
    Json(serde_json::Error),
    /// A value that cannot be.
    #[error("{field}: found {found}, expected {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// The value found.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
}
