//! What the dispatchers of equal layers share with the controller: no lock guards any of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use trellect_core::{BitTuple, KernelSpec, LayerShape, MemoryFigures};
use trellect_select::adaptive::{MemoryGauge, MemoryLevel};
use trellect_select::hot::PlanBoard;

use super::trials::Trials;
use crate::canary::Canary;

/// Contexts that a group can have a plan for at once.
pub(crate) const MAX_CONTEXTS: usize = 4096;

/// Layers of one shape, with the same kernels on one device, share a group and all that is learned.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) shape: LayerShape,
    /// The kernels that may serve, in the order of the policy's arms.
    pub(crate) arms: Vec<KernelSpec>,
    pub(crate) board: PlanBoard,
    pub(crate) trials: Trials,
    /// Kernels that failed. Whoever sees a failure sets its flag at once; the controller takes it
    /// back when the kernel has recovered.
    failed: Box<[AtomicBool]>,
    /// Whether every call asks the policy instead of the table: its decisions are logged, or come
    /// from a log.
    pub(crate) asks: bool,
    /// Whether contexts that the table does not have are wanted.
    pub(crate) wants_contexts: AtomicBool,
    pub(crate) canary: Canary,
    pub(crate) memory: Arc<SharedMemory>,
}

impl Group {
    pub(crate) fn new(
        shape: LayerShape,
        arms: Vec<KernelSpec>,
        tuples: Vec<BitTuple>,
        memory: Arc<SharedMemory>,
        asks: bool,
    ) -> Self {
        Self {
            shape,
            asks,
            board: PlanBoard::new(trellect_select::hot::PlanTable::new([])),
            trials: Trials::new(MAX_CONTEXTS),
            failed: arms.iter().map(|_| AtomicBool::new(false)).collect(),
            wants_contexts: AtomicBool::new(true),
            canary: Canary::new(arms.len(), tuples),
            memory,
            arms,
        }
    }

    pub(crate) fn has_failed(&self, kernel: usize) -> bool {
        self.failed[kernel].load(Ordering::Relaxed)
    }

    pub(crate) fn set_failed(&self, kernel: usize, failed: bool) {
        self.failed[kernel].store(failed, Ordering::Relaxed);
    }
}

/// The work that a kernel did for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    /// (token, expert) pairs.
    pub(crate) num_pairs: u32,
    /// How often it decoded an expert's weights.
    pub(crate) num_decodes: u32,
}

/// The latest reading of a device's memory, with the level that it stands for.
#[derive(Debug, Default)]
pub(crate) struct SharedMemory {
    available: AtomicU64,
    total: AtomicU64,
    high: AtomicBool,
}

impl SharedMemory {
    /// Publishes a reading; `gauge` knows the earlier ones.
    pub(crate) fn publish(&self, figures: MemoryFigures, gauge: &mut MemoryGauge) {
        let used = figures.total.saturating_sub(figures.available);
        let level = gauge.observe(used, figures.total);
        self.available.store(figures.available, Ordering::Relaxed);
        self.total.store(figures.total, Ordering::Relaxed);
        self.high.store(level == MemoryLevel::High, Ordering::Relaxed);
    }

    pub(crate) fn figures(&self) -> MemoryFigures {
        MemoryFigures {
            available: self.available.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn level(&self) -> MemoryLevel {
        match self.high.load(Ordering::Relaxed) {
            true => MemoryLevel::High,
            false => MemoryLevel::Normal,
        }
    }
}
