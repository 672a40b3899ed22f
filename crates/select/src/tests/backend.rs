//! Candidates as a backend lists them: several implementations, real workspaces.

use trellect_core::{TokenRange, WorkspaceModel};

use super::*;
use crate::{Reason, SelectError};

fn spec(name: &str, fixed_bytes: u64) -> KernelSpec {
    let id = id(name);
    KernelSpec {
        id,
        class: if id.fp32_acc { NumericClass::Exact } else { NumericClass::Half },
        tokens: TokenRange::ANY,
        tile_n: 16,
        rows_per_decode: 4,
        workspace: WorkspaceModel { fixed_bytes, ..WorkspaceModel::default() },
        capture_safe: true,
        deterministic: true,
    }
}

fn limited(num_tokens: usize, numeric: NumericClass, limit: u64) -> Request<'static> {
    let call = call(num_tokens, numeric, &[]);
    Request::new(CallFacts { workspace_limit: Some(limit), ..call })
}

fn pick(request: &Request<'_>, candidates: &[KernelSpec]) -> (String, Reason) {
    let got = policy(0.0).select(request, candidates).unwrap();
    (got.kernel.to_string(), got.reason)
}

#[test]
fn the_first_legal_implementation_serves() {
    let candidates = [
        spec("moe_trellis_swiglu_decode@cpu.avx512", 200),
        spec("moe_trellis_swiglu_decode@cpu.generic", 100),
        spec("moe_trellis_swiglu@cpu.generic", 50),
    ];
    let half = NumericClass::Half;
    let expected = |name: &str| (name.to_owned(), Reason::Heuristic);
    assert_eq!(
        pick(&one_token(half), &candidates),
        expected("moe_trellis_swiglu_decode@cpu.avx512")
    );
    assert_eq!(
        pick(&limited(1, half, 199), &candidates),
        expected("moe_trellis_swiglu_decode@cpu.generic")
    );
    for (listed, kernel) in [
        ("moe_trellis_swiglu_decode", "moe_trellis_swiglu_decode@cpu.avx512"),
        ("moe_trellis_swiglu_decode@cpu.generic", "moe_trellis_swiglu_decode@cpu.generic"),
    ] {
        let available = [id(listed)];
        let request = Request { available: Some(&available), ..one_token(half) };
        assert_eq!(pick(&request, &candidates), expected(kernel));
    }
}

#[test]
fn an_implementation_of_another_class_is_another_kernel() {
    let int8 = KernelSpec {
        class: NumericClass::Int8,
        ..spec("moe_trellis_swiglu_prefill4@cuda.int8", 0)
    };
    let candidates = [int8, spec("moe_trellis_swiglu_prefill4@cuda.fp16", 0)];
    for (numeric, kernel) in [
        (NumericClass::Half, "moe_trellis_swiglu_prefill4@cuda.fp16"),
        (NumericClass::Int8, "moe_trellis_swiglu_prefill4@cuda.int8"),
    ] {
        let request = Request::new(call(4, numeric, &[]));
        assert_eq!(pick(&request, &candidates), (kernel.to_owned(), Reason::Heuristic));
    }
    let error = policy(0.0).select(&one_token(NumericClass::Half), &[int8]).unwrap_err();
    assert!(error.to_string().contains("is of class int8, wanted half"), "{error}");
    let error = policy(0.0).select(&one_token(NumericClass::Exact), &[int8]).unwrap_err();
    assert!(matches!(error, SelectError::NothingLegal { .. }), "exact never becomes int8");
}

#[test]
fn a_specialised_kernel_that_the_backend_lacks_is_no_choice() {
    let candidates = [spec("moe_trellis_swiglu_decode", 0), spec("moe_trellis_swiglu", 0)];
    let tuples = [tuple(6, 2, 3)];
    let request = Request::new(call(1, NumericClass::Half, &tuples));
    let expected = ("moe_trellis_swiglu_decode".to_owned(), Reason::Heuristic);
    assert_eq!(pick(&request, &candidates), expected);
}

