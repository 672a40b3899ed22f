use trellect_core::KernelId;
use trellect_select::ContextKey;
use trellect_select::adaptive::{AdaptiveExplanation, MAX_GAIN};
use trellect_tune::history::SwitchNote;

use crate::selector::unix_s;

/// What proved a switch: the race as it stood before its last pair, and what that pair gained.
pub(super) fn of_switch(
    key: ContextKey,
    [from, to]: [KernelId; 2],
    before: Option<&AdaptiveExplanation>,
    gain: f64,
) -> SwitchNote {
    let challenger = before
        .and_then(|before| before.considered.iter().find(|considered| considered.kernel == to));
    let (pairs, mean) = challenger.map_or((0.0, 0.0), |arm| (arm.pairs, arm.gain));
    SwitchNote {
        context: key.0,
        unix_s: unix_s(),
        from,
        to,
        pairs: pairs + 1.0,
        gain: (pairs * mean + gain.clamp(-MAX_GAIN, MAX_GAIN)) / (pairs + 1.0),
        log_wealth: before.and_then(|before| before.winning_wealth).unwrap_or(0.0),
    }
}
