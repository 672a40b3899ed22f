use std::sync::Arc;
use std::time::{Duration, Instant};

use trellect_core::{
    Backend, BitTuple, Bits, Call, CallError, CallFacts, Family, Hidden, KernelId, KernelSpec,
    LaunchError, LayerView, MemoryFigures, NumericClass, PrepareError, PreparedLayer, Queue,
    Routing, WhyNot,
};
use trellect_exl3::MoeLayer;
use trellect_select::{
    ConfigError, Considered, Decision, Explanation, HistoryRow, Request, RuleConfig, RulePolicy,
    SelectError, Statistics,
};

use crate::{ActivationPattern, Fallback, Report};

/// How old a reading of the device's memory may be: reading it costs as much as a small call.
const MEMORY_READING: Duration = Duration::from_millis(100);

/// What a [`Dispatcher`] goes by.
#[derive(Clone, Debug, PartialEq)]
pub struct DispatcherOptions {
    /// The numeric class of every call.
    pub numeric: NumericClass,
    /// The rules.
    pub rules: RuleConfig,
    /// The only kernels that may serve; `None`: every kernel of the backend.
    pub available: Option<Vec<KernelId>>,
}

impl Default for DispatcherOptions {
    /// Class `half`, every kernel, the default rules without exploration: a dispatcher tries other
    /// kernels, and so learns whether one is faster, only where it is asked to.
    fn default() -> Self {
        let rules = RuleConfig { exploration_rate: 0.0, ..RuleConfig::default() };
        Self { numeric: NumericClass::Half, rules, available: None }
    }
}

/// Runs the calls of one prepared layer, each on a kernel chosen for it.
///
/// A dispatcher belongs to one caller: it owns a workspace and a policy. Several dispatchers, on
/// several threads too, may share a backend and a prepared layer.
pub struct Dispatcher {
    backend: Arc<dyn Backend>,
    layer: Arc<dyn PreparedLayer>,
    queue: Box<dyn Queue>,
    policy: RulePolicy,
    numeric: NumericClass,
    available: Option<Vec<KernelId>>,
    /// Runnable kernels that have not failed.
    candidates: Vec<KernelSpec>,
    quarantined: Vec<KernelId>,
    memory: Option<(Instant, MemoryFigures)>,
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
    /// # Errors
    /// [`ConfigError`] when the rules' numbers make no policy.
    pub fn new(
        backend: Arc<dyn Backend>,
        layer: Arc<dyn PreparedLayer>,
        options: DispatcherOptions,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            queue: Arc::clone(&layer).queue(),
            policy: RulePolicy::new(options.rules)?,
            numeric: options.numeric,
            available: options.available,
            candidates: layer.specs().copied().collect(),
            quarantined: Vec::new(),
            memory: None,
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

    /// Kernels that failed and are not used any more.
    pub fn quarantined(&self) -> &[KernelId] {
        &self.quarantined
    }

    /// What every kernel took so far, by row of the token table.
    pub fn history(&self) -> Vec<HistoryRow> {
        self.policy.history()
    }

    /// What has been selected so far.
    pub fn statistics(&self) -> &Statistics {
        self.policy.statistics()
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
    /// A kernel that fails is quarantined, and a base kernel computes the call at once.
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
        let active = Active::new(self.layer.expert_tuples(), routing, &report);
        let request = self.request(routing, &report, &active);
        let facts = request.call;
        let request = Request { available: self.available.as_deref(), ..request };
        let decision = self.policy.select(&request, &self.candidates)?;
        report.decision = Some(decision);
        match self.launch(decision.kernel, &call, out) {
            Ok(latency) => {
                report.kernel = Some(decision.kernel);
                report.latency = latency;
            }
            Err(error) => {
                self.quarantine(decision.kernel);
                let fallback = self.fall_back(&decision, &facts, &call, out);
                let Some((kernel, latency)) = fallback else { return Err(error.into()) };
                report.kernel = Some(kernel);
                report.latency = latency;
                report.fallback = Some(Fallback { failed: decision.kernel, error });
            }
        }
        Ok(report)
    }

    /// As [`forward_into`](Self::forward_into), on the kernel called `kernel` and no other; a name
    /// without implementation means the best one of this machine.
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
        let named = |spec: &&KernelSpec| spec.id == kernel || spec.id.plain() == kernel;
        let found = self.layer.specs().find(named).map(|spec| spec.id);
        let kernel = found.ok_or(LaunchError::UnknownKernel { kernel })?;
        if routing.num_tokens() > 0 {
            report.latency = self.launch(kernel, &call, out)?;
            report.kernel = Some(kernel);
        }
        Ok(report)
    }

