//! The tables that are kept in the repository: one per class and number of threads.

use std::fmt::Write as _;

use trellect_tune::bench::{BenchCell, BenchRun, BenchWorkload};
use trellect_tune::statistics::geometric_mean;

use super::peers::Peers;
use super::report::limits;

/// A row of a table: shape and widths.
type Row<'a> = (&'a str, &'a str);

/// What of the fastest kernel a table shows, by its title.
type Show = fn(&BenchCell, Option<f64>) -> String;

const TABLES: [(&str, Show); 4] = [
    ("Milliseconds per layer call of the fastest kernel (ratio to the peer)", |cell, peer_ms| {
        let ratio = peer_ms.map(|ms| format!(" ({:.2})", cell.median_ms / ms));
        format!("{}{}", three_digits(cell.median_ms), ratio.unwrap_or_default())
    }),
    ("Which kernel", |cell, _| {
        let name = cell.kernel.trim_start_matches("moe_trellis_swiglu").trim_start_matches('_');
        name.replace(&format!("@{}.", cell.backend), " ")
    }),
    ("GB/s of trellis (share of the memory's read bandwidth), G weights/s", |cell, _| {
        let share = cell.share_of_ceiling.map(|share| format!(" ({:.0} %)", 100.0 * share));
        format!("{:.1}{}, {:.1}", cell.gb_per_s, share.unwrap_or_default(), cell.g_weights_per_s)
    }),
    ("Relative error of the first tokens", |cell, _| {
        cell.error.map_or_else(|| "-".into(), |error| format!("{error:.1e}"))
    }),
];

/// The tables of a run.
pub(super) fn render(run: &BenchRun, peers: Option<&Peers>) -> String {
    let mut text = String::new();
    let machine = &run.machine;
    let _ = writeln!(text, "# {}\n", machine.device);
    let facts: Vec<String> =
        machine.facts.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let _ = writeln!(text, "{}; {}.\n", machine.system, facts.join("; "));
    for ceiling in &machine.ceilings {
        let _ = writeln!(text, "* {} threads: {}", ceiling.threads, limits(ceiling));
    }
    let _ = writeln!(
        text,
        "\n{} MiB of other weights between two launches on one call; codebook {}; medians.",
        run.method.cold_bytes >> 20,
        run.method.codebook
    );
    if let Some(peers) = peers {
        let _ = writeln!(text, "\nPeers: {} Machine: {}.", peers.source, peers.machine);
    }
    let workloads = run.workloads();
    let mut kinds: Vec<(Option<usize>, &str)> = Vec::new();
    for (workload, _) in &workloads {
        if !kinds.contains(&(workload.threads, workload.numeric)) {
            kinds.push((workload.threads, workload.numeric));
        }
    }
    for kind in kinds {
        let of_kind: Vec<(BenchWorkload<'_>, &BenchCell)> = workloads
            .iter()
            .filter(|(workload, _)| (workload.threads, workload.numeric) == kind)
            .filter_map(|(workload, cells)| Some((*workload, *cells.iter().find(|c| c.best)?)))
            .collect();
        let threads = kind.0.map(|threads| format!(", threads: {threads}")).unwrap_or_default();
        let _ = writeln!(text, "\n## Class {}{threads}", kind.1);
        for (title, show) in TABLES {
            table(&mut text, title, &of_kind, |workload, cell| {
                show(cell, peers.and_then(|peers| peers.find(workload)).map(|(_, ms)| ms))
            });
        }
        let ratios: Vec<f64> = of_kind
            .iter()
            .filter_map(|(workload, cell)| Some(cell.median_ms / peers?.find(workload)?.1))
            .collect();
        if let Some(mean) = geometric_mean(&ratios) {
            let slower = ratios.iter().filter(|&&ratio| ratio >= 1.0).count();
            let _ = writeln!(
                text,
                "\nGeometric mean of the ratios {mean:.3} over {} cells; {slower} are not faster.",
                ratios.len()
            );
        }
    }
    text
}

fn table(
    text: &mut String,
    title: &str,
    cells: &[(BenchWorkload<'_>, &BenchCell)],
    show: impl Fn(&BenchWorkload<'_>, &BenchCell) -> String,
) {
    let mut tokens: Vec<usize> = cells.iter().map(|(workload, _)| workload.tokens).collect();
    tokens.sort_unstable();
    tokens.dedup();
    let mut rows: Vec<Row<'_>> = Vec::new();
    for (workload, _) in cells {
        if !rows.contains(&(workload.shape, workload.bits)) {
            rows.push((workload.shape, workload.bits));
        }
    }
    let header: Vec<String> = tokens.iter().map(ToString::to_string).collect();
    let _ = writeln!(text, "\n### {title}\n\n| shape, bits | {} |", header.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(tokens.len()));
    for row in rows {
        let find = |tokens: &usize| {
            let found = cells.iter().find(|(workload, _)| {
                (workload.shape, workload.bits) == row && workload.tokens == *tokens
            });
            found.map_or_else(String::new, |(workload, cell)| show(workload, cell))
        };
        let columns: Vec<String> = tokens.iter().map(find).collect();
        let _ = writeln!(text, "| {} {} | {} |", row.0, row.1, columns.join(" | "));
    }
}

/// `0.0123`, `1.23`, `12.3`, `123`.
fn three_digits(value: f64) -> String {
    let whole = value.abs().max(f64::MIN_POSITIVE).log10().floor() as i32;
    format!("{value:.*}", (2 - whole).max(0) as usize)
}
