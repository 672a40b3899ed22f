use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use trellect_core::{KernelId, NumericClass};

use super::{AdaptivePolicy, Moments};
use crate::{ContextKey, LatencyStatistics};

/// Rows of own evidence that wait to be taken; more are counted as lost.
const MAX_ROWS: usize = 1 << 16;

/// Standard deviation, as a log ratio, by which a kernel's mean differs from one run of the same
/// build on the same device to the next.
const RUN_SD: f64 = 0.03;

/// What is known of one kernel's latencies in one context. Rows of the same kernel and context
/// merge by [`LatencyStatistics::merge`], in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The context.
    pub context: ContextKey,
    /// The kernel, which need not exist here.
    pub kernel: KernelId,
    /// The class that was asked for.
    pub class: NumericClass,
    /// Its latencies.
    pub latencies: LatencyStatistics,
}

/// Where imported evidence comes from and how far it is trusted.
#[derive(Clone, Debug, PartialEq)]
pub struct Provenance {
    /// What the variance of the evidence is multiplied by: 1 for the same build and device, 4 where
    /// something soft differs, 16 where something hard does.
    pub variance_factor: f64,
    /// Why that factor, for people: "same environment", "driver 550 instead of 545".
    pub reason: Arc<str>,
}

/// What became of imported rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportSummary {
    /// Rows of kernels that are arms here.
    pub used: usize,
    /// Rows of other kernels: kept and exported, and ignored otherwise.
    pub unknown_kernels: usize,
    /// Rows left out because their numbers contradict each other.
    pub refused: usize,
}

/// Evidence that cannot be imported.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportEvidenceError {
    /// The factor would make foreign evidence surer than own, or is no number.
    #[error("the variance factor is {found}: expected a finite number of at least 1")]
    VarianceFactor {
        /// The factor found.
        found: f64,
    },
}

/// Own evidence that has not been taken yet, and what was imported.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    own: BTreeMap<(ContextKey, usize), LatencyStatistics>,
    imported: BTreeMap<ContextKey, Vec<(Evidence, Provenance)>>,
    lost: u64,
}

impl Ledger {
    pub(crate) fn observe(&mut self, context: ContextKey, kernel: usize, latency_ns: f64) {
        // The cast saturates.
        let ns = NonZeroU64::new(latency_ns.round() as u64).unwrap_or(NonZeroU64::MIN);
        let full = self.own.len() >= MAX_ROWS;
        match self.own.get_mut(&(context, kernel)) {
            Some(row) => row.observe(ns),
            None if full => self.lost += 1,
            None => self.own.entry((context, kernel)).or_default().observe(ns),
        }
    }

    /// Adds to the row of the same origin, where there is one.
    fn import(&mut self, evidence: Evidence, provenance: &Provenance) {
        let rows = self.imported.entry(evidence.context).or_default();
        let same = |(row, from): &&mut (Evidence, Provenance)| {
            (row.kernel, row.class) == (evidence.kernel, evidence.class) && from == provenance
        };
        match rows.iter_mut().find(same) {
            Some((row, _)) => row.latencies.merge(&evidence.latencies),
            None => rows.push((evidence, provenance.clone())),
        }
    }

    fn take(&mut self) -> BTreeMap<(ContextKey, usize), LatencyStatistics> {
        std::mem::take(&mut self.own)
    }

    /// What was imported of a kernel in a context.
    pub(crate) fn imported_of(
        &self,
        context: ContextKey,
        kernel: KernelId,
    ) -> impl Iterator<Item = &(Evidence, Provenance)> {
        let rows = self.imported.get(&context).into_iter().flatten();
        rows.filter(move |(row, _)| row.kernel == kernel)
    }
}

/// Imported latencies as so many samples of the residual `ln t − ln t̂` as their uncertainty is
/// worth where one sample has the variance `noise`.
fn as_samples(
    latencies: &LatencyStatistics,
    provenance: &Provenance,
    log_estimate: f64,
    noise: f64,
) -> Moments {
    let Some(mean) = latencies.mean_ln() else { return Moments::default() };
    let variance = noise / latencies.count() as f64 + RUN_SD * RUN_SD;
    Moments::of(noise / (variance * provenance.variance_factor), mean - log_estimate)
}

