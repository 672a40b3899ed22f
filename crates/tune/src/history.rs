//! What has been measured, kept between processes: sufficient statistics in an SQLite file that
//! several processes may read and write at once.
//!
//! History is a convenience, never a condition: [`History::open`] always returns a working history,
//! in memory if need be, and an [`Outcome`] that says what became of the file. A committed merge
//! survives the death of its process. Files that cannot be used are set aside under another name,
//! never deleted.

mod journal;
mod jsonl;
mod location;
mod open;

use std::collections::BTreeMap;

use rusqlite::types::Type;
use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params,
};
use trellect_core::{KernelId, NumericClass};
use trellect_select::LatencyStatistics;

use crate::fingerprint::Fingerprint;

pub use journal::{ContextCall, ContextLoad, ContextNote, Journal, SelectionCount, SwitchNote};
pub use jsonl::{DamagedLine, ImportSummary};
pub use location::{HISTORY_VARIABLE, default_location};
pub use open::Outcome;

/// What one environment knows of one kernel in one context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Id of the environment, [`Fingerprint::id`].
    pub environment: String,
    /// The kernel.
    pub kernel: KernelId,
    /// The context's key.
    pub context: u64,
    /// The class that was asked for.
    pub class: NumericClass,
    /// The latencies.
    pub statistics: LatencyStatistics,
    /// When the first was taken, in seconds since 1970.
    pub first_unix_s: u64,
    /// When the last was taken, in seconds since 1970.
    pub last_unix_s: u64,
}

/// What the history holds of one environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentSummary {
    /// The environment's id.
    pub id: String,
    /// What it is; `None` when it was never [registered](History::register).
    pub fingerprint: Option<Fingerprint>,
    /// Records of it.
    pub num_records: u64,
    /// When its last latency was taken, in seconds since 1970; 0 without records.
    pub last_unix_s: u64,
}

/// Which records to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prune<'a> {
    /// Those without a latency since this date, in seconds since 1970.
    OlderThan(u64),
    /// Everything of this environment, and the environment itself.
    Environment(&'a str),
}

/// An open history.
pub struct History {
    connection: Connection,
}

impl History {
    /// Adds statistics to what is known of the same environment, kernel, context and class; all of
    /// them or, on an error, none. Waits for other writers for up to two seconds.
    ///
    /// # Errors
    /// [`HistoryError`]; the records are still the caller's to keep.
    pub fn merge(&mut self, records: &[Record]) -> Result<(), HistoryError> {
        let transaction = self.writing()?;
        for record in records {
            merge_one(&transaction, record)?;
        }
        Ok(transaction.commit()?)
    }

