//! What a selection and a record cost: `cargo bench -p trellect-select`.
//!
//! The history holds 1000 keys, 250 kernels in each of the four buckets, with 100 latencies each.
//! Each case is the median over batches of calls, in nanoseconds per call, with the 5th and the 95th
//! percentile of the batches. Keys and token counts are drawn beforehand.

use std::hint::black_box;
use std::time::Instant;

use trellect_core::{
    BackendKind, BitTuple, CallFacts, KernelId, KernelSpec, NumericClass, Variant,
};
use trellect_select::{Bucket, Reason, Request, RuleConfig, RulePolicy, Thresholds, catalogue};

const BATCHES: usize = 400;
const CALLS: usize = 1000;
const HISTORY_LEN: usize = 100;
const KERNELS: usize = 250;
const TOKENS: [usize; 4] = [1, 8, 24, 128];

fn main() {
    let specs = catalogue(&Thresholds::default());
    let kernels = kernels(&specs);
    let mut random = Random(1);

    let mut policy = policy(&kernels, |_| 1.0);
    assert_eq!(policy.history().len(), 4 * KERNELS);
    let keys: Vec<(KernelId, usize, f64)> = (0..CALLS)
        .map(|_| {
            let kernel = kernels[random.below(KERNELS)];
            (kernel, TOKENS[random.below(4)], 1.0 + random.noise())
        })
        .collect();
    report("record, random keys", || {
        for (kernel, num_tokens, latency_ms) in &keys {
            policy.record(*kernel, *num_tokens, *latency_ms).expect("valid");
        }
    });
    let few: Vec<(KernelId, usize, f64)> =
        keys.iter().map(|(_, tokens, ms)| (specs[0].id, *tokens, *ms)).collect();
    report("record, four keys", || {
        for (kernel, num_tokens, latency_ms) in &few {
            policy.record(*kernel, *num_tokens, *latency_ms).expect("valid");
        }
    });

    let tuples = [BitTuple::new(6, 2, 3).expect("widths within 1..=8")];
    let requests: Vec<Request<'_>> = (0..CALLS)
        .map(|_| {
            let num_tokens = TOKENS[random.below(4)];
            Request::new(CallFacts {
                num_tokens,
                num_pairs: 8 * num_tokens,
                active_tuples: &tuples,
                numeric: NumericClass::Half,
                workspace_limit: None,
            })
        })
        .collect();
    let mut empty = RulePolicy::new(config()).expect("valid");
    report("select, no history", || select_all(&mut empty, &requests, &specs));

    let standard = Bucket::ALL.map(|row| row.standard_kernel(NumericClass::Half));
    let is_choice = |id: KernelId| standard.contains(&id) || id.tuple.is_some();
    let mut settled = self::policy(&kernels, |id| if is_choice(id) { 0.9 } else { 1.0 });
    report("select, the heuristic is fastest", || select_all(&mut settled, &requests, &specs));

    let mut contested = self::policy(&kernels, |id| if is_choice(id) { 1.2 } else { 1.0 });
    report("select, feedback decides", || select_all(&mut contested, &requests, &specs));
    assert!(contested.statistics().selections(Reason::FeedbackOptimization) > 0);

    report("select and record what was selected", || {
        for (request, (_, _, latency_ms)) in requests.iter().zip(&keys) {
            let kernel = settled.select(request, &specs).expect("legal").kernel;
            settled.record(kernel, request.call.num_tokens, *latency_ms).expect("valid");
        }
    });
}

fn select_all(policy: &mut RulePolicy, requests: &[Request<'_>], specs: &[KernelSpec]) {
    for request in requests {
        black_box(policy.select(request, specs).expect("legal"));
    }
}

fn report(name: &str, mut batch: impl FnMut()) {
    for _ in 0..BATCHES / 10 {
        batch();
    }
    let mut ns_per_call: Vec<f64> = (0..BATCHES)
        .map(|_| {
            let begin = Instant::now();
            batch();
            begin.elapsed().as_nanos() as f64 / CALLS as f64
        })
        .collect();
    ns_per_call.sort_by(f64::total_cmp);
    let [low, median, high] = [5, 50, 95].map(|percent| ns_per_call[BATCHES * percent / 100]);
    println!("{name:36} p50 {median:7.1} ns  (p5 {low:.1}, p95 {high:.1})");
}

fn config() -> RuleConfig {
    RuleConfig { history_len: HISTORY_LEN, seed: Some(1), ..RuleConfig::default() }
}

/// A policy that has timed each of the kernels in each bucket.
fn policy(kernels: &[KernelId], mean_ms: impl Fn(KernelId) -> f64) -> RulePolicy {
    let mut random = Random(2);
    let mut policy = RulePolicy::new(config()).expect("valid");
    for _ in 0..HISTORY_LEN {
        for kernel in kernels {
            for num_tokens in TOKENS {
                let latency_ms = mean_ms(*kernel) + random.noise();
                policy.record(*kernel, num_tokens, latency_ms).expect("valid");
            }
        }
    }
    policy
}

/// The names of the catalogue, and implementations of them up to the number asked for.
fn kernels(specs: &[KernelSpec]) -> Vec<KernelId> {
    let variants = (0..).flat_map(|i| {
        let variant = Variant::new(BackendKind::Cuda, &format!("w8_s{i}")).expect("a legal name");
        specs.iter().map(move |spec| spec.id.with_variant(variant))
    });
    specs.iter().map(|spec| spec.id).chain(variants).take(KERNELS).collect()
}

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Evenly from −0.05 to 0.05.
    fn noise(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64 * 0.1 - 0.05
    }
}
