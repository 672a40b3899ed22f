//! A prepared layer, and its calls from Python.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use half::slice::HalfFloatSliceExt;
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use trellect::core::{
    Backend, Hidden, KernelId, LaunchError, NumericClass, PreparedLayer, Routing, RoutingError,
};
use trellect::select::RuleConfig;
use trellect::{Dispatcher, DispatcherOptions, ForwardError, Policy};

use crate::cuda::CudaEngine;
use crate::errors::raised;
use crate::report::Report;
use crate::runtime;
use crate::tensor::{Argument, FloatsMut, Integers};

/// A layer whose weights are laid out for a device, and how its kernels are chosen.
#[pyclass(frozen, weakref, module = "trellect")]
pub(crate) struct MoeLayer {
    number: usize,
    numeric: NumericClass,
    prepared: Arc<dyn PreparedLayer>,
    engine: Engine,
    /// Of the last call of `forward`.
    report: Mutex<Option<trellect::Report>>,
}

/// The one way to the device that all callers of a layer share, one after the other.
enum Engine {
    Host { backend: Arc<dyn Backend>, dispatcher: Box<Mutex<Dispatcher>> },
    Cuda(Box<CudaEngine>),
}

thread_local! {
    /// What a kernel computes for a caller that wants another type than float32. It is the
    /// thread's, so that a model does not hold as many as it has layers.
    static RESULT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl MoeLayer {
    /// A layer in the host's memory.
    pub(crate) fn on_host(
        number: usize,
        backend: Arc<dyn Backend>,
        prepared: Arc<dyn PreparedLayer>,
        options: DispatcherOptions,
    ) -> PyResult<Self> {
        let numeric = options.numeric;
        let dispatcher = Dispatcher::new(Arc::clone(&backend), Arc::clone(&prepared), options)
            .map_err(|error| raised(&error))?;
        let engine = Engine::Host { backend, dispatcher: Box::new(Mutex::new(dispatcher)) };
        Ok(Self { number, numeric, prepared, engine, report: Mutex::default() })
    }

    /// A layer in a GPU's memory.
    pub(crate) fn on_cuda(number: usize, numeric: NumericClass, engine: CudaEngine) -> Self {
        let (prepared, engine) = (engine.prepared(), Engine::Cuda(Box::new(engine)));
        Self { number, numeric, prepared, engine, report: Mutex::default() }
    }

    /// Computes a call in the host's memory.
    fn compute(
        &self,
        dispatcher: &Mutex<Dispatcher>,
        call: &HostCall<'_>,
        out: FloatsMut<'_>,
    ) -> PyResult<trellect::Report> {
        let HostCall { hidden, top_k, kernel, .. } = *call;
        let (ids, weights) = (call.ids()?, call.weights());
        let num_experts = self.prepared.shape().num_experts;
        let routing = Routing::new(num_experts, top_k, &ids, &weights)
            .map_err(|error| wrong_routing(&error))?;
        let mut dispatcher = dispatcher.lock().unwrap_or_else(PoisonError::into_inner);
        let mut run = |out: &mut [f32]| {
            let report = match kernel {
                Some(kernel) => dispatcher.forward_on(kernel, hidden, &routing, out),
                None => dispatcher.forward_into(hidden, &routing, out),
            };
            report.map_err(not_computed)
        };
        let mut run_and_convert = |convert: &mut dyn FnMut(&[f32])| {
            RESULT.with_borrow_mut(|result| {
                result.clear();
                result.resize(hidden.len(), 0.0);
                let report = run(result)?;
                convert(result);
                Ok(report)
            })
        };
        match out {
            FloatsMut::F32(out) => run(out),
            FloatsMut::F16(out) => run_and_convert(&mut |from| out.convert_from_f32_slice(from)),
            FloatsMut::Bf16(out) => run_and_convert(&mut |from| out.convert_from_f32_slice(from)),
        }
    }

    /// [`run`](Self::run) on the host.
    fn run_on_host<'py>(
        &self,
        dispatcher: &Mutex<Dispatcher>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<(Bound<'py, PyAny>, trellect::Report)> {
        let py = arguments.hidden.py();
        let hidden = Argument::to_read("hidden", arguments.hidden)?;
        let ids = Argument::to_read("topk_ids", arguments.topk_ids)?;
        let weights = Argument::to_read("topk_weights", arguments.topk_weights)?;
        for argument in [&hidden, &ids, &weights] {
            argument.expect_host()?;
        }
        let (states, experts, shares) = (hidden.floats()?, ids.integers()?, weights.floats()?);
        let [num_tokens, top_k] = self.check_shapes(&hidden, &ids, &weights)?;
        let kernel = arguments.kernel;
        let call = HostCall { hidden: states, ids: experts, weights: shares, top_k, kernel };
        let mut out = match arguments.out {
            Some(given) => {
                let out = Argument::to_write("out", given)?;
                out.expect_host()?;
                out.expect_type_of(&hidden)?;
                self.check_out(&out, num_tokens)?;
                for read in [&hidden, &ids, &weights] {
                    out.expect_apart(read)?;
                }
                out
            }
            None => hidden.empty_like("out")?,
        };
        let object = out.object().clone();
        let mut view = out.view_mut()?;
        let out = FloatsMut::new(&mut view, call.hidden)?;
        let report = py.detach(|| self.compute(dispatcher, &call, out))?;
        Ok((object, report))
    }

    /// Compares the arguments' shapes; tells the number of tokens and of experts a token.
    pub(crate) fn check_shapes(
        &self,
        hidden: &Argument<'_>,
        ids: &Argument<'_>,
        weights: &Argument<'_>,
    ) -> PyResult<[usize; 2]> {
        let hidden_size = self.prepared.shape().hidden_size;
        let expected = || format!("[num_tokens, {hidden_size}]");
        let [num_tokens, _] = hidden.matrix(expected)?;
        hidden.expect_matrix([num_tokens, hidden_size], expected)?;
        let expected = || format!("[{num_tokens}, top_k]");
        let [_, top_k] = ids.matrix(expected)?;
        ids.expect_matrix([num_tokens, top_k], expected)?;
        weights.expect_matrix([num_tokens, top_k], || format!("[{num_tokens}, {top_k}]"))?;
        Ok([num_tokens, top_k])
    }

    /// Refuses an output of another shape than the hidden states.
    pub(crate) fn check_out(&self, out: &Argument<'_>, num_tokens: usize) -> PyResult<()> {
        let hidden_size = self.prepared.shape().hidden_size;
        let expected = || format!("[{num_tokens}, {hidden_size}]");
        out.expect_matrix([num_tokens, hidden_size], expected)
    }
}

/// A call's arguments, as Python gives them.
pub(crate) struct Arguments<'a, 'py> {
    pub(crate) hidden: &'a Bound<'py, PyAny>,
    pub(crate) topk_ids: &'a Bound<'py, PyAny>,
    pub(crate) topk_weights: &'a Bound<'py, PyAny>,
    pub(crate) kernel: Option<KernelId>,
    pub(crate) out: Option<&'a Bound<'py, PyAny>>,
}

/// A call's arguments in the host's memory.
struct HostCall<'a> {
    hidden: Hidden<'a>,
    ids: Integers<'a>,
    weights: Hidden<'a>,
    top_k: usize,
    kernel: Option<KernelId>,
}

