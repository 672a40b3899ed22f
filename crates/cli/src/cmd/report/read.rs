//! Reading whatever a report is made of: a file is recognised by its first line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;
use trellect_report::{Comparison, Data, Environment, Named};
use trellect_tune::bench::{self, BenchRun};
use trellect_tune::decisions::{self, DecisionLog};
use trellect_tune::history::History;
use trellect_tune::matrix::{self, Matrix};

use crate::history_file::OptionalHistoryArgs;
use crate::table;

const EXPECTED: &str = "expected what `bench --output`, `tune --record`, `run --log`, `history export` or \
                        `ab --json` writes";

/// What a file is.
enum Kind {
    Bench,
    Matrix,
    Log,
    History,
    HistoryExport,
    Comparison,
}

/// Reads the files and the history.
///
/// # Errors
/// The first file that cannot be read or is of no known kind, or a history that cannot be read.
pub(super) fn read(files: &[PathBuf], history: &OptionalHistoryArgs) -> anyhow::Result<Data> {
    let mut data = Data::default();
    for file in files {
        let context = || format!("reading {}", file.display());
        take(&mut data, file).with_context(context)?;
    }
    if let Some((history, path)) = history.open_existing()? {
        let environments = environments(&history);
        let environments = environments.with_context(|| format!("reading {}", path.display()))?;
        if !environments.is_empty() {
            data.histories.push(Named { name: name(&path), data: environments });
        }
    }
    Ok(data)
}

fn take(data: &mut Data, path: &Path) -> anyhow::Result<()> {
    let name = name(path);
    match kind(path)? {
        Kind::Bench => data.benches.push(Named { name, data: BenchRun::read(path)? }),
        Kind::Matrix => data.matrices.push(Named { name, data: Matrix::read(path)? }),
        Kind::Log => {
            let data_of = DecisionLog::read(BufReader::new(File::open(path)?))?;
            data.logs.push(Named { name, data: data_of });
        }
        Kind::History => bail!("a history is named with --history"),
        Kind::HistoryExport => {
            let mut history = History::in_memory();
            let summary = history.import_jsonl(BufReader::new(File::open(path)?))?;
            if let Some(line) = summary.first_damaged.first() {
                let lines = table::plural(summary.damaged as usize, "damaged line");
                bail!("{lines}; first, {line}");
            }
            data.histories.push(Named { name, data: environments(&history)? });
        }
        Kind::Comparison => data.comparisons.push(Named { name, data: comparison(path)? }),
    }
    Ok(())
}

fn kind(path: &Path) -> anyhow::Result<Kind> {
    let mut file = BufReader::new(File::open(path)?);
    let mut start = Vec::new();
    file.by_ref().take(16).read_to_end(&mut start)?;
    if start == b"SQLite format 3\0" {
        return Ok(Kind::History);
    }
    file.rewind()?;
    let mut line = Vec::new();
    file.read_until(b'\n', &mut line)?;
    if line.trim_ascii().is_empty() {
        bail!("an empty line or file: {EXPECTED}");
    }
    // The first line of JSON Lines is a value of its own; else the whole file is one.
    let value: Value = match serde_json::from_slice(&line) {
        Ok(value) => value,
        Err(_) => {
            file.read_to_end(&mut line)?;
            let value = serde_json::from_slice(&line);
            value.with_context(|| format!("no JSON: {EXPECTED}"))?
        }
    };
    let kind = value["type"].as_str().unwrap_or_default();
    Ok(match value["format"].as_str() {
        Some(bench::FORMAT) => Kind::Bench,
        Some(matrix::FORMAT) => Kind::Matrix,
        Some(decisions::FORMAT) => Kind::Log,
        Some(other) => bail!("its `format` is {other}: {EXPECTED}"),
        None if ["environment", "record", "context"].contains(&kind) => Kind::HistoryExport,
        None if value.get("speedup").is_some() => Kind::Comparison,
        None => bail!("JSON of something else: {EXPECTED}"),
    })
}

fn comparison(path: &Path) -> anyhow::Result<Comparison> {
    let comparison: Comparison = serde_json::from_reader(BufReader::new(File::open(path)?))?;
    match comparison.fault() {
        None => Ok(comparison),
        Some((field, found)) => bail!("{field}: found {found}, expected a number above 0"),
    }
}

fn environments(history: &History) -> anyhow::Result<Vec<Environment>> {
    let mut environments = Vec::new();
    for summary in history.environments()? {
        let journal = history.journal(&summary.id)?;
        environments.push(Environment { summary, journal });
    }
    Ok(environments)
}

/// What a reader of the report knows the file by.
fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let folder = path.parent().and_then(Path::file_name).map(|folder| folder.to_string_lossy());
    match folder {
        Some(folder) if !folder.is_empty() => format!("{folder}/{name}"),
        _ => name.into_owned(),
    }
}
