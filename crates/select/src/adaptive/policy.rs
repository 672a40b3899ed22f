use std::collections::BTreeMap;

use chacha20::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use trellect_core::KernelSpec;

use super::context::{ArmState, Context, OpenLeg, Standing};
use super::drift::{CommonMode, Cusum};
use super::probe::{Belief, thompson_challenger};
use super::tickets::{Pair, Pending, Tickets};
use super::{
    AdaptiveConfig, AdaptiveExplanation, Arm, ArmVerdict, CallFeatures, Choice, ChoiceReason,
    ChooseError, Conditions, ConsideredArm, ContextKey, Coordinates, Fitness, Health,
    MachineLimits, MemoryGauge, MemoryLevel, Mode, Moments, NoiseModel, Outcome, PairedTest,
    ProbeBudget, Recorded, Retirement, Ticket,
};

/// Weight of samples beyond which the oldest fade.
const MAX_SAMPLES: f64 = 64.0;
/// Samples of a context's kernel that teach the levels above it.
const POOLED_SAMPLES: f64 = 8.0;
/// Samples that the level above counts as: the prior for a kernel, the kernel for a token bucket.
const KERNEL_WEIGHT: f64 = 32.0;
const BUCKET_WEIGHT: f64 = 16.0;
/// Wealth, as a logarithm, that retires a challenger: 1 : 20.
const RETIRING_WEALTH: f64 = 3.0;
/// Incumbents within this factor of the lowest bound are not worth a probe.
const CLOSE_TO_BOUND: f64 = 1.03;

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
    config: AdaptiveConfig,
    limits: MachineLimits,
    arms: Vec<Arm>,
    health: Vec<Health>,
    rng: ChaCha8Rng,
    contexts: BTreeMap<ContextKey, Context>,
    kernel_effects: Vec<Moments>,
    bucket_effects: BTreeMap<(usize, u32), Moments>,
    noise: NoiseModel,
    clock: CommonMode,
    budget: ProbeBudget,
    memory: MemoryGauge,
    tickets: Tickets,
    totals: Totals,
    now_ns: u64,
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

    /// Tells what the policy thinks of every arm for a call. Changes nothing.
    pub fn explain(&self, features: &CallFeatures<'_>) -> AdaptiveExplanation {
        let context = self.contexts.get(&self.context_key(features));
        let considered = (0..self.arms.len()).map(|k| self.consider(features, context, k));
        AdaptiveExplanation {
            incumbent: context.map(|context| self.arms[context.incumbent].spec.id),
            calls: context.map_or(0, |context| context.calls),
            switches: context.map_or(0, |context| context.switches),
            winning_wealth: context.map_or(f64::NAN, |c| c.winning_wealth(self.config.alpha)),
            considered: considered.collect(),
        }
    }

    fn consider(
        &self,
        features: &CallFeatures<'_>,
        context: Option<&Context>,
        kernel: usize,
    ) -> ConsideredArm {
        let Arm { spec, .. } = self.arms[kernel];
        let state = context.map(|context| &context.arms[kernel]);
        let test = state.map_or_else(PairedTest::default, |state| state.test.clone());
        let token_bucket = self.coordinates(features).token_bucket;
        let log_estimate = self.arms[kernel].estimate_ns(features).ln();
        let belief = match context {
            Some(context) => {
                let Belief { mean, sd } = self.belief(context, kernel);
                Belief { mean: mean - context.base[kernel] + log_estimate, sd }
            }
            None => Belief {
                mean: log_estimate + self.pooled_effect(kernel, token_bucket),
                sd: self.config.prior_sd,
            },
        };
        let fitness = self.health[kernel].fitness(self.now_ns);
        let verdict = match (spec.legal(&features.facts), context) {
            (Err(why), _) => ArmVerdict::Refused(why),
            (Ok(()), _) if fitness != Fitness::Fit => ArmVerdict::Unfit(fitness),
            (Ok(()), Some(context)) if context.incumbent == kernel => ArmVerdict::Incumbent,
            (Ok(()), Some(context)) if self.hopeless(context, kernel) => ArmVerdict::Hopeless,
            _ => match state.map(|state| state.standing) {
                Some(Standing::Retired { why, .. }) => ArmVerdict::Retired(why),
                _ => ArmVerdict::Unproven,
            },
        };
        ConsideredArm {
            kernel: spec.id,
            bound_ns: self.limits.lower_bound_ns(features, spec.rows_per_decode),
            estimate_ns: (belief.mean + self.clock.level()).exp(),
            estimate_sd: belief.sd,
            samples: state.map_or(0.0, |state| state.residual.n),
            pairs: test.pairs().n,
            gain: test.pairs().mean,
            wealth: test.wealth(self.config.margin, self.config.large_margin, &self.noise),
            verdict,
        }
    }

    fn coordinates(&self, features: &CallFeatures<'_>) -> Coordinates {
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

    fn open_context(
        &self,
        features: &CallFeatures<'_>,
        coordinates: Coordinates,
        default: usize,
        fitness: &[Option<Fitness>],
    ) -> Context {
        let base: Vec<f64> = self.arms.iter().map(|arm| arm.estimate_ns(features).ln()).collect();
        let expected =
            |kernel: usize| base[kernel] + self.pooled_effect(kernel, coordinates.token_bucket);
        let fit = (0..base.len()).filter(|&kernel| fitness[kernel] == Some(Fitness::Fit));
        let best = fit.min_by(|&a, &b| expected(a).total_cmp(&expected(b)));
        let start = best.filter(|&kernel| {
            fitness[default] != Some(Fitness::Fit)
                || expected(kernel) < expected(default) - self.config.start_margin
        });
        let bound = |arm: &Arm| self.limits.lower_bound_ns(features, arm.spec.rows_per_decode);
        let state = ArmState {
            residual: Moments::default(),
            sampled_at: 0,
            test: PairedTest::default(),
            standing: Standing::Racing,
            refresh_calls: self.config.refresh_calls,
        };
        Context {
            coordinates,
            incumbent: start.unwrap_or(default),
            bound_ns: self.arms.iter().map(bound).collect(),
            arms: vec![state; base.len()],
            base,
            calls: 0,
            switches: 0,
            restarts: 0,
            epoch: 0,
            drift: Cusum::default(),
            recent: 0.0,
            open_leg: None,
        }
    }

    /// The incumbent where it may serve, else the rules' pick, else the legal arm expected fastest.
    fn serve(
        &self,
        key: ContextKey,
        features: &CallFeatures<'_>,
        fitness: &[Option<Fitness>],
        default: usize,
    ) -> (usize, ChoiceReason, Option<(u64, bool)>) {
        let fit = |kernel: usize| fitness[kernel] == Some(Fitness::Fit);
        let context = self.contexts.get(&key).filter(|_| self.config.mode != Mode::Off);
        let (first, reason) = match context {
            Some(context) => (context.incumbent, ChoiceReason::Incumbent),
            None => (default, ChoiceReason::Default),
        };
        if fit(first) {
            return (first, reason, None);
        }
        let expected = |kernel: usize| match context {
            Some(context) => self.belief(context, kernel).mean,
            None => self.arms[kernel].estimate_ns(features).ln(),
        };
        let fastest = |wanted: Fitness| {
            let open = (0..fitness.len()).filter(|&kernel| fitness[kernel] == Some(wanted));
            open.min_by(|&a, &b| expected(a).total_cmp(&expected(b)))
        };
        let kernel = Some(default).filter(|&kernel| fit(kernel));
        let kernel = kernel.or_else(|| fastest(Fitness::Fit)).or_else(|| fastest(Fitness::OnTrial));
        (kernel.expect("choose checked that an arm may serve"), ChoiceReason::Fallback, None)
    }

    /// A leg of a pair, or a kernel on trial, where probing is allowed and worth it.
    fn probe(
        &mut self,
        key: ContextKey,
        fitness: &[Option<Fitness>],
        conditions: &Conditions,
    ) -> Option<(usize, ChoiceReason, Option<(u64, bool)>)> {
        let allowed = self.config.mode == Mode::Learn
            && conditions.may_probe
            && self.memory.level() == MemoryLevel::Normal;
        let mut context = self.contexts.remove(&key)?;
        let decided = match allowed {
            true => self.probe_in(&mut context, fitness),
            false => None,
        };
        self.contexts.insert(key, context);
        decided
    }

    fn probe_in(
        &mut self,
        context: &mut Context,
        fitness: &[Option<Fitness>],
    ) -> Option<(usize, ChoiceReason, Option<(u64, bool)>)> {
        let fit = |kernel: usize| fitness[kernel] == Some(Fitness::Fit);
        let incumbent = context.incumbent;
        let leg = |kernel: usize| match kernel == incumbent {
            true => ChoiceReason::Control,
            false => ChoiceReason::Probe,
        };
        if let Some(OpenLeg { pair, kernel }) = context.open_leg.take() {
            if fit(kernel) && self.tickets.pair_is_open(pair) {
                return Some((kernel, leg(kernel), Some((pair, false))));
            }
            self.tickets.drop_pair(pair);
        }
        if !fit(incumbent) {
            return None;
        }
        let on_trial = |&kernel: &usize| fitness[kernel] == Some(Fitness::OnTrial);
        if let Some(kernel) = (0..fitness.len()).find(on_trial) {
            return Some((kernel, ChoiceReason::Recovery, None));
        }
        let challenger = self.draw_challenger(context, fitness)?;
        let pair = self.tickets.open_pair(challenger, context.epoch);
        let (first, second) = match self.rng.random_bool(0.5) {
            true => (challenger, incumbent),
            false => (incumbent, challenger),
        };
        context.open_leg = Some(OpenLeg { pair, kernel: second });
        Some((first, leg(first), Some((pair, true))))
    }

    fn draw_challenger(
        &mut self,
        context: &mut Context,
        fitness: &[Option<Fitness>],
    ) -> Option<usize> {
        let incumbent = self.belief(context, context.incumbent);
        let lowest = (0..fitness.len())
            .filter(|&kernel| fitness[kernel].is_some())
            .map(|kernel| context.bound_ns[kernel])
            .fold(f64::INFINITY, f64::min);
        if incumbent.mean.exp() <= CLOSE_TO_BOUND * lowest {
            return None;
        }
        let mut challengers = Vec::with_capacity(fitness.len());
        for (kernel, fitness) in fitness.iter().enumerate() {
            let open = *fitness == Some(Fitness::Fit)
                && kernel != context.incumbent
                && !self.hopeless(context, kernel);
            if open && context.may_race(kernel) {
                challengers.push((kernel, self.belief(context, kernel)));
            }
        }
        let margin = self.config.margin;
        let challenger = thompson_challenger(&mut self.rng, &incumbent, &challengers, margin)?;
        let loss = self.belief(context, challenger).expected_loss(&incumbent);
        self.budget.take(loss * incumbent.mean.exp()).then_some(challenger)
    }

    /// Whether a kernel's lower bound is above the incumbent's expected latency.
    fn hopeless(&self, context: &Context, kernel: usize) -> bool {
        let incumbent = self.belief(context, context.incumbent);
        context.bound_ns[kernel] > (incumbent.mean + 2.0 * incumbent.sd).exp()
    }

    fn pooled_effect(&self, kernel: usize, token_bucket: u32) -> f64 {
        let of_kernel = self.kernel_effects[kernel].shrunk(0.0, KERNEL_WEIGHT);
        let of_bucket = self.bucket_effects.get(&(kernel, token_bucket));
        of_bucket.map_or(of_kernel, |moments| moments.shrunk(of_kernel, BUCKET_WEIGHT))
    }

    /// The belief of a kernel's log latency in a context, the clock's part left out.
    fn belief(&self, context: &Context, kernel: usize) -> Belief {
        let state = &context.arms[kernel];
        let towards = self.pooled_effect(kernel, context.coordinates.token_bucket);
        let noise = self.noise.pair_variance() / 2.0 * self.noise.inflation();
        let prior = self.config.prior_sd * self.config.prior_sd;
        let weight = noise / prior;
        let idle_calls = (context.calls - state.sampled_at) as f64;
        let variance = noise / (state.residual.n + weight) + self.config.walk_variance * idle_calls;
        Belief {
            mean: context.base[kernel] + state.residual.shrunk(towards, weight),
            sd: variance.min(prior).sqrt(),
        }
    }

    /// Learns a residual, the clock's part still in it; whether the context's race starts anew.
    fn learn(&mut self, pending: &Pending, residual: f64) -> bool {
        let sd = (self.noise.pair_variance() / 2.0).sqrt();
        let clock = self.clock.level();
        let Some(context) = self.contexts.get_mut(&pending.context) else { return false };
        let state = &mut context.arms[pending.kernel];
        let before = state.residual;
        let window = if before.n < 4.0 { 0.7 } else { 5.0 * sd };
        let clipped = (residual - clock).clamp(before.mean - window, before.mean + window);
        state.residual.push_forgetting(clipped, MAX_SAMPLES);
        state.sampled_at = context.calls;
        if before.n < POOLED_SAMPLES {
            self.kernel_effects[pending.kernel].push_forgetting(clipped, 4.0 * MAX_SAMPLES);
            let bucket = (pending.kernel, context.coordinates.token_bucket);
            self.bucket_effects.entry(bucket).or_default().push_forgetting(clipped, MAX_SAMPLES);
        }
        if pending.kernel != context.incumbent || before.n < 4.0 {
            return false;
        }
        context.recent += 0.3 * (residual - clock - before.mean - context.recent).clamp(-1.0, 1.0);
        self.clock.push(pending.context, residual - before.mean);
        let scale = sd * self.noise.inflation().sqrt();
        if !context.drift.push((residual - self.clock.level() - before.mean) / scale) {
            return false;
        }
        self.alarm(pending.context)
    }

    fn alarm(&mut self, key: ContextKey) -> bool {
        let Some(context) = self.contexts.get_mut(&key) else { return false };
        let incumbent = &mut context.arms[context.incumbent].residual;
        *incumbent = Moments::of(2.0, incumbent.mean + context.recent);
        context.recent = 0.0;
        context.restart(self.config.refresh_calls);
        self.totals.alarms += 1;
        self.budget.alarm(self.now_ns.saturating_add(self.config.alarm_ns));
        true
    }

    fn void_pair(&mut self, pending: &Pending) {
        if let Some(pair) = pending.pair {
            self.tickets.drop_pair(pair);
        }
    }

    /// Adds a leg to its pair; with the second one the challenger's test decides.
    fn close_leg(&mut self, pending: &Pending, residual: f64) -> Option<(usize, usize)> {
        let context = self.contexts.get_mut(&pending.context)?;
        let log_latency = residual + context.base[pending.kernel];
        let closed = self.tickets.add_leg(pending.pair?, pending.kernel, log_latency)?;
        let Pair { challenger, epoch, measured } = closed;
        let (_, other) = measured?;
        if epoch != context.epoch {
            return None;
        }
        let gain = match pending.kernel == challenger {
            true => other - log_latency,
            false => log_latency - other,
        };
        let config = &self.config;
        let test = &mut context.arms[challenger].test;
        test.push(gain, &mut self.noise);
        let wealth = test.wealth(config.margin, config.large_margin, &self.noise);
        let tied = test.gain_upper_bound(&self.noise) < config.tie_zone;
        if wealth.better.max(wealth.much_better) >= context.winning_wealth(config.alpha) {
            let from = context.incumbent;
            context.switch_to(challenger, config.refresh_calls);
            self.totals.switches += 1;
            return Some((from, challenger));
        }
        if wealth.not_better.max(wealth.much_worse) >= RETIRING_WEALTH {
            context.retire(challenger, Retirement::Loses, config.max_refresh_calls);
        } else if tied {
            context.retire(challenger, Retirement::Ties, config.max_refresh_calls);
        }
        None
    }
}
