use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::SharedRulePolicy;

const THREADS: usize = 4;
const CALLS: usize = 500;

#[test]
fn clones_are_one_policy() {
    let shared = SharedRulePolicy::from(policy(0.1));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let policy = shared.clone();
            scope.spawn(move || {
                for _ in 0..CALLS {
                    let request = one_token(NumericClass::Half);
                    let kernel = policy.select(&request, &plain()).unwrap().kernel;
                    policy.record(kernel, 1, 1.0).unwrap();
                }
            });
        }
    });
    assert_eq!(shared.statistics().total_selections(), (THREADS * CALLS) as u64);
    assert_eq!(shared.tracked_kernels(), shared.history().len());
    shared.reset_history();
    assert_eq!((shared.tracked_kernels(), shared.statistics().total_selections()), (0, 0));
}

#[test]
fn it_is_the_policy_that_it_shares() {
    let shared = SharedRulePolicy::from(policy(0.5));
    let mut alone = policy(0.5);
    let request = one_token(NumericClass::Half);
    for call in 0..100 {
        let mut one = |kernel: KernelId| kernel.to_string().len() as f64;
        let mut other = one;
        let (got, expected) = match call % 2 {
            0 => (shared.select(&request, &plain()), alone.select(&request, &plain())),
            _ => (
                shared.select_with_benchmark(&request, &plain(), &mut one),
                alone.select_with_benchmark(&request, &plain(), &mut other),
            ),
        };
        assert_eq!(got, expected);
    }
    assert_eq!(shared.history(), alone.history());
    assert_eq!(&shared.statistics(), alone.statistics());
    assert_eq!((&shared.config(), shared.seed()), (alone.config(), alone.seed()));
    assert_eq!(shared.explain(&request, &plain()), alone.explain(&request, &plain()));
    shared.set_exploration_rate(2.0).unwrap_err();
    shared.set_exploration_rate(0.25).unwrap();
    assert_eq!(shared.config().exploration_rate, 0.25);
    shared.record(id("moe_trellis_swiglu"), 0, 1.0).unwrap_err();
}

#[test]
fn a_benchmark_may_use_the_policy() {
    let shared = SharedRulePolicy::from(policy(1.0));
    let mut benchmark = |kernel| {
        shared.record(kernel, 1, 1.0).unwrap();
        1.0
    };
    let request = one_token(NumericClass::Half);
    shared.select_with_benchmark(&request, &plain(), &mut benchmark).unwrap();
    assert_eq!(shared.statistics().ab_tests_run(), 1);
}

#[test]
fn a_panic_in_one_thread_is_not_everyones() {
    let shared = SharedRulePolicy::from(policy(1.0));
    let request = one_token(NumericClass::Half);
    let mut benchmark = |_| panic!("the kernel crashed");
    let select = || shared.select_with_benchmark(&request, &plain(), &mut benchmark);
    catch_unwind(AssertUnwindSafe(select)).unwrap_err();
    shared.poison();
    shared.select(&request, &plain()).unwrap();
    assert_eq!(shared.statistics().total_selections(), 1);
}
