//! One run against an earlier one, cell by cell.

use serde::{Deserialize, Serialize};
use trellect_select::{Timings, WelchTest};

use super::run::{BenchCell, BenchRun, digits};

/// Probability of calling any cell faster or slower when nothing has changed and samples are
/// independent.
pub const ALPHA: f64 = 0.05;

/// A smaller difference of the medians, as a share, is none: two runs of one program on a quiet
/// machine differ by as much.
pub const MARGIN: f64 = 0.02;

/// Two runs and every cell that both have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Facts of the machines and methods that differ, as `fact: old, now new`.
    pub differences: Vec<String>,
    /// Cells of the earlier run that this one lacks.
    pub only_old: usize,
    /// Cells that the earlier run lacks.
    pub only_new: usize,
    /// The cells of both, the slowed ones first.
    pub cells: Vec<ComparedCell>,
}

/// One kernel on one workload, then and now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparedCell {
    /// The shape's name, or its sizes.
    pub shape: String,
    /// Bit widths.
    pub bits: String,
    /// Tokens of a call.
    pub tokens: usize,
    /// Threads; `None` but on the cpu backend.
    pub threads: Option<usize>,
    /// The numeric class.
    pub numeric: String,
    /// The kernel's name.
    pub kernel: String,
    /// Median of the earlier run.
    pub old_ms: f64,
    /// Median of this one.
    pub new_ms: f64,
    /// `new_ms / old_ms`.
    pub ratio: f64,
    /// Two-sided p-value of Welch's test on the logarithms of the times, corrected by Holm's method
    /// for the number of cells; `None` where either run has fewer than five samples.
    pub p: Option<f64>,
    /// What follows.
    pub verdict: Verdict,
}

/// What has become of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It takes longer: by more than [`MARGIN`], at the level [`ALPHA`].
    Slower,
    /// It takes less time, likewise.
    Faster,
    /// Neither was shown.
    NoDifferenceShown,
    /// Too few samples for a test.
    TooFewSamples,
}

/// Compares `new` with the earlier run `old`. First looks are left out.
pub fn compare(old: &BenchRun, new: &BenchRun) -> Comparison {
    let full = |run: &'_ BenchRun| run.cells.iter().filter(|cell| !cell.dropped).count();
    let same = |a: &BenchCell, b: &BenchCell| {
        a.kernel == b.kernel && a.workload() == b.workload() && !b.dropped
    };
    let pairs: Vec<(&BenchCell, &BenchCell)> = new
        .cells
        .iter()
        .filter(|cell| !cell.dropped)
        .filter_map(|cell| Some((old.cells.iter().find(|other| same(cell, other))?, cell)))
        .collect();
    let corrected = holm(&pairs.iter().map(|(old, new)| p_value(old, new)).collect::<Vec<_>>());
    let compared = pairs.iter().zip(corrected).map(|((old, new), p)| {
        let ratio = new.median_ms / old.median_ms;
        ComparedCell {
            shape: new.shape.clone(),
            bits: new.bits.clone(),
            tokens: new.tokens,
            threads: new.threads,
            numeric: new.numeric.clone(),
            kernel: new.kernel.clone(),
            old_ms: old.median_ms,
            new_ms: new.median_ms,
            ratio: digits(ratio),
            p: p.map(digits),
            verdict: verdict(ratio, p),
        }
    });
    let mut cells: Vec<ComparedCell> = compared.collect();
    cells.sort_by(|a, b| a.verdict.cmp(&b.verdict).then(b.ratio.total_cmp(&a.ratio)));
    Comparison {
        differences: differences(old, new),
        only_old: full(old) - cells.len(),
        only_new: full(new) - cells.len(),
        cells,
    }
}

fn verdict(ratio: f64, p: Option<f64>) -> Verdict {
    match p {
        None => Verdict::TooFewSamples,
        Some(p) if p > ALPHA || (ratio - 1.0).abs() <= MARGIN => Verdict::NoDifferenceShown,
        Some(_) if ratio > 1.0 => Verdict::Slower,
        Some(_) => Verdict::Faster,
    }
}

fn p_value(old: &BenchCell, new: &BenchCell) -> Option<f64> {
    let logs = |cell: &BenchCell| log_timings(cell.samples());
    Some(WelchTest::compare(&logs(old), &logs(new))?.p_value())
}

