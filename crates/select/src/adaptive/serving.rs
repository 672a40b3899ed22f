use rand::RngExt;

use super::context::{ArmState, Context, OpenLeg, Standing};
use super::drift::Cusum;
use super::noise::NoiseScale;
use super::probe::{Belief, Draw};
use super::{
    AdaptivePolicy, Arm, CallFeatures, ChoiceReason, Conditions, Coordinates, Fitness, MemoryLevel,
    Mode, Moments, PairedTest,
};
use crate::ContextKey;

/// Incumbents within this factor of the lowest bound are not worth a probe.
const CLOSE_TO_BOUND: f64 = 1.03;

/// A kernel, why, and the pair that it is a leg of.
pub(super) struct Leg {
    pub(super) kernel: usize,
    pub(super) reason: ChoiceReason,
    pub(super) pair: Option<u64>,
}

impl Leg {
    const fn alone(kernel: usize, reason: ChoiceReason) -> Self {
        Self { kernel, reason, pair: None }
    }
}

/// Standard deviations by which the rules' pick must be believed faster than an unproven start.
const REVERTING_SDS: f64 = 2.0;
/// Pairs that it takes at least: one stall must not decide.
const REVERTING_PAIRS: f64 = 2.0;

/// Share of a context's time that refreshing one retired kernel may lose: slow ones are refreshed
/// more rarely.
const REFRESH_LOSS: f64 = 1e-4;

/// What serves, and what is probed instead.
impl AdaptivePolicy {
    /// A new context, begun with what was imported for it. Its incumbent is the rules' pick, or the
    /// kernel expected fastest where that promises enough or the rules' pick may not serve.
    pub(super) fn open_context(
        &self,
        features: &CallFeatures<'_>,
        coordinates: Coordinates,
        default: usize,
        fitness: &[Option<Fitness>],
    ) -> Context {
        let key = coordinates.key(features);
        let bound = |arm: &Arm| self.limits.lower_bound_ns(features, arm.spec.rows_per_decode);
        let base: Vec<f64> = self.arms.iter().map(|arm| arm.estimate_ns(features).ln()).collect();
        let state = |(kernel, log_estimate): (usize, &f64)| ArmState {
            residual: self.imported_residual(key, kernel, *log_estimate),
            suspected: false,
            sampled_at: 0,
            test: PairedTest::default(),
            standing: Standing::Racing,
            refresh_calls: self.config.refresh_calls,
            given_up: 0,
        };
        let mut context = Context {
            coordinates,
            incumbent: default,
            bound_ns: self.arms.iter().map(bound).collect(),
            arms: base.iter().enumerate().map(state).collect(),
            base,
            calls: 0,
            switches: 0,
            noise: NoiseScale::default(),
            epoch: 0,
            errors: Moments::default(),
            drift: Cusum::default(),
            recent: 0.0,
            spread: Moments::default(),
            open_leg: None,
            unproven: false,
            settled: false,
            used_at: self.totals.choices,
            swept_at: 0,
        };
        let expected = |kernel: usize| self.belief(&context, kernel).mean;
        let fit = (0..self.arms.len()).filter(|&kernel| fitness[kernel] == Some(Fitness::Fit));
        let best = self.preferred(features, fit, expected);
        let start = best.filter(|&kernel| {
            fitness[default] != Some(Fitness::Fit)
                || expected(kernel) < expected(default) - self.config.start_margin
        });
        context.incumbent = start.unwrap_or(default);
        context.unproven = context.incumbent != default;
        context
    }

    /// The kernel expected fastest. Of those within the tie zone of it the one with the least
    /// workspace, then with the fewest decoded weights, then with the smaller name: equal
    /// predictions start alike in every process, whatever the order of the arms. Their numeric
    /// class is the one asked for, or they would not be legal.
    fn preferred(
        &self,
        features: &CallFeatures<'_>,
        kernels: impl Iterator<Item = usize> + Clone,
        expected: impl Fn(usize) -> f64,
    ) -> Option<usize> {
        let lowest = kernels.clone().map(&expected).min_by(f64::total_cmp)?;
        let tied = kernels.filter(|&kernel| expected(kernel) <= lowest + self.config.tie_zone);
        tied.min_by_key(|&kernel| {
            let spec = &self.arms[kernel].spec;
            let workspace_bytes = spec.workspace.bytes(features.facts.num_pairs);
            (workspace_bytes, features.decoded_weights(spec.rows_per_decode), spec.id)
        })
    }

