//! MoE kernels on NVIDIA GPUs.
//!
//! Neither building nor testing this crate needs a CUDA toolkit or a GPU: the driver and the
//! compiler (NVRTC) are loaded when a device is opened, and a machine without them gets a
//! [`NoDevice`] that says why.
//!
//! A call goes [`CudaBackend`] → [`CudaLayer`] (weights, kernels) → [`CudaQueue`] (checks,
//! workspace, stream, timing) → `kernel` (one launch per entry point) → `kernels/*.cu`. `plan` says
//! how each of those files is run, `catalogue` lists the kernels, `layout` and `layer` put the
//! weights where they read them, `compile`, `cache` and `modules` turn source into machine code.

mod arch;
mod backend;
mod cache;
mod catalogue;
mod compile;
mod device;
mod error;
mod foreign;
mod kernel;
mod layer;
mod layout;
mod modules;
mod plan;
mod prepared;
mod processors;
mod queue;
mod resources;
mod source;
mod timing;
mod versions;

pub use arch::Arch;
pub use backend::{CudaBackend, LayerKind};
pub use cache::CACHE_VARIABLE;
pub use catalogue::{KernelFilter, absent_kernels};
pub use cudarc;
pub use device::{DeviceFacts, NoDevice, devices, memory};
pub use prepared::CudaLayer;
pub use queue::{CudaQueue, DeviceCall, Element};
pub use resources::{EntryResources, KernelResources, kernel_resources};
