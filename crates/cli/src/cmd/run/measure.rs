//! Launching a row's calls, timing them, and comparing them with the oracle.

use std::time::Duration;

use trellect::core::{KernelId, NumericClass};
use trellect::exl3::{MoeLayer, oracle};
use trellect::{Dispatcher, Report};
use trellect_tune::statistics::relative_error;

use super::workload::Workload;
use crate::output;
use crate::tensor_file::Batch;

/// Launches until their time adds up to this.
const ROW_TIME: Duration = Duration::from_millis(300);
/// Fewest launches of a row.
const MIN_LAUNCHES: usize = 3;
/// Most launches of a row of tiny calls.
const MAX_LAUNCHES: usize = 1000;

/// What happened at one number of tokens.
pub(super) struct Row {
    /// Tokens of each call.
    pub(super) num_tokens: usize,
    /// The kernels that served, the most used one first; none where there was no token.
    pub(super) kernels: Vec<KernelRuns>,
    /// The kernel of the first launch.
    pub(super) first_kernel: Option<KernelId>,
    /// The kernel of the last launch that was no probe.
    pub(super) last_kernel: Option<KernelId>,
    /// The result of the first launch.
    pub(super) first_output: Vec<f32>,
}

/// The launches of one kernel.
pub(super) struct KernelRuns {
    /// The kernel.
    pub(super) kernel: KernelId,
    /// Its numeric class.
    pub(super) class: NumericClass,
    /// Relative Frobenius error of its first launch, on sampled tokens.
    pub(super) error: f64,
    /// The timed launches, fastest first.
    pub(super) reports: Vec<Report>,
}

impl KernelRuns {
    /// The launch of the given quantile, 0 to 1, of latency.
    pub(super) fn quantile(&self, quantile: f64) -> &Report {
        let last = (self.reports.len() - 1) as f64;
        &self.reports[(last * quantile).round() as usize]
    }
}

/// Measures rows of a layer.
pub(super) struct Measurer<'a> {
    dispatcher: Dispatcher,
    layer: &'a MoeLayer<'a>,
    workload: &'a Workload<'a>,
    kernel: Option<KernelId>,
    repeat: Option<u32>,
}

impl<'a> Measurer<'a> {
    /// `kernel`: the only one to run; `repeat`: timed launches of a row.
    pub(super) fn new(
        dispatcher: Dispatcher,
        layer: &'a MoeLayer<'a>,
        workload: &'a Workload<'a>,
        kernel: Option<KernelId>,
        repeat: Option<u32>,
    ) -> Self {
        Self { dispatcher, layer, workload, kernel, repeat }
    }

    /// Runs a first launch that is not timed, then the timed ones. The first launch of every
    /// kernel that serves is compared with the oracle.
    pub(super) fn measure(&mut self, num_tokens: usize) -> anyhow::Result<Row> {
        let mut first_output = Vec::new();
        let (mut first_kernel, mut last_kernel) = (None, None);
        let mut kernels: Vec<KernelRuns> = Vec::new();
        let (mut timed, mut spent) = (0, Duration::ZERO);
        for launch in 0.. {
            let batch = self.workload.batch(num_tokens, launch)?;
            let (out, report) = self.launch(&batch)?;
            let Some(kernel) = report.kernel else { break };
            first_kernel = first_kernel.or(report.kernel);
            if !report.is_probe() {
                last_kernel = report.kernel;
            }
            let runs = match kernels.iter_mut().find(|runs| runs.kernel == kernel) {
                Some(runs) => runs,
                None => {
                    let error = self.relative_error(&batch, &out);
                    let class = self.class_of(kernel);
                    kernels.push(KernelRuns { kernel, class, error, reports: Vec::new() });
                    kernels.last_mut().expect("pushed above")
                }
            };
            if launch == 0 {
                first_output = out;
                continue;
            }
            timed += 1;
            spent += report.latency.unwrap_or_default();
            runs.reports.push(report);
            let enough = match self.repeat {
                Some(repeat) => timed >= repeat as usize,
                None => timed >= MIN_LAUNCHES && (spent >= ROW_TIME || timed >= MAX_LAUNCHES),
            };
            if enough {
                break;
            }
        }
        kernels.retain(|runs| !runs.reports.is_empty());
        for runs in &mut kernels {
            runs.reports.sort_by_key(|report| report.latency);
        }
        kernels.sort_by_key(|runs| std::cmp::Reverse(runs.reports.len()));
        Ok(Row { num_tokens, kernels, first_kernel, last_kernel, first_output })
    }

    fn launch(&mut self, batch: &Batch) -> anyhow::Result<(Vec<f32>, Report)> {
        let hidden = batch.hidden.view();
        let mut out = vec![0.0; hidden.len()];
        let report = match self.kernel {
            Some(kernel) => self.dispatcher.forward_on(kernel, hidden, &batch.routing, &mut out)?,
            None => self.dispatcher.forward_into(hidden, &batch.routing, &mut out)?,
        };
        if let Some(selector) = self.dispatcher.selector() {
            selector.step();
        }
        if let Some(fallback) = &report.fallback {
            output::note(&format!("fell back: {}", fallback.error));
        }
        Ok((out, report))
    }

    fn class_of(&self, kernel: KernelId) -> NumericClass {
        let mut specs = self.dispatcher.layer().specs();
        let spec = specs.find(|spec| spec.id == kernel);
        spec.expect("a kernel that ran is one of the layer's").class
    }

    /// The error of the first and the last token, each computed by the oracle on a thread of its
    /// own. Gives the mapped pages back that the oracle has read.
    fn relative_error(&self, batch: &Batch, out: &[f32]) -> f64 {
        let (view, routing) = (self.layer.view(), &batch.routing);
        let width = view.shape().hidden_size;
        let mut tokens = vec![0, routing.num_tokens() - 1];
        tokens.dedup();
        let expected: Vec<f64> = std::thread::scope(|scope| {
            let compute = |token: usize| {
                move || oracle::forward_tokens(view, batch.hidden.view(), routing, &[token])
            };
            let threads: Vec<_> = tokens.iter().map(|&token| scope.spawn(compute(token))).collect();
            let rows = threads.into_iter().map(|thread| thread.join());
            rows.flat_map(|row| row.expect("the dispatcher has checked the call")).collect()
        });
        for pair in
            tokens.iter().flat_map(|token| token * routing.top_k()..(token + 1) * routing.top_k())
        {
            self.layer.release_expert(routing.topk_ids()[pair] as usize);
        }
        let found: Vec<f32> = tokens
            .iter()
            .flat_map(|token| &out[token * width..(token + 1) * width])
            .copied()
            .collect();
        relative_error(&found, &expected)
    }
}
