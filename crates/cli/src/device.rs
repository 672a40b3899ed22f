//! The backend that the flags name.

use trellect::core::{
    Backend, BackendKind, BitTuple, Candidate, DeviceDescription, LayerShape, LayerView,
    MemoryFigures, PrepareError, PrepareProgress, PreparedLayer,
};
use trellect::cpu::{CpuBackend, Peak};
#[cfg(feature = "cuda")]
use trellect::cuda::CudaBackend;

use std::sync::Arc;

/// An open backend.
pub(crate) enum Device {
    /// The host's processor.
    Cpu(CpuBackend),
    /// An NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Cuda(CudaBackend),
}

impl Device {
    /// Threads that work on a launch, where the host's do.
    pub(crate) fn threads(&self) -> Option<usize> {
        match self {
            Self::Cpu(backend) => Some(backend.threads()),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => None,
        }
    }

    /// The cap on instruction sets, where there is one.
    pub(crate) fn max_isa(&self) -> Option<&'static str> {
        match self {
            Self::Cpu(backend) => Some(backend.max_isa().name()),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => None,
        }
    }

    /// What the host's arithmetic units deliver, where they do the work.
    pub(crate) fn measure_peak(&self) -> Peak {
        match self {
            Self::Cpu(backend) => backend.measure_peak(),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => Peak::default(),
        }
    }

    /// Bytes of the cache that the device's cores share, where it is not the host.
    pub(crate) fn shared_cache_bytes(&self) -> Option<u64> {
        match self {
            Self::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Self::Cuda(backend) => Some(backend.facts().l2_bytes),
        }
    }

    fn backend(&self) -> &dyn Backend {
        match self {
            Self::Cpu(backend) => backend,
            #[cfg(feature = "cuda")]
            Self::Cuda(backend) => backend,
        }
    }
}

impl Backend for Device {
    fn kind(&self) -> BackendKind {
        self.backend().kind()
    }

    fn describe(&self) -> DeviceDescription {
        self.backend().describe()
    }

    fn kernels(&self, shape: &LayerShape, tuples: &[BitTuple]) -> Vec<Candidate> {
        self.backend().kernels(shape, tuples)
    }

    fn prepare(
        &self,
        layer: &LayerView<'_>,
        progress: PrepareProgress<'_>,
    ) -> Result<Arc<dyn PreparedLayer>, PrepareError> {
        match self {
            Self::Cpu(backend) => backend.prepare(layer, progress),
            #[cfg(feature = "cuda")]
            Self::Cuda(backend) => {
                let layer = backend.prepare_layer(layer, progress)?;
                // A dispatcher goes by the kernels that are there when it is made.
                layer.wait_for_compiler();
                Ok(layer)
            }
        }
    }

    fn memory(&self) -> MemoryFigures {
        self.backend().memory()
    }
}
