use super::context::{Context, Standing};
use super::probe::Belief;
use super::tickets::{Pair, Pending};
use super::{AdaptiveConfig, AdaptivePolicy, Moments, NoiseModel, Retirement};
use crate::ContextKey;

/// Weight of samples beyond which the oldest fade.
const MAX_SAMPLES: f64 = 64.0;
/// Weight that the samples of a kernel keep which was idle for the longest refresh interval.
const STALE_SAMPLES: f64 = 2.0;
/// Samples of a context's kernel that teach the levels above it.
const POOLED_SAMPLES: f64 = 8.0;
/// Samples that the level above counts as: the prior for a kernel, the kernel for a token bucket.
const KERNEL_WEIGHT: f64 = 32.0;
const BUCKET_WEIGHT: f64 = 16.0;
/// Standard deviations beyond which one of a kernel's first samples may be a stall: of the prior's error
/// for the first, of the noise for those after it. Believed, one stall would keep a kernel from being
/// probed for a long time.
const STALL_SDS: f64 = 3.0;
const NEXT_STALL_SDS: f64 = 4.0;
/// Standard deviations of noise beyond which a later sample counts no more than one at that distance.
const OUTLIER_SDS: f64 = 3.0;
/// Samples before which a kernel's mean may still jump.
const FEW_SAMPLES: f64 = 4.0;
/// Wealth, as a logarithm, that retires a challenger: 1 : 20.
const RETIRING_WEALTH: f64 = 3.0;
/// Wealth, as a logarithm, that a test keeps when its context's race starts anew.
const PROMISING_WEALTH: f64 = 1.0;

/// What feedback changes.
impl AdaptivePolicy {
    pub(super) fn pooled_effect(&self, kernel: usize, token_bucket: u32) -> f64 {
        let of_kernel = self.kernel_effects[kernel].shrunk(0.0, KERNEL_WEIGHT);
        let of_bucket = self.bucket_effects.get(&(kernel, token_bucket));
        of_bucket.map_or(of_kernel, |moments| moments.shrunk(of_kernel, BUCKET_WEIGHT))
    }

    /// The belief of a kernel's log latency in a context, the clock's part left out.
    ///
    /// Samples of different times differ by what slowed the whole context then. As far as that is
    /// more than noise, a challenger is believed by its pairs with the incumbent, or little.
    pub(super) fn belief(&self, context: &Context, kernel: usize) -> Belief {
        let noise = self.noise.of(&context.noise);
        let own = self.belief_by_samples(context, kernel, &noise);
        let level_share = context.level_share(noise.sample_variance());
        if kernel == context.incumbent || level_share == 0.0 {
            return own;
        }
        let level_variance = (context.spread.mean - noise.sample_variance()).max(0.0);
        let incumbent = self.belief_by_samples(context, context.incumbent, &noise);
        let sd = (own.sd * own.sd + level_variance).sqrt();
        let by_samples = Belief { mean: incumbent.mean - own.mean, sd };
        let gain = context.arms[kernel].test.gain(by_samples, &noise);
        let blend = |own: f64, paired: f64| own + level_share * (paired - own);
        Belief {
            mean: blend(own.mean, incumbent.mean - gain.mean),
            sd: blend(own.sd * own.sd, gain.sd * gain.sd).sqrt(),
        }
    }

    /// The belief of what `kernel` gains over its context's incumbent, by the models and their pairs:
    /// samples of different times do not enter it.
    pub(super) fn gain_by_pairs(&self, context: &Context, kernel: usize) -> Belief {
        let bucket = context.coordinates.token_bucket;
        let predicted = |kernel: usize| context.base[kernel] + self.pooled_effect(kernel, bucket);
        let mean = predicted(context.incumbent) - predicted(kernel);
        let prior = Belief { mean, sd: (2.0 * self.prior_errors.mean).sqrt() };
        context.arms[kernel].test.gain(prior, &self.noise.of(&context.noise))
    }

    fn belief_by_samples(&self, context: &Context, kernel: usize, noise: &NoiseModel) -> Belief {
        let state = &context.arms[kernel];
        let pooled = self.pooled_effect(kernel, context.coordinates.token_bucket);
        let towards = pooled + self.common_errors.share() * context.errors.mean;
        let noise = noise.sample_variance();
        let prior = self.prior_errors.mean;
        let weight = noise / prior;
        let idle_calls = (context.calls - state.sampled_at) as f64;
        let variance = noise / (state.residual.n + weight) + self.config.walk_variance * idle_calls;
        Belief {
            mean: context.base[kernel] + state.residual.shrunk(towards, weight),
            sd: variance.min(prior).sqrt(),
        }
    }

