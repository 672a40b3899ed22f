//! Learning which kernel is fastest, for any number of dispatchers at once.
//!
//! Two roads, as in [`trellect_select::hot`]: the [`controller`] shows every group of equal layers
//! a table of plans, and the dispatchers of the group report what launches took. A [`link`] is a
//! dispatcher's end of both; [`group`] is what the two sides share; [`learner`] is the other end.

mod account;
mod call;
mod controller;
mod group;
mod learner;
mod link;
mod observe;
mod stats;
mod trials;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use trellect_core::{Backend, KernelSpec, LayerShape, NumericClass, PreparedLayer};
use trellect_select::adaptive::{
    AdaptiveConfig, AdaptiveExplanation, Choice, ExpertLoad, Mode, Sweep,
};
use trellect_select::{ContextKey, Thresholds};
use trellect_tune::calibrate::DEFAULT_BUDGET;
use trellect_tune::decisions::DecisionLog;

pub(crate) use self::group::Work;
pub(crate) use self::link::{Link, Pick, Planned};
pub use self::observe::is_exploration;
pub use self::stats::{HistoryStatus, ReplayStatus, SelectorStats};

use self::call::KnownCall;
use self::controller::{Ask, Controller, Newcomer};
use self::learner::{Answer, Learner};

/// The names of the metrics that a selector keeps.
pub mod metric_names {
    pub use super::observe::{FAILURES, LATENCY, LOST, SELECTIONS, SPENT, SWITCHES};
}

/// Contexts that dispatchers may ask for before the controller looks.
const MAX_ASKS: usize = 256;
/// How long the controller's thread rests while there is work.
const SHORT_REST: Duration = Duration::from_millis(1);
/// How long it rests when there has been none for a while.
const LONG_REST: Duration = Duration::from_millis(50);

/// What a [`Selector`] goes by.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectorOptions {
    /// The adaptive policy's constants, its mode among them.
    pub adaptive: AdaptiveConfig,
    /// The file that keeps what is learned for later processes; `None`: nothing is kept.
    /// [`default_location`](trellect_tune::history::default_location) is where the command
    /// `trellect` keeps it.
    pub history: Option<PathBuf>,
    /// What the calibration of a device may take that the history does not know; zero: none is
    /// made, and the cost models are guesses.
    pub calibration_budget: Duration,
    /// Whether a thread of its own learns; otherwise nothing is learned but in
    /// [`step`](Selector::step) and [`flush`](Selector::flush).
    pub background: bool,
    /// Whether decisions are logged, or come from a log.
    pub decisions: Decisions,
}

/// Where the decisions about calls come from and go to.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Decisions {
    /// Calls go by the plans of the policy, and wait for nothing.
    #[default]
    ByPlan,
    /// Every call asks the policy and waits for its answer, also while the selector learns from others
    /// or writes to the history. What it decides is logged, with the
    /// probability that it would decide so, until it is [taken](Selector::take_decisions).
    Logged,
    /// Every call is served what the log says of it, as long as the calls are those that were
    /// logged: equal layers are met in the same order, and their calls come in the same order.
    ///
    /// Where the log has no decision for a call, or one for a kernel that does not exist here or may
    /// not serve, the rules serve it, and [`SelectorStats::replay`] says why. Beyond the end of the
    /// log contexts go on as they were last, or by the rules where all that they had was trials.
    /// Nothing is learned.
    Replayed(Arc<DecisionLog>),
}

impl Default for SelectorOptions {
    /// Learns in the background, calibrates for 200 ms at most, and keeps nothing.
    fn default() -> Self {
        Self {
            adaptive: AdaptiveConfig::default(),
            history: None,
            calibration_budget: DEFAULT_BUDGET,
            background: true,
            decisions: Decisions::ByPlan,
        }
    }
}

/// Learns which kernels are fastest, and shares it among all dispatchers that are given a clone of
/// it: layers of equal shape and kernels learn from each other's calls.
///
/// Calls wait for it only where they are [logged or replayed](Decisions). When the last clone and the last dispatcher are gone, what was learned
/// is written to the history and the thread ends. In a child of `fork` it neither learns nor writes;
/// dispatchers go on with the plans that they have.
#[derive(Clone)]
pub struct Selector {
    core: Arc<Core>,
}

struct Core {
    shared: Arc<Shared>,
    asks: SyncSender<Ask>,
    thread: Option<JoinHandle<()>>,
    /// The process that the thread runs in.
    process: u32,
}

struct Shared {
    controller: Mutex<Controller>,
    stop: AtomicBool,
}

impl Selector {
    /// A selector. A history that cannot be used is no error: [`stats`](Self::stats) says why.
    pub fn new(options: SelectorOptions) -> Self {
        observe::describe();
        let (asks, receiver) = sync_channel(MAX_ASKS);
        let controller = Mutex::new(Controller::new(&options, receiver));
        let shared = Arc::new(Shared { controller, stop: AtomicBool::new(false) });
        let thread = options.background.then(|| {
            let shared = Arc::clone(&shared);
            let named = thread::Builder::new().name("trellect-selector".into());
            // Without a thread nothing is learned but when someone flushes.
            named.spawn(move || run(&shared)).ok()
        });
        let (thread, process) = (thread.flatten(), std::process::id());
        Self { core: Arc::new(Core { shared, asks, thread, process }) }
    }

    /// Learns from what has been reported so far and shows the new plans. Writes to the history
    /// when that is due, every two seconds.
    pub fn step(&self) {
        if self.is_own() {
            self.core.shared.lock().round();
        }
    }

