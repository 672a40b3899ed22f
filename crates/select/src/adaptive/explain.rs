use std::fmt;

use trellect_core::{KernelId, WhyNot};

use super::{Fitness, Retirement, Wealth};

/// What the adaptive policy thinks of one call.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaptiveExplanation {
    /// The incumbent, once the context has been seen.
    pub incumbent: Option<KernelId>,
    /// Calls of the context so far.
    pub calls: u64,
    /// Switches in the context so far.
    pub switches: u32,
    /// Log wealth that the next winner needs.
    pub winning_wealth: f64,
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
        writeln!(
            f,
            " ({} calls, {} switches, a winner needs a log wealth of {:.1})",
            self.calls, self.switches, self.winning_wealth
        )?;
        for arm in &self.considered {
            writeln!(
                f,
                "  {}  bound {:.0} ns, estimate {:.0} ns ± {:.1} %, {:.0} samples, {:.0} pairs, \
                 gain {:+.2} %, log wealth {:.1}: {}",
                arm.kernel,
                arm.bound_ns,
                arm.estimate_ns,
                100.0 * arm.estimate_sd,
                arm.samples,
                arm.pairs,
                100.0 * arm.gain,
                arm.wealth.better.max(arm.wealth.much_better),
                arm.verdict,
            )?;
        }
        Ok(())
    }
}
