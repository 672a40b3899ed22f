//! JSON Lines: a history as text that can be read, compared and merged elsewhere. The fields are in
//! `docs/formats.md`.

mod line;

use std::io::{self, BufRead, Write};

use rusqlite::{Transaction, params};

use super::journal::{add_selections, add_switches, document_of};
use super::{ContextNote, History, HistoryError, merge_one, put_environment, signed};
use crate::calibrate::StoredCalibration;
use crate::lines::{LineFault, MAX_LINE, read_line};

use self::line::{Line, Row};

/// Damaged lines that are told one by one.
const MAX_TOLD: usize = 100;

/// What became of the lines of an import.
#[derive(Debug, Default)]
pub struct ImportSummary {
    /// Lines that were taken.
    pub taken: u64,
    /// Those of them that are latencies of a kernel in a context.
    pub records: u64,
    /// Lines that were left out.
    pub damaged: u64,
    /// The first hundred of them.
    pub first_damaged: Vec<DamagedLine>,
}

/// A line that was left out.
#[derive(Debug, thiserror::Error)]
#[error("line {number}: {fault}")]
pub struct DamagedLine {
    /// Its number, from 1 on.
    pub number: u64,
    /// What is wrong with it.
    #[source]
    pub fault: LineFault,
}

impl History {
    /// Writes everything that is kept, one JSON object a line.
    ///
    /// # Errors
    /// [`HistoryError`] when reading or writing fails.
    pub fn export_jsonl(&self, mut to: impl Write) -> Result<(), HistoryError> {
        let mut write = |line: &Line| -> Result<(), HistoryError> {
            serde_json::to_writer(&mut to, line).map_err(io::Error::from)?;
            Ok(to.write_all(b"\n")?)
        };
        for (id, fingerprint) in self.fingerprints()? {
            write(&Line::Environment { id, fingerprint })?;
        }
        for id in self.environment_ids()? {
            if let Some((calibration, unix_s)) = self.dated_calibration(&id)? {
                write(&Line::Calibration { environment: id.clone(), unix_s, calibration })?;
            }
            let journal = self.journal(&id)?;
            for note in journal.contexts {
                write(&Line::of_context(&id, note))?;
            }
            for record in journal.records {
                write(&record.into())?;
            }
            for selection in journal.selections {
                write(&Line::of_selection(&id, selection))?;
            }
            for switch in journal.switches {
                write(&Line::of_switch(&id, switch))?;
            }
        }
        Ok(to.flush()?)
    }

    /// Merges an export into this history; every sound line of it or, on an error, none. Empty lines
    /// are skipped, and damaged ones left out and named.
    ///
    /// In whatever order exports are imported, the sum is the same. Latencies and counts of
    /// selections add up, so that importing the same lines twice counts them twice. What has an
    /// identity is there once: an environment, a switch with all that is known of it, the latest
    /// note of a context, and the earliest calibration of an environment.
    ///
    /// # Errors
    /// [`HistoryError`] when reading the lines or writing the history fails.
    pub fn import_jsonl(&mut self, mut from: impl BufRead) -> Result<ImportSummary, HistoryError> {
        let mut summary = ImportSummary::default();
        let mut rows = Vec::new();
        let mut line = Vec::new();
        for number in 1.. {
            let Some(length) = read_line(&mut from, &mut line)? else { break };
            if line.trim_ascii().is_empty() && length <= MAX_LINE {
                continue;
            }
            match parse(&line, length) {
                Ok(row) => rows.push(row),
                Err(fault) => {
                    summary.damaged += 1;
                    if summary.first_damaged.len() < MAX_TOLD {
                        summary.first_damaged.push(DamagedLine { number, fault });
                    }
                }
            }
        }
        let transaction = self.writing()?;
        for (environment, row) in &rows {
            summary.taken += 1;
            summary.records += u64::from(matches!(row, Row::Record(_)));
            take(&transaction, environment, row)?;
        }
        transaction.commit()?;
        Ok(summary)
    }
}

fn parse(line: &[u8], length: usize) -> Result<(String, Row), LineFault> {
    if length > MAX_LINE {
        return Err(LineFault::TooLong { limit: MAX_LINE });
    }
    serde_json::from_slice::<Line>(line)?.checked()
}

fn take(transaction: &Transaction<'_>, environment: &str, row: &Row) -> Result<(), HistoryError> {
    match row {
        Row::Environment(fingerprint) => put_environment(transaction, environment, fingerprint),
        Row::Record(record) => merge_one(transaction, record),
        Row::Context(note) => merge_context(transaction, environment, note),
        Row::Selection(count) => {
            add_selections(transaction, environment, std::slice::from_ref(count))
        }
        Row::Switch(note) => add_switches(transaction, environment, std::slice::from_ref(note)),
        Row::Calibration { unix_s, calibration } => {
            merge_calibration(transaction, environment, calibration, *unix_s)
        }
    }
}

/// The later note stays; of two of one second the one that is greater as text.
fn merge_context(
    transaction: &Transaction<'_>,
    environment: &str,
    note: &ContextNote,
) -> Result<(), HistoryError> {
    let ContextNote { context, unix_s, bucket, call, incumbent } = note;
    transaction
        .prepare(
            "INSERT INTO contexts (environment, context, bucket, call, incumbent, unix_s) \
             VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET bucket = excluded.bucket, \
             call = excluded.call, incumbent = excluded.incumbent, unix_s = excluded.unix_s \
             WHERE (excluded.unix_s, excluded.incumbent, excluded.bucket, excluded.call) \
                 > (contexts.unix_s, contexts.incumbent, contexts.bucket, contexts.call)",
        )?
        .execute(params![
            environment,
            context.cast_signed(),
            bucket,
            document_of(call),
            incumbent.to_string(),
            signed(*unix_s),
        ])?;
    Ok(())
}

/// The earlier one stays; of two of one second the one that is smaller as text.
fn merge_calibration(
    transaction: &Transaction<'_>,
    environment: &str,
    calibration: &StoredCalibration,
    unix_s: u64,
) -> Result<(), HistoryError> {
    transaction
        .prepare(
            "INSERT INTO calibrations (environment, document, unix_s) VALUES (?, ?, ?) \
             ON CONFLICT DO UPDATE SET document = excluded.document, unix_s = excluded.unix_s \
             WHERE (excluded.unix_s, excluded.document) \
                 < (calibrations.unix_s, calibrations.document)",
        )?
        .execute(params![environment, document_of(calibration), signed(unix_s)])?;
    Ok(())
}
