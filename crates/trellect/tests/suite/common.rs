//! A tiny layer, the CPU backend, and the CPU backend with faults injected.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use trellect::core::{
    Backend, BackendKind, BitTuple, Call, Candidate, Codebook, DeviceDescription, DeviceTime,
    Family, Hidden, KernelId, LaunchError, LaunchId, LayerShape, LayerView, MemoryFigures,
    PrepareError, PrepareProgress, PreparedLayer, Queue, Routing,
};
use trellect::cpu::{CpuBackend, CpuOptions};
use trellect::exl3::oracle;
use trellect::exl3::synth::{OwnedLayer, SynthSpec};
use trellect::select::adaptive::AdaptiveConfig;
use trellect::{Dispatcher, DispatcherOptions, Policy, Selector, SelectorOptions};
use trellect_testkit::relative_error;

/// Hidden size, intermediate size, experts.
pub(crate) const SHAPE: (usize, usize, usize) = (256, 128, 8);
pub(crate) const PLENTY: MemoryFigures = MemoryFigures { available: 90 << 30, total: 100 << 30 };

pub(crate) fn layer() -> OwnedLayer {
    let shape = LayerShape::new(SHAPE.0, SHAPE.1, SHAPE.2).expect("positive");
    OwnedLayer::new(&SynthSpec::mixed(shape, Codebook::Mul1, 3)).expect("fits")
}

pub(crate) fn cpu() -> CpuBackend {
    CpuBackend::new(CpuOptions::from_env().expect("unset or known"))
}

pub(crate) fn error_of(output: &[f32], hidden: Hidden<'_>, routing: &Routing) -> f64 {
    relative_error(output, &oracle::forward(&layer().view(), hidden, routing))
}

/// A selector that learns when it is told to, starts from the rules whatever models promise, does
/// not calibrate, and keeps nothing.
pub(crate) fn by_hand() -> SelectorOptions {
    SelectorOptions {
        adaptive: AdaptiveConfig { start_margin: f64::INFINITY, ..AdaptiveConfig::default() },
        background: false,
        calibration_budget: Duration::ZERO,
        ..SelectorOptions::default()
    }
}

/// Options that share `selector`.
pub(crate) fn sharing(selector: &Selector) -> DispatcherOptions {
    let policy = Policy::Adaptive(Some(selector.clone()));
    DispatcherOptions { policy, ..DispatcherOptions::default() }
}

/// Options of the rules.
pub(crate) fn rules() -> DispatcherOptions {
    DispatcherOptions { policy: Policy::Rules, ..DispatcherOptions::default() }
}

/// What goes wrong; a test may change it while kernels run.
pub(crate) struct Faults {
    pub(crate) memory: Mutex<MemoryFigures>,
    /// Kernels of these families do not launch.
    pub(crate) failing: Mutex<Vec<Family>>,
    /// Kernels of these families compute nonsense.
    pub(crate) wrong: Mutex<Vec<Family>>,
    /// Kernels of these families do not exist.
    pub(crate) absent: Vec<Family>,
    /// When queues tell the times that they have measured.
    pub(crate) times: Mutex<Times>,
}

/// When a queue tells times.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Times {
    /// With the launch that they are of.
    #[default]
    AtOnce,
    /// Together, the latest first, when so many wait and one more is launched.
    After(usize),
    /// With the launch, and once more.
    Twice,
    /// Not as long as this is so, nor later.
    Never,
}

impl Default for Faults {
    fn default() -> Self {
        let (failing, wrong, times) = Default::default();
        Self { memory: Mutex::new(PLENTY), failing, wrong, absent: Vec::new(), times }
    }
}

/// A dispatcher on a backend with faults.
pub(crate) fn faulty(faults: &Arc<Faults>, options: DispatcherOptions) -> Dispatcher {
    let backend = Faulty { cpu: cpu(), faults: Arc::clone(faults) };
    Dispatcher::prepare(Arc::new(backend), &layer().view(), options).expect("fits")
}

struct Faulty {
    cpu: CpuBackend,
    faults: Arc<Faults>,
}

struct FaultyLayer {
    layer: Arc<dyn PreparedLayer>,
    candidates: Vec<Candidate>,
    faults: Arc<Faults>,
}

struct FaultyQueue {
    queue: Box<dyn Queue>,
    /// Times that were measured and not told.
    held: Vec<DeviceTime>,
    faults: Arc<Faults>,
}

impl Backend for Faulty {
    fn kind(&self) -> BackendKind {
        self.cpu.kind()
    }

    fn describe(&self) -> DeviceDescription {
        self.cpu.describe()
    }

    fn kernels(&self, shape: &LayerShape, tuples: &[BitTuple]) -> Vec<Candidate> {
        self.cpu.kernels(shape, tuples)
    }

    fn prepare(
        &self,
        layer: &LayerView<'_>,
        progress: PrepareProgress<'_>,
    ) -> Result<Arc<dyn PreparedLayer>, PrepareError> {
        let layer = self.cpu.prepare(layer, progress)?;
        let mut candidates = layer.candidates().to_vec();
        let exists = |id: KernelId| !self.faults.absent.contains(&id.family);
        candidates.retain(|candidate| candidate.as_ref().is_ok_and(|spec| exists(spec.id)));
        Ok(Arc::new(FaultyLayer { layer, candidates, faults: Arc::clone(&self.faults) }))
    }

    fn memory(&self) -> MemoryFigures {
        *self.faults.memory.lock().unwrap()
    }
}

impl PreparedLayer for FaultyLayer {
    fn shape(&self) -> &LayerShape {
        self.layer.shape()
    }

    fn expert_tuples(&self) -> &[BitTuple] {
        self.layer.expert_tuples()
    }

    fn prepared_bytes(&self) -> u64 {
        self.layer.prepared_bytes()
    }

    fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    fn queue(self: Arc<Self>) -> Box<dyn Queue> {
        let queue = Arc::clone(&self.layer).queue();
        Box::new(FaultyQueue { queue, held: Vec::new(), faults: Arc::clone(&self.faults) })
    }
}

impl Queue for FaultyQueue {
    fn reserve(&mut self, kernel: KernelId, num_pairs: usize) -> Result<(), LaunchError> {
        self.queue.reserve(kernel, num_pairs)
    }

    fn workspace_bytes(&self) -> u64 {
        self.queue.workspace_bytes()
    }

    fn launch(
        &mut self,
        kernel: KernelId,
        call: &Call<'_>,
        out: &mut [f32],
    ) -> Result<LaunchId, LaunchError> {
        let is_among =
            |families: &Mutex<Vec<Family>>| families.lock().unwrap().contains(&kernel.family);
        if is_among(&self.faults.failing) {
            out.fill(f32::NAN);
            return Err(LaunchError::Device { kernel, message: "the test says so".into() });
        }
        let launched = self.queue.launch(kernel, call, out);
        if is_among(&self.faults.wrong) {
            out[0] += 1.0 + 2.0 * out[0].abs();
        }
        launched
    }

    fn harvest(&mut self, sink: &mut dyn FnMut(DeviceTime)) {
        let held = &mut self.held;
        self.queue.harvest(&mut |time| held.push(time));
        match *self.faults.times.lock().unwrap() {
            Times::AtOnce => held.drain(..).for_each(sink),
            Times::After(launches) if held.len() <= launches => {}
            Times::After(_) => held.drain(..held.len() - 1).rev().for_each(sink),
            Times::Twice => held.drain(..).for_each(|time| {
                sink(time);
                sink(time);
            }),
            Times::Never => held.clear(),
        }
    }
}
