//! What was measured where. Latencies belong to an environment: a device, its kernels and the way
//! they are used. Those of another environment are a prior, the wider the more differs.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use trellect_core::{Backend, BitTuple, Bits, LayerShape, NumericClass};

/// Part of every environment: a change of what is stored makes a new one.
const SCHEMA: &str = "1";

/// Facts of a device that change without making another device of it.
const SOFT_FACTS: [&str; 4] = ["driver", "runtime", "power limit", "clock"];

/// The identity of an environment, as named fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// Fields that make another environment when they change.
    pub hard: BTreeMap<String, String>,
    /// Fields that make measurements doubtful when they change.
    pub soft: BTreeMap<String, String>,
}

impl Fingerprint {
    /// The environment of `backend` serving calls of class `numeric`.
    ///
    /// Hard are the backend, the device's name and facts (threads, instruction sets and a hash of
    /// the kernels' code among them), the crate version with a hash of what the kernels say of
    /// themselves, the class and the schema. Soft are the driver's facts, operating system and
    /// memory.
    pub fn of(backend: &dyn Backend, numeric: NumericClass) -> Self {
        let device = backend.describe();
        let mut this = Self { hard: BTreeMap::new(), soft: BTreeMap::new() }
            .with_hard("backend", backend.kind())
            .with_hard("device", device.name)
            .with_hard("kernels", kernels_hash(backend))
            .with_hard("numeric", numeric)
            .with_hard("schema", SCHEMA)
            .with_soft("os", std::env::consts::OS)
            .with_soft("memory_gib", backend.memory().total.div_ceil(1 << 30));
        for (name, value) in device.facts {
            let part = if SOFT_FACTS.contains(&name) { &mut this.soft } else { &mut this.hard };
            part.insert(name.into(), value);
        }
        this
    }

    /// Adds or replaces a hard field.
    #[must_use]
    pub fn with_hard(mut self, field: &str, value: impl ToString) -> Self {
        self.hard.insert(field.into(), value.to_string());
        self
    }

    /// Adds or replaces a soft field.
    #[must_use]
    pub fn with_soft(mut self, field: &str, value: impl ToString) -> Self {
        self.soft.insert(field.into(), value.to_string());
        self
    }

    /// The environment's id: 32 hexadecimal digits of a hash of all fields.
    pub fn id(&self) -> String {
        let mut hash = Sha256::new();
        for (part, fields) in [("hard", &self.hard), ("soft", &self.soft)] {
            for text in fields.iter().flat_map(|(field, value)| [part, field, value]) {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            }
        }
        hex(&hash.finalize()[..16])
    }
}

/// Version and hash of everything that the kernels of a small layer say of themselves.
fn kernels_hash(backend: &dyn Backend) -> String {
    let four = Bits::ALL[3];
    let tuple = BitTuple { gate: four, up: four, down: four };
    let shape = LayerShape { hidden_size: 128, intermediate_size: 128, num_experts: 1 };
    let mut hash = Sha256::new();
    for spec in backend.kernels(&shape, &[tuple]).into_iter().flatten() {
        hash.update(format!("{spec:?}\n"));
    }
    format!("{} {}", env!("CARGO_PKG_VERSION"), hex(&hash.finalize()[..8]))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

/// A field that differs; `None`: one side has no such field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The field.
    pub field: String,
    /// Its value where the measurement was made.
    pub old: Option<String>,
    /// Its value here.
    pub new: Option<String>,
}

impl fmt::Display for Difference {
    /// `threads 4 instead of 2`, new before old.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |side: &Option<String>| side.clone().unwrap_or_else(|| "none".into());
        write!(f, "{} {} instead of {}", self.field, value(&self.new), value(&self.old))
    }
}

/// How much of one environment holds in another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// The same environment.
    Same,
    /// Only soft fields differ.
    Soft {
        /// Every soft difference.
        differences: Vec<Difference>,
    },
    /// A hard field differs.
    Hard {
        /// Every difference, hard ones first.
        differences: Vec<Difference>,
    },
}

