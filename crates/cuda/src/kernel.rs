//! A kernel ready to be launched.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use cudarc::driver::sys::{
    CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig,
    cuLaunchKernelEx,
};
use cudarc::driver::{CudaFunction, CudaStream, DriverError};
use trellect_core::KernelSpec;

use crate::catalogue::Recipe;
use crate::error::{LoadError, text};
use crate::layer::{LayerArgument, int};
use crate::modules::Modules;
use crate::plan::{Entry, Plan, Region, Sizes, WorkArgument};

/// `struct Call` of `kernels/layer.cuh`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct CallArgument {
    pub(crate) hidden: u64,
    pub(crate) topk_ids: u64,
    pub(crate) topk_weights: u64,
    pub(crate) out: u64,
    pub(crate) num_tokens: i32,
    pub(crate) top_k: i32,
    pub(crate) dtype: i32,
    /// Of a launch for one tuple.
    pub(crate) tuple: i32,
}

/// The device memory of one call, in elements and addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) layer: LayerArgument,
    pub(crate) hidden: u64,
    /// Bytes of one token's hidden states.
    pub(crate) hidden_row: u64,
    pub(crate) dtype: i32,
    pub(crate) topk_ids: u64,
    pub(crate) topk_weights: u64,
    pub(crate) out: u64,
    /// Bytes of one token's output.
    pub(crate) out_row: u64,
    pub(crate) num_tokens: usize,
    pub(crate) top_k: usize,
    pub(crate) workspace: u64,
}

/// A compiled and loaded kernel of one layer.
pub(crate) struct Kernel {
    pub(crate) spec: KernelSpec,
    plan: Arc<dyn Plan>,
    regions: Vec<Region>,
    steps: Vec<Step>,
    dependent_launch: bool,
}

/// One launch of a pass.
struct Step {
    function: CudaFunction,
    entry: Entry,
    /// The entry point's number.
    index: usize,
    /// The tuple that it is for, by its number, where it is for one.
    tuple: i32,
    sizes: Sizes,
}

impl Kernel {
    /// Compiles and loads what is not there yet.
    pub(crate) fn load(modules: &Modules, recipe: &Recipe) -> Result<Self, LoadError> {
        let mut steps = Vec::new();
        for (index, entry) in recipe.plan.entries().into_iter().enumerate() {
            // What is not launched by tuple does not depend on widths.
            let launches = if entry.by_tuple { recipe.parts.len() } else { 1 };
            for (tuple, part) in recipe.parts[..launches].iter().enumerate() {
                let request = &part.request;
                let failed = |error| LoadError::Driver {
                    unit: request.unit.name,
                    arch: request.arch,
                    message: text(error),
                };
                let function = modules.get(request)?.load_function(entry.name).map_err(failed)?;
                let attribute = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                let bytes = int(entry.shared_bytes as usize);
                function.set_attribute(attribute, bytes).map_err(failed)?;
                let sizes = match entry.by_tuple {
                    true => Sizes { num_experts: part.num_experts, ..recipe.sizes },
                    false => recipe.sizes,
                };
                steps.push(Step { function, entry, index, tuple: int(tuple), sizes });
            }
        }
        Ok(Self {
            spec: recipe.spec,
            plan: Arc::clone(&recipe.plan),
            regions: recipe.plan.regions(&recipe.sizes),
            steps,
            dependent_launch: recipe.arch.has_dependent_launch(),
        })
    }

    /// Puts a call into the stream, in as many passes as it takes.
    ///
    /// # Safety
    /// The addresses are of device memory of the sizes that `spec` and the counts say, until the
    /// stream has done the work, and every expert id is one of the layer's.
    pub(crate) unsafe fn launch(
        &self,
        stream: &CudaStream,
        memory: &Memory,
    ) -> Result<(), DriverError> {
        let whole = memory.num_tokens;
        let pass = (self.plan.pass_pairs() / memory.top_k).max(1);
        let mut first = 0;
        while first < whole {
            let tokens = pass.min(whole - first);
            let pair = (first * memory.top_k * size_of::<i32>()) as u64;
            let mut call = CallArgument {
                hidden: memory.hidden + first as u64 * memory.hidden_row,
                topk_ids: memory.topk_ids + pair,
                topk_weights: memory.topk_weights + pair,
                out: memory.out + first as u64 * memory.out_row,
                num_tokens: i32::try_from(tokens).expect("pairs are at most 2^30"),
                top_k: int(memory.top_k),
                dtype: memory.dtype,
                tuple: 0,
            };
            let pairs = tokens * memory.top_k;
            let mut layer = memory.layer;
            let mut work = WorkArgument::new(&self.regions, memory.workspace, pairs);
            for step in &self.steps {
                let grid = self.plan.grid(step.index, &step.sizes, tokens, pairs);
                call.tuple = step.tuple;
                let mut parameters = parameters(&mut layer, &mut call, &mut work);
                // SAFETY: every entry point takes these three structs; the rest is the caller's
                // promise.
                unsafe { self.start(stream, step, grid, &mut parameters)? };
            }
            first += tokens;
        }
        Ok(())
    }

    /// # Safety
    /// The parameters are those of the entry point, and the memory they name is as it expects.
    unsafe fn start(
        &self,
        stream: &CudaStream,
        step: &Step,
        grid: [u32; 3],
        parameters: &mut [*mut c_void; 3],
    ) -> Result<(), DriverError> {
        let mut attribute = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = CUlaunchConfig {
            gridDimX: grid[0],
            gridDimY: grid[1],
            gridDimZ: grid[2],
            blockDimX: step.entry.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: step.entry.shared_bytes,
            hStream: stream.cu_stream(),
            attrs: &raw mut attribute,
            numAttrs: self.dependent_launch.into(),
        };
        // SAFETY: the configuration, its attribute and the parameters live until the call ends, and
        // the driver copies them.
        let result = unsafe {
            cuLaunchKernelEx(
                &raw const config,
                step.function.cu_function(),
                parameters.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        result.result()
    }
}

fn parameters(
    layer: &mut LayerArgument,
    call: &mut CallArgument,
    work: &mut WorkArgument,
) -> [*mut c_void; 3] {
    [ptr::from_mut(layer).cast(), ptr::from_mut(call).cast(), ptr::from_mut(work).cast()]
}
