use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use trellect_core::NumericClass;
use trellect_select::LatencyStatistics;
use trellect_tune::fingerprint::Fingerprint;
use trellect_tune::history::{
    ContextCall, ContextLoad, ContextNote, History, Journal, Outcome, Record, SelectionCount,
    SwitchNote,
};

pub(crate) const KERNEL: &str = "moe_trellis_swiglu_decode@cpu.avx2";

pub(crate) fn environment() -> Fingerprint {
    Fingerprint { hard: Default::default(), soft: Default::default() }.with_hard("device", "test")
}

pub(crate) fn record(context: u64, latencies: &[u64]) -> Record {
    let mut statistics = LatencyStatistics::default();
    latencies.iter().for_each(|&ns| statistics.observe(NonZeroU64::new(ns).unwrap()));
    Record {
        environment: environment().id(),
        kernel: KERNEL.parse().unwrap(),
        context,
        class: NumericClass::Half,
        statistics,
        first_unix_s: 1_000,
        last_unix_s: 2_000 + context % 100,
    }
}

pub(crate) fn open(path: &Path) -> History {
    let (history, outcome) = History::open(Some(path));
    assert!(matches!(outcome, Outcome::Ready), "{outcome:?}");
    history
}

pub(crate) fn directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("some").join("where").join("history.sqlite");
    (directory, path)
}

pub(crate) fn count(history: &History) -> u64 {
    let records = history.load(&environment().id()).unwrap();
    records.iter().map(|record| record.statistics.count()).sum()
}

pub(crate) fn journal(calls: u64) -> Journal {
    let (kernel, other) = (KERNEL.parse().unwrap(), "moe_trellis_swiglu".parse().unwrap());
    let loads = [(2, "6_2_3"), (1, "6_2_3"), (1, "6_3_4")];
    let load = |(rows, tuple): (u32, &str)| ContextLoad { tuple: tuple.parse().unwrap(), rows };
    let call = ContextCall {
        hidden_size: 256,
        intermediate_size: 128,
        num_experts: 8,
        num_tokens: 2,
        loads: loads.map(load).into(),
    };
    let (reason, lost_ns) = ("incumbent".into(), 3);
    Journal {
        records: vec![record(1, &vec![10; calls as usize])],
        contexts: vec![ContextNote {
            context: 1,
            unix_s: 4,
            bucket: "prefill4".into(),
            call,
            incumbent: kernel,
        }],
        selections: vec![SelectionCount {
            context: 1,
            kernel,
            reason,
            calls,
            total_ns: 10 * calls,
            lost_ns,
        }],
        switches: vec![SwitchNote {
            context: 1,
            unix_s: 5,
            from: other,
            to: kernel,
            pairs: 12.0,
            gain: 0.3,
            log_wealth: 9.5,
        }],
    }
}
