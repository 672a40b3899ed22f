use proptest::prelude::*;

use super::*;
use crate::Bucket;
use crate::window::Window;

/// Mean and variance of the last `max_len` latencies by the textbook.
fn direct(latencies_ms: &[f64], max_len: usize) -> (f64, f64) {
    let last = &latencies_ms[latencies_ms.len().saturating_sub(max_len)..];
    let n = last.len() as f64;
    let mean = last.iter().sum::<f64>() / n;
    let squares: f64 = last.iter().map(|x| (x - mean).powi(2)).sum();
    (mean, if n > 1.0 { squares / (n - 1.0) } else { 0.0 })
}

fn filled(latencies_ms: &[f64], max_len: usize) -> Window {
    let mut window = Window::new(max_len, latencies_ms[0]);
    latencies_ms[1..].iter().for_each(|ms| window.push(*ms));
    window
}

fn any_latencies() -> impl Strategy<Value = Vec<f64>> {
    let latency = prop_oneof![
        8 => 0.9..1.1f64,
        1 => Just(0.0),
        1 => 1e-6..1e-3f64,
        1 => 1e3..1e9f64,
    ];
    proptest::collection::vec(latency, 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn moments_are_those_of_the_window(latencies in any_latencies(), max_len in 1usize..120) {
        let mut window = Window::new(max_len, latencies[0]);
        for end in 1..=latencies.len() {
            if end > 1 {
                window.push(latencies[end - 1]);
            }
            let (mean, variance) = direct(&latencies[..end], max_len);
            let got = window.timings();
            prop_assert_eq!(got.n, end.min(max_len));
            prop_assert!((got.mean_ms - mean).abs() <= 1e-8 * mean, "{got:?} {mean}");
            // Digits below the square of the mean's last one are the direct form's own errors.
            let tolerance = 1e-6 * variance + 1e-26 * mean * mean;
            prop_assert!((got.variance - variance).abs() <= tolerance, "{got:?} {variance}");
        }
    }

    #[test]
    fn within_a_window_the_order_matters_to_the_average_alone(
        latencies in proptest::collection::vec(0.5..2.0f64, 1..100),
        other_seed in any::<u64>(),
    ) {
        let mut shuffled = latencies.clone();
        let mut rng: ChaCha8Rng = rand::SeedableRng::seed_from_u64(other_seed);
        for i in (1..shuffled.len()).rev() {
            shuffled.swap(i, rng.random_range(0..=i));
        }
        let (one, other) = (filled(&latencies, 100), filled(&shuffled, 100));
        prop_assert_eq!(one.sorted(), other.sorted());
        let (one, other) = (one.timings(), other.timings());
        prop_assert!((one.mean_ms - other.mean_ms).abs() < 1e-12);
        prop_assert!((one.variance - other.variance).abs() < 1e-12);
    }
}

#[test]
fn a_spike_that_has_left_leaves_no_trace() {
    for spike in [1e6, 1e15, f64::MAX] {
        let mut window = filled(&[0.1; 20], 20);
        window.push(spike);
        (0..20).for_each(|_| window.push(0.1));
        let got = window.timings();
        assert_eq!((got.n, got.mean_ms, got.variance), (20, 0.1, 0.0), "{spike}");
    }
}

#[test]
fn a_window_of_one_holds_the_latest() {
    let got = filled(&[3.0, 1.0, 2.0], 1).timings();
    assert_eq!((got.n, got.mean_ms, got.variance), (1, 2.0, 0.0));
}

#[test]
fn the_average_moves_a_tenth_of_the_way() {
    let ema = filled(&[1.0, 2.0, 2.0], 2).timings().ema_ms;
    assert!((ema - 1.19).abs() < 1e-15, "{ema}");
}

#[test]
fn histories_are_kept_by_kernel_and_bucket() {
    let mut policy = policy(0.0);
    let (base, decode) = (id("moe_trellis_swiglu"), id("moe_trellis_swiglu_decode"));
    let variant = id("moe_trellis_swiglu@cuda.sm90");
    for ms in 1..=100 {
        policy.record(base, 17, f64::from(ms)).unwrap();
    }
    policy.record(base, 32, 101.0).unwrap();
    policy.record(base, 16, 5.0).unwrap();
    policy.record(variant, 33, 6.0).unwrap();
    policy.record(decode, 1, 7.0).unwrap();

    assert_eq!(policy.tracked_kernels(), 3);
    let table = policy.history();
    let keys: Vec<_> = table.iter().map(|row| (row.bucket, row.kernel, row.timings.n)).collect();
    let expected = [
        (Bucket::Decode, decode, 1),
        (Bucket::Prefill4, base, 1),
        (Bucket::Base, base, 100),
        (Bucket::LargeBatch, variant, 1),
    ];
    assert_eq!(keys, expected);
    let row = table[2];
    assert_eq!((row.timings.mean_ms, row.p50_ms), (51.5, 51.5), "2 to 101 remain");
    // numpy.percentile(numpy.arange(2, 102), 95)
    assert!((row.p95_ms - 96.05).abs() < 1e-12, "{}", row.p95_ms);
    assert_eq!((table[0].p50_ms, table[0].p95_ms), (7.0, 7.0));

    policy.reset_history();
    assert_eq!((policy.tracked_kernels(), policy.history()), (0, vec![]));
    assert_eq!(policy.config().history_len, 100);
}

#[test]
fn a_reset_lets_the_random_numbers_go_on() {
    let kernels = |policy: &mut RulePolicy| -> Vec<KernelId> {
        let mut pick = || policy.select(&one_token(NumericClass::Half), &plain()).unwrap().kernel;
        (0..50).map(|_| pick()).collect()
    };
    let (mut reset, mut kept) = (policy(0.5), policy(0.5));
    assert_eq!(kernels(&mut reset), kernels(&mut kept));
    reset.reset_history();
    assert_eq!(kernels(&mut reset), kernels(&mut kept));
}
