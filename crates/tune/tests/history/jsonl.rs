//! Exports come back as they were, merge in any order, and lose nothing to damaged lines.

use std::collections::BTreeMap;

use proptest::prelude::*;
use trellect_tune::calibrate::StoredCalibration;
use trellect_tune::history::{
    ContextCall, ContextLoad, ContextNote, History, ImportSummary, Journal, Record, SelectionCount,
    SwitchNote,
};

use crate::common::{KERNEL, environment, journal, record};

const KERNELS: [&str; 3] = [KERNEL, "moe_trellis_swiglu", "moe_trellis_swiglu_decode_6_2_3"];

/// What a history holds of one environment.
type Content = BTreeMap<String, (Journal, Option<StoredCalibration>)>;

fn export(history: &History) -> String {
    let mut lines = Vec::new();
    history.export_jsonl(&mut lines).unwrap();
    String::from_utf8(lines).unwrap()
}

fn imported(exports: &[&str]) -> History {
    let mut history = History::in_memory();
    for lines in exports {
        let summary = history.import_jsonl(lines.as_bytes()).unwrap();
        assert_eq!(summary.damaged, 0, "{summary:?}");
        let lines = lines.lines().filter(|line| !line.is_empty()).count();
        assert_eq!(summary.taken, lines as u64);
    }
    history
}

/// Everything of the environments that occur here; switches of one second in an order of their own.
fn content(history: &History) -> Content {
    let of = |id: String| {
        let mut journal = history.journal(&id).unwrap();
        journal.switches.sort_by_key(|switch| format!("{switch:?}"));
        (id.clone(), (journal, history.calibration(&id).unwrap()))
    };
    ids().into_iter().map(of).collect()
}

fn ids() -> [String; 2] {
    [environment().id(), environment().with_soft("driver", "2").id()]
}

fn calibration(bytes_per_ns: f64, relative_error: f64) -> StoredCalibration {
    let document = format!(
        "{{\"bytes_per_ns\": {bytes_per_ns}, \"kernels\": [{{\"kernel\": \"{KERNEL}\", \
         \"launch_ns\": 1.5, \"ns_per_decoded_weight\": 0.1, \"ns_per_mac\": 0.2, \
         \"ns_per_pair\": 3.0, \"probes\": 3, \"relative_error\": {relative_error}}}]}}"
    );
    serde_json::from_str(&document).unwrap()
}

fn whole() -> History {
    let mut history = History::in_memory();
    history.register(&environment()).unwrap();
    history.add(&environment().id(), &journal(3)).unwrap();
    history.keep_calibration(&environment().id(), &calibration(0.1, 0.3), 5).unwrap();
    history
}

#[test]
fn an_export_imports_as_it_was() {
    let lines = export(&whole());
    let types = ["environment", "calibration", "context", "record", "selection", "switch"];
    for (line, kind) in lines.lines().zip(types) {
        assert!(line.starts_with(&format!("{{\"type\":\"{kind}\"")), "{kind}: {line}");
    }
    assert_eq!(lines.lines().count(), types.len());
    let again = imported(&[&format!("\n{lines}")]);
    assert_eq!(content(&again), content(&whole()));
    assert_eq!(again.environments().unwrap()[0].fingerprint, Some(environment()));
    assert_eq!(export(&again), lines);
}

/// As earlier versions wrote them: environments and latencies, nothing else.
#[test]
fn lines_of_the_first_version_load() {
    let id = environment().id();
    let lines = format!(
        r#"{{"type":"environment","id":"{id}","fingerprint":{{"hard":{{"device":"test"}},"soft":{{}}}}}}
{{"type":"record","environment":"{id}","kernel":"{KERNEL}","context":"0000000000000001","class":"half","count":1,"sum":"9889527671","sum_squares":"97802757557100100000","min_ns":10,"max_ns":10,"histogram":[[13,1]],"first_unix_s":1000,"last_unix_s":2001}}
"#
    );
    let lines = lines.replace("97802757557100100000", &(9_889_527_671i128.pow(2)).to_string());
    assert_eq!(imported(&[&lines]).load(&id).unwrap(), [record(1, &[10])]);
}

