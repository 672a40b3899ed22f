//! A log of decisions as charts need it: by context, with the pairs that were measured and the
//! switches that followed from them.

use std::collections::BTreeMap;

use trellect_core::KernelId;
use trellect_select::adaptive::{ChoiceReason, DecisionRecord, Outcome};
use trellect_tune::decisions::DecisionLog;

/// The decisions about one context.
pub(crate) struct ContextDecisions<'a> {
    pub(crate) context: u64,
    /// At least one, in their order.
    pub(crate) decisions: Vec<&'a DecisionRecord>,
    pub(crate) switches: Vec<Switch>,
}

/// A change of the incumbent, and what the log has of its proof.
pub(crate) struct Switch {
    pub(crate) from: KernelId,
    pub(crate) to: KernelId,
    /// The decision that it was first seen in.
    pub(crate) ticket: u64,
    /// Logarithm of the old incumbent's time over the new one's, of the pairs before.
    pub(crate) log_ratios: Vec<f64>,
}

/// A pair of launches: the challenger and the incumbent, one after the other.
struct Pair<'a> {
    probe: &'a DecisionRecord,
    control: &'a DecisionRecord,
}

impl<'a> ContextDecisions<'a> {
    /// The contexts of a log: those with switches first, then by the number of their decisions.
    pub(crate) fn of(log: &'a DecisionLog) -> Vec<Self> {
        let mut contexts: BTreeMap<(usize, u64), Vec<&DecisionRecord>> = BTreeMap::new();
        for (index, group) in log.groups.iter().enumerate() {
            for decision in &group.decisions {
                contexts.entry((index, decision.context.0)).or_default().push(decision);
            }
        }
        let mut contexts: Vec<Self> = contexts
            .into_iter()
            .map(|((_, context), decisions)| {
                let switches = switches(&decisions);
                Self { context, decisions, switches }
            })
            .collect();
        contexts.sort_by_key(|c| std::cmp::Reverse((c.switches.len(), c.decisions.len())));
        contexts
    }
}

/// What a decision's launch took, where it is known.
pub(crate) fn latency_ns(decision: &DecisionRecord) -> Option<f64> {
    match decision.outcome {
        Some(Outcome::LatencyNs(ns)) if ns.is_finite() && ns > 0.0 => Some(ns),
        _ => None,
    }
}

fn switches(decisions: &[&DecisionRecord]) -> Vec<Switch> {
    let pairs = pairs(decisions);
    let changes = decisions.windows(2).filter_map(|two| {
        let (from, to) = (two[0].incumbent?, two[1].incumbent?);
        (from != to).then_some((from, to, two[1]))
    });
    changes
        .map(|(from, to, first)| {
            let before = pairs.iter().filter(|pair| {
                (pair.control.chosen, pair.probe.chosen) == (from, to)
                    && pair.probe.ticket.max(pair.control.ticket) < first.ticket
            });
            let log_ratio =
                |pair: &Pair<'_>| Some((latency_ns(pair.control)? / latency_ns(pair.probe)?).ln());
            let log_ratios = before.filter_map(log_ratio).collect();
            Switch { from, to, ticket: first.ticket.0, log_ratios }
        })
        .collect()
}

/// A pair's first leg was drawn, its second one certain.
fn pairs<'a>(decisions: &[&'a DecisionRecord]) -> Vec<Pair<'a>> {
    let (mut pairs, mut first): (_, Option<&DecisionRecord>) = (Vec::new(), None);
    for &decision in decisions {
        match (decision.reason, first.map(|leg| leg.reason)) {
            (ChoiceReason::Probe | ChoiceReason::Control, _) if decision.propensity < 1.0 => {
                first = Some(decision);
            }
            (ChoiceReason::Probe, Some(ChoiceReason::Control)) => {
                pairs.extend(first.take().map(|control| Pair { probe: decision, control }));
            }
            (ChoiceReason::Control, Some(ChoiceReason::Probe)) => {
                pairs.extend(first.take().map(|probe| Pair { probe, control: decision }));
            }
            _ => {}
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use trellect_core::{LayerShape, NumericClass};
    use trellect_select::ContextKey;
    use trellect_select::adaptive::{MemoryLevel, Ticket};
    use trellect_tune::decisions::GroupDecisions;

    use super::*;

    const BASE: &str = "moe_trellis_swiglu";
    const GROUPED: &str = "moe_trellis_swiglu_grouped";

    /// What was chosen, why, with which probability, and how many microseconds it took.
    type Leg = (&'static str, ChoiceReason, f64, f64);

    fn log(incumbents: [&str; 6], legs: [Leg; 6]) -> DecisionLog {
        let record =
            |(ticket, ((chosen, reason, propensity, us), incumbent)): (u64, (Leg, &str))| {
                DecisionRecord {
                    ticket: Ticket(ticket),
                    now_ns: ticket,
                    context: ContextKey(7),
                    legal: 2,
                    legal_digest: 0,
                    incumbent: incumbent.parse().ok(),
                    chosen: chosen.parse().unwrap(),
                    reason,
                    propensity,
                    one_in: 1,
                    predicted_ns: 1.0,
                    predicted_sd: 0.1,
                    outcome: Some(Outcome::LatencyNs(1e3 * us)),
                    memory: MemoryLevel::Normal,
                    headroom_bytes: None,
                }
            };
        let decisions = (0..).zip(legs.into_iter().zip(incumbents)).map(record).collect();
        let shape = LayerShape::new(256, 128, 8).unwrap();
        let group = GroupDecisions { shape, numeric: NumericClass::Half, decisions, lost: 0 };
        DecisionLog { groups: vec![group] }
    }

    #[test]
    fn a_switch_has_the_pairs_before_it() {
        use ChoiceReason::{Control, Incumbent, Probe};
        let legs = [
            (BASE, Control, 0.5, 20.0),
            (GROUPED, Probe, 1.0, 10.0),
            // A leg whose partner is missing, then a pair in the other order.
            (BASE, Control, 0.5, 77.0),
            (GROUPED, Probe, 0.5, 10.0),
            (BASE, Control, 1.0, 40.0),
            (GROUPED, Incumbent, 1.0, 10.0),
        ];
        let log = log([BASE, BASE, BASE, BASE, BASE, GROUPED], legs);
        let contexts = ContextDecisions::of(&log);
        assert_eq!((contexts.len(), contexts[0].decisions.len()), (1, 6));
        let [switch] = contexts[0].switches.as_slice() else { panic!("one switch") };
        assert_eq!((switch.ticket, switch.to.to_string().as_str()), (5, GROUPED));
        let ratios: Vec<f64> = switch.log_ratios.iter().map(|ratio| ratio.exp().round()).collect();
        assert_eq!(ratios, [2.0, 4.0]);
    }

    #[test]
    fn without_a_change_there_is_no_switch() {
        let leg = (BASE, ChoiceReason::Incumbent, 1.0, 10.0);
        let unknown = log(["", "", BASE, "", BASE, BASE], [leg; 6]);
        assert!(ContextDecisions::of(&unknown)[0].switches.is_empty());
    }
}
