//! Latency by tokens: a line for every kernel, and below it how it compares with the fastest.

use std::collections::BTreeMap;

use trellect_tune::bench::BenchCell;

use super::frame::{Mark, Plot, band, begin, dot, line};
use super::{TITLE, WIDTH};
use crate::groups::{Group, Mix, fastest_ms, tell};
use crate::kernel::Kernel;
use crate::scale::{Scale, spread, time_mark};
use crate::svg::{Svg, number};

const LEFT: f64 = 50.0;
const RIGHT: f64 = 96.0;
const UPPER: (f64, f64) = (TITLE + 172.0, TITLE);
const LOWER: (f64, f64) = (TITLE + 282.0, TITLE + 198.0);
const HEIGHT: f64 = TITLE + 306.0;
/// Kernels that lose more against the fastest lie at the edge.
const MOST_LOST: f64 = 1.0;
/// Losses that are marked.
const LOST_MARKS: [f64; 6] = [0.0, 0.01, 0.05, 0.2, 0.5, 1.0];
const LABEL_GAP: f64 = 13.0;

/// A kernel's cells that were measured in full.
struct Line<'a> {
    kernel: Kernel,
    dash: &'static str,
    /// By the number of the workload.
    cells: BTreeMap<usize, &'a BenchCell>,
}

/// Draws the workloads of one mix.
pub(crate) fn draw(group: &Group<'_>, mix: &Mix<'_>) -> String {
    let tokens: Vec<usize> = mix.workloads.keys().copied().collect();
    let fastest: Vec<f64> = mix.workloads.values().map(|cells| fastest_ms(cells)).collect();
    let lines = lines(group, mix);
    let drawn = || lines.iter().flat_map(|line| line.cells.values());
    let least = drawn().map(|cell| cell.p10_ms.min(cell.median_ms)).fold(f64::INFINITY, f64::min);
    let most = drawn().map(|cell| cell.p90_ms.max(cell.median_ms)).fold(0.0, f64::max);
    let lost = |(&at, cell): (&usize, &&BenchCell)| cell.median_ms / fastest[at] - 1.0;
    let worst = lines.iter().flat_map(|line| line.cells.iter().map(lost)).fold(0.2, f64::max);
    let ends = |values: &[usize]| (values.first().copied(), values.last().copied());
    let (Some(first), Some(last)) = ends(&tokens) else { return String::new() };
    let x = Scale::log((first as f64 / 1.12, last as f64 * 1.12), (LEFT, WIDTH - RIGHT));
    // Lines rise to the right, so there is room for labels below their beginnings.
    let upper = Plot { x, y: Scale::log((least / 1.7, most * 1.15), UPPER) };
    let lower = Plot { x, y: Scale::root((0.0, worst.min(MOST_LOST)), LOWER) };

    let mut svg = begin(HEIGHT, mix.bits, &group.name());
    let y_marks = upper.y.round_values(5).into_iter().map(|ms| (upper.y.at(ms), time_mark(ms)));
    let y_marks: Vec<Mark> = y_marks.collect();
    upper.begin(&mut svg, &tokens_marks(&x, &tokens, false), &y_marks);
    for one in &lines {
        let at = |cell: &BenchCell, ms: f64| (x.at(cell.tokens as f64), upper.y.at(ms));
        open(&mut svg, one);
        for run in runs(&one.cells) {
            let edge = |of: fn(&BenchCell) -> f64| -> Vec<(f64, f64)> {
                run.iter().map(|(_, cell)| at(cell, of(cell))).collect()
            };
            band(&mut svg, &edge(|cell| cell.p90_ms), &edge(|cell| cell.p10_ms));
            line(&mut svg, &edge(|cell| cell.median_ms), &format!("line {}", one.dash));
        }
        for (&index, cell) in &one.cells {
            point(&mut svg, at(cell, cell.median_ms), cell, fastest[index]);
        }
        svg.close();
    }
    upper.end(&mut svg);
    lower.begin(&mut svg, &tokens_marks(&x, &tokens, true), &lost_marks(&lower.y, worst));
    for one in &lines {
        let at = |&(index, cell): &(usize, &BenchCell)| {
            (x.at(cell.tokens as f64), lower.y.at(cell.median_ms / fastest[index] - 1.0))
        };
        open(&mut svg, one);
        for run in runs(&one.cells) {
            let points: Vec<(f64, f64)> = run.iter().map(at).collect();
            line(&mut svg, &points, &format!("line {}", one.dash));
            for (point_at, (index, cell)) in points.iter().zip(&run) {
                point(&mut svg, *point_at, cell, fastest[*index]);
            }
        }
        svg.close();
    }
    lower.end(&mut svg);
    svg.text(WIDTH - RIGHT + 8.0, LOWER.0 + 15.0, "faint", "start", "tokens");
    svg.text(WIDTH - RIGHT + 8.0, LOWER.1 + 12.0, "faint", "start", "lost against");
    svg.text(WIDTH - RIGHT + 8.0, LOWER.1 + 25.0, "faint", "start", "the fastest");
    label(&mut svg, &lines, tokens.len() - 1, &upper);
    svg.finish()
}

