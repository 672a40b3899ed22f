use proptest::prelude::*;
use trellect_core::{BackendKind, Family, TokenRange, Variant, WorkspaceModel};

use super::*;
use crate::{Reason, SelectError, Verdict};

/// A request in owned form.
#[derive(Clone, Debug)]
struct Asked {
    num_tokens: usize,
    numeric: NumericClass,
    tuples: Vec<BitTuple>,
    workspace_limit: Option<u64>,
    memory_pressure: f64,
    top_expert_share: Option<f64>,
    available: Option<Vec<KernelId>>,
}

impl Asked {
    fn request(&self) -> Request<'_> {
        let call = call(self.num_tokens, self.numeric, &self.tuples);
        Request {
            memory_pressure: self.memory_pressure,
            top_expert_share: self.top_expert_share,
            available: self.available.as_deref(),
            ..Request::new(CallFacts { workspace_limit: self.workspace_limit, ..call })
        }
    }

    fn lists(&self, spec: &KernelSpec) -> bool {
        let Some(list) = &self.available else { return true };
        list.contains(&spec.id) || list.contains(&spec.id.plain())
    }

    /// Legality written down a second time, numeric class aside.
    fn can_be_served_by(&self, spec: &KernelSpec) -> bool {
        let tokens = spec.tokens.min <= self.num_tokens
            && self.num_tokens <= spec.tokens.max.unwrap_or(usize::MAX);
        let tuples = match spec.id.tuple {
            None => true,
            Some(only) => !self.tuples.is_empty() && self.tuples.iter().all(|t| *t == only),
        };
        let bytes =
            spec.workspace.fixed_bytes + spec.workspace.bytes_per_pair * 8 * self.num_tokens as u64;
        let workspace = bytes <= self.workspace_limit.unwrap_or(u64::MAX);
        self.lists(spec) && tokens && tuples && workspace
    }
}

fn any_tuple() -> impl Strategy<Value = BitTuple> {
    prop_oneof![Just(tuple(6, 2, 3)), Just(tuple(6, 3, 4)), Just(tuple(4, 4, 4))]
}

fn any_id() -> impl Strategy<Value = KernelId> {
    let variant = prop_oneof![Just(None), Just(Some("generic")), Just(Some("avx512"))]
        .prop_map(|name| name.map(|name| Variant::new(BackendKind::Cpu, name).unwrap()));
    (0usize..5, any::<bool>(), proptest::option::weighted(0.3, any_tuple()), variant).prop_map(
        |(family, fp32_acc, tuple, variant)| {
            let family = Family::ALL[family];
            let tuple = tuple.filter(|_| family == Family::Decode && !fp32_acc);
            KernelId { family, fp32_acc, tuple, variant }
        },
    )
}

fn any_spec() -> impl Strategy<Value = KernelSpec> {
    let max_tokens = prop_oneof![Just(None), Just(Some(1)), Just(Some(8))];
    (any_id(), 0usize..3, max_tokens, 0u64..100, 0u64..10).prop_map(
        |(id, class, max, fixed_bytes, bytes_per_pair)| KernelSpec {
            id,
            class: if id.fp32_acc { NumericClass::Exact } else { NumericClass::ALL[class] },
            tokens: TokenRange { min: 0, max },
            tile_n: 16,
            rows_per_decode: 4,
            workspace: WorkspaceModel { fixed_bytes, bytes_per_pair, max_pairs: None },
            capture_safe: true,
            deterministic: true,
        },
    )
}

fn any_candidates() -> impl Strategy<Value = Vec<KernelSpec>> {
    proptest::collection::vec(any_spec(), 0..16).prop_map(|mut specs| {
        specs.sort_by_key(|spec| spec.id);
        specs.dedup_by_key(|spec| spec.id);
        specs
    })
}

fn any_asked() -> impl Strategy<Value = Asked> {
    let num_tokens = prop_oneof![Just(1usize), 1usize..40, Just(512)];
    let tuples = proptest::collection::vec(any_tuple(), 0..3);
    let limit = proptest::option::of(0u64..200);
    let pressure = prop_oneof![3 => Just(0.5), 1 => Just(0.95)];
    let share = proptest::option::of(0.0..=1.0);
    let available = proptest::option::of(proptest::collection::vec(any_id(), 1..8));
    (num_tokens, 0usize..3, tuples, limit, pressure, share, available).prop_map(
        |(num_tokens, class, tuples, workspace_limit, pressure, share, available)| Asked {
            num_tokens,
            numeric: NumericClass::ALL[class],
            tuples,
            workspace_limit,
            memory_pressure: pressure,
            top_expert_share: share,
            available,
        },
    )
}

