use trellect_core::NumericClass::{self, Exact, Half, Int8};

use super::*;
use crate::{Decision, Reason, SelectError};

#[derive(Debug)]
struct Case {
    num_tokens: usize,
    numeric: NumericClass,
    tuple: BitTuple,
    pressure: f64,
    available: &'static [&'static str],
    kernel: &'static str,
    downgrade: bool,
    message: &'static str,
}

const fn case(
    num_tokens: usize,
    numeric: NumericClass,
    available: &'static [&'static str],
    kernel: &'static str,
    message: &'static str,
) -> Case {
    let Ok(tuple) = BitTuple::new(4, 4, 4) else { unreachable!() };
    Case { num_tokens, numeric, tuple, pressure: 0.0, available, kernel, downgrade: false, message }
}

fn decide(case: &Case) -> Result<Decision, SelectError> {
    let available: Vec<KernelId> = case.available.iter().map(|name| id(name)).collect();
    let tuples = [case.tuple];
    let request = Request {
        memory_pressure: case.pressure,
        available: Some(&available),
        ..Request::new(call(case.num_tokens, case.numeric, &tuples))
    };
    policy(0.0).select(&request, &plain())
}

#[test]
fn unlisted_choices_fall_back() {
    let cases = [
        case(
            1,
            Half,
            &["moe_trellis_swiglu_prefill4", "moe_trellis_swiglu"],
            "moe_trellis_swiglu",
            "Selected kernel moe_trellis_swiglu_decode not available, \
             using moe_trellis_swiglu instead",
        ),
        case(
            64,
            Half,
            &["moe_trellis_swiglu_decode", "moe_trellis_swiglu_grouped"],
            "moe_trellis_swiglu_grouped",
            "Selected kernel moe_trellis_swiglu_large_batch not available, \
             using moe_trellis_swiglu_grouped instead",
        ),
        Case {
            tuple: tuple(6, 2, 3),
            ..case(
                1,
                Half,
                &["moe_trellis_swiglu_decode", "moe_trellis_swiglu"],
                "moe_trellis_swiglu",
                "Selected kernel moe_trellis_swiglu_decode_6_2_3 not available, \
                 using moe_trellis_swiglu instead",
            )
        },
        Case {
            tuple: tuple(6, 2, 3),
            ..case(
                1,
                Half,
                &["moe_trellis_swiglu_large_batch", "moe_trellis_swiglu_decode"],
                "moe_trellis_swiglu_decode",
                "Selected kernel moe_trellis_swiglu_decode_6_2_3 not available, \
                 using moe_trellis_swiglu_decode instead",
            )
        },
        Case {
            pressure: 0.95,
            ..case(
                4,
                Half,
                &["moe_trellis_swiglu_prefill4"],
                "moe_trellis_swiglu_prefill4",
                "Selected kernel moe_trellis_swiglu not available, \
                 using moe_trellis_swiglu_prefill4 instead",
            )
        },
        case(
            1,
            Exact,
            &["moe_trellis_swiglu_prefill4_fp32acc", "moe_trellis_swiglu_fp32acc"],
            "moe_trellis_swiglu_fp32acc",
            "Selected kernel moe_trellis_swiglu_decode_fp32acc not available, \
             using moe_trellis_swiglu_fp32acc instead",
        ),
    ];
    for case in &cases {
        check(case);
    }
}

#[test]
fn another_class_serves_only_where_the_one_asked_for_is_missing() {
    let cases = [
        case(
            1,
            Half,
            &["moe_trellis_swiglu_fp32acc", "moe_trellis_swiglu_decode_fp32acc"],
            "moe_trellis_swiglu_decode_fp32acc",
            "Selected kernel moe_trellis_swiglu_decode not available, \
             using moe_trellis_swiglu_decode_fp32acc instead (class exact, half was asked for)",
        ),
        case(
            4,
            Int8,
            &["moe_trellis_swiglu_fp32acc", "moe_trellis_swiglu"],
            "moe_trellis_swiglu",
            "Selected kernel moe_trellis_swiglu_prefill4 not available, \
             using moe_trellis_swiglu instead (class half, int8 was asked for)",
        ),
        case(
            4,
            Int8,
            &["moe_trellis_swiglu_fp32acc"],
            "moe_trellis_swiglu_fp32acc",
            "Selected kernel moe_trellis_swiglu_prefill4 not available, \
             using moe_trellis_swiglu_fp32acc instead (class exact, int8 was asked for)",
        ),
        Case {
            downgrade: true,
            ..case(
                1,
                Exact,
                &["moe_trellis_swiglu", "moe_trellis_swiglu_decode"],
                "moe_trellis_swiglu_decode",
                "Selected kernel moe_trellis_swiglu_decode_fp32acc not available, \
                 using moe_trellis_swiglu_decode instead",
            )
        },
        Case {
            downgrade: true,
            ..case(
                512,
                Exact,
                &["moe_trellis_swiglu_large_batch", "moe_trellis_swiglu"],
                "moe_trellis_swiglu",
                "Selected kernel moe_trellis_swiglu_fp32acc not available, \
                 using moe_trellis_swiglu instead",
            )
        },
        Case {
            downgrade: true,
            ..case(
                4,
                Exact,
                &["moe_trellis_swiglu_decode_fp32acc", "moe_trellis_swiglu_grouped"],
                "moe_trellis_swiglu_grouped",
                "Selected kernel moe_trellis_swiglu_prefill4_fp32acc not available, \
                 using moe_trellis_swiglu_grouped instead",
            )
        },
    ];
    for case in &cases {
        check(case);
    }
}

fn check(case: &Case) {
    let got = decide(case).unwrap();
    assert_eq!(got.kernel, id(case.kernel), "{case:?}");
    assert_eq!(got.reason, Reason::FallbackAvailability, "{case:?}");
    assert_eq!(got.message().as_deref(), Some(case.message), "{case:?}");
    assert_eq!(got.numeric_downgrade(), case.downgrade, "{case:?}");
    let wanted = got.fallback_from.unwrap();
    assert!(case.message.starts_with(&format!("Selected kernel {wanted} not")), "{case:?}");
    assert_eq!((got.baseline_kernel, got.explored), (got.kernel, false), "{case:?}");
}

#[test]
fn nothing_legal_says_why_of_every_candidate() {
    let none = case(2, Half, &["moe_trellis_swiglu_decode"], "", "");
    let SelectError::NothingLegal { refusals } = decide(&none).unwrap_err() else { panic!() };
    assert_eq!(refusals.len(), plain().len());
    let error = SelectError::NothingLegal { refusals: refusals[..2].to_vec() };
    assert_eq!(
        error.to_string(),
        "no kernel can serve this call: \
         moe_trellis_swiglu_decode: 2 tokens, computes 0 to 1; \
         moe_trellis_swiglu_decode_6_2_3: not among the kernels that the caller made available"
    );
    let error = policy(0.0).select(&one_token(Half), &[]).unwrap_err();
    assert_eq!(error.to_string(), "no kernel can serve this call: there are no candidates");
}

#[test]
fn specialised_kernels_need_a_known_tuple() {
    let special = "moe_trellis_swiglu_decode_6_2_3";
    let available = [id(special)];
    let request = Request { available: Some(&available), ..one_token(Half) };
    let error = policy(0.0).select(&request, &plain()).unwrap_err().to_string();
    let why = "the active experts' tuples are not known, computes only 6_2_3";
    assert!(error.contains(&format!("{special}: {why}")), "{error}");
}