impl HostCall<'_> {
    fn ids(&self) -> PyResult<Cow<'_, [i32]>> {
        let wide = match self.ids {
            Integers::I32(ids) => return Ok(ids.into()),
            Integers::I64(ids) => ids,
        };
        let narrow = |(pair, &id): (usize, &i64)| {
            i32::try_from(id).map_err(|_| {
                let (token, slot) = (pair / self.top_k, pair % self.top_k);
                PyValueError::new_err(format!(
                    "topk_ids: token {token}, slot {slot}: expert {id} does not exist"
                ))
            })
        };
        wide.iter().enumerate().map(narrow).collect()
    }

    fn weights(&self) -> Cow<'_, [f32]> {
        if let Hidden::F32(weights) = self.weights {
            return weights.into();
        }
        let mut weights = vec![0.0; self.weights.len()];
        self.weights.read_f32(0, &mut weights);
        weights.into()
    }
}

#[pymethods]
impl MoeLayer {
    #[getter]
    fn number(&self) -> usize {
        self.number
    }

    #[getter]
    fn hidden_size(&self) -> usize {
        self.prepared.shape().hidden_size
    }

    #[getter]
    fn intermediate_size(&self) -> usize {
        self.prepared.shape().intermediate_size
    }

    #[getter]
    fn num_experts(&self) -> usize {
        self.prepared.shape().num_experts
    }

    #[getter]
    fn bit_tuples(&self) -> Vec<(u8, u8, u8)> {
        self.prepared.expert_tuples().iter().map(|tuple| widths(*tuple)).collect()
    }

    #[getter]
    fn prepared_bytes(&self) -> u64 {
        self.prepared.prepared_bytes()
    }

    #[getter]
    fn device(&self) -> String {
        match &self.engine {
            Engine::Host { .. } => "cpu".into(),
            Engine::Cuda(engine) => format!("cuda:{}", engine.ordinal),
        }
    }

