//! The class `MixedKernelSelector`: the rule policy over kernels by their plain names.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use trellect::core::{KernelId, KernelSpec};
use trellect::select::{RuleConfig, SharedRulePolicy, catalogue};

use crate::arguments;
use crate::call::Call;
use crate::errors::raised;
use crate::explanation;
use crate::metadata::Metadata;
use crate::statistics::{self, Records};

/// The only policy that decides by names alone.
const POLICY: &str = "rules";

/// A kernel's name and the metadata of its selection.
pub(crate) type Selected<'py> = (Bound<'py, PyString>, Bound<'py, PyDict>);

/// Chooses kernels by rules and by what it was told of their latencies.
#[pyclass(frozen, module = "trellect")]
#[derive(Debug)]
pub(crate) struct MixedKernelSelector {
    policy: SharedRulePolicy,
    candidates: Vec<KernelSpec>,
    metadata: Metadata,
    records: Records,
}

#[pymethods]
impl MixedKernelSelector {
    #[new]
    #[pyo3(
        signature = (
            history_len = None, exploration_rate = None, seed = None,
            memory_pressure_threshold = None, policy = None
        ),
        text_signature = "(history_len=100, exploration_rate=0.05, seed=None, \
                          memory_pressure_threshold=0.9, policy='rules')"
    )]
    fn new(
        history_len: Option<&Bound<'_, PyAny>>,
        exploration_rate: Option<&Bound<'_, PyAny>>,
        seed: Option<&Bound<'_, PyAny>>,
        memory_pressure_threshold: Option<&Bound<'_, PyAny>>,
        policy: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        policy.map_or(Ok(()), |found| arguments::word("policy", found, &[POLICY]))?;
        let mut config = RuleConfig::default();
        if let Some(found) = history_len {
            config.history_len = arguments::count("history_len", found)?;
        }
        if let Some(found) = exploration_rate {
            config.exploration_rate = arguments::share("exploration_rate", found)?;
        }
        if let Some(found) = memory_pressure_threshold {
            config.memory_pressure_threshold =
                arguments::share("memory_pressure_threshold", found)?;
        }
        config.seed = seed.map(arguments::seed).transpose()?;
        Self::with_config(config)
    }

    /// Chooses the kernel of a call; its name and the metadata of the choice.
    #[pyo3(
        signature = (
            batch_size, active_expert_bits, gpu_memory_pressure = None, gate_bits = None,
            up_bits = None, down_bits = None, use_fp32_acc = None, available_kernels = None,
            expert_activation_pattern = None, benchmark_kernel = None
        ),
        text_signature = "($self, batch_size, active_expert_bits, gpu_memory_pressure=0.0, \
                          gate_bits=None, up_bits=None, down_bits=None, use_fp32_acc=False, \
                          available_kernels=None, expert_activation_pattern=None, \
                          benchmark_kernel=None)"
    )]
    #[expect(clippy::too_many_arguments, reason = "Python's signature")]
    fn select_kernel<'py>(
        &self,
        py: Python<'py>,
        batch_size: &Bound<'py, PyAny>,
        active_expert_bits: &Bound<'py, PyAny>,
        gpu_memory_pressure: Option<&Bound<'py, PyAny>>,
        gate_bits: Option<&Bound<'py, PyAny>>,
        up_bits: Option<&Bound<'py, PyAny>>,
        down_bits: Option<&Bound<'py, PyAny>>,
        use_fp32_acc: Option<&Bound<'py, PyAny>>,
        available_kernels: Option<&Bound<'py, PyAny>>,
        expert_activation_pattern: Option<&Bound<'py, PyAny>>,
        benchmark_kernel: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Selected<'py>> {
        let widths = [gate_bits, up_bits, down_bits];
        let call = Call::new(
            batch_size,
            active_expert_bits,
            gpu_memory_pressure,
            widths,
            use_fp32_acc,
            available_kernels,
        )?;
        let call = call.with_pattern(expert_activation_pattern)?;
        match benchmark_kernel {
            Some(benchmark) => self.select_with_benchmark(py, &call, benchmark),
            None => self.select(py, &call),
        }
    }

    /// Notes what a kernel took.
    #[pyo3(signature = (kernel_name, batch_size, latency_ms, selected_by = None))]
    fn record_timing(
        &self,
        kernel_name: &Bound<'_, PyAny>,
        batch_size: &Bound<'_, PyAny>,
        latency_ms: &Bound<'_, PyAny>,
        selected_by: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let kernel = arguments::kernel("kernel_name", kernel_name)?;
        let num_tokens = arguments::count("batch_size", batch_size)?;
        let latency_ms = arguments::number("latency_ms", latency_ms)?;
        let selected_by = selected_by.map(|found| arguments::text("selected_by", found));
        let selected_by = selected_by.transpose()?;
        self.policy.record(kernel, num_tokens, latency_ms).map_err(|error| raised(&error))?;
        self.records.count(selected_by.as_deref());
        Ok(())
    }

    /// The same as `record_timing`.
    #[pyo3(signature = (kernel_name, batch_size, latency_ms, selected_by = None))]
    pub(crate) fn record_kernel_latency(
        &self,
        kernel_name: &Bound<'_, PyAny>,
        batch_size: &Bound<'_, PyAny>,
        latency_ms: &Bound<'_, PyAny>,
        selected_by: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.record_timing(kernel_name, batch_size, latency_ms, selected_by)
    }

    /// What has been selected and recorded so far.
    pub(crate) fn get_statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        statistics::dict(py, &self.policy, &self.records)
    }

    /// Forgets what has been selected and recorded; the configuration stays.
    pub(crate) fn reset_history(&self) {
        self.policy.reset_history();
        self.records.reset();
    }

    /// Sets the probability of trying another legal kernel.
    pub(crate) fn set_exploration_rate(&self, rate: &Bound<'_, PyAny>) -> PyResult<()> {
        let rate = arguments::share("rate", rate)?;
        self.policy.set_exploration_rate(rate).map_err(|error| raised(&error))
    }

    /// What would become of every kernel where nothing is explored.
    #[pyo3(
        signature = (
            batch_size, active_expert_bits, gpu_memory_pressure = None, gate_bits = None,
            up_bits = None, down_bits = None, use_fp32_acc = None, available_kernels = None,
            expert_activation_pattern = None
        ),
        text_signature = "($self, batch_size, active_expert_bits, gpu_memory_pressure=0.0, \
                          gate_bits=None, up_bits=None, down_bits=None, use_fp32_acc=False, \
                          available_kernels=None, expert_activation_pattern=None)"
    )]
    #[expect(clippy::too_many_arguments, reason = "Python's signature")]
    fn explain<'py>(
        &self,
        py: Python<'py>,
        batch_size: &Bound<'py, PyAny>,
        active_expert_bits: &Bound<'py, PyAny>,
        gpu_memory_pressure: Option<&Bound<'py, PyAny>>,
        gate_bits: Option<&Bound<'py, PyAny>>,
        up_bits: Option<&Bound<'py, PyAny>>,
        down_bits: Option<&Bound<'py, PyAny>>,
        use_fp32_acc: Option<&Bound<'py, PyAny>>,
        available_kernels: Option<&Bound<'py, PyAny>>,
        expert_activation_pattern: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let widths = [gate_bits, up_bits, down_bits];
        let call = Call::new(
            batch_size,
            active_expert_bits,
            gpu_memory_pressure,
            widths,
            use_fp32_acc,
            available_kernels,
        )?;
        let call = call.with_pattern(expert_activation_pattern)?;
        let explanation = self.policy.explain(&call.request(), &self.candidates);
        let explanation = explanation.map_err(|error| raised(&error))?;
        let (_, metadata) = self.metadata.of(py, &explanation.decision)?;
        explanation::add(&metadata, &explanation)?;
        Ok(metadata)
    }

    /// Latencies kept per kernel and bucket.
    #[getter]
    fn history_len(&self) -> usize {
        self.policy.config().history_len
    }

    /// Probability of trying another legal kernel.
    #[getter]
    fn exploration_rate(&self) -> f64 {
        self.policy.config().exploration_rate
    }

    /// Memory pressure above which the base kernel serves.
    #[getter]
    fn memory_pressure_threshold(&self) -> f64 {
        self.policy.config().memory_pressure_threshold
    }

    /// How kernels are chosen.
    #[getter]
    const fn policy(&self) -> &'static str {
        POLICY
    }

    /// The seed in use, with which a run can be repeated.
    #[getter]
    fn seed(&self) -> u64 {
        self.policy.seed()
    }

    fn __repr__(&self) -> String {
        let RuleConfig { exploration_rate, memory_pressure_threshold, history_len, .. } =
            self.policy.config();
        format!(
            "MixedKernelSelector(history_len={history_len}, exploration_rate={exploration_rate}, \
             seed={}, memory_pressure_threshold={memory_pressure_threshold}, policy='{POLICY}')",
            self.policy.seed()
        )
    }
}

