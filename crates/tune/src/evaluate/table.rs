//! The tables of a comparison, in Markdown.

use super::{Figures, Summary};

/// Regret and what it takes to get there, a policy a line: all in per cent but for calls and
/// milliseconds.
pub fn regret_table(rows: &[Figures]) -> String {
    let header = [
        "policy",
        "regret",
        "last fifth",
        "… p95 context",
        "… worst context",
        "… 1 % zone",
        "gap closed",
        "calls to < 1 %",
        "ms to < 1 %",
        "never < 1 %",
    ];
    table(&header, rows, |row| {
        vec![
            row.regret.to_string(),
            row.late_regret.to_string(),
            row.late_regret_p95.to_string(),
            row.late_regret_worst.percent(),
            row.late_regret_outside_zone.percent(),
            row.gap_closed.percent(),
            row.converged_calls.count(),
            row.converged_ms.count(),
            row.unconverged.percent(),
        ]
    })
}

/// What a policy does on the way, a policy a line: in per cent but for counts.
pub fn conduct_table(rows: &[Figures]) -> String {
    let header = [
        "policy",
        "worst window against the rules",
        "probing",
        "switches",
        "false switches",
        "contexts with one",
        "flips",
        "calls to detect",
        "calls to recover",
    ];
    table(&header, rows, |row| {
        let deciding = !row.exploration.mean.is_nan();
        let count = |summary: Summary| if deciding { summary.decimal() } else { "—".into() };
        vec![
            row.worst_window_ratio.to_string(),
            row.exploration.percent(),
            count(row.switches),
            count(row.false_switches),
            if deciding { row.contexts_with_false_switch.to_string() } else { "—".into() },
            Summary::of([row.flip_rate]).percent(),
            row.detection_calls.count(),
            row.recovery_calls.count(),
        ]
    })
}

fn table(header: &[&str], rows: &[Figures], cells: impl Fn(&Figures) -> Vec<String>) -> String {
    let mut text = format!("| {} |\n|{}\n", header.join(" | "), "--|".repeat(header.len()));
    for row in rows {
        text += &format!("| {} | {} |\n", row.policy, cells(row).join(" | "));
    }
    text
}
