const SECOND_NS: u64 = 1_000_000_000;

/// Failed launches after which a kernel is never tried again.
pub const MAX_FAILURES: u32 = 3;

/// Whether a kernel may run after failed launches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    failures: u32,
    until_ns: u64,
}

/// What a kernel's [`Health`] allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// May serve.
    Fit,
    /// May be tried once; a success makes it fit.
    OnTrial,
    /// May not run yet.
    Quarantined,
    /// May never run.
    Blocked,
}

impl Health {
    /// A launch failed: out for `2^failures` seconds, for ever after [`MAX_FAILURES`].
    pub fn fail(&mut self, now_ns: u64) {
        self.failures = self.failures.saturating_add(1);
        let seconds = 1u64 << self.failures.min(32);
        self.until_ns = now_ns.saturating_add(seconds.saturating_mul(SECOND_NS));
    }

    /// A launch worked; whether that ends a trial. A blocked kernel stays blocked: the success is
    /// an older launch's.
    pub fn succeed(&mut self, now_ns: u64) -> bool {
        let recovers = self.fitness(now_ns) == Fitness::OnTrial;
        if recovers {
            *self = Self::default();
        }
        recovers
    }

    /// What is allowed now.
    pub fn fitness(&self, now_ns: u64) -> Fitness {
        match self.failures {
            0 => Fitness::Fit,
            MAX_FAILURES.. => Fitness::Blocked,
            _ if now_ns < self.until_ns => Fitness::Quarantined,
            _ => Fitness::OnTrial,
        }
    }

    /// Failed launches since the last recovery.
    pub const fn failures(&self) -> u32 {
        self.failures
    }
}
