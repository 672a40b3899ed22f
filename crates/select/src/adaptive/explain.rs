use std::fmt;

use trellect_core::{KernelId, WhyNot};

use super::context::{Context, Standing};
use super::{
    AdaptivePolicy, Arm, CallFeatures, Fitness, PairedTest, Provenance, Retirement, Wealth,
};

/// What the adaptive policy thinks of one call.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaptiveExplanation {
    /// The incumbent, once the context has been seen.
    pub incumbent: Option<KernelId>,
    /// Calls of the context so far.
    pub calls: u64,
    /// Switches in the context so far.
    pub switches: u32,
    /// Log wealth that the least tested challenger needs, once the context has been seen.
    pub winning_wealth: Option<f64>,
    /// Every arm, in order.
    pub considered: Vec<ConsideredArm>,
}

/// An arm, its figures and its verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsideredArm {
    /// The kernel.
    pub kernel: KernelId,
    /// Nanoseconds that it cannot beat in this call.
    pub bound_ns: f64,
    /// The estimate for this call: the cost model times what was learned.
    pub estimate_ns: f64,
    /// Standard deviation of the estimate's logarithm.
    pub estimate_sd: f64,
    /// Weight of the samples.
    pub samples: f64,
    /// Pairs against the incumbent.
    pub pairs: f64,
    /// Mean gain over the incumbent in those pairs, as a log ratio.
    pub gain: f64,
    /// The bets on those pairs.
    pub wealth: Wealth,
    /// Log wealth that it needs to win, once the context has been seen.
    pub winning_wealth: Option<f64>,
    /// Latencies imported of it for this context, and where from.
    pub imported: Vec<(u64, Provenance)>,
    /// What became of it.
    pub verdict: ArmVerdict,
}

/// What became of an arm.
#[derive(Clone, Debug, PartialEq)]
pub enum ArmVerdict {
    /// It serves.
    Incumbent,
    /// It may not serve this call.
    Refused(WhyNot),
    /// It failed to launch.
    Unfit(Fitness),
    /// Its lower bound is above the incumbent's latency.
    Hopeless,
    /// It lost or tied and is looked at again later.
    Retired(Retirement),
    /// It has not proved a gain yet.
    Unproven,
}

impl fmt::Display for ArmVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incumbent => f.write_str("serves"),
            Self::Refused(why) => why.fmt(f),
            Self::Unfit(Fitness::Blocked) => f.write_str("blocked after failed launches"),
            Self::Unfit(_) => f.write_str("quarantined after a failed launch"),
            Self::Hopeless => f.write_str("cannot beat the incumbent even at the machine's limits"),
            Self::Retired(Retirement::Loses) => f.write_str("proved not faster by the margin"),
            Self::Retired(Retirement::Ties) => f.write_str("ties with the incumbent"),
            Self::Unproven => f.write_str("has not proved a gain"),
        }
    }
}

impl fmt::Display for AdaptiveExplanation {
    /// A line for the context, then one a kernel.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.incumbent {
            Some(kernel) => write!(f, "{kernel}")?,
            None => f.write_str("not seen yet")?,
        }
        writeln!(f, " ({} calls, {} switches)", self.calls, self.switches)?;
        for arm in &self.considered {
            write!(
                f,
                "  {}  bound {:.0} ns, estimate {:.0} ns ± {:.1} %, {:.0} samples, {:.0} pairs, \
                 gain {:+.2} %, log wealth {:.1}",
                arm.kernel,
                arm.bound_ns,
                arm.estimate_ns,
                100.0 * arm.estimate_sd,
                arm.samples,
                arm.pairs,
                100.0 * arm.gain,
                arm.wealth.better.max(arm.wealth.much_better),
            )?;
            if let Some(wealth) = arm.winning_wealth {
                write!(f, " of {wealth:.1}")?;
            }
            writeln!(f, ": {}", arm.verdict)?;
            for (count, Provenance { variance_factor, reason }) in &arm.imported {
                writeln!(
                    f,
                    "    began with {count} latencies, variance x{variance_factor}: {reason}"
                )?;
            }
        }
        Ok(())
    }
}

impl AdaptivePolicy {
    /// Tells what the policy thinks of every arm for a call. Changes nothing.
    pub fn explain(&self, features: &CallFeatures<'_>) -> AdaptiveExplanation {
        let context = self.contexts.get(&self.context_key(features));
        let considered = (0..self.arms.len()).map(|k| self.consider(features, context, k));
        AdaptiveExplanation {
            incumbent: context.map(|context| self.arms[context.incumbent].spec.id),
            calls: context.map_or(0, |context| context.calls),
            switches: context.map_or(0, |context| context.switches),
            winning_wealth: context.map(|it| {
                let needed = |kernel| it.winning_wealth(kernel, self.config.alpha);
                (0..self.arms.len()).map(needed).fold(f64::INFINITY, f64::min)
            }),
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
        let noise = context.map_or_else(|| self.noise.clone(), |it| self.noise.of(&it.noise));
        let belief = self.predict(features, self.context_key(features), kernel);
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
        let imported = self.ledger.imported_of(self.context_key(features), spec.id);
        ConsideredArm {
            kernel: spec.id,
            bound_ns: self.limits.lower_bound_ns(features, spec.rows_per_decode),
            estimate_ns: (belief.mean + self.clock.level()).exp(),
            estimate_sd: belief.sd,
            samples: state.map_or(0.0, |state| state.residual.n),
            pairs: test.pairs().n,
            gain: test.pairs().mean,
            wealth: test.wealth(self.config.margin, self.config.large_margin, &noise),
            winning_wealth: context.map(|it| it.winning_wealth(kernel, self.config.alpha)),
            imported: imported.map(|(row, from)| (row.latencies.count, from.clone())).collect(),
            verdict,
        }
    }
}