    /// Keeps what an environment is, so that another one can be compared with it.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn register(&mut self, fingerprint: &Fingerprint) -> Result<(), HistoryError> {
        let transaction = self.writing()?;
        put_environment(&transaction, &fingerprint.id(), fingerprint)?;
        Ok(transaction.commit()?)
    }

    /// Everything known of an environment, by kernel, context and class.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn load(&self, environment: &str) -> Result<Vec<Record>, HistoryError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM records WHERE environment = ?1 ORDER BY kernel, context, class"
        );
        let mut statement = self.connection.prepare(&sql)?;
        let rows = statement.query_map([environment], read_record)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Every environment that was registered or has records, by id.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn environments(&self) -> Result<Vec<EnvironmentSummary>, HistoryError> {
        let mut found: BTreeMap<String, EnvironmentSummary> = BTreeMap::new();
        let mut counts = self.connection.prepare(
            "SELECT environment, count(*), max(last_unix_s) FROM records GROUP BY environment",
        )?;
        let summaries = counts.query_map([], |row| {
            Ok(EnvironmentSummary {
                id: row.get(0)?,
                fingerprint: None,
                num_records: unsigned(row, 1)?,
                last_unix_s: unsigned(row, 2)?,
            })
        })?;
        for summary in summaries {
            let summary = summary?;
            found.insert(summary.id.clone(), summary);
        }
        for (id, fingerprint) in self.fingerprints()? {
            let empty = || EnvironmentSummary {
                id: id.clone(),
                fingerprint: None,
                num_records: 0,
                last_unix_s: 0,
            };
            found.entry(id.clone()).or_insert_with(empty).fingerprint = Some(fingerprint);
        }
        Ok(found.into_values().collect())
    }

    /// Removes what was kept and returns the number of rows.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn prune(&mut self, what: Prune<'_>) -> Result<usize, HistoryError> {
        let transaction = self.writing()?;
        let removed = match what {
            Prune::OlderThan(unix_s) => transaction
                .execute("DELETE FROM records WHERE last_unix_s < ?1", [signed(unix_s)])?,
            Prune::Environment(id) => {
                transaction.execute("DELETE FROM environments WHERE id = ?1", [id])?;
                let mut removed = 0;
                for table in journal::TABLES {
                    let sql = format!("DELETE FROM {table} WHERE environment = ?1");
                    removed += transaction.execute(&sql, [id])?;
                }
                removed
            }
        };
        transaction.commit()?;
        Ok(removed)
    }

    /// A transaction that no other writer interleaves with.
    fn writing(&mut self) -> Result<Transaction<'_>, HistoryError> {
        Ok(self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?)
    }

    fn fingerprints(&self) -> Result<Vec<(String, Fingerprint)>, HistoryError> {
        let sql = "SELECT id, fingerprint FROM environments ORDER BY id";
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map([], |row| {
            let text: String = row.get(1)?;
            let fingerprint = serde_json::from_str(&text).map_err(|error| unreadable(1, error))?;
            Ok((row.get(0)?, fingerprint))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// In the order of [`read_record`].
const COLUMNS: &str = "environment, kernel, context, class, count, sum, sum_squares, min_ns, \
                       max_ns, histogram, first_unix_s, last_unix_s";

fn merge_one(transaction: &Transaction<'_>, record: &Record) -> Result<(), HistoryError> {
    let (kernel, context) = (record.kernel.to_string(), record.context.cast_signed());
    let class = record.class.name();
    let sql = format!(
        "SELECT {COLUMNS} FROM records \
         WHERE environment = ?1 AND kernel = ?2 AND context = ?3 AND class = ?4"
    );
    let known = transaction
        .prepare(&sql)?
        .query_row(params![record.environment, kernel, context, class], read_record)
        .optional()?;
    let mut sum = record.clone();
    if let Some(known) = known {
        sum.statistics.merge(&known.statistics);
        sum.first_unix_s = sum.first_unix_s.min(known.first_unix_s);
        sum.last_unix_s = sum.last_unix_s.max(known.last_unix_s);
    }
    let sql = format!(
        "INSERT OR REPLACE INTO records ({COLUMNS}) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
    );
    transaction.prepare(&sql)?.execute(params![
        sum.environment,
        kernel,
        context,
        class,
        sum.statistics.count.cast_signed(),
        sum.statistics.sum,
        sum.statistics.sum_squares,
        sum.statistics.min_ns.cast_signed(),
        sum.statistics.max_ns.cast_signed(),
        histogram_bytes(&sum.statistics.histogram),
        signed(sum.first_unix_s),
        signed(sum.last_unix_s),
    ])?;
    Ok(())
}

fn put_environment(
    transaction: &Transaction<'_>,
    id: &str,
    fingerprint: &Fingerprint,
) -> Result<(), HistoryError> {
    let text = serde_json::to_string(fingerprint).expect("maps of strings are JSON");
    let sql = "INSERT OR REPLACE INTO environments (id, fingerprint) VALUES (?1, ?2)";
    transaction.execute(sql, [id, &text])?;
    Ok(())
}

fn read_record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let kernel: String = row.get(1)?;
    let class: String = row.get(3)?;
    let histogram: Vec<u8> = row.get(9)?;
    let statistics = LatencyStatistics {
        count: unsigned(row, 4)?,
        sum: row.get(5)?,
        sum_squares: row.get(6)?,
        min_ns: unsigned(row, 7)?,
        max_ns: unsigned(row, 8)?,
        histogram: read_histogram(&histogram),
    };
    Ok(Record {
        environment: row.get(0)?,
        kernel: kernel.parse().map_err(|error| unreadable(1, error))?,
        context: unsigned(row, 2)?,
        class: class.parse().map_err(|error| unreadable(3, error))?,
        statistics,
        first_unix_s: unsigned(row, 10)?,
        last_unix_s: unsigned(row, 11)?,
    })
}

/// SQLite's integers are signed: numbers keep their bits.
fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.cast_unsigned())
}

