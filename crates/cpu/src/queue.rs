//! Launching: checks, workspace, timing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use trellect_core::{
    BitTuple, Call, Candidate, DeviceTime, KernelId, LaunchError, LaunchId, LayerShape,
    PreparedLayer, Queue,
};

use crate::buffer::Buffer;
use crate::catalogue::Entry;
use crate::driver::{Chunk, Launch, Run};
use crate::prepared::Weights;
use crate::team::Team;

/// Timings kept until they are harvested; older ones are dropped.
const TIMINGS: usize = 64;

/// A layer prepared for the CPU.
pub(crate) struct CpuLayer {
    weights: Weights,
    team: Arc<Team>,
    candidates: Vec<Candidate>,
    runs: Vec<Option<Box<dyn Run>>>,
}

impl CpuLayer {
    pub(crate) fn new(weights: Weights, team: Arc<Team>, entries: Vec<Entry>) -> Self {
        let (candidates, runs) = entries.into_iter().map(|e| (e.candidate, e.run)).unzip();
        Self { weights, team, candidates, runs }
    }

    fn kernel(&self, id: KernelId) -> Result<(&trellect_core::KernelSpec, &dyn Run), LaunchError> {
        let found = self.candidates.iter().zip(&self.runs).find_map(|(candidate, run)| {
            let spec = candidate.as_ref().ok().filter(|spec| spec.id == id)?;
            Some((spec, run.as_deref()?))
        });
        found.ok_or(LaunchError::UnknownKernel { kernel: id })
    }
}

impl PreparedLayer for CpuLayer {
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
        &self.candidates
    }

    fn queue(self: Arc<Self>) -> Box<dyn Queue> {
        Box::new(CpuQueue {
            layer: self,
            workspace: Buffer::zeroed(0).expect("no byte at all"),
            chunk: Chunk::default(),
            timings: VecDeque::with_capacity(TIMINGS),
            launches: 0,
        })
    }
}

struct CpuQueue {
    layer: Arc<CpuLayer>,
    workspace: Buffer,
    chunk: Chunk,
    timings: VecDeque<DeviceTime>,
    launches: u64,
}

impl Queue for CpuQueue {
    fn reserve(&mut self, kernel: KernelId, num_pairs: usize) -> Result<(), LaunchError> {
        let (spec, run) = self.layer.kernel(kernel)?;
        let needed = spec.workspace.bytes(num_pairs);
        if (self.workspace.len() as u64) < needed {
            let error = LaunchError::OutOfMemory { kernel, needed };
            let len = usize::try_from(needed).map_err(|_| error.clone())?;
            // The old workspace goes first: both at once may not fit.
            self.workspace = Buffer::zeroed(0).expect("no byte at all");
            self.workspace = Buffer::resident(len).ok_or(error)?;
        }
        self.chunk.reserve(run.plan().chunk_pairs.min(num_pairs));
        Ok(())
    }

    fn workspace_bytes(&self) -> u64 {
        self.workspace.len() as u64
    }

    fn launch(
        &mut self,
        kernel: KernelId,
        call: &Call<'_>,
        out: &mut [f32],
    ) -> Result<LaunchId, LaunchError> {
        let layer = Arc::clone(&self.layer);
        let (spec, run) = layer.kernel(kernel)?;
        spec.check_launch(call, layer.weights.tuples(), out)?;
        self.reserve(kernel, call.routing().num_pairs())?;
        let start = Instant::now();
        run.run(Launch {
            weights: &layer.weights,
            team: &layer.team,
            call,
            out,
            workspace: self.workspace.bytes_mut(),
            chunk: &mut self.chunk,
        });
        let launch = LaunchId(self.launches);
        self.launches += 1;
        if self.timings.len() == TIMINGS {
            self.timings.pop_front();
        }
        self.timings.push_back(DeviceTime { launch, elapsed: start.elapsed() });
        Ok(launch)
    }

    fn harvest(&mut self, sink: &mut dyn FnMut(DeviceTime)) {
        self.timings.drain(..).for_each(sink);
    }
}
