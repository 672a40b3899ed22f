//! A/B results: speedups with their intervals.

use super::frame::{Plot, begin, dot};
use super::{TITLE, WIDTH};
use crate::data::{Comparison, Named};
use crate::scale::Scale;
use crate::words;

const LEFT: f64 = 14.0;
const RIGHT: f64 = 14.0;
const ROW: f64 = 50.0;
/// Of names, beside the verdict.
const MOST_LETTERS: usize = 36;

/// Draws comparisons, which are at least one.
pub(crate) fn draw(comparisons: &[Named<Comparison>]) -> String {
    let each = || comparisons.iter().map(|named| &named.data);
    let low = each().map(|ab| ab.speedup_ci[0].min(ab.speedup)).fold(0.95, f64::min);
    let high = each().map(|ab| ab.speedup_ci[1].max(ab.speedup)).fold(1.05, f64::max);
    let bottom = TITLE + ROW * comparisons.len() as f64;
    let x = Scale::log((low.max(1e-3) / 1.02, high.min(1e3) * 1.02), (LEFT, WIDTH - RIGHT));
    let y = Scale::linear((0.0, 1.0), (TITLE, bottom));
    let plot = Plot { x, y };
    let mut svg = begin(bottom + 24.0, "speedup", "optimized over baseline, with its interval");
    let marks: Vec<_> =
        x.round_values(5).into_iter().map(|value| (x.at(value), format!("{value} ×"))).collect();
    plot.begin(&mut svg, &marks, &[]);
    svg.line((x.at(1.0), TITLE), (x.at(1.0), bottom), "even");
    for (row, ab) in each().enumerate() {
        let y = TITLE + ROW * row as f64 + 34.0;
        svg.open("g", &[("class", &class(ab))]);
        svg.line((x.at(ab.speedup_ci[0]), y), (x.at(ab.speedup_ci[1]), y), "interval");
        dot(&mut svg, (x.at(ab.speedup), y), "dot large", &tell(ab));
        svg.close();
    }
    plot.end(&mut svg);
    for (row, ab) in each().enumerate() {
        let y = TITLE + ROW * row as f64 + 15.0;
        let mut names: String = ab.names().chars().take(MOST_LETTERS).collect();
        if names.len() < ab.names().len() {
            names.push('…');
        }
        svg.text(LEFT + 2.0, y, "halo", "start", &names);
        let verdict = format!("{} {}", words::times(ab.speedup), ab.verdict_words());
        svg.text(WIDTH - RIGHT - 2.0, y, &format!("halo bold {}", class(ab)), "end", &verdict);
    }
    svg.finish()
}

fn class(ab: &Comparison) -> &'static str {
    match ab.verdict.as_str() {
        "faster" => "good",
        "slower" => "bad",
        _ => "open",
    }
}

fn tell(ab: &Comparison) -> String {
    let [low, high] = ab.speedup_ci;
    let confidence = ab.confidence.map(words::percent);
    let lines = [
        format!("{} · {}", ab.names(), ab.workload()),
        format!("{} against {}", words::time(ab.optimized_ms), words::time(ab.baseline_ms)),
        format!(
            "speedup {:.3} ({}: {low:.3} to {high:.3})",
            ab.speedup,
            confidence.as_deref().unwrap_or("interval")
        ),
        format!("{}: {}", words::plural(ab.n, "pair"), ab.verdict_words()),
    ];
    lines.join("\n")
}
