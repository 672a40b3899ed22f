//! Two kernels against each other, on the same calls, or whatever else takes turns.

use chacha20::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use trellect_select::WelchTest;
use trellect_select::adaptive::{NoiseModel, PairedTest};

use super::compare::log_timings;
use super::run::digits;
use crate::statistics::{Interval, median, paired_ratio_interval};

/// A difference that is worth knowing, as a share: what the verdict on power goes by.
pub const WORTH_KNOWING: f64 = 0.02;

/// Gains beyond this are bet on pair by pair, see [`PairedTest`].
const LARGE: f64 = 0.07;

/// How one kernel compares with another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// Pairs of launches on one call.
    pub n: usize,
    /// Median time of the baseline.
    pub baseline_ms: f64,
    /// Median time of the optimized kernel.
    pub optimized_ms: f64,
    /// `baseline_ms / optimized_ms`: above 1 the optimized kernel is faster.
    pub speedup: f64,
    /// Its bootstrap interval over pairs, of the confidence asked for.
    pub speedup_ci: [f64; 2],
    /// Welch's t of the logarithms of the times, positive where the optimized kernel is faster;
    /// `None` below five pairs.
    pub t: Option<f64>,
    /// Its two-sided p-value.
    pub p: Option<f64>,
    /// What follows.
    pub verdict: Verdict,
    /// More pairs until an effect of [`WORTH_KNOWING`] would show, at the spread seen; 0 where it
    /// would have shown.
    pub more_pairs: usize,
}

/// What a comparison has shown of the optimized kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The interval lies above 1.
    Faster,
    /// The interval lies below 1.
    Slower,
    /// The interval holds 1, and is narrow enough to show an effect of [`WORTH_KNOWING`].
    NoDifferenceShown,
    /// The interval holds 1 and is too wide for that.
    Underpowered,
}

impl Verdict {
    /// As JSON has it, with blanks.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::NoDifferenceShown => "no difference shown",
            Self::Underpowered => "underpowered",
        }
    }
}

/// Judges pairs of (baseline, optimized) milliseconds; `None` without any.
///
/// Medians and their ratio, so that stalls of a few launches do not count; the interval resamples
/// pairs.
pub fn effect(pairs: &[(f64, f64)], confidence: f64) -> Option<Effect> {
    let baseline_ms = median(pairs.iter().map(|pair| pair.0).collect())?;
    let optimized_ms = median(pairs.iter().map(|pair| pair.1).collect())?;
    let Interval { low, high } = paired_ratio_interval(pairs, confidence)?;
    let logs = |side: fn(&(f64, f64)) -> f64| log_timings(pairs.iter().map(side));
    let welch = WelchTest::compare(&logs(|pair| pair.0), &logs(|pair| pair.1));
    let half_width = (high / low).ln() / 2.0;
    let needed = pairs.len() as f64 * (half_width / WORTH_KNOWING.ln_1p()).powi(2);
    let more_pairs = (needed.ceil() as usize).saturating_sub(pairs.len());
    let verdict = match more_pairs {
        _ if low > 1.0 => Verdict::Faster,
        _ if high < 1.0 => Verdict::Slower,
        0 => Verdict::NoDifferenceShown,
        _ => Verdict::Underpowered,
    };
    Some(Effect {
        n: pairs.len(),
        baseline_ms: digits(baseline_ms),
        optimized_ms: digits(optimized_ms),
        speedup: digits(baseline_ms / optimized_ms),
        speedup_ci: [digits(low), digits(high)],
        t: welch.map(|test| digits(test.t)),
        p: welch.map(|test| digits(test.p_value())),
        verdict,
        more_pairs,
    })
}

/// Whose turn it is where two sides are timed one by one: a random order in every pair, so that
/// neither always follows the other.
pub struct Turns(ChaCha8Rng);

impl Turns {
    /// Orders of a fixed seed.
    pub fn new() -> Self {
        Self(ChaCha8Rng::seed_from_u64(0))
    }

    /// Times both sides, baseline 0 and optimized 1: a pair.
    ///
    /// # Errors
    /// What `time` fails with, at once.
    pub fn pair<E>(
        &mut self,
        mut time: impl FnMut(usize) -> Result<f64, E>,
    ) -> Result<(f64, f64), E> {
        if self.0.random() {
            let baseline = time(0)?;
            return Ok((baseline, time(1)?));
        }
        let optimized = time(1)?;
        Ok((time(0)?, optimized))
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self::new()
    }
}