#[test]
fn what_has_an_identity_is_there_once_and_counts_add_up() {
    let lines = export(&whole());
    let twice = imported(&[&lines, &lines]);
    let (journal, calibration) = content(&twice).remove(&environment().id()).unwrap();
    let (once, same) = content(&whole()).remove(&environment().id()).unwrap();
    assert_eq!((&journal.contexts, &journal.switches), (&once.contexts, &once.switches));
    assert_eq!(calibration, same);
    assert_eq!(journal.selections[0].calls, 2 * once.selections[0].calls);
    assert_eq!(journal.records[0].statistics.count(), 2 * once.records[0].statistics.count());
}

#[test]
fn the_latest_note_and_the_earliest_calibration_stay() {
    let id = environment().id();
    let made = |unix_s: u64, kernel: &str| {
        let mut history = whole();
        let mut note = journal(0).contexts.remove(0);
        (note.unix_s, note.incumbent) = (unix_s, kernel.parse().unwrap());
        history.add(&id, &Journal { contexts: vec![note], ..Journal::default() }).unwrap();
        let mut lines = export(&history);
        lines = lines.replace(
            "\"unix_s\":5,\"calibration\"",
            &format!("\"unix_s\":{unix_s},\"calibration\""),
        );
        lines.replace("\"bytes_per_ns\":0.1", &format!("\"bytes_per_ns\":{unix_s}.25"))
    };
    let (early, late) = (made(10, KERNELS[1]), made(20, KERNELS[2]));
    for order in [[&early, &late], [&late, &early]] {
        let history = imported(&order.map(String::as_str));
        let (journal, calibration) = content(&history).remove(&id).unwrap();
        assert_eq!(journal.contexts[0].incumbent, KERNELS[2].parse().unwrap());
        assert_eq!(calibration.unwrap().bytes_per_ns, 10.25);
    }
}

#[test]
fn counts_saturate_instead_of_spoiling_the_file() {
    let mut history = History::in_memory();
    let line = export(&whole()).lines().find(|line| line.contains("selection")).unwrap().to_owned();
    let most = line.replace("\"calls\":3", &format!("\"calls\":{}", i64::MAX));
    for _ in 0..3 {
        assert_eq!(history.import_jsonl(most.as_bytes()).unwrap().taken, 1);
    }
    let journal = history.journal(&environment().id()).unwrap();
    assert_eq!(journal.selections[0].calls, i64::MAX as u64);
}

