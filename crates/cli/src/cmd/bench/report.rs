//! What a run found, for people and as JSON.

use std::fmt;

use serde::Serialize;
use trellect_tune::bench::compare::{ComparedCell, Comparison, Verdict, compare};
use trellect_tune::bench::regret::{PickRegret, Uniform, picks, uniform};
use trellect_tune::bench::{BenchCell, BenchLeftOut, BenchRun, BenchWorkload, Cache, Ceiling};
use trellect_tune::statistics::geometric_mean;

use super::peers::Peers;
use crate::output::Regression;
use crate::table::{self, Column};

/// Everything that `bench` prints.
#[derive(Debug, Serialize)]
pub(super) struct BenchReport<'a> {
    #[serde(flatten)]
    run: &'a BenchRun,
    /// What the selector's picks cost.
    picks: Vec<PickRegret>,
    /// What one kernel for everything would cost.
    uniform: Vec<Uniform>,
    /// Geometric mean of the picks' regret; `None` without picks.
    regret: Option<f64>,
    /// Against an earlier run.
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<Comparison>,
    #[serde(skip)]
    peers: Option<&'a Peers>,
}

impl<'a> BenchReport<'a> {
    /// `old`: an earlier run to compare with.
    pub(super) fn new(run: &'a BenchRun, old: Option<&BenchRun>, peers: Option<&'a Peers>) -> Self {
        let picks = picks(run);
        let regrets: Vec<f64> = picks.iter().map(|pick| pick.regret).collect();
        let comparison = old.map(|old| compare(old, run));
        let (uniform, regret) = (uniform(run), geometric_mean(&regrets));
        Self { run, picks, uniform, regret, comparison, peers }
    }

    /// Fails where a kernel is not exact enough, where one became slower than in the run that it is
    /// compared with, and where the picks are worse than `limit`.
    pub(super) fn check(&self, limit: Option<f64>) -> anyhow::Result<()> {
        if let Some(cell) = self.run.cells.iter().find(|cell| !cell.within_limit) {
            let BenchCell { kernel, tokens, numeric, shape, bits, .. } = cell;
            let error = table::optional(cell.error, |error| format!("{error:.2e}"));
            anyhow::bail!(
                "{kernel}: error {error} at {tokens} tokens of {shape} {bits}, above the limit of \
                 class {numeric}"
            );
        }
        let slower = self.comparison.iter().flat_map(|found| &found.cells);
        let slower: Vec<&ComparedCell> =
            slower.filter(|cell| cell.verdict == Verdict::Slower).collect();
        if let Some(ComparedCell { shape, bits, tokens, kernel, ratio, .. }) = slower.first() {
            let message = format!(
                "{} slower than before; {kernel} takes {ratio:.3} times as long at {tokens} tokens \
                 of {shape} {bits}",
                table::plural(slower.len(), "cell")
            );
            return Err(Regression(message).into());
        }
        let Some(limit) = limit else { return Ok(()) };
        let regret = self.regret.unwrap_or(1.0);
        if regret > limit {
            let message = format!("the picks take {regret:.3} times the fastest, allowed {limit}");
            return Err(Regression(message).into());
        }
        match self.picks.iter().find(|pick| pick.low > limit) {
            None => Ok(()),
            Some(PickRegret { shape, bits, tokens, picked, best, regret, low, .. }) => {
                Err(Regression(format!(
                    "{shape} {bits}, {tokens} tokens: the pick {picked} takes {regret:.3} times (at \
                     least {low:.3}) as long as {best}, allowed {limit}"
                ))
                .into())
            }
        }
    }

