//! The cells of a benchmark as charts need them: by what is compared with each other.

use std::collections::BTreeMap;

use trellect_tune::bench::{BenchCell, BenchRun};

use crate::kernel::Kernel;
use crate::words;

/// Workloads that differ in widths and tokens only.
pub(crate) struct Group<'a> {
    pub(crate) shape: &'a str,
    pub(crate) threads: Option<usize>,
    pub(crate) numeric: &'a str,
    pub(crate) mixes: Vec<Mix<'a>>,
    /// By kernel: how many implementations of the same are better in this group.
    ranks: BTreeMap<&'a str, usize>,
}

/// Workloads of one mix of widths.
pub(crate) struct Mix<'a> {
    pub(crate) bits: &'a str,
    /// By number of tokens.
    pub(crate) workloads: BTreeMap<usize, Vec<&'a BenchCell>>,
}

impl<'a> Group<'a> {
    /// The groups of a run, in the order of its cells.
    pub(crate) fn of(run: &'a BenchRun) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for cell in &run.cells {
            let key = (cell.shape.as_str(), cell.threads, cell.numeric.as_str());
            let known = |group: &Self| (group.shape, group.threads, group.numeric) == key;
            let at = groups.iter().position(known).unwrap_or_else(|| {
                let (shape, threads, numeric) = key;
                let (mixes, ranks) = (Vec::new(), BTreeMap::new());
                groups.push(Self { shape, threads, numeric, mixes, ranks });
                groups.len() - 1
            });
            groups[at].add(cell);
        }
        for group in &mut groups {
            group.rank();
        }
        groups
    }

    fn add(&mut self, cell: &'a BenchCell) {
        let at = self.mixes.iter().position(|mix| mix.bits == cell.bits).unwrap_or_else(|| {
            self.mixes.push(Mix { bits: &cell.bits, workloads: BTreeMap::new() });
            self.mixes.len() - 1
        });
        self.mixes[at].workloads.entry(cell.tokens).or_default().push(cell);
    }

    fn rank(&mut self) {
        let mut best: BTreeMap<Kernel, BTreeMap<&'a str, f64>> = BTreeMap::new();
        for mix in &self.mixes {
            for cells in mix.workloads.values() {
                let fastest = fastest_ms(cells);
                for cell in cells {
                    let plain = Kernel { variant: String::new(), ..Kernel::named(&cell.kernel) };
                    let ratios = best.entry(plain).or_default();
                    let least = ratios.entry(&cell.kernel).or_insert(f64::INFINITY);
                    *least = least.min(cell.median_ms / fastest);
                }
            }
        }
        for ratios in best.into_values() {
            let mut ratios: Vec<(&str, f64)> = ratios.into_iter().collect();
            ratios.sort_by(|a, b| a.1.total_cmp(&b.1));
            self.ranks.extend(ratios.iter().enumerate().map(|(rank, ratio)| (ratio.0, rank)));
        }
    }

    /// The class of a kernel's lines: the best implementation's are solid.
    pub(crate) fn dash(&self, kernel: &str) -> &'static str {
        match self.ranks.get(kernel) {
            Some(0) | None => "d0",
            Some(1) => "d1",
            Some(2) => "d2",
            Some(_) => "d3",
        }
    }

    /// What the workloads have in common, in words.
    pub(crate) fn name(&self) -> String {
        let threads = self.threads.map(|threads| words::plural(threads, "thread") + ", ");
        format!("{}, {}class {}", self.shape, threads.unwrap_or_default(), self.numeric)
    }
}

/// The median of the fastest kernel.
pub(crate) fn fastest_ms(cells: &[&BenchCell]) -> f64 {
    cells.iter().map(|cell| cell.median_ms).fold(f64::INFINITY, f64::min)
}

/// All that is known of a cell, for who points at it.
pub(crate) fn tell(cell: &BenchCell, fastest_ms: f64) -> String {
    let kernel = Kernel::named(&cell.kernel).label();
    let mut lines = vec![
        format!("{} · {kernel}", words::plural(cell.tokens, "token")),
        format!(
            "{}, {} the fastest",
            words::time(cell.median_ms),
            words::times(cell.median_ms / fastest_ms)
        ),
    ];
    if cell.dropped {
        lines.push("a first look only: too slow for more".into());
    } else {
        let [low, high, p10, p90] =
            [cell.low_ms, cell.high_ms, cell.p10_ms, cell.p90_ms].map(words::time);
        lines.push(format!("95 % of the median {low} to {high}"));
        lines.push(format!(
            "p10-p90 {p10} to {p90}, {}",
            words::plural(cell.samples().count(), "sample")
        ));
    }
    let share =
        cell.share_of_ceiling.map(|share| format!(", {} of memory's limit", words::percent(share)));
    lines.push(format!("{} GB/s{}", words::digits(cell.gb_per_s), share.unwrap_or_default()));
    if let Some(error) = cell.error {
        lines.push(format!("error {error:.1e}"));
    }
    if cell.picked {
        lines.push("the selector's pick".into());
    }
    lines.join("\n")
}
