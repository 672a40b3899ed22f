//! The evidence behind a switch: what every pair of launches said of the challenger, and what they
//! say together.

use super::frame::{Plot, band, begin, dot, line};
use super::{TITLE, WIDTH};
use crate::decisions::Switch;
use crate::kernel::Kernel;
use crate::scale::Scale;
use crate::words;

const LEFT: f64 = 54.0;
const RIGHT: f64 = 10.0;
const BOTTOM: f64 = TITLE + 140.0;
/// Gains beyond this lie at the edge: the selector counts them no further either.
const CLIP: f64 = 0.3;
/// The interval around the mean, in standard errors.
const WIDE: f64 = 2.0;

/// Draws a switch; `None` where the log has no pair of it. `of` says what the calls are.
pub(crate) fn draw(of: &str, switch: &Switch) -> Option<String> {
    let gains: Vec<f64> = switch.log_ratios.iter().map(|gain| gain.clamp(-CLIP, CLIP)).collect();
    gains.first()?;
    let (from, to) = (Kernel::from(&switch.from), Kernel::from(&switch.to));
    let reach = gains.iter().map(|gain| gain.abs()).fold(0.05, f64::max) * 1.1;
    let x = Scale::linear((0.5, gains.len() as f64 + 0.5), (LEFT, WIDTH - RIGHT));
    let plot = Plot { x, y: Scale::linear((-reach, reach), (BOTTOM, TITLE)) };
    let name = match from.variant == to.variant {
        true => format!("{} → {}", from.short, to.short),
        false => format!("{} → {}", from.label(), to.label()),
    };
    let mut svg = begin(BOTTOM + 28.0, &name, of);
    let x_marks =
        x.round_values(6).into_iter().filter(|count| count.fract() == 0.0 && *count >= 1.0);
    let x_marks: Vec<_> = x_marks.map(|count| (x.at(count), format!("{count}"))).collect();
    let y_marks = plot.y.round_values(5).into_iter();
    let y_marks = y_marks
        .map(|gain| (plot.y.at(gain), format!("{:+.0} %", 100.0 * gain).replace("+0 %", "0 %")));
    plot.begin(&mut svg, &x_marks, &y_marks.collect::<Vec<_>>());
    svg.line((LEFT, plot.y.at(0.0)), (WIDTH - RIGHT, plot.y.at(0.0)), "even");
    svg.open("g", &[("class", &format!("s-{}", to.series.class()))]);
    let mut means = Vec::new();
    let (mut upper, mut lower) = (Vec::new(), Vec::new());
    let (mut sum, mut squares) = (0.0, 0.0);
    for (index, gain) in gains.iter().enumerate() {
        let count = (index + 1) as f64;
        sum += gain;
        squares += gain * gain;
        let mean = sum / count;
        means.push((x.at(count), plot.y.at(mean)));
        if index > 0 {
            let variance = (squares - sum * mean).max(0.0) / (count - 1.0);
            let half = WIDE * (variance / count).sqrt();
            upper.push((x.at(count), plot.y.at(mean + half)));
            lower.push((x.at(count), plot.y.at(mean - half)));
        }
    }
    band(&mut svg, &upper, &lower);
    line(&mut svg, &means, "line d0");
    for (index, gain) in switch.log_ratios.iter().enumerate() {
        let at = (x.at((index + 1) as f64), plot.y.at(gain.clamp(-CLIP, CLIP)));
        let share = 1.0 - (-gain).exp();
        let words = match share >= 0.0 {
            true => format!("{} took {} less time", to.label(), words::percent(share)),
            false => format!("{} took {} more time", to.label(), words::percent(-share)),
        };
        dot(&mut svg, at, "dot control", &format!("pair {}\n{words}", index + 1));
    }
    svg.close();
    plot.end(&mut svg);
    svg.text(LEFT - 6.0, BOTTOM + 15.0, "faint", "end", "pair");
    Some(svg.finish())
}
