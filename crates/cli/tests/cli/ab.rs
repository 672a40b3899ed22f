//! `ab`: verdicts, exit codes and bad input.

use crate::{Outcome, trellect};

const BASE: &str = "moe_trellis_swiglu";
const PORTABLE: &str = "moe_trellis_swiglu@cpu.generic";

fn ab(baseline: &str, optimized: &str, more: &[&str]) -> Outcome {
    let args = ["ab", "--shape", "256x128x8x2", "--cold-mib", "1", "--threads", "1"];
    let kernels = ["--baseline", baseline, "--optimized", optimized];
    trellect(args.into_iter().chain(kernels).chain(more.iter().copied()))
}

/// Whether this machine has anything faster than portable code.
fn has_vectors() -> bool {
    trellect(["doctor"]).stdout.contains("@cpu.avx")
}

#[test]
fn a_faster_kernel_is_called_so_and_a_slower_one_is_a_regression() {
    let faster = ab(PORTABLE, BASE, &["--iterations", "20", "--json"]);
    let report = faster.json();
    assert_eq!((report["n"].as_u64(), report["baseline"].as_str()), (Some(20), Some(PORTABLE)));
    assert_eq!(report["tokens"], 1);
    for error in ["baseline_error", "optimized_error"] {
        assert!(report[error].as_f64().unwrap() < 2e-3, "{report}");
    }
    if !has_vectors() {
        return;
    }
    assert_eq!(report["verdict"], "faster");
    assert!(report["speedup"].as_f64().unwrap() > 1.5 && report["p"].as_f64().unwrap() < 0.05);
    let interval = &report["speedup_ci"];
    assert!(interval[0].as_f64().unwrap() > 1.0 && interval[0].as_f64() <= interval[1].as_f64());
    let slower = ab(BASE, PORTABLE, &["--iterations", "20", "--tokens", "3"]);
    slower.fails(3, "is slower than");
    assert!(slower.stdout.contains("3 tokens, 20 pairs"), "{slower:?}");
}

#[test]
fn a_kernel_does_not_differ_from_itself() {
    let same = ab(PORTABLE, PORTABLE, &["--iterations", "40", "--confidence", "0.99999"]);
    assert_eq!(same.code, 0, "{same:?}");
    let verdicts = ["no difference shown", "underpowered"];
    assert!(verdicts.iter().any(|verdict| same.stdout.contains(verdict)), "{same:?}");
}

#[test]
fn a_sequential_test_ends_when_it_is_decided() {
    let decided = ab(PORTABLE, BASE, &["--until-decided", "--json"]).json();
    if has_vectors() {
        assert_eq!(decided["verdict"], "faster");
        assert!(decided["n"].as_u64().unwrap() < 1000, "{decided}");
    }
}

#[test]
fn bad_input_is_named() {
    ab("moe_trellis_swiglu_grouped2", BASE, &[]).fails(2, "near: moe_trellis_swiglu_grouped");
    ab(BASE, "decode", &[]).fails(2, "--optimized: no kernel `decode`");
    ab(BASE, BASE, &["--iterations", "0"]).fails(2, "--iterations");
    for confidence in ["0", "1", "NaN", "2"] {
        ab(BASE, BASE, &["--confidence", confidence]).fails(2, "between 0 and 1");
    }
    let decode = "moe_trellis_swiglu_decode";
    ab(BASE, decode, &["--tokens", "2"]).fails(1, "2 tokens, computes 0 to 1");
    trellect(["ab", "--baseline", BASE]).fails(2, "--optimized");
}