    /// As [`step`](Self::step), and writes to the history now.
    pub fn flush(&self) {
        if self.is_own() {
            let mut controller = self.core.shared.lock();
            controller.round();
            controller.save();
        }
    }

    /// Changes what is done with measurements.
    pub fn set_mode(&self, mode: Mode) {
        if self.is_own() {
            self.core.shared.lock().set_mode(mode);
        }
    }

    /// Takes the decisions that have been logged and answered since the last time, where they are
    /// [logged](Decisions::Logged). The logs of a run, one after the other, are its log.
    pub fn take_decisions(&self) -> DecisionLog {
        match self.is_own() {
            true => self.core.shared.lock().take_decisions(),
            false => DecisionLog::default(),
        }
    }

    /// What has been done and learned since this selector was made, as far as it has been learned
    /// from; empty in a child of `fork`.
    pub fn stats(&self) -> SelectorStats {
        match self.is_own() {
            true => self.core.shared.lock().stats(),
            false => SelectorStats::default(),
        }
    }

    /// What the policy thinks of a call that gives `loads` to the experts of a layer that has the
    /// kernels `arms` on `backend`; going by the history and, for the layer's group, by what this
    /// process has learned. Runs nothing.
    pub fn explain(
        &self,
        backend: &Arc<dyn Backend>,
        shape: LayerShape,
        arms: Vec<KernelSpec>,
        numeric: NumericClass,
        num_tokens: usize,
        loads: Vec<ExpertLoad>,
    ) -> Option<AdaptiveExplanation> {
        if arms.is_empty() || num_tokens == 0 {
            return None;
        }
        let thresholds = &Thresholds::of(backend.kind());
        let newcomer = Newcomer { backend, shape, numeric, arms, layer: None, thresholds };
        let call = KnownCall::new(num_tokens, loads);
        Some(self.core.shared.lock().learner_of(newcomer).explain(&call))
    }

    fn explain_group(&self, group: usize, call: &KnownCall) -> AdaptiveExplanation {
        self.core.shared.lock().learner(group).explain(call)
    }

    fn decide(
        &self,
        group: usize,
        context: ContextKey,
        call: KnownCall,
        default: usize,
    ) -> Option<Choice> {
        self.with(group, |learner, now_ns| learner.decide(context, call, default, now_ns))?
    }

    fn answer(&self, group: usize, answer: &Answer) {
        self.with(group, |learner, now_ns| learner.answer(answer, now_ns));
    }

    fn refuse(&self, group: usize, choice: Choice) {
        self.with(group, |learner, now_ns| learner.refuse(choice, now_ns));
    }

    fn sweep(&self, group: usize, recent: &[ContextKey]) -> Option<Sweep> {
        self.with(group, |learner, now_ns| {
            learner.publish();
            learner.sweep(recent, now_ns)
        })?
    }

    /// Does something with a group's learner, and waits for it; not in a child of `fork`.
    fn with<T>(&self, group: usize, act: impl FnOnce(&mut Learner, u64) -> T) -> Option<T> {
        if !self.is_own() {
            return None;
        }
        let mut controller = self.core.shared.lock();
        let (learner, now_ns) = controller.learner_now(group);
        Some(act(learner, now_ns))
    }

    /// Joins a dispatcher to the group of its layer. Takes as long as a calibration where the device
    /// has none yet.
    pub(crate) fn attach(
        &self,
        backend: &Arc<dyn Backend>,
        layer: &Arc<dyn PreparedLayer>,
        numeric: NumericClass,
        arms: Vec<KernelSpec>,
        thresholds: &Thresholds,
    ) -> Link {
        let shape = *layer.shape();
        let newcomer = Newcomer { backend, shape, numeric, arms, layer: Some(layer), thresholds };
        let (index, group, feedback) = self.core.shared.lock().attach(newcomer);
        Link::new(self.clone(), index, group, feedback, self.core.asks.clone())
    }

    /// Whether this is the process that the selector was made in.
    fn is_own(&self) -> bool {
        self.core.is_own()
    }

    /// Tells the thread that there is something to do.
    fn wake(&self) {
        if let Some(thread) = &self.core.thread {
            thread.thread().unpark();
        }
    }
}

impl Default for Selector {
    fn default() -> Self {
        Self::new(SelectorOptions::default())
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selector").finish_non_exhaustive()
    }
}

/// What the controller's thread does until the selector is dropped.
fn run(shared: &Shared) {
    let mut rest = SHORT_REST;
    while !shared.stop.load(Ordering::Acquire) {
        let any = shared.lock().round();
        rest = if any { SHORT_REST } else { (rest * 2).min(LONG_REST) };
        thread::park_timeout(rest);
    }
}

impl Core {
    /// Whether this is the process that the selector was made in: in a child of `fork` the thread
    /// does not exist and its locks may be held for ever.
    fn is_own(&self) -> bool {
        self.process == std::process::id()
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if !self.is_own() {
            // Joining would wait for a thread that this process does not have.
            std::mem::forget(self.thread.take());
            // Nor may the history's connection be closed here: the parent goes on using its file.
            std::mem::forget(Arc::clone(&self.shared));
            return;
        }
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            Thread::unpark(thread.thread());
            thread.join().ok();
        }
        let mut controller = self.shared.lock();
        controller.round();
        controller.save();
    }
}

impl Shared {
    /// A controller is whole even if its thread has panicked: each outcome is learned by itself.
    fn lock(&self) -> MutexGuard<'_, Controller> {
        self.controller.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds since 1970.
fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