    #[getter]
    fn numeric(&self) -> &'static str {
        self.numeric.name()
    }

    fn kernels(&self) -> Vec<String> {
        self.prepared.specs().map(|spec| spec.id.to_string()).collect()
    }

    #[getter]
    fn last_report(&self) -> Option<Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone().map(Report)
    }

    #[pyo3(signature = (hidden, topk_ids, topk_weights, kernel=None, out=None))]
    fn forward<'py>(
        &self,
        hidden: &Bound<'py, PyAny>,
        topk_ids: &Bound<'py, PyAny>,
        topk_weights: &Bound<'py, PyAny>,
        kernel: Option<&str>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (output, report) = self.run(hidden, topk_ids, topk_weights, kernel, out)?;
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report.0);
        Ok(output)
    }

    #[pyo3(signature = (hidden, topk_ids, topk_weights, kernel=None, out=None))]
    fn run<'py>(
        &self,
        hidden: &Bound<'py, PyAny>,
        topk_ids: &Bound<'py, PyAny>,
        topk_weights: &Bound<'py, PyAny>,
        kernel: Option<&str>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Report)> {
        let kernel = kernel.map(str::parse::<KernelId>).transpose();
        let kernel = kernel.map_err(|error| raised(&error))?;
        let arguments = Arguments { hidden, topk_ids, topk_weights, kernel, out };
        let (output, report) = match &self.engine {
            Engine::Host { dispatcher, .. } => self.run_on_host(dispatcher, &arguments),
            Engine::Cuda(engine) => self.run_on_cuda(engine, &arguments),
        }?;
        Ok((output, Report(report)))
    }

    /// Nanoseconds of calls from Rust, one by one, on memory that is there: what a benchmark of
    /// `forward` compares with.
    fn _time_rust<'py>(
        &self,
        hidden: &Bound<'py, PyAny>,
        topk_ids: &Bound<'py, PyAny>,
        topk_weights: &Bound<'py, PyAny>,
        calls: usize,
    ) -> PyResult<Vec<u64>> {
        let Engine::Host { dispatcher, .. } = &self.engine else {
            return Err(PyValueError::new_err("the layer is on a GPU: expected one on the cpu"));
        };
        let hidden = Argument::to_read("hidden", hidden)?;
        let ids = Argument::to_read("topk_ids", topk_ids)?;
        let weights = Argument::to_read("topk_weights", topk_weights)?;
        let [_, top_k] = self.check_shapes(&hidden, &ids, &weights)?;
        let (hidden, ids, weights) = (hidden.floats()?, ids.integers()?, weights.floats()?);
        let call = HostCall { hidden, ids, weights, top_k, kernel: None };
        let (ids, weights) = (call.ids()?, call.weights());
        let mut out = vec![0.0; hidden.len()];
        let mut dispatcher = dispatcher.lock().unwrap_or_else(PoisonError::into_inner);
        let mut time = |_| {
            let start = Instant::now();
            let routing = Routing::new(self.prepared.shape().num_experts, top_k, &ids, &weights)
                .map_err(|error| wrong_routing(&error))?;
            dispatcher.forward_into(hidden, &routing, &mut out).map_err(not_computed)?;
            Ok(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
        };
        (0..calls).map(&mut time).collect()
    }

    #[pyo3(signature = (*, use_fp32_acc=false, exploration_rate=0.0, seed=None))]
    fn by_rules(
        &self,
        use_fp32_acc: bool,
        exploration_rate: f64,
        seed: Option<u64>,
    ) -> PyResult<Self> {
        let numeric = if use_fp32_acc { NumericClass::Exact } else { NumericClass::Half };
        let rules = RuleConfig { exploration_rate, seed, ..RuleConfig::default() };
        match &self.engine {
            Engine::Host { backend, .. } => {
                let policy = Policy::Rules;
                let options = DispatcherOptions { numeric, rules, available: None, policy };
                let (backend, prepared) = (Arc::clone(backend), Arc::clone(&self.prepared));
                Self::on_host(self.number, backend, prepared, options)
            }
            Engine::Cuda(engine) => {
                Ok(Self::on_cuda(self.number, numeric, engine.by_rules(numeric, rules)?))
            }
        }
    }

    fn __repr__(&self) -> String {
        let shape = self.prepared.shape();
        format!(
            "<MoeLayer {}: hidden {}, intermediate {}, {} experts, on {}>",
            self.number,
            shape.hidden_size,
            shape.intermediate_size,
            shape.num_experts,
            self.device()
        )
    }
}

/// The widths of gate, up and down.
pub(crate) fn widths(tuple: trellect::core::BitTuple) -> (u8, u8, u8) {
    (tuple.gate.get(), tuple.up.get(), tuple.down.get())
}

/// The adaptive policy with the process's selector.
pub(crate) fn adaptive(numeric: NumericClass) -> DispatcherOptions {
    let policy = Policy::Adaptive(Some(runtime::selector()));
    DispatcherOptions { numeric, policy, ..DispatcherOptions::default() }
}

/// An error of a routing, with the argument's name.
fn wrong_routing(error: &RoutingError) -> PyErr {
    let argument = match error {
        RoutingError::Weight { .. } => "topk_weights",
        _ => "topk_ids",
    };
    PyValueError::new_err(format!("{argument}: {error}"))
}

/// Why a call was not computed: `MemoryError`, `RuntimeError` where the device or a kernel failed,
/// else `ValueError`.
pub(crate) fn not_computed(error: ForwardError) -> PyErr {
    let message = error.to_string();
    match error {
        ForwardError::Launch(LaunchError::OutOfMemory { .. }) => PyMemoryError::new_err(message),
        ForwardError::Launch(LaunchError::Device { .. }) | ForwardError::Wrong(_) => {
            PyRuntimeError::new_err(message)
        }
        _ => PyValueError::new_err(message),
    }
}
