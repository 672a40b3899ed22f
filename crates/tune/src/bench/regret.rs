//! What the selector's picks cost, and what one kernel for everything would.

use serde::{Deserialize, Serialize};

use super::run::{BenchCell, BenchRun, CONFIDENCE, digits};
use crate::statistics::{geometric_mean, paired_ratio_interval};

/// The pick of one workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PickRegret {
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
    /// The selector's kernel.
    pub picked: String,
    /// The kernel with the smallest median.
    pub best: String,
    /// Median of the pick over that of the best, at least 1.
    pub regret: f64,
    /// Lower end of its 95 % bootstrap interval, over the rounds that both were launched in.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// One kernel serving every workload of a kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UniformCost {
    /// The kernel.
    pub kernel: String,
    /// Geometric mean over the workloads of its median over that of the best kernel.
    pub ratio: f64,
    /// Its worst workload.
    pub worst: f64,
    /// Whether some of its figures are first looks only.
    pub rough: bool,
}

/// Picks against uniform choices, over all workloads of one backend, thread count and class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Uniform {
    /// Threads; `None` but on the cpu backend.
    pub threads: Option<usize>,
    /// The numeric class.
    pub numeric: String,
    /// How many workloads.
    pub workloads: usize,
    /// Geometric mean of the picks' regret; `None` where a workload has no pick.
    pub selected: Option<f64>,
    /// Every kernel that was measured on all of them, best first.
    pub kernels: Vec<UniformCost>,
}

/// The regret of every workload that has a pick.
pub fn picks(run: &BenchRun) -> Vec<PickRegret> {
    run.workloads().iter().filter_map(|(_, cells)| pick(cells)).collect()
}

fn pick(cells: &[&BenchCell]) -> Option<PickRegret> {
    let picked = cells.iter().find(|cell| cell.picked)?;
    let best = cells.iter().find(|cell| cell.best)?;
    let regret = picked.median_ms / best.median_ms;
    let rounds = picked.samples_ms.iter().zip(&best.samples_ms);
    let pairs: Vec<(f64, f64)> = rounds.filter_map(|(one, other)| one.zip(*other)).collect();
    let interval = paired_ratio_interval(&pairs, CONFIDENCE);
    let (low, high) = interval.map_or((regret, regret), |found| (found.low, found.high));
    Some(PickRegret {
        shape: picked.shape.clone(),
        bits: picked.bits.clone(),
        tokens: picked.tokens,
        threads: picked.threads,
        numeric: picked.numeric.clone(),
        picked: picked.kernel.clone(),
        best: best.kernel.clone(),
        regret: digits(regret),
        low: digits(low),
        high: digits(high),
    })
}

/// Picks and uniform choices by thread count and class.
pub fn uniform(run: &BenchRun) -> Vec<Uniform> {
    let workloads = run.workloads();
    let mut kinds: Vec<(Option<usize>, &str)> = Vec::new();
    for (workload, _) in &workloads {
        if !kinds.contains(&(workload.threads, workload.numeric)) {
            kinds.push((workload.threads, workload.numeric));
        }
    }
    let of_kind = |kind: (Option<usize>, &str)| {
        let cells: Vec<&[&BenchCell]> = workloads
            .iter()
            .filter(|(workload, _)| (workload.threads, workload.numeric) == kind)
            .map(|(_, cells)| cells.as_slice())
            .collect();
        let regrets = cells.iter().map(|cells| pick(cells).map(|pick| pick.regret));
        let regrets: Option<Vec<f64>> = regrets.collect();
        Uniform {
            threads: kind.0,
            numeric: kind.1.into(),
            workloads: cells.len(),
            selected: regrets.and_then(|regrets| geometric_mean(&regrets)).map(digits),
            kernels: costs(&cells),
        }
    };
    kinds.into_iter().map(of_kind).collect()
}

fn costs(workloads: &[&[&BenchCell]]) -> Vec<UniformCost> {
    let Some(first) = workloads.first() else { return Vec::new() };
    let cost = |name: &str| {
        let ratios = workloads.iter().map(|cells| {
            let best = cells.iter().find(|cell| cell.best)?;
            let own = cells.iter().find(|cell| cell.kernel == name)?;
            Some((own.median_ms / best.median_ms, own.dropped))
        });
        let ratios: Vec<(f64, bool)> = ratios.collect::<Option<_>>()?;
        let values: Vec<f64> = ratios.iter().map(|(ratio, _)| *ratio).collect();
        Some(UniformCost {
            kernel: name.into(),
            ratio: digits(geometric_mean(&values)?),
            worst: digits(values.iter().copied().fold(0.0, f64::max)),
            rough: ratios.iter().any(|(_, dropped)| *dropped),
        })
    };
    let mut costs: Vec<UniformCost> = first.iter().filter_map(|c| cost(&c.kernel)).collect();
    costs.sort_by(|a, b| a.ratio.total_cmp(&b.ratio));
    costs
}
