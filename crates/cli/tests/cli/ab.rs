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
fn two_environments_of_one_kernel_are_two_processes() {
    let args = |kernel, more: &[&'static str]| {
        let fixed = ["ab", "--shape", "256x128x8x2", "--cold-mib", "1", "--iterations", "20"];
        trellect(fixed.into_iter().chain(["--baseline", kernel]).chain(more.iter().copied()))
    };
    let portable = "TRELLECT_MAX_ISA=generic";
    let report = args(BASE, &["--env-a", portable, "--threads", "1", "--json"]).json();
    assert_eq!((report["n"].as_u64(), report["baseline"].as_str()), (Some(20), Some(PORTABLE)));
    assert_eq!(report["baseline_env"], serde_json::json!([portable]));
    assert_eq!((&report["threads"], &report["optimized_env"]), (&1.into(), &serde_json::json!([])));
    for error in ["baseline_error", "optimized_error"] {
        assert!(report[error].as_f64().unwrap() < 2e-3, "{report}");
    }
    if has_vectors() {
        assert_eq!(report["verdict"], "faster");
        let slower = args(BASE, &["--env-b", portable, "--threads", "1"]);
        slower.fails(3, "moe_trellis_swiglu@cpu.generic (TRELLECT_MAX_ISA=generic) is slower");
    }
    args("decode", &["--env-a", portable]).fails(2, "--baseline: no kernel `decode`");
    args(BASE, &["--env-a", "TRELLECT_MAX_ISA=best"]).fails(1, "`best` is no instruction set");
    args(BASE, &["--env-a", "AVX2"]).fails(2, "NAME=VALUE");
}

#[test]
fn two_numbers_of_threads_are_two_processes() {
    let flags = ["--threads-a", "1", "--threads-b", "2", "--iterations", "10", "--json"];
    let fixed = ["ab", "--shape", "256x128x8x2", "--cold-mib", "1", "--baseline", BASE];
    let outcome = trellect(fixed.into_iter().chain(flags));
    // Which is faster depends on the machine.
    assert!(outcome.code == 0 || outcome.code == 3, "{outcome:?}");
    let report = outcome.object();
    assert_eq!((&report["baseline_threads"], &report["optimized_threads"]), (&1.into(), &2.into()));
    assert_eq!(report["baseline"], report["optimized"]);
    assert_eq!(report["threads"], serde_json::Value::Null);
    assert_eq!(report["samples_ms"].as_array().unwrap().len(), 10);
    ab(BASE, BASE, &["--threads-a", "1", "--threads-b", "2"]).fails(2, "cannot be used with");
    trellect(fixed.into_iter().chain(["--threads-a", "2"])).fails(2, "--threads-b");
}

#[test]
fn two_commands_print_their_times() {
    let commands = |a, b, more: &[&'static str]| {
        trellect(
            ["ab", "--cmd-a", a, "--cmd-b", b, "--iterations", "12"].iter().chain(more).copied(),
        )
    };
    let report = commands("echo begin; echo 3", "echo '{\"latency_ms\": 2}'", &["--json"]).json();
    assert_eq!((&report["speedup"], &report["verdict"]), (&1.5.into(), &"faster".into()));
    assert_eq!((&report["n"], &report["shape"]), (&12.into(), &serde_json::Value::Null));
    commands("echo 2", "echo 3", &[]).fails(3, "echo 3 is slower than echo 2: 0.667");
    let rows = "echo '{\"rows\": [{\"ms\": 1.25}]}'";
    let field = commands(rows, rows, &["--field", "/rows/0/ms"]);
    assert!(field.stdout.contains("1.2500 ms"), "{field:?}");
    commands("echo 1", rows, &[]).fails(1, "without /latency_ms; --field names another");
    commands("echo 1", "echo no >&2; exit 7", &[]).fails(1, "exit status: 7: no");
    commands("echo fast", "echo 1", &[]).fails(1, "--cmd-a `echo fast`: printed `fast` last");
    commands("true", "echo 1", &[]).fails(1, "printed nothing");
    commands("kill -9 $$", "echo 1", &[]).fails(1, "signal: 9");
    commands("echo 1", "echo 1", &["--field", "ms"]).fails(2, "JSON pointer");
    commands("echo 1", "echo 1", &["--tokens", "2"]).fails(2, "cannot be used with");
    trellect(["ab", "--cmd-a", "echo 1"]).fails(2, "--cmd-b");
}

/// What is measured counts when the user ends it, and nothing is left running.
#[cfg(unix)]
#[test]
fn an_interrupted_comparison_keeps_its_pairs() {
    use std::process::{Command, Stdio};

    let directory = tempfile::tempdir().unwrap();
    let told = directory.path().join("pids");
    let command = format!("echo $$ >> {}; sleep 0.01; echo 1", told.display());
    let child = Command::new(assert_cmd::cargo::cargo_bin("trellect"))
        .args(["ab", "--cmd-a", &command, "--cmd-b", &command, "--iterations", "1000000", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let runs = || std::fs::read_to_string(&told).map_or(0, |text| text.lines().count());
    let begun = (0..600).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        runs() >= 20
    });
    assert!(begun);
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["n"].as_u64().unwrap() >= 5, "{report}");
    let ended = runs();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(runs(), ended);
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
    trellect(["ab"]).fails(2, "--baseline");
}
