use proptest::prelude::*;
use trellect_core::{CallFacts, NumericClass, TokenRange, WorkspaceModel};

use super::{TUPLES, arm, features};
use crate::adaptive::{
    AdaptiveConfig, AdaptivePolicy, Arm, CallFeatures, Conditions, MachineLimits, Outcome,
};

/// A base kernel, one for a single token, one for a tuple, one with a workspace and an exact one.
fn arms() -> Vec<Arm> {
    let mut arms: Vec<Arm> = ["a", "b", "c", "d", "e"].map(|name| arm(name, 1e5)).into();
    arms[1].spec.tokens = TokenRange::ONE;
    arms[2].spec.id = arms[2].spec.id.with_tuple(TUPLES[0]);
    arms[3].spec.workspace = WorkspaceModel { fixed_bytes: 100, ..WorkspaceModel::default() };
    arms[4].spec.class = NumericClass::Exact;
    arms
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_choice_is_ever_illegal(
        seed in any::<u64>(),
        calls in proptest::collection::vec(
            (0usize..40, 1usize..3, proptest::option::of(0u64..200), 0usize..5, 0u32..40, any::<u32>()),
            1..300,
        ),
    ) {
        let config = AdaptiveConfig { seed, ..AdaptiveConfig::default() };
        let mut policy = AdaptivePolicy::new(config, arms(), MachineLimits::UNKNOWN).unwrap();
        for (num_tokens, tuples, workspace_limit, default, event, time) in calls {
            let exact = event % 7 == 0;
            let facts = CallFacts {
                num_tokens,
                num_pairs: 4,
                active_tuples: &TUPLES[..tuples],
                numeric: if exact { NumericClass::Exact } else { NumericClass::Half },
                workspace_limit,
            };
            let call = CallFeatures { facts, ..features(num_tokens) };
            let conditions = Conditions { default, may_probe: event % 3 != 0 };
            let Ok(choice) = policy.choose(&call, &conditions, u64::from(time)) else {
                continue;
            };
            prop_assert_eq!(policy.arms()[choice.kernel].spec.legal(&facts), Ok(()));
            let outcome = match event {
                1 => Outcome::Failed,
                2 => Outcome::LatencyNs(f64::NAN),
                _ => Outcome::LatencyNs(1e5 * (1.0 + choice.kernel as f64)),
            };
            policy.record(choice.ticket, outcome, u64::from(time));
            policy.observe_memory(u64::from(event) * 3, 120);
        }
    }
}
