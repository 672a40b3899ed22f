//! The page and its charts: from recorded data, from next to nothing, and from hostile input.

mod common;

use common::{assert_well_formed, bench, cell, comparison, decision, log, recorded};
use trellect_report::{Data, Named, Report};
use trellect_tune::matrix::Matrix;

fn named<T>(data: T) -> Vec<Named<T>> {
    vec![Named { name: "a file".into(), data }]
}

/// Asserts what holds of every page, and returns it.
fn page(data: &Data) -> String {
    let report = Report::new(data);
    let html = report.html();
    for (name, svg) in report.charts() {
        assert_well_formed(&svg);
        for bad in ["NaN", "inf\"", "var(", "<script"] {
            assert!(!svg.contains(bad), "{bad} in {name}: {svg}");
        }
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(!name.is_empty() && name.chars().all(legal), "{name}");
    }
    // Nothing is fetched: links lead into the page, addresses are names of namespaces.
    assert!(!html.contains(" src="), "a source");
    assert!(html.split("href=\"").skip(1).all(|link| link.starts_with('#')));
    let addresses = html.split("http").skip(1);
    assert!(addresses.into_iter().all(|address| address.starts_with("://www.w3.org/2000/svg")));
    html
}

#[test]
fn no_data_say_what_to_run() {
    let html = page(&Data::default());
    assert!(!html.contains("<svg") && !html.contains("class=\"legend\""));
    for command in ["bench", "tune", "run", "ab"] {
        assert!(html.contains(&format!("<code>trellect {command} ")), "{command}");
    }
}

#[test]
fn recorded_data_have_every_section_and_nothing_missing() {
    let data = recorded();
    let html = page(&data);
    for section in ["regret", "latency", "decisions", "ab", "matrices", "history", "machine"] {
        assert!(html.contains(&format!("<section id=\"{section}\">")), "{section}");
        assert!(html.contains(&format!("href=\"#{section}\"")), "{section}");
    }
    assert!(!html.contains("Not in this report"));
    for text in [
        "Intel(R) Xeon(R) Processor, reads 28.2 GB/s",
        // The picks' regret as `trellect bench` prints it.
        "<b>1.6 %</b> lost by the selector&#39;s picks, 48 workloads",
        "1 token, 8 of 128 experts",
        "4.7 % less time in 135 pairs",
        "2 threads, class half, 48 workloads",
    ] {
        assert!(html.contains(text), "{text}");
    }
    let charts = Report::new(&data).charts();
    let count = |prefix: &str| charts.iter().filter(|(name, _)| name.starts_with(prefix)).count();
    let counts =
        ["latency-", "winners-", "uniform-", "picks-", "decisions-", "evidence-"].map(count);
    assert_eq!(counts, [6, 1, 1, 1, 6, 2]);
    let mut names: Vec<&str> = charts.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), charts.len());
    let evidence = charts.iter().filter(|(name, _)| name.starts_with("evidence-"));
    let pairs: Vec<usize> = evidence.map(|(_, svg)| svg.matches("<title>pair ").count()).collect();
    assert_eq!(pairs, [137, 96]);
}

