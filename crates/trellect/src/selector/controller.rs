//! Everything behind the selector's lock: the groups and what they learn, the memory of the
//! devices, and the history.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use trellect_core::{Backend, BackendKind, KernelSpec, LayerShape, NumericClass, PreparedLayer};
use trellect_select::adaptive::{
    AdaptiveConfig, AdaptivePolicy, Arm, Evidence, MachineLimits, MemoryGauge, Mode, Provenance,
};
use trellect_select::hot::{FeedbackProducer, feedback_ring};
use trellect_select::{ContextKey, Thresholds};
use trellect_tune::bandwidth::BandwidthProbe;
use trellect_tune::calibrate::{StoredCalibration, calibrate};
use trellect_tune::fingerprint::{Fingerprint, compare};
use trellect_tune::history::{History, HistoryError, Journal, Outcome, Record};

use super::SelectorOptions;
use super::call::KnownCall;
use super::group::{Group, MAX_CONTEXTS, SharedMemory};
use super::learner::Learner;
use super::stats::{HistoryStatus, SelectorStats};

/// How old a reading of a device's memory may be: reading it costs as much as a small call.
const MEMORY_READING: Duration = Duration::from_millis(100);
/// How often what was learned is written to the history.
const SAVE_EVERY: Duration = Duration::from_secs(2);
/// The longest that writing rests after it has failed.
const LONGEST_REST: Duration = Duration::from_secs(64);
/// Outcomes that a dispatcher's ring holds.
const RING: usize = 4096;
/// Bytes that are read to learn the memory's bandwidth.
const BANDWIDTH_BYTES: usize = 32 << 20;
/// Other environments of the history whose latencies are believed a little.
const MAX_FOREIGN: usize = 8;
/// Error of a cost model that nothing was measured for, as a log ratio.
const UNCALIBRATED_SD: f64 = 0.5;

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

struct Device {
    environment: String,
    backend: Arc<dyn Backend>,
    memory: Arc<SharedMemory>,
    gauge: MemoryGauge,
    calibration: StoredCalibration,
    /// What earlier processes have left of this environment.
    journal: Journal,
    /// Latencies of other environments, with why they are doubted.
    foreign: Vec<(Provenance, Vec<Record>)>,
}

pub(super) struct Controller {
    config: AdaptiveConfig,
    calibration_budget: Duration,
    started: Instant,
    devices: Vec<Device>,
    learners: Vec<Learner>,
    asks: Receiver<Ask>,
    memory_read: Option<Instant>,
    history: History,
    status: HistoryStatus,
    next_save: Instant,
    rest: Duration,
}

