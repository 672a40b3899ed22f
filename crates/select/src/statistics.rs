use crate::Reason;

/// What a policy has selected, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    by_reason: [u64; Reason::ALL.len()],
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

    pub(crate) const fn count(&mut self, reason: Reason) {
        self.by_reason[reason as usize] += 1;
    }
}
