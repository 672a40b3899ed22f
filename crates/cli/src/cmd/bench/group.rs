//! The layers of one shape and mix of widths, prepared once for all of their workloads.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use half::f16;
use trellect::core::{Backend, Codebook, Hidden, LayerView, PreparedLayer, Routing, RoutingError};
use trellect::exl3::oracle;
use trellect::exl3::synth::{self, OwnedLayer};
use trellect_tune::bench::{Bench, Inputs};

use crate::args::{BitsArg, ShapeArg, SynthLayerArgs};
use crate::device::Device;
use crate::output;
use crate::synthetic::Synthetic;
use crate::table;

/// Tokens that the oracle computes.
const ORACLE_TOKENS: usize = 2;

/// Share of the available memory that layers may take.
const MEMORY_SHARE: f64 = 0.7;

/// What a group's layers are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupPlan<'a> {
    pub(crate) shape: &'a ShapeArg,
    pub(crate) bits: BitsArg,
    pub(crate) codebook: Codebook,
}

impl fmt::Display for GroupPlan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.shape.name, self.bits)
    }
}

/// Prepared layers, their inputs, and what the oracle says of the first tokens on layer 0.
pub(crate) struct Group<'a> {
    plan: GroupPlan<'a>,
    /// By device, then by number.
    layers: Vec<Vec<Arc<dyn PreparedLayer>>>,
    expected: Vec<f64>,
    hidden: RefCell<HashMap<usize, Arc<[f16]>>>,
}

impl<'a> Group<'a> {
    /// Makes layers until they exceed `cold_bytes`, prepares them on every device, and asks the
    /// oracle. Fewer layers than that where memory is short, which is said.
    pub(crate) fn new(
        plan: &GroupPlan<'a>,
        devices: &[Arc<Device>],
        cold_bytes: u64,
    ) -> anyhow::Result<Self> {
        let args =
            SynthLayerArgs { shape: plan.shape.clone(), bits: plan.bits, codebook: plan.codebook };
        let synthetic = Synthetic { layer: &args, layers: 1, router: false, seed: 0 };
        let mut this = Self {
            plan: *plan,
            layers: vec![Vec::new(); devices.len()],
            expected: Vec::new(),
            hidden: RefCell::default(),
        };
        let (mut layer, mut bytes) = (0, 0);
        while layer == 0 || bytes < cold_bytes {
            let made = OwnedLayer::new(&synthetic.spec(layer))
                .with_context(|| format!("making a layer of {plan}"))?;
            let view = made.view();
            if layer == 0 {
                this.expected = this.ask_oracle(&view)?;
            } else if !fits(&view, devices) {
                output::note(&format!(
                    "{plan}: memory for {} of the {} that would surely leave the caches",
                    table::bytes(bytes),
                    table::bytes(cold_bytes)
                ));
                break;
            }
            for (device, layers) in devices.iter().zip(&mut this.layers) {
                let prepared = device.prepare(&view, &mut |_| {});
                layers.push(prepared.with_context(|| format!("preparing a layer of {plan}"))?);
            }
            bytes += view.trellis_bytes();
            layer += 1;
        }
        Ok(this)
    }

    pub(crate) fn plan(&self) -> &GroupPlan<'a> {
        &self.plan
    }

    /// Layer 0 on a device.
    pub(crate) fn layer(&self, device: usize) -> &Arc<dyn PreparedLayer> {
        &self.layers[device][0]
    }

    /// Tokens of a seed: the hidden states are those of any seed, since no time depends on them.
    pub(crate) fn inputs(&self, num_tokens: usize, seed: u64) -> Result<Inputs, RoutingError> {
        let ShapeArg { shape, top_k, .. } = self.plan.shape;
        let mut known = self.hidden.borrow_mut();
        let hidden = known
            .entry(num_tokens)
            .or_insert_with(|| synth::hidden(num_tokens, shape.hidden_size, 0).into());
        let routing = synth::routing(num_tokens, shape.num_experts, *top_k, seed)?;
        Ok(Inputs { hidden: Arc::clone(hidden), routing })
    }

    /// [`inputs`](Self::inputs) as a function.
    pub(crate) fn draw(&self) -> impl Fn(usize, u64) -> Result<Inputs, RoutingError> + '_ {
        |num_tokens, seed| self.inputs(num_tokens, seed)
    }

    /// A bench for every device.
    pub(crate) fn benches<'b>(
        &'b self,
        draw: &'b dyn Fn(usize, u64) -> Result<Inputs, RoutingError>,
        cold_bytes: u64,
    ) -> Vec<Bench<'b>> {
        let bench = |layers: &Vec<_>| Bench::new(layers, draw, &self.expected, cold_bytes);
        self.layers.iter().map(bench).collect()
    }

    /// The oracle's rows of the first tokens of seed 0, every expert on a thread of its own.
    fn ask_oracle(&self, view: &LayerView<'_>) -> anyhow::Result<Vec<f64>> {
        let Inputs { hidden, routing } = self.inputs(ORACLE_TOKENS, 0)?;
        let (top_k, width) = (routing.top_k(), view.shape().hidden_size);
        let pairs = (0..routing.num_pairs()).map(|pair| {
            let (id, weight) = (routing.topk_ids()[pair] as i32, routing.topk_weights()[pair]);
            Routing::new(routing.num_experts(), 1, &[id], &[weight])
        });
        let pairs = pairs.collect::<Result<Vec<_>, _>>()?;
        let mut rows = vec![0.0; ORACLE_TOKENS * width];
        thread::scope(|scope| {
            let compute = |(pair, routing)| {
                let token = &hidden[pair / top_k * width..][..width];
                scope.spawn(move || oracle::forward(view, Hidden::F16(token), routing))
            };
            let threads: Vec<_> = pairs.iter().enumerate().map(compute).collect();
            for (pair, thread) in threads.into_iter().enumerate() {
                let share = thread.join().expect("the oracle does not panic on a valid call");
                let row = &mut rows[pair / top_k * width..][..width];
                row.iter_mut().zip(share).for_each(|(sum, share)| *sum += share);
            }
        });
        Ok(rows)
    }
}

/// Whether one more layer as large as `view` fits on every device, and beside it.
fn fits(view: &LayerView<'_>, devices: &[Arc<Device>]) -> bool {
    let memory = devices[0].memory();
    // A total of zero is an unknown one.
    let needed = view.trellis_bytes() as f64 * devices.len() as f64;
    memory.total == 0 || needed <= MEMORY_SHARE * memory.available as f64
}