impl Controller {
    pub(super) fn new(options: &SelectorOptions, asks: Receiver<Ask>) -> Self {
        let (history, status) = open_history(options.history.clone());
        let started = Instant::now();
        let max_contexts = options.adaptive.max_contexts.min(MAX_CONTEXTS);
        Self {
            config: AdaptiveConfig { max_contexts, ..options.adaptive.clone() },
            calibration_budget: options.calibration_budget,
            started,
            devices: Vec::new(),
            learners: Vec::new(),
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
        let config = calibrated(&self.config, calibration);
        let policy = policy(config, &arms, calibration, journal, foreign);
        let group = Arc::new(Group::new(shape, arms, tuples, Arc::clone(memory)));
        let mut learner =
            Learner::new(group, environment.clone(), numeric, thresholds.clone(), policy);
        let figures = memory.figures();
        learner.observe_memory(figures.total.saturating_sub(figures.available), figures.total);
        journal.contexts.iter().for_each(|note| learner.reopen(note));
        learner.set_mode(self.config.mode);
        self.learners.push(learner);
        self.learners.len() - 1
    }

    fn device_of(&mut self, newcomer: &Newcomer<'_>) -> usize {
        let fingerprint = Fingerprint::of(newcomer.backend.as_ref(), newcomer.numeric);
        let environment = fingerprint.id();
        let same = |device: &Device| device.environment == environment;
        if let Some(known) = self.devices.iter().position(same) {
            return known;
        }
        let calibration = self.calibration(&environment, newcomer);
        let journal = self.history.journal(&environment);
        let journal = journal.map_err(|error| self.status.error = Some(error.to_string()));
        let foreign = self.foreign(&fingerprint, &environment);
        if self.status.is_writable
            && let Err(error) = self.history.register(&fingerprint)
        {
            self.status.fail(&error);
        }
        let mut device = Device {
            environment,
            backend: Arc::clone(newcomer.backend),
            memory: Arc::default(),
            gauge: MemoryGauge::default(),
            calibration,
            journal: journal.unwrap_or_default(),
            foreign,
        };
        device.memory.publish(device.backend.memory(), &mut device.gauge);
        self.devices.push(device);
        self.devices.len() - 1
    }

    /// The history's cost models of an environment, or new ones, which it then keeps.
    fn calibration(&mut self, environment: &str, newcomer: &Newcomer<'_>) -> StoredCalibration {
        match self.history.calibration(environment) {
            Ok(Some(stored)) => return stored,
            Ok(None) => {}
            Err(error) => self.status.error = Some(error.to_string()),
        }
        let none = StoredCalibration { bytes_per_ns: 0.0, kernels: Vec::new() };
        // The cost model's terms and the memory's bandwidth are the processor's; a GPU's fixed costs
        // need another model, and until then its kernels start as the rules say.
        let fits =
            newcomer.backend.kind() == BackendKind::Cpu && !self.calibration_budget.is_zero();
        let Some(layer) = newcomer.layer.filter(|_| fits) else {
            return none;
        };
        let layers = [Arc::clone(layer)];
        let Ok(found) = calibrate(&layers, newcomer.numeric, self.calibration_budget) else {
            // A kernel that fails here will fail in a call, too, which says so.
            return none;
        };
        let stored = StoredCalibration::new(&found, host_bytes_per_ns());
        match self.history.keep_calibration(environment, &stored, super::unix_s()) {
            Ok(kept) => kept,
            Err(error) => {
                self.status.fail(&error);
                stored
            }
        }
    }

    /// Latencies of the environments that were used last, this one aside.
    fn foreign(&mut self, here: &Fingerprint, environment: &str) -> Vec<(Provenance, Vec<Record>)> {
        let mut others = self.history.environments().unwrap_or_default();
        others.retain(|other| other.id != environment && other.num_records > 0);
        others.sort_unstable_by_key(|other| std::cmp::Reverse(other.last_unix_s));
        let mut foreign = Vec::new();
        for other in others.into_iter().take(MAX_FOREIGN) {
            let Some(fingerprint) = other.fingerprint else { continue };
            let Ok(records) = self.history.load(&other.id) else { continue };
            let found = compare(&fingerprint, here);
            let differences = found.differences().iter().map(ToString::to_string);
            let reason = differences.collect::<Vec<_>>().join("; ");
            self.status.doubted.push(format!("{} records: {reason}", records.len()));
            let variance_factor = found.variance_factor();
            foreign.push((Provenance { variance_factor, reason: reason.into() }, records));
        }
        foreign
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

/// Opens the history; in memory where there is no path.
fn open_history(path: Option<PathBuf>) -> (History, HistoryStatus) {
    let Some(path) = path else {
        return (History::in_memory(), HistoryStatus::new(None, "in memory, as asked for", true));
    };
    let (history, outcome) = History::open(Some(&path));
    let (state, is_writable) = match outcome {
        Outcome::Ready => ("ready".to_owned(), true),
        Outcome::ReadOnly => ("read-only: nothing is written".to_owned(), false),
        Outcome::SetAsideDamaged { moved_to, why } => {
            (format!("a damaged file was moved to {}: {why}", moved_to.display()), true)
        }
        Outcome::SetAsideNewer { moved_to, found, known } => {
            let moved_to = moved_to.display();
            (format!("a file of schema {found} was moved to {moved_to}; {known} is known"), true)
        }
        Outcome::InMemory { why } => (format!("in memory: {}", chain(&why)), true),
        other => (format!("{other:?}"), true),
    };
    (history, HistoryStatus::new(Some(path), &state, is_writable))
}

/// How fast the host's memory is read.
fn host_bytes_per_ns() -> f64 {
    let threads = std::thread::available_parallelism().unwrap_or(std::num::NonZero::<usize>::MIN);
    let probe = BandwidthProbe::new(BANDWIDTH_BYTES, threads);
    let best = (0..3).map(|_| probe.measure_gib_per_s()).fold(0.0, f64::max);
    best * f64::from(1 << 30) / 1e9
}

/// An error and its causes.
pub(super) fn chain(error: &HistoryError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The configuration for kernels whose models are as exact as `calibration` says: a start other
/// than the rules' pick must promise more than the models' error.
fn calibrated(config: &AdaptiveConfig, calibration: &StoredCalibration) -> AdaptiveConfig {
    let error = calibration.relative_error().unwrap_or(UNCALIBRATED_SD);
    let prior_sd = error.clamp(config.prior_sd, config.prior_sd.max(UNCALIBRATED_SD));
    AdaptiveConfig { prior_sd, start_margin: config.start_margin.max(prior_sd), ..config.clone() }
}

/// A policy that learns, with what was learned before.
fn policy(
    config: AdaptiveConfig,
    arms: &[KernelSpec],
    calibration: &StoredCalibration,
    journal: &Journal,
    foreign: &[(Provenance, Vec<Record>)],
) -> AdaptivePolicy {
    let arm = |spec: &KernelSpec| Arm { spec: *spec, cost: calibration.cost(spec.id) };
    let bytes_per_ns = match calibration.bytes_per_ns {
        rate if rate.is_finite() && rate > 0.0 => rate,
        _ => f64::INFINITY,
    };
    let limits = MachineLimits { bytes_per_ns, ..MachineLimits::UNKNOWN };
    let config = AdaptiveConfig { mode: Mode::Learn, ..config };
    let arms = arms.iter().map(arm).collect();
    let mut policy = AdaptivePolicy::new(config, arms, limits)
        .expect("a group has kernels, and only valid models get here");
    let own = Provenance { variance_factor: 1.0, reason: "same environment".into() };
    let sources = std::iter::once((&own, &journal.records));
    for (from, records) in sources.chain(foreign.iter().map(|(from, records)| (from, records))) {
        let imported = policy.import_evidence(records.iter().map(evidence), from);
        imported.expect("fingerprints widen by 1 or more");
    }
    policy
}

fn evidence(record: &Record) -> Evidence {
    Evidence {
        context: ContextKey(record.context),
        kernel: record.kernel,
        class: record.class,
        latencies: record.statistics.clone(),
    }
}
