//! A prepared layer: its weights on the device and its kernels, some still being compiled.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};

use cudarc::driver::CudaStream;
use trellect_core::{
    BitTuple, Candidate, KernelId, LaunchError, LayerShape, PrepareError, PreparedLayer, Queue,
    Rejection, WhyNot,
};

use crate::catalogue::{KernelFilter, Recipe, recipes};
use crate::device::Device;
use crate::kernel::Kernel;
use crate::layer::Weights;
use crate::modules::Modules;
use crate::processors::on_all_processors;
use crate::queue::CudaQueue;
use crate::versions::Versions;

/// A layer prepared for one GPU.
///
/// Code that takes any of the layer's tuples is compiled when the layer is prepared; kernels whose
/// code is for one tuple each follow in the background and become candidates as they get ready.
pub struct CudaLayer {
    pub(crate) device: Device,
    pub(crate) weights: Weights,
    table: Versions<Table>,
    compiler: Mutex<Option<JoinHandle<()>>>,
}

/// The candidates and, where runnable, their kernels.
#[derive(Clone)]
struct Table {
    candidates: Vec<Candidate>,
    kernels: Vec<Option<Arc<Kernel>>>,
}

impl Table {
    fn set(&mut self, index: usize, built: Result<Kernel, Rejection>) {
        (self.candidates[index], self.kernels[index]) = match built {
            Ok(kernel) => (Ok(kernel.spec), Some(Arc::new(kernel))),
            Err(rejection) => (Err(rejection), None),
        };
    }
}

impl CudaLayer {
    /// # Errors
    /// [`PrepareError::Device`] when not one kernel could be compiled.
    pub(crate) fn new(
        device: Device,
        modules: Arc<Modules>,
        weights: Weights,
        wanted: &KernelFilter,
    ) -> Result<Arc<Self>, PrepareError> {
        let arch = device.facts.arch;
        let recipes = recipes(weights.shape(), weights.tuples(), weights.codebooks(), arch);
        let runnable = recipes.iter().filter(|recipe| recipe.candidate(wanted).is_ok());
        let any_tuple =
            runnable.filter(|recipe| recipe.spec.id.tuple.is_none() && !recipe.plan.is_by_tuple());
        let now: HashSet<_> = any_tuple.flat_map(Recipe::requests).cloned().collect();
        on_all_processors(now.iter().collect(), |request| drop(modules.get(request)));
        let compiling = |recipe: &Recipe| {
            let why = WhyNot::Compiling;
            recipe.candidate(wanted).and(Err(Rejection { kernel: recipe.spec.id, why }))
        };
        let mut table = Table {
            candidates: recipes.iter().map(compiling).collect(),
            kernels: recipes.iter().map(|_| None).collect(),
        };
        let mut later = Vec::new();
        for (index, recipe) in recipes.into_iter().enumerate() {
            if recipe.candidate(wanted).is_err() {
                continue;
            }
            let is_compiled = recipe.requests().all(|request| now.contains(request));
            match is_compiled {
                true => table.set(index, build(&modules, &recipe)),
                false => later.push((index, recipe)),
            }
        }
        if later.is_empty() && table.kernels.iter().all(Option::is_none) {
            let mut rejections = table.candidates.iter().filter_map(|c| c.as_ref().err());
            let message = rejections.next().map_or_else(String::new, ToString::to_string);
            return Err(PrepareError::Device { device: device.facts.name, message });
        }
        let table = Versions::new(table);
        let layer = Arc::new(Self { device, weights, table, compiler: Mutex::default() });
        if !later.is_empty() {
            let weak = Arc::downgrade(&layer);
            let compiler = thread::spawn(move || build_all(&weak, &modules, &later));
            *layer.compiler.lock().unwrap_or_else(PoisonError::into_inner) = Some(compiler);
        }
        Ok(layer)
    }

    /// Waits until no kernel is being compiled: every candidate is then what it stays.
    pub fn wait_for_compiler(&self) {
        let mut compiler = self.compiler.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = compiler.take() {
            // It ends early only by a panic, which it has reported itself.
            let _ = thread.join();
        }
    }

    /// A queue whose work goes to a stream of its own.
    pub fn cuda_queue(self: &Arc<Self>) -> CudaQueue {
        CudaQueue::new(Arc::clone(self), self.device.context.new_stream())
    }

    /// A queue whose work goes to the caller's `stream`, in order with everything else there.
    ///
    /// # Panics
    /// When the stream is of another device's context.
    pub fn queue_on(self: &Arc<Self>, stream: Arc<CudaStream>) -> CudaQueue {
        assert_eq!(stream.context(), &self.device.context, "a stream of the layer's device");
        CudaQueue::new(Arc::clone(self), Ok(stream))
    }

    pub(crate) fn kernel(&self, id: KernelId) -> Result<Arc<Kernel>, LaunchError> {
        let kernels = self.table.newest().kernels.iter().flatten();
        let found = kernels.into_iter().find(|kernel| kernel.spec.id == id);
        found.cloned().ok_or(LaunchError::UnknownKernel { kernel: id })
    }
}

fn build(modules: &Modules, recipe: &Recipe) -> Result<Kernel, Rejection> {
    Kernel::load(modules, recipe).map_err(|error| Rejection {
        kernel: recipe.spec.id,
        why: WhyNot::NotBuilt(error.to_string().into()),
    })
}

/// Compiles one kernel after the other, for as long as the layer is in use.
fn build_all(layer: &Weak<CudaLayer>, modules: &Modules, recipes: &[(usize, Recipe)]) {
    for (index, recipe) in recipes {
        if layer.strong_count() == 0 {
            return;
        }
        let built = build(modules, recipe);
        let Some(layer) = layer.upgrade() else { return };
        let mut table = layer.table.newest().clone();
        table.set(*index, built);
        layer.table.push(table);
    }
}

impl PreparedLayer for CudaLayer {
    fn shape(&self) -> &LayerShape {
        self.weights.shape()
    }

    fn expert_tuples(&self) -> &[BitTuple] {
        self.weights.tuples()
    }

    fn prepared_bytes(&self) -> u64 {
        self.weights.bytes()
    }

    fn candidates(&self) -> &[Candidate] {
        &self.table.newest().candidates
    }

    fn queue(self: Arc<Self>) -> Box<dyn Queue> {
        Box::new(self.cuda_queue())
    }
}
