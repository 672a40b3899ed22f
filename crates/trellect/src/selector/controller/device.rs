//! What is known of a device: its memory, its cost models, and what was measured on it and elsewhere.

use std::sync::Arc;

use trellect_core::{Backend, BackendKind};
use trellect_select::adaptive::{MemoryGauge, Provenance};
use trellect_tune::bandwidth::BandwidthProbe;
use trellect_tune::calibrate::{StoredCalibration, calibrate};
use trellect_tune::fingerprint::{Fingerprint, compare};
use trellect_tune::history::{Journal, Record};

use super::{Controller, Newcomer};
use crate::selector::group::SharedMemory;
use crate::selector::unix_s;

/// Bytes that are read to learn the memory's bandwidth.
const BANDWIDTH_BYTES: usize = 32 << 20;
/// Other environments of the history whose latencies are believed a little.
const MAX_FOREIGN: usize = 8;

pub(super) struct Device {
    pub(super) environment: String,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) memory: Arc<SharedMemory>,
    pub(super) gauge: MemoryGauge,
    pub(super) calibration: StoredCalibration,
    /// What earlier processes have left of this environment.
    pub(super) journal: Journal,
    /// Latencies of other environments, with why they are doubted.
    pub(super) foreign: Vec<(Provenance, Vec<Record>)>,
}

impl Controller {
    pub(super) fn device_of(&mut self, newcomer: &Newcomer<'_>) -> usize {
        let fingerprint = Fingerprint::of(newcomer.backend.as_ref(), newcomer.numeric);
        let environment = fingerprint.id();
        let same = |device: &Device| device.environment == environment;
        if let Some(known) = self.devices.iter().position(same) {
            return known;
        }
        let calibration = self.calibration(&environment, newcomer);
        let journal = self.history.journal(&environment);
        let journal = journal.map_err(|error| self.status.error = Some(error.to_string()));
        let foreign = self.foreign(&fingerprint, &environment);
        if self.status.is_writable
            && let Err(error) = self.history.register(&fingerprint)
        {
            self.status.fail(&error);
        }
        let mut device = Device {
            environment,
            backend: Arc::clone(newcomer.backend),
            memory: Arc::default(),
            gauge: MemoryGauge::default(),
            calibration,
            journal: journal.unwrap_or_default(),
            foreign,
        };
        device.memory.publish(device.backend.memory(), &mut device.gauge);
        self.devices.push(device);
        self.devices.len() - 1
    }

    /// The history's cost models of an environment, or new ones, which it then keeps.
    fn calibration(&mut self, environment: &str, newcomer: &Newcomer<'_>) -> StoredCalibration {
        match self.history.calibration(environment) {
            Ok(Some(stored)) => return stored,
            Ok(None) => {}
            Err(error) => self.status.error = Some(error.to_string()),
        }
        let none = StoredCalibration { bytes_per_ns: 0.0, kernels: Vec::new() };
        let wanted = !self.calibration_budget.is_zero();
        let Some(layer) = newcomer.layer.filter(|_| wanted) else {
            return none;
        };
        let layers = [Arc::clone(layer)];
        let Ok(found) = calibrate(&layers, newcomer.numeric, self.calibration_budget) else {
            // A kernel that fails here will fail in a call, too, which says so.
            return none;
        };
        let bytes_per_ns = match newcomer.backend.kind() {
            BackendKind::Cpu => host_bytes_per_ns(),
            // Not measured: no kernel is given up for the bandwidth it would need.
            BackendKind::Cuda | BackendKind::Wgpu => 0.0,
        };
        let stored = StoredCalibration::new(&found, bytes_per_ns);
        match self.history.keep_calibration(environment, &stored, unix_s()) {
            Ok(kept) => kept,
            Err(error) => {
                self.status.fail(&error);
                stored
            }
        }
    }

    /// Latencies of the environments that were used last, this one aside.
    fn foreign(&mut self, here: &Fingerprint, environment: &str) -> Vec<(Provenance, Vec<Record>)> {
        let mut others = self.history.environments().unwrap_or_default();
        others.retain(|other| other.id != environment && other.num_records > 0);
        others.sort_unstable_by_key(|other| std::cmp::Reverse(other.last_unix_s));
        let mut foreign = Vec::new();
        for other in others.into_iter().take(MAX_FOREIGN) {
            let Some(fingerprint) = other.fingerprint else { continue };
            let Ok(records) = self.history.load(&other.id) else { continue };
            let found = compare(&fingerprint, here);
            let differences = found.differences().iter().map(ToString::to_string);
            let reason = differences.collect::<Vec<_>>().join("; ");
            self.status.doubted.push(format!("{} records: {reason}", records.len()));
            let variance_factor = found.variance_factor();
            foreign.push((Provenance { variance_factor, reason: reason.into() }, records));
        }
        foreign
    }
}

/// How fast the host's memory is read.
fn host_bytes_per_ns() -> f64 {
    let threads = std::thread::available_parallelism().unwrap_or(std::num::NonZero::<usize>::MIN);
    let probe = BandwidthProbe::new(BANDWIDTH_BYTES, threads);
    let best = (0..3).map(|_| probe.measure_gib_per_s()).fold(0.0, f64::max);
    best * f64::from(1 << 30) / 1e9
}
