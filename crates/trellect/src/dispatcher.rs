mod awaited;
mod choose;
mod error;
mod idle;
mod launch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use trellect_core::{
    Backend, Call, CallError, Hidden, KernelId, KernelSpec, LaunchError, LayerView, MemoryFigures,
    NumericClass, PrepareError, PreparedLayer, Queue, Routing, WhyNot,
};
use trellect_exl3::MoeLayer;
use trellect_select::{
    ConfigError, Considered, HistoryRow, RuleConfig, RulePolicy, Statistics, Thresholds,
};

use crate::call::CallSketch;
use crate::selector::Link;
use crate::{
    ActivationPattern, DispatcherOptions, Explained, Failure, Fallback, Learned, Policy, Report,
    Selector,
};

pub use self::error::{DispatcherError, ForwardError};
pub use self::idle::IdleReport;

use self::awaited::Awaited;
use self::choose::{Chosen, arms, request};
use self::idle::RecentCalls;

/// How old a reading of the device's memory may be: reading it costs as much as a small call.
const MEMORY_READING: Duration = Duration::from_millis(100);

/// Runs the calls of one prepared layer, each on a kernel chosen for it.
///
/// A dispatcher belongs to one caller: it owns a workspace. Several dispatchers, on several threads
/// too, may share a backend, a prepared layer and a [`Selector`].
pub struct Dispatcher {
    backend: Arc<dyn Backend>,
    layer: Arc<dyn PreparedLayer>,
    queue: Box<dyn Queue>,
    rules: RulePolicy,
    /// The adaptive policy; `None`: the rules decide alone.
    link: Option<Link>,
    numeric: NumericClass,
    available: Option<Vec<KernelId>>,
    /// Runnable kernels, without those that failed here.
    candidates: Vec<KernelSpec>,
    /// Those that failed here, where no selector looks after them.
    failed: Vec<KernelId>,
    /// The latest reading, where no selector reads it.
    memory: Option<(Instant, MemoryFigures)>,
    sketch: CallSketch,
    /// Launches whose times have not come yet.
    awaited: Awaited,
    /// Calls to repeat in idle time, once there has been any.
    recent: Option<RecentCalls>,
}

/// Prepares a layer of a checkpoint, handing back its mapped pages expert by expert, so that the
/// layer is not in memory twice. `progress` is told every expert that is done.
///
/// # Errors
/// [`PrepareError`] as the backend's.
pub fn prepare(
    backend: &dyn Backend,
    layer: &MoeLayer<'_>,
    mut progress: impl FnMut(usize) + Send,
) -> Result<Arc<dyn PreparedLayer>, PrepareError> {
    backend.prepare(layer.view(), &mut |expert| {
        layer.release_expert(expert);
        progress(expert);
    })
}

impl Dispatcher {
    /// A dispatcher for a prepared layer of `backend`.
    ///
    /// Where the policy is adaptive and neither the selector nor its history knows the device, the
    /// device is calibrated first, for 200 ms unless the selector's options say otherwise.
    ///
    /// # Errors
    /// [`ConfigError`] when the rules' numbers make no policy.
    pub fn new(
        backend: Arc<dyn Backend>,
        layer: Arc<dyn PreparedLayer>,
        options: DispatcherOptions,
    ) -> Result<Self, ConfigError> {
        let DispatcherOptions { numeric, mut rules, available, policy } = options;
        rules.thresholds.get_or_insert_with(|| Thresholds::of(backend.kind()));
        let candidates: Vec<KernelSpec> = layer.specs().copied().collect();
        let (rules, link) = match policy {
            Policy::Rules => (RulePolicy::new(rules)?, None),
            Policy::Adaptive(selector) => {
                let rules = RulePolicy::new(RuleConfig { exploration_rate: 0.0, ..rules })?;
                let arms = arms(&candidates, numeric, available.as_deref());
                // Without a kernel of the class the rules may still find one of another.
                let link = (!arms.is_empty()).then(|| {
                    let thresholds = rules.thresholds();
                    selector.unwrap_or_default().attach(&backend, &layer, numeric, arms, thresholds)
                });
                (rules, link)
            }
        };
        Ok(Self {
            queue: Arc::clone(&layer).queue(),
            rules,
            link,
            numeric,
            available,
            candidates,
            failed: Vec::new(),
            memory: None,
            sketch: CallSketch::default(),
            awaited: Awaited::default(),
            recent: None,
            backend,
            layer,
        })
    }

