//! The GPUs of this machine, or why there is none.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::{CudaContext, DriverError, sys};
use trellect_core::MemoryFigures;

use crate::arch::Arch;
use crate::error::text;

/// A GPU that the kernels can run on.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) context: Arc<CudaContext>,
    pub(crate) facts: DeviceFacts,
}

/// What a GPU is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Its number, from 0 on.
    pub ordinal: usize,
    /// The maker's name of it.
    pub name: String,
    /// What kernels are compiled for.
    pub arch: Arch,
    /// Streaming multiprocessors.
    pub num_sms: u32,
    /// Bytes of the second-level cache.
    pub l2_bytes: u64,
    /// Most shared memory that one block may ask for, in bytes.
    pub shared_bytes: u32,
    /// Highest clock of the multiprocessors, in MHz.
    pub clock_mhz: u32,
    /// Version of the CUDA API that the driver has, as in `13.0`.
    pub driver: String,
}

/// Why a GPU cannot be used: a value to be shown, not a failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoDevice {
    /// The driver's library cannot be loaded.
    #[error("no NVIDIA driver on this machine")]
    NoDriver,
    /// The compiler's library cannot be loaded.
    #[error("no NVRTC library (libnvrtc) on this machine: kernels are compiled at run time")]
    NoCompiler,
    /// The driver refused.
    #[error("the NVIDIA driver refused: {message}")]
    Driver {
        /// What it said.
        message: String,
    },
    /// Fewer devices than asked for.
    #[error("no device {ordinal}: this machine has {count}")]
    NoSuchDevice {
        /// The device asked for.
        ordinal: usize,
        /// Devices of the machine.
        count: usize,
    },
    /// Older than the kernels.
    #[error("{name} is {found}, the kernels need {} or later", Arch::OLDEST)]
    Architecture {
        /// The device's name.
        name: String,
        /// Its architecture.
        found: Arch,
    },
}

impl From<DriverError> for NoDevice {
    fn from(error: DriverError) -> Self {
        Self::Driver { message: text(error) }
    }
}

/// Every GPU of this machine, old ones too.
///
/// # Errors
/// [`NoDevice`] when there is no driver or it refuses.
pub fn devices() -> Result<Vec<DeviceFacts>, NoDevice> {
    let describe = |ordinal| {
        let context = open_context(ordinal)?;
        Ok(facts(&context)?)
    };
    (0..count()?).map(describe).collect()
}

/// Free and total memory of device `ordinal`, whichever process uses it.
///
/// Leaves the calling thread's current device alone. Where nothing of this process uses the device,
/// its driver is started and stopped, which takes a good part of a second.
///
/// # Errors
/// [`NoDevice`] when there is no driver, no such device, or the driver refuses.
pub fn memory(ordinal: usize) -> Result<MemoryFigures, NoDevice> {
    let count = count()?;
    if ordinal >= count {
        return Err(NoDevice::NoSuchDevice { ordinal, count });
    }
    let ask = || -> Result<_, DriverError> { CudaContext::new(ordinal)?.mem_get_info() };
    // What a thread asks for becomes current in it, so this one is not the caller's.
    let told = thread::scope(|scope| scope.spawn(ask).join());
    let (free, total) = told.unwrap_or_else(|panic| resume_unwind(panic))?;
    Ok(MemoryFigures { available: free as u64, total: total as u64 })
}

fn count() -> Result<usize, NoDevice> {
    if !driver_is_present() {
        return Err(NoDevice::NoDriver);
    }
    match CudaContext::device_count() {
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Asked first, since every other call of the bindings panics without the library.
fn driver_is_present() -> bool {
    // SAFETY: loading the driver runs its initialisers, which expect nothing of the process.
    unsafe { sys::is_culib_present() }
}

fn open_context(ordinal: usize) -> Result<Arc<CudaContext>, NoDevice> {
    let context = CudaContext::new(ordinal)?;
    // SAFETY: every buffer of this crate is used on the stream that it was allocated on, or after
    // that stream was synchronised, so that no tracked event is ever needed.
    unsafe { context.disable_event_tracking() };
    Ok(context)
}

fn facts(context: &CudaContext) -> Result<DeviceFacts, DriverError> {
    let number = |attribute| Ok(u32::try_from(context.attribute(attribute)?).unwrap_or(0));
    Ok(DeviceFacts {
        ordinal: context.ordinal(),
        name: context.name()?,
        arch: Arch {
            major: number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            minor: number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        },
        num_sms: number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        l2_bytes: number(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
        shared_bytes: number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        clock_mhz: number(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)? / 1000,
        driver: driver_version()?,
    })
}

fn driver_version() -> Result<String, DriverError> {
    let mut version = 0;
    // SAFETY: the pointer is to a local of the type that the driver writes.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    Ok(format!("{}.{}", version / 1000, version % 1000 / 10))
}

impl Device {
    /// Opens device `ordinal`.
    pub(crate) fn open(ordinal: usize) -> Result<Self, NoDevice> {
        let count = count()?;
        if ordinal >= count {
            return Err(NoDevice::NoSuchDevice { ordinal, count });
        }
        if !crate::compile::compiler_is_present() {
            return Err(NoDevice::NoCompiler);
        }
        let context = open_context(ordinal)?;
        let facts = facts(&context)?;
        match facts.arch >= Arch::OLDEST {
            true => Ok(Self { context, facts }),
            false => Err(NoDevice::Architecture { name: facts.name, found: facts.arch }),
        }
    }

    /// Free and total memory; unknown (0) when the device does not answer.
    pub(crate) fn memory(&self) -> MemoryFigures {
        let (free, total) = self.context.mem_get_info().unwrap_or((0, 0));
        MemoryFigures { available: free as u64, total: total as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_driver_says_so() {
        if driver_is_present() {
            println!("skipped: this machine has a driver");
            return;
        }
        assert_eq!(devices(), Err(NoDevice::NoDriver));
        assert_eq!(memory(0), Err(NoDevice::NoDriver));
        let error = Device::open(0).err().map(|why| why.to_string());
        assert_eq!(error.as_deref(), Some("no NVIDIA driver on this machine"));
    }

    #[test]
    fn every_reason_names_what_is_missing() {
        let old =
            NoDevice::Architecture { name: "Tesla T4".into(), found: Arch { major: 7, minor: 5 } };
        assert_eq!(old.to_string(), "Tesla T4 is sm_75, the kernels need sm_80 or later");
        let none = NoDevice::NoSuchDevice { ordinal: 2, count: 1 };
        assert_eq!(none.to_string(), "no device 2: this machine has 1");
    }
}
