//! Which context every call of a replay is of.
//!
//! A trace file is text: a line `TOKENS ROUTING COUNT`, such as `1 uniform 500`, stands for `COUNT`
//! calls in a row (1 where it is left out) of the matrix's context of that name. Empty lines and
//! lines that begin with `#` are skipped.

use std::path::{Path, PathBuf};

use chacha20::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::world::zipf;
use crate::matrix::Matrix;

/// Most calls that a trace may have.
const MAX_CALLS: usize = 1 << 24;

/// The contexts of a run's calls, by their index in the matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trace {
    /// Drawn with a run's seed: the matrix's first context most often, the others by Zipf's law.
    Zipf {
        /// Number of calls.
        calls: usize,
    },
    /// The same in every run.
    Recorded(Vec<usize>),
}

impl Trace {
    /// Reads a trace of `matrix`'s contexts.
    ///
    /// # Errors
    /// [`TraceError`]: the file cannot be read, or a line of it.
    pub fn read(path: &Path, matrix: &Matrix) -> Result<Self, TraceError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| TraceError::Io { path: path.into(), source })?;
        let mut calls = Vec::new();
        for (line, number) in text.lines().zip(1..) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |expected| TraceError::Line { line: number, found: line.into(), expected };
            let words: Vec<&str> = line.split_whitespace().collect();
            let (tokens, routing, count) = match *words.as_slice() {
                [tokens, routing] => (tokens, routing, "1"),
                [tokens, routing, count] => (tokens, routing, count),
                _ => return Err(wrong("TOKENS ROUTING [COUNT]")),
            };
            let context = matrix.contexts.iter().position(|context| {
                context.routing == routing && tokens.parse() == Ok(context.num_tokens)
            });
            let context = context.ok_or_else(|| wrong("tokens and routing of a context"))?;
            let count = count.parse::<usize>().ok().filter(|count| *count <= MAX_CALLS);
            let count = count.ok_or_else(|| wrong("a count of at most 16777216"))?;
            if calls.len() + count > MAX_CALLS {
                return Err(wrong("at most 16777216 calls in all"));
            }
            calls.extend(std::iter::repeat_n(context, count));
        }
        match calls.is_empty() {
            true => Err(TraceError::Empty { path: path.into() }),
            false => Ok(Self::Recorded(calls)),
        }
    }

    /// The context of every call in the run of a seed.
    pub(super) fn calls(&self, contexts: usize, seed: u64) -> Vec<usize> {
        match self {
            Self::Recorded(calls) => calls.clone(),
            Self::Zipf { calls } => {
                let sums = zipf(contexts);
                let total = sums.last().copied().unwrap_or(0.0);
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let mut draw = || rng.random::<f64>() * total;
                let context = |at: f64| sums.partition_point(|&sum| sum <= at).min(contexts - 1);
                (0..*calls).map(|_| context(draw())).collect()
            }
        }
    }
}

/// A trace that cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file.
    #[error("{path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line that says no call.
    #[error("line {line}: found `{found}`, expected {expected}")]
    Line {
        /// Its number, from 1 on.
        line: u64,
        /// The line.
        found: String,
        /// What it should say.
        expected: &'static str,
    },
    /// No call at all.
    #[error("{path}: found no call, expected at least one")]
    Empty {
        /// Which file.
        path: PathBuf,
    },
}