impl MixedKernelSelector {
    pub(crate) fn with_config(config: RuleConfig) -> PyResult<Self> {
        let candidates = catalogue(&config.thresholds);
        let policy = SharedRulePolicy::new(config).map_err(|error| raised(&error))?;
        let (metadata, records) = (Metadata::default(), Records::default());
        Ok(Self { policy, candidates, metadata, records })
    }

    pub(crate) fn select<'py>(&self, py: Python<'py>, call: &Call) -> PyResult<Selected<'py>> {
        let decision = self.policy.select(&call.request(), &self.candidates);
        self.metadata.of(py, &decision.map_err(|error| raised(&error))?)
    }

    /// `benchmark` is called with a kernel's name and returns its milliseconds. What it raises is
    /// raised, and ends the test.
    fn select_with_benchmark<'py>(
        &self,
        py: Python<'py>,
        call: &Call,
        benchmark: &Bound<'py, PyAny>,
    ) -> PyResult<Selected<'py>> {
        let mut raising = None;
        let mut run = |kernel: KernelId| {
            let returned = benchmark.call1((kernel.to_string(),));
            let latency =
                returned.and_then(|it| arguments::number("benchmark_kernel's result", &it));
            latency.unwrap_or_else(|error| {
                raising = Some(error);
                f64::NAN
            })
        };
        let decision =
            self.policy.select_with_benchmark(&call.request(), &self.candidates, &mut run);
        match (raising, decision) {
            (Some(error), _) => Err(error),
            (None, decision) => self.metadata.of(py, &decision.map_err(|error| raised(&error))?),
        }
    }
}