    fn workload(
        &self,
        f: &mut fmt::Formatter<'_>,
        workload: &BenchWorkload<'_>,
        cells: &[&BenchCell],
    ) -> fmt::Result {
        let BenchWorkload { shape, bits, tokens, threads, backend, numeric } = *workload;
        let tokens = table::plural(tokens, "token");
        let threads = threads.map(|threads| format!(", {}", table::plural(threads, "thread")));
        write!(
            f,
            "\n{shape} {bits}, {tokens}, {numeric}, {backend}{}",
            threads.unwrap_or_default()
        )?;
        if let Some(ceiling) = cells[0].ceiling_gb_per_s {
            write!(f, "; memory {ceiling:.1} GB/s")?;
        }
        let peer = self.peers.and_then(|peers| peers.find(workload));
        if let Some((engine, ms)) = peer {
            write!(f, "; {engine} {ms} ms")?;
        }
        writeln!(f)?;
        let mut sorted = cells.to_vec();
        sorted.sort_by(|a, b| a.median_ms.total_cmp(&b.median_ms));
        let fastest = sorted[0].median_ms;
        let columns = [
            Column::Left(""),
            Column::Left("kernel"),
            Column::Right("ms"),
            Column::Right("95 % of median"),
            Column::Right("p10-p90"),
            Column::Right("n"),
            Column::Right("ratio"),
            Column::Right("GB/s"),
            Column::Right("of limit"),
            Column::Right("Gw/s"),
            Column::Right("GFLOP/s"),
            Column::Right("error"),
            Column::Right("of peer"),
        ];
        let columns = &columns[..columns.len() - usize::from(peer.is_none())];
        let row = |cell: &&BenchCell| {
            let mut row = vec![
                if cell.picked { "*".into() } else { String::new() },
                cell.kernel.clone(),
                format!("{:.3}", cell.median_ms),
                format!("{:.3}-{:.3}", cell.low_ms, cell.high_ms),
                format!("{:.3}-{:.3}", cell.p10_ms, cell.p90_ms),
                cell.samples().count().to_string(),
                format!("{:.2}", cell.median_ms / fastest),
                format!("{:.2}", cell.gb_per_s),
                table::optional(cell.share_of_ceiling, |share| format!("{:.0} %", 100.0 * share)),
                format!("{:.1}", cell.g_weights_per_s),
                format!("{:.1}", cell.gflop_per_s),
                table::optional(cell.error, |error| format!("{error:.1e}")),
            ];
            row.extend(peer.map(|(_, ms)| format!("{:.2}", cell.median_ms / ms)));
            row
        };
        let measured = sorted.iter().filter(|cell| !cell.dropped).map(row);
        f.write_str(&table::render(columns, measured.collect()))?;
        let dropped = sorted.iter().filter(|cell| cell.dropped);
        let dropped: Vec<String> = dropped
            .map(|cell| format!("{} {:.1}", short(&cell.kernel), cell.median_ms / fastest))
            .collect();
        if !dropped.is_empty() {
            let names = dropped.join(", ");
            writeln!(f, "  dropped after a first look, with their ratio: {names}")?;
        }
        if let Some(pick) = self.picks.iter().find(|pick| is_of(pick, workload)) {
            match pick.picked == pick.best {
                true => writeln!(f, "  the pick is the fastest")?,
                false => writeln!(
                    f,
                    "  the pick takes {:.3} times the fastest ({:.3}-{:.3})",
                    pick.regret, pick.low, pick.high
                )?,
            }
        }
        let is_of = |left: &&BenchLeftOut| {
            let BenchLeftOut { shape, bits, tokens, threads, numeric, .. } = left;
            (shape.as_str(), bits.as_str(), *tokens, *threads, numeric.as_str())
                == (
                    workload.shape,
                    workload.bits,
                    workload.tokens,
                    workload.threads,
                    workload.numeric,
                )
        };
        for left in self.run.left_out.iter().filter(is_of) {
            writeln!(f, "  not measured: {}: {}", short(&left.kernel), left.why)?;
        }
        Ok(())
    }
}

/// What became faster or slower, and how many cells did not.
fn compared(f: &mut fmt::Formatter<'_>, comparison: &Comparison) -> fmt::Result {
    writeln!(f, "\nagainst the earlier run:")?;
    for difference in &comparison.differences {
        writeln!(f, "  {difference}")?;
    }
    let changed =
        comparison.cells.iter().filter(|c| matches!(c.verdict, Verdict::Slower | Verdict::Faster));
    for cell in changed {
        let ComparedCell { shape, bits, tokens, threads, numeric, kernel, .. } = cell;
        let threads = table::optional(*threads, |threads| threads.to_string());
        writeln!(
            f,
            "  {}: {shape} {bits}, tokens {tokens}, threads {threads}, {numeric}, {}: {:.3} ms, \
             was {:.3} ({:.3}), p {:.1e}",
            if cell.verdict == Verdict::Slower { "SLOWER" } else { "faster" },
            short(kernel),
            cell.new_ms,
            cell.old_ms,
            cell.ratio,
            cell.p.unwrap_or(f64::NAN)
        )?;
    }
    let count = |verdict| comparison.cells.iter().filter(|cell| cell.verdict == verdict).count();
    writeln!(
        f,
        "  {} slower, {} faster, {} without a difference shown, {} with too few samples; {} only \
         now, {} only then",
        count(Verdict::Slower),
        count(Verdict::Faster),
        count(Verdict::NoDifferenceShown),
        count(Verdict::TooFewSamples),
        comparison.only_new,
        comparison.only_old
    )
}

