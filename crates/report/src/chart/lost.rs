//! What a history has lost to slower kernels, and who served.

use std::collections::BTreeMap;

use trellect_select::adaptive::ChoiceReason;
use trellect_tune::history::{ContextNote, Journal, SelectionCount};

use super::frame::{Bar, BarPart, Bars};
use crate::kernel::{Kernel, Series};
use crate::words;

/// Most rows.
const MOST: usize = 12;
const LEFT: f64 = 92.0;

/// Device time of calls, and the parts of it that other kernels are believed to have saved.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Lost {
    pub(crate) total_ns: f64,
    pub(crate) probing_ns: f64,
    pub(crate) serving_ns: f64,
}

impl Lost {
    pub(crate) fn of<'a>(selections: impl IntoIterator<Item = &'a SelectionCount>) -> Self {
        let mut sum = Self::default();
        for selection in selections {
            sum.total_ns += selection.total_ns as f64;
            match is_exploration(selection) {
                true => sum.probing_ns += selection.lost_ns as f64,
                false => sum.serving_ns += selection.lost_ns as f64,
            }
        }
        sum
    }

    /// A part as a share of the device time.
    pub(crate) fn share(&self, ns: f64) -> f64 {
        if self.total_ns > 0.0 { ns / self.total_ns } else { 0.0 }
    }
}

fn is_exploration(selection: &SelectionCount) -> bool {
    selection.reason.parse().is_ok_and(ChoiceReason::is_exploration)
}

/// Selections of calls that the rules treat alike, with the numbers of tokens that they had.
fn by_tokens(journal: &Journal) -> Vec<(String, Vec<&SelectionCount>)> {
    let notes: BTreeMap<u64, &ContextNote> =
        journal.contexts.iter().map(|note| (note.context, note)).collect();
    let mut rows: BTreeMap<&str, (usize, usize, Vec<&SelectionCount>)> = BTreeMap::new();
    for selection in &journal.selections {
        let note = notes.get(&selection.context);
        let (bucket, tokens) = match note {
            Some(note) => (note.bucket.as_str(), note.call.num_tokens),
            None => ("unknown", usize::MAX),
        };
        let row = rows.entry(bucket).or_insert((usize::MAX, 0, Vec::new()));
        row.0 = row.0.min(tokens);
        row.1 = row.1.max(tokens);
        row.2.push(selection);
    }
    let mut rows: Vec<_> = rows.into_values().collect();
    rows.sort_by_key(|(least, ..)| *least);
    rows.truncate(MOST);
    let name = |least: usize, most: usize| match (least, most) {
        (usize::MAX, _) => "unknown".into(),
        _ if least == most => words::plural(least, "token"),
        _ => format!("{least}–{most} tokens"),
    };
    rows.into_iter().map(|(least, most, row)| (name(least, most), row)).collect()
}

/// Draws the parts of the regret.
pub(crate) fn draw(of: &str, journal: &Journal) -> String {
    let part = |class: &str, what: &str, lost: &Lost, ns: f64| BarPart {
        size: lost.share(ns),
        class: class.into(),
        title: format!(
            "{what}: {} of {}",
            words::percent(lost.share(ns)),
            words::time(lost.total_ns / 1e6)
        ),
    };
    let bar = |name: &str, lost: Lost, is_bold| Bar {
        name: name.into(),
        parts: vec![
            part("serving", "lost by serving slower kernels", &lost, lost.serving_ns),
            part("probing", "lost by probing", &lost, lost.probing_ns),
        ],
        value: words::percent(lost.share(lost.serving_ns + lost.probing_ns)),
        is_bold,
    };
    let mut rows = vec![bar("all calls", Lost::of(&journal.selections), true)];
    let calls = by_tokens(journal);
    rows.extend(calls.iter().map(|(name, row)| bar(name, Lost::of(row.iter().copied()), false)));
    let key = [("serving", "by serving"), ("probing", "by probing")];
    Bars { title: "time lost", of, left: LEFT, key: &key, rows }.draw()
}

/// Draws whose calls they were.
pub(crate) fn draw_served(of: &str, journal: &Journal) -> String {
    let calls = by_tokens(journal);
    let rows = calls.iter().map(|(name, row)| {
        let mut calls: BTreeMap<Series, (u64, Vec<String>)> = BTreeMap::new();
        let all = row.iter().map(|count| count.calls).sum::<u64>().max(1);
        for count in row {
            let kernel = Kernel::from(&count.kernel);
            let sum = calls.entry(kernel.series).or_default();
            sum.0 += count.calls;
            sum.1.push(format!("{} ({}): {}", kernel.label(), count.reason, count.calls));
        }
        let parts = calls.into_iter().map(|(series, (count, mut told))| {
            told.truncate(8);
            BarPart {
                size: count as f64 / all as f64,
                class: format!("solid s s-{}", series.class()),
                title: format!("{}: {} calls\n{}", series.name(), count, told.join("\n")),
            }
        });
        let value = words::plural(all as usize, "call");
        Bar { name: name.clone(), parts: parts.collect(), value, is_bold: false }
    });
    Bars { title: "who served", of, left: LEFT, key: &[], rows: rows.collect() }.draw()
}

/// Calls of some numbers of tokens that one kernel served for one reason.
pub(crate) struct Selections<'a> {
    pub(crate) tokens: String,
    pub(crate) kernel: Kernel,
    pub(crate) reason: &'a str,
    pub(crate) calls: u64,
    pub(crate) total_ns: f64,
    pub(crate) lost_ns: f64,
}

/// Selections summed over contexts that the rules treat alike.
pub(crate) fn selections(journal: &Journal) -> Vec<Selections<'_>> {
    let mut rows: Vec<Selections<'_>> = Vec::new();
    for (tokens, counts) in by_tokens(journal) {
        let mut sums: BTreeMap<(Kernel, &str), (u64, f64, f64)> = BTreeMap::new();
        for count in counts {
            let sum = sums.entry((Kernel::from(&count.kernel), &count.reason)).or_default();
            sum.0 += count.calls;
            sum.1 += count.total_ns as f64;
            sum.2 += count.lost_ns as f64;
        }
        rows.extend(sums.into_iter().map(|((kernel, reason), (calls, total_ns, lost_ns))| {
            Selections { tokens: tokens.clone(), kernel, reason, calls, total_ns, lost_ns }
        }));
    }
    rows
}
