//! `trellect stats`: what has been chosen and learned, of the history.

mod prometheus;
mod report;

use anyhow::Context;
use clap::Args;

use self::report::StatsReport;
use crate::history_file::HistoryArgs;
use crate::output;

const EXAMPLES: &str = "\
Latencies are of a context's first call: those of other calls are scaled by the work in them. What
was lost is an estimate: it goes by what was believed when the calls were made.

Examples:
  trellect run --shape 256x128x8x2 --tokens 4 --repeat 50 --history history.sqlite
  trellect stats --history history.sqlite
  trellect stats --history history.sqlite --json
  trellect stats --history history.sqlite --prometheus";

/// The flags of `stats`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    history: HistoryArgs,
    /// Print one JSON object instead of text.
    #[arg(long, conflicts_with = "prometheus")]
    json: bool,
    /// Print Prometheus' text format instead.
    #[arg(long)]
    prometheus: bool,
}

/// Prints what the history holds.
///
/// # Errors
/// When there is no history, or it cannot be read.
pub(crate) fn run(args: &StatsArgs) -> anyhow::Result<()> {
    let (history, path) = args.history.open_existing()?;
    let report = StatsReport::read(&path, &history);
    let report = report.with_context(|| format!("reading {}", path.display()))?;
    match (args.json, args.prometheus) {
        (true, _) => output::print_json(&report),
        (_, true) => output::print(&prometheus::render(&report)),
        _ => output::print(&report.to_string()),
    }
}
