use std::hash::{BuildHasher, RandomState};

use chacha20::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use trellect_core::{KernelId, KernelSpec};

use crate::config::check_exploration_rate;
use crate::feedback::feedback;
use crate::history::History;
use crate::paired::{PairedResult, PairedTest};
use crate::rules::Rules;
use crate::{
    ConfigError, Decision, Explanation, HistoryRow, LatencyError, Reason, RecordError, Request,
    RuleConfig, SelectError, Statistics, Thresholds,
};

/// The rule policy: its configuration, its history, its random numbers and its counters.
///
/// The rules and their order are in the [crate's documentation](crate). A policy belongs to one
/// caller, [`SharedRulePolicy`](crate::SharedRulePolicy) to several; two policies share nothing.
/// Selecting records no latency, and recording one selects nothing.
#[derive(Debug)]
pub struct RulePolicy {
    config: RuleConfig,
    thresholds: Thresholds,
    seed: u64,
    rng: ChaCha8Rng,
    history: History,
    statistics: Statistics,
}

/// A selection that is made, or that waits for a paired test.
pub(crate) enum Planned {
    Decided(Decision),
    Test(PairedTest),
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
        let thresholds = config.thresholds.clone().unwrap_or_default();
        let (history, statistics) = (History::default(), Statistics::default());
        Ok(Self { config, thresholds, seed, rng, history, statistics })
    }

    /// The configuration.
    pub const fn config(&self) -> &RuleConfig {
        &self.config
    }

    /// The rules' numbers in use.
    pub const fn thresholds(&self) -> &Thresholds {
        &self.thresholds
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
    /// `candidates` are the kernels that can run here, best first within a family; the same list
    /// again is fastest. Allocates nothing where a kernel is found and the list is not longer than
    /// any before it.
    ///
    /// # Errors
    /// [`SelectError`] when the request is no valid one or no candidate may serve it; neither
    /// counts as a selection.
    pub fn select(
        &mut self,
        request: &Request<'_>,
        candidates: &[KernelSpec],
    ) -> Result<Decision, SelectError> {
        let (incumbent, challenger) = self.decide(request, candidates)?;
        let decision = challenger.unwrap_or(incumbent);
        self.statistics.count(decision.reason);
        Ok(decision)
    }

    /// As [`select`](Self::select), but exploration is a paired test: `benchmark` runs the kernel
    /// that would have served and its challenger, [`PAIRS`](crate::PAIRS) times each, as ABBA or
    /// BAAB by a drawn coin, and returns each run's milliseconds.
    ///
    /// All latencies are recorded, the test is counted, and the winner (the challenger only where
    /// it is faster by more than [`TIE_BAND`](crate::TIE_BAND)) serves this call, for
    /// [`Reason::Exploration`]. Without exploration `benchmark` is not called.
    ///
    /// # Errors
    /// As [`select`](Self::select), and [`SelectError::Benchmark`] at the first latency that is
    /// none; NaN therefore says that a run failed. Nothing of the test is then recorded or counted.
    pub fn select_with_benchmark(
        &mut self,
        request: &Request<'_>,
        candidates: &[KernelSpec],
        benchmark: &mut dyn FnMut(KernelId) -> f64,
    ) -> Result<Decision, SelectError> {
        match self.plan_with_benchmark(request, candidates)? {
            Planned::Decided(decision) => Ok(decision),
            Planned::Test(test) => Ok(self.finish(&test.run(benchmark)?)),
        }
    }

    /// Notes that `kernel` took `latency_ms` for a call of `num_tokens` tokens.
    ///
    /// The kernel need not be a candidate of any selection. The latency joins the latest
    /// [`history_len`](RuleConfig::history_len) ones of the kernel in the call's bucket, in constant
    /// time on average and without allocation once that window has been filled.
    ///
    /// # Errors
    /// [`RecordError`] names the value that is refused; the history stays as it was.
    pub fn record(
        &mut self,
        kernel: KernelId,
        num_tokens: usize,
        latency_ms: f64,
    ) -> Result<(), RecordError> {
        if num_tokens == 0 {
            return Err(RecordError::NoTokens);
        }
        LatencyError::check(latency_ms)?;
        let bucket = self.thresholds.bucket(num_tokens);
        self.history.push(kernel, bucket, latency_ms, self.config.history_len);
        Ok(())
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
        let Self { config, thresholds, history, .. } = self;
        Explanation::new(&Rules { config, thresholds, request, candidates }, history)
    }

    /// What has been selected so far.
    pub const fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Number of kernels with a history in any bucket.
    pub fn tracked_kernels(&self) -> usize {
        self.history.tracked_kernels()
    }

    /// What has been recorded: a row per kernel and bucket, in the order of buckets and names.
    pub fn history(&self) -> Vec<HistoryRow> {
        self.history.table()
    }

    /// Forgets what has been recorded and selected. The configuration stays, and the random numbers
    /// go on where they were: only a new policy with the same seed repeats a run.
    pub fn reset_history(&mut self) {
        self.history = History::default();
        self.statistics = Statistics::default();
    }

    pub(crate) fn plan_with_benchmark(
        &mut self,
        request: &Request<'_>,
        candidates: &[KernelSpec],
    ) -> Result<Planned, SelectError> {
        let (incumbent, challenger) = self.decide(request, candidates)?;
        Ok(match challenger {
            Some(challenger) => {
                Planned::Test(PairedTest::draw(&mut self.rng, incumbent, challenger))
            }
            None => {
                self.statistics.count(incumbent.reason);
                Planned::Decided(incumbent)
            }
        })
    }

    pub(crate) fn finish(&mut self, result: &PairedResult) -> Decision {
        let decision = result.decision();
        for (kernel, latency_ms) in result.latencies() {
            self.history.push(kernel, decision.bucket, latency_ms, self.config.history_len);
        }
        self.statistics.count_test(result.incumbent_stands());
        self.statistics.count(decision.reason);
        decision
    }

    /// Who serves without exploration, and who is tried instead.
    fn decide(
        &mut self,
        request: &Request<'_>,
        candidates: &[KernelSpec],
    ) -> Result<(Decision, Option<Decision>), SelectError> {
        request.check()?;
        let Self { config, thresholds, history, rng, .. } = self;
        let rules = Rules { config, thresholds, request, candidates };
        let baseline = rules.baseline()?;
        let history = history.remembering(baseline.bucket);
        let incumbent = feedback(&rules, &baseline, history).unwrap_or(baseline);
        Ok((incumbent, explore(rng, &rules, &incumbent)))
    }
}

fn explore(rng: &mut ChaCha8Rng, rules: &Rules<'_>, incumbent: &Decision) -> Option<Decision> {
    let rate = rules.config.exploration_rate;
    if rate == 0.0 || !rng.random_bool(rate) {
        return None;
    }
    let count = rules.alternatives(incumbent).count();
    if count == 0 {
        return None;
    }
    let (_, spec) = rules.alternatives(incumbent).nth(rng.random_range(0..count))?;
    Some(Decision { explored: true, ..incumbent.replaced_by(spec, Reason::Exploration) })
}

/// A number from the keys that std draws for its hash maps: the only entropy that std offers.
fn fresh_seed() -> u64 {
    RandomState::new().hash_one(())
}
