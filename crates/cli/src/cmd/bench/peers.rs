//! Other engines' times, from a file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;
use trellect_tune::bench::BenchWorkload;

/// The first field of every file.
const FORMAT: &str = "trellect-peers";

/// What other engines took on one machine.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Peers {
    format: String,
    /// Where the figures are from.
    pub(super) source: String,
    /// The machine, with its ceilings.
    pub(super) machine: String,
    rows: Vec<Row>,
}

/// One engine's times.
#[derive(Clone, Debug, Deserialize)]
struct Row {
    engine: String,
    shape: String,
    /// A tuple as in `6_2_3`; `any` where no engine has the workload's own widths; none for a row
    /// that is there to be read.
    bits: Option<String>,
    threads: Option<usize>,
    /// Milliseconds by tokens.
    ms: BTreeMap<usize, f64>,
}

impl Peers {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let name = || path.display().to_string();
        let text = fs::read_to_string(path).with_context(name)?;
        let peers: Self = serde_json::from_str(&text).with_context(name)?;
        if peers.format != FORMAT {
            bail!("{}: its `format` is {}, expected {FORMAT}", name(), peers.format);
        }
        if peers.rows.iter().flat_map(|row| row.ms.values()).any(|&ms| ms.is_nan() || ms <= 0.0) {
            bail!("{}: a time that is not positive", name());
        }
        Ok(peers)
    }

    /// The engine to compare a workload with, and its milliseconds.
    pub(super) fn find(&self, workload: &BenchWorkload<'_>) -> Option<(&str, f64)> {
        let row = |bits: &str| {
            self.rows.iter().find_map(|row| {
                let same = row.shape == workload.shape
                    && row.threads == workload.threads
                    && row.bits.as_deref() == Some(bits);
                let ms = row.ms.get(&workload.tokens).filter(|_| same)?;
                Some((row.engine.as_str(), *ms))
            })
        };
        row(workload.bits).or_else(|| row("any"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_finds_its_own_widths_before_any() {
        let path = "../../bench-record/peers/cpu-2core-xeon.json";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let peers = Peers::read(&path).unwrap();
        let find = |bits, tokens, threads| {
            let (shape, threads) = ("glm-4.7-flash", Some(threads));
            let workload =
                BenchWorkload { shape, bits, tokens, threads, backend: "cpu", numeric: "half" };
            peers.find(&workload).map(|(_, ms)| ms)
        };
        assert_eq!(find("6_2_3", 16, 2), Some(26.5));
        assert_eq!(find("6_2_3", 512, 2), Some(130.0));
        assert_eq!(find("mixed", 512, 2), Some(130.0));
        assert_eq!(find("mixed", 16, 2), None);
        assert_eq!(find("6_2_3", 16, 1), None);
    }
}
