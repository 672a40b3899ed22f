//! What a report is made of.

use serde::Deserialize;
use trellect_tune::bench::BenchRun;
use trellect_tune::decisions::DecisionLog;
use trellect_tune::history::{EnvironmentSummary, Journal};
use trellect_tune::matrix::Matrix;

use crate::kernel::Kernel;
use crate::words;

/// Everything that a report shows. All of it may be empty.
#[derive(Debug, Default)]
pub struct Data {
    /// Benchmarks.
    pub benches: Vec<Named<BenchRun>>,
    /// Recorded matrices.
    pub matrices: Vec<Named<Matrix>>,
    /// Logs of decisions.
    pub logs: Vec<Named<DecisionLog>>,
    /// Histories, environment by environment.
    pub histories: Vec<Named<Vec<Environment>>>,
    /// Comparisons of two kernels.
    pub comparisons: Vec<Named<Comparison>>,
}

impl Data {
    /// Whether there is nothing to show.
    pub const fn is_empty(&self) -> bool {
        self.benches.is_empty()
            && self.matrices.is_empty()
            && self.logs.is_empty()
            && self.histories.is_empty()
            && self.comparisons.is_empty()
    }
}

/// Data and where it is from: the name of a file.
#[derive(Clone, Debug)]
pub struct Named<T> {
    /// The name that readers know it by.
    pub name: String,
    /// What the file holds.
    pub data: T,
}

/// One environment of a history.
#[derive(Clone, Debug)]
pub struct Environment {
    /// What it is.
    pub summary: EnvironmentSummary,
    /// What was chosen and learned in it.
    pub journal: Journal,
}

impl Environment {
    /// A field of its identity.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.summary.fingerprint.as_ref()?.hard.get(name).map(String::as_str)
    }

    /// What it is, in words.
    pub(crate) fn name(&self) -> String {
        let Some(device) = self.field("device") else { return self.summary.id.clone() };
        let threads = self.field("threads").map(|threads| format!(", {threads} threads"));
        let class = self.field("numeric").map(|class| format!(", class {class}"));
        format!("{device}{}{}", threads.unwrap_or_default(), class.unwrap_or_default())
    }
}

/// What `trellect ab --json` prints, as far as a report needs it. Fields that are not known are left
/// out of account.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Comparison {
    /// The kernel, or whatever else was compared with.
    pub baseline: String,
    /// What is said to be faster.
    pub optimized: String,
    /// The layer's shape.
    #[serde(default)]
    pub shape: Option<String>,
    /// Bit widths.
    #[serde(default)]
    pub bits: Option<String>,
    /// Tokens of a call.
    #[serde(default)]
    pub tokens: Option<usize>,
    /// Threads, where both have as many.
    #[serde(default)]
    pub threads: Option<usize>,
    /// Threads of the baseline.
    #[serde(default)]
    pub baseline_threads: Option<usize>,
    /// Threads of the optimized.
    #[serde(default)]
    pub optimized_threads: Option<usize>,
    /// Variables of the baseline's own, as `NAME=VALUE`.
    #[serde(default)]
    pub baseline_env: Vec<String>,
    /// Variables of the optimized's own.
    #[serde(default)]
    pub optimized_env: Vec<String>,
    /// Confidence of the interval, 0 to 1.
    #[serde(default)]
    pub confidence: Option<f64>,
    /// Pairs.
    pub n: usize,
    /// Median time of the baseline.
    pub baseline_ms: f64,
    /// Median time of the optimized.
    pub optimized_ms: f64,
    /// `baseline_ms / optimized_ms`.
    pub speedup: f64,
    /// Its interval.
    pub speedup_ci: [f64; 2],
    /// Welch's t.
    #[serde(default)]
    pub t: Option<f64>,
    /// Its two-sided p-value.
    #[serde(default)]
    pub p: Option<f64>,
    /// `faster`, `slower`, `no_difference_shown` or `underpowered`.
    pub verdict: String,
    /// More pairs until a small effect would show.
    #[serde(default)]
    pub more_pairs: Option<usize>,
}

impl Comparison {
    /// The first number that cannot be: its field and value.
    pub fn fault(&self) -> Option<(&'static str, f64)> {
        let [low, high] = self.speedup_ci;
        let numbers = [
            ("baseline_ms", self.baseline_ms),
            ("optimized_ms", self.optimized_ms),
            ("speedup", self.speedup),
            ("speedup_ci", low),
            ("speedup_ci", high),
        ];
        numbers.into_iter().find(|(_, value)| !(value.is_finite() && *value > 0.0))
    }

    /// Both sides, as far as they differ.
    pub(crate) fn names(&self) -> String {
        let kernels = [&self.baseline, &self.optimized].map(|name| Kernel::named(name));
        let is_variant_told = kernels[0].variant != kernels[1].variant;
        let [baseline, optimized] = kernels.map(|kernel| match is_variant_told {
            true => kernel.label(),
            false => kernel.short,
        });
        let are_threads_told = self.baseline_threads != self.optimized_threads;
        let side = |name: String, threads: Option<usize>, variables: &[String]| {
            let threads = threads.filter(|_| are_threads_told);
            let threads = threads.map(|threads| words::plural(threads, "thread"));
            let parts = [name].into_iter().chain(threads).chain(variables.iter().cloned());
            parts.collect::<Vec<_>>().join(" ")
        };
        format!(
            "{} → {}",
            side(baseline, self.baseline_threads, &self.baseline_env),
            side(optimized, self.optimized_threads, &self.optimized_env)
        )
    }

    pub(crate) fn workload(&self) -> String {
        let parts = [
            self.shape.clone(),
            self.bits.clone(),
            self.tokens.map(|tokens| words::plural(tokens, "token")),
            self.threads.map(|threads| words::plural(threads, "thread")),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn verdict_words(&self) -> String {
        self.verdict.replace('_', " ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a comparison of the two would say, with some other fields.
    fn names(fields: &str) -> String {
        let effect = r#""n": 1, "baseline_ms": 1, "optimized_ms": 1, "speedup": 1,
            "speedup_ci": [1, 1], "t": null, "verdict": "underpowered", "of_a_later_version": []"#;
        let json = format!("{{{effect}, {fields}}}");
        serde_json::from_str::<Comparison>(&json).unwrap().names()
    }

    #[test]
    fn sides_are_named_by_what_differs() {
        let kernels = r#""baseline": "moe_trellis_swiglu@cpu.avx2", "optimized": "moe_trellis_swiglu@cpu.avx512""#;
        assert_eq!(names(kernels), "base avx2 → base avx512");
        let same = r#""baseline": "moe_trellis_swiglu@cpu.avx2", "optimized": "moe_trellis_swiglu@cpu.avx2""#;
        let threads = r#""baseline_threads": 1, "optimized_threads": 2"#;
        assert_eq!(names(&format!("{same}, {threads}")), "base 1 thread → base 2 threads");
        let variables = r#""baseline_env": [], "optimized_env": ["A=1"]"#;
        assert_eq!(names(&format!("{same}, {variables}")), "base → base A=1");
        let commands = r#""baseline": "./old --x", "optimized": "./new", "shape": null"#;
        assert_eq!(names(commands), "./old --x → ./new");
    }
}