#[test]
fn charts_of_one_bench_are_as_expected() {
    let cells = [
        cell("decode", 1, 0.5),
        cell("moe_trellis_swiglu@cpu.avx512", 1, 0.55),
        cell("moe_trellis_swiglu_prefill4@cpu.avx512", 16, 4.4),
        cell("moe_trellis_swiglu@cpu.avx512", 16, 4.0),
    ];
    let charts = Report::new(&Data { benches: named(bench(&cells)), ..Data::default() }).charts();
    for (name, svg) in charts.iter().filter(|(name, _)| !name.starts_with("picks")) {
        let path = format!("{}/tests/expected/{name}.svg", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::write(&path, svg).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(*svg, expected, "{name}: look at it, then run with UPDATE_EXPECTED=1");
    }
    assert_eq!(charts.len(), 4);
}

#[test]
fn texts_of_files_are_never_markup() {
    let evil = "<script>alert('x')</script>\"&\u{1}";
    let mut run = bench(&[cell(evil, 1, 1.0), cell("moe_trellis_swiglu", 1, 2.0)]);
    for cell in &mut run.cells {
        cell.shape = evil.into();
        cell.bits = evil.into();
    }
    run.machine.device = evil.into();
    run.machine.facts = vec![(evil.into(), evil.into())];
    let mut ab = comparison();
    ab.baseline = evil.into();
    ab.verdict = evil.into();
    ab.shape = Some(evil.into());
    let data = Data {
        benches: vec![Named { name: evil.into(), data: run }],
        comparisons: named(ab),
        ..Data::default()
    };
    let html = page(&data);
    assert!(!html.contains("<script>alert") && !html.contains("alert('x')"), "unescaped");
    assert_eq!(html.matches("<script>").count(), 1, "only the page's own");
    for (_, svg) in Report::new(&data).charts() {
        assert!(!svg.contains("alert('x')"));
    }
}

#[test]
fn one_kernel_on_one_workload_is_drawn() {
    let mut run = bench(&[cell("moe_trellis_swiglu_decode@cpu.avx512", 1, 0.7)]);
    let html = page(&Data { benches: named(run.clone()), ..Data::default() });
    assert!(html.contains("decode avx512") && html.contains("<svg"));
    // Without a pick, without ceilings, and with a look only: nothing to draw lines of.
    run.machine.ceilings.clear();
    run.cells[0].picked = false;
    run.cells[0].dropped = true;
    page(&Data { benches: named(run.clone()), ..Data::default() });
    run.cells.clear();
    assert!(!page(&Data { benches: named(run), ..Data::default() }).contains("<svg"));
}

#[test]
fn extreme_numbers_stay_within_the_charts() {
    let times = [(1, f64::MIN_POSITIVE), (2, 1.0), (4, 1e9), (8, 1e307), (usize::MAX, 1.0)];
    let cells = times.map(|(tokens, ms)| cell("moe_trellis_swiglu", tokens, ms));
    let mut ab = comparison();
    ab.speedup = 1e-300;
    ab.speedup_ci = [1e-300, 1e300];
    page(&Data { benches: named(bench(&cells)), comparisons: named(ab), ..Data::default() });
}

#[test]
fn long_logs_make_no_long_pages() {
    let decisions = |count: u64| (0..count).map(|ticket| decision(ticket, ticket % 40));
    let html = page(&Data { logs: named(log(decisions(100_000))), ..Data::default() });
    assert!(html.len() < 6_000_000, "{} bytes", html.len());
    assert!(html.contains("100000 logged decisions about 40 contexts, of which the 9"));
    // No decision, one decision, decisions without outcomes.
    page(&Data { logs: named(log(decisions(0))), ..Data::default() });
    page(&Data { logs: named(log(decisions(1))), ..Data::default() });
    let unknown = decisions(30)
        .map(|decision| trellect_select::adaptive::DecisionRecord { outcome: None, ..decision });
    page(&Data { logs: named(log(unknown.map(|d| common::of_context(d, 7)))), ..Data::default() });
}

#[test]
fn matrices_of_any_machine_are_drawn() {
    let records = ["cpu-2core-epyc", "cpu-2core-xeon", "h100"];
    let read = |machine: &str| {
        let path = common::records().join(machine).join("qwen3-30b-a3b-4-4-4.json");
        Named { name: machine.into(), data: Matrix::read(&path).unwrap() }
    };
    let data = Data { matrices: records.map(read).into(), ..Data::default() };
    let html = page(&data);
    assert!(html.contains("h100") && html.contains("NVIDIA H100 80GB HBM3"));
    assert_eq!(Report::new(&data).charts().len(), 3);
}
