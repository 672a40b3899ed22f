//! Calls on tensors that are in a GPU's memory, in order with torch's current stream.
//!
//! The host does not look at the routing, which would mean waiting for the GPU, so kernels are
//! chosen by the rules, by the number of tokens and the widths of all experts of the layer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use trellect::ActivationPattern;
use trellect::core::{
    Backend, CallFacts, KernelId, KernelSpec, LaunchError, LaunchId, NumericClass, PreparedLayer,
    Queue,
};
use trellect::cuda::{CudaBackend, CudaLayer, CudaQueue, DeviceCall};
use trellect::exl3;
use trellect::select::{Decision, Request, RuleConfig, RulePolicy};

use crate::checkpoint::not_prepared;
use crate::errors::raised;
use crate::layer::{Arguments, MoeLayer, not_computed};
use crate::runtime;
use crate::tensor::Argument;

/// A layer on one GPU.
pub(crate) struct CudaEngine {
    pub(crate) ordinal: usize,
    backend: CudaBackend,
    layer: Arc<CudaLayer>,
    numeric: NumericClass,
    /// Locked only where nobody waits for Python.
    lane: Mutex<Lane>,
}

/// How old a reading of the device's memory may be: it costs as much as a small call.
const MEMORY_READING: Duration = Duration::from_millis(100);

/// What a launch was.
struct Launched {
    kernel: KernelId,
    decision: Option<Decision>,
    memory_pressure: f64,
}

/// What launches of a layer share.
struct Lane {
    queue: CudaQueue,
    rules: RulePolicy,
    /// Launches whose times have not come yet.
    awaited: VecDeque<(LaunchId, KernelId, usize)>,
    /// The device's memory pressure, and when it was read.
    pressure: (Instant, f64),
}

impl CudaEngine {
    /// Prepares a layer in the memory of GPU `ordinal`.
    pub(crate) fn prepare(
        layer: &exl3::MoeLayer<'_>,
        ordinal: usize,
        numeric: NumericClass,
    ) -> PyResult<Self> {
        let backend = runtime::cuda(ordinal)?;
        let prepared = backend
            .prepare_layer(layer.view(), &mut |expert| layer.release_expert(expert))
            .map_err(not_prepared)?;
        let rules = RuleConfig { exploration_rate: 0.0, ..RuleConfig::default() };
        Self::new(ordinal, backend, prepared, numeric, rules)
    }

    fn new(
        ordinal: usize,
        backend: CudaBackend,
        layer: Arc<CudaLayer>,
        numeric: NumericClass,
        rules: RuleConfig,
    ) -> PyResult<Self> {
        let rules = RulePolicy::new(rules).map_err(|error| raised(&error))?;
        let pressure = (Instant::now(), backend.memory().pressure());
        let lane = Lane { queue: layer.cuda_queue(), rules, awaited: VecDeque::new(), pressure };
        Ok(Self { ordinal, backend, layer, numeric, lane: Mutex::new(lane) })
    }

    /// The same layer with other rules.
    pub(crate) fn by_rules(&self, numeric: NumericClass, rules: RuleConfig) -> PyResult<Self> {
        let (backend, layer) = (self.backend.clone(), Arc::clone(&self.layer));
        Self::new(self.ordinal, backend, layer, numeric, rules)
    }

    pub(crate) fn prepared(&self) -> Arc<dyn PreparedLayer> {
        Arc::clone(&self.layer) as Arc<dyn PreparedLayer>
    }

    /// Chooses a kernel and launches it, in order with the work in `stream`.
    ///
    /// # Safety
    /// As [`CudaQueue::launch_device_in`].
    unsafe fn launch(
        &self,
        stream: u64,
        name: Option<KernelId>,
        call: &DeviceCall,
    ) -> PyResult<Launched> {
        let specs: Vec<KernelSpec> = self.layer.specs().copied().collect();
        let mut lane = self.lane.lock().unwrap_or_else(PoisonError::into_inner);
        if lane.pressure.0.elapsed() > MEMORY_READING {
            lane.pressure = (Instant::now(), self.backend.memory().pressure());
        }
        let memory_pressure = lane.pressure.1;
        let (kernel, decision) = match name {
            Some(name) => {
                let found = specs.iter().find(|spec| name.names(spec.id)).map(|spec| spec.id);
                let unknown = || LaunchError::UnknownKernel { kernel: name };
                (found.ok_or_else(unknown).map_err(|error| not_computed(error.into()))?, None)
            }
            None => {
                let decision = self.choose(&mut lane.rules, &specs, call, memory_pressure)?;
                (decision.kernel, Some(decision))
            }
        };
        // SAFETY: the caller's promise.
        let launched = unsafe { lane.queue.launch_device_in(stream, kernel, call) };
        let launched = launched.map_err(|error| not_computed(error.into()))?;
        lane.awaited.push_back((launched, kernel, call.num_tokens));
        lane.harvest();
        Ok(Launched { kernel, decision, memory_pressure })
    }

