//! Everything behind the selector's lock: the groups and what they learn, the memory of the
//! devices, and the history.

mod device;
mod opening;
mod policy;

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use trellect_core::{Backend, KernelSpec, LayerShape, NumericClass, PreparedLayer};
use trellect_select::adaptive::{AdaptiveConfig, Mode};
use trellect_select::hot::{FeedbackProducer, feedback_ring};
use trellect_select::{ContextKey, Thresholds};
use trellect_tune::decisions::{DecisionLog, GroupDecisions};
use trellect_tune::history::History;

pub(super) use self::opening::chain;

use self::device::Device;
use super::call::KnownCall;
use super::group::{Group, MAX_CONTEXTS};
use super::learner::Learner;
use super::stats::{HistoryStatus, SelectorStats};
use super::{Decisions, SelectorOptions};

/// How old a reading of a device's memory may be: reading it costs as much as a small call.
const MEMORY_READING: Duration = Duration::from_millis(100);
/// How often what was learned is written to the history.
const SAVE_EVERY: Duration = Duration::from_secs(2);
/// The longest that writing rests after it has failed.
const LONGEST_REST: Duration = Duration::from_secs(64);
/// Outcomes that a dispatcher's ring holds.
const RING: usize = 4096;

/// A context that a dispatcher has met and the table does not have.
pub(super) struct Ask {
    pub(super) group: usize,
    pub(super) context: ContextKey,
    pub(super) call: KnownCall,
    /// Index of the rules' pick.
    pub(super) default: usize,
}

/// What a dispatcher brings along.
pub(super) struct Newcomer<'a> {
    pub(super) backend: &'a Arc<dyn Backend>,
    pub(super) shape: LayerShape,
    pub(super) numeric: NumericClass,
    pub(super) arms: Vec<KernelSpec>,
    /// The layer to calibrate on; without one the history's models must do.
    pub(super) layer: Option<&'a Arc<dyn PreparedLayer>>,
    pub(super) thresholds: &'a Thresholds,
}

pub(super) struct Controller {
    config: AdaptiveConfig,
    calibration_budget: Duration,
    started: Instant,
    devices: Vec<Device>,
    learners: Vec<Learner>,
    decisions: Decisions,
    /// Groups of the log that is replayed which have not been met.
    unmet: Vec<GroupDecisions>,
    asks: Receiver<Ask>,
    memory_read: Option<Instant>,
    history: History,
    status: HistoryStatus,
    next_save: Instant,
    rest: Duration,
}

