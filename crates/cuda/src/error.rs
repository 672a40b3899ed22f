//! What the driver says, in the words of the core.

use cudarc::driver::{DriverError, sys::CUresult};
use trellect_core::{KernelId, LaunchError, PrepareError};

use crate::compile::CompileError;

/// The driver's name of an error and what it means.
pub(crate) fn text(error: DriverError) -> String {
    let lossy = |found: Result<&std::ffi::CStr, _>| {
        found.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let (name, meaning) = (lossy(error.error_name()), lossy(error.error_string()));
    match is_lost(error) {
        true => format!("the device is lost to this process: {name}, {meaning}"),
        false => format!("{name}, {meaning}"),
    }
}

/// Whether nothing can run on the device again in this process.
fn is_lost(error: DriverError) -> bool {
    matches!(
        error.0,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
            | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE
    )
}

fn is_out_of_memory(error: DriverError) -> bool {
    error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY
}

/// An error while a layer is prepared; `needed` is what was being allocated.
pub(crate) fn while_preparing(
    device: &str,
    needed: u64,
) -> impl Fn(DriverError) -> PrepareError + '_ {
    move |error| match is_out_of_memory(error) {
        true => PrepareError::OutOfMemory { needed },
        false => PrepareError::Device { device: device.into(), message: text(error) },
    }
}

/// An error while `kernel` is launched; `needed` is the workspace being allocated.
pub(crate) fn while_launching(
    kernel: KernelId,
    needed: u64,
) -> impl Fn(DriverError) -> LaunchError {
    move |error| match is_out_of_memory(error) {
        true => LaunchError::OutOfMemory { kernel, needed },
        false => LaunchError::Device { kernel, message: text(error) },
    }
}

/// A kernel that did not become machine code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error("loading {unit} for {arch}: {message}")]
    Driver { unit: &'static str, arch: crate::Arch, message: String },
}

#[cfg(test)]
mod tests {
    use trellect_core::Family;

    use super::*;

    #[test]
    fn running_out_of_memory_is_told_apart() {
        let kernel = KernelId::new(Family::Base);
        let full = DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        assert_eq!(
            while_launching(kernel, 7)(full),
            LaunchError::OutOfMemory { kernel, needed: 7 }
        );
        assert_eq!(while_preparing("gpu", 9)(full), PrepareError::OutOfMemory { needed: 9 });
        assert!(!is_lost(full));
        assert!(is_lost(DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS)));
    }
}
