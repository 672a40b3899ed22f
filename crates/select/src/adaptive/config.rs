/// What an adaptive policy does with measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Probes, learns and switches.
    #[default]
    Learn,
    /// Serves what has been learned: no probe, no switch, no new context, and nothing that is
    /// recorded changes a later decision, failures aside. Latencies are still kept as evidence for
    /// the history: they cost nothing, and a frozen service is where most of them arise.
    Frozen,
    /// Serves what a decision log says ([`AdaptivePolicy::replay`](super::AdaptivePolicy::replay));
    /// learns as little as when frozen.
    Replay,
    /// Serves the rules' pick.
    Off,
}

/// The constants of an adaptive policy. Shares and log ratios are plain numbers: 0.01 is 1 %.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaptiveConfig {
    /// What is done with measurements.
    pub mode: Mode,
    /// Seed of every random draw.
    pub seed: u64,
    /// Probability of a wrong switch in one context's lifetime that the tests allow.
    pub alpha: f64,
    /// Gain, as a log ratio, that a challenger must prove.
    pub margin: f64,
    /// Gain that a challenger must prove pair by pair, without blocks; serial correlation whose
    /// excursions stay below it cannot fake such a gain.
    pub large_margin: f64,
    /// Predicted gain over the rules' pick above which the prior's best kernel starts instead.
    pub start_margin: f64,
    /// Upper bound of a gain below which a challenger counts as a tie.
    pub tie_zone: f64,
    /// Standard deviation of the prior's error, as a log ratio, until first samples tell.
    pub prior_sd: f64,
    /// Variance that an arm's log latency gains with every call of its context without a sample.
    pub walk_variance: f64,
    /// Share of the spent device time that probing may be expected to lose.
    pub probe_share: f64,
    /// Expected loss allowed to a new context at once, in calls of that context.
    pub burst_calls: f64,
    /// How long the budget grows four times as fast after an alarm.
    pub alarm_ns: u64,
    /// Calls of a context after which a retired challenger is first looked at again.
    pub refresh_calls: u64,
    /// Calls to which that interval grows at most, doubling each time. A challenger without a
    /// sample for as long is probed once whatever it promises, and its old samples count little.
    pub max_refresh_calls: u64,
    /// Decisions that may wait for their feedback; the oldest is forgotten first.
    pub max_pending: usize,
    /// Contexts remembered, at least 1; the least recently used are forgotten first.
    pub max_contexts: usize,
    /// Every so many calls of a context in which nobody is near a challenge one should still ask the
    /// policy, so that drift is noticed; 1: every call.
    pub settled_ask_every: u16,
    /// One in so many foreseeable decisions is logged, see
    /// [`DecisionRecord`](super::DecisionRecord); 0: none.
    pub log_one_in: u32,
    /// Decisions that the log holds until they are drained; the oldest is dropped first.
    pub log_capacity: usize,
    /// Share of the time that idle sweeps may take.
    pub sweep_share: f64,
}

impl Default for AdaptiveConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Learn,
            seed: 0,
            alpha: 0.01,
            margin: 0.005,
            large_margin: 0.07,
            start_margin: 0.01,
            tie_zone: 0.01,
            prior_sd: 0.12,
            walk_variance: 3e-7,
            probe_share: 0.0025,
            burst_calls: 3.0,
            alarm_ns: 30_000_000_000,
            refresh_calls: 512,
            max_refresh_calls: 4096,
            max_pending: 4096,
            max_contexts: 4096,
            settled_ask_every: 8,
            log_one_in: 64,
            log_capacity: 4096,
            sweep_share: 0.1,
        }
    }
}
