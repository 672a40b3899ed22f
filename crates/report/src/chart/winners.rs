//! Which kernel wins: tokens by mix of widths.

use trellect_tune::bench::BenchCell;

use super::frame::begin;
use super::{TITLE, WIDTH};
use crate::groups::{Group, fastest_ms};
use crate::kernel::{Kernel, Series};
use crate::svg::{Rectangle, Svg};
use crate::words;

const LEFT: f64 = 52.0;
const CELL: f64 = 36.0;
const GAP: f64 = 2.0;
/// Picks that cost less than this are as good as the fastest.
const WORTH_TELLING: f64 = 1.01;

/// Draws a group.
pub(crate) fn draw(group: &Group<'_>) -> String {
    let mut tokens: Vec<usize> =
        group.mixes.iter().flat_map(|mix| mix.workloads.keys().copied()).collect();
    tokens.sort_unstable();
    tokens.dedup();
    let width = (WIDTH - LEFT) / tokens.len().max(1) as f64;
    let height = TITLE + 16.0 + CELL * group.mixes.len() as f64;
    let mut svg = begin(height + 4.0, "winner", &group.name());
    svg.text(LEFT - 8.0, TITLE + 8.0, "faint", "end", "tokens");
    for (column, count) in tokens.iter().enumerate() {
        let x = LEFT + width * (column as f64 + 0.5);
        svg.text(x, TITLE + 8.0, "faint", "middle", &count.to_string());
    }
    for (row, mix) in group.mixes.iter().enumerate() {
        let y = TITLE + 16.0 + CELL * row as f64;
        svg.text(LEFT - 8.0, y + CELL / 2.0 + 4.0, "", "end", mix.bits);
        for (column, count) in tokens.iter().enumerate() {
            let x = LEFT + width * column as f64;
            let at = Rectangle { x, y, width: width - GAP, height: CELL - GAP };
            match mix.workloads.get(count) {
                Some(cells) => cell(&mut svg, at, cells),
                None => svg.rectangle(at, "empty", "not measured"),
            }
        }
    }
    svg.finish()
}

fn cell(svg: &mut Svg, at: Rectangle, cells: &[&BenchCell]) {
    let fastest = fastest_ms(cells);
    let mut sorted = cells.to_vec();
    sorted.sort_by(|a, b| a.median_ms.total_cmp(&b.median_ms));
    let Some(best) = sorted.first() else { return };
    let kernel = Kernel::named(&best.kernel);
    // The next of another family: implementations of one family are no choice that matters.
    let next = sorted.iter().map(|cell| (cell, Kernel::named(&cell.kernel)));
    let mut others = next.filter(|(_, other)| other.series != kernel.series);
    let next = others.next().map(|(cell, _)| cell);
    let picked = sorted.iter().find(|cell| cell.picked);
    let regret = picked.map_or(1.0, |cell| cell.median_ms / fastest);
    let mut told = vec![
        format!("{}, {}", best.bits, words::plural(best.tokens, "token")),
        format!("{}: {}", kernel.label(), words::time(fastest)),
    ];
    if let Some(next) = next {
        let name = Kernel::named(&next.kernel).label();
        told.push(format!("next {name}: {}", words::times(next.median_ms / fastest)));
    }
    if let Some(picked) = picked {
        let name = Kernel::named(&picked.kernel).label();
        told.push(format!("picked {name}: {}", words::times(regret)));
    }
    svg.open("g", &[("class", &format!("cell s-{}", kernel.series.class()))]);
    svg.title(&told.join("\n"));
    svg.rectangle(at, "tint", "");
    svg.rectangle(Rectangle { height: 3.0, ..at }, "solid", "");
    let middle = at.x + at.width / 2.0;
    let code = match kernel.series {
        Series::Other => kernel.short.chars().take(4).collect(),
        series => series.code().to_owned(),
    };
    svg.text(middle, at.y + 17.0, "code", "middle", &code);
    let lead = next.map_or_else(String::new, |next| lead(next.median_ms / fastest - 1.0));
    svg.text(middle, at.y + 29.0, "small", "middle", &lead);
    if regret > WORTH_TELLING {
        let path = format!("M{} {}h-8l8 8z", at.x + at.width, at.y + 3.0);
        svg.leaf("path", &[("class", &"flag"), ("d", &path)]);
    }
    svg.close();
}

fn lead(share: f64) -> String {
    match share {
        share if share >= 0.995 => format!("{:.1} ×", share + 1.0),
        share => format!("{:.0} %", 100.0 * share),
    }
}
