use super::{Block, Column, Section, Table, optional};
use crate::chart::{self, Chart};
use crate::data::{Comparison, Data, Named};
use crate::words;

/// A/B results.
pub(crate) fn section(data: &Data) -> Option<Section> {
    if data.comparisons.is_empty() {
        return None;
    }
    let charts = vec![Chart::new(&["ab"], chart::comparisons::draw(&data.comparisons))];
    let blocks = vec![Block { charts, tables: vec![table(&data.comparisons)], ..Block::default() }];
    let intro = "Two kernels on the same calls, in random order. An interval that lies on one side of 1 is a proof; \
                 “underpowered” means that more pairs are needed to tell.";
    Some(Section { id: "ab", title: "A/B comparisons", intro, blocks })
}

fn table(comparisons: &[Named<Comparison>]) -> Table {
    let rows = comparisons.iter().map(|Named { data: ab, .. }| {
        let [low, high] = ab.speedup_ci;
        vec![
            ab.names(),
            ab.workload(),
            ab.n.to_string(),
            words::time(ab.baseline_ms),
            words::time(ab.optimized_ms),
            format!("{:.3}", ab.speedup),
            format!("{low:.3}–{high:.3}"),
            optional(ab.t, |t| format!("{t:.2}")),
            optional(ab.p, |p| format!("{p:.1e}")),
            match ab.more_pairs {
                Some(more) if more > 0 => format!("{}: {more} more pairs", ab.verdict_words()),
                _ => ab.verdict_words(),
            },
        ]
    });
    Table {
        caption: String::new(),
        columns: vec![
            Column::Left("baseline → optimized"),
            Column::Left("workload"),
            Column::Right("pairs"),
            Column::Right("baseline"),
            Column::Right("optimized"),
            Column::Right("speedup"),
            Column::Right("interval"),
            Column::Right("t"),
            Column::Right("p"),
            Column::Left("verdict"),
        ],
        rows: rows.collect(),
        is_folded: false,
    }
}
