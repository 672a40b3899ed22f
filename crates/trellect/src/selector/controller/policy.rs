//! A group's policy, with what was learned before.

use trellect_core::KernelSpec;
use trellect_select::ContextKey;
use trellect_select::adaptive::{
    AdaptiveConfig, AdaptivePolicy, Arm, Evidence, MachineLimits, Mode, Provenance,
};
use trellect_tune::calibrate::StoredCalibration;
use trellect_tune::history::{Journal, Record};

/// Error of a cost model that nothing was measured for, as a log ratio.
const UNCALIBRATED_SD: f64 = 0.5;

/// The configuration for kernels whose models are as exact as `calibration` says. Launches differ from a
/// fitted model by their own noise for the most part, so its promise counts as it is, and pairs with the
/// rules' pick decide. Models that nothing was measured for must promise more than their error.
pub(super) fn calibrated(
    config: &AdaptiveConfig,
    calibration: &StoredCalibration,
) -> AdaptiveConfig {
    let error = calibration.relative_error();
    let widest = config.prior_sd.max(UNCALIBRATED_SD);
    let prior_sd = error.unwrap_or(UNCALIBRATED_SD).clamp(config.prior_sd, widest);
    let start_margin = match error {
        Some(_) => config.start_margin,
        None => config.start_margin.max(prior_sd),
    };
    AdaptiveConfig { prior_sd, start_margin, ..config.clone() }
}

/// A policy that learns, with what was learned before.
pub(super) fn policy(
    config: AdaptiveConfig,
    arms: &[KernelSpec],
    calibration: &StoredCalibration,
    journal: &Journal,
    foreign: &[(Provenance, Vec<Record>)],
) -> AdaptivePolicy {
    let arm = |spec: &KernelSpec| Arm { spec: *spec, cost: calibration.cost(spec.id) };
    let bytes_per_ns = match calibration.bytes_per_ns {
        rate if rate.is_finite() && rate > 0.0 => rate,
        _ => f64::INFINITY,
    };
    let limits = MachineLimits { bytes_per_ns, ..MachineLimits::UNKNOWN };
    let config = AdaptiveConfig { mode: Mode::Learn, ..config };
    let arms = arms.iter().map(arm).collect();
    let mut policy = AdaptivePolicy::new(config, arms, limits)
        .expect("a group has kernels, and only valid models get here");
    let own = Provenance { variance_factor: 1.0, reason: "same environment".into() };
    let sources = std::iter::once((&own, &journal.records));
    for (from, records) in sources.chain(foreign.iter().map(|(from, records)| (from, records))) {
        let imported = policy.import_evidence(records.iter().map(evidence), from);
        imported.expect("fingerprints widen by 1 or more");
    }
    policy
}

fn evidence(record: &Record) -> Evidence {
    Evidence {
        context: ContextKey(record.context),
        kernel: record.kernel,
        class: record.class,
        latencies: record.statistics.clone(),
    }
}