impl Match {
    /// What the variance of a prior is multiplied by: 1, 4 or 16.
    pub const fn variance_factor(&self) -> f64 {
        match self {
            Self::Same => 1.0,
            Self::Soft { .. } => 4.0,
            Self::Hard { .. } => 16.0,
        }
    }

    /// Every difference, to be logged.
    pub fn differences(&self) -> &[Difference] {
        match self {
            Self::Same => &[],
            Self::Soft { differences } | Self::Hard { differences } => differences,
        }
    }
}

/// Compares where something was measured, `old`, with where it would be used, `new`.
pub fn compare(old: &Fingerprint, new: &Fingerprint) -> Match {
    let mut differences = differences(&old.hard, &new.hard);
    let hard = !differences.is_empty();
    differences.extend(self::differences(&old.soft, &new.soft));
    match (hard, differences.is_empty()) {
        (true, _) => Match::Hard { differences },
        (false, false) => Match::Soft { differences },
        (false, true) => Match::Same,
    }
}

fn differences(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<Difference> {
    let added = new.keys().filter(|field| !old.contains_key(*field));
    let fields = old.keys().chain(added).filter(|field| old.get(*field) != new.get(*field));
    let difference = |field: &String| Difference {
        field: field.clone(),
        old: old.get(field).cloned(),
        new: new.get(field).cloned(),
    };
    fields.map(difference).collect()
}

#[cfg(test)]
mod tests {
    use trellect_cpu::{CpuBackend, CpuOptions, Isa};

    use super::*;

    fn cpu(threads: usize, max_isa: Isa) -> Fingerprint {
        let threads = std::num::NonZeroUsize::new(threads);
        Fingerprint::of(&CpuBackend::new(CpuOptions { threads, max_isa }), NumericClass::Half)
    }

    #[test]
    fn an_environment_is_itself_and_nothing_else() {
        let here = cpu(1, Isa::ALL[0]);
        assert_eq!(compare(&here, &here.clone()), Match::Same);
        assert_eq!(here.id(), cpu(1, Isa::ALL[0]).id());
        assert_eq!(here.id().len(), 32);
        let code = &here.hard["kernel code"];
        assert!(code.len() == 16 && code.bytes().all(|b| b.is_ascii_hexdigit()), "{code}");
        let threads = compare(&here, &cpu(2, Isa::ALL[0]));
        assert!(threads.differences().contains(&Difference {
            field: "threads".into(),
            old: Some("1".into()),
            new: Some("2".into()),
        }));
        let texts: Vec<String> = threads.differences().iter().map(|d| d.to_string()).collect();
        assert!(texts.contains(&"threads 2 instead of 1".into()), "{texts:?}");
        assert_eq!(threads.variance_factor(), 16.0);
        let fields: Vec<String> = differences(&here.hard, &cpu(1, Isa::Generic).hard)
            .into_iter()
            .map(|difference| difference.field)
            .collect();
        if Isa::Avx2.is_detected() {
            assert_eq!(fields, ["kernel instruction sets", "kernels"]);
        }
    }

    #[test]
    fn soft_differences_widen_less_and_all_are_listed() {
        let here = cpu(1, Isa::Generic);
        let moved = here.clone().with_soft("os", "plan9").with_soft("driver", "1.2");
        let found = compare(&here, &moved);
        let fields: Vec<&str> = found.differences().iter().map(|d| d.field.as_str()).collect();
        assert!(matches!(found, Match::Soft { .. }));
        assert_eq!((fields, found.variance_factor()), (vec!["os", "driver"], 4.0));
        let both = compare(&here, &moved.with_hard("device", "another"));
        assert_eq!((both.differences().len(), both.variance_factor()), (3, 16.0));
        assert_ne!(here.id(), here.with_soft("os", "plan9").id());
    }
}