impl Controller {
    pub(super) fn new(options: &SelectorOptions, asks: Receiver<Ask>) -> Self {
        let (history, status) = opening::open_history(options.history.clone());
        let unmet = match &options.decisions {
            Decisions::Replayed(log) => log.groups.clone(),
            Decisions::ByPlan | Decisions::Logged => Vec::new(),
        };
        let started = Instant::now();
        let max_contexts = options.adaptive.max_contexts.min(MAX_CONTEXTS);
        Self {
            config: AdaptiveConfig { max_contexts, ..options.adaptive.clone() },
            calibration_budget: options.calibration_budget,
            started,
            devices: Vec::new(),
            learners: Vec::new(),
            decisions: options.decisions.clone(),
            unmet,
            asks,
            memory_read: None,
            history,
            status,
            next_save: started + SAVE_EVERY,
            rest: SAVE_EVERY,
        }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Learns from what has been reported, begins the contexts asked for and shows the new plans;
    /// whether there was anything to do. Writes to the history when that is due.
    pub(super) fn round(&mut self) -> bool {
        self.read_memory();
        let now_ns = self.now_ns();
        let mut any = false;
        while let Ok(Ask { group, context, call, default }) = self.asks.try_recv() {
            any = true;
            self.learners[group].open(context, call, default, now_ns);
        }
        for learner in &mut self.learners {
            any |= learner.learn_all(now_ns);
            learner.publish();
        }
        if Instant::now() >= self.next_save {
            self.save();
        }
        any
    }

    /// The group of a newcomer and the end that its calls report at.
    pub(super) fn attach(
        &mut self,
        newcomer: Newcomer<'_>,
    ) -> (usize, Arc<Group>, FeedbackProducer) {
        let (producer, consumer) = feedback_ring(RING);
        let at = self.group_of(newcomer);
        let learner = &mut self.learners[at];
        learner.listen(consumer);
        learner.publish();
        (at, Arc::clone(&learner.group), producer)
    }

    /// The learner of a group, without joining it.
    pub(super) fn learner_of(&mut self, newcomer: Newcomer<'_>) -> &Learner {
        let at = self.group_of(newcomer);
        &self.learners[at]
    }

    pub(super) fn learner(&self, group: usize) -> &Learner {
        &self.learners[group]
    }

    /// A group's learner, and the time.
    pub(super) fn learner_now(&mut self, group: usize) -> (&mut Learner, u64) {
        let now_ns = self.now_ns();
        (&mut self.learners[group], now_ns)
    }

    pub(super) fn take_decisions(&mut self) -> DecisionLog {
        DecisionLog { groups: self.learners.iter_mut().map(Learner::take_decisions).collect() }
    }

    fn group_of(&mut self, newcomer: Newcomer<'_>) -> usize {
        let device = self.device_of(&newcomer);
        let Device { environment, memory, calibration, journal, foreign, .. } =
            &self.devices[device];
        let same = |learner: &Learner| {
            learner.environment == *environment
                && learner.group.shape == newcomer.shape
                && learner.group.arms == newcomer.arms
        };
        if let Some(known) = self.learners.iter().position(same) {
            return known;
        }
        let Newcomer { shape, numeric, arms, thresholds, layer, .. } = newcomer;
        let mut tuples = layer.map_or_else(Vec::new, |layer| layer.expert_tuples().to_vec());
        tuples.sort_unstable();
        tuples.dedup();
        let config = policy::calibrated(&self.config, calibration);
        let policy = policy::policy(config, &arms, calibration, journal, foreign);
        let asks = self.decisions != Decisions::ByPlan;
        let group = Arc::new(Group::new(shape, arms, tuples, Arc::clone(memory), asks));
        let mut learner =
            Learner::new(group, environment.clone(), numeric, thresholds.clone(), policy);
        let figures = memory.figures();
        learner.observe_memory(figures.total.saturating_sub(figures.available), figures.total);
        journal.contexts.iter().for_each(|note| learner.reopen(note));
        learner.set_mode(self.config.mode);
        if let Decisions::Replayed(_) = self.decisions {
            let same = |log: &GroupDecisions| log.shape == shape && log.numeric == numeric;
            let log = self.unmet.iter().position(same).map(|at| self.unmet.remove(at));
            learner.replay(log.map(|log| log.decisions));
        }
        self.learners.push(learner);
        self.learners.len() - 1
    }

    fn read_memory(&mut self) {
        let now = Instant::now();
        if self.memory_read.is_some_and(|read| now.duration_since(read) < MEMORY_READING) {
            return;
        }
        self.memory_read = Some(now);
        for device in &mut self.devices {
            let figures = device.backend.memory();
            device.memory.publish(figures, &mut device.gauge);
            let used = figures.total.saturating_sub(figures.available);
            for learner in &mut self.learners {
                if learner.environment == device.environment {
                    learner.observe_memory(used, figures.total);
                }
            }
        }
    }

    /// Settles every account and writes it to the history. What cannot be written waits; after a
    /// failure longer and longer, since a locked file may take two seconds to say so.
    pub(super) fn save(&mut self) {
        let mut failed = false;
        for learner in &mut self.learners {
            learner.settle(super::unix_s());
            if !self.status.is_writable {
                continue;
            }
            let Some(journal) = learner.account.unsaved(&learner.environment) else { continue };
            match self.history.add(&learner.environment, &journal) {
                Ok(()) => {
                    learner.account.saved();
                    self.status.saves += 1;
                }
                Err(error) => {
                    self.status.fail(&error);
                    failed = true;
                    break;
                }
            }
        }
        self.rest = match failed {
            true => (2 * self.rest).min(LONGEST_REST),
            false => SAVE_EVERY,
        };
        self.next_save = Instant::now() + self.rest;
    }

    pub(super) fn set_mode(&mut self, mode: Mode) {
        self.config.mode = mode;
        for learner in &mut self.learners {
            learner.set_mode(mode);
            learner.publish();
        }
    }

    pub(super) fn stats(&mut self) -> SelectorStats {
        for learner in &mut self.learners {
            learner.settle(super::unix_s());
        }
        SelectorStats::new(&self.learners, self.status.clone())
    }
}