    /// Prepares a layer and makes its dispatcher.
    ///
    /// # Errors
    /// [`DispatcherError`] when either fails.
    pub fn prepare(
        backend: Arc<dyn Backend>,
        layer: &LayerView<'_>,
        options: DispatcherOptions,
    ) -> Result<Self, DispatcherError> {
        let prepared = backend.prepare(layer, &mut |_| {})?;
        Ok(Self::new(backend, prepared, options)?)
    }

    /// The prepared layer.
    pub fn layer(&self) -> &Arc<dyn PreparedLayer> {
        &self.layer
    }

    /// The selector that this dispatcher learns with, where its policy is adaptive.
    pub fn selector(&self) -> Option<&Selector> {
        self.link.as_ref().map(|link| &link.selector)
    }

    /// Kernels that may not serve now because they failed. A selector tries them again later, twice
    /// at most; without one they are not used any more.
    pub fn quarantined(&self) -> Vec<KernelId> {
        match &self.link {
            Some(link) => link.failed().collect(),
            None => self.failed.clone(),
        }
    }

    /// What every kernel took so far, by row of the token table, where the rules decide; what a
    /// selector has learned is in its [`stats`](Selector::stats).
    pub fn history(&self) -> Vec<HistoryRow> {
        self.rules.history()
    }

    /// What the rules have selected so far.
    pub fn statistics(&self) -> &Statistics {
        self.rules.statistics()
    }

    /// Bytes of workspace held now.
    pub fn workspace_bytes(&self) -> u64 {
        self.queue.workspace_bytes()
    }

    /// Computes the routed sum of every token, `[num_tokens, hidden_size]`, on a chosen kernel.
    ///
    /// # Errors
    /// As [`forward_into`](Self::forward_into).
    pub fn forward(
        &mut self,
        hidden: Hidden<'_>,
        routing: &Routing,
    ) -> Result<(Vec<f32>, Report), ForwardError> {
        let mut out = vec![0.0; hidden.len()];
        let report = self.forward_into(hidden, routing, &mut out)?;
        Ok((out, report))
    }

    /// As [`forward`](Self::forward), into a slice of the caller's, which is overwritten.
    ///
    /// Where the adaptive policy has a plan for the call, choosing and reporting take no lock and
    /// allocate nothing. The first result of a kernel other than the base kernel is confirmed by the
    /// base kernel, for each bit tuple. A kernel that fails either way is quarantined, and a base
    /// kernel computes the call at once.
    ///
    /// Where the device tells what a launch took only later, that is learned from in a later call or
    /// in [`harvest`](Self::harvest).
    ///
    /// # Errors
    /// [`ForwardError`] when the arguments do not belong together, no kernel may serve, or every
    /// kernel that was tried failed.
    pub fn forward_into(
        &mut self,
        hidden: Hidden<'_>,
        routing: &Routing,
        out: &mut [f32],
    ) -> Result<Report, ForwardError> {
        let (call, mut report) = self.open(hidden, routing, out)?;
        if routing.num_tokens() == 0 {
            return Ok(report);
        }
        let chosen = self.choose(&mut report)?;
        let launched = self.launch(chosen.kernel, &call, out).map_err(Failure::Launch);
        let confirmed = launched.and_then(|launched| {
            self.confirm(&chosen, &call, out).map_err(Failure::Wrong)?;
            Ok(launched)
        });
        let (served, launched) = match confirmed {
            Ok(launched) => (chosen, launched),
            Err(error) => {
                self.quarantine(&chosen, &error);
                let Some(found) = self.fall_back(&chosen, &call, out) else {
                    return Err(error.into());
                };
                report.fallback = Some(Fallback { failed: chosen.kernel, error });
                found
            }
        };
        report.kernel = Some(served.kernel);
        report.latency = launched.latency;
        self.tell(&served, launched);
        if let (Some(recent), Some(selection)) = (&mut self.recent, &report.selection) {
            recent.offer(selection.context, hidden, routing);
        }
        Ok(report)
    }