    /// What the rules take.
    fn choose(
        &self,
        rules: &mut RulePolicy,
        specs: &[KernelSpec],
        call: &DeviceCall,
        pressure: f64,
    ) -> PyResult<Decision> {
        let mut tuples = self.layer.expert_tuples().to_vec();
        tuples.sort_unstable();
        tuples.dedup();
        let widths: Vec<_> = tuples.iter().flat_map(|tuple| tuple.widths()).collect();
        let facts = CallFacts {
            num_tokens: call.num_tokens,
            num_pairs: call.num_tokens.saturating_mul(call.top_k),
            active_tuples: &tuples,
            numeric: self.numeric,
            workspace_limit: None,
        };
        let request =
            Request { active_bits: &widths, memory_pressure: pressure, ..Request::new(facts) };
        rules.select(&request, specs).map_err(|error| raised(&error))
    }
}

impl Lane {
    /// Tells the rules what finished launches took, without waiting for any.
    fn harvest(&mut self) {
        let Self { queue, rules, awaited, .. } = self;
        queue.harvest(&mut |time| {
            while let Some((launch, kernel, num_tokens)) = awaited.pop_front() {
                if launch == time.launch {
                    let milliseconds = time.elapsed.as_secs_f64() * 1e3;
                    let recorded = rules.record(kernel, num_tokens, milliseconds);
                    recorded.expect("a call with tokens, and a duration is finite and positive");
                    break;
                }
            }
        });
    }
}

impl MoeLayer {
    /// As on the host, but puts the work into torch's current stream and returns at once.
    pub(crate) fn run_on_cuda<'py>(
        &self,
        engine: &CudaEngine,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<(Bound<'py, PyAny>, trellect::Report)> {
        let py = arguments.hidden.py();
        let torch = py.import(intern!(py, "torch"))?;
        let hidden = Argument::to_read("hidden", arguments.hidden)?;
        let ids = Argument::to_read("topk_ids", arguments.topk_ids)?;
        let weights = Argument::to_read("topk_weights", arguments.topk_weights)?;
        for argument in [&hidden, &ids, &weights] {
            argument.expect_cuda(engine.ordinal)?;
        }
        let element = hidden.element()?;
        ids.expect_integers()?;
        weights.element()?;
        let [num_tokens, top_k] = self.check_shapes(&hidden, &ids, &weights)?;
        if let Some(given) = arguments.out {
            let out = Argument::to_write("out", given)?;
            out.expect_cuda(engine.ordinal)?;
            out.expect_type_of(&hidden)?;
            self.check_out(&out, num_tokens)?;
        }

        // Checking ids would wait for the GPU; clamping them keeps the kernel within its memory.
        let bounds = PyDict::new(py);
        bounds.set_item("min", 0)?;
        bounds.set_item("max", engine.layer.shape().num_experts - 1)?;
        let clamped = ids.object().call_method("clamp", (), Some(&bounds))?;
        let clamped = clamped.call_method1("to", (torch.getattr("int32")?,))?;
        let ids = Argument::to_read("topk_ids", &clamped)?;
        let single = torch.getattr("float32")?;
        let weights_single = weights.object().call_method1("to", (&single,))?;
        let weights = Argument::to_read("topk_weights", &weights_single)?;
        let result = PyDict::new(py);
        result.set_item("dtype", &single)?;
        let result = torch.call_method("empty_like", (hidden.object(),), Some(&result))?;
        let out = Argument::to_write("out", &result)?;

        let mut report = trellect::Report {
            kernel: None,
            decision: None,
            selection: None,
            fallback: None,
            latency: None,
            num_tokens,
            rows_per_tuple: trellect::TupleRows::new(),
            active_bytes: 0,
            memory_pressure: 0.0,
            pattern: ActivationPattern::default(),
        };
        if num_tokens > 0 {
            let call = DeviceCall {
                hidden: hidden.address()?,
                element,
                topk_ids: ids.address()?,
                topk_weights: weights.address()?,
                out: out.address()?,
                num_tokens,
                top_k,
            };
            let stream = hidden.stream()?;
            let name = arguments.kernel;
            // SAFETY: the tensors have these shapes and types, are contiguous and of this device, and
            // torch aligns new memory to 512 bytes; ids were clamped. torch gives the memory of a
            // tensor that is dropped to later work of the same stream only, which waits for this.
            let launch = || unsafe { engine.launch(stream, name, &call) };
            let launched = py.detach(launch)?;
            report.kernel = Some(launched.kernel);
            report.decision = launched.decision;
            report.memory_pressure = launched.memory_pressure;
        }
        let output = match arguments.out {
            Some(given) => {
                given.call_method1("copy_", (result,))?;
                given.clone()
            }
            None => result.call_method1("to", (hidden.object().getattr("dtype")?,))?,
        };
        Ok((output, report))
    }
}
