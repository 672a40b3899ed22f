use trellect_tune::bench::BenchRun;
use trellect_tune::bench::regret::{PickRegret, picks, uniform};

use super::{Block, Column, Section, Table, optional};
use crate::chart::{self, Chart};
use crate::data::{Data, Named};
use crate::groups::{Group, fastest_ms};
use crate::kernel::Kernel;
use crate::words;

/// Latency by tokens, kernel by kernel.
pub(crate) fn latency(data: &Data) -> Option<Section> {
    let mut blocks: Vec<Block> = Vec::new();
    for bench in &data.benches {
        for group in Group::of(&bench.data) {
            let charts = group.mixes.iter().map(|mix| {
                let parts =
                    ["latency", group.shape, mix.bits, &number(group.threads), group.numeric];
                Chart::new(&parts, chart::latency::draw(&group, mix))
            });
            blocks.push(Block {
                heading: heading(&data.benches, bench, &group.name()),
                charts: charts.filter(|chart| !chart.svg.is_empty()).collect(),
                tables: vec![figures(&group)],
                is_folded: !blocks.is_empty(),
                ..Block::default()
            });
        }
    }
    let intro = "Median time of a call and, shaded, where eight of ten launches lie; below it the same as a multiple \
                 of the fastest kernel. Ringed: what the selector serves such calls with. Kernels that were \
                 hopelessly slow at a first look are in the tables only. Drag over a chart to zoom, double-click to \
                 go back.";
    (!blocks.is_empty()).then_some(Section {
        id: "latency",
        title: "Latency by tokens",
        intro,
        blocks,
    })
}

/// Which kernel wins where, and what picks and uniform choices cost.
pub(crate) fn regret(data: &Data) -> Option<Section> {
    let blocks = data.benches.iter().map(|bench| {
        let groups = Group::of(&bench.data);
        let winners = groups.iter().map(|group| {
            let parts = ["winners", group.shape, &number(group.threads), group.numeric];
            Chart::new(&parts, chart::winners::draw(group))
        });
        let mut charts: Vec<Chart> = winners.collect();
        let all = picks(&bench.data);
        for uniform in uniform(&bench.data) {
            let threads = number(uniform.threads);
            let named = |name, svg| Chart::new(&[name, threads.as_str(), &uniform.numeric], svg);
            charts.extend(chart::uniform::draw(&uniform).map(|svg| named("uniform", svg)));
            let kind = |pick: &&PickRegret| {
                (pick.threads, &pick.numeric) == (uniform.threads, &uniform.numeric)
            };
            let of_kind: Vec<&PickRegret> = all.iter().filter(kind).collect();
            if !of_kind.is_empty() {
                let name = uniform.threads.map(|threads| words::plural(threads, "thread") + ", ");
                let name = format!("{}class {}", name.unwrap_or_default(), uniform.numeric);
                charts.push(named("picks", chart::picks::draw(&name, &of_kind)));
            }
        }
        let worse: Vec<&PickRegret> = all.iter().filter(|pick| pick.picked != pick.best).collect();
        let tables = if worse.is_empty() { Vec::new() } else { vec![misses(&worse, all.len())] };
        Block { heading: heading(&data.benches, bench, ""), charts, tables, ..Block::default() }
    });
    let blocks: Vec<Block> = blocks.filter(|block| !block.charts.is_empty()).collect();
    let intro = "The fastest kernel of every workload and its lead over the next kernel of another kind; in a flagged \
                 corner the selector served one that took at least 1 % longer. Beside it what is lost against always \
                 knowing the fastest: by the selector's picks, and by any one kernel for everything (geometric means).";
    let title = "Which kernel wins, and what is lost";
    (!blocks.is_empty()).then_some(Section { id: "regret", title, intro, blocks })
}

/// A number of threads as part of a name.
fn number(threads: Option<usize>) -> String {
    threads.map_or_else(String::new, |threads| threads.to_string())
}

/// Names the file only where there are several.
fn heading(benches: &[Named<BenchRun>], bench: &Named<BenchRun>, of: &str) -> String {
    match (benches.len() > 1, of) {
        (true, "") => bench.name.clone(),
        (true, of) => format!("{}: {of}", bench.name),
        (false, of) => of.into(),
    }
}

fn misses(worse: &[&PickRegret], of: usize) -> Table {
    let mut worse = worse.to_vec();
    worse.sort_by(|a, b| b.regret.total_cmp(&a.regret));
    let rows = worse.iter().map(|pick| {
        vec![
            format!("{} {}", pick.shape, pick.bits),
            pick.tokens.to_string(),
            optional(pick.threads, |threads| threads.to_string()),
            Kernel::named(&pick.picked).label(),
            Kernel::named(&pick.best).label(),
            format!("{:.3}", pick.regret),
            format!("{:.3}–{:.3}", pick.low, pick.high),
        ]
    });
    Table {
        caption: format!("{} of {} were not the fastest", words::plural(worse.len(), "pick"), of),
        columns: vec![
            Column::Left("workload"),
            Column::Right("tokens"),
            Column::Right("threads"),
            Column::Left("picked"),
            Column::Left("fastest"),
            Column::Right("times"),
            Column::Right("95 %"),
        ],
        rows: rows.collect(),
        is_folded: true,
    }
}

/// Every figure of a group.
fn figures(group: &Group<'_>) -> Table {
    let mut rows = Vec::new();
    for mix in &group.mixes {
        for cells in mix.workloads.values() {
            let fastest = fastest_ms(cells);
            let mut cells = cells.clone();
            cells.sort_by(|a, b| a.median_ms.total_cmp(&b.median_ms));
            rows.extend(cells.iter().map(|cell| {
                let samples = cell.samples().count();
                vec![
                    mix.bits.into(),
                    cell.tokens.to_string(),
                    Kernel::named(&cell.kernel).label(),
                    if cell.picked { "picked".into() } else { String::new() },
                    format!("{:.4}", cell.median_ms),
                    format!("{:.4}–{:.4}", cell.low_ms, cell.high_ms),
                    format!("{:.4}–{:.4}", cell.p10_ms, cell.p90_ms),
                    if cell.dropped { "look".into() } else { samples.to_string() },
                    format!("{:.2}", cell.median_ms / fastest),
                    format!("{:.2}", cell.gb_per_s),
                    optional(cell.share_of_ceiling, |share| format!("{:.0} %", 100.0 * share)),
                    format!("{:.1}", cell.gflop_per_s),
                    optional(cell.error, |error| format!("{error:.1e}")),
                ]
            }));
        }
    }
    Table {
        caption: format!("All figures: {}", words::plural(rows.len(), "cell")),
        columns: vec![
            Column::Left("bits"),
            Column::Right("tokens"),
            Column::Left("kernel"),
            Column::Left(""),
            Column::Right("median ms"),
            Column::Right("95 % of it"),
            Column::Right("p10–p90"),
            Column::Right("samples"),
            Column::Right("ratio"),
            Column::Right("GB/s"),
            Column::Right("of limit"),
            Column::Right("GFLOP/s"),
            Column::Right("error"),
        ],
        rows,
        is_folded: true,
    }
}