#[test]
fn a_specialised_kernel_of_another_class_is_no_choice() {
    let int8 = KernelSpec {
        class: NumericClass::Int8,
        ..spec("moe_trellis_swiglu_decode_6_2_3@cuda.int8", 0)
    };
    let candidates = [int8, spec("moe_trellis_swiglu_decode", 0), spec("moe_trellis_swiglu", 0)];
    let tuples = [tuple(6, 2, 3)];
    let request = Request::new(call(1, NumericClass::Half, &tuples));
    let expected = ("moe_trellis_swiglu_decode".to_owned(), Reason::Heuristic);
    assert_eq!(pick(&request, &candidates), expected);
}

#[test]
fn without_a_base_kernel_the_choices_own_family_falls_in() {
    let candidates = [
        spec("moe_trellis_swiglu_large_batch", 0),
        spec("moe_trellis_swiglu_decode", 0),
        spec("moe_trellis_swiglu_decode_6_2_3", 0),
    ];
    let tuples = [tuple(6, 2, 3)];
    let available = [candidates[0].id, candidates[1].id];
    let request = Request {
        available: Some(&available),
        ..Request::new(call(1, NumericClass::Half, &tuples))
    };
    let expected = ("moe_trellis_swiglu_decode".to_owned(), Reason::FallbackAvailability);
    assert_eq!(pick(&request, &candidates), expected);
}

#[test]
fn the_cause_of_a_fallback_is_told() {
    let base = spec("moe_trellis_swiglu", 10);
    let large = spec("moe_trellis_swiglu_large_batch", 1000);
    let short = KernelSpec { tokens: TokenRange { min: 0, max: Some(40) }, ..large };
    let half = NumericClass::Half;
    let name = base.id.to_string();
    for (request, candidates, reason) in [
        (limited(64, half, 999), vec![large, base], Reason::FallbackWorkspace),
        (limited(64, half, 1000), vec![short, base], Reason::FallbackLegality),
        (limited(64, half, 1000), vec![base], Reason::FallbackAvailability),
    ] {
        assert_eq!(pick(&request, &candidates), (name.clone(), reason));
    }
}

#[test]
fn tight_memory_prefers_the_smallest_workspace() {
    let candidates = [
        spec("moe_trellis_swiglu_large_batch", 1000),
        spec("moe_trellis_swiglu_grouped", 400),
        spec("moe_trellis_swiglu_prefill4", 500),
    ];
    let request =
        Request { memory_pressure: 0.95, ..Request::new(call(64, NumericClass::Half, &[])) };
    let expected = ("moe_trellis_swiglu_grouped".to_owned(), Reason::FallbackAvailability);
    assert_eq!(pick(&request, &candidates), expected);
}

#[test]
fn scarce_memory_never_lowers_the_class() {
    let exact = spec("moe_trellis_swiglu_decode_fp32acc", 100);
    let candidates = [spec("moe_trellis_swiglu_decode", 10), exact];
    let error = policy(0.0).select(&limited(1, NumericClass::Exact, 50), &candidates).unwrap_err();
    let text = error.to_string();
    let shortage = "needs 100 bytes of workspace, 50 are available";
    assert!(text.contains(shortage), "{text}");

    let error = policy(0.0).select(&limited(1, NumericClass::Half, 50), &[exact]).unwrap_err();
    assert!(error.to_string().contains(shortage), "a more exact kernel could have served: {error}");
}

#[test]
fn exact_is_downgraded_where_the_backend_has_no_exact_kernel() {
    let candidates = [spec("moe_trellis_swiglu@cpu.generic", 0)];
    let got = policy(1.0).select(&one_token(NumericClass::Exact), &candidates).unwrap();
    assert_eq!((got.kernel, got.numeric_downgrade()), (candidates[0].id, true));
    assert_eq!(got.reason, Reason::FallbackAvailability);
}
