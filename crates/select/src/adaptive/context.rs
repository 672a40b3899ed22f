use super::drift::Cusum;
use super::noise::NoiseScale;
use super::{Coordinates, Moments, PairedTest};

/// Why a challenger is not probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retirement {
    /// Proved not to gain the margin.
    Loses,
    /// Gains less than the tie zone at most.
    Ties,
}

/// Whether a challenger is in the race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Racing,
    Retired { why: Retirement, until_call: u64 },
}

/// What one context has learned of one kernel.
#[derive(Clone, Debug)]
pub(crate) struct ArmState {
    /// `ln t − ln t̂ − clock`, clipped.
    pub(crate) residual: Moments,
    /// Whether its latest sample, one of its first four, was so bad that the next one must tell a stall
    /// from a slow kernel.
    pub(crate) suspected: bool,
    /// The context's call count at the last sample.
    pub(crate) sampled_at: u64,
    pub(crate) test: PairedTest,
    pub(crate) standing: Standing,
    /// Calls of the next retirement; doubles with each.
    pub(crate) refresh_calls: u64,
    /// Tests with pairs that were given up: each later one gets a smaller share of α.
    pub(crate) given_up: u32,
}

impl ArmState {
    fn start_test(&mut self) {
        self.given_up += u32::from(self.test.pairs().n > 0.0);
        self.test = PairedTest::default();
    }
}

/// The next leg of a pair whose other leg has been decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenLeg {
    pub(crate) pair: u64,
    pub(crate) kernel: usize,
}

/// What one context has learned.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) coordinates: Coordinates,
    pub(crate) incumbent: usize,
    /// `ln t̂` of every kernel for the call that opened the context.
    pub(crate) base: Vec<f64>,
    /// Hard lower bound of every kernel for that call, nanoseconds.
    pub(crate) bound_ns: Vec<f64>,
    pub(crate) arms: Vec<ArmState>,
    pub(crate) calls: u64,
    pub(crate) switches: u32,
    pub(crate) noise: NoiseScale,
    /// Pairs of an older epoch are void.
    pub(crate) epoch: u32,
    /// The prior's errors at every kernel's first sample.
    pub(crate) errors: Moments,
    pub(crate) drift: Cusum,
    /// Moving average of the incumbent's latest residuals, the clock's part included.
    pub(crate) recent: f64,
    /// Squares of how far the incumbent's samples were from what was believed, alarms or not.
    pub(crate) spread: Moments,
    pub(crate) open_leg: Option<OpenLeg>,
    /// Whether the incumbent serves instead of the rules' pick on a prediction alone.
    pub(crate) unproven: bool,
    /// Whether the latest look found nobody who might challenge.
    pub(crate) settled: bool,
    /// The policy's call count at the latest use.
    pub(crate) used_at: u64,
    /// Number of the latest idle sweep.
    pub(crate) swept_at: u64,
}

impl Context {
    /// Log wealth at which a challenger wins: `ln(2 K (s + 1)(s + 2) / α)` for `K` challengers,
    /// two bets each, and `s` earlier tests of the same one; the shares sum to at most `α`.
    pub(crate) fn winning_wealth(&self, kernel: usize, alpha: f64) -> f64 {
        let challengers = self.arms.len().saturating_sub(1).max(1) as f64;
        let start = f64::from(self.arms[kernel].given_up);
        (2.0 * challengers * (start + 1.0) * (start + 2.0) / alpha).ln()
    }

    /// Share of the incumbent's variance that is more than `noise`, the variance of one sample: what
    /// slows the whole context for a while, which other kernels' samples then hold, too.
    pub(crate) fn level_share(&self, noise: f64) -> f64 {
        (1.0 - noise / self.spread.mean.max(1e-12)).clamp(0.0, 1.0)
    }

    /// Makes `kernel` the incumbent; every other kernel must prove itself against it afresh.
    pub(crate) fn switch_to(&mut self, kernel: usize, refresh_calls: u64) {
        self.incumbent = kernel;
        self.switches += 1;
        self.start_race(refresh_calls);
    }

    /// Takes a start back that was never proved.
    pub(crate) fn revert_to(&mut self, default: usize, refresh_calls: u64) {
        self.incumbent = default;
        self.start_race(refresh_calls);
    }

    /// Every other kernel must prove itself against a new incumbent.
    fn start_race(&mut self, refresh_calls: u64) {
        self.unproven = false;
        self.epoch += 1;
        self.open_leg = None;
        self.arms.iter_mut().for_each(ArmState::start_test);
        self.reopen_race(refresh_calls);
    }

    /// Lets every kernel race again after the world has changed. Tests that are `promising` go on, since
    /// pairs do not see what slows both legs; what speaks against a kernel is void.
    pub(crate) fn restart(&mut self, refresh_calls: u64, promising: impl Fn(&PairedTest) -> bool) {
        let doubted = |arm: &&mut ArmState| !promising(&arm.test);
        self.arms.iter_mut().filter(doubted).for_each(ArmState::start_test);
        self.reopen_race(refresh_calls);
    }

    fn reopen_race(&mut self, refresh_calls: u64) {
        self.drift = Cusum::default();
        for arm in &mut self.arms {
            arm.standing = Standing::Racing;
            arm.refresh_calls = refresh_calls;
        }
    }

    /// Takes `kernel` out of the race for its next interval.
    pub(crate) fn retire(&mut self, kernel: usize, why: Retirement, max_refresh_calls: u64) {
        let arm = &mut self.arms[kernel];
        arm.standing = Standing::Retired { why, until_call: self.calls + arm.refresh_calls };
        arm.refresh_calls = (arm.refresh_calls * 2).min(max_refresh_calls);
    }

    /// Whether `kernel` may be probed; a retirement that has run out ends here.
    pub(crate) fn may_race(&mut self, kernel: usize) -> bool {
        let calls = self.calls;
        let arm = &mut self.arms[kernel];
        if let Standing::Retired { until_call, .. } = arm.standing
            && calls >= until_call
        {
            arm.standing = Standing::Racing;
            arm.start_test();
        }
        self.arms[kernel].standing == Standing::Racing
    }
}
