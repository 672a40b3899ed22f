use std::path::PathBuf;

use trellect_core::KernelId;
use trellect_tune::history::{ContextNote, HistoryError, SelectionCount, SwitchNote};

use super::controller::chain;
use super::learner::Learner;
use super::observe::is_exploration;

/// What a [`Selector`](crate::Selector) has done since it was made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SelectorStats {
    /// Contexts that have a plan now.
    pub contexts: Vec<ContextNote>,
    /// Calls by context, kernel and reason.
    pub selections: Vec<SelectionCount>,
    /// Changes of incumbents.
    pub switches: Vec<SwitchNote>,
    /// Kernels that failed, how often to launch, and how often with a wrong result.
    pub failures: Vec<(KernelId, u64, u64)>,
    /// Launches made to learn.
    pub probes: u64,
    /// Restarts of a context's race after a shift.
    pub alarms: u64,
    /// Rounds of idle sweeps.
    pub sweeps: u64,
    /// How the log fits that is replayed; `None` where none is.
    pub replay: Option<ReplayStatus>,
    /// Reports that were lost because the controller did not keep up.
    pub dropped: u64,
    /// What became of the history.
    pub history: HistoryStatus,
}

/// How a log that is replayed fits the calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayStatus {
    /// Calls that were served as the log says. Beyond its end contexts go on as they were last.
    pub served: u64,
    /// Calls for which the log has no decision that could be served; the rules served them.
    pub mismatched: u64,
    /// Why, for the first of them, or why no call can fit.
    pub first_mismatch: Option<String>,
}

/// What became of the history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryStatus {
    /// Its file; `None` where none was asked for.
    pub path: Option<PathBuf>,
    /// How it was opened, in words.
    pub state: String,
    /// Whether anything is written.
    pub is_writable: bool,
    /// How often it was written to.
    pub saves: u64,
    /// Why reading or writing failed last.
    pub error: Option<String>,
    /// What was found of other environments, and how they differ from this one.
    pub doubted: Vec<String>,
}

impl HistoryStatus {
    pub(super) fn new(path: Option<PathBuf>, state: &str, is_writable: bool) -> Self {
        let (saves, error, doubted) = (0, None, Vec::new());
        Self { path, state: state.into(), is_writable, saves, error, doubted }
    }

    pub(super) fn fail(&mut self, error: &HistoryError) {
        self.error = Some(chain(error));
        self.is_writable &= !matches!(error, HistoryError::ReadOnly(_));
    }
}

impl SelectorStats {
    pub(super) fn new(learners: &[Learner], history: HistoryStatus) -> Self {
        let accounts = || learners.iter().map(|learner| &learner.account);
        let selections: Vec<SelectionCount> =
            accounts().flat_map(|account| account.selections()).collect();
        let probes = selections.iter().filter(|selection| is_exploration(&selection.reason));
        Self {
            contexts: accounts().flat_map(|account| account.contexts().cloned()).collect(),
            probes: probes.map(|selection| selection.calls).sum(),
            selections,
            switches: accounts().flat_map(|account| account.switches().to_vec()).collect(),
            failures: accounts().flat_map(|account| account.failures()).collect(),
            alarms: learners.iter().map(|learner| learner.totals().alarms).sum(),
            sweeps: learners.iter().map(|learner| learner.totals().sweeps).sum(),
            replay: learners.iter().filter_map(|learner| learner.replay.as_ref()).fold(None, join),
            dropped: learners.iter().map(Learner::dropped).sum(),
            history,
        }
    }

    /// Calls served.
    pub fn calls(&self) -> u64 {
        self.selections.iter().map(|selection| selection.calls).sum()
    }

    /// Share of the device time that the kernels believed fastest would have saved; 0 before the
    /// first call. Probes count.
    pub fn regret(&self) -> f64 {
        self.lost(|_| true)
    }

    /// Share of the device time that probing has cost.
    pub fn exploration(&self) -> f64 {
        self.lost(is_exploration)
    }

    fn lost(&self, counts: impl Fn(&str) -> bool) -> f64 {
        let total: u64 = self.selections.iter().map(|selection| selection.total_ns).sum();
        let counted = self.selections.iter().filter(|selection| counts(&selection.reason));
        let lost: u64 = counted.map(|selection| selection.lost_ns).sum();
        if total == 0 { 0.0 } else { lost as f64 / total as f64 }
    }
}

fn join(sum: Option<ReplayStatus>, status: &ReplayStatus) -> Option<ReplayStatus> {
    let sum = sum.unwrap_or_default();
    Some(ReplayStatus {
        served: sum.served + status.served,
        mismatched: sum.mismatched + status.mismatched,
        first_mismatch: sum.first_mismatch.or_else(|| status.first_mismatch.clone()),
    })
}
