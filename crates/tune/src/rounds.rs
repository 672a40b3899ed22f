//! The one measuring loop: kernels that take turns on the same calls.

use std::ops::ControlFlow;
use std::sync::Arc;

use half::f16;
use rand::Rng;
use trellect_core::{
    Call, CallError, Hidden, KernelId, LaunchError, PreparedLayer, Queue, Routing,
};

use crate::launch::timed_launch;

/// What a call runs on.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Hidden states, `[num_tokens, hidden_size]`.
    pub hidden: Arc<[f16]>,
    /// Their routing.
    pub routing: Routing,
}

/// A call on one of several layers.
pub(crate) struct LayerCall {
    /// Which layer.
    pub(crate) layer: usize,
    /// Its inputs.
    pub(crate) inputs: Inputs,
}

/// One launch that was timed.
pub(crate) struct Timed {
    /// Index of the call.
    pub(crate) call: usize,
    /// Index of the kernel.
    pub(crate) kernel: usize,
    /// Device time, at least 1.
    pub(crate) ns: u64,
}

/// A call that could not be made, or a launch that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoundError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
}

/// Layers of one shape, each with a queue.
pub(crate) struct Rotation {
    pub(crate) layers: Vec<Arc<dyn PreparedLayer>>,
    queues: Vec<Box<dyn Queue>>,
    out: Vec<f32>,
}

impl Rotation {
    pub(crate) fn new(layers: &[Arc<dyn PreparedLayer>]) -> Self {
        let queues = layers.iter().map(|layer| Arc::clone(layer).queue()).collect();
        Self { layers: layers.to_vec(), queues, out: Vec::new() }
    }

    pub(crate) fn queue(&mut self, layer: usize) -> &mut dyn Queue {
        self.queues[layer].as_mut()
    }

    /// Launches every kernel once on every call. Each call has its kernels in a random order of its
    /// own, and between two launches on one call all other calls have theirs: what a launch reads
    /// was last read as many launches ago as there are calls. `before` runs before every launch;
    /// `sink` may end it.
    pub(crate) fn interleave(
        &mut self,
        calls: &[LayerCall],
        kernels: &[KernelId],
        rng: &mut impl Rng,
        mut before: impl FnMut(),
        mut sink: impl FnMut(Timed) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, RoundError> {
        let orders: Vec<Vec<usize>> = calls.iter().map(|_| shuffled(kernels.len(), rng)).collect();
        let of_turn = |turn: usize| orders.iter().map(move |order| order[turn]).enumerate();
        for (at, kernel) in (0..kernels.len()).flat_map(of_turn) {
            let ns = self.time(&calls[at], kernels[kernel], &mut before)?;
            if sink(Timed { call: at, kernel, ns }).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// One launch: nanoseconds. `before` runs when all else is ready.
    pub(crate) fn time(
        &mut self,
        LayerCall { layer, inputs }: &LayerCall,
        kernel: KernelId,
        before: impl FnOnce(),
    ) -> Result<u64, RoundError> {
        let shape = self.layers[*layer].shape();
        let call = Call::new(shape, Hidden::F16(&inputs.hidden), &inputs.routing)?;
        self.out.resize(inputs.hidden.len(), 0.0);
        let queue = self.queues[*layer].as_mut();
        queue.reserve(kernel, inputs.routing.num_pairs())?;
        before();
        Ok(timed_launch(queue, kernel, &call, &mut self.out)?)
    }
}

/// The numbers below `count` in random order, by Fisher and Yates' method.
pub(crate) fn shuffled(count: usize, rng: &mut impl Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        let other = (u64::from(rng.next_u32()) * (last as u64 + 1)) >> 32;
        order.swap(last, other as usize);
    }
    order
}