/// Index of a candidate, token count and latency. Few latencies, so that feedback often decides.
fn any_records() -> impl Strategy<Value = Vec<(usize, usize, f64)>> {
    let record = |kernel: usize, num_tokens: usize, base: u32| {
        (0..6).map(move |i| (kernel, num_tokens, f64::from(base) + 0.1 * f64::from(i)))
    };
    let num_tokens = prop_oneof![Just(1usize), Just(8), Just(24), Just(512)];
    proptest::collection::vec((0usize..16, num_tokens, 0u32..8), 0..40).prop_map(move |blocks| {
        blocks.into_iter().flat_map(|(k, tokens, base)| record(k, tokens, base)).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_pick_is_legal(
        asked in any_asked(),
        candidates in any_candidates(),
        rate in prop_oneof![Just(0.0), Just(0.5), Just(1.0)],
        records in any_records(),
    ) {
        let able: Vec<&KernelSpec> =
            candidates.iter().filter(|spec| asked.can_be_served_by(spec)).collect();
        let has = |class| able.iter().any(|spec| spec.class == class);
        let mut policy = policy(rate);
        for (kernel, num_tokens, latency_ms) in &records {
            let spec = candidates.get(*kernel);
            policy.record(spec.map_or(id("moe_trellis_swiglu"), |spec| spec.id), *num_tokens, *latency_ms).unwrap();
        }
        let got = match policy.select(&asked.request(), &candidates) {
            Ok(got) => got,
            Err(SelectError::NothingLegal { refusals }) => {
                prop_assert!(!able.iter().any(|spec| spec.class <= asked.numeric));
                prop_assert!(refusals.iter().map(|r| r.kernel).eq(candidates.iter().map(|c| c.id)));
                return Ok(());
            }
            Err(other) => panic!("{other}"),
        };
        let spec = able.iter().find(|spec| spec.id == got.kernel).expect("legal");
        prop_assert_eq!((spec.class, spec.tile_n), (got.class, got.tile_n));
        prop_assert!(able.iter().any(|spec| spec.id == got.baseline_kernel));
        prop_assert_eq!(got.explored, got.reason == Reason::Exploration);
        prop_assert_eq!(got.fallback_from.is_some(), got.message().is_some());
        if got.class != asked.numeric {
            prop_assert!(!has(asked.numeric) && got.fallback_from.is_some());
        }
        if got.numeric_downgrade() {
            prop_assert_eq!((asked.numeric, got.class), (NumericClass::Exact, NumericClass::Half));
        }
        match got.reason {
            Reason::FeedbackOptimization => prop_assert_ne!(got.kernel, got.baseline_kernel),
            Reason::Exploration => {}
            _ => prop_assert_eq!(got.kernel, got.baseline_kernel),
        }
        if asked.memory_pressure > 0.9 {
            prop_assert_eq!(got.kernel, got.baseline_kernel);
            prop_assert!(!got.explored);
        }
    }

    #[test]
    fn equal_seeds_agree(
        asked in proptest::collection::vec(any_asked(), 1..20),
        candidates in any_candidates(),
    ) {
        let (mut one, mut other) = (policy(0.5), policy(0.5));
        for asked in &asked {
            let request = asked.request();
            prop_assert_eq!(one.select(&request, &candidates), other.select(&request, &candidates));
        }
    }

    #[test]
    fn explaining_agrees_with_selecting(
        asked in any_asked(),
        candidates in any_candidates(),
        records in any_records(),
    ) {
        let mut policy = policy(0.0);
        for (kernel, num_tokens, latency_ms) in &records {
            if let Some(spec) = candidates.get(*kernel) {
                policy.record(spec.id, *num_tokens, *latency_ms).unwrap();
            }
        }
        let request = asked.request();
        let explanation = policy.explain(&request, &candidates);
        let decision = policy.select(&request, &candidates);
        prop_assert_eq!(explanation.as_ref().map(|e| e.decision), decision.as_ref().copied());
        let Ok(explanation) = explanation else { return Ok(()) };
        let kernels = explanation.considered.iter().map(|c| c.kernel);
        prop_assert!(kernels.eq(candidates.iter().map(|spec| spec.id)));
        for (considered, spec) in explanation.considered.iter().zip(&candidates) {
            let legal = asked.can_be_served_by(spec) && spec.class == asked.numeric;
            match &considered.verdict {
                Verdict::Chosen(reason) => {
                    prop_assert_eq!(*reason, explanation.decision.reason);
                    prop_assert_eq!(spec.id, explanation.decision.kernel);
                }
                Verdict::Alternative => prop_assert!(legal),
                Verdict::Refused(_) => prop_assert!(!legal),
            }
        }
    }
}
