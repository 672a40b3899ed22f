//! What was chosen, and what was learned from it: beside the latencies, everything that a later
//! process starts from and that `trellect stats` tells.

use std::fmt;

use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use trellect_core::{BitTuple, KernelId};

use super::{History, HistoryError, Record, merge_one, signed, unreadable, unsigned};
use crate::calibrate::StoredCalibration;
use crate::text;

/// What one environment has chosen and learned. [`History::add`] adds one to another,
/// [`History::journal`] reads the sum.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Journal {
    /// Latencies.
    pub records: Vec<Record>,
    /// The contexts met; the later note of a context replaces the earlier one.
    pub contexts: Vec<ContextNote>,
    /// How often which kernel served, and why; counts add up.
    pub selections: Vec<SelectionCount>,
    /// Changes of incumbents, oldest first. One that is known already with all its fields is not
    /// added again.
    pub switches: Vec<SwitchNote>,
}

/// What a context is and what serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextNote {
    /// The context's key.
    pub context: u64,
    /// When the note was made, in seconds since 1970; 0 in files of earlier schemas.
    pub unix_s: u64,
    /// The row of the rules' token table that its first call fell into.
    pub bucket: String,
    /// Its first call. Latencies of the context are those of this call: what other calls took is
    /// scaled by the work that the cost model sees in them.
    pub call: ContextCall,
    /// The kernel that serves it.
    pub incumbent: KernelId,
}

/// The call that opened a context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextCall {
    /// Width of a token.
    pub hidden_size: usize,
    /// Inner width of an expert.
    pub intermediate_size: usize,
    /// Experts of the layer.
    pub num_experts: usize,
    /// Tokens.
    pub num_tokens: usize,
    /// The experts with tokens, by ascending tuple.
    pub loads: Vec<ContextLoad>,
}

/// An expert with tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextLoad {
    /// Its widths.
    #[serde(with = "text")]
    pub tuple: BitTuple,
    /// Its tokens.
    pub rows: u32,
}

impl fmt::Display for ContextCall {
    /// `5 tokens, 8 of 64 experts with up to 2 each: 6 x 6_2_3, 2 x 6_3_4`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = self.loads.iter().map(|load| load.rows).max().unwrap_or(0);
        let plural = if self.num_tokens == 1 { "" } else { "s" };
        let (tokens, active, experts) = (self.num_tokens, self.loads.len(), self.num_experts);
        write!(f, "{tokens} token{plural}, {active} of {experts} experts with up to {most} each:")?;
        let mut separator = "";
        for run in self.loads.chunk_by(|a, b| a.tuple == b.tuple) {
            write!(f, "{separator} {} x {}", run.len(), run[0].tuple)?;
            separator = ",";
        }
        Ok(())
    }
}

/// Calls of one context that one kernel served for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectionCount {
    /// The context's key.
    pub context: u64,
    /// The kernel.
    pub kernel: KernelId,
    /// The reason's name.
    pub reason: String,
    /// Calls.
    pub calls: u64,
    /// Device time of these calls in nanoseconds.
    pub total_ns: u64,
    /// How much of it the kernel believed fastest would have saved, in nanoseconds.
    pub lost_ns: u64,
}

/// A change of a context's incumbent and the proof that it rested on.
#[derive(Clone, Debug, PartialEq)]
pub struct SwitchNote {
    /// The context's key.
    pub context: u64,
    /// When, in seconds since 1970.
    pub unix_s: u64,
    /// The old incumbent.
    pub from: KernelId,
    /// The new one.
    pub to: KernelId,
    /// Pairs that were measured.
    pub pairs: f64,
    /// Their mean gain, as a log ratio; a pair counts as 0.15 at most.
    pub gain: f64,
    /// Log wealth that the winning bet had to reach.
    pub log_wealth: f64,
}