/// What the machine delivers with some number of threads.
pub(super) fn limits(ceiling: &Ceiling) -> String {
    let Ceiling { read_gb_per_s, read_gb_per_s_before, read_gb_per_s_after, .. } = ceiling;
    let peak = |name: &str, peak: Option<f64>| {
        peak.map_or_else(String::new, |peak| format!(", {name} {peak:.0} G/s"))
    };
    format!(
        "memory read {read_gb_per_s:.1} GB/s ({read_gb_per_s_before:.1} before, \
         {read_gb_per_s_after:.1} after){}{}",
        peak("fp32 FMA", ceiling.fp32_fma_gflop_per_s),
        peak("int8 dot products", ceiling.int8_dot_gop_per_s)
    )
}

/// A kernel's name without what all names begin with.
fn short(kernel: &str) -> &str {
    match kernel.strip_prefix("moe_trellis_swiglu") {
        Some(rest) => rest.strip_prefix('_').unwrap_or(rest),
        None => kernel,
    }
}

fn is_of(pick: &PickRegret, workload: &BenchWorkload<'_>) -> bool {
    let PickRegret { shape, bits, tokens, threads, numeric, .. } = pick;
    (shape.as_str(), bits.as_str(), *tokens, *threads, numeric.as_str())
        == (workload.shape, workload.bits, workload.tokens, workload.threads, workload.numeric)
}

impl fmt::Display for BenchReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BenchRun { machine, method, .. } = self.run;
        writeln!(f, "{}, {}", machine.device, machine.system)?;
        let facts: Vec<String> =
            machine.facts.iter().map(|(name, value)| format!("{name} {value}")).collect();
        writeln!(f, "  {}", facts.join("; "))?;
        let cache = |cache: &Cache| {
            format!("L{} {} {}", cache.level, cache.kind, table::bytes(cache.bytes))
        };
        let caches: Vec<String> = machine.caches.iter().map(cache).collect();
        writeln!(
            f,
            "  {}; {}; memory {}, {} available; huge pages {}",
            table::plural(machine.processors, "processor"),
            caches.join(", "),
            table::bytes(machine.memory_bytes),
            table::bytes(machine.available_bytes),
            machine.huge_pages.as_deref().unwrap_or("unknown")
        )?;
        for ceiling in &machine.ceilings {
            writeln!(f, "  {}: {}", table::plural(ceiling.threads, "thread"), limits(ceiling))?;
        }
        match method.cold_bytes {
            0 => writeln!(f, "  warm: one call over and over")?,
            bytes => writeln!(
                f,
                "  cold: {} of other weights between two launches on one call",
                table::bytes(bytes)
            )?,
        }
        for (workload, cells) in self.run.workloads() {
            self.workload(f, &workload, &cells)?;
        }
        writeln!(f)?;
        if let Some(regret) = self.regret {
            let worst = self.picks.iter().map(|pick| pick.regret).fold(1.0, f64::max);
            writeln!(
                f,
                "*: what policy {} serves; {} picks: {:.2} % lost in the mean, {:.1} % at worst",
                method.policy,
                self.picks.len(),
                100.0 * (regret - 1.0),
                100.0 * (worst - 1.0)
            )?;
        }
        for uniform in &self.uniform {
            self.uniform(f, uniform)?;
        }
        if let Some(comparison) = &self.comparison {
            compared(f, comparison)?;
        }
        writeln!(
            f,
            "{:.0} s{}",
            self.run.seconds,
            if self.run.interrupted { ", ended early" } else { "" }
        )
    }
}

impl BenchReport<'_> {
    fn uniform(&self, f: &mut fmt::Formatter<'_>, uniform: &Uniform) -> fmt::Result {
        const SHOWN: usize = 3;
        let threads =
            uniform.threads.map(|threads| format!(", {}", table::plural(threads, "thread")));
        let threads = threads.unwrap_or_default();
        let workloads = table::plural(uniform.workloads, "workload");
        write!(f, "one kernel for all {workloads}, {}{threads}: ", uniform.numeric)?;
        let kernels = uniform.kernels.iter().take(SHOWN).map(|cost| {
            let rough = if cost.rough { "about " } else { "" };
            format!(
                "{} {rough}{:.1} % slower than the fastest",
                cost.kernel,
                100.0 * (cost.ratio - 1.0)
            )
        });
        let kernels: Vec<String> = kernels.collect();
        match kernels.is_empty() {
            true => writeln!(f, "none can compute them all"),
            false => writeln!(f, "{}", kernels.join("; ")),
        }
    }
}