/// Tells when pairs are enough, however often it is asked: the selector's test by betting, which
/// stays valid when one stops as soon as it decides.
pub struct Sequential {
    test: PairedTest,
    noise: NoiseModel,
    needed: f64,
}

impl Sequential {
    /// A test that is wrong about either direction with probability at most `1 - confidence`.
    pub fn new(confidence: f64) -> Self {
        // Two directions, and in each a bet by blocks and one by pairs.
        let needed = (4.0 / (1.0 - confidence)).ln();
        Self { test: PairedTest::default(), noise: NoiseModel::default(), needed }
    }

    /// Adds a pair of (baseline, optimized) times: whether the optimized kernel is now proved to be
    /// faster (`Some(true)`) or slower.
    pub fn push(&mut self, (baseline, optimized): (f64, f64)) -> Option<bool> {
        self.test.push((baseline / optimized).ln(), &mut self.noise);
        let wealth = self.test.wealth(0.0, LARGE, &self.noise);
        if wealth.better.max(wealth.much_better) >= self.needed {
            return Some(true);
        }
        (wealth.not_better.max(wealth.much_worse) >= self.needed).then_some(false)
    }
}

#[cfg(test)]
mod tests {
    use chacha20::ChaCha8Rng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// Pairs whose sides are `ratio` apart, with independent noise of up to `spread`.
    fn pairs(count: usize, ratio: f64, spread: f64) -> Vec<(f64, f64)> {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut noise = || 1.0 + spread * (2.0 * rng.random::<f64>() - 1.0);
        (0..count).map(|_| (ratio * noise(), noise())).collect()
    }

    #[test]
    fn verdicts_follow_the_interval() {
        let of = |count, ratio, spread| effect(&pairs(count, ratio, spread), 0.95).unwrap();
        let faster = of(100, 1.2, 0.05);
        assert_eq!((faster.verdict, faster.more_pairs), (Verdict::Faster, 0));
        assert!((faster.speedup - 1.2).abs() < 0.03 && faster.p.unwrap() < 1e-9, "{faster:?}");
        assert!(faster.t.unwrap() > 0.0);
        assert_eq!(of(100, 0.8, 0.05).verdict, Verdict::Slower);
        assert_eq!(of(400, 1.0, 0.02).verdict, Verdict::NoDifferenceShown);
        let wide = of(20, 1.0, 0.3);
        assert_eq!(wide.verdict, Verdict::Underpowered);
        assert!(wide.more_pairs > 100, "{wide:?}");
        assert_eq!(effect(&[], 0.95), None);
        assert_eq!(of(3, 1.0, 0.1).p, None);
    }

    #[test]
    fn sides_take_turns_in_either_order() {
        let (mut turns, mut first) = (Turns::new(), [0; 2]);
        for _ in 0..100 {
            let mut order = Vec::new();
            let pair = turns.pair(|side| {
                order.push(side);
                Ok::<_, ()>(side as f64)
            });
            assert_eq!(pair, Ok((0.0, 1.0)));
            first[order[0]] += 1;
        }
        assert!(first[0] > 30 && first[1] > 30, "{first:?}");
        assert_eq!(turns.pair(|_| Err("failed")), Err("failed"));
    }

    #[test]
    fn a_stall_moves_nothing() {
        let mut with_stall = pairs(101, 1.0, 0.02);
        with_stall[50].0 = 1e3;
        assert_eq!(effect(&with_stall, 0.95).unwrap().verdict, Verdict::NoDifferenceShown);
    }

    #[test]
    fn a_clear_difference_is_decided_and_none_is_not() {
        let decide = |ratio: f64| {
            let mut test = Sequential::new(0.95);
            let found = pairs(2000, ratio, 0.03).into_iter().enumerate();
            let mut found = found.filter_map(|(at, pair)| Some((at, test.push(pair)?)));
            found.next()
        };
        let (at, faster) = decide(1.3).unwrap();
        assert!(faster && at < 60, "{at}");
        assert!(matches!(decide(0.77), Some((0..60, false))));
        assert!(matches!(decide(1.03), Some((_, true))));
        assert_eq!(decide(1.0), None);
    }
}
