use serde::{Deserialize, Serialize};
use trellect_core::{KernelId, LayerShape, NumericClass};
use trellect_select::ContextKey;
use trellect_select::adaptive::{ChoiceReason, DecisionRecord, MemoryLevel, Outcome, Ticket};

use super::{DecisionLog, GroupDecisions};
use crate::lines::{LineFault, check, hex, key};
use crate::text;

/// The format that the first line names.
pub const FORMAT: &str = "trellect-decisions";

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Line {
    Header {
        format: String,
        version: u32,
    },
    Group {
        group: usize,
        hidden_size: usize,
        intermediate_size: usize,
        num_experts: usize,
        #[serde(with = "text")]
        numeric: NumericClass,
        lost: u64,
    },
    Decision(Box<DecisionLine>),
    End {
        decisions: u64,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DecisionLine {
    group: usize,
    ticket: u64,
    now_ns: u64,
    context: String,
    legal: usize,
    legal_digest: String,
    incumbent: Option<String>,
    #[serde(with = "text")]
    chosen: KernelId,
    #[serde(with = "text")]
    reason: ChoiceReason,
    propensity: f64,
    one_in: u32,
    predicted_ns: f64,
    predicted_sd: f64,
    /// `null`: it failed, or nobody knows.
    latency_ns: Option<f64>,
    failed: bool,
    memory: Memory,
    headroom_bytes: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Memory {
    Normal,
    High,
}

impl Line {
    pub(super) fn of_group(group: usize, decided: &GroupDecisions) -> Self {
        let GroupDecisions { shape, numeric, lost, .. } = *decided;
        let LayerShape { hidden_size, intermediate_size, num_experts } = shape;
        Self::Group { group, hidden_size, intermediate_size, num_experts, numeric, lost }
    }

    pub(super) fn of_decision(group: usize, record: &DecisionRecord) -> Self {
        let latency_ns = match record.outcome {
            Some(Outcome::LatencyNs(ns)) if ns.is_finite() => Some(ns),
            _ => None,
        };
        Self::Decision(Box::new(DecisionLine {
            group,
            ticket: record.ticket.0,
            now_ns: record.now_ns,
            context: record.context.to_string(),
            legal: record.legal,
            legal_digest: hex(record.legal_digest),
            incumbent: record.incumbent.map(|kernel| kernel.to_string()),
            chosen: record.chosen,
            reason: record.reason,
            propensity: record.propensity,
            one_in: record.one_in,
            predicted_ns: record.predicted_ns,
            predicted_sd: record.predicted_sd,
            latency_ns,
            failed: record.outcome == Some(Outcome::Failed),
            memory: match record.memory {
                MemoryLevel::Normal => Memory::Normal,
                MemoryLevel::High => Memory::High,
            },
            headroom_bytes: record.headroom_bytes,
        }))
    }
}

impl DecisionLog {
    /// Adds what a line between the first and the last says.
    pub(super) fn take(&mut self, line: Line) -> Result<(), LineFault> {
        match line {
            Line::Group { group, hidden_size, intermediate_size, num_experts, numeric, lost } => {
                check("group", group, "the number of groups before", group == self.groups.len())?;
                check("lost", lost, "0: a log with gaps cannot be followed", lost == 0)?;
                let shape = LayerShape::new(hidden_size, intermediate_size, num_experts);
                let sizes = format!("{hidden_size} x {intermediate_size} x {num_experts}");
                check("hidden_size", sizes, "sizes of a layer", shape.is_ok())?;
                let shape = LayerShape { hidden_size, intermediate_size, num_experts };
                let decisions = Vec::new();
                self.groups.push(GroupDecisions { shape, numeric, decisions, lost });
            }
            Line::Decision(line) => {
                let last = self.groups.len().checked_sub(1);
                check("group", line.group, "the latest group", Some(line.group) == last)?;
                let decisions = &mut self.groups[line.group].decisions;
                let record = line.checked()?;
                let follows = decisions.last().is_none_or(|last| last.ticket < record.ticket);
                check("ticket", record.ticket.0, "more than the one before", follows)?;
                decisions.push(record);
            }
            Line::Header { format, .. } => {
                check("format", format, "one first line", false)?;
            }
            Line::End { .. } => unreachable!("the reader ends there"),
        }
        Ok(())
    }
}

impl DecisionLine {
    fn checked(self) -> Result<DecisionRecord, LineFault> {
        let is_share = self.propensity > 0.0 && self.propensity <= 1.0;
        check("propensity", self.propensity, "more than 0, up to 1", is_share)?;
        check("one_in", self.one_in, "1 or more", self.one_in > 0)?;
        check("predicted_ns", self.predicted_ns, "0 or more", self.predicted_ns >= 0.0)?;
        check("predicted_sd", self.predicted_sd, "0 or more", self.predicted_sd >= 0.0)?;
        let parse = |name: String| match name.parse::<KernelId>() {
            Ok(kernel) => Ok(kernel),
            Err(_) => {
                let expected = "a kernel's name or null";
                Err(LineFault::Field { field: "incumbent", found: name, expected })
            }
        };
        let outcome = match (self.latency_ns, self.failed) {
            (None, true) => Some(Outcome::Failed),
            (Some(ns), true) => {
                let (found, expected) = (ns.to_string(), "null, since it failed");
                return Err(LineFault::Field { field: "latency_ns", found, expected });
            }
            (latency_ns, false) => latency_ns.map(Outcome::LatencyNs),
        };
        Ok(DecisionRecord {
            ticket: Ticket(self.ticket),
            now_ns: self.now_ns,
            context: ContextKey(key(&self.context)?),
            legal: self.legal,
            legal_digest: key(&self.legal_digest)?,
            incumbent: self.incumbent.map(parse).transpose()?,
            chosen: self.chosen,
            reason: self.reason,
            propensity: self.propensity,
            one_in: self.one_in,
            predicted_ns: self.predicted_ns,
            predicted_sd: self.predicted_sd,
            outcome,
            memory: match self.memory {
                Memory::Normal => MemoryLevel::Normal,
                Memory::High => MemoryLevel::High,
            },
            headroom_bytes: self.headroom_bytes,
        })
    }
}