/// Marks of losses, where there is room.
fn lost_marks(y: &Scale, worst: f64) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    for lost in LOST_MARKS.into_iter().filter(|lost| *lost <= worst) {
        let at = y.at(lost);
        if marks.last().is_none_or(|(last, _)| last - at >= LABEL_GAP) {
            marks.push((at, format!("{:+.0} %", 100.0 * lost).replace("+0 %", "0 %")));
        }
    }
    marks
}

fn lines<'a>(group: &Group<'_>, mix: &Mix<'a>) -> Vec<Line<'a>> {
    let mut lines: BTreeMap<&str, Line<'a>> = BTreeMap::new();
    for (index, cells) in mix.workloads.values().enumerate() {
        for cell in cells.iter().filter(|cell| !cell.dropped) {
            let new = || Line {
                kernel: Kernel::named(&cell.kernel),
                dash: group.dash(&cell.kernel),
                cells: BTreeMap::new(),
            };
            lines.entry(&cell.kernel).or_insert_with(new).cells.insert(index, cell);
        }
    }
    let mut lines: Vec<Line<'a>> = lines.into_values().collect();
    // What is drawn last lies above the others.
    lines.sort_by(|a, b| b.kernel.cmp(&a.kernel));
    lines
}

/// Cells of workloads that follow each other: a line must not hide that a kernel was dropped between.
fn runs<'a>(cells: &BTreeMap<usize, &'a BenchCell>) -> Vec<Vec<(usize, &'a BenchCell)>> {
    let cells: Vec<(usize, &BenchCell)> = cells.iter().map(|(&at, &cell)| (at, cell)).collect();
    cells.chunk_by(|a, b| b.0 == a.0 + 1).map(<[_]>::to_vec).collect()
}

fn open(svg: &mut Svg, line: &Line<'_>) {
    let class = format!("s s-{}", line.kernel.series.class());
    svg.open("g", &[("class", &class), ("data-name", &line.kernel.label())]);
}

fn point(svg: &mut Svg, at: (f64, f64), cell: &BenchCell, fastest: f64) {
    if cell.picked {
        dot(svg, at, "dot ring", "");
    }
    let (told, x) = (tell(cell, fastest), number(at.0));
    let path = format!("M{x} {}h0", number(at.1));
    svg.told("path", &[("class", &"dot"), ("d", &path), ("data-x", &x)], &told);
}

/// A mark for every number of tokens, named where there is room.
fn tokens_marks(x: &Scale, tokens: &[usize], named: bool) -> Vec<Mark> {
    let mut free = f64::NEG_INFINITY;
    let mark = |&tokens: &usize| {
        let (at, text) = (x.at(tokens as f64), tokens.to_string());
        let half = 3.5 * text.len() as f64;
        let fits = named && at - half >= free;
        if fits {
            free = at + half + 3.0;
        }
        (at, if fits { text } else { String::new() })
    };
    tokens.iter().map(mark).collect()
}

/// Names of lines: at their ends where they reach the last workload, else below their last point.
fn label(svg: &mut Svg, lines: &[Line<'_>], last: usize, plot: &Plot) {
    let twins =
        |line: &Line<'_>| lines.iter().filter(|l| l.kernel.short == line.kernel.short).count();
    let text = |line: &Line<'_>| match (twins(line), line.dash) {
        (1, _) | (_, "d0") => Kernel { variant: String::new(), ..line.kernel.clone() }.brief(),
        _ => line.kernel.brief(),
    };
    let end = |line: &Line<'_>| line.cells.last_key_value().map_or(0, |(&at, _)| at);
    let mut ends: Vec<usize> = lines.iter().map(end).collect();
    ends.sort_unstable();
    ends.dedup();
    for at in ends {
        let of_end: Vec<&Line<'_>> = lines.iter().filter(|line| end(line) == at).collect();
        let is_last = at == last;
        let below = if is_last { 0.0 } else { 16.0 };
        let wanted: Vec<f64> =
            of_end.iter().map(|line| plot.y.at(line.cells[&at].median_ms) + below).collect();
        let lowest = wanted.iter().copied().fold(0.0, f64::max);
        let places = match is_last {
            true => spread(&wanted, LABEL_GAP, (UPPER.1 + 2.0, UPPER.0 - 2.0)),
            // One below the other, the fastest at the bottom as its point is.
            false => spread(&vec![lowest; of_end.len()], LABEL_GAP, (lowest, UPPER.0 - 4.0)),
        };
        for (line, y) in of_end.iter().zip(places) {
            let x = match is_last {
                true => WIDTH - RIGHT + 8.0,
                false => plot.x.at(line.cells[&at].tokens as f64) + 5.0,
            };
            let class = format!("label s s-{}", line.kernel.series.class());
            svg.text(x, y + 4.0, &class, "start", &text(line));
        }
    }
}
