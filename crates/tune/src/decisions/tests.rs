use trellect_select::ContextKey;
use trellect_select::adaptive::{ChoiceReason, MemoryLevel, Outcome, Ticket};

use super::*;

fn record(ticket: u64, reason: ChoiceReason, outcome: Option<Outcome>) -> DecisionRecord {
    DecisionRecord {
        ticket: Ticket(ticket),
        now_ns: 5 * ticket,
        context: ContextKey(u64::MAX - ticket),
        legal: 7,
        legal_digest: 0x0123_4567_89ab_cdef,
        incumbent: (ticket > 3).then(|| "moe_trellis_swiglu".parse().unwrap()),
        chosen: "moe_trellis_swiglu_decode_6_2_3@cpu.avx2".parse().unwrap(),
        reason,
        propensity: 1.0 / 3.0,
        one_in: 1,
        predicted_ns: 1e5 / 7.0,
        predicted_sd: 0.1,
        outcome,
        memory: if ticket.is_multiple_of(2) { MemoryLevel::Normal } else { MemoryLevel::High },
        headroom_bytes: (ticket > 3).then_some(u64::MAX),
    }
}

fn log() -> DecisionLog {
    let decisions = vec![
        record(3, ChoiceReason::Probe, Some(Outcome::LatencyNs(1.0 / 3.0))),
        record(4, ChoiceReason::Incumbent, Some(Outcome::Failed)),
        record(9, ChoiceReason::Sweep, None),
    ];
    let shape = LayerShape::new(256, 128, 8).unwrap();
    let group = |numeric, decisions| GroupDecisions { shape, numeric, decisions, lost: 0 };
    DecisionLog {
        groups: vec![group(NumericClass::Half, decisions), group(NumericClass::Exact, vec![])],
    }
}

fn written(log: &DecisionLog) -> String {
    let mut lines = Vec::new();
    log.write(&mut lines).unwrap();
    String::from_utf8(lines).unwrap()
}

#[test]
fn a_log_reads_as_it_was_written() {
    for log in [log(), DecisionLog::default()] {
        assert_eq!(DecisionLog::read(written(&log).as_bytes()).unwrap(), log);
    }
}

#[test]
fn a_latency_that_is_no_number_is_not_known() {
    let mut odd = log();
    odd.groups[0].decisions[0].outcome = Some(Outcome::LatencyNs(f64::NAN));
    let read = DecisionLog::read(written(&odd).as_bytes()).unwrap();
    assert_eq!(read.groups[0].decisions[0].outcome, None);
}

#[test]
fn every_fault_is_named_with_its_line() {
    let whole = written(&log());
    let with = |from: &str, to: &str| {
        assert!(whole.contains(from), "{from} is not in {whole}");
        whole.replacen(from, to, 1)
    };
    for (text, expected) in [
        (String::new(), "no log of decisions"),
        ("{\"type\":\"end\",\"decisions\":0}".into(), "no log of decisions"),
        ("PK\u{3}\u{4}".into(), "line 1: expected value"),
        (with("trellect-decisions", "other"), "no log of decisions"),
        (with("\"version\":1", "\"version\":2"), "version 2: expected 1"),
        (with("\"type\":\"group\"", "\"type\":\"song\""), "line 2: unknown variant `song`"),
        (with("\"group\":0", "\"group\":1"), "line 2: group: found 1"),
        (with("\"lost\":0", "\"lost\":3"), "line 2: lost: found 3"),
        (with("\"hidden_size\":256", "\"hidden_size\":0"), "hidden_size: found 0 x 128 x 8"),
        (with("\"half\"", "\"fp8\""), "line 2: `fp8` is no numeric class"),
        (with("\"ticket\":4", "\"ticket\":3"), "line 4: ticket: found 3"),
        (with("0.3333333333333333,\"one_in", "0,\"one_in"), "propensity: found 0"),
        (with("\"one_in\":1", "\"one_in\":0"), "line 3: one_in: found 0"),
        (with("fffffffffffffffc", "fc"), "line 3: context: found fc"),
        (with("_decode_6_2_3", "_dream"), "line 3: `moe_trellis_swiglu_dream@cpu.avx2` is no"),
        (with("\"moe_trellis_swiglu\"", "\"fast\""), "line 4: incumbent: found fast"),
        (with("\"probe\"", "\"whim\""), "line 3: `whim` is no reason"),
        (with("\"memory\":\"high\"", "\"memory\":\"low\""), "line 3: unknown variant `low`"),
        (with("\"failed\":false", "\"failed\":true"), "line 3: latency_ns: found 0.33"),
        (with("\"legal\":7", "\"legal\":7,\"more\":1"), "line 3: unknown field `more`"),
        (with("\"decisions\":3", "\"decisions\":4"), "line 7: the end of 4 decisions, found after 3"),
        (format!("{whole}{whole}"), "line 7: the end of 3 decisions"),
        (with("{\"type\":\"end\"", &format!("{}{{\"type\":\"end\"", " ".repeat(1 << 20))), "longer"),
        (whole.replacen("{\"type\":\"group\"", "{\"type\":\"header\",\"format\":\"trellect-decisions\",\"version\":1}\n{\"type\":\"group\"", 1), "line 2: format: found"),
    ] {
        let error = DecisionLog::read(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}, not {expected}");
    }
}

/// As a process leaves it that was killed while it wrote.
#[test]
fn a_log_cut_anywhere_is_refused() {
    let whole = written(&log());
    for end in 0..whole.len() - 1 {
        assert!(DecisionLog::read(&whole.as_bytes()[..end]).is_err(), "{end}");
    }
}
