//! The machine's own limit, measured in the same process.

use trellect_cuda::CudaBackend;
use trellect_cuda::cudarc::driver::{DriverError, sys::CUevent_flags::CU_EVENT_DEFAULT};

use crate::report::median;

/// Far more than any cache.
const BYTES: usize = 1 << 30;
const COPIES: usize = 9;

/// Bandwidth of copies within the device's memory, bytes read plus bytes written.
pub(crate) fn copy_gb_per_s(backend: &CudaBackend) -> Result<f64, DriverError> {
    let stream = backend.context().new_stream()?;
    let from = stream.alloc_zeros::<u8>(BYTES)?;
    let mut to = stream.alloc_zeros::<u8>(BYTES)?;
    let mut milliseconds = Vec::new();
    for _ in 0..COPIES {
        let start = stream.record_event(Some(CU_EVENT_DEFAULT))?;
        stream.memcpy_dtod(&from, &mut to)?;
        let end = stream.record_event(Some(CU_EVENT_DEFAULT))?;
        milliseconds.push(f64::from(start.elapsed_ms(&end)?));
    }
    Ok(2.0 * BYTES as f64 / median(&milliseconds) / 1e6)
}
