use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use trellect_core::{
    Backend, BackendKind, BitTuple, Candidate, Codebook, DeviceDescription, ExpertView, KernelId,
    LayerShape, LayerView, MemoryFigures, PrepareError, PrepareProgress, PreparedLayer, Projection,
};

use crate::catalogue::{KernelFilter, recipes};
use crate::device::{Device, DeviceFacts, NoDevice};
use crate::layer::{Weights, codebook_mask};
use crate::modules::Modules;
use crate::prepared::CudaLayer;
use crate::processors::on_all_processors;

/// All codebooks, where the layer's are not known yet.
const ANY_CODEBOOK: u32 = 0b111;

/// One NVIDIA GPU as a backend. Clones share it; several devices are several backends.
#[derive(Clone)]
pub struct CudaBackend {
    device: Device,
    modules: Arc<Modules>,
    wanted: Arc<KernelFilter>,
}

/// What kernels are compiled for: a layer as far as the compiler knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerKind {
    /// The dimensions.
    pub shape: LayerShape,
    /// Bit widths that occur.
    pub tuples: Vec<BitTuple>,
    /// Codebooks that occur.
    pub codebooks: Vec<Codebook>,
}

impl LayerKind {
    /// The kind of `layer`.
    pub fn of(layer: &LayerView<'_>) -> Self {
        let linears = layer.experts().iter().flat_map(|e| Projection::ALL.map(|p| *e.linear(p)));
        let codebooks: Vec<Codebook> = linears.map(|linear| linear.codebook()).collect();
        Self {
            shape: *layer.shape(),
            tuples: layer.experts().iter().map(ExpertView::tuple).collect(),
            codebooks,
        }
    }
}

impl CudaBackend {
    /// Opens device `ordinal`, from 0 on ([`devices`](crate::devices) lists them).
    ///
    /// # Errors
    /// [`NoDevice`] says what is missing.
    pub fn open(ordinal: usize) -> Result<Self, NoDevice> {
        let device = Device::open(ordinal)?;
        let modules = Arc::new(Modules::new(Arc::clone(&device.context)));
        Ok(Self { device, modules, wanted: Arc::new(|_| true) })
    }

    /// The same device and compiled kernels, but layers have only the kernels that are `wanted`:
    /// what nobody will launch need not be compiled.
    pub fn with_kernels(&self, wanted: impl Fn(KernelId) -> bool + Send + Sync + 'static) -> Self {
        Self { wanted: Arc::new(wanted), ..self.clone() }
    }

    /// Compiles and loads all kernels for several kinds of layers at once, on all processors, those
    /// for one tuple too, so that preparing such layers finds them. Tells how many compilations
    /// that were. One that fails is told by the layer's candidates.
    pub fn compile_ahead(&self, kinds: &[LayerKind]) -> usize {
        let mut requests = HashMap::new();
        for LayerKind { shape, tuples, codebooks } in kinds {
            let arch = self.device.facts.arch;
            for recipe in recipes(shape, tuples, codebook_mask(codebooks), arch) {
                if recipe.candidate(&*self.wanted).is_ok() {
                    let parts = recipe.parts.into_iter();
                    requests.extend(parts.map(|part| (part.request, part.kinds)));
                }
            }
        }
        let mut requests: Vec<_> = requests.into_iter().collect();
        // The longest first, so that none of them is waited for alone.
        requests.sort_by_key(|(_, kinds)| Reverse(*kinds));
        let count = requests.len();
        on_all_processors(requests, |(request, _)| drop(self.modules.get(&request)));
        count
    }

    /// What the device is.
    pub fn facts(&self) -> &DeviceFacts {
        &self.device.facts
    }

    /// The device's primary context, for streams and buffers of the caller's own.
    pub fn context(&self) -> &Arc<cudarc::driver::CudaContext> {
        &self.device.context
    }

    /// [`Backend::prepare`], as the type that has the device's own ways to launch.
    ///
    /// # Errors
    /// [`PrepareError`] when memory or the device fails, or no kernel at all could be compiled.
    pub fn prepare_layer(
        &self,
        layer: &LayerView<'_>,
        progress: PrepareProgress<'_>,
    ) -> Result<Arc<CudaLayer>, PrepareError> {
        let weights = Weights::prepare(&self.device, layer, progress)?;
        CudaLayer::new(self.device.clone(), Arc::clone(&self.modules), weights, &*self.wanted)
    }
}

impl Backend for CudaBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Cuda
    }

    fn describe(&self) -> DeviceDescription {
        let DeviceFacts { name, arch, num_sms, l2_bytes, clock_mhz, driver, .. } = self.facts();
        DeviceDescription {
            name: name.clone(),
            facts: vec![
                ("architecture", arch.to_string()),
                ("multiprocessors", num_sms.to_string()),
                ("second-level cache", format!("{} MiB", l2_bytes >> 20)),
                ("clock", format!("{clock_mhz} MHz at most")),
                ("driver", format!("CUDA {driver}")),
                ("runtime", format!("NVRTC {}", crate::compile::compiler_version())),
            ],
        }
    }

    fn kernels(&self, shape: &LayerShape, tuples: &[BitTuple]) -> Vec<Candidate> {
        let recipes = recipes(shape, tuples, ANY_CODEBOOK, self.device.facts.arch);
        recipes.iter().map(|recipe| recipe.candidate(&*self.wanted)).collect()
    }

    fn prepare(
        &self,
        layer: &LayerView<'_>,
        progress: PrepareProgress<'_>,
    ) -> Result<Arc<dyn PreparedLayer>, PrepareError> {
        Ok(self.prepare_layer(layer, progress)?)
    }

    fn memory(&self) -> MemoryFigures {
        self.device.memory()
    }
}
