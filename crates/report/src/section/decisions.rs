use trellect_tune::history::{ContextCall, SwitchNote};

use super::{Block, Column, Section, Table, history, optional};
use crate::chart::{self, Chart};
use crate::data::Data;
use crate::decisions::{ContextDecisions, Switch};
use crate::kernel::Kernel;
use crate::words;

/// Contexts of a log that are drawn, and the decisions that make one worth it.
const MOST_CONTEXTS: usize = 9;
const FEW: usize = 10;

/// What was served and lost, decisions over time, and the evidence behind every switch.
pub(crate) fn section(data: &Data) -> Option<Section> {
    let mut blocks = history::lost(data);
    for log in &data.logs {
        let contexts = ContextDecisions::of(&log.data);
        let worth = |context: &&ContextDecisions<'_>| context.decisions.len() >= FEW;
        let charts: Vec<Chart> = contexts
            .iter()
            .filter(worth)
            .take(MOST_CONTEXTS)
            .map(|context| {
                let key = format!("{:016x}", context.context);
                let svg = chart::context::draw(&call(data, context.context), context);
                Chart::new(&["decisions", &key], svg)
            })
            .collect();
        let logged: usize = contexts.iter().map(|context| context.decisions.len()).sum();
        let few = match charts.len() < contexts.len() {
            true => format!(", of which the {} with most to see are drawn", charts.len()),
            false => String::new(),
        };
        let note = format!(
            "{}: {} about {}{few}. What every logged call took: the serving kernel's launches are solid, probes \
             of a challenger and the incumbent's launches beside them lighter. Below, which kernel served; a \
             dashed line is a change, by proof or because a start on a prediction was taken back. What the log \
             leaves out followed from what it has.",
            log.name,
            words::plural(logged, "logged decision"),
            words::plural(contexts.len(), "context"),
        );
        let heading = "Decisions over time".into();
        blocks.push(Block { heading, note, charts, ..Block::default() });
    }
    blocks.extend(evidence(data));
    blocks.extend(switches(data));
    let intro = "What the selector did with calls. The time that was lost is an estimate: it goes by what was believed \
                 when the calls were counted.";
    let title = "In use: served, lost and decided";
    (!blocks.is_empty()).then_some(Section { id: "decisions", title, intro, blocks })
}

fn evidence(data: &Data) -> Option<Block> {
    let mut charts = Vec::new();
    for log in &data.logs {
        for context in ContextDecisions::of(&log.data) {
            for switch in &context.switches {
                let svg = chart::evidence::draw(&proof(data, context.context, switch), switch);
                let key = format!("{:016x}", context.context);
                charts.extend(svg.map(|svg| Chart::new(&["evidence", &key], svg)));
            }
        }
    }
    let heading = "The evidence behind each switch".into();
    let note = "Every pair of launches of the challenger and the incumbent, one after the other on equal calls: how \
                much less time the challenger took, and the mean so far with two standard errors. The selector itself \
                goes by a bet on these pairs that may be looked at at any time."
        .into();
    (!charts.is_empty()).then(|| Block { heading, note, charts, ..Block::default() })
}

/// What the histories know of a switch in a log.
fn proof(data: &Data, context: u64, switch: &Switch) -> String {
    let notes = data.histories.iter().flat_map(|history| &history.data);
    let mut notes = notes.flat_map(|environment| &environment.journal.switches);
    let same = |note: &&SwitchNote| {
        (note.context, note.from, note.to) == (context, switch.from, switch.to)
    };
    let gain = |gain: f64| words::percent(1.0 - (-gain).exp());
    match notes.find(same) {
        Some(note) => format!("{} less time in {:.0} pairs", gain(note.gain), note.pairs),
        None => words::plural(switch.log_ratios.len(), "pair"),
    }
}

/// The call that a context stands for, where a history knows it.
fn call(data: &Data, context: u64) -> String {
    let notes = data.histories.iter().flat_map(|history| &history.data);
    let mut notes = notes.flat_map(|environment| &environment.journal.contexts);
    match notes.find(|note| note.context == context) {
        Some(note) => short(&note.call),
        None => format!("context {context:016x}"),
    }
}

fn short(call: &ContextCall) -> String {
    let ContextCall { num_tokens, num_experts, loads, .. } = call;
    format!("{}, {} of {num_experts} experts", words::plural(*num_tokens, "token"), loads.len())
}

fn switches(data: &Data) -> Option<Block> {
    let environments = data.histories.iter().flat_map(|history| &history.data);
    let rows = environments.flat_map(|environment| {
        environment.journal.switches.iter().map(|note| {
            let contexts = &environment.journal.contexts;
            let known = contexts.iter().find(|context| context.context == note.context);
            vec![
                optional(known, |known| known.call.to_string()),
                Kernel::from(&note.from).label(),
                Kernel::from(&note.to).label(),
                words::percent(1.0 - (-note.gain).exp()),
                format!("{:.0}", note.pairs),
                format!("{:.1}", note.log_wealth),
                optional(words::day(note.unix_s), |day| day),
            ]
        })
    });
    let table = Table {
        caption: "Switches in the history".into(),
        columns: vec![
            Column::Left("calls like"),
            Column::Left("from"),
            Column::Left("to"),
            Column::Right("less time"),
            Column::Right("pairs"),
            Column::Right("log wealth needed"),
            Column::Left("on"),
        ],
        rows: rows.collect(),
        is_folded: false,
    };
    (!table.rows.is_empty()).then(|| Block { tables: vec![table], ..Block::default() })
}
