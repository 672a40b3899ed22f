use trellect_core::{BackendKind, BitTuple, TokenRange};

use crate::{Bucket, ConfigError, NotAShare};

/// What a [`RulePolicy`](crate::RulePolicy) goes by. Checked when the policy is made.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleConfig {
    /// Probability, 0 to 1, that a selection tries another legal kernel.
    pub exploration_rate: f64,
    /// Memory pressure, 0 to 1, strictly above which the base kernel serves.
    pub memory_pressure_threshold: f64,
    /// Latencies kept per kernel and bucket, at least 1; the latest count. Below
    /// [`MIN_TIMINGS`](crate::MIN_TIMINGS) the history never decides.
    pub history_len: usize,
    /// Seed of the exploration; equal seeds and equal requests give equal decisions. `None`: each
    /// policy takes one of its own, see [`RulePolicy::seed`](crate::RulePolicy::seed).
    pub seed: Option<u64>,
    /// The rules' numbers for a device; `None`: those of the device that is chosen for, or the default
    /// ones where none is known.
    pub thresholds: Option<Thresholds>,
}

impl Default for RuleConfig {
    /// Exploration 0.05, pressure threshold 0.9, 100 latencies, no seed, the device's thresholds.
    fn default() -> Self {
        Self {
            exploration_rate: 0.05,
            memory_pressure_threshold: 0.9,
            history_len: 100,
            seed: None,
            thresholds: None,
        }
    }
}

impl RuleConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        check_exploration_rate(self.exploration_rate)?;
        NotAShare::check("memory_pressure_threshold", self.memory_pressure_threshold)?;
        if self.history_len == 0 {
            return Err(ConfigError::NoHistory);
        }
        self.thresholds.as_ref().map_or(Ok(()), Thresholds::check)
    }
}

pub(crate) fn check_exploration_rate(rate: f64) -> Result<(), NotAShare> {
    NotAShare::check("exploration_rate", rate)
}

/// The numbers of the rules that depend on the device.
///
/// The token table has four rows, each up to where the next begins: decode from 1, then prefill4,
/// base and large batch. A row that starts where the next one does is left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// First token count of the prefill4 row.
    pub prefill4_from: usize,
    /// First token count of the base row.
    pub base_from: usize,
    /// First token count of the large-batch row.
    pub large_batch_from: usize,
    /// Tuples whose specialised decode kernel is preferred to the one for any tuple.
    pub specialised_decode: Vec<BitTuple>,
    /// Share of the work, 0 to 1, from which one expert makes the activation pattern skewed.
    pub skew_share: f64,
}

impl Default for Thresholds {
    /// Decode at 1 token, prefill4 at 2-16, base at 17-32, large batch from 33 on; specialised
    /// decode of (6,2,3), (6,3,4) and (6,2,4); skewed from 0.85.
    fn default() -> Self {
        let tuple = |gate, up, down| BitTuple::new(gate, up, down).expect("constants within 1..=8");
        Self {
            prefill4_from: 2,
            base_from: 17,
            large_batch_from: 33,
            specialised_decode: vec![tuple(6, 2, 3), tuple(6, 3, 4), tuple(6, 2, 4)],
            skew_share: 0.85,
        }
    }
}

impl Thresholds {
    /// The numbers for a kind of device.
    ///
    /// A GPU runs the experts of a base launch side by side, so matrix units pay only once an expert
    /// has about 16 rows: large batch from 256 tokens on (`bench-record/h100`: at 128 tokens the base
    /// kernel takes 0.74 of its time, at 512 over twice it).
    pub fn of(device: BackendKind) -> Self {
        match device {
            BackendKind::Cpu => Self::default(),
            BackendKind::Cuda | BackendKind::Wgpu => {
                Self { large_batch_from: 256, ..Self::default() }
            }
        }
    }

    /// The row of the table for a call of `num_tokens` tokens.
    pub fn bucket(&self, num_tokens: usize) -> Bucket {
        let mut rows = Bucket::ALL.into_iter().rev();
        rows.find(|row| num_tokens >= self.first_of(*row)).unwrap_or(Bucket::Decode)
    }

    /// The token counts of a row; `max` is below `min` where the row is left out.
    pub fn tokens(&self, bucket: Bucket) -> TokenRange {
        let next = Bucket::ALL.into_iter().find(|row| *row > bucket);
        let max = next.map(|row| self.first_of(row).saturating_sub(1));
        TokenRange { min: self.first_of(bucket), max }
    }

    const fn first_of(&self, bucket: Bucket) -> usize {
        match bucket {
            Bucket::Decode => 1,
            Bucket::Prefill4 => self.prefill4_from,
            Bucket::Base => self.base_from,
            Bucket::LargeBatch => self.large_batch_from,
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let &Self { prefill4_from, base_from, large_batch_from, .. } = self;
        if ![1, prefill4_from, base_from, large_batch_from].is_sorted() {
            return Err(ConfigError::TableOrder { prefill4_from, base_from, large_batch_from });
        }
        Ok(NotAShare::check("skew_share", self.skew_share)?)
    }
}
