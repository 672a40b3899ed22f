//! The page: tiles with the figures that matter, a legend that is also the switch of every series, and
//! the sections.

use std::collections::BTreeSet;

use askama::Template;
use trellect_tune::bench::regret::{picks, uniform};
use trellect_tune::statistics::geometric_mean;

use crate::chart::Chart;
use crate::chart::lost::Lost;
use crate::data::Data;
use crate::kernel::{Kernel, Series};
use crate::section::{Section, bench, comparisons, decisions, history, machine, matrix};
use crate::{theme, words};

/// Everything that the template shows.
#[derive(Clone, Debug, Template)]
#[template(path = "page.html")]
pub(crate) struct Page {
    style: String,
    script: &'static str,
    /// The machines that were measured.
    devices: Vec<String>,
    /// The names of what it was made from.
    sources: Vec<String>,
    tiles: Vec<Tile>,
    legend: Vec<Series>,
    sections: Vec<Section>,
    missing: Vec<Missing>,
}

/// A figure that matters.
#[derive(Clone, Debug)]
struct Tile {
    value: String,
    label: String,
}

/// What there are no data of, and what makes them.
#[derive(Clone, Debug)]
struct Missing {
    what: &'static str,
    command: &'static str,
}

impl Page {
    pub(crate) fn new(data: &Data) -> Self {
        let sections = [
            bench::regret(data),
            bench::latency(data),
            decisions::section(data),
            comparisons::section(data),
            matrix::section(data),
            history::section(data),
            machine::section(data),
        ];
        Self {
            style: theme::page(),
            script: include_str!("../templates/page.js"),
            devices: devices(data),
            sources: sources(data),
            tiles: tiles(data),
            legend: legend(data),
            sections: sections.into_iter().flatten().collect(),
            missing: missing(data),
        }
    }

    pub(crate) fn charts(&self) -> impl Iterator<Item = &Chart> {
        self.sections.iter().flat_map(|section| &section.blocks).flat_map(|block| &block.charts)
    }
}

/// The series of all kernels that are drawn as such.
fn legend(data: &Data) -> Vec<Series> {
    let benches = data.benches.iter().flat_map(|bench| &bench.data.cells);
    let matrices = data.matrices.iter().flat_map(|matrix| &matrix.data.kernels);
    let groups = data.logs.iter().flat_map(|log| &log.data.groups);
    let decisions = groups.flat_map(|group| &group.decisions);
    let environments = data.histories.iter().flat_map(|history| &history.data);
    let selections = environments.flat_map(|environment| &environment.journal.selections);
    let series = benches.map(|cell| Kernel::named(&cell.kernel).series);
    let series = series.chain(matrices.map(|kernel| Series::of(&kernel.name)));
    let series = series.chain(decisions.map(|decision| Series::of(&decision.chosen)));
    let series = series.chain(selections.map(|selection| Series::of(&selection.kernel)));
    series.collect::<BTreeSet<Series>>().into_iter().collect()
}

fn devices(data: &Data) -> Vec<String> {
    let benches = data.benches.iter().map(|bench| {
        let machine = &bench.data.machine;
        let read = machine.ceilings.iter().map(|ceiling| ceiling.read_gb_per_s).fold(0.0, f64::max);
        (machine.device.as_str(), read)
    });
    let matrices = data.matrices.iter().map(|matrix| (matrix.data.machine.device.as_str(), 0.0));
    let environments = data.histories.iter().flat_map(|history| &history.data);
    let environments =
        environments.filter_map(|environment| Some((environment.field("device")?, 0.0)));
    let mut devices: Vec<(&str, f64)> = Vec::new();
    for (device, read) in benches.chain(matrices).chain(environments) {
        match devices.iter_mut().find(|(known, _)| *known == device) {
            Some((_, most)) => *most = most.max(read),
            None => devices.push((device, read)),
        }
    }
    let text = |(device, read): (&str, f64)| match read > 0.0 {
        true => format!("{device}, reads {} GB/s", words::digits(read)),
        false => device.into(),
    };
    devices.into_iter().map(text).collect()
}

fn sources(data: &Data) -> Vec<String> {
    let benches = data.benches.iter().map(|named| &named.name);
    let matrices = data.matrices.iter().map(|named| &named.name);
    let logs = data.logs.iter().map(|named| &named.name);
    let histories = data.histories.iter().map(|named| &named.name);
    let comparisons = data.comparisons.iter().map(|named| &named.name);
    let names = benches.chain(matrices).chain(logs).chain(histories).chain(comparisons);
    names.cloned().collect()
}

fn tiles(data: &Data) -> Vec<Tile> {
    let mut tiles = Vec::new();
    let regrets: Vec<f64> =
        data.benches.iter().flat_map(|bench| picks(&bench.data)).map(|pick| pick.regret).collect();
    if let Some(mean) = geometric_mean(&regrets) {
        let label =
            format!("lost by the selector's picks, {}", words::plural(regrets.len(), "workload"));
        tiles.push(Tile { value: words::percent(mean - 1.0), label });
    }
    let kinds = data.benches.iter().flat_map(|bench| uniform(&bench.data));
    let best: Vec<f64> = kinds.filter_map(|kind| Some(kind.kernels.first()?.ratio)).collect();
    if let Some(mean) = geometric_mean(&best) {
        let label = "lost by the best single kernel".into();
        tiles.push(Tile { value: words::percent(mean - 1.0), label });
    }
    let environments = || data.histories.iter().flat_map(|history| &history.data);
    let lost = Lost::of(environments().flat_map(|environment| &environment.journal.selections));
    if lost.total_ns > 0.0 {
        let share = lost.share(lost.serving_ns + lost.probing_ns);
        let label = format!(
            "lost in {} of use, {} by probing",
            words::time(lost.total_ns / 1e6),
            words::percent(lost.share(lost.probing_ns))
        );
        tiles.push(Tile { value: words::percent(share), label });
    }
    let switches: usize =
        environments().map(|environment| environment.journal.switches.len()).sum();
    if environments().next().is_some() {
        let label = if switches == 1 { "switch, on proof" } else { "switches, on proof" };
        tiles.push(Tile { value: switches.to_string(), label: label.into() });
    }
    tiles
}

fn missing(data: &Data) -> Vec<Missing> {
    let kinds = [
        (
            data.benches.is_empty(),
            "latencies, winners, the machine's limits",
            "trellect bench --shape A --output bench.json",
        ),
        (
            data.matrices.is_empty(),
            "a matrix of every kernel in every context",
            "trellect tune --shape A --record matrix.json",
        ),
        (
            data.logs.is_empty(),
            "decisions over time",
            "trellect run --repeat 500 --log decisions.jsonl",
        ),
        (data.histories.is_empty(), "what was learned in use", "trellect run --repeat 500"),
        (
            data.comparisons.is_empty(),
            "comparisons of two kernels",
            "trellect ab --baseline KERNEL --optimized KERNEL --json > ab.json",
        ),
    ];
    let missing = kinds.into_iter().filter(|(is_missing, ..)| *is_missing);
    missing.map(|(_, what, command)| Missing { what, command }).collect()
}
