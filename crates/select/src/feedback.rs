//! Rule 5: a kernel that the history shows to be faster than the heuristic's.

use trellect_core::KernelSpec;

use crate::history::Compare;
use crate::rules::Rules;
use crate::{Decision, Reason, Timings, WelchTest};

/// The alternative to `baseline` with the lowest mean among those that the history shows to be
/// faster; of equal ones the first candidate.
pub(crate) fn feedback(
    rules: &Rules<'_>,
    baseline: &Decision,
    mut history: impl Compare,
) -> Option<Decision> {
    let mut to_beat_ms = history.baseline(baseline.kernel)?;
    let mut best: Option<&KernelSpec> = None;
    for (position, spec) in rules.alternatives(baseline) {
        if let Some(mean_ms) = history.faster(position, spec.id, to_beat_ms) {
            best = Some(spec);
            to_beat_ms = mean_ms;
        }
    }
    best.map(|spec| baseline.replaced_by(spec, Reason::FeedbackOptimization))
}

/// The drift watch: whether `one` is by now no faster than `other`, whatever the window says.
pub(crate) fn has_drifted(one: &Timings, other: &Timings) -> bool {
    one.ema_ms >= other.ema_ms
}

/// Whether `one` is significantly faster than `other` and has not drifted behind it since.
pub(crate) fn is_faster(one: &Timings, other: &Timings) -> bool {
    !has_drifted(one, other)
        && WelchTest::compare(one, other).is_some_and(|test| test.says_faster())
}
