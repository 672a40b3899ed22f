//! `trellect stats`: what has been chosen and learned, of the history.

mod live;
mod prometheus;
mod report;
mod screen;

use std::time::Duration;

use anyhow::Context;
use clap::Args;

use self::report::StatsReport;
use crate::history_file::HistoryArgs;
use crate::output;

const EXAMPLES: &str = "\
Latencies are of a context's first call: those of other calls are scaled by the work in them. What
was lost is an estimate: it goes by what was believed when the calls were made.

--watch follows what running processes write, every two seconds or so. On a terminal it redraws one view
until Ctrl-C; elsewhere the views follow each other.

Examples:
  trellect run --shape 256x128x8x2 --tokens 4 --repeat 50 --history history.sqlite
  trellect stats --history history.sqlite
  trellect stats --history history.sqlite --json
  trellect stats --history history.sqlite --prometheus
  trellect stats --history history.sqlite --watch 1 --times 2";

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
    /// Show the history again and again, every so many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
          value_parser = clap::value_parser!(u32).range(1..=3600),
          conflicts_with_all = ["json", "prometheus"])]
    watch: Option<u32>,
    /// End after so many views [default: at Ctrl-C].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..),
          requires = "watch")]
    times: Option<u32>,
}

/// Prints what the history holds.
///
/// # Errors
/// When there is no history, or it cannot be read.
pub(crate) fn run(args: &StatsArgs) -> anyhow::Result<()> {
    let (history, path) = args.history.open_existing()?;
    let read = || {
        let report = StatsReport::read(&path, &history);
        report.with_context(|| format!("reading {}", path.display()))
    };
    if let Some(seconds) = args.watch {
        return live::run(Duration::from_secs(seconds.into()), args.times, &read);
    }
    let report = read()?;
    match (args.json, args.prometheus) {
        (true, _) => output::print_json(&report),
        (_, true) => output::print(&prometheus::render(&report)),
        _ => output::print(&report.to_string()),
    }
}
