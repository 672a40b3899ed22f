use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use trellect_core::{
    Backend, Call, CallError, CallFacts, Family, Hidden, KernelId, KernelSpec, LaunchError,
    LayerView, MemoryFigures, NumericClass, PrepareError, PreparedLayer, Queue, Routing, WhyNot,
};
use trellect_exl3::MoeLayer;
use trellect_select::adaptive::ChoiceReason;
use trellect_select::{
    ConfigError, Considered, ContextKey, HistoryRow, Request, RuleConfig, RulePolicy, SelectError,
    Statistics,
};

use crate::call::CallSketch;
use crate::canary;
use crate::selector::{Link, Pick, Planned};
use crate::{
    ActivationPattern, DispatcherOptions, Explained, Failure, Fallback, Learned, Policy, Report,
    Selection, Selector, WrongResult,
};

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
    /// What the base kernel computes to confirm another one's first result.
    confirmation: Vec<f32>,
}

/// What is to be launched.
#[derive(Clone, Copy)]
struct Chosen {
    kernel: KernelId,
    class: NumericClass,
    /// The kernel as the selector knows it, where it does.
    pick: Option<(ContextKey, Pick)>,
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
        let DispatcherOptions { numeric, rules, available, policy } = options;
        let candidates: Vec<KernelSpec> = layer.specs().copied().collect();
        let (rules, link) = match policy {
            Policy::Rules => (RulePolicy::new(rules)?, None),
            Policy::Adaptive(selector) => {
                let rules = RulePolicy::new(RuleConfig { exploration_rate: 0.0, ..rules })?;
                let arms = arms(&candidates, numeric, available.as_deref());
                // Without a kernel of the class the rules may still find one of another.
                let link = (!arms.is_empty()).then(|| {
                    let thresholds = &rules.config().thresholds;
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
            confirmation: Vec::new(),
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
        let confirmed = launched.and_then(|latency| {
            self.confirm(&chosen, &call, out).map_err(Failure::Wrong)?;
            Ok(latency)
        });
        let (served, latency) = match confirmed {
            Ok(latency) => (chosen, latency),
            Err(error) => {
                self.quarantine(&chosen, &error);
                let Some(found) = self.fall_back(&chosen, &call, out) else {
                    return Err(error.into());
                };
                report.fallback = Some(Fallback { failed: chosen.kernel, error });
                found
            }
        };
        self.tell(&served, latency);
        report.kernel = Some(served.kernel);
        report.latency = latency;
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
            report.latency = self.launch(kernel, &call, out)?;
            report.kernel = Some(kernel);
            self.tell(&Chosen { kernel, class, pick: None }, report.latency);
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

    /// What is to be launched for the call that was described last: what the plan says, or else
    /// what the rules do.
    fn choose(&mut self, report: &mut Report) -> Result<Chosen, SelectError> {
        let facts = self.sketch.facts(self.numeric, self.workspace_limit());
        let planned = self.link.as_mut().map(|link| {
            let context = link.context(&self.sketch, facts);
            (context, link.plan(context, &facts))
        });
        if let (Some(link), Some((context, Planned::Serve(pick)))) = (&self.link, planned) {
            report.selection = Some(Selection { context, reason: pick.reason });
            let KernelSpec { id: kernel, class, .. } = link.group.arms[pick.kernel];
            return Ok(Chosen { kernel, class, pick: Some((context, pick)) });
        }
        let request = request(&self.sketch, facts, report, self.available.as_deref());
        let usable = usable(&self.candidates, self.link.as_ref());
        let decision = self.rules.select(&request, &usable)?;
        let pick = self.link.as_ref().zip(planned).and_then(|(link, (context, planned))| {
            // A kernel of another class than asked for is no arm, and nothing is learned of it.
            let kernel = link.group.arms.iter().position(|arm| arm.id == decision.kernel)?;
            let reason = match planned {
                Planned::Unfit => ChoiceReason::Fallback,
                _ => ChoiceReason::Default,
            };
            if reason == ChoiceReason::Default {
                link.ask(context, &self.sketch, kernel);
            }
            report.selection = Some(Selection { context, reason });
            Some((context, Pick::by_rules(kernel, reason)))
        });
        report.decision = Some(decision);
        Ok(Chosen { kernel: decision.kernel, class: decision.class, pick })
    }

    /// The candidates that have not failed.
    fn usable(&self) -> Cow<'_, [KernelSpec]> {
        usable(&self.candidates, self.link.as_ref())
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

    /// Runs `kernel` on a call with tokens; how long it took, where the device tells.
    fn launch(
        &mut self,
        kernel: KernelId,
        call: &Call<'_>,
        out: &mut [f32],
    ) -> Result<Option<Duration>, LaunchError> {
        let launch = self.queue.launch(kernel, call, out)?;
        let mut latency: Option<Duration> = None;
        self.queue.harvest(&mut |time| {
            if time.launch == launch {
                latency = Some(time.elapsed);
            }
        });
        Ok(latency)
    }

    /// Lets a base kernel compute the call, too, where the selector has never seen the chosen one
    /// right on these tuples.
    fn confirm(
        &mut self,
        chosen: &Chosen,
        call: &Call<'_>,
        out: &[f32],
    ) -> Result<(), WrongResult> {
        let (Some(link), Some((_, pick))) = (&self.link, chosen.pick) else { return Ok(()) };
        let group = Arc::clone(&link.group);
        let facts = self.sketch.facts(chosen.class, self.workspace_limit());
        let bits = group.canary.bits(facts.active_tuples);
        if chosen.kernel.family == Family::Base || group.canary.trusts(pick.kernel, bits) {
            return Ok(());
        }
        let Some(base) = base_kernel(&self.usable(), &facts) else { return Ok(()) };
        let mut confirmation = std::mem::take(&mut self.confirmation);
        confirmation.resize(out.len(), 0.0);
        let launched = self.launch(base.id, call, &mut confirmation);
        let verdict = match launched {
            Ok(_) => canary::compare(out, &confirmation, chosen.class),
            // Nobody can tell; the next call asks again.
            Err(_) => return Ok(()),
        };
        self.confirmation = confirmation;
        if verdict.is_ok() {
            group.canary.pass(pick.kernel, bits);
        }
        verdict
    }

    /// Tells the selector, or else the rules, how long a kernel took.
    fn tell(&mut self, served: &Chosen, latency: Option<Duration>) {
        let Some(latency) = latency else { return };
        match (&mut self.link, served.pick) {
            (Some(link), Some((context, pick))) => {
                let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
                link.report(context, &self.sketch, pick, ns);
            }
            (Some(_), None) => {}
            (None, _) => {
                let milliseconds = latency.as_secs_f64() * 1e3;
                let recorded =
                    self.rules.record(served.kernel, self.sketch.num_tokens, milliseconds);
                recorded.expect("a call with tokens, and a duration is finite and not negative");
            }
        }
    }

    fn quarantine(&mut self, chosen: &Chosen, failure: &Failure) {
        if let (Some(link), Some((context, pick))) = (&mut self.link, chosen.pick) {
            link.report_failure(context, &self.sketch, pick, failure);
        } else {
            self.candidates.retain(|spec| spec.id != chosen.kernel);
            self.failed.push(chosen.kernel);
        }
    }

    /// Runs base kernels of the failed choice's class until one succeeds; those that fail are
    /// quarantined too.
    fn fall_back(
        &mut self,
        failed: &Chosen,
        call: &Call<'_>,
        out: &mut [f32],
    ) -> Option<(Chosen, Option<Duration>)> {
        loop {
            let facts = self.sketch.facts(failed.class, self.workspace_limit());
            let KernelSpec { id: kernel, class, .. } = base_kernel(&self.usable(), &facts)?;
            let pick = failed.pick.and_then(|(context, _)| {
                let mut arms = self.link.as_ref()?.group.arms.iter();
                let arm = arms.position(|arm| arm.id == kernel)?;
                Some((context, Pick::by_rules(arm, ChoiceReason::Fallback)))
            });
            let chosen = Chosen { kernel, class, pick };
            match self.launch(kernel, call, out) {
                Ok(latency) => return Some((chosen, latency)),
                Err(error) => self.quarantine(&chosen, &Failure::Launch(error)),
            }
        }
    }
}

/// The kernels of class `numeric` among those that the caller lists.
fn arms(
    candidates: &[KernelSpec],
    numeric: NumericClass,
    available: Option<&[KernelId]>,
) -> Vec<KernelSpec> {
    let is_listed = |spec: &KernelSpec| {
        available.is_none_or(|available| available.iter().any(|name| name.names(spec.id)))
    };
    let arms = candidates.iter().filter(|spec| spec.class == numeric && is_listed(spec));
    arms.copied().collect()
}

/// The candidates that the selector has not seen failing.
fn usable<'a>(candidates: &'a [KernelSpec], link: Option<&Link>) -> Cow<'a, [KernelSpec]> {
    match link.map(|link| link.failed().collect::<Vec<KernelId>>()) {
        Some(failed) if !failed.is_empty() => {
            candidates.iter().filter(|spec| !failed.contains(&spec.id)).copied().collect()
        }
        _ => candidates.into(),
    }
}

/// The first base kernel that may serve.
fn base_kernel(usable: &[KernelSpec], facts: &CallFacts<'_>) -> Option<KernelSpec> {
    let serves = |spec: &&KernelSpec| spec.id.family == Family::Base && spec.legal(facts).is_ok();
    usable.iter().find(serves).copied()
}

/// What the rules are asked.
fn request<'a>(
    sketch: &'a CallSketch,
    call: CallFacts<'a>,
    report: &Report,
    available: Option<&'a [KernelId]>,
) -> Request<'a> {
    // One token names each expert once: its shares say nothing about skew.
    let share = (call.num_tokens > 1).then_some(report.pattern.top_expert_share);
    Request {
        active_bits: &sketch.widths,
        memory_pressure: report.memory_pressure,
        top_expert_share: share,
        available,
        ..Request::new(call)
    }
}

/// A dispatcher that could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DispatcherError {
    /// The layer could not be prepared.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The rules' numbers make no policy.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// A call that was not computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// The arguments do not belong together.
    #[error(transparent)]
    Call(#[from] CallError),
    /// No kernel may serve.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// The kernel failed, and so did every base kernel.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The kernel computed something wrong, and every base kernel failed.
    #[error(transparent)]
    Wrong(#[from] WrongResult),
}

impl From<Failure> for ForwardError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Launch(error) => Self::Launch(error),
            Failure::Wrong(wrong) => Self::Wrong(wrong),
        }
    }
}