/// Statement of the second schema.
pub(super) const SCHEMA_2: &str = "
    CREATE TABLE contexts (
        environment TEXT NOT NULL,
        context INTEGER NOT NULL,
        bucket TEXT NOT NULL,
        call TEXT NOT NULL,
        incumbent TEXT NOT NULL,
        PRIMARY KEY (environment, context)
    ) WITHOUT ROWID;
    CREATE TABLE selections (
        environment TEXT NOT NULL,
        context INTEGER NOT NULL,
        kernel TEXT NOT NULL,
        reason TEXT NOT NULL,
        calls INTEGER NOT NULL,
        total_ns INTEGER NOT NULL,
        lost_ns INTEGER NOT NULL,
        PRIMARY KEY (environment, context, kernel, reason)
    ) WITHOUT ROWID;
    CREATE TABLE switches (
        id INTEGER PRIMARY KEY,
        environment TEXT NOT NULL,
        context INTEGER NOT NULL,
        unix_s INTEGER NOT NULL,
        from_kernel TEXT NOT NULL,
        to_kernel TEXT NOT NULL,
        pairs REAL NOT NULL,
        gain REAL NOT NULL,
        log_wealth REAL NOT NULL
    );
    CREATE TABLE calibrations (environment TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
";

/// Statement of the third schema: dates that tell which of two histories' rows stays, and an index by
/// which a switch that is there already is found.
pub(super) const SCHEMA_3: &str = "
    ALTER TABLE contexts ADD COLUMN unix_s INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE calibrations ADD COLUMN unix_s INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX switches_by_context ON switches (environment, context, unix_s);
";

/// Tables whose rows belong to an environment.
pub(super) const TABLES: [&str; 5] =
    ["records", "contexts", "selections", "switches", "calibrations"];

impl History {
    /// Adds a journal to what is known of `environment`; all of it or, on an error, nothing. Waits
    /// for other writers for up to two seconds.
    ///
    /// # Errors
    /// [`HistoryError`]; the journal is still the caller's to keep.
    pub fn add(&mut self, environment: &str, journal: &Journal) -> Result<(), HistoryError> {
        let transaction = self.writing()?;
        for record in &journal.records {
            merge_one(&transaction, record)?;
        }
        add_contexts(&transaction, environment, &journal.contexts)?;
        add_selections(&transaction, environment, &journal.selections)?;
        add_switches(&transaction, environment, &journal.switches)?;
        Ok(transaction.commit()?)
    }

    /// Everything that is known of `environment`.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn journal(&self, environment: &str) -> Result<Journal, HistoryError> {
        let contexts = "SELECT context, bucket, call, incumbent, unix_s FROM contexts \
                        WHERE environment = ?1 ORDER BY context";
        let selections = "SELECT context, kernel, reason, calls, total_ns, lost_ns FROM selections \
                          WHERE environment = ?1 ORDER BY context, calls DESC, kernel, reason";
        let switches = "SELECT context, unix_s, from_kernel, to_kernel, pairs, gain, log_wealth \
                        FROM switches WHERE environment = ?1 ORDER BY unix_s, id";
        Ok(Journal {
            records: self.load(environment)?,
            contexts: self.rows(contexts, environment, |row| {
                Ok(ContextNote {
                    context: unsigned(row, 0)?,
                    bucket: row.get(1)?,
                    call: document(row, 2)?,
                    incumbent: kernel(row, 3)?,
                    unix_s: unsigned(row, 4)?,
                })
            })?,
            selections: self.rows(selections, environment, |row| {
                Ok(SelectionCount {
                    context: unsigned(row, 0)?,
                    kernel: kernel(row, 1)?,
                    reason: row.get(2)?,
                    calls: unsigned(row, 3)?,
                    total_ns: unsigned(row, 4)?,
                    lost_ns: unsigned(row, 5)?,
                })
            })?,
            switches: self.rows(switches, environment, |row| {
                Ok(SwitchNote {
                    context: unsigned(row, 0)?,
                    unix_s: unsigned(row, 1)?,
                    from: kernel(row, 2)?,
                    to: kernel(row, 3)?,
                    pairs: row.get(4)?,
                    gain: row.get(5)?,
                    log_wealth: row.get(6)?,
                })
            })?,
        })
    }

    /// The cost models of `environment`, where it was calibrated.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn calibration(
        &self,
        environment: &str,
    ) -> Result<Option<StoredCalibration>, HistoryError> {
        Ok(self.dated_calibration(environment)?.map(|(calibration, _)| calibration))
    }

    pub(super) fn dated_calibration(
        &self,
        environment: &str,
    ) -> Result<Option<(StoredCalibration, u64)>, HistoryError> {
        let sql = "SELECT document, unix_s FROM calibrations WHERE environment = ?1";
        let read = |row: &Row<'_>| Ok((document(row, 0)?, unsigned(row, 1)?));
        Ok(self.connection.query_row(sql, [environment], read).optional()?)
    }

    /// Keeps the cost models of `environment`, fitted at `unix_s`, where it has none, and returns
    /// those that it has now: evidence is relative to them, so that the first ones stay.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn keep_calibration(
        &mut self,
        environment: &str,
        calibration: &StoredCalibration,
        unix_s: u64,
    ) -> Result<StoredCalibration, HistoryError> {
        let sql = "INSERT OR IGNORE INTO calibrations (environment, document, unix_s) \
                   VALUES (?1, ?2, ?3)";
        let text = document_of(calibration);
        self.connection.execute(sql, params![environment, text, signed(unix_s)])?;
        Ok(self.calibration(environment)?.unwrap_or_else(|| calibration.clone()))
    }

    /// Every environment that anything is kept of, by id.
    pub(super) fn environment_ids(&self) -> Result<Vec<String>, HistoryError> {
        let selects = TABLES.map(|table| format!("SELECT environment FROM {table}"));
        let sql = format!("{} ORDER BY 1", selects.join(" UNION "));
        let mut statement = self.connection.prepare(&sql)?;
        let rows = statement.query_map([], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn rows<T>(
        &self,
        sql: &str,
        environment: &str,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, HistoryError> {
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map([environment], read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn add_contexts(
    transaction: &Transaction<'_>,
    environment: &str,
    contexts: &[ContextNote],
) -> Result<(), HistoryError> {
    let mut insert = transaction.prepare(
        "INSERT OR REPLACE INTO contexts (environment, context, bucket, call, incumbent, unix_s) \
         VALUES (?, ?, ?, ?, ?, ?)",
    )?;
    for ContextNote { context, unix_s, bucket, call, incumbent } in contexts {
        let (context, incumbent) = (context.cast_signed(), incumbent.to_string());
        let (call, unix_s) = (document_of(call), signed(*unix_s));
        insert.execute(params![environment, context, bucket, call, incumbent, unix_s])?;
    }
    Ok(())
}

/// SQLite turns a sum that overflows into a float, which is larger than any integer: sums saturate.
pub(super) fn add_selections(
    transaction: &Transaction<'_>,
    environment: &str,
    selections: &[SelectionCount],
) -> Result<(), HistoryError> {
    let mut insert = transaction.prepare(
        "INSERT INTO selections VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET \
         calls = min(calls + excluded.calls, 9223372036854775807), \
         total_ns = min(total_ns + excluded.total_ns, 9223372036854775807), \
         lost_ns = min(lost_ns + excluded.lost_ns, 9223372036854775807)",
    )?;
    for selection in selections {
        insert.execute(params![
            environment,
            selection.context.cast_signed(),
            selection.kernel.to_string(),
            selection.reason,
            signed(selection.calls),
            signed(selection.total_ns),
            signed(selection.lost_ns),
        ])?;
    }
    Ok(())
}

pub(super) fn add_switches(
    transaction: &Transaction<'_>,
    environment: &str,
    switches: &[SwitchNote],
) -> Result<(), HistoryError> {
    let mut insert = transaction.prepare(
        "INSERT INTO switches SELECT NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 WHERE NOT EXISTS \
         (SELECT 1 FROM switches WHERE environment = ?1 AND context = ?2 AND unix_s = ?3 \
          AND from_kernel = ?4 AND to_kernel = ?5 AND pairs = ?6 AND gain = ?7 \
          AND log_wealth = ?8)",
    )?;
    for switch in switches {
        insert.execute(params![
            environment,
            switch.context.cast_signed(),
            signed(switch.unix_s),
            switch.from.to_string(),
            switch.to.to_string(),
            switch.pairs,
            switch.gain,
            switch.log_wealth,
        ])?;
    }
    Ok(())
}

/// Numbers and names as a column holds them.
pub(super) fn document_of(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("numbers and names are JSON")
}

fn document<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| unreadable(column, error))
}

fn kernel(row: &Row<'_>, column: usize) -> rusqlite::Result<KernelId> {
    let name: String = row.get(column)?;
    name.parse().map_err(|error| unreadable(column, error))
}
