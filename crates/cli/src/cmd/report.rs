//! `trellect report`: what was measured and decided, as one page.

mod read;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde::Serialize;
use trellect_report::Report;

use crate::history_file::OptionalHistoryArgs;
use crate::{output, table};

const EXAMPLES: &str = "\
A FILE is what `bench --output`, `tune --record`, `run --log`, `history export` or `ab --json` has
written; each is recognised by its content. The page needs no network, and shows what there is.

Examples:
  trellect bench --shape 256x128x8x2 --tokens 1,8 --threads 1 --budget 3 --cold-mib 1 --output bench.json
  trellect report bench.json --history none
  trellect run --shape 256x128x8x2 --tokens 1,4 --repeat 100 --log decisions.jsonl --history h.sqlite
  trellect report bench.json decisions.jsonl --history h.sqlite --output page.html --svg charts --json";

/// The flags of `report`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ReportArgs {
    /// What to show: any number of files.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    history: OptionalHistoryArgs,
    /// The page to write.
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,
    /// Also write every chart as an SVG file into this directory.
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Print one JSON object about the report instead of text.
    #[arg(long)]
    json: bool,
}

/// What was written.
#[derive(Debug, Serialize)]
struct Written {
    output: String,
    bytes: usize,
    benches: usize,
    matrices: usize,
    logs: usize,
    histories: usize,
    comparisons: usize,
    /// The files of charts, with `--svg`.
    charts: Vec<String>,
}

/// Reads the files and writes the page.
///
/// # Errors
/// When a file cannot be read or is none that a report is made of, when there is nothing to show, or
/// when the page cannot be written.
pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<()> {
    for file in &args.files {
        ensure!(!is_same(file, &args.output), "{}: this would be overwritten", file.display());
    }
    let data = read::read(&args.files, &args.history)?;
    if data.is_empty() {
        bail!(
            "nothing to report: there is no history, and no file was named; `trellect report --help` says which"
        );
    }
    let report = Report::new(&data);
    let html = report.html();
    output::write_file(&args.output, html.as_bytes())?;
    let charts = match &args.svg {
        Some(directory) => write_charts(directory, &report)?,
        None => Vec::new(),
    };
    let written = Written {
        output: args.output.display().to_string(),
        bytes: html.len(),
        benches: data.benches.len(),
        matrices: data.matrices.len(),
        logs: data.logs.len(),
        histories: data.histories.len(),
        comparisons: data.comparisons.len(),
        charts,
    };
    match args.json {
        true => output::print_json(&written),
        false => output::print(&written.to_string()),
    }
}

/// Whether both are the same existing file.
fn is_same(one: &Path, other: &Path) -> bool {
    let both = one.canonicalize().ok().zip(other.canonicalize().ok());
    both.is_some_and(|(one, other)| one == other)
}

fn write_charts(directory: &Path, report: &Report) -> anyhow::Result<Vec<String>> {
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    let mut written = Vec::new();
    for (name, svg) in report.charts() {
        let path = directory.join(name).with_extension("svg");
        output::write_file(&path, svg.as_bytes())?;
        written.push(path.display().to_string());
    }
    Ok(written)
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { output, bytes, benches, matrices, logs, histories, comparisons, charts } = self;
        let parts = [
            (*benches, "benchmark"),
            (*matrices, "matrix"),
            (*logs, "log"),
            (*histories, "history"),
            (*comparisons, "comparison"),
        ];
        let parts = parts.into_iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> = parts
            .map(|(count, noun)| match (count, noun) {
                (1, noun) => format!("1 {noun}"),
                (count, "matrix") => format!("{count} matrices"),
                (count, "history") => format!("{count} histories"),
                (count, noun) => table::plural(count, noun),
            })
            .collect();
        writeln!(f, "{output}: {}, {}", parts.join(", "), table::bytes(*bytes as u64))?;
        if !charts.is_empty() {
            writeln!(f, "{} beside it", table::plural(charts.len(), "chart"))?;
        }
        Ok(())
    }
}
