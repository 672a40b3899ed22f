//! What `ab` prints. The field names are stable; `docs/cli.md` explains them.

use std::fmt;

use anyhow::bail;
use serde::Serialize;
use trellect_tune::bench::ab::{Effect, Verdict, WORTH_KNOWING, effect};

use super::pairs::Found;
use super::{AbArgs, BackendArg};
use crate::table;

/// What is known of one side.
#[derive(Debug)]
pub(super) struct SideReport {
    /// The kernel, or the command.
    pub(super) name: String,
    pub(super) threads: Option<usize>,
    /// Variables of its own, as `NAME=VALUE`.
    pub(super) environment: Vec<String>,
    pub(super) error: Option<f64>,
}

/// What was found.
#[derive(Debug, Serialize)]
pub(super) struct AbReport {
    baseline: String,
    optimized: String,
    shape: Option<String>,
    bits: Option<String>,
    tokens: Option<usize>,
    backend: Option<&'static str>,
    threads: Option<usize>,
    baseline_threads: Option<usize>,
    optimized_threads: Option<usize>,
    baseline_env: Vec<String>,
    optimized_env: Vec<String>,
    confidence: f64,
    until_decided: bool,
    #[serde(flatten)]
    pub(super) effect: Effect,
    baseline_error: Option<f64>,
    optimized_error: Option<f64>,
    samples_ms: Vec<(f64, f64)>,
}

impl AbReport {
    /// Judges what was found.
    ///
    /// # Errors
    /// Without a pair.
    pub(super) fn new(
        args: &AbArgs,
        [baseline, optimized]: [SideReport; 2],
        Found { pairs, decided }: &Found,
    ) -> anyhow::Result<Self> {
        let Some(mut effect) = effect(pairs, args.confidence) else {
            bail!("ended before the first pair");
        };
        if args.until_decided {
            // The interval does not know that one stopped when it looked best.
            effect.verdict = match (decided, effect.more_pairs) {
                (Some(true), _) => Verdict::Faster,
                (Some(false), _) => Verdict::Slower,
                (None, 0) => Verdict::NoDifferenceShown,
                (None, _) => Verdict::Underpowered,
            };
        }
        let of_kernels = args.cmd_a.is_none();
        let backend = match args.backend {
            BackendArg::Cpu => "cpu",
            #[cfg(feature = "cuda")]
            BackendArg::Cuda => "cuda",
        };
        Ok(Self {
            baseline: baseline.name,
            optimized: optimized.name,
            shape: of_kernels.then(|| args.shape.name.clone()),
            bits: of_kernels.then(|| args.bits.to_string()),
            tokens: of_kernels.then_some(args.tokens),
            backend: of_kernels.then_some(backend),
            threads: baseline.threads.filter(|_| baseline.threads == optimized.threads),
            baseline_threads: baseline.threads,
            optimized_threads: optimized.threads,
            baseline_env: baseline.environment,
            optimized_env: optimized.environment,
            confidence: args.confidence,
            until_decided: args.until_decided,
            effect,
            baseline_error: baseline.error,
            optimized_error: optimized.error,
            samples_ms: pairs.clone(),
        })
    }

    /// What has become worse.
    pub(super) fn regression(&self) -> String {
        let [baseline, optimized] = self.labels();
        format!("{optimized} is slower than {baseline}: {:.3} of its speed", self.effect.speedup)
    }

    /// The sides' names, with what else tells them apart.
    fn labels(&self) -> [String; 2] {
        let differ = self.baseline_threads != self.optimized_threads;
        let label = |name: &String, threads: Option<usize>, environment: &[String]| {
            let threads = threads.filter(|_| differ).map(|count| table::plural(count, "thread"));
            let facts: Vec<String> =
                threads.into_iter().chain(environment.iter().cloned()).collect();
            match facts.is_empty() {
                true => name.clone(),
                false => format!("{name} ({})", facts.join(", ")),
            }
        };
        [
            label(&self.baseline, self.baseline_threads, &self.baseline_env),
            label(&self.optimized, self.optimized_threads, &self.optimized_env),
        ]
    }
}

impl fmt::Display for AbReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Effect { n, baseline_ms, optimized_ms, speedup, speedup_ci, t, p, verdict, more_pairs } =
            &self.effect;
        let pairs = table::plural(*n, "pair");
        if let (Some(shape), Some(bits), Some(tokens)) = (&self.shape, &self.bits, self.tokens) {
            write!(f, "{shape} {bits}, {}, ", table::plural(tokens, "token"))?;
        }
        writeln!(f, "{pairs}")?;
        let [baseline, optimized] = self.labels();
        let error =
            |error: Option<f64>| error.map_or_else(String::new, |e| format!(", error {e:.1e}"));
        writeln!(f, "  baseline   {baseline_ms:.4} ms{}  {baseline}", error(self.baseline_error))?;
        writeln!(
            f,
            "  optimized  {optimized_ms:.4} ms{}  {optimized}",
            error(self.optimized_error)
        )?;
        let [low, high] = speedup_ci;
        let percent = 100.0 * self.confidence;
        writeln!(f, "  speedup    {speedup:.4} ({percent} %: {low:.4} to {high:.4})")?;
        let number = |value: &Option<f64>| table::optional(*value, |value| format!("{value:.3}"));
        let p = table::optional(*p, |p| format!("{p:.2e}"));
        writeln!(f, "  Welch      t {}, p {p}", number(t))?;
        write!(f, "  {}", verdict.words())?;
        match (verdict, more_pairs) {
            (Verdict::Underpowered, more) => writeln!(
                f,
                ": an effect of {} % needs about {more} more pairs",
                100.0 * WORTH_KNOWING
            ),
            (Verdict::NoDifferenceShown, _) => {
                writeln!(f, ": an effect of {} % would have shown", 100.0 * WORTH_KNOWING)
            }
            _ => writeln!(f),
        }
    }
}
