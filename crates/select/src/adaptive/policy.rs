use std::collections::BTreeMap;

use chacha20::ChaCha8Rng;
use rand::SeedableRng;
use trellect_core::KernelSpec;

use super::context::Context;
use super::drift::CommonMode;
use super::tickets::{Pending, Tickets};
use super::{
    AdaptiveConfig, Arm, CallFeatures, Choice, ChoiceReason, ChooseError, Conditions, Coordinates,
    Fitness, Health, MachineLimits, MemoryGauge, MemoryLevel, Mode, Moments, NoiseModel, Outcome,
    ProbeBudget, Recorded, Ticket,
};
use crate::ContextKey;

/// First samples that the configured error of the prior counts as.
const PRIOR_ERRORS: f64 = 16.0;

/// Arms that cannot make a policy.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ArmsError {
    /// There are none.
    #[error("there are no arms: expected at least one")]
    None,
    /// A cost model with a negative, infinite or NaN coefficient.
    #[error("{kernel}: its cost coefficients must be finite and non-negative")]
    Cost {
        /// The kernel.
        kernel: trellect_core::KernelId,
    },
}

/// Totals over a policy's life.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Decisions.
    pub choices: u64,
    /// Challengers' legs among them.
    pub probes: u64,
    /// Changes of an incumbent.
    pub switches: u64,
    /// Restarts of a context's race after a shift.
    pub alarms: u64,
    /// Measured device time, nanoseconds.
    pub spent_ns: f64,
}

/// The adaptive policy; see the [module](super).
#[derive(Debug)]
pub struct AdaptivePolicy {
    pub(super) config: AdaptiveConfig,
    pub(super) limits: MachineLimits,
    pub(super) arms: Vec<Arm>,
    pub(super) health: Vec<Health>,
    pub(super) rng: ChaCha8Rng,
    pub(super) contexts: BTreeMap<ContextKey, Context>,
    pub(super) kernel_effects: Vec<Moments>,
    pub(super) bucket_effects: BTreeMap<(usize, u32), Moments>,
    /// Squared errors of the prior, one a context and kernel.
    pub(super) prior_errors: Moments,
    pub(super) noise: NoiseModel,
    pub(super) clock: CommonMode,
    pub(super) budget: ProbeBudget,
    pub(super) memory: MemoryGauge,
    pub(super) tickets: Tickets,
    pub(super) totals: Totals,
    pub(super) now_ns: u64,
}

impl AdaptivePolicy {
    /// A policy that chooses among `arms`, by index.
    ///
    /// # Errors
    /// [`ArmsError`] when there are none or a cost model is no number.
    pub fn new(
        config: AdaptiveConfig,
        arms: Vec<Arm>,
        limits: MachineLimits,
    ) -> Result<Self, ArmsError> {
        if arms.is_empty() {
            return Err(ArmsError::None);
        }
        if let Some(arm) = arms.iter().find(|arm| !arm.cost.is_valid()) {
            return Err(ArmsError::Cost { kernel: arm.spec.id });
        }
        Ok(Self {
            rng: ChaCha8Rng::seed_from_u64(config.seed),
            health: vec![Health::default(); arms.len()],
            kernel_effects: vec![Moments::default(); arms.len()],
            prior_errors: Moments::of(PRIOR_ERRORS, config.prior_sd * config.prior_sd),
            config,
            limits,
            arms,
            contexts: BTreeMap::new(),
            bucket_effects: BTreeMap::new(),
            noise: NoiseModel::default(),
            clock: CommonMode::default(),
            budget: ProbeBudget::default(),
            memory: MemoryGauge::default(),
            tickets: Tickets::default(),
            totals: Totals::default(),
            now_ns: 0,
        })
    }

    /// The arms, in the order of their indices.
    pub fn arms(&self) -> &[Arm] {
        &self.arms
    }

    /// Totals so far.
    pub const fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The noise that the tests assume.
    pub const fn noise(&self) -> &NoiseModel {
        &self.noise
    }

    /// Changes the mode; what has been learned stays.
    pub const fn set_mode(&mut self, mode: Mode) {
        self.config.mode = mode;
    }

    /// Takes a reading of the device's memory in bytes.
    pub fn observe_memory(&mut self, used_bytes: u64, total_bytes: u64) -> MemoryLevel {
        self.memory.observe(used_bytes, total_bytes)
    }

    /// The context of a call at the present memory level.
    pub fn context_key(&self, features: &CallFeatures<'_>) -> ContextKey {
        self.coordinates(features).key(features)
    }

