//! The history's figures in Prometheus' text format, under the names that a running process uses.

use metrics::{counter, describe_counter, describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::PrometheusBuilder;
use trellect::{is_exploration, metric_names};

use super::report::{EnvironmentReport, StatsReport};

/// Quantiles of a context's latency in seconds.
const LATENCY_QUANTILES: &str = "trellect_latency_quantile_seconds";
/// Share of the device time that the kernels believed fastest would have saved.
const REGRET: &str = "trellect_regret_ratio";

/// The text.
pub(super) fn render(report: &StatsReport) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    with_local_recorder(&recorder, || {
        describe();
        report.environments.iter().for_each(record);
    });
    handle.render()
}

fn describe() {
    describe_counter!(metric_names::SELECTIONS, "calls served");
    describe_counter!(metric_names::SWITCHES, "changes of the kernel that serves a context");
    describe_counter!(metric_names::SPENT, "device time");
    describe_counter!(metric_names::LOST, "device time that other kernels would have saved");
    describe_gauge!(LATENCY_QUANTILES, "device time of a call");
    describe_gauge!(REGRET, "share of the device time that other kernels would have saved");
}

fn record(environment: &EnvironmentReport) {
    let id = &environment.id;
    // The cast saturates; a float holds such counts exactly for some months of device time.
    let nanoseconds = |ms: f64| (ms * 1e6).round() as u64;
    for selection in &environment.selections {
        let labels = [
            ("environment", id.clone()),
            ("bucket", selection.bucket.clone()),
            ("kernel", selection.kernel_name.clone()),
            ("reason", selection.reason.clone()),
        ];
        counter!(metric_names::SELECTIONS, &labels).increment(selection.calls);
        let spent = nanoseconds(selection.total_ms);
        counter!(metric_names::SPENT, "environment" => id.clone()).increment(spent);
        let cause = if is_exploration(&selection.reason) { "probe" } else { "regret" };
        counter!(metric_names::LOST, "environment" => id.clone(), "cause" => cause)
            .increment(nanoseconds(selection.lost_ms));
    }
    for switch in &environment.switches {
        let labels = [
            ("environment", id.clone()),
            ("bucket", switch.bucket.clone().unwrap_or_else(|| "unknown".into())),
            ("from", switch.from.clone()),
            ("to", switch.to.clone()),
        ];
        counter!(metric_names::SWITCHES, &labels).increment(1);
    }
    for latency in environment.latencies() {
        for (quantile, ms) in [("0.5", latency.p50_ms), ("0.95", latency.p95_ms)] {
            let labels = [
                ("environment", id.clone()),
                ("bucket", latency.bucket.to_owned()),
                ("kernel", latency.kernel_name.to_owned()),
                ("quantile", quantile.to_owned()),
            ];
            gauge!(LATENCY_QUANTILES, &labels).set(ms / 1e3);
        }
    }
    gauge!(REGRET, "environment" => id.clone()).set(environment.regret);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// `docs/grafana/trellect.json`.
    const DASHBOARD: &str = include_str!("../../../../../docs/grafana/trellect.json");

    const METRICS: [&str; 8] = [
        metric_names::SELECTIONS,
        metric_names::LATENCY,
        metric_names::SWITCHES,
        metric_names::FAILURES,
        metric_names::SPENT,
        metric_names::LOST,
        LATENCY_QUANTILES,
        REGRET,
    ];

    /// The words of the dashboard's queries.
    fn words(queries: &[&str]) -> BTreeSet<String> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words = queries.iter().flat_map(|query| query.split(|c| !is_word(c)));
        words.map(str::to_owned).collect()
    }

    #[test]
    fn the_dashboard_shows_every_metric_and_no_other() {
        let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
        let mut queries: Vec<&str> =
            targets.map(|target| target["expr"].as_str().unwrap()).collect();
        assert!(queries.len() >= 10);
        let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
        queries.extend(variables.filter_map(|variable| variable["query"]["query"].as_str()));
        let named = words(&queries).into_iter().filter(|word| word.starts_with("trellect_"));
        // A summary has a sum and a count beside its quantiles.
        let plain = |name: String| match name.strip_suffix("_sum").or(name.strip_suffix("_count")) {
            Some(summary) if summary == metric_names::LATENCY => summary.to_owned(),
            _ => name,
        };
        let named: BTreeSet<String> = named.map(plain).collect();
        assert_eq!(named, METRICS.map(str::to_owned).into());
    }
}
