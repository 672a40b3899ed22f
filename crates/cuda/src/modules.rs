//! Machine code on the device: every compilation is made and loaded once per backend.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::driver::{CudaContext, CudaModule};
use cudarc::nvrtc::Ptx;

use crate::cache::Cache;
use crate::compile::Request;
use crate::error::{LoadError, text};

type Slot = Arc<OnceLock<Result<Arc<CudaModule>, LoadError>>>;

/// The modules of one device.
pub(crate) struct Modules {
    context: Arc<CudaContext>,
    cache: Cache,
    slots: Mutex<HashMap<Request, Slot>>,
}

impl Modules {
    pub(crate) fn new(context: Arc<CudaContext>) -> Self {
        Self { context, cache: Cache::open(), slots: Mutex::default() }
    }

    /// The module of `request`, made at the first call for it; others who want it meanwhile wait.
    pub(crate) fn get(&self, request: &Request) -> Result<Arc<CudaModule>, LoadError> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(request.clone()).or_default())
        };
        slot.get_or_init(|| self.load(request)).clone()
    }

    fn load(&self, request: &Request) -> Result<Arc<CudaModule>, LoadError> {
        let cubin = self.cache.get(request)?;
        self.context.load_module(Ptx::from_binary(cubin)).map_err(|error| LoadError::Driver {
            unit: request.unit.name,
            arch: request.arch,
            message: text(error),
        })
    }
}