    /// Takes an unproven start back once its pairs with the rules' pick make that the faster one by two
    /// standard deviations of the belief. What began on a prediction needs no proof to end on a better
    /// one; only the rules' pick may come of it, and only once. Samples of different times would not do:
    /// what slows every kernel for a while would be the start's fault.
    pub(super) fn revert_start(&mut self, key: ContextKey, default: usize, fit: bool) {
        let Some(context) = self.contexts.get(&key).filter(|context| context.unproven && fit)
        else {
            return;
        };
        let gain = self.gain_by_pairs(context, default);
        let pairs = context.arms[default].test.pairs().n;
        if pairs < REVERTING_PAIRS || gain.mean <= REVERTING_SDS * gain.sd {
            return;
        }
        let refresh_calls = self.config.refresh_calls;
        if let Some(context) = self.contexts.get_mut(&key) {
            if let Some(leg) = context.open_leg.take() {
                self.tickets.drop_pairs(&[leg.pair]);
            }
            context.revert_to(default, refresh_calls);
            self.totals.reverts += 1;
            self.plan_version += 1;
        }
    }

    /// The incumbent where it may serve, else the rules' pick, else the legal arm expected fastest.
    pub(super) fn serve(
        &self,
        key: ContextKey,
        features: &CallFeatures<'_>,
        fitness: &[Option<Fitness>],
        default: usize,
    ) -> Leg {
        let fit = |kernel: usize| fitness[kernel] == Some(Fitness::Fit);
        let context = self.contexts.get(&key).filter(|_| self.config.mode != Mode::Off);
        let (first, reason) = match context {
            Some(context) => (context.incumbent, ChoiceReason::Incumbent),
            None => (default, ChoiceReason::Default),
        };
        if fit(first) {
            return Leg::alone(first, reason);
        }
        let expected = |kernel: usize| match context {
            Some(context) => self.belief(context, kernel).mean,
            None => self.arms[kernel].estimate_ns(features).ln(),
        };
        let fastest = |wanted: Fitness| {
            let open = (0..fitness.len()).filter(|&kernel| fitness[kernel] == Some(wanted));
            self.preferred(features, open, expected)
        };
        let kernel = Some(default).filter(|&kernel| fit(kernel));
        let kernel = kernel.or_else(|| fastest(Fitness::Fit)).or_else(|| fastest(Fitness::OnTrial));
        let kernel = kernel.expect("choose checked that an arm may serve");
        Leg::alone(kernel, ChoiceReason::Fallback)
    }

    /// A leg of a pair, or a kernel on trial, where probing is allowed and worth it; and the draw,
    /// where it came to one.
    pub(super) fn probe(
        &mut self,
        key: ContextKey,
        fitness: &[Option<Fitness>],
        conditions: &Conditions,
    ) -> (Option<Leg>, Option<Draw>) {
        let allowed = self.config.mode == Mode::Learn
            && conditions.may_probe
            && self.memory.level() == MemoryLevel::Normal;
        if !allowed {
            return (None, None);
        }
        let Some(mut context) = self.contexts.remove(&key) else { return (None, None) };
        let decided = self.probe_in(&mut context, fitness, conditions.default);
        self.contexts.insert(key, context);
        decided
    }

