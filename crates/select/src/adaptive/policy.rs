use std::collections::BTreeMap;

use chacha20::ChaCha8Rng;
use rand::SeedableRng;

use super::context::Context;
use super::drift::CommonMode;
use super::features::digest;
use super::ledger::Ledger;
use super::log::DecisionLog;
use super::moments::CommonErrors;
use super::replay::Replay;
use super::serving::Leg;
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
    /// Starts on a prediction that were taken back.
    pub reverts: u64,
    /// Restarts of a context's race after a shift.
    pub alarms: u64,
    /// Rounds of idle sweeps.
    pub sweeps: u64,
    /// Calls served from the plan, without a decision.
    pub observed: u64,
    /// Contexts forgotten for others.
    pub evicted: u64,
    /// Measured device time, nanoseconds.
    pub spent_ns: f64,
}

/// The adaptive policy; see the [module](super).
#[derive(Debug)]
pub struct AdaptivePolicy {
    pub(super) config: AdaptiveConfig,
    pub(super) limits: MachineLimits,
    pub(super) arms: Vec<Arm>,
    /// Of every arm's name.
    pub(super) digests: Vec<u64>,
    pub(super) health: Vec<Health>,
    pub(super) rng: ChaCha8Rng,
    pub(super) contexts: BTreeMap<ContextKey, Context>,
    pub(super) kernel_effects: Vec<Moments>,
    pub(super) bucket_effects: BTreeMap<(usize, u32), Moments>,
    /// Squared errors of the prior, one a context and kernel.
    pub(super) prior_errors: Moments,
    /// How far the prior errs by the same for all kernels of a context.
    pub(super) common_errors: CommonErrors,
    pub(super) noise: NoiseModel,
    pub(super) clock: CommonMode,
    pub(super) budget: ProbeBudget,
    pub(super) memory: MemoryGauge,
    pub(super) tickets: Tickets,
    pub(super) ledger: Ledger,
    pub(super) log: DecisionLog,
    pub(super) replay: Replay,
    pub(super) totals: Totals,
    pub(super) plan_version: u64,
    pub(super) sweep_not_before_ns: u64,
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
            digests: arms.iter().map(|arm| digest(&arm.spec.id.to_string())).collect(),
            health: vec![Health::default(); arms.len()],
            kernel_effects: vec![Moments::default(); arms.len()],
            prior_errors: Moments::of(PRIOR_ERRORS, config.prior_sd * config.prior_sd),
            config,
            limits,
            arms,
            contexts: BTreeMap::new(),
            bucket_effects: BTreeMap::new(),
            common_errors: CommonErrors::default(),
            noise: NoiseModel::default(),
            clock: CommonMode::default(),
            budget: ProbeBudget::default(),
            memory: MemoryGauge::default(),
            tickets: Tickets::default(),
            ledger: Ledger::default(),
            log: DecisionLog::default(),
            replay: Replay::default(),
            totals: Totals::default(),
            plan_version: 0,
            sweep_not_before_ns: 0,
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

    /// The mode.
    pub const fn mode(&self) -> Mode {
        self.config.mode
    }

    /// Changes the mode; what has been learned stays. Pairs under way are given up, since their
    /// legs would no longer be adjacent.
    pub fn set_mode(&mut self, mode: Mode) {
        self.config.mode = mode;
        self.plan_version += 1;
        for context in self.contexts.values_mut() {
            if let Some(leg) = context.open_leg.take() {
                self.tickets.drop_pairs(&[leg.pair]);
            }
        }
    }

    /// Takes a reading of the device's memory in bytes.
    pub fn observe_memory(&mut self, used_bytes: u64, total_bytes: u64) -> MemoryLevel {
        self.memory.observe(used_bytes, total_bytes)
    }

