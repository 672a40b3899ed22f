use rand::SeedableRng;
use statrs::distribution::{ContinuousCDF, StudentsT};
use trellect_testkit::statistics::{Welch, scipy};

use super::*;
use crate::feedback::is_faster;
use crate::welch::critical_value;
use crate::window::Window;
use crate::{Timings, WelchTest};

fn timings(latencies_ms: &[f64]) -> Timings {
    let mut window = Window::new(latencies_ms.len(), latencies_ms[0]);
    latencies_ms[1..].iter().for_each(|ms| window.push(*ms));
    window.timings()
}

fn compare(one: &[f64], other: &[f64]) -> Option<WelchTest> {
    WelchTest::compare(&timings(one), &timings(other))
}

struct Case {
    one: &'static [f64],
    other: &'static [f64],
    t: f64,
    degrees_of_freedom: f64,
    p: f64,
}

/// By SciPy 1.17.1: `r = scipy.stats.ttest_ind(one, other, equal_var=False)`, then `r.statistic`,
/// `r.df` and `r.pvalue`.
const SCIPY: [Case; 6] = [
    Case {
        one: &[1.0, 1.1, 0.9, 1.05, 0.95],
        other: &[1.2, 1.3, 1.1, 1.25, 1.15],
        t: -3.999999999999998,
        degrees_of_freedom: 8.000000000000002,
        p: 0.003949772803445334,
    },
    Case {
        one: &[0.5, 0.52, 0.48, 0.51, 0.49, 0.505],
        other: &[0.5, 0.6, 0.4, 0.55, 0.45, 0.7, 0.3],
        t: 0.016554385651454433,
        degrees_of_freedom: 6.163074764582431,
        p: 0.9873150631085807,
    },
    Case {
        one: &[2.0, 2.0, 2.0, 2.0, 2.0],
        other: &[2.1, 2.2, 2.0, 2.15, 2.05],
        t: -2.82842712474619,
        degrees_of_freedom: 4.0,
        p: 0.04742065558431961,
    },
    Case {
        one: &[1e-3, 1.2e-3, 0.9e-3, 1.1e-3, 1e-3, 1.05e-3, 0.98e-3],
        other: &[5.0, 5.1, 4.9, 5.05, 4.95],
        t: -141.39206810154093,
        degrees_of_freedom: 4.0000084331987615,
        p: 1.5006937860031233e-08,
    },
    Case {
        one: &[10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 18.0, 19.0],
        other: &[10.5, 11.5, 12.5, 13.5, 14.5],
        t: 1.6803361008336117,
        degrees_of_freedom: 12.876237623762375,
        p: 0.11697465835567195,
    },
    Case {
        one: &[1000.001, 1000.002, 1000.003, 1000.002, 1000.001],
        other: &[1000.002, 1000.003, 1000.004, 1000.003, 1000.002],
        t: -1.889822364938712,
        degrees_of_freedom: 8.000000000000002,
        p: 0.09545200900852287,
    },
];

#[test]
fn statistic_and_p_value_are_scipys() {
    // The last case has lost all but 10 digits to its common 1000 before either side computes.
    let close = |found: f64, expected: f64| (found - expected).abs() <= 1e-7 * expected.abs();
    for Case { one, other, t, degrees_of_freedom, p } in SCIPY {
        let test = compare(one, other).unwrap();
        assert!(close(test.t, t), "{test:?}: t {t}");
        assert!(close(test.degrees_of_freedom, degrees_of_freedom), "{test:?}");
        assert!(close(test.p_value(), p), "{test:?}: p {p}, found {}", test.p_value());
        assert_eq!(test.says_faster(), t < 0.0 && p < 0.05, "{test:?}");
        let swapped = compare(other, one).unwrap();
        assert!(close(swapped.t, -t) && close(swapped.p_value(), p), "{swapped:?}");
    }
}

