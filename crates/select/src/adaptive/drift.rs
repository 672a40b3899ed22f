use std::collections::VecDeque;

use crate::ContextKey;

/// Two-sided CUSUM of standardised residuals: `S⁺ ← max(0, S⁺ + x − k)`, `S⁻` likewise for `−x`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cusum {
    up: f64,
    down: f64,
}

impl Cusum {
    /// Shift, in standard deviations, that neither sum notices.
    const SLACK: f64 = 0.75;
    /// Sum that is an alarm.
    const ALARM: f64 = 12.0;
    /// No single residual counts more.
    const CLIP: f64 = 3.0;

    /// Adds a residual in units of its standard deviation; whether that is an alarm, after which
    /// both sums start again.
    pub fn push(&mut self, x: f64) -> bool {
        let x = x.clamp(-Self::CLIP, Self::CLIP);
        self.up = (self.up + x - Self::SLACK).max(0.0);
        self.down = (self.down - x - Self::SLACK).max(0.0);
        let alarm = self.up > Self::ALARM || self.down > Self::ALARM;
        if alarm {
            *self = Self::default();
        }
        alarm
    }
}

/// The clock's part of every latency: the median over contexts of how far each incumbent's latest
/// log latencies lie from what that context has learned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CommonMode {
    latest: VecDeque<(ContextKey, f64, u64)>,
    records: u64,
    level: f64,
}

impl CommonMode {
    /// Records after which a context's deviation no longer speaks for the present.
    const WINDOW: u64 = 48;
    /// Contexts without which no common part can be told from a context's own.
    const MIN_CONTEXTS: usize = 4;
    /// Share of the way to the median that one record goes.
    const GAIN: f64 = 0.3;

    /// Takes the deviation `ln t − ln t̂ − learned` of a context's incumbent.
    pub fn push(&mut self, context: ContextKey, deviation: f64) {
        self.records += 1;
        let seen = self.latest.iter().position(|&(key, _, _)| key == context);
        let smooth = match seen.and_then(|at| self.latest.remove(at)) {
            Some((_, before, _)) => 0.5 * (before + deviation),
            None => deviation,
        };
        self.latest.push_back((context, smooth, self.records));
        while self.latest.front().is_some_and(|&(_, _, at)| at + Self::WINDOW < self.records) {
            self.latest.pop_front();
        }
        if self.latest.len() >= Self::MIN_CONTEXTS {
            let mut sorted: Vec<f64> = self.latest.iter().map(|&(_, d, _)| d).collect();
            sorted.sort_by(f64::total_cmp);
            self.level += Self::GAIN * (sorted[sorted.len() / 2] - self.level);
        }
    }

    /// The common log ratio to the learned latencies: 0.15 where everything takes 16 % longer.
    pub const fn level(&self) -> f64 {
        self.level
    }
}