    /// The context of a call at the present memory level.
    pub fn context_key(&self, features: &CallFeatures<'_>) -> ContextKey {
        self.coordinates(features).key(features)
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
            self.make_room();
            self.contexts.insert(key, context);
            self.plan_version += 1;
        }
        if self.config.mode == Mode::Learn {
            self.revert_start(key, conditions.default, fit(conditions.default));
        }
        let (leg, draw) = match self.config.mode {
            Mode::Replay => (self.replayed(key, &fitness)?, None),
            _ => {
                let (leg, draw) = self.probe(key, &fitness, conditions);
                let serve = || self.serve(key, features, &fitness, conditions.default);
                (leg.unwrap_or_else(serve), draw)
            }
        };
        let Leg { kernel, reason, pair } = leg;
        self.totals.choices += 1;
        self.totals.probes += u64::from(reason == ChoiceReason::Probe);
        self.log_choice(key, features, &fitness, (kernel, reason), draw.as_ref());
        if let Some(context) = self.contexts.get_mut(&key) {
            context.calls += 1;
            context.used_at = self.totals.choices + self.totals.observed;
        }
        let pending = Pending {
            context: key,
            kernel,
            log_estimate: self.arms[kernel].estimate_ns(features).ln(),
            pairs: pair.into_iter().collect(),
            default: conditions.default,
            served: true,
        };
        let ticket = self.tickets.issue(pending, self.config.max_pending);
        Ok(Choice { kernel, reason, ticket, context: key })
    }

    /// Begins a context that an earlier process knew, by the call that stood for it, with the
    /// incumbent that it had: what was proved then stays until something else is proved. Imported
    /// evidence is believed as in any context; there is no burst of probes, since there was one.
    /// Whether it was begun: not outside of [`Mode::Learn`], nor where it is known, nor with an
    /// incumbent that may not serve that call.
    pub fn reopen(&mut self, features: &CallFeatures<'_>, incumbent: usize) -> bool {
        let coordinates = self.coordinates(features);
        let key = coordinates.key(features);
        let fitness = self.fitness(features);
        let may_serve = fitness.get(incumbent) == Some(&Some(Fitness::Fit));
        if self.config.mode != Mode::Learn || self.contexts.contains_key(&key) || !may_serve {
            return false;
        }
        let mut context = self.open_context(features, coordinates, incumbent, &fitness);
        context.incumbent = incumbent;
        self.make_room();
        self.contexts.insert(key, context);
        self.plan_version += 1;
        true
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
        self.log.settle(ticket, outcome);
        let latency_ns = match self.judge(pending.context, pending.kernel, outcome) {
            Ok(latency_ns) => latency_ns,
            Err(recorded) => {
                self.tickets.drop_pairs(&pending.pairs);
                return recorded;
            }
        };
        if pending.served {
            let saved_ns = self.saved_ns(&pending, latency_ns);
            self.spend(latency_ns, saved_ns);
        }
        let drifted = self.learn(&pending, latency_ns.ln() - pending.log_estimate);
        let switched = self.close_legs(&pending, latency_ns.ln() - pending.log_estimate);
        match switched {
            Some((from, to)) => Recorded::Switched { from, to },
            None if drifted => Recorded::Drifted,
            None => Recorded::Learned,
        }
    }

    /// Takes what became of a call that [`serving_plan`](Self::serving_plan) served without a
    /// decision. It counts as a call and as evidence for the history, but teaches nothing: the work
    /// in it is not known, and calls of one context differ in it by up to a factor of two.
    pub fn observe(
        &mut self,
        context: ContextKey,
        kernel: usize,
        outcome: Outcome,
        now_ns: u64,
    ) -> Recorded {
        self.now_ns = self.now_ns.max(now_ns);
        if kernel >= self.arms.len() {
            return Recorded::UnknownKernel;
        }
        self.totals.observed += 1;
        if let Some(context) = self.contexts.get_mut(&context) {
            context.calls += 1;
            context.used_at = self.totals.choices + self.totals.observed;
        }
        match self.judge(context, kernel, outcome) {
            Ok(latency_ns) => {
                self.spend(latency_ns, 0.0);
                Recorded::Counted
            }
            Err(recorded) => recorded,
        }
    }

    /// What every outcome means whatever it belongs to: a latency to learn from, or what else
    /// there is to say.
    fn judge(
        &mut self,
        context: ContextKey,
        kernel: usize,
        outcome: Outcome,
    ) -> Result<f64, Recorded> {
        let latency_ns = match outcome {
            Outcome::LatencyNs(ns) if ns.is_finite() && ns > 0.0 => ns,
            Outcome::LatencyNs(_) => return Err(Recorded::BadLatency),
            Outcome::Failed => {
                self.health[kernel].fail(self.now_ns);
                self.plan_version += 1;
                return Err(Recorded::Failure);
            }
        };
        if self.health[kernel].succeed(self.now_ns) {
            self.plan_version += 1;
        }
        self.ledger.observe(context, kernel, latency_ns);
        match self.config.mode {
            Mode::Learn => Ok(latency_ns),
            Mode::Frozen | Mode::Replay | Mode::Off => Err(Recorded::NotLearning),
        }
    }

    fn spend(&mut self, latency_ns: f64, saved_ns: f64) {
        self.totals.spent_ns += latency_ns;
        self.budget.earn(latency_ns, saved_ns, self.config.probe_share, self.now_ns);
    }

    /// What a call that its incumbent served is believed to have saved against the rules' pick. A
    /// probe's loss was charged when it was begun.
    fn saved_ns(&self, pending: &Pending, latency_ns: f64) -> f64 {
        match self.contexts.get(&pending.context) {
            Some(context) if pending.kernel == context.incumbent => {
                let gain = self.belief(context, pending.default).mean
                    - self.belief(context, pending.kernel).mean;
                latency_ns * gain
            }
            _ => 0.0,
        }
    }

    /// Forgets the least recently used sixteenth of the contexts where no more fit: a sort now and
    /// then instead of bookkeeping in every call. Their evidence stays in the ledger until taken.
    fn make_room(&mut self) {
        let max_contexts = self.config.max_contexts.max(1);
        if self.contexts.len() < max_contexts {
            return;
        }
        let mut by_use: Vec<(u64, ContextKey)> =
            self.contexts.iter().map(|(key, context)| (context.used_at, *key)).collect();
        by_use.sort_unstable();
        let surplus = self.contexts.len() + 1 - max_contexts;
        for (_, key) in by_use.into_iter().take(surplus.max(max_contexts / 16)) {
            let leg = self.contexts.remove(&key).and_then(|forgotten| forgotten.open_leg);
            if let Some(leg) = leg {
                self.tickets.drop_pairs(&[leg.pair]);
            }
            self.totals.evicted += 1;
        }
    }

    pub(super) fn coordinates(&self, features: &CallFeatures<'_>) -> Coordinates {
        let class = features.facts.numeric;
        let specs = self.arms.iter().map(|arm| &arm.spec).filter(|spec| spec.class == class);
        Coordinates::of(features, specs, self.memory.level())
    }

    /// The fitness of every arm that is legal for a call.
    pub(super) fn fitness(&self, features: &CallFeatures<'_>) -> Vec<Option<Fitness>> {
        let fitness = |(arm, health): (&Arm, &Health)| {
            arm.spec.legal(&features.facts).is_ok().then(|| health.fitness(self.now_ns))
        };
        self.arms.iter().zip(&self.health).map(fitness).collect()
    }
}