    fn probe_in(
        &mut self,
        context: &mut Context,
        fitness: &[Option<Fitness>],
        default: usize,
    ) -> (Option<Leg>, Option<Draw>) {
        let fit = |kernel: usize| fitness[kernel] == Some(Fitness::Fit);
        let incumbent = context.incumbent;
        let leg = |kernel: usize, pair: u64| {
            let reason = match kernel == incumbent {
                true => ChoiceReason::Control,
                false => ChoiceReason::Probe,
            };
            Leg { kernel, reason, pair: Some(pair) }
        };
        if let Some(OpenLeg { pair, kernel }) = context.open_leg.take() {
            if fit(kernel) && self.tickets.pair_is_open(pair) {
                return (Some(leg(kernel, pair)), None);
            }
            self.tickets.drop_pairs(&[pair]);
        }
        let on_trial = |&kernel: &usize| fitness[kernel] == Some(Fitness::OnTrial);
        if let Some(kernel) = (0..fitness.len()).find(on_trial) {
            return (Some(Leg::alone(kernel, ChoiceReason::Recovery)), None);
        }
        if !fit(incumbent) {
            return (None, None);
        }
        let draw = self.look_at_challengers(context, fitness, default);
        let settled = !draw.as_ref().is_some_and(Draw::is_open);
        if context.settled != settled {
            context.settled = settled;
            self.plan_version += 1;
        }
        let Some(draw) = draw else { return (None, None) };
        let drawn = draw.challenger(&mut self.rng);
        let affords = |kernel: &usize| match draw.is_look {
            true => self.budget.take_look(draw.surplus_ns(*kernel), self.now_ns),
            false => self.budget.take(draw.expected_loss_ns(*kernel), self.now_ns),
        };
        let Some(challenger) = drawn.filter(affords) else {
            return (None, Some(draw));
        };
        let pair = self.tickets.open_pair(challenger, context.epoch);
        let (first, second) = match self.rng.random_bool(0.5) {
            true => (challenger, incumbent),
            false => (incumbent, challenger),
        };
        context.open_leg = Some(OpenLeg { pair, kernel: second });
        (Some(leg(first, pair)), Some(draw))
    }

    /// Who may challenge the incumbent now; none where nobody may or it is not worth it. An unproven
    /// start is measured against the rules' pick before anybody else is.
    fn look_at_challengers(
        &mut self,
        context: &mut Context,
        fitness: &[Option<Fitness>],
        default: usize,
    ) -> Option<Draw> {
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
        let overdue = challengers.iter().find(|(kernel, belief)| {
            let idle = (context.calls - context.arms[*kernel].sampled_at) as f64;
            let loss = (belief.mean - incumbent.mean).exp_m1();
            idle >= self.config.max_refresh_calls as f64 && idle >= loss / REFRESH_LOSS
        });
        let affordable_ns = self.budget.affordable_ns(self.now_ns);
        let rival = challengers.iter().find(|&&(kernel, _)| kernel == default);
        let rival = rival.filter(|(_, belief)| {
            let pairs = context.arms[default].test.pairs().n;
            context.unproven
                && pairs < REVERTING_PAIRS
                && belief.expected_loss_ns(&incumbent) <= affordable_ns
        });
        let look = match rival {
            Some(_) => None,
            None => self.look(context, &challengers, &incumbent),
        };
        Some(Draw {
            incumbent,
            undrawn: look.or(rival.or(overdue).map(|&(kernel, _)| kernel)),
            challengers,
            is_look: look.is_some(),
            margin: self.config.margin,
            affordable_ns,
        })
    }

    /// The kernel whose honest look is due: the cheapest, by belief, of those that nothing was measured of
    /// in calls of such a size, where the budget of looks affords it. However slow the prior calls
    /// it, the prior may be wrong by factors, and nothing but a look tells.
    fn look(
        &mut self,
        context: &Context,
        challengers: &[(usize, Belief)],
        incumbent: &Belief,
    ) -> Option<usize> {
        let affordable_ns = self.budget.affordable_look_ns(self.now_ns);
        let bucket = context.coordinates.token_bucket;
        let unseen = challengers.iter().filter(|&&(kernel, _)| {
            context.arms[kernel].residual.n == 0.0
                && !self.bucket_effects.contains_key(&(kernel, bucket))
        });
        let (kernel, belief) = unseen.min_by(|a, b| a.1.mean.total_cmp(&b.1.mean))?;
        let surplus_ns = belief.mean.exp() - incumbent.mean.exp();
        (surplus_ns <= affordable_ns).then_some(*kernel)
    }

    /// Whether a kernel's lower bound is above the incumbent's expected latency.
    pub(super) fn hopeless(&self, context: &Context, kernel: usize) -> bool {
        let incumbent = self.belief(context, context.incumbent);
        context.bound_ns[kernel] > (incumbent.mean + 2.0 * incumbent.sd).exp()
    }
}