    /// What would become of every kernel for such a call, and why; selects and runs nothing.
    ///
    /// # Errors
    /// [`ForwardError`] when the routing is of another layer, has no token, or no kernel may serve.
    pub fn explain(&mut self, routing: &Routing) -> Result<Explanation, ForwardError> {
        let (found, expected) = (routing.num_experts(), self.layer.shape().num_experts);
        if found != expected {
            return Err(CallError::Experts { found, expected }.into());
        }
        let report = self.describe(routing);
        let active = Active::new(self.layer.expert_tuples(), routing, &report);
        let request = self.request(routing, &report, &active);
        let request = Request { available: self.available.as_deref(), ..request };
        let mut explanation = self.policy.explain(&request, &self.candidates)?;
        let failed = self
            .quarantined
            .iter()
            .map(|&kernel| Considered::refused(kernel, WhyNot::Quarantined { failures: 1 }));
        explanation.considered.extend(failed);
        let absent = self.layer.candidates().iter().filter_map(|c| c.as_ref().err());
        let absent = absent.map(|absent| Considered::refused(absent.kernel, absent.why.clone()));
        explanation.considered.extend(absent);
        Ok(explanation)
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
        let shape = *self.layer.shape();
        let all = self.layer.expert_tuples();
        let mut rows_per_tuple: Vec<(BitTuple, usize)> = Vec::new();
        let (mut active_bits, mut active_bytes) = (Vec::new(), 0);
        for &expert in routing.active_experts() {
            let tuple = all[expert as usize];
            let rows = routing.pairs_of(expert as usize).len();
            match rows_per_tuple.iter_mut().find(|(known, _)| *known == tuple) {
                Some((_, sum)) => *sum += rows,
                None => {
                    rows_per_tuple.push((tuple, rows));
                    active_bits.extend(tuple.widths());
                }
            }
            active_bytes += tuple.trellis_bytes(shape.padded_hidden(), shape.padded_intermediate());
        }
        rows_per_tuple.sort_unstable();
        active_bits.sort_unstable();
        active_bits.dedup();
        Report {
            kernel: None,
            decision: None,
            fallback: None,
            latency: None,
            num_tokens: routing.num_tokens(),
            active_bits,
            rows_per_tuple,
            active_bytes,
            memory_pressure: self.memory().pressure(),
            pattern: ActivationPattern::of(routing),
        }
    }

    /// What the policy is asked, but for the caller's list of kernels.
    fn request<'a>(
        &mut self,
        routing: &Routing,
        report: &Report,
        active: &'a Active,
    ) -> Request<'a> {
        let memory = self.memory();
        // What the queue holds already costs nothing more.
        let limit = memory.available.saturating_add(self.queue.workspace_bytes());
        let call = CallFacts {
            num_tokens: routing.num_tokens(),
            num_pairs: routing.num_pairs(),
            active_tuples: &active.tuples,
            numeric: self.numeric,
            workspace_limit: (memory.total > 0).then_some(limit),
        };
        // One token names each expert once: its shares say nothing about skew.
        let share = (call.num_tokens > 1).then_some(report.pattern.top_expert_share);
        Request {
            active_bits: &active.widths,
            memory_pressure: report.memory_pressure,
            top_expert_share: share,
            ..Request::new(call)
        }
    }

    fn memory(&mut self) -> MemoryFigures {
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

    /// Runs `kernel` on a call with tokens and tells the policy how long it took.
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
        if let Some(latency) = latency {
            let recorded = self.policy.record(
                kernel,
                call.routing().num_tokens(),
                latency.as_secs_f64() * 1e3,
            );
            recorded.expect("a call with tokens, and a duration is finite and not negative");
        }
        Ok(latency)
    }

    fn quarantine(&mut self, kernel: KernelId) {
        self.candidates.retain(|spec| spec.id != kernel);
        self.quarantined.push(kernel);
    }

    /// Runs base kernels of the failed decision's class until one succeeds; those that fail are
    /// quarantined too.
    fn fall_back(
        &mut self,
        decision: &Decision,
        facts: &CallFacts<'_>,
        call: &Call<'_>,
        out: &mut [f32],
    ) -> Option<(KernelId, Option<Duration>)> {
        let facts = CallFacts { numeric: decision.class, ..*facts };
        let serves =
            |spec: &&KernelSpec| spec.id.family == Family::Base && spec.legal(&facts).is_ok();
        while let Some(kernel) = self.candidates.iter().find(serves).map(|spec| spec.id) {
            match self.launch(kernel, call, out) {
                Ok(latency) => return Some((kernel, latency)),
                Err(_) => self.quarantine(kernel),
            }
        }
        None
    }
}

/// What a request borrows.
struct Active {
    /// The distinct tuples of the active experts.
    tuples: Vec<BitTuple>,
    /// The widths of every active expert's projections.
    widths: Vec<Bits>,
}

impl Active {
    fn new(expert_tuples: &[BitTuple], routing: &Routing, report: &Report) -> Self {
        let experts = routing.active_experts().iter();
        Self {
            tuples: report.rows_per_tuple.iter().map(|(tuple, _)| *tuple).collect(),
            widths: experts.flat_map(|&expert| expert_tuples[expert as usize].widths()).collect(),
        }
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
}