#[test]
fn every_damaged_line_is_named_and_costs_nothing_else() {
    let all = export(&whole());
    let of = |kind: &str| {
        let starts = format!("{{\"type\":\"{kind}\"");
        all.lines().find(|line| line.starts_with(&starts)).unwrap()
    };
    let id = environment().id();
    let (record, context, selection) = (of("record"), of("context"), of("selection"));
    let (switch, calibration) = (of("switch"), of("calibration"));
    let cases = [
        (record.replace("\"count\":3", "\"count\":0"), "count: found 0"),
        (record.replace("\"count\":3", "\"count\":4"), "histogram: found Some(3)"),
        (record.replace("\"count\":3", "\"count\":-1"), "invalid value"),
        (record.replace("\"min_ns\":10", "\"min_ns\":0"), "min_ns: found 0"),
        (record.replace("\"min_ns\":10", "\"min_ns\":9"), "histogram: found"),
        (record.replace("\"sum\":\"", "\"sum\":\"-"), "sum: found -"),
        (record.replace("\"sum\":\"", "\"sum\":\"9999999"), "sum: found 9999999"),
        (record.replace("\"sum_squares\":\"", "\"sum_squares\":\"-"), "sum_squares: found -"),
        (record.replace("\"sum\":\"", "\"sum\":\"x"), "invalid digit"),
        (record.replace(&id, "elsewhere"), "environment: found elsewhere"),
        (record.replace("0000000000000001", "1"), "context: found 1"),
        (record.replace("0000000000000001", "000000000000000G"), "context: found"),
        (record.replace(KERNEL, "fast"), "`fast` is no kernel name"),
        (record.replace("\"half\"", "\"double\""), "`double` is no numeric class"),
        (record.replace("\"last_unix_s\":2001", "\"last_unix_s\":999"), "last_unix_s: found 999"),
        (record.replace("\"type\":\"record\"", "\"type\":\"song\""), "unknown variant `song`"),
        (record.replace("\"count\"", "\"counts\""), "counts"),
        (record[..record.len() / 2].into(), "EOF"),
        ("null".into(), "invalid type"),
        (of("environment").replace(&id, &id.replace('0', "1")), "id: found"),
        (context.replace("prefill4", "\\u001b[31m"), "bucket: found"),
        (context.replace("\"hidden_size\":256", "\"hidden_size\":0"), "call: found 0 x 128 x 8"),
        (context.replace("\"num_tokens\":2", "\"num_tokens\":0"), "num_tokens: found 0"),
        (context.replace("\"num_experts\":8", "\"num_experts\":2"), "loads: found 3"),
        (context.replace("\"rows\":2", "\"rows\":0"), "rows: found 0"),
        (context.replace("6_3_4", "9_3_4"), "9_3_4"),
        (context.replace("\"unix_s\":4", "\"unix_s\":18446744073709551615"), "unix_s: found"),
        (selection.replace("\"calls\":3", "\"calls\":0"), "calls: found 0"),
        (selection.replace("\"lost_ns\":3", "\"lost_ns\":31"), "lost_ns: found 31"),
        (selection.replace("incumbent", ""), "reason: found \"\""),
        (selection.replace("incumbent", &"a".repeat(33)), "reason: found"),
        (switch.replace("\"pairs\":12.0", "\"pairs\":-1.0"), "pairs: found -1"),
        (switch.replace("\"gain\":0.3", "\"gain\":1e999"), "out of range"),
        (switch.replace("\"gain\":0.3", "\"gain\":null"), "invalid type"),
        (calibration.replace("\"launch_ns\":1.5", "\"launch_ns\":-1.5"), "kernels: found"),
        (calibration.replace("\"bytes_per_ns\":0.1", "\"bytes_per_ns\":-1"), "bytes_per_ns"),
        (format!("{record}{}", " ".repeat(1 << 20)), "longer than 1048576 bytes"),
        ("\u{0}\u{7f}".into(), "expected value"),
    ];
    for (bad, expected) in cases {
        assert!(all.lines().all(|line| line != bad), "{bad}: not damaged");
        let mut history = History::in_memory();
        let text = format!("{bad}\n{all}{bad}");
        let summary: ImportSummary = history.import_jsonl(text.as_bytes()).unwrap();
        assert_eq!((summary.damaged, summary.taken, summary.records), (2, 6, 1), "{bad}");
        let lines: Vec<u64> = summary.first_damaged.iter().map(|line| line.number).collect();
        assert_eq!(lines, [1, 8]);
        let told = summary.first_damaged[0].to_string();
        assert!(told.starts_with("line 1: ") && told.contains(expected), "{told}, not {expected}");
        assert_eq!(content(&history), content(&whole()));
    }
}

#[test]
fn lines_that_are_no_text_are_damaged_lines_and_only_the_first_are_told() {
    let mut history = History::in_memory();
    let mut bytes = b"\xff\xfe\n".repeat(250);
    bytes.extend(export(&whole()).bytes());
    let summary = history.import_jsonl(bytes.as_slice()).unwrap();
    assert_eq!((summary.damaged, summary.first_damaged.len()), (250, 100));
    assert_eq!(content(&history), content(&whole()));
}

