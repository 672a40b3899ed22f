use std::sync::Arc;

use trellect_core::{
    Backend, BackendKind, BitTuple, Candidate, DeviceDescription, LayerShape, LayerView,
    MemoryFigures, PrepareError, PrepareProgress, PreparedLayer,
};

use crate::catalogue::{Recipe, recipes};
use crate::device::{Device, DeviceFacts, NoDevice};
use crate::layer::Weights;
use crate::modules::Modules;
use crate::prepared::CudaLayer;

/// All codebooks, where the layer's are not known yet.
const ANY_CODEBOOK: u32 = 0b111;

/// One NVIDIA GPU as a backend. Clones share it; several devices are several backends.
#[derive(Clone)]
pub struct CudaBackend {
    device: Device,
    modules: Arc<Modules>,
}

impl CudaBackend {
    /// Opens device `ordinal`, from 0 on ([`devices`](crate::devices) lists them).
    ///
    /// # Errors
    /// [`NoDevice`] says what is missing.
    pub fn open(ordinal: usize) -> Result<Self, NoDevice> {
        let device = Device::open(ordinal)?;
        let modules = Arc::new(Modules::new(Arc::clone(&device.context)));
        Ok(Self { device, modules })
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
        CudaLayer::new(self.device.clone(), Arc::clone(&self.modules), weights)
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
        recipes.iter().map(Recipe::candidate).collect()
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
