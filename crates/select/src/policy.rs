use std::hash::{BuildHasher, RandomState};

use chacha20::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use trellect_core::KernelSpec;

use crate::config::check_exploration_rate;
use crate::rules::Rules;
use crate::{
    ConfigError, Decision, Explanation, Reason, Request, RuleConfig, SelectError, Statistics,
};

/// The rule policy: its configuration, its random numbers and its counters.
///
/// The rules and their order are in the [crate's documentation](crate). A policy belongs to one
/// caller; two policies share nothing.
#[derive(Debug)]
pub struct RulePolicy {
    config: RuleConfig,
    seed: u64,
    rng: ChaCha8Rng,
    statistics: Statistics,
}

impl RulePolicy {
    /// A policy that goes by `config`.
    ///
    /// # Errors
    /// [`ConfigError`] names the value that it cannot go by.
    pub fn new(config: RuleConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let seed = config.seed.unwrap_or_else(fresh_seed);
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Ok(Self { config, seed, rng, statistics: Statistics::default() })
    }

    /// The configuration.
    pub const fn config(&self) -> &RuleConfig {
        &self.config
    }

    /// The seed in use, with which a run can be repeated.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Sets the probability of trying another legal kernel.
    ///
    /// # Errors
    /// [`ConfigError::Share`] when `rate` is not within 0 to 1; the old rate then stays.
    pub fn set_exploration_rate(&mut self, rate: f64) -> Result<(), ConfigError> {
        check_exploration_rate(rate)?;
        self.config.exploration_rate = rate;
        Ok(())
    }

    /// Decides which of the `candidates` serves `request`.
    ///
    /// `candidates` are the kernels that can run here, best first within a family. Allocates
    /// nothing where a kernel is found.
    ///
    /// # Errors
    /// [`SelectError`] when the request is no valid one or no candidate may serve it; neither
    /// counts as a selection.
    pub fn select(
        &mut self,
        request: &Request<'_>,
        candidates: &[KernelSpec],
    ) -> Result<Decision, SelectError> {
        request.check()?;
        let rules = Rules { config: &self.config, request, candidates };
        let baseline = rules.baseline()?;
        let decision = explore(&mut self.rng, &rules, &baseline).unwrap_or(baseline);
        self.statistics.count(decision.reason);
        Ok(decision)
    }

    /// Tells what would become of every candidate where nothing is explored. Draws no random number
    /// and counts nothing.
    ///
    /// # Errors
    /// As [`select`](Self::select); [`SelectError::NothingLegal`] says why of every candidate.
    pub fn explain(
        &self,
        request: &Request<'_>,
        candidates: &[KernelSpec],
    ) -> Result<Explanation, SelectError> {
        request.check()?;
        Explanation::new(&Rules { config: &self.config, request, candidates })
    }

    /// What has been selected so far.
    pub const fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Forgets what has been selected; the configuration and the random numbers go on.
    pub fn reset(&mut self) {
        self.statistics = Statistics::default();
    }
}

fn explore(rng: &mut ChaCha8Rng, rules: &Rules<'_>, baseline: &Decision) -> Option<Decision> {
    let rate = rules.config.exploration_rate;
    if rate == 0.0 || !rng.random_bool(rate) {
        return None;
    }
    let count = rules.alternatives(baseline).count();
    if count == 0 {
        return None;
    }
    let spec = rules.alternatives(baseline).nth(rng.random_range(0..count))?;
    Some(Decision {
        kernel: spec.id,
        reason: Reason::Exploration,
        tile_n: spec.tile_n,
        explored: true,
        fallback_from: None,
        ..*baseline
    })
}

/// A number from the keys that std draws for its hash maps: the only entropy that std offers.
fn fresh_seed() -> u64 {
    RandomState::new().hash_one(())
}