/// A date, which must compare as a number.
fn signed(unix_s: u64) -> i64 {
    i64::try_from(unix_s).unwrap_or(i64::MAX)
}

fn unreadable(
    column: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

/// Nine bytes a bucket: its number and its count, little-endian.
fn histogram_bytes(histogram: &BTreeMap<u8, u64>) -> Vec<u8> {
    let entry = |(&bucket, &count): (&u8, &u64)| [&[bucket][..], &count.to_le_bytes()].concat();
    histogram.iter().flat_map(entry).collect()
}

fn read_histogram(bytes: &[u8]) -> BTreeMap<u8, u64> {
    let (entries, _) = bytes.as_chunks::<9>();
    let entry = |&[bucket, a, b, c, d, e, f, g, h]: &[u8; 9]| {
        (bucket, u64::from_le_bytes([a, b, c, d, e, f, g, h]))
    };
    entries.iter().map(entry).collect()
}

/// A history that does not do as asked. Nothing of what was asked has happened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// Another process has been writing for too long.
    #[error("the history is locked by another process")]
    Locked(#[source] rusqlite::Error),
    /// The file, or its file system, may not be written.
    #[error("the history is read-only")]
    ReadOnly(#[source] rusqlite::Error),
    /// No space is left.
    #[error("no space is left for the history")]
    DiskFull(#[source] rusqlite::Error),
    /// The file is damaged, or no SQLite file; the next opening sets it aside.
    #[error("the history is damaged")]
    Corrupt(#[source] rusqlite::Error),
    /// A database of another program.
    #[error("the file is a database of another program (application id {application_id:#x})")]
    Foreign {
        /// The id that it names itself by.
        application_id: i32,
    },
    /// The platform has no place for it.
    #[error("this user has no home directory to keep the history in")]
    NoLocation,
    /// The file or its directory cannot be used.
    #[error("the history's file cannot be used")]
    Io(#[from] std::io::Error),
    /// Anything else that the database says.
    #[error("the history's database failed")]
    Database(#[source] rusqlite::Error),
}

impl From<rusqlite::Error> for HistoryError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error::{
            FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType,
        };
        if let FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) =
            error
        {
            return Self::Corrupt(error);
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked(error),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Self::ReadOnly(error),
            Some(ErrorCode::DiskFull) => Self::DiskFull(error),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt(error),
            _ => Self::Database(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    #[test]
    fn a_full_disk_is_an_error_and_loses_nothing() {
        let mut history = History::in_memory();
        let record = |context| {
            let mut statistics = LatencyStatistics::default();
            statistics.observe(NonZeroU64::MIN);
            let kernel = "moe_trellis_swiglu".parse().unwrap();
            let (environment, class) = ("here".into(), NumericClass::Half);
            let (first_unix_s, last_unix_s) = (0, 0);
            Record { environment, kernel, context, class, statistics, first_unix_s, last_unix_s }
        };
        history.merge(&[record(0)]).unwrap();
        history.connection.pragma_update(None, "max_page_count", 4).unwrap();
        let many: Vec<Record> = (0..1000).map(record).collect();
        let error = history.merge(&many).unwrap_err();
        assert!(matches!(error, HistoryError::DiskFull(_)), "{error:?}");
        assert_eq!(history.load("here").unwrap(), [record(0)]);
    }
}
