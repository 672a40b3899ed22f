use trellect_tune::history::{ContextNote, Record};

use super::{Block, Column, Section, Table, optional};
use crate::chart::Chart;
use crate::chart::lost::{self, Lost};
use crate::data::{Data, Environment};
use crate::kernel::Kernel;
use crate::words;

/// Contexts whose latencies are listed.
const MOST_CONTEXTS: usize = 200;

/// What was lost and who served, by environment.
pub(crate) fn lost(data: &Data) -> Vec<Block> {
    let environments =
        environments(data).filter(|environment| !environment.journal.selections.is_empty());
    let block = |environment: &Environment| {
        let name =
            environment.field("numeric").map_or_else(String::new, |class| format!("class {class}"));
        let svg = lost::draw(&name, &environment.journal);
        let served = lost::draw_served("", &environment.journal);
        let charts = vec![
            Chart::new(&["lost", &environment.summary.id], svg),
            Chart::new(&["served", &environment.summary.id], served),
        ];
        let Lost { total_ns, probing_ns, serving_ns } = Lost::of(&environment.journal.selections);
        let note = format!(
            "{}: of {} device time {} was lost by serving kernels slower than the one now believed fastest and {} by \
             probing",
            environment.name(),
            words::time(total_ns / 1e6),
            words::time(serving_ns / 1e6),
            words::time(probing_ns / 1e6)
        );
        Block { note, charts, ..Block::default() }
    };
    environments.map(block).collect()
}

/// What was measured, context by context.
pub(crate) fn section(data: &Data) -> Option<Section> {
    let blocks = environments(data).map(|environment| {
        let tables = vec![contexts(environment), selections(environment)];
        let tables = tables.into_iter().filter(|table| !table.rows.is_empty()).collect();
        Block { heading: environment.name(), tables, ..Block::default() }
    });
    let blocks: Vec<Block> = blocks.filter(|block| !block.tables.is_empty()).collect();
    let intro = "What the history keeps, by environment: a device, its kernels and the way they are used. Latencies are \
                 of a context's first call.";
    (!blocks.is_empty()).then_some(Section { id: "history", title: "History", intro, blocks })
}

fn environments(data: &Data) -> impl Iterator<Item = &Environment> {
    data.histories.iter().flat_map(|history| &history.data)
}

fn contexts(environment: &Environment) -> Table {
    let journal = &environment.journal;
    let calls = |note: &ContextNote| -> u64 {
        let of_context = journal.selections.iter().filter(|count| count.context == note.context);
        of_context.map(|count| count.calls).sum()
    };
    let mut notes: Vec<&ContextNote> = journal.contexts.iter().collect();
    notes.sort_by_key(|note| std::cmp::Reverse(calls(note)));
    let left_out = notes.len().saturating_sub(MOST_CONTEXTS);
    notes.truncate(MOST_CONTEXTS);
    let mut rows = Vec::new();
    for note in notes {
        let mut records: Vec<&Record> =
            journal.records.iter().filter(|record| record.context == note.context).collect();
        records.sort_by_key(|record| std::cmp::Reverse(record.statistics.count()));
        for (index, record) in records.iter().enumerate() {
            let quantile =
                |q| record.statistics.quantile_ns(q).map(|ns| words::time(ns as f64 / 1e6));
            let mean = record.statistics.mean_ln().map(|ln| words::time(ln.exp() / 1e6));
            let first = |text: String| if index == 0 { text } else { String::new() };
            rows.push(vec![
                first(note.call.to_string()),
                first(calls(note).to_string()),
                Kernel::from(&record.kernel).label(),
                if record.kernel == note.incumbent { "serves".into() } else { String::new() },
                record.statistics.count().to_string(),
                optional(mean, |time| time),
                optional(quantile(0.5), |time| time),
                optional(quantile(0.95), |time| time),
            ]);
        }
    }
    let more = match left_out {
        0 => String::new(),
        more => format!("; {} more are left out", words::plural(more, "context")),
    };
    Table {
        caption: format!(
            "{}, kernel by kernel{more}",
            words::plural(journal.contexts.len(), "context")
        ),
        columns: vec![
            Column::Left("calls like"),
            Column::Right("calls"),
            Column::Left("kernel"),
            Column::Left(""),
            Column::Right("samples"),
            Column::Right("geometric mean"),
            Column::Right("p50"),
            Column::Right("p95"),
        ],
        rows,
        is_folded: true,
    }
}

fn selections(environment: &Environment) -> Table {
    let rows = lost::selections(&environment.journal).into_iter().map(|row| {
        vec![
            row.tokens,
            row.kernel.label(),
            row.reason.into(),
            row.calls.to_string(),
            words::time(row.total_ns / 1e6),
            words::time(row.lost_ns / 1e6),
        ]
    });
    Table {
        caption: "Calls by kernel and reason".into(),
        columns: vec![
            Column::Left("calls of"),
            Column::Left("kernel"),
            Column::Left("reason"),
            Column::Right("calls"),
            Column::Right("device time"),
            Column::Right("lost"),
        ],
        rows: rows.collect(),
        is_folded: true,
    }
}