#[derive(Clone, Debug)]
enum Kept {
    Journal(usize, Box<Journal>),
    Calibration(usize, u64, f64),
}

fn kept() -> impl Strategy<Value = Kept> {
    let kernel = || (0..KERNELS.len()).prop_map(|k| KERNELS[k].parse().unwrap());
    let context = || prop_oneof![Just(1u64), Just(u64::MAX), any::<u64>()];
    let records = (context(), proptest::collection::vec(1u64.., 1..5), kernel()).prop_map(
        |(context, latencies, kernel)| vec![Record { kernel, ..record(context, &latencies) }],
    );
    let notes = (context(), 0u64..4, kernel(), 1usize..5).prop_map(
        |(context, unix_s, incumbent, num_tokens)| {
            let load = ContextLoad { tuple: "6_2_3".parse().unwrap(), rows: 3 };
            let loads = vec![load; num_tokens.min(8)];
            let (hidden_size, intermediate_size, num_experts) = (256, 128, 8);
            let call =
                ContextCall { hidden_size, intermediate_size, num_experts, num_tokens, loads };
            let bucket = "decode".into();
            vec![ContextNote { context, unix_s, bucket, call, incumbent }]
        },
    );
    let selections = (context(), kernel(), 1u64..9, 0u64..1 << 40, any::<bool>()).prop_map(
        |(context, kernel, calls, lost_ns, is_probe)| {
            let reason = if is_probe { "probe" } else { "incumbent" }.into();
            vec![SelectionCount { context, kernel, reason, calls, total_ns: 1 << 41, lost_ns }]
        },
    );
    let switches = (context(), 0u64..3, kernel(), kernel(), 0.0..1e3, -9.0..9.0).prop_map(
        |(context, unix_s, from, to, pairs, gain)| {
            vec![SwitchNote { context, unix_s, from, to, pairs, gain, log_wealth: gain / 3.0 }]
        },
    );
    let journal = (0usize..2, records, notes, selections, switches).prop_map(
        |(at, mut records, contexts, selections, switches)| {
            records.iter_mut().for_each(|record| record.environment = ids()[at].clone());
            Kept::Journal(at, Box::new(Journal { records, contexts, selections, switches }))
        },
    );
    prop_oneof![
        4 => journal,
        1 => (0usize..2, 0u64..5, 0.0f64..1e3).prop_map(|(at, unix_s, rate)| {
            Kept::Calibration(at, unix_s, rate)
        }),
    ]
}

fn history_of(everything: &[Kept]) -> History {
    let mut history = History::in_memory();
    history.register(&environment()).unwrap();
    for kept in everything {
        match kept {
            Kept::Journal(at, journal) => history.add(&ids()[*at], journal).unwrap(),
            Kept::Calibration(at, unix_s, rate) => {
                let stored = calibration(*rate, rate / 7.0);
                history.keep_calibration(&ids()[*at], &stored, *unix_s).unwrap();
            }
        }
    }
    history
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn import_of_export_is_the_history(everything in proptest::collection::vec(kept(), 0..12)) {
        let history = history_of(&everything);
        let lines = export(&history);
        let again = imported(&[&lines]);
        prop_assert_eq!(content(&again), content(&history));
        prop_assert_eq!(again.environments().unwrap(), history.environments().unwrap());
        prop_assert_eq!(export(&again), lines);
    }

    #[test]
    fn imports_merge_in_any_order(
        a in proptest::collection::vec(kept(), 0..8),
        b in proptest::collection::vec(kept(), 0..8),
        c in proptest::collection::vec(kept(), 0..8),
    ) {
        let [a, b, c] = [a, b, c].map(|kept| export(&history_of(&kept)));
        let sum = content(&imported(&[&a, &b, &c]));
        prop_assert_eq!(&content(&imported(&[&c, &b, &a])), &sum);
        let half = export(&imported(&[&b, &c]));
        prop_assert_eq!(content(&imported(&[&half, &a])), sum);
    }
}
