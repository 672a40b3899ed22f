//! A change of the kernel that serves a context, as `run` and `stats` tell it.

use std::fmt;

use serde::Serialize;
use trellect::tune::history::{ContextNote, SwitchNote};

/// A change and its proof.
#[derive(Debug, Serialize)]
pub(crate) struct SwitchReport {
    context: String,
    pub(crate) bucket: Option<String>,
    /// The context's first call, in words.
    call: Option<String>,
    unix_s: u64,
    pub(crate) from: String,
    pub(crate) to: String,
    /// Pairs that were measured.
    pairs: f64,
    /// How much less time the new kernel took in them, as a share.
    gain: f64,
    /// Logarithm of what the bet on these pairs had to win.
    log_wealth: f64,
}

impl SwitchReport {
    /// Describes a change of one of `contexts`.
    pub(crate) fn new(switch: &SwitchNote, contexts: &[ContextNote]) -> Self {
        let note = contexts.iter().find(|note| note.context == switch.context);
        Self {
            context: format!("{:016x}", switch.context),
            bucket: note.map(|note| note.bucket.clone()),
            call: note.map(|note| note.call.to_string()),
            unix_s: switch.unix_s,
            from: switch.from.to_string(),
            to: switch.to.to_string(),
            pairs: switch.pairs,
            gain: 1.0 - (-switch.gain).exp(),
            log_wealth: switch.log_wealth,
        }
    }
}

impl fmt::Display for SwitchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, pairs, .. } = self;
        let call = self.call.as_deref().unwrap_or(&self.context);
        let gain = 100.0 * self.gain;
        write!(f, "{from} -> {to}: {gain:.1} % less time in {pairs:.0} pairs ({call})")
    }
}
