/// A token bucket in nanoseconds of expected loss.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProbeBudget {
    tokens_ns: f64,
    fast_until_ns: u64,
    lost_ns: f64,
}

impl ProbeBudget {
    /// How much faster the bucket fills after an alarm.
    const ALARM_FACTOR: f64 = 4.0;

    /// `spent_ns` of device time earn `share` of it.
    pub fn earn(&mut self, spent_ns: f64, share: f64, now_ns: u64) {
        let factor = if now_ns < self.fast_until_ns { Self::ALARM_FACTOR } else { 1.0 };
        self.tokens_ns += spent_ns * share * factor;
    }

    /// Grants `ns` at once.
    pub fn grant(&mut self, ns: f64) {
        self.tokens_ns += ns;
    }

    /// Fills faster until `until_ns`.
    pub fn alarm(&mut self, until_ns: u64) {
        self.fast_until_ns = self.fast_until_ns.max(until_ns);
    }

    /// Takes `expected_loss_ns` where there is as much; whether there was.
    pub fn take(&mut self, expected_loss_ns: f64) -> bool {
        let enough = expected_loss_ns <= self.tokens_ns;
        if enough {
            self.tokens_ns -= expected_loss_ns;
            self.lost_ns += expected_loss_ns;
        }
        enough
    }

    /// Expected loss that may be taken now.
    pub const fn tokens_ns(&self) -> f64 {
        self.tokens_ns
    }

    /// Expected loss of all probes so far.
    pub const fn lost_ns(&self) -> f64 {
        self.lost_ns
    }
}