#[test]
fn latencies_are_compared_as_scipy_does() {
    let close = |found: f64, expected: f64| (found - expected).abs() <= 1e-9 * expected.abs();
    for Welch { one, other, plain, .. } in scipy().welch {
        let test = compare(&one, &other).unwrap();
        assert!(close(test.t, plain.t), "{test:?} {plain:?}");
        assert!(close(test.degrees_of_freedom, plain.df), "{test:?} {plain:?}");
        assert!(close(test.p_value(), plain.p), "{test:?} {plain:?}");
    }
    for (degrees, quantile) in scipy().student_975 {
        let excess = critical_value(degrees) / quantile - 1.0;
        assert!((-3e-6..6e-3).contains(&excess), "{degrees}: {excess}");
    }
}

#[test]
fn critical_values_are_the_quantiles() {
    for tenths in 40..4000 {
        let degrees = f64::from(tenths) / 10.0;
        let exact = StudentsT::new(0.0, 1.0, degrees).unwrap().inverse_cdf(0.975);
        let excess = critical_value(degrees) / exact - 1.0;
        assert!((-3e-6..6e-3).contains(&excess), "{degrees}: {excess}");
        if tenths % 10 == 0 {
            assert!(excess < 3e-6, "{degrees}: {excess}");
        }
    }
    assert!((critical_value(1e12) - 1.959963984540054).abs() < 1e-9);
}

#[test]
fn latencies_that_do_not_vary_are_compared_by_their_means() {
    let test = compare(&[0.1; 5], &[0.2; 7]).unwrap();
    assert_eq!((test.t, test.degrees_of_freedom), (f64::NEG_INFINITY, 10.0));
    assert_eq!((test.says_faster(), test.p_value()), (true, 0.0));
    let test = compare(&[0.2; 5], &[0.1; 5]).unwrap();
    assert_eq!((test.t, test.says_faster(), test.p_value()), (f64::INFINITY, false, 0.0));
    for equal in [0.0, 0.1] {
        let test = compare(&[equal; 5], &[equal; 6]).unwrap();
        assert_eq!((test.t, test.says_faster(), test.p_value()), (0.0, false, 1.0));
    }
}

#[test]
fn too_little_and_too_much_are_not_compared() {
    assert_eq!(compare(&[1.0; 4], &[2.0; 100]), None);
    assert_eq!(compare(&[1.0; 100], &[2.0]), None);
    assert_eq!(compare(&[0.0, f64::MAX, 0.0, 1.0, 2.0], &[1.0; 5]), None);
}

/// How often two equal kernels, 1000 latencies of 3 % noise each, are found to differ in favour of
/// the one: at the end, and at any time when every pair of latencies is followed by a look.
fn false_verdicts(correlation: f64) -> (f64, f64) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (runs, mut last, mut ever) = (500, 0, 0);
    for _ in 0..runs {
        let (mut windows, mut state) = ([const { None::<Window> }; 2], [0.0; 2]);
        let (mut verdict, mut any) = (false, false);
        for _ in 0..1000 {
            for (window, state) in windows.iter_mut().zip(&mut state) {
                let fresh = (1.0 - correlation * correlation).sqrt() * noise(&mut rng);
                *state = correlation * *state + fresh;
                let latency_ms = 1.0 + 0.03 * *state;
                match window {
                    Some(window) => window.push(latency_ms),
                    None => *window = Some(Window::new(100, latency_ms)),
                }
            }
            let [Some(one), Some(other)] = &windows else { unreachable!("both were pushed to") };
            verdict = is_faster(&one.timings(), &other.timings());
            any |= verdict;
        }
        last += u32::from(verdict);
        ever += u32::from(any);
    }
    (f64::from(last) / f64::from(runs), f64::from(ever) / f64::from(runs))
}

#[test]
fn one_look_errs_as_rarely_as_promised_and_many_looks_do_not() {
    let (last, ever) = false_verdicts(0.0);
    let (correlated, correlated_ever) = false_verdicts(0.5);
    println!("independent: {last} {ever}; correlated: {correlated} {correlated_ever}");
    // 2.5 % and five standard deviations of a share of 500 runs.
    assert!(last < 0.06, "{last}");
    assert!(ever > 0.6 && correlated_ever > ever, "{ever} {correlated_ever}");
}
