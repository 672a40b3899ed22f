use std::sync::Arc;
use std::time::Duration;

use crate::BitTuple;
use crate::{BackendKind, Call, CallError, Candidate, KernelId, KernelSpec, LayerShape, LayerView};

/// A device that can run MoE layers.
///
/// A backend says what it can run ([`kernels`](Self::kernels)), prepares a layer once
/// ([`prepare`](Self::prepare)) and reads its memory. Launching belongs to the [`Queue`] of a
/// prepared layer.
pub trait Backend: Send + Sync {
    /// Which kind of backend this is.
    fn kind(&self) -> BackendKind;

    /// What the device is.
    fn describe(&self) -> DeviceDescription;

    /// Every kernel that this backend has for a layer of `shape` with `tuples` among its experts,
    /// best first within a family, each runnable or with the reason why not.
    fn kernels(&self, shape: &LayerShape, tuples: &[BitTuple]) -> Vec<Candidate>;

    /// Re-lays a layer's weights for this device. `progress` is called after every expert, from
    /// one thread at a time, with experts in any order; what the view borrows may be released for
    /// an expert once it was reported.
    ///
    /// # Errors
    /// [`PrepareError`] when memory or the device fails.
    fn prepare(
        &self,
        layer: &LayerView<'_>,
        progress: PrepareProgress<'_>,
    ) -> Result<Arc<dyn PreparedLayer>, PrepareError>;

    /// Free and total memory, as the device tells now.
    fn memory(&self) -> MemoryFigures;
}

/// Told the id of every expert whose weights have been prepared.
pub type PrepareProgress<'a> = &'a mut (dyn FnMut(usize) + Send);

/// A layer whose weights are laid out for one device; shared by any number of queues.
pub trait PreparedLayer: Send + Sync {
    /// The layer's dimensions.
    fn shape(&self) -> &LayerShape;

    /// Bit widths of every expert.
    fn expert_tuples(&self) -> &[BitTuple];

    /// Bytes that the prepared weights and scales take on the device.
    fn prepared_bytes(&self) -> u64;

    /// Every kernel of the backend for this layer, best first within a family. A backend that
    /// compiles in the background answers anew: what was [`Compiling`](crate::WhyNot::Compiling)
    /// is then runnable or not, and nothing else changes.
    fn candidates(&self) -> &[Candidate];

    /// A new, empty queue.
    fn queue(self: Arc<Self>) -> Box<dyn Queue>;

    /// The runnable kernels among the [`candidates`](Self::candidates).
    fn specs(&self) -> Box<dyn Iterator<Item = &KernelSpec> + '_> {
        Box::new(self.candidates().iter().filter_map(|candidate| candidate.as_ref().ok()))
    }
}

/// One caller's way to a prepared layer: it owns the workspace and the timings of its launches.
///
/// Queues of one layer are independent of each other.
pub trait Queue: Send {
    /// Grows the workspace to what `kernel` needs for `num_pairs` pairs, so that the launch itself
    /// allocates nothing.
    ///
    /// # Errors
    /// [`LaunchError::UnknownKernel`], or [`LaunchError::OutOfMemory`].
    fn reserve(&mut self, kernel: KernelId, num_pairs: usize) -> Result<(), LaunchError>;

    /// Bytes of workspace held now.
    fn workspace_bytes(&self) -> u64;

    /// Computes `out[t] = Σ_slots weight · expert(hidden[t])`; `out` is `[num_tokens,
    /// hidden_size]` and is overwritten. On a device with streams the work may still run when this
    /// returns.
    ///
    /// # Errors
    /// [`LaunchError`]; `out` is then unspecified.
    fn launch(
        &mut self,
        kernel: KernelId,
        call: &Call<'_>,
        out: &mut [f32],
    ) -> Result<LaunchId, LaunchError>;

    /// Hands over the times of finished launches, oldest first, without waiting for any.
    fn harvest(&mut self, sink: &mut dyn FnMut(DeviceTime));
}

/// Numbers the launches of a queue, from 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LaunchId(pub u64);

/// How long the device worked on a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceTime {
    /// Which launch.
    pub launch: LaunchId,
    /// Device time.
    pub elapsed: Duration,
}

/// What a device is, for people and reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceDescription {
    /// The maker's name of it.
    pub name: String,
    /// Facts in the order to print them: instruction sets, threads, caches.
    pub facts: Vec<(&'static str, String)>,
}

/// Memory of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryFigures {
    /// Bytes that could be allocated now.
    pub available: u64,
    /// Bytes in all, or the limit put on this process.
    pub total: u64,
}

impl MemoryFigures {
    /// Used share of the total, 0 to 1; 0 where the total is unknown (0).
    pub fn pressure(&self) -> f64 {
        match self.total {
            0 => 0.0,
            total => 1.0 - self.available.min(total) as f64 / total as f64,
        }
    }
}

/// A layer that could not be prepared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// Not enough memory for the prepared layer.
    #[error("preparing the layer needs {needed} bytes, which could not be allocated")]
    OutOfMemory {
        /// Bytes asked for.
        needed: u64,
    },
    /// The device refused.
    #[error("{device}: {message}")]
    Device {
        /// The device.
        device: String,
        /// What it said.
        message: String,
    },
}

/// A launch that did not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The layer has no such kernel on this machine.
    #[error("{kernel}: this layer has no such kernel on this machine")]
    UnknownKernel {
        /// The kernel asked for.
        kernel: KernelId,
    },
    /// The kernel cannot compute this call.
    #[error("{kernel}: {why}")]
    Illegal {
        /// The kernel asked for.
        kernel: KernelId,
        /// Why it cannot.
        why: crate::WhyNot,
    },
    /// The arguments do not belong together.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Not enough memory for the workspace.
    #[error("{kernel}: a workspace of {needed} bytes could not be allocated")]
    OutOfMemory {
        /// The kernel asked for.
        kernel: KernelId,
        /// Bytes asked for.
        needed: u64,
    },
    /// The device failed.
    #[error("{kernel}: {message}")]
    Device {
        /// The kernel asked for.
        kernel: KernelId,
        /// What the device said.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_a_share_and_never_nan() {
        let pressure = |available, total| MemoryFigures { available, total }.pressure();
        assert_eq!(pressure(25, 100), 0.75);
        assert_eq!(pressure(200, 100), 0.0);
        assert_eq!(pressure(0, 0), 0.0);
    }
}
