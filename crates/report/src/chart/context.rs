//! The decisions about one context over time: what every launch took, which kernel it was and why,
//! and below which kernel served.

use std::collections::BTreeSet;

use trellect_core::KernelId;
use trellect_select::adaptive::{ChoiceReason, DecisionRecord, Outcome};

use super::frame::{Plot, begin, dot};
use super::{TITLE, WIDTH};
use crate::decisions::{ContextDecisions, latency_ns};
use crate::kernel::Kernel;
use crate::scale::{Scale, time_mark};
use crate::svg::{Rectangle, Svg};
use crate::words;

const LEFT: f64 = 54.0;
const RIGHT: f64 = 10.0;
const BOTTOM: f64 = TITLE + 150.0;
const BAND: f64 = 16.0;
/// A launch that took longer than all but this share lies at the edge.
const STALLS: f64 = 0.01;

/// Draws a context; `of` says what its calls are.
pub(crate) fn draw(of: &str, context: &ContextDecisions<'_>) -> String {
    let decisions = &context.decisions;
    let (first, last) = (number_of(decisions[0]), number_of(decisions[decisions.len() - 1]));
    let mut times: Vec<f64> = decisions.iter().filter_map(|d| latency_ns(d)).collect();
    times.sort_by(f64::total_cmp);
    let stalls = (STALLS * times.len() as f64) as usize;
    let (least, most) = match (times.first(), times.iter().rev().nth(stalls)) {
        (Some(least), Some(most)) => (*least / 1e6, *most / 1e6),
        _ => (1.0, 1.0),
    };
    let margin = (0.02 * (last - first)).max(0.5);
    let x = Scale::linear((first - margin, last + margin), (LEFT, WIDTH - RIGHT));
    let plot = Plot { x, y: Scale::log((least / 1.06, most * 1.1), (BOTTOM, TITLE)) };
    let mut svg =
        begin(BOTTOM + BAND + 30.0, of, &words::plural(decisions.len(), "logged decision"));
    let y_marks = plot.y.round_values(5).into_iter().map(|ms| (plot.y.at(ms), time_mark(ms)));
    plot.begin(&mut svg, &[], &y_marks.collect::<Vec<_>>());
    // What would lie on the same spot is drawn once, so that long logs stay small.
    let mut drawn = BTreeSet::new();
    for decision in decisions {
        let at = match latency_ns(decision) {
            Some(ns) => (x.at(number_of(decision)), plot.y.at(ns / 1e6)),
            None if decision.outcome == Some(Outcome::Failed) => {
                (x.at(number_of(decision)), TITLE + 3.0)
            }
            None => continue,
        };
        let class =
            format!("s s-{} {}", Kernel::from(&decision.chosen).series.class(), why(decision));
        if drawn.insert(((at.0 * 2.0) as i64, (at.1 * 2.0) as i64, class.clone())) {
            dot(&mut svg, at, &format!("dot {class}"), &tell(decision));
        }
    }
    for switch in &context.switches {
        let at = x.at(switch.ticket as f64);
        svg.line((at, TITLE), (at, BOTTOM), "switch");
    }
    plot.end(&mut svg);

    let below = Plot { x, y: Scale::linear((0.0, 1.0), (BOTTOM + 5.0, BOTTOM + 5.0 + BAND)) };
    let x_marks = x
        .round_values(6)
        .into_iter()
        .filter(|number| number.fract() == 0.0 && x.at(*number) > LEFT + 16.0);
    let x_marks = x_marks.map(|number| (x.at(number), number.to_string()));
    below.begin(&mut svg, &x_marks.collect::<Vec<_>>(), &[]);
    let served = serving(decisions);
    for (index, (kernel, since)) in served.iter().enumerate() {
        let until = served.get(index + 1).map_or(last, |next| next.1);
        let kernel = Kernel::from(kernel);
        let (from, to) = (x.at(*since), x.at(until));
        let at = Rectangle { x: from, y: BOTTOM + 5.0, width: (to - from).max(1.5), height: BAND };
        let told = format!("{} serves\nfrom call {since} to {until}", kernel.label());
        svg.rectangle(at, &format!("tint strong s-{}", kernel.series.class()), &told);
    }
    below.end(&mut svg);
    svg.text(LEFT - 6.0, BOTTOM + BAND + 1.0, "faint", "end", "serves");
    svg.text(LEFT - 6.0, BOTTOM + BAND + 20.0, "faint", "end", "call");
    label_served(&mut svg, &served, &x, last);
    svg.finish()
}

/// Names in the band, where they fit.
fn label_served(svg: &mut Svg, served: &[(KernelId, f64)], x: &Scale, last: f64) {
    for (index, (kernel, since)) in served.iter().enumerate() {
        let until = served.get(index + 1).map_or(last, |next| next.1);
        let name = Kernel::from(kernel).short;
        if x.at(until) - x.at(*since) > 6.5 * name.len() as f64 + 8.0 {
            svg.text(x.at(*since) + 5.0, BOTTOM + BAND + 1.0, "band-name", "start", &name);
        }
    }
}

/// The number of a decision among those about equal layers.
fn number_of(decision: &DecisionRecord) -> f64 {
    decision.ticket.0 as f64
}

/// The incumbents with the decision from which on each served.
fn serving(decisions: &[&DecisionRecord]) -> Vec<(KernelId, f64)> {
    let mut served: Vec<(KernelId, f64)> = Vec::new();
    for decision in decisions {
        let kernel = decision.incumbent.unwrap_or(decision.chosen);
        if served.last().is_none_or(|(last, _)| *last != kernel) {
            served.push((kernel, number_of(decision)));
        }
    }
    served
}

/// The class of a decision's point.
fn why(decision: &DecisionRecord) -> &'static str {
    match (decision.outcome, decision.reason) {
        (Some(Outcome::Failed), _) => "failed",
        (_, ChoiceReason::Probe | ChoiceReason::Recovery | ChoiceReason::Sweep) => "probe",
        (_, ChoiceReason::Control) => "control",
        _ => "serves",
    }
}

fn tell(decision: &DecisionRecord) -> String {
    let kernel = Kernel::from(&decision.chosen).label();
    let took = match latency_ns(decision) {
        Some(ns) => words::time(ns / 1e6),
        None => "failed".into(),
    };
    let predicted = words::time(decision.predicted_ns / 1e6);
    let sd = words::percent(decision.predicted_sd);
    let seconds = decision.now_ns as f64 / 1e9;
    format!(
        "{kernel} · {}\n{took}, expected {predicted} ± {sd}\ncall {} at {seconds:.2} s\none of {}, with \
         probability {:.3}",
        decision.reason,
        decision.ticket.0,
        words::plural(decision.legal, "legal kernel"),
        decision.propensity
    )
}
