//! What the adaptive policy learned in a run.

use std::fmt;

use serde::Serialize;
use trellect::{ReplayStatus, Selector, SelectorStats};

use crate::args::ModeArg;
use crate::switch::SwitchReport;
use crate::table;

/// What was learned.
#[derive(Debug, Serialize)]
pub(super) struct LearningReport {
    mode: &'static str,
    contexts: usize,
    calls: u64,
    probes: u64,
    /// Share of the device time that the kernels now believed fastest would have saved.
    regret: f64,
    /// The part of it that probes have cost.
    exploration: f64,
    switches: Vec<SwitchReport>,
    /// With `--mode replay`.
    replay: Option<ReplayReport>,
    history: HistoryReport,
}

/// How the log fits the launches.
#[derive(Debug, Serialize)]
struct ReplayReport {
    served: u64,
    /// Launches for which the log has no decision that could be served.
    mismatched: u64,
    first_mismatch: Option<String>,
}

#[derive(Debug, Serialize)]
struct HistoryReport {
    path: Option<String>,
    state: String,
    error: Option<String>,
    /// Latencies of other environments, which count little, and how they differ.
    doubted: Vec<String>,
}

impl LearningReport {
    /// Writes to the history and tells what was learned.
    pub(super) fn new(selector: &Selector, mode: ModeArg) -> Self {
        selector.flush();
        let stats: SelectorStats = selector.stats();
        let mode = match mode {
            ModeArg::Learn => "learn",
            ModeArg::Frozen => "frozen",
            ModeArg::Replay => "replay",
            ModeArg::Off => "off",
        };
        let switch = |switch| SwitchReport::new(switch, &stats.contexts);
        Self {
            mode,
            contexts: stats.contexts.len(),
            calls: stats.calls(),
            probes: stats.probes,
            regret: stats.regret(),
            exploration: stats.exploration(),
            switches: stats.switches.iter().map(switch).collect(),
            replay: stats.replay.map(|ReplayStatus { served, mismatched, first_mismatch }| {
                ReplayReport { served, mismatched, first_mismatch }
            }),
            history: HistoryReport {
                path: stats.history.path.map(|path| path.display().to_string()),
                state: stats.history.state,
                error: stats.history.error,
                doubted: stats.history.doubted,
            },
        }
    }
}

impl LearningReport {
    /// Why launches were not served as the log says, where any was.
    pub(super) fn mismatch(&self) -> Option<String> {
        let ReplayReport { served, mismatched, first_mismatch } = self.replay.as_ref()?;
        let first = first_mismatch.as_ref().filter(|_| *mismatched > 0)?;
        let launches = served + mismatched;
        Some(format!("{mismatched} of {launches} launches do not fit the log; first: {first}"))
    }
}

impl fmt::Display for LearningReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for switch in &self.switches {
            writeln!(f, "  {switch}")?;
        }
        let contexts = table::plural(self.contexts, "context");
        let switches = match self.switches.len() {
            1 => "1 switch".into(),
            count => format!("{count} switches"),
        };
        writeln!(
            f,
            "{}: {contexts}, {} launches, {} probes, {switches}; {:.2} % of the time was lost to \
             slower kernels, {:.2} % by probing",
            self.mode,
            self.calls,
            self.probes,
            100.0 * self.regret,
            100.0 * self.exploration
        )?;
        if let Some(ReplayReport { served, mismatched, first_mismatch }) = &self.replay {
            write!(f, "{served} launches as logged, {mismatched} by the rules")?;
            match first_mismatch {
                Some(first) => writeln!(f, "; first: {first}")?,
                None => writeln!(f)?,
            }
        }
        let HistoryReport { path, state, error, .. } = &self.history;
        match path {
            Some(path) => write!(f, "history {path}: {state}")?,
            None => write!(f, "no history")?,
        }
        match error {
            Some(error) => writeln!(f, "; {error}"),
            None => writeln!(f),
        }
    }
}