/// The moments of the logarithms of times, for Welch's test.
pub(super) fn log_timings(times: impl Iterator<Item = f64>) -> Timings {
    let logs: Vec<f64> = times.map(f64::ln).collect();
    let n = logs.len();
    // About the first, so that equal times have no variance, not that of rounding.
    let first = logs.first().copied().unwrap_or(0.0);
    let mean_ms = first + logs.iter().map(|log| log - first).sum::<f64>() / n.max(1) as f64;
    let squares: f64 = logs.iter().map(|log| (log - mean_ms).powi(2)).sum();
    let variance = squares / (n.max(2) - 1) as f64;
    Timings { n, mean_ms, ema_ms: mean_ms, variance }
}

/// Corrects p-values for their number: S. Holm, A simple sequentially rejective multiple test
/// procedure, 1979.
fn holm(p_values: &[Option<f64>]) -> Vec<Option<f64>> {
    let known = p_values.iter().enumerate().filter_map(|(at, p)| Some((at, (*p)?)));
    let mut sorted: Vec<(usize, f64)> = known.collect();
    sorted.sort_by(|a, b| a.1.total_cmp(&b.1));
    let (count, mut least) = (sorted.len(), 0.0f64);
    let mut corrected = vec![None; p_values.len()];
    for (rank, (at, p)) in sorted.into_iter().enumerate() {
        least = least.max((p * (count - rank) as f64).min(1.0));
        corrected[at] = Some(least);
    }
    corrected
}

/// What a reader should know before believing a comparison.
fn differences(old: &BenchRun, new: &BenchRun) -> Vec<String> {
    let facts = |run: &BenchRun| {
        let (machine, method) = (&run.machine, &run.method);
        let mut facts = vec![
            ("device".to_owned(), machine.device.clone()),
            ("system".to_owned(), machine.system.clone()),
            ("huge pages".to_owned(), machine.huge_pages.clone().unwrap_or_default()),
            ("cold bytes".to_owned(), method.cold_bytes.to_string()),
            ("codebook".to_owned(), method.codebook.clone()),
        ];
        facts.extend(machine.facts.iter().cloned());
        for ceiling in &machine.ceilings {
            let read = format!("{:.0} GB/s", ceiling.read_gb_per_s);
            facts.push((format!("memory read with {} threads", ceiling.threads), read));
        }
        facts
    };
    let (old, new) = (facts(old), facts(new));
    let changed = new.iter().filter_map(|(name, now)| {
        let (_, then) = old.iter().find(|(known, then)| known == name && then != now)?;
        Some(format!("{name}: {then}, now {now}"))
    });
    changed.collect()
}

#[cfg(test)]
mod tests {
    use trellect_testkit::statistics::scipy;

    use super::*;

    #[test]
    fn p_values_of_logarithms_are_scipys() {
        for expected in scipy().welch {
            let logs = |times: &[f64]| log_timings(times.iter().copied());
            let found = WelchTest::compare(&logs(&expected.one), &logs(&expected.other)).unwrap();
            let close =
                |found: f64, of_scipy: f64| (found - of_scipy).abs() <= 1e-9 * of_scipy.abs();
            let found = [found.t, found.degrees_of_freedom, found.p_value()];
            let of_scipy = [expected.of_logs.t, expected.of_logs.df, expected.of_logs.p];
            assert!(
                found.iter().zip(of_scipy).all(|(f, s)| close(*f, s)),
                "{found:?} {expected:?}"
            );
        }
    }

    #[test]
    fn corrections_are_those_of_statsmodels() {
        for case in scipy().holm {
            let p_values: Vec<Option<f64>> = case.p.iter().copied().map(Some).collect();
            for (found, expected) in holm(&p_values).iter().zip(&case.corrected) {
                assert!((found.unwrap() - expected).abs() < 1e-12, "{case:?}");
            }
        }
    }

    #[test]
    fn p_values_are_corrected_by_rank() {
        // 4 * 0.005, 3 * 0.01, 2 * 0.03, and never less than the one before.
        let found = holm(&[Some(0.01), Some(0.04), None, Some(0.03), Some(0.005)]);
        let expected = [Some(0.03), Some(0.06), None, Some(0.06), Some(0.02)];
        for (found, expected) in found.iter().zip(expected) {
            match (found, expected) {
                (Some(found), Some(expected)) => assert!((found - expected).abs() < 1e-12),
                (found, expected) => assert_eq!(*found, expected),
            }
        }
    }

    #[test]
    fn a_verdict_needs_proof_and_size() {
        assert_eq!(verdict(1.5, None), Verdict::TooFewSamples);
        assert_eq!(verdict(1.5, Some(0.2)), Verdict::NoDifferenceShown);
        assert_eq!(verdict(1.01, Some(1e-9)), Verdict::NoDifferenceShown);
        assert_eq!(verdict(1.05, Some(1e-9)), Verdict::Slower);
        assert_eq!(verdict(0.9, Some(1e-9)), Verdict::Faster);
    }
}
