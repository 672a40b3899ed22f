//! `trellect history`: the history as JSON Lines, and less of it.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;
use trellect_tune::history::{History, HistoryError, ImportSummary, Prune};

use crate::history_file::HistoryArgs;
use crate::{output, table};

const EXAMPLES: &str = "\
The fields of a line are described in docs/formats.md. An import leaves damaged lines out, names them
and ends with exit code 1; importing a file twice counts its latencies and selections twice.

Examples:
  trellect history import --history h.sqlite exported.jsonl
  trellect history export --history h.sqlite
  trellect history export --history h.sqlite --output exported.jsonl
  trellect history prune --history h.sqlite --older-than 365 --json";

/// The flags of `history`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct HistoryCommand {
    #[command(subcommand)]
    action: Action,
}

/// What is done.
#[derive(Debug, Subcommand)]
enum Action {
    /// Write everything that is kept as JSON, one object a line.
    Export(ExportArgs),
    /// Merge an export into the history.
    Import(ImportArgs),
    /// Remove what is old, or what was measured elsewhere.
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
struct ExportArgs {
    #[command(flatten)]
    history: HistoryArgs,
    /// The file to write [default: stdout].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print one JSON object about the export instead of text.
    #[arg(long, requires = "output")]
    json: bool,
}

#[derive(Debug, Args)]
struct ImportArgs {
    #[command(flatten)]
    history: HistoryArgs,
    /// The file to read; `-`: stdin.
    #[arg(value_name = "FILE")]
    input: PathBuf,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true))]
struct PruneArgs {
    #[command(flatten)]
    history: HistoryArgs,
    /// Remove records without a latency for so many days.
    #[arg(long, value_name = "DAYS", group = "what")]
    older_than: Option<u32>,
    /// Remove what was measured in this environment: its id, as an export has it.
    #[arg(long, value_name = "ID", group = "what")]
    environment: Option<String>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// What was done.
#[derive(Debug, Serialize)]
struct HistoryReport {
    history: String,
    action: &'static str,
    /// Records written, added or removed.
    records: u64,
    /// Records in the history now.
    records_left: u64,
    environments_left: usize,
    /// Lines of an import that were left out.
    damaged: u64,
}

/// Does what the flags ask for.
///
/// # Errors
/// When there is no such history, it cannot be read or written, or a line of an import is wrong.
pub(crate) fn run(command: &HistoryCommand) -> anyhow::Result<()> {
    match &command.action {
        Action::Export(args) => export(args),
        Action::Import(args) => import(args),
        Action::Prune(args) => prune(args),
    }
}

fn export(args: &ExportArgs) -> anyhow::Result<()> {
    let (history, path) = args.history.open_existing()?;
    let Some(target) = &args.output else {
        return match history.export_jsonl(io::stdout().lock()) {
            // The reader has seen enough.
            Err(HistoryError::Io(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            result => result.context("writing to stdout"),
        };
    };
    let file = File::create(target).with_context(|| format!("creating {}", target.display()))?;
    let mut writer = BufWriter::new(file);
    history.export_jsonl(&mut writer).with_context(|| format!("writing {}", target.display()))?;
    writer.flush().with_context(|| format!("writing {}", target.display()))?;
    let records = num_records(&history)?;
    report(&history, &path, HistoryAction { name: "export", records, damaged: 0 }, args.json)
}

fn import(args: &ImportArgs) -> anyhow::Result<()> {
    let (mut history, path) = args.history.open_for_writing()?;
    let name = args.input.display();
    let (name, summary) = match args.input.as_os_str() == "-" {
        true => ("stdin".into(), history.import_jsonl(io::stdin().lock())),
        false => {
            let file = File::open(&args.input).with_context(|| format!("opening {name}"))?;
            (name.to_string(), history.import_jsonl(BufReader::new(file)))
        }
    };
    let summary = summary.with_context(|| format!("reading {name}"))?;
    for line in &summary.first_damaged {
        output::note(&format!("{name}: {line}"));
    }
    let ImportSummary { records, damaged, .. } = summary;
    report(&history, &path, HistoryAction { name: "import", records, damaged }, args.json)?;
    ensure!(damaged == 0, "{name}: {} left out", table::plural(damaged as usize, "damaged line"));
    Ok(())
}

fn prune(args: &PruneArgs) -> anyhow::Result<()> {
    args.history.open_existing()?;
    let (mut history, path) = args.history.open_for_writing()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let what = match (&args.environment, args.older_than) {
        (Some(id), _) => Prune::Environment(id),
        (None, days) => {
            let seconds = u64::from(days.unwrap_or(0)) * 24 * 60 * 60;
            Prune::OlderThan(now.saturating_sub(seconds))
        }
    };
    let records = history.prune(what)? as u64;
    report(&history, &path, HistoryAction { name: "prune", records, damaged: 0 }, args.json)
}

/// An action and what came of it.
struct HistoryAction {
    name: &'static str,
    records: u64,
    damaged: u64,
}

fn report(history: &History, path: &Path, action: HistoryAction, json: bool) -> anyhow::Result<()> {
    let HistoryAction { name: action, records, damaged } = action;
    let report = HistoryReport {
        history: path.display().to_string(),
        action,
        damaged,
        records,
        records_left: num_records(history)?,
        environments_left: history.environments()?.len(),
    };
    if json {
        return output::print_json(&report);
    }
    let HistoryReport { history, records_left, environments_left, .. } = &report;
    output::print(&format!(
        "{action}: {}; {history} holds {} of {}\n",
        table::plural(records as usize, "record"),
        table::plural(*records_left as usize, "record"),
        table::plural(*environments_left, "environment"),
    ))
}

fn num_records(history: &History) -> anyhow::Result<u64> {
    Ok(history.environments()?.iter().map(|environment| environment.num_records).sum())
}
