use proptest::prelude::*;

use super::*;
use crate::Reason;

/// What happens to a policy between two selections.
#[derive(Clone, Debug)]
enum Event {
    /// So many latencies of the kernel at this position of the full list.
    Record {
        kernel: usize,
        num_tokens: usize,
        latency_ms: f64,
        times: usize,
    },
    /// Another list of candidates: some left out, the others turned round.
    Candidates {
        keep: u32,
        turn: usize,
    },
    Reset,
}

fn any_event() -> impl Strategy<Value = Event> {
    let tokens = prop_oneof![Just(1usize), Just(8), Just(24), Just(100)];
    let record = (0usize..11, tokens, 1u32..4, 1usize..9);
    prop_oneof![
        12 => record.prop_map(|(kernel, num_tokens, tenths, times)| Event::Record {
            kernel,
            num_tokens,
            latency_ms: f64::from(tenths) / 10.0,
            times,
        }),
        4 => (any::<u32>(), 0usize..11).prop_map(|(keep, turn)| Event::Candidates { keep, turn }),
        1 => Just(Event::Reset),
    ]
}

proptest! {
    /// A selection goes by what earlier ones looked up and found; explaining does everything afresh.
    #[test]
    fn what_is_remembered_equals_what_is_recomputed(
        events in proptest::collection::vec(any_event(), 1..120),
    ) {
        let all = plain();
        let config = RuleConfig { exploration_rate: 0.0, history_len: 20, ..RuleConfig::default() };
        let mut policy = RulePolicy::new(config).unwrap();
        let (mut candidates, mut random) = (all.clone(), 0u64);
        for event in events {
            match event {
                Event::Record { kernel, num_tokens, latency_ms, times } => {
                    for _ in 0..times {
                        // A spread, so that some differences are significant and some are not.
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let spread = (random >> 56) as f64 / 256.0;
                        let latency_ms = latency_ms * (1.0 + spread);
                        policy.record(all[kernel].id, num_tokens, latency_ms).unwrap();
                    }
                }
                Event::Candidates { keep, turn } => {
                    candidates = all.clone();
                    candidates.rotate_left(turn);
                    candidates.retain(|spec| {
                        let at = all.iter().position(|other| other.id == spec.id).unwrap();
                        keep >> at & 1 == 1 || spec.id == id("moe_trellis_swiglu")
                    });
                }
                Event::Reset => policy.reset_history(),
            }
            for num_tokens in [1, 8, 24, 100] {
                for tuples in [&[][..], &[tuple(6, 2, 3)]] {
                    let request = Request::new(call(num_tokens, NumericClass::Half, tuples));
                    let afresh = policy.explain(&request, &candidates).unwrap().decision;
                    for _ in 0..2 {
                        prop_assert_eq!(policy.select(&request, &candidates).unwrap(), afresh);
                    }
                }
            }
        }
    }
}

/// The property above would hold where feedback never decided.
#[test]
fn feedback_decides_again_after_every_change() {
    let (all, mut policy) = (plain(), policy(0.0));
    let (decode, base) = (id("moe_trellis_swiglu_decode"), id("moe_trellis_swiglu"));
    let mut select = |decode_ms: f64, base_ms: f64| {
        for _ in 0..100 {
            policy.record(decode, 1, decode_ms).unwrap();
            policy.record(base, 1, base_ms).unwrap();
        }
        let decision = policy.select(&one_token(NumericClass::Half), &all).unwrap();
        (decision.kernel, decision.reason)
    };
    assert_eq!(select(1.0, 0.5), (base, Reason::FeedbackOptimization));
    assert_eq!(select(0.4, 0.5), (decode, Reason::Heuristic));
    assert_eq!(select(0.4, 0.3), (base, Reason::FeedbackOptimization));
}