    /// As [`forward_into`](Self::forward_into), on the kernel called `kernel` and no other; a name
    /// without implementation means the best one of this machine. A selector learns nothing from it.
    ///
    /// # Errors
    /// [`ForwardError`] when there is no such kernel, or it cannot compute this call, or fails.
    pub fn forward_on(
        &mut self,
        kernel: KernelId,
        hidden: Hidden<'_>,
        routing: &Routing,
        out: &mut [f32],
    ) -> Result<Report, ForwardError> {
        let (call, mut report) = self.open(hidden, routing, out)?;
        let named = |spec: &&KernelSpec| kernel.names(spec.id);
        let found = self.layer.specs().find(named).map(|spec| (spec.id, spec.class));
        let (kernel, class) = found.ok_or(LaunchError::UnknownKernel { kernel })?;
        if routing.num_tokens() > 0 {
            let launched = self.launch(kernel, &call, out)?;
            report.kernel = Some(kernel);
            report.latency = launched.latency;
            self.tell(&Chosen { kernel, class, pick: None }, launched);
        }
        Ok(report)
    }

    /// What would become of every kernel for such a call, and why; selects and runs nothing.
    ///
    /// # Errors
    /// [`ForwardError`] when the routing is of another layer, has no token, or no kernel may serve.
    pub fn explain(&mut self, routing: &Routing) -> Result<Explained, ForwardError> {
        let (found, expected) = (routing.num_experts(), self.layer.shape().num_experts);
        if found != expected {
            return Err(CallError::Experts { found, expected }.into());
        }
        let report = self.describe(routing);
        let facts = self.sketch.facts(self.numeric, self.workspace_limit());
        let request = request(&self.sketch, facts, &report, self.available.as_deref());
        let mut rules = self.rules.explain(&request, &self.usable())?;
        let failed = self.quarantined();
        let failed = failed
            .iter()
            .map(|&kernel| Considered::refused(kernel, WhyNot::Quarantined { failures: 1 }));
        rules.considered.extend(failed);
        let absent = self.layer.candidates().iter().filter_map(|c| c.as_ref().err());
        let absent = absent.map(|absent| Considered::refused(absent.kernel, absent.why.clone()));
        rules.considered.extend(absent);
        let adaptive = self.link.as_ref().map(|link| Learned {
            context: link.context(&self.sketch, facts),
            explanation: link.explain(&self.sketch),
        });
        Ok(Explained { rules, adaptive })
    }

    /// Checks the arguments of a call and fills in all of its report but the kernel.
    fn open<'a>(
        &mut self,
        hidden: Hidden<'a>,
        routing: &'a Routing,
        out: &[f32],
    ) -> Result<(Call<'a>, Report), CallError> {
        let call = Call::new(self.layer.shape(), hidden, routing)?;
        if out.len() != hidden.len() {
            return Err(CallError::Output { found: out.len(), expected: hidden.len() });
        }
        Ok((call, self.describe(routing)))
    }

    fn describe(&mut self, routing: &Routing) -> Report {
        let memory = self.read_memory();
        self.sketch.draw(self.layer.shape(), self.layer.expert_tuples(), routing);
        Report {
            kernel: None,
            decision: None,
            selection: None,
            fallback: None,
            latency: None,
            num_tokens: routing.num_tokens(),
            rows_per_tuple: self.sketch.rows_per_tuple.clone(),
            active_bytes: self.sketch.active_bytes,
            memory_pressure: memory.pressure(),
            pattern: ActivationPattern::of(routing),
        }
    }

    /// Bytes that a workspace may take; what the queue holds already costs nothing more.
    fn workspace_limit(&self) -> Option<u64> {
        let memory = match (&self.link, self.memory) {
            (Some(link), _) => link.group.memory.figures(),
            (None, memory) => memory?.1,
        };
        let limit = memory.available.saturating_add(self.queue.workspace_bytes());
        (memory.total > 0).then_some(limit)
    }

    /// The device's memory as the selector has read it, or as it is read here now and then.
    fn read_memory(&mut self) -> MemoryFigures {
        if let Some(link) = &self.link {
            return link.group.memory.figures();
        }
        let now = Instant::now();
        match self.memory {
            Some((read, figures)) if now.duration_since(read) < MEMORY_READING => figures,
            _ => {
                let figures = self.backend.memory();
                self.memory = Some((now, figures));
                figures
            }
        }
    }
}
