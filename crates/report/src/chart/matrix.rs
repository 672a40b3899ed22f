//! A recorded matrix: what every kernel takes in every context, over the fastest of the context.

use trellect_tune::matrix::{Cell, Matrix, MatrixContext};

use super::frame::begin;
use super::{TITLE, WIDTH};
use crate::kernel::Kernel;
use crate::svg::{Rectangle, Svg, number};
use crate::words;

const LEFT: f64 = 136.0;
const ROW: f64 = 20.0;
const GAP: f64 = 1.5;
/// A kernel that is nowhere better than this is left out.
const HOPELESS: f64 = 2.0;
/// Most rows.
const MOST: usize = 24;

/// Draws a matrix; `None` where nothing was measured. Tells how many kernels are left out.
pub(crate) fn draw(matrix: &Matrix) -> Option<(String, usize)> {
    let best: Vec<f64> = matrix
        .contexts
        .iter()
        .map(|context| Some(matrix.best(context)?.1))
        .collect::<Option<_>>()?;
    let ratios = |kernel: usize| -> Vec<Option<f64>> {
        let cells = matrix.contexts.iter().zip(&best);
        cells.map(|(context, best)| Some(context.cells[kernel].median_ns()? / best)).collect()
    };
    let rows = matrix.kernels.iter().enumerate();
    let rows = rows.map(|(index, kernel)| (Kernel::from(&kernel.name), index, ratios(index)));
    let least = |row: &[Option<f64>]| row.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    let mut rows: Vec<(Kernel, usize, Vec<Option<f64>>)> =
        rows.filter(|(_, _, ratios)| least(ratios) <= HOPELESS).collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows.truncate(MOST);
    if rows.is_empty() {
        return None;
    }
    let left_out = matrix.kernels.len() - rows.len();

    let width = (WIDTH - LEFT) / matrix.contexts.len() as f64;
    let top = TITLE + 26.0;
    let mut svg = begin(top + ROW * rows.len() as f64 + 4.0, &matrix.name, &matrix.machine.device);
    svg.text(LEFT - 8.0, TITLE + 6.0, "faint", "end", "tokens");
    for (column, context) in matrix.contexts.iter().enumerate() {
        let x = LEFT + width * (column as f64 + 0.5);
        svg.text(x, TITLE + 6.0, "faint", "middle", &context.num_tokens.to_string());
        if context.routing != "uniform" {
            svg.text(x, TITLE + 18.0, "tiny", "middle", &routing(context));
        }
    }
    for (row, (kernel, index, ratios)) in rows.iter().enumerate() {
        let y = top + ROW * row as f64;
        svg.text(LEFT - 14.0, y + 13.5, "", "end", &kernel.brief());
        let swatch = Rectangle { x: LEFT - 9.0, y: y + 3.0, width: 4.0, height: ROW - 7.0 };
        svg.rectangle(swatch, &format!("solid s-{}", kernel.series.class()), "");
        for (column, (context, ratio)) in matrix.contexts.iter().zip(ratios).enumerate() {
            let x = LEFT + width * column as f64;
            let at = Rectangle { x, y, width: width - GAP, height: ROW - GAP };
            let told = tell(context, *index, kernel, *ratio);
            cell(&mut svg, at, *ratio, &told);
        }
    }
    Some((svg.finish(), left_out))
}

fn cell(svg: &mut Svg, at: Rectangle, ratio: Option<f64>, told: &str) {
    svg.open("g", &[("class", &"cell")]);
    svg.title(told);
    let Some(ratio) = ratio else {
        svg.rectangle(at, "empty", "");
        return svg.close();
    };
    // Full at the fastest, fading to nothing at twice its time.
    let share = (2.0 - ratio).clamp(0.0, 1.0).powi(2);
    svg.leaf(
        "rect",
        &[
            ("class", &"heat"),
            ("fill-opacity", &format!("{:.2}", 0.03 + 0.42 * share)),
            ("x", &number(at.x)),
            ("y", &number(at.y)),
            ("width", &number(at.width)),
            ("height", &number(at.height)),
        ],
    );
    let class = if ratio <= 1.0 { "code" } else { "ratio" };
    let text = if ratio < 10.0 { format!("{ratio:.2}") } else { format!("{ratio:.0}") };
    svg.text(at.x + at.width / 2.0, at.y + 13.5, class, "middle", &text);
    svg.close();
}

fn tell(context: &MatrixContext, kernel: usize, name: &Kernel, ratio: Option<f64>) -> String {
    let tokens = words::plural(context.num_tokens, "token");
    let first = format!("{tokens}, {} · {}", context.routing, name.label());
    let second = match (&context.cells[kernel], ratio) {
        (cell, Some(ratio)) => {
            let ms = cell.median_ns().unwrap_or(0.0) / 1e6;
            format!("{}, {} the fastest", words::time(ms), words::times(ratio))
        }
        (Cell::Skipped(why), _) => format!("not measured: {why}"),
        _ => "not measured".into(),
    };
    let rounds = words::plural(context.rounds.len(), "round");
    format!("{first}\n{second}\n{rounds}")
}

/// A word for a way of routing that is not uniform.
fn routing(context: &MatrixContext) -> String {
    match context.routing.as_str() {
        "one_tuple" => "1 tuple".into(),
        other => other.chars().take(7).collect(),
    }
}