    /// What each context seen so far would serve: the table to publish to the hot path, whose
    /// reader still checks legality.
    pub fn serving_plan(&self) -> impl Iterator<Item = (ContextKey, &KernelSpec)> {
        self.contexts.iter().map(|(key, context)| (*key, &self.arms[context.incumbent].spec))
    }

    /// Chooses a kernel for a call at `now_ns`. A clock that goes backwards stands still.
    ///
    /// The choice is always legal for `features`' facts and fit to launch.
    ///
    /// # Errors
    /// [`ChooseError`] when no arm may serve, or `conditions` name a rules' pick that is no arm.
    pub fn choose(
        &mut self,
        features: &CallFeatures<'_>,
        conditions: &Conditions,
        now_ns: u64,
    ) -> Result<Choice, ChooseError> {
        self.now_ns = self.now_ns.max(now_ns);
        let arms = self.arms.len();
        if conditions.default >= arms {
            return Err(ChooseError::UnknownDefault { found: conditions.default, arms });
        }
        let fitness = self.fitness(features);
        let fit = |kernel: usize| fitness[kernel] == Some(Fitness::Fit);
        let coordinates = self.coordinates(features);
        let key = coordinates.key(features);
        let any_fit = (0..arms).any(fit);
        if !any_fit && !fitness.contains(&Some(Fitness::OnTrial)) {
            return Err(ChooseError::NothingLegal { arms });
        }
        if self.config.mode == Mode::Learn && !self.contexts.contains_key(&key) {
            let context = self.open_context(features, coordinates, conditions.default, &fitness);
            let grant = self.config.burst_calls * context.base[context.incumbent].exp();
            self.budget.grant(grant);
            self.contexts.insert(key, context);
        }
        let (kernel, reason, pair) = self
            .probe(key, &fitness, conditions)
            .unwrap_or_else(|| self.serve(key, features, &fitness, conditions.default));
        self.totals.choices += 1;
        self.totals.probes += u64::from(reason == ChoiceReason::Probe);
        if let Some(context) = self.contexts.get_mut(&key) {
            context.calls += 1;
        }
        let first_leg = pair.is_some_and(|(_, first)| first);
        let pending = Pending {
            context: key,
            kernel,
            log_estimate: self.arms[kernel].estimate_ns(features).ln(),
            pair: pair.map(|(pair, _)| pair),
        };
        let ticket = self.tickets.issue(pending, self.config.max_pending);
        let propensity = if first_leg { 0.5 } else { 1.0 };
        Ok(Choice { kernel, reason, ticket, propensity, context: key })
    }

    /// Learns what became of a decision. Never fails: what cannot be learned from is named.
    pub fn record(&mut self, ticket: Ticket, outcome: Outcome, now_ns: u64) -> Recorded {
        self.now_ns = self.now_ns.max(now_ns);
        let Some(pending) = self.tickets.take(ticket) else {
            return match self.tickets.was_issued(ticket) {
                true => Recorded::ForgottenTicket,
                false => Recorded::UnknownTicket,
            };
        };
        let latency_ns = match outcome {
            Outcome::LatencyNs(ns) if ns.is_finite() && ns > 0.0 => ns,
            Outcome::LatencyNs(_) => {
                self.void_pair(&pending);
                return Recorded::BadLatency;
            }
            Outcome::Failed => {
                self.void_pair(&pending);
                self.health[pending.kernel].fail(self.now_ns);
                return Recorded::Failure;
            }
        };
        self.health[pending.kernel].succeed(self.now_ns);
        if self.config.mode != Mode::Learn {
            self.void_pair(&pending);
            return Recorded::NotLearning;
        }
        self.totals.spent_ns += latency_ns;
        self.budget.earn(latency_ns, self.config.probe_share, self.now_ns);
        let drifted = self.learn(&pending, latency_ns.ln() - pending.log_estimate);
        let switched = self.close_leg(&pending, latency_ns.ln() - pending.log_estimate);
        match switched {
            Some((from, to)) => Recorded::Switched { from, to },
            None if drifted => Recorded::Drifted,
            None => Recorded::Learned,
        }
    }

    pub(super) fn coordinates(&self, features: &CallFeatures<'_>) -> Coordinates {
        let class = features.facts.numeric;
        let specs = self.arms.iter().map(|arm| &arm.spec).filter(|spec| spec.class == class);
        Coordinates::of(features, specs, self.memory.level())
    }

    /// The fitness of every arm that is legal for a call.
    fn fitness(&self, features: &CallFeatures<'_>) -> Vec<Option<Fitness>> {
        let fitness = |(arm, health): (&Arm, &Health)| {
            arm.spec.legal(&features.facts).is_ok().then(|| health.fitness(self.now_ns))
        };
        self.arms.iter().zip(&self.health).map(fitness).collect()
    }
}
