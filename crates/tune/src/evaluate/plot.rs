//! The regret so far over the calls, a line a policy, as an SVG that follows the reader's light or
//! dark mode.

use std::fmt::Write;

use super::{Figures, PolicyKind};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 48.0;
/// Least distance of two labels.
const LINE_HEIGHT: f64 = 15.0;
/// Regret below this is drawn at it.
const FLOOR: f64 = 1e-4;

/// Mid-tones that stand out on white and on black alike, one for every other policy.
const COLOURS: [&str; 10] = [
    "#e0662f", "#8f63d2", "#2f9e6e", "#c2497f", "#8a8f3c", "#3c8fb0", "#b07d2b", "#7a7f8c",
    "#d64541", "#5a9a2c",
];

/// Draws what [`Figures::curve`] holds, on logarithmic axes. The adaptive policy's line is the bold
/// one; a policy that never loses anything has no line.
pub fn regret_plot(title: &str, rows: &[Figures]) -> String {
    let rows: Vec<&Figures> = rows.iter().filter(|row| row.regret.mean > 0.0).collect();
    let calls = rows.iter().filter_map(|row| row.curve.last()).map(|point| point.0).max();
    let values = || rows.iter().flat_map(|row| row.curve.iter().map(|point| point.1));
    let scale = Scale {
        decades_x: (calls.unwrap_or(1).max(10) as f64).log10(),
        bottom: values().fold(1.0, f64::min).max(FLOOR).log10().floor(),
        top: values().fold(FLOOR, f64::max).log10().ceil().max(-1.0),
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n\
         <title>{title}</title>\n<style>\n\
         text {{ font: 12px system-ui, sans-serif; fill: #30343b }}\n\
         .title {{ font-size: 14px; font-weight: 600 }}\n\
         .grid {{ stroke: #30343b; stroke-opacity: 0.15 }}\n\
         .line {{ fill: none; stroke-width: 1.6; stroke-linejoin: round }}\n\
         .ours {{ stroke: #1767d0; stroke-width: 3 }}\n\
         text.ours {{ stroke: none; fill: #1767d0; font-weight: 600 }}\n\
         @media (prefers-color-scheme: dark) {{\n\
         text {{ fill: #d8dbe0 }}\n.grid {{ stroke: #d8dbe0 }}\n\
         .ours {{ stroke: #6cb0ff }}\ntext.ours {{ fill: #6cb0ff }}\n}}\n</style>\n\
         <text class=\"title\" x=\"{LEFT}\" y=\"22\">{title}</text>\n",
        title = escaped(title),
    );
    scale.draw_axes(&mut svg);
    let lines: Vec<Line<'_>> = rows
        .iter()
        .zip(COLOURS.iter().cycle())
        .map(|(&figures, colour)| Line { figures, colour })
        .collect();
    for line in &lines {
        let points =
            line.figures.curve.iter().map(|&(calls, regret)| {
                format!("{:.1},{:.1}", scale.x(calls as f64), scale.y(regret))
            });
        let points: Vec<String> = points.collect();
        let class = if line.is_ours() { "line ours" } else { "line" };
        put(
            &mut svg,
            format_args!(
                "<polyline class=\"{class}\" style=\"{}\" points=\"{}\"/>\n",
                line.style("stroke"),
                points.join(" "),
            ),
        );
    }
    draw_labels(&mut svg, &scale, lines);
    svg + "</svg>\n"
}

/// Where numbers lie on the page.
struct Scale {
    decades_x: f64,
    /// Logarithms of the least and the largest regret.
    bottom: f64,
    top: f64,
}

impl Scale {
    fn x(&self, calls: f64) -> f64 {
        LEFT + calls.max(1.0).log10() / self.decades_x * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, regret: f64) -> f64 {
        let share = (regret.max(FLOOR).log10() - self.bottom) / (self.top - self.bottom);
        HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }

    fn draw_axes(&self, svg: &mut String) {
        let (right, floor) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for decade in 0..=self.decades_x.floor() as i32 {
            let x = self.x(10f64.powi(decade));
            put(
                svg,
                format_args!(
                    "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{floor}\"/>\n\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
                    floor + 18.0,
                    10u64.pow(decade.cast_unsigned()),
                ),
            );
        }
        for decade in self.bottom as i32..=self.top as i32 {
            let y = self.y(10f64.powi(decade));
            put(
                svg,
                format_args!(
                    "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{} %</text>\n",
                    LEFT - 8.0,
                    y + 4.0,
                    10f64.powi(decade + 2),
                ),
            );
        }
        put(
            svg,
            format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">calls</text>\n\
             <text transform=\"translate(14 {:.1}) rotate(-90)\" text-anchor=\"middle\">\
             time lost so far against the best kernels</text>\n",
                (LEFT + right) / 2.0,
                HEIGHT - 8.0,
                (TOP + floor) / 2.0,
            ),
        );
    }
}

/// A policy's line and its colour.
struct Line<'a> {
    figures: &'a Figures,
    colour: &'static str,
}

impl Line<'_> {
    fn is_ours(&self) -> bool {
        self.figures.policy == PolicyKind::Adaptive.name()
    }

    /// The colour as `property`; nothing for the line whose colour depends on the mode.
    fn style(&self, property: &str) -> String {
        if self.is_ours() { String::new() } else { format!("{property}: {}", self.colour) }
    }

    fn end(&self) -> f64 {
        self.figures.curve.last().map_or(0.0, |point| point.1)
    }
}

/// Names at the ends of the lines, pushed down where two would overlap.
fn draw_labels(svg: &mut String, scale: &Scale, mut lines: Vec<Line<'_>>) {
    lines.sort_by(|a, b| b.end().total_cmp(&a.end()));
    let mut free = TOP;
    for line in lines {
        let y = scale.y(line.end()).max(free);
        free = y + LINE_HEIGHT;
        put(
            svg,
            format_args!(
                "<text class=\"{}\" style=\"{}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
                if line.is_ours() { "ours" } else { "name" },
                line.style("fill"),
                WIDTH - RIGHT + 8.0,
                y + 4.0,
                line.figures.policy,
            ),
        );
    }
}

fn put(svg: &mut String, text: std::fmt::Arguments<'_>) {
    svg.write_fmt(text).expect("a String takes every text");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
