//! The report in a real browser: made from recorded data, opened, looked at and used.

use std::path::Path;
use std::process::Command;

use crate::shell::{Failure, cargo, install_packages, root, run, succeeds};

const BROWSER: &str = "chromium";
const DRIVER: &str = "chromedriver";
/// Debian's names of both.
const PACKAGES: [&str; 2] = ["chromium", "chromium-driver"];

/// Files of every kind that a report is made of, below the records.
const DATA: [&str; 9] = [
    "report/bench.json",
    "report/decisions.jsonl",
    "report/history.jsonl",
    "report/ab-decode.json",
    "report/ab-grouped.json",
    "report/ab-large.json",
    "report/ab-base.json",
    "cpu-2core-epyc/glm-4.7-flash-mixed.json",
    "h100/qwen3-30b-a3b-4-4-4.json",
];

/// Makes a report and has `crates/report/tests/browser.py` check it. Screenshots are left in
/// `target/browser`. Never skipped: without the browser it fails.
pub(crate) fn browser() -> Result<(), Failure> {
    install()?;
    let folder = Path::new("target/browser");
    let page = folder.join("report.html");
    std::fs::create_dir_all(root().join(folder))
        .map_err(|source| Failure::Unreadable { path: folder.into(), source })?;
    let mut report = cargo(&["run", "--quiet", "--package", "trellect-cli", "--", "report"]);
    report.args(DATA.map(|file| Path::new("bench-record").join(file)));
    report.args(["--history", "none", "--output"]).arg(&page);
    run(report)?;
    let mut check = Command::new("python3");
    check.current_dir(root()).arg("crates/report/tests/browser.py").args([DRIVER, BROWSER]);
    check.arg(page).arg(folder);
    run(check)
}

fn install() -> Result<(), Failure> {
    let starts = |program: &str| {
        let mut version = Command::new(program);
        version.arg("--version");
        succeeds(version)
    };
    match starts(BROWSER) && starts(DRIVER) {
        true => Ok(()),
        false => install_packages(&format!("{BROWSER} or {DRIVER}"), &PACKAGES),
    }
}
