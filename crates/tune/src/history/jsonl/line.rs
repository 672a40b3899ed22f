//! What a line may be, and what is wrong with it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trellect_core::{KernelId, LayerShape, NumericClass};
use trellect_select::LatencyStatistics;

use crate::calibrate::StoredCalibration;
use crate::fingerprint::Fingerprint;
use crate::history::{ContextCall, ContextNote, Record, SelectionCount, SwitchNote};
use crate::lines::{LineFault, check, hex, is_hexadecimal, key};
use crate::text;

/// Longest name of a bucket or a reason.
const MAX_NAME: usize = 32;

/// One line; numbers that JSON readers would round are text.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Line {
    Environment {
        id: String,
        fingerprint: Fingerprint,
    },
    Record(RecordLine),
    Context {
        environment: String,
        context: String,
        unix_s: u64,
        bucket: String,
        call: ContextCall,
        #[serde(with = "text")]
        incumbent: KernelId,
    },
    Selection {
        environment: String,
        context: String,
        #[serde(with = "text")]
        kernel: KernelId,
        reason: String,
        calls: u64,
        total_ns: u64,
        lost_ns: u64,
    },
    Switch {
        environment: String,
        context: String,
        unix_s: u64,
        #[serde(with = "text")]
        from: KernelId,
        #[serde(with = "text")]
        to: KernelId,
        pairs: f64,
        gain: f64,
        log_wealth: f64,
    },
    Calibration {
        environment: String,
        unix_s: u64,
        calibration: StoredCalibration,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordLine {
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

/// A line that has been found sound, with the environment that it belongs to.
pub(super) enum Row {
    Environment(Fingerprint),
    Record(Record),
    Context(ContextNote),
    Selection(SelectionCount),
    Switch(SwitchNote),
    Calibration { unix_s: u64, calibration: StoredCalibration },
}

impl From<Record> for Line {
    fn from(record: Record) -> Self {
        let LatencyStatistics { count, sum, sum_squares, min_ns, max_ns, histogram } =
            record.statistics;
        Self::Record(RecordLine {
            environment: record.environment,
            kernel: record.kernel,
            context: hex(record.context),
            class: record.class,
            count,
            sum,
            sum_squares,
            min_ns,
            max_ns,
            histogram: histogram.into_iter().collect(),
            first_unix_s: record.first_unix_s,
            last_unix_s: record.last_unix_s,
        })
    }
}

impl Line {
    pub(super) fn of_context(environment: &str, note: ContextNote) -> Self {
        let ContextNote { context, unix_s, bucket, call, incumbent } = note;
        let (environment, context) = (environment.into(), hex(context));
        Self::Context { environment, context, unix_s, bucket, call, incumbent }
    }

    pub(super) fn of_selection(environment: &str, selection: SelectionCount) -> Self {
        let SelectionCount { context, kernel, reason, calls, total_ns, lost_ns } = selection;
        let (environment, context) = (environment.into(), hex(context));
        Self::Selection { environment, context, kernel, reason, calls, total_ns, lost_ns }
    }

    pub(super) fn of_switch(environment: &str, switch: SwitchNote) -> Self {
        let SwitchNote { context, unix_s, from, to, pairs, gain, log_wealth } = switch;
        let (environment, context) = (environment.into(), hex(context));
        Self::Switch { environment, context, unix_s, from, to, pairs, gain, log_wealth }
    }

    /// What the line says, and of which environment, where nothing in it is impossible.
    pub(super) fn checked(self) -> Result<(String, Row), LineFault> {
        let (environment, row) = match self {
            Self::Environment { id, fingerprint } => {
                check("id", &id, "the hash of the fingerprint", id == fingerprint.id())?;
                return Ok((id, Row::Environment(fingerprint)));
            }
            Self::Record(line) => (line.environment.clone(), Row::Record(line.checked()?)),
            Self::Context { environment, context, unix_s, bucket, call, incumbent } => {
                let context = key(&context)?;
                date("unix_s", unix_s)?;
                name("bucket", &bucket)?;
                check_call(&call)?;
                (
                    environment,
                    Row::Context(ContextNote { context, unix_s, bucket, call, incumbent }),
                )
            }
            Self::Selection { environment, context, kernel, reason, calls, total_ns, lost_ns } => {
                let context = key(&context)?;
                name("reason", &reason)?;
                check("calls", calls, "1 to 2^63 - 1", calls > 0 && is_storable(calls))?;
                check("total_ns", total_ns, "0 to 2^63 - 1", is_storable(total_ns))?;
                check("lost_ns", lost_ns, "0 to total_ns", lost_ns <= total_ns)?;
                let count = SelectionCount { context, kernel, reason, calls, total_ns, lost_ns };
                (environment, Row::Selection(count))
            }
            Self::Switch { environment, context, unix_s, from, to, pairs, gain, log_wealth } => {
                let context = key(&context)?;
                date("unix_s", unix_s)?;
                check("pairs", pairs, "0 or more", pairs >= 0.0)?;
                let note = SwitchNote { context, unix_s, from, to, pairs, gain, log_wealth };
                (environment, Row::Switch(note))
            }
            Self::Calibration { environment, unix_s, calibration } => {
                date("unix_s", unix_s)?;
                if let Some((field, found, expected)) = calibration.fault() {
                    return Err(LineFault::Field { field, found, expected });
                }
                (environment, Row::Calibration { unix_s, calibration })
            }
        };
        let is_id = is_hexadecimal(&environment, 32);
        check("environment", &environment, "32 hexadecimal digits", is_id)?;
        Ok((environment, row))
    }
}

impl RecordLine {
    fn checked(self) -> Result<Record, LineFault> {
        let context = key(&self.context)?;
        let histogram: BTreeMap<u8, u64> = self.histogram.iter().copied().collect();
        let is_unique = histogram.len() == self.histogram.len();
        check("histogram", format!("{:?}", self.histogram), "every bucket once", is_unique)?;
        let Self { count, sum, sum_squares, min_ns, max_ns, .. } = self;
        let statistics = LatencyStatistics { count, sum, sum_squares, min_ns, max_ns, histogram };
        if let Some((field, found, expected)) = statistics.fault() {
            return Err(LineFault::Field { field, found, expected });
        }
        let (first_unix_s, last_unix_s) = (self.first_unix_s, self.last_unix_s);
        date("last_unix_s", last_unix_s)?;
        check("last_unix_s", last_unix_s, "first_unix_s or later", first_unix_s <= last_unix_s)?;
        let Self { environment, kernel, class, .. } = self;
        Ok(Record { environment, kernel, context, class, statistics, first_unix_s, last_unix_s })
    }
}

fn check_call(call: &ContextCall) -> Result<(), LineFault> {
    let &ContextCall { hidden_size, intermediate_size, num_experts, num_tokens, .. } = call;
    let is_layer = LayerShape::new(hidden_size, intermediate_size, num_experts).is_ok();
    let sizes = format!("{hidden_size} x {intermediate_size} x {num_experts}");
    check("call", sizes, "sizes of a layer", is_layer)?;
    check("num_tokens", num_tokens, "1 or more", num_tokens > 0)?;
    let active = call.loads.len();
    check("loads", active, "1 to num_experts", (1..=num_experts).contains(&active))?;
    let all_work = call.loads.iter().all(|load| load.rows > 0);
    check("rows", 0, "1 or more", all_work)
}

fn date(field: &'static str, unix_s: u64) -> Result<(), LineFault> {
    check(field, unix_s, "a date in seconds since 1970", is_storable(unix_s))
}

/// Names end up on terminals and in metrics.
fn name(field: &'static str, text: &str) -> Result<(), LineFault> {
    let is_plain = text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    let fits = (1..=MAX_NAME).contains(&text.len());
    check(field, format!("{text:?}"), "1 to 32 of a-z, 0-9 and _", is_plain && fits)
}

/// SQLite's integers are signed.
fn is_storable(number: u64) -> bool {
    i64::try_from(number).is_ok()
}
