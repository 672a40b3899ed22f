//! How long every workload may take, and how far the run is.

use std::time::{Duration, Instant};

/// Shares a budget between workloads, longer calls getting more of it.
pub(super) struct Schedule {
    budget: Duration,
    start: Instant,
    groups_left: usize,
    preparing_since: Instant,
    /// What preparing took so far, and how often.
    preparation: (Duration, u32),
    /// Weights of all workloads, and of those measured.
    total: f64,
    done: f64,
}

impl Schedule {
    /// A schedule of `groups` groups of layers, each with `per_group` times all of `tokens`.
    pub(super) fn new(
        budget: Duration,
        start: Instant,
        groups: usize,
        per_group: usize,
        tokens: &[usize],
    ) -> Self {
        let each: f64 = tokens.iter().map(|&tokens| weight(tokens)).sum();
        Self {
            budget,
            start,
            groups_left: groups,
            preparing_since: start,
            preparation: (Duration::ZERO, 0),
            total: each * per_group as f64 * groups as f64,
            done: 0.0,
        }
    }

    /// A group is about to be prepared.
    pub(super) fn prepare(&mut self) {
        self.preparing_since = Instant::now();
    }

    /// It is prepared.
    pub(super) fn prepared(&mut self) {
        self.groups_left -= 1;
        self.preparation.0 += self.preparing_since.elapsed();
        self.preparation.1 += 1;
    }

    /// A workload of so many tokens is measured, or was skipped.
    pub(super) fn measured(&mut self, num_tokens: usize) {
        self.done += weight(num_tokens);
    }

    /// How long the next workload, of so many tokens, should take.
    pub(super) fn next(&self, num_tokens: usize) -> Duration {
        let share = weight(num_tokens) / (self.total - self.done).max(weight(num_tokens));
        self.left().saturating_sub(self.preparation_left()).mul_f64(share)
    }

    /// Whether the budget is spent.
    pub(super) fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// How much of the work is done, 0 to 1.
    pub(super) fn share_done(&self) -> f64 {
        (self.done / self.total).min(1.0)
    }

    /// What the rest will take, going by what the work so far has taken; never more than the budget
    /// leaves. `None` before anything is measured.
    pub(super) fn remaining(&self) -> Option<Duration> {
        let spent = self.start.elapsed().saturating_sub(self.preparation.0);
        let rest = (self.done > 0.0)
            .then(|| spent.mul_f64((self.total - self.done).max(0.0) / self.done))?;
        Some((rest + self.preparation_left()).min(self.left()))
    }

    fn left(&self) -> Duration {
        self.budget.saturating_sub(self.start.elapsed())
    }

    fn preparation_left(&self) -> Duration {
        match self.preparation {
            (_, 0) => Duration::ZERO,
            (spent, groups) => spent / groups * self.groups_left as u32,
        }
    }
}

/// Calls of more tokens take longer, but need fewer launches to be known as well.
fn weight(num_tokens: usize) -> f64 {
    (num_tokens as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_shared_by_weight() {
        let hour = Duration::from_secs(3600);
        let mut schedule = Schedule::new(hour, Instant::now(), 1, 2, &[1, 4]);
        let share = |schedule: &Schedule, tokens| schedule.next(tokens).as_secs_f64() / 3600.0;
        assert!((share(&schedule, 1) - 1.0 / 6.0).abs() < 1e-3);
        assert!((share(&schedule, 4) - 1.0 / 3.0).abs() < 1e-3);
        assert_eq!(schedule.remaining(), None);
        for tokens in [1, 4, 1] {
            schedule.measured(tokens);
        }
        // What was not used is the last one's.
        assert!(share(&schedule, 4) > 0.99);
        assert!((schedule.share_done() - 4.0 / 6.0).abs() < 1e-12);
        assert!(schedule.remaining().unwrap() <= hour);
        schedule.measured(4);
        assert!(!schedule.is_over());
        assert!(Schedule::new(Duration::ZERO, Instant::now(), 1, 1, &[1]).is_over());
    }
}