impl AdaptivePolicy {
    /// Takes what was measured since the last time, a row per context and kernel, also of contexts
    /// forgotten since: the host adds it to its history. Nothing imported is in it.
    pub fn take_evidence(&mut self) -> Vec<Evidence> {
        let own = self.ledger.take();
        own.into_iter().map(|(key, latencies)| self.row(key, latencies)).collect()
    }

    /// Everything in hand: what [`take_evidence`](Self::take_evidence) would take, and after it what
    /// was imported, as it came in, each row with where it is from.
    pub fn export_evidence(&self) -> Vec<(Evidence, Option<Provenance>)> {
        let own = self.ledger.own.iter();
        let own = own.map(|(key, latencies)| (self.row(*key, latencies.clone()), None));
        let imported = self.ledger.imported.values().flatten();
        own.chain(imported.map(|(row, from)| (row.clone(), Some(from.clone())))).collect()
    }

    /// Begins what is believed of contexts with evidence from elsewhere or earlier.
    ///
    /// It counts as so many samples as its uncertainty is worth: the variance of its mean and of
    /// what differs from run to run (3 %), times the variance factor. It may decide which kernel a
    /// context starts with; it is never part of a pair, so it never proves a switch. A context
    /// already open believes it too, but keeps its incumbent. Rows of unknown kernels are kept for
    /// [`export_evidence`](Self::export_evidence).
    ///
    /// # Errors
    /// [`ImportEvidenceError`] when the factor is none; nothing is imported then.
    pub fn import_evidence(
        &mut self,
        rows: impl IntoIterator<Item = Evidence>,
        from: &Provenance,
    ) -> Result<ImportSummary, ImportEvidenceError> {
        let found = from.variance_factor;
        if !(found.is_finite() && found >= 1.0) {
            return Err(ImportEvidenceError::VarianceFactor { found });
        }
        let mut summary = ImportSummary::default();
        for row in rows {
            if row.latencies.fault().is_some() {
                summary.refused += 1;
                continue;
            }
            match self.arms.iter().position(|arm| arm.spec.id == row.kernel) {
                Some(kernel) => {
                    summary.used += 1;
                    self.believe(&row, kernel, from);
                }
                None => summary.unknown_kernels += 1,
            }
            self.ledger.import(row, from);
        }
        Ok(summary)
    }

    /// Rows that found no place because too many had not been taken; their latencies are lost.
    pub const fn lost_evidence(&self) -> u64 {
        self.ledger.lost
    }

    /// What was imported of a kernel, as residuals of a context's cost model.
    pub(super) fn imported_residual(
        &self,
        context: ContextKey,
        kernel: usize,
        log_estimate: f64,
    ) -> Moments {
        let noise = self.noise.sample_variance();
        let rows = self.ledger.imported_of(context, self.arms[kernel].spec.id);
        let samples = rows.map(|(row, from)| as_samples(&row.latencies, from, log_estimate, noise));
        samples.fold(Moments::default(), |sum, row| sum.merge(&row))
    }

    fn believe(&mut self, row: &Evidence, kernel: usize, from: &Provenance) {
        let noise = self.noise.sample_variance();
        if let Some(context) = self.contexts.get_mut(&row.context) {
            let samples = as_samples(&row.latencies, from, context.base[kernel], noise);
            let residual = &mut context.arms[kernel].residual;
            *residual = residual.merge(&samples);
        }
    }

    /// The class asked for is the arm's own: no other class may serve a call.
    fn row(
        &self,
        (context, kernel): (ContextKey, usize),
        latencies: LatencyStatistics,
    ) -> Evidence {
        let spec = &self.arms[kernel].spec;
        Evidence { context, kernel: spec.id, class: spec.class, latencies }
    }
}
