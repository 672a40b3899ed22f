//! What a program that installs a recorder sees.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusBuilder;
use trellect::core::Family;
use trellect::{Selector, metric_names};

use crate::common::{Faults, by_hand, faulty};
use crate::learning::{call, learn, mis_set};

#[test]
fn a_recorder_gets_selections_latencies_switches_failures_and_losses() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let selector = Selector::new(by_hand());
    let Some((options, [slow, fast])) = mis_set(&selector) else { return };
    metrics::with_local_recorder(&recorder, || {
        let faults = Arc::new(Faults::default());
        let mut dispatcher = faulty(&faults, options);
        learn(&mut dispatcher, &selector, fast);
        faults.failing.lock().unwrap().push(Family::Prefill4);
        for seed in 0..20 {
            call(&mut dispatcher, 4, seed);
            selector.step();
        }
        selector.flush();
    });
    let text = handle.render();
    let has = |name: &str, labels: &[String]| {
        text.lines().any(|line| {
            line.starts_with(name) && labels.iter().all(|label| line.contains(label.as_str()))
        })
    };
    let label = |name: &str, value: &dyn std::fmt::Display| format!("{name}=\"{value}\"");
    for (name, labels) in [
        (metric_names::SELECTIONS, vec![label("kernel", &slow), label("reason", &"incumbent")]),
        (metric_names::SELECTIONS, vec![label("kernel", &fast), label("reason", &"probe")]),
        (metric_names::LATENCY, vec![label("kernel", &fast)]),
        (metric_names::SWITCHES, vec![label("from", &slow), label("to", &fast)]),
        (metric_names::FAILURES, vec![label("kernel", &fast)]),
        (metric_names::SPENT, vec![]),
        (metric_names::LOST, vec![label("cause", &"probe")]),
        (metric_names::LOST, vec![label("cause", &"regret")]),
    ] {
        assert!(has(name, &labels), "{name} {labels:?} is not in {text}");
    }
    for name in [metric_names::SELECTIONS, metric_names::LATENCY, metric_names::SWITCHES] {
        let lines = text.lines().filter(|line| line.starts_with(name));
        assert!(
            lines.clone().count() > 0 && lines.clone().all(|line| line.contains("bucket=\"base\"")),
            "{name}: {text}"
        );
    }
}
