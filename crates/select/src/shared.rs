use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trellect_core::{KernelId, KernelSpec};

use crate::policy::Planned;
use crate::{
    ConfigError, Decision, Explanation, HistoryRow, RecordError, Request, RuleConfig, RulePolicy,
    SelectError, Statistics,
};

/// A [`RulePolicy`] that several threads use; its clones are one policy.
///
/// Every method locks for as long as it computes, never while a benchmark runs: a benchmark may
/// call the policy itself. Decisions are repeatable by seed as far as the order of the calls is. A
/// thread that panicked with the lock in its hand does not make the others panic.
#[derive(Clone, Debug)]
pub struct SharedRulePolicy {
    policy: Arc<Mutex<RulePolicy>>,
}

impl SharedRulePolicy {
    /// As [`RulePolicy::new`].
    ///
    /// # Errors
    /// [`ConfigError`] names the value that no policy can go by.
    pub fn new(config: RuleConfig) -> Result<Self, ConfigError> {
        Ok(RulePolicy::new(config)?.into())
    }

    /// As [`RulePolicy::config`], copied.
    pub fn config(&self) -> RuleConfig {
        self.lock().config().clone()
    }

    /// As [`RulePolicy::seed`].
    pub fn seed(&self) -> u64 {
        self.lock().seed()
    }

    /// As [`RulePolicy::set_exploration_rate`].
    ///
    /// # Errors
    /// [`ConfigError::Share`] when `rate` is not within 0 to 1; the old rate then stays.
    pub fn set_exploration_rate(&self, rate: f64) -> Result<(), ConfigError> {
        self.lock().set_exploration_rate(rate)
    }

    /// As [`RulePolicy::select`].
    ///
    /// # Errors
    /// [`SelectError`], as there.
    pub fn select(
        &self,
        request: &Request<'_>,
        candidates: &[KernelSpec],
    ) -> Result<Decision, SelectError> {
        self.lock().select(request, candidates)
    }

    /// As [`RulePolicy::select_with_benchmark`]. Other threads go on while `benchmark` runs.
    ///
    /// # Errors
    /// [`SelectError`], as there.
    pub fn select_with_benchmark(
        &self,
        request: &Request<'_>,
        candidates: &[KernelSpec],
        benchmark: &mut dyn FnMut(KernelId) -> f64,
    ) -> Result<Decision, SelectError> {
        let planned = self.lock().plan_with_benchmark(request, candidates)?;
        match planned {
            Planned::Decided(decision) => Ok(decision),
            Planned::Test(test) => {
                let result = test.run(benchmark)?;
                Ok(self.lock().finish(&result))
            }
        }
    }

    /// As [`RulePolicy::record`].
    ///
    /// # Errors
    /// [`RecordError`], as there.
    pub fn record(
        &self,
        kernel: KernelId,
        num_tokens: usize,
        latency_ms: f64,
    ) -> Result<(), RecordError> {
        self.lock().record(kernel, num_tokens, latency_ms)
    }

    /// As [`RulePolicy::explain`].
    ///
    /// # Errors
    /// [`SelectError`], as there.
    pub fn explain(
        &self,
        request: &Request<'_>,
        candidates: &[KernelSpec],
    ) -> Result<Explanation, SelectError> {
        self.lock().explain(request, candidates)
    }

    /// As [`RulePolicy::statistics`], copied.
    pub fn statistics(&self) -> Statistics {
        self.lock().statistics().clone()
    }

    /// As [`RulePolicy::tracked_kernels`].
    pub fn tracked_kernels(&self) -> usize {
        self.lock().tracked_kernels()
    }

    /// As [`RulePolicy::history`].
    pub fn history(&self) -> Vec<HistoryRow> {
        self.lock().history()
    }

    /// As [`RulePolicy::reset_history`].
    pub fn reset_history(&self) {
        self.lock().reset_history();
    }

    #[cfg(test)]
    pub(crate) fn poison(&self) {
        let policy = std::panic::AssertUnwindSafe(self);
        let panicking = || {
            let _lock = policy.lock();
            panic!("with the lock in its hand");
        };
        std::panic::catch_unwind(panicking).unwrap_err();
        assert!(self.policy.is_poisoned());
    }

    /// A poisoned policy is whole: its methods check first and then change plain numbers, and run
    /// nobody else's code in between.
    fn lock(&self) -> MutexGuard<'_, RulePolicy> {
        self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<RulePolicy> for SharedRulePolicy {
    fn from(policy: RulePolicy) -> Self {
        Self { policy: Arc::new(Mutex::new(policy)) }
    }
}
