use crate::Reason;

/// What a policy has selected, by reason, and how its paired tests ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    by_reason: [u64; Reason::ALL.len()],
    ab_tests_run: u64,
    correct_selections: u64,
}

impl Statistics {
    /// Selections made.
    pub fn total_selections(&self) -> u64 {
        self.by_reason.iter().sum()
    }

    /// Selections made for `reason`.
    pub const fn selections(&self, reason: Reason) -> u64 {
        self.by_reason[reason as usize]
    }

    /// Paired tests run by
    /// [`select_with_benchmark`](crate::RulePolicy::select_with_benchmark).
    pub const fn ab_tests_run(&self) -> u64 {
        self.ab_tests_run
    }

    /// Paired tests in which the kernel that would have served without exploration was no more than
    /// [`TIE_BAND`](crate::TIE_BAND) slower than its challenger.
    pub const fn correct_selections(&self) -> u64 {
        self.correct_selections
    }

    /// [`correct_selections`](Self::correct_selections) ÷ [`ab_tests_run`](Self::ab_tests_run);
    /// 0 before the first paired test, never NaN.
    ///
    /// It is a share of tests passed, each against one challenger drawn evenly: a poor field of
    /// challengers raises it, and it says nothing of how much time a wrong choice cost. Ties count
    /// as correct.
    pub fn selection_accuracy(&self) -> f64 {
        match self.ab_tests_run {
            0 => 0.0,
            tests => self.correct_selections as f64 / tests as f64,
        }
    }

    pub(crate) const fn count(&mut self, reason: Reason) {
        self.by_reason[reason as usize] += 1;
    }

    pub(crate) const fn count_test(&mut self, correct: bool) {
        self.ab_tests_run += 1;
        self.correct_selections += correct as u64;
    }
}
