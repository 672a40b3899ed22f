//! What the selector serves.

use std::sync::Arc;

use trellect::core::{Hidden, KernelId, KernelSpec, NumericClass, PreparedLayer};
use trellect::{Dispatcher, DispatcherOptions, Policy, Selector, SelectorOptions};
use trellect_tune::bench::Inputs;

use super::BenchArgs;
use crate::args::PolicyArg;
use crate::device::Device;
use crate::history_file::is_none;
use crate::output;

/// Calls until a dispatcher has a plan and serves by it: the first is the rules', and the next ones
/// may be probes.
const CALLS: usize = 4;

/// The policy's name in reports.
pub(super) fn name(policy: PolicyArg) -> &'static str {
    match policy {
        PolicyArg::Rules => "rules",
        PolicyArg::Adaptive => "adaptive",
    }
}

/// A selector that learns from nothing but the calls that are put to it here.
pub(super) fn selector(args: &BenchArgs) -> Option<Selector> {
    (args.policy == PolicyArg::Adaptive).then(|| {
        Selector::new(SelectorOptions {
            history: args.history.clone().filter(|path| !is_none(path)),
            background: false,
            ..SelectorOptions::default()
        })
    })
}

/// Serves calls of one layer and class as a user's dispatcher would.
pub(super) struct Picker {
    dispatcher: Dispatcher,
}

impl Picker {
    /// A picker among `kernels`, as far as they can compute every call of the layer.
    pub(super) fn new(
        device: &Arc<Device>,
        layer: &Arc<dyn PreparedLayer>,
        numeric: NumericClass,
        kernels: &[KernelSpec],
        selector: Option<&Selector>,
    ) -> anyhow::Result<Self> {
        let tuples = layer.expert_tuples();
        let every_call = |spec: &&KernelSpec| {
            spec.id.tuple.is_none_or(|only| tuples.iter().all(|&tuple| tuple == only))
        };
        let options = DispatcherOptions {
            numeric,
            available: Some(kernels.iter().filter(every_call).map(|spec| spec.id).collect()),
            policy: match selector {
                Some(selector) => Policy::Adaptive(Some(selector.clone())),
                None => Policy::Rules,
            },
            ..DispatcherOptions::default()
        };
        let backend = Arc::clone(device);
        Ok(Self { dispatcher: Dispatcher::new(backend, Arc::clone(layer), options)? })
    }

    /// The kernel that serves calls like this one; `None` where none can, which is said.
    pub(super) fn pick(&mut self, inputs: &Inputs) -> Option<KernelId> {
        let mut out = vec![0.0; inputs.hidden.len()];
        let mut served = None;
        for _ in 0..CALLS {
            let hidden = Hidden::F16(&inputs.hidden);
            match self.dispatcher.forward_into(hidden, &inputs.routing, &mut out) {
                Ok(report) if report.is_probe() => {}
                Ok(report) => served = report.kernel,
                Err(error) => {
                    output::note(&format!("no pick: {error}"));
                    return None;
                }
            }
            match self.dispatcher.selector() {
                Some(selector) => selector.step(),
                None => break,
            }
        }
        served
    }
}