    /// Learns a residual, the clock's part still in it; whether the context's race starts anew.
    pub(super) fn learn(&mut self, pending: &Pending, residual: f64) -> bool {
        let clock = self.clock.level();
        let Some(context) = self.contexts.get(&pending.context) else { return false };
        let noise = self.noise.of(&context.noise);
        let sd = (noise.pair_variance() / 2.0).sqrt();
        let pooled = self.pooled_effect(pending.kernel, context.coordinates.token_bucket);
        let expected = pooled + self.common_errors.share() * context.errors.mean;
        let surprise = residual - clock - expected > STALL_SDS * self.prior_errors.mean.sqrt();
        let Some(context) = self.contexts.get_mut(&pending.context) else { return false };
        let level = match pending.kernel == context.incumbent {
            true => clock,
            false => clock + context.level_share(sd * sd * noise.inflation()) * context.recent,
        };
        let state = &mut context.arms[pending.kernel];
        if context.calls - state.sampled_at >= self.config.max_refresh_calls {
            state.residual = Moments::of(state.residual.n.min(STALE_SAMPLES), state.residual.mean);
        }
        let before = state.residual;
        let stall = match before.n {
            0.0 => surprise,
            n if n < FEW_SAMPLES => residual - level - before.mean > NEXT_STALL_SDS * sd,
            _ => false,
        };
        if stall && !state.suspected {
            (state.suspected, state.sampled_at) = (true, context.calls);
            return false;
        }
        state.suspected = false;
        let window = match before.n {
            0.0 => f64::INFINITY,
            n if n < FEW_SAMPLES => 0.7,
            _ => OUTLIER_SDS * sd,
        };
        let clipped = (residual - level).clamp(before.mean - window, before.mean + window);
        state.residual.push_forgetting(clipped, MAX_SAMPLES);
        state.sampled_at = context.calls;
        if before.n == 0.0 {
            let error = clipped - expected;
            self.prior_errors.push(error * error);
            let own = clipped - pooled;
            if context.errors.n > 0.0 {
                let others = context.errors.mean;
                self.common_errors.push(others, own);
            }
            context.errors.push(own);
        }
        if before.n < POOLED_SAMPLES {
            self.kernel_effects[pending.kernel].push_forgetting(clipped, 4.0 * MAX_SAMPLES);
            let bucket = (pending.kernel, context.coordinates.token_bucket);
            self.bucket_effects.entry(bucket).or_default().push_forgetting(clipped, MAX_SAMPLES);
        }
        if pending.kernel != context.incumbent || before.n < FEW_SAMPLES {
            return false;
        }
        let deviation = (residual - clock - before.mean).clamp(-window, window);
        context.spread.push_forgetting(deviation * deviation, MAX_SAMPLES);
        context.recent += 0.3 * (residual - clock - before.mean - context.recent).clamp(-1.0, 1.0);
        self.clock.push(pending.context, residual - before.mean);
        let scale = (sd * noise.inflation().sqrt()).max(context.spread.mean.sqrt());
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
        let noise = self.noise.of(&context.noise);
        let AdaptiveConfig { margin, large_margin, refresh_calls, .. } = self.config;
        context.restart(refresh_calls, |test| {
            let wealth = test.wealth(margin, large_margin, &noise);
            wealth.better.max(wealth.much_better) > PROMISING_WEALTH && test.is_current(&noise)
        });
        self.totals.alarms += 1;
        self.budget.alarm(self.now_ns.saturating_add(self.config.alarm_ns));
        true
    }

    /// Adds a leg to its pairs. With the second leg of one the challenger's test decides.
    pub(super) fn close_legs(
        &mut self,
        pending: &Pending,
        residual: f64,
    ) -> Option<(usize, usize)> {
        let mut switched = None;
        for &pair in &pending.pairs {
            // A switch voids the pairs that are left: they are of an older epoch.
            switched = self.close_leg(pending, pair, residual).or(switched);
        }
        switched
    }

    fn close_leg(&mut self, pending: &Pending, pair: u64, residual: f64) -> Option<(usize, usize)> {
        let Some(context) = self.contexts.get_mut(&pending.context) else {
            self.tickets.drop_pairs(&[pair]);
            return None;
        };
        let log_latency = residual + context.base[pending.kernel];
        let closed = self.tickets.add_leg(pair, pending.kernel, log_latency)?;
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
        if let Some(difference) = test.push(gain, &mut self.noise) {
            context.noise.push(difference, &self.noise);
        }
        let noise = self.noise.of(&context.noise);
        let wealth = test.wealth(config.margin, config.large_margin, &noise);
        let tied = test.gain_upper_bound(&noise) < config.tie_zone;
        let needed = context.winning_wealth(challenger, config.alpha);
        if wealth.better.max(wealth.much_better) >= needed {
            let from = context.incumbent;
            context.switch_to(challenger, config.refresh_calls);
            self.totals.switches += 1;
            self.plan_version += 1;
            return Some((from, challenger));
        }
        if context.arms[challenger].standing != Standing::Racing {
            return None;
        }
        if wealth.not_better.max(wealth.much_worse) >= RETIRING_WEALTH {
            context.retire(challenger, Retirement::Loses, config.max_refresh_calls);
        } else if tied {
            context.retire(challenger, Retirement::Ties, config.max_refresh_calls);
        }
        None
    }
}
