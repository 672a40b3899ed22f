//! What the selector's picks cost: a point for every workload, by number of tokens.

use std::collections::BTreeMap;

use trellect_tune::bench::regret::PickRegret;

use super::frame::{Plot, begin, dot};
use super::{TITLE, WIDTH};
use crate::kernel::Kernel;
use crate::scale::Scale;
use crate::words;

const LEFT: f64 = 52.0;
const RIGHT: f64 = 20.0;
const ROW: f64 = 26.0;
/// Where the axis begins.
const LEAST: f64 = 0.97;
/// Points of a row lie in lanes.
const LANES: usize = 3;

/// Draws picks of one kind, which are at least one.
pub(crate) fn draw(of: &str, picks: &[&PickRegret]) -> String {
    let mut rows: BTreeMap<usize, Vec<&PickRegret>> = BTreeMap::new();
    for pick in picks {
        rows.entry(pick.tokens).or_default().push(pick);
    }
    let bottom = TITLE + ROW * rows.len() as f64;
    // Intervals of few samples may be wide: what lies beyond is cut.
    let most = picks.iter().map(|pick| pick.regret).fold(1.05, f64::max);
    let x = Scale::linear((LEAST, most * 1.02), (LEFT, WIDTH - RIGHT));
    let y = Scale::linear((0.0, 1.0), (TITLE, bottom));
    let plot = Plot { x, y };
    let mut svg = begin(bottom + 24.0, "what the picks cost", of);
    svg.text(LEFT - 8.0, bottom + 15.0, "faint", "end", "tokens");
    let marks = x.round_values(5).into_iter().map(|ratio| (x.at(ratio), format!("{ratio} ×")));
    // The first place is that of the axis' name.
    let marks = marks.filter(|(at, _)| *at > LEFT + 16.0);
    let names = rows.keys().enumerate();
    let names = names.map(|(row, tokens)| (TITLE + ROW * (row as f64 + 0.5), tokens.to_string()));
    plot.begin(&mut svg, &marks.collect::<Vec<_>>(), &names.collect::<Vec<_>>());
    for (row, picks) in rows.values().enumerate() {
        for (index, pick) in picks.iter().enumerate() {
            let lane = (index % LANES) as f64 - (LANES - 1) as f64 / 2.0;
            let y = TITLE + ROW * (row as f64 + 0.5) + 6.0 * lane;
            let picked = Kernel::named(&pick.picked);
            svg.open("g", &[("class", &format!("s s-{}", picked.series.class()))]);
            svg.line((x.at(pick.low), y), (x.at(pick.high), y), "whisker");
            dot(&mut svg, (x.at(pick.regret), y), "dot", &tell(pick, &picked));
            svg.close();
        }
    }
    plot.end(&mut svg);
    svg.finish()
}

fn tell(pick: &PickRegret, picked: &Kernel) -> String {
    let threads = pick.threads.map(|threads| ", ".to_owned() + &words::plural(threads, "thread"));
    let first = format!(
        "{} {}, {}{}",
        pick.shape,
        pick.bits,
        words::plural(pick.tokens, "token"),
        threads.unwrap_or_default()
    );
    let second = match pick.picked == pick.best {
        true => format!("{}: the fastest", picked.label()),
        false => format!(
            "{}: {:.3} times {} (95 %: {:.3} to {:.3})",
            picked.label(),
            pick.regret,
            Kernel::named(&pick.best).label(),
            pick.low,
            pick.high
        ),
    };
    format!("{first}\n{second}")
}
