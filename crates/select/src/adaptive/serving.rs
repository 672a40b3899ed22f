use rand::RngExt;

use super::context::{ArmState, Context, OpenLeg, Standing};
use super::drift::Cusum;
use super::probe::thompson_challenger;
use super::{
    AdaptivePolicy, Arm, CallFeatures, ChoiceReason, Conditions, Coordinates, Fitness, MemoryLevel,
    Mode, Moments, PairedTest,
};
use crate::ContextKey;

/// Incumbents within this factor of the lowest bound are not worth a probe.
const CLOSE_TO_BOUND: f64 = 1.03;

/// A kernel, why, and the pair that it is a leg of, with whether that is the first leg.
pub(super) type Leg = (usize, ChoiceReason, Option<(u64, bool)>);

/// What serves, and what is probed instead.
impl AdaptivePolicy {
    pub(super) fn open_context(
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
    pub(super) fn probe(
        &mut self,
        key: ContextKey,
        fitness: &[Option<Fitness>],
        conditions: &Conditions,
    ) -> Option<Leg> {
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

    fn probe_in(&mut self, context: &mut Context, fitness: &[Option<Fitness>]) -> Option<Leg> {
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
        let on_trial = |&kernel: &usize| fitness[kernel] == Some(Fitness::OnTrial);
        if let Some(kernel) = (0..fitness.len()).find(on_trial) {
            return Some((kernel, ChoiceReason::Recovery, None));
        }
        if !fit(incumbent) {
            return None;
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
        let idle = |kernel: usize| context.calls - context.arms[kernel].sampled_at;
        let longest_idle = challengers.iter().map(|&(kernel, _)| kernel).max_by_key(|&k| idle(k));
        let challenger = match longest_idle {
            Some(kernel) if idle(kernel) >= self.config.max_refresh_calls => kernel,
            _ => {
                let margin = self.config.margin;
                thompson_challenger(&mut self.rng, &incumbent, &challengers, margin)?
            }
        };
        let loss = self.belief(context, challenger).expected_loss(&incumbent);
        self.budget.take(loss * incumbent.mean.exp()).then_some(challenger)
    }

    /// Whether a kernel's lower bound is above the incumbent's expected latency.
    pub(super) fn hopeless(&self, context: &Context, kernel: usize) -> bool {
        let incumbent = self.belief(context, context.incumbent);
        context.bound_ns[kernel] > (incumbent.mean + 2.0 * incumbent.sd).exp()
    }
}
