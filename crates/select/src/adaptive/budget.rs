/// A token bucket in nanoseconds of expected loss, and a bound on what may be lost in a row.
///
/// The tokens bound the share of a lifetime. They may gather, so that alone would let many new
/// contexts spend them at once; over any ten seconds the expected loss stays below 0.2 % of the time
/// beyond what serving is believed to save against the rules.
///
/// Honest looks have tokens of their own, or what value promises would always be dearer than they are:
/// 20 ms at once and 0.05 % of the time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProbeBudget {
    tokens_ns: f64,
    looks_ns: f64,
    fast_until_ns: u64,
    lost_ns: f64,
    window: Window,
}

/// Seconds over which a policy shall not be worse than the rules.
const WINDOW_S: usize = 10;

/// Share of the time that probes may be expected to lose in as many seconds. Where the rules were
/// right all along, beliefs make the loss two to three times too small.
const WINDOW_SHARE: f64 = 0.002;

const SECOND_NS: u64 = 1_000_000_000;

/// Nanoseconds that looks may lose at once.
const LOOK_BURST_NS: f64 = 20e6;

/// Share of the time that they may lose.
const LOOK_SHARE: f64 = 0.0005;

impl Default for ProbeBudget {
    fn default() -> Self {
        Self {
            tokens_ns: 0.0,
            looks_ns: LOOK_BURST_NS,
            fast_until_ns: 0,
            lost_ns: 0.0,
            window: Window::default(),
        }
    }
}

impl ProbeBudget {
    /// How much faster the bucket fills after an alarm.
    const ALARM_FACTOR: f64 = 4.0;

    /// `spent_ns` of device time earn `share` of it; `saved_ns`, by belief, were saved against the
    /// rules' pick. A belief to lose is no reason not to probe, so less than nothing counts as
    /// nothing.
    pub fn earn(&mut self, spent_ns: f64, saved_ns: f64, share: f64, now_ns: u64) {
        let factor = if now_ns < self.fast_until_ns { Self::ALARM_FACTOR } else { 1.0 };
        self.tokens_ns += spent_ns * share * factor;
        self.looks_ns += spent_ns * LOOK_SHARE;
        let now = self.window.at(now_ns);
        now.spent_ns += spent_ns;
        now.saved_ns += saved_ns.max(0.0);
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
    pub fn take(&mut self, expected_loss_ns: f64, now_ns: u64) -> bool {
        let enough = expected_loss_ns <= self.affordable_ns(now_ns);
        if enough {
            self.tokens_ns -= expected_loss_ns;
            self.lost_ns += expected_loss_ns;
            self.window.at(now_ns).saved_ns -= expected_loss_ns;
        }
        enough
    }

    /// Takes what a look should lose where there is as much; whether there was.
    pub fn take_look(&mut self, surplus_ns: f64, now_ns: u64) -> bool {
        let enough = surplus_ns <= self.affordable_look_ns(now_ns);
        if enough {
            self.looks_ns -= surplus_ns;
            self.lost_ns += surplus_ns;
            self.window.at(now_ns).saved_ns -= surplus_ns;
        }
        enough
    }

    /// What a look may lose now.
    pub fn affordable_look_ns(&mut self, now_ns: u64) -> f64 {
        self.looks_ns.min(self.window.room_ns(now_ns)).max(0.0)
    }

    /// Expected loss that may be taken now.
    pub fn affordable_ns(&mut self, now_ns: u64) -> f64 {
        self.tokens_ns.min(self.window.room_ns(now_ns)).max(0.0)
    }

    /// Expected loss of all probes so far.
    pub const fn lost_ns(&self) -> f64 {
        self.lost_ns
    }
}

/// What was spent, and saved by belief, in each of the latest seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Window {
    first_second: Option<u64>,
    second: u64,
    seconds: [Second; WINDOW_S],
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Second {
    spent_ns: f64,
    saved_ns: f64,
}

impl Window {
    fn at(&mut self, now_ns: u64) -> &mut Second {
        let second = now_ns / SECOND_NS;
        self.first_second.get_or_insert(second);
        while self.second < second {
            // A gap longer than the window empties it.
            self.second = (self.second + 1).max(second.saturating_sub(WINDOW_S as u64));
            self.seconds[self.second as usize % WINDOW_S] = Second::default();
        }
        &mut self.seconds[self.second as usize % WINDOW_S]
    }

    /// What may be lost now. Before the window is full it is taken for busy.
    fn room_ns(&mut self, now_ns: u64) -> f64 {
        self.at(now_ns);
        let full = self.first_second.is_some_and(|first| self.second - first >= WINDOW_S as u64);
        let spent_ns: f64 = self.seconds.iter().map(|second| second.spent_ns).sum();
        let saved_ns: f64 = self.seconds.iter().map(|second| second.saved_ns).sum();
        let whole_ns = (WINDOW_S as u64 * SECOND_NS) as f64;
        WINDOW_SHARE * if full { spent_ns } else { whole_ns } + saved_ns
    }
}
