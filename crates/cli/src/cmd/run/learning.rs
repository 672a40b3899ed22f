//! What the adaptive policy learned in a run.

use std::fmt;

use serde::Serialize;
use trellect::{Selector, SelectorStats};

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
    history: HistoryReport,
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
            history: HistoryReport {
                path: stats.history.path.map(|path| path.display().to_string()),
                state: stats.history.state,
                error: stats.history.error,
                doubted: stats.history.doubted,
            },
        }
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
