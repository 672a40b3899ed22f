use chacha20::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use trellect_core::{
    BackendKind, BitTuple, CallFacts, Family, KernelId, KernelSpec, LayerShape, NumericClass,
    TokenRange, Variant, WorkspaceModel,
};
use trellect_select::adaptive::{Arm, CallFeatures, CostCoefficients, ExpertLoad};

use super::world::{best_of, zipf};
use super::{Sight, Trained, World};

/// Whether the truth stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    /// It stays.
    Stationary,
    /// At 30 % of the run the best kernel of 40 % of the contexts becomes 20–60 % slower; at 45 %
    /// another kernel becomes 10 % faster than the best in 20 % of them; at 60 % the first again.
    Shifting,
}

/// What a world is like. Log-scale figures are standard deviations or shifts of `ln t`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WorldConfig {
    /// Calls of the run.
    pub calls: usize,
    /// Contexts, whose frequencies follow Zipf's law.
    pub contexts: usize,
    /// Kernels.
    pub kernels: usize,
    /// Log-scale noise of one latency.
    pub noise_sd: f64,
    /// Lag-1 correlation of the noise of one kernel in one context.
    pub noise_rho: f64,
    /// Share of latencies that are 1.5 to 10 times too long.
    pub tail_share: f64,
    /// Log-scale error of the prior per kernel and context.
    pub prior_error_sd: f64,
    /// Log-scale step of the clock's bounded random walk, shared by everything.
    pub clock_walk_sd: f64,
    /// Log-scale step of the clock in the middle of the run.
    pub clock_step: f64,
    /// Whether the truth changes.
    pub drift: Drift,
    /// Whether all kernels are equally fast, so that every switch is false.
    pub equal: bool,
    /// Share of failing launches of every kernel but the base kernel.
    pub failure_share: f64,
}

impl WorldConfig {
    /// 24 contexts, 6 kernels, 3 % noise, 1 % outliers, a prior that is 12 % off.
    pub const fn new(calls: usize, drift: Drift) -> Self {
        Self {
            calls,
            contexts: 24,
            kernels: 6,
            noise_sd: 0.03,
            noise_rho: 0.0,
            tail_share: 0.01,
            prior_error_sd: 0.12,
            clock_walk_sd: 0.001,
            clock_step: 0.0,
            drift,
            equal: false,
            failure_share: 0.0,
        }
    }

    /// The same with equally fast kernels and noise of this correlation.
    pub const fn equal(calls: usize, noise_rho: f64) -> Self {
        Self { equal: true, noise_rho, ..Self::new(calls, Drift::Stationary) }
    }
}

#[derive(Clone, Debug)]
struct WorldContext {
    num_tokens: usize,
    loads: Vec<ExpertLoad>,
    tuples: Vec<BitTuple>,
    prior_ns: Vec<f64>,
    truth_ns: Vec<f64>,
    noise: Vec<f64>,
    default: usize,
}

/// A simulated machine with known truth.
#[derive(Debug)]
pub struct SimulatedWorld {
    config: WorldConfig,
    arms: Vec<Arm>,
    open: Vec<usize>,
    trained: Trained,
    shape: LayerShape,
    contexts: Vec<WorldContext>,
    cumulative: Vec<f64>,
    arrivals: ChaCha8Rng,
    noise: ChaCha8Rng,
    changes: ChaCha8Rng,
    clock: f64,
    step: f64,
    now_ns: f64,
}

impl SimulatedWorld {
    /// The world of a seed.
    pub fn new(config: WorldConfig, seed: u64) -> Self {
        let stream = |id: u64| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(id);
            rng
        };
        let mut rng = stream(0);
        let shape = LayerShape::new(2048, 768, 64).expect("within bounds");
        let arms: Vec<Arm> = (0..config.kernels).map(|index| arm(&mut rng, index)).collect();
        let biases: Vec<f64> =
            arms.iter().map(|_| 0.5 * config.prior_error_sd * normal(&mut rng)).collect();
        let contexts: Vec<WorldContext> = (0..config.contexts)
            .map(|index| context(&mut rng, &config, index, &arms, &biases, shape))
            .collect();
        let cumulative = zipf(config.contexts);
        let trained = Trained {
            single: best_single(&contexts, arms.len()),
            table: contexts.iter().map(|it| best_of(&it.truth_ns)).collect(),
        };
        Self {
            cumulative,
            open: (0..arms.len()).collect(),
            trained,
            config,
            arms,
            shape,
            contexts,
            arrivals: stream(1),
            noise: stream(2),
            changes: stream(3),
            clock: 0.0,
            step: 0.0,
            now_ns: 0.0,
        }
    }

    fn change(&mut self, call: usize) -> bool {
        let percent = |share: usize| self.config.calls * share / 100;
        let (slower, faster) = (call == percent(30) || call == percent(60), call == percent(45));
        if !slower && !faster {
            return false;
        }
        for context in &mut self.contexts {
            let (hit, size) = (self.changes.random::<f64>(), self.changes.random::<f64>());
            let other = self.changes.random_range(0..context.truth_ns.len());
            let best = best_of(&context.truth_ns);
            if slower && hit < 0.4 {
                context.truth_ns[best] *= 1.2 + 0.4 * size;
            } else if faster && hit < 0.2 && other != best {
                context.truth_ns[other] = context.truth_ns[best] / 1.1;
            }
        }
        true
    }
}

impl World for SimulatedWorld {
    fn arms(&self) -> &[Arm] {
        &self.arms
    }

    fn calls(&self) -> usize {
        self.config.calls
    }

    fn contexts(&self) -> usize {
        self.contexts.len()
    }

    fn trained(&self) -> &Trained {
        &self.trained
    }

    fn truth_ns(&self, context: usize) -> &[f64] {
        &self.contexts[context].truth_ns
    }

    fn next_call(&mut self, call: usize) -> (usize, bool) {
        self.clock = 0.999 * self.clock + self.config.clock_walk_sd * normal(&mut self.arrivals);
        if call == self.config.calls / 2 {
            self.step = self.config.clock_step;
        }
        let changed = self.config.drift == Drift::Shifting && self.change(call);
        let total = self.cumulative[self.cumulative.len() - 1];
        let at = self.arrivals.random::<f64>() * total;
        let context = self.cumulative.partition_point(|&sum| sum <= at);
        (context.min(self.contexts.len() - 1), changed)
    }

    fn sight(&self, context: usize) -> Sight<'_> {
        let it = &self.contexts[context];
        let facts = CallFacts {
            num_tokens: it.num_tokens,
            num_pairs: it.num_tokens * 4,
            active_tuples: &it.tuples,
            numeric: NumericClass::Half,
            workspace_limit: None,
        };
        Sight {
            context,
            features: CallFeatures { facts, shape: self.shape, loads: &it.loads },
            open: &self.open,
            prior_ns: &it.prior_ns,
            default: it.default,
            truth_ns: &it.truth_ns,
            now_ns: self.now_ns as u64,
        }
    }

    fn run(&mut self, context: usize, kernel: usize) -> Option<f64> {
        let WorldConfig { noise_rho: rho, noise_sd, tail_share, failure_share, .. } = self.config;
        let fresh = normal(&mut self.noise);
        let (tail, factor) = (self.noise.random::<f64>(), self.noise.random::<f64>());
        let fails = self.noise.random::<f64>() < failure_share;
        let it = &mut self.contexts[context];
        it.noise[kernel] = rho * it.noise[kernel] + (1.0 - rho * rho).sqrt() * fresh;
        let log = self.clock + self.step + noise_sd * it.noise[kernel];
        let stall = if tail < tail_share { 1.5 * (10.0f64 / 1.5).powf(factor) } else { 1.0 };
        let latency = it.truth_ns[kernel] * log.exp() * stall;
        self.now_ns += latency;
        (!fails || self.arms[kernel].spec.id.family == Family::Base).then_some(latency)
    }
}

/// The kernel whose latencies, weighted by the contexts' frequencies, sum to the least.
fn best_single(contexts: &[WorldContext], kernels: usize) -> usize {
    let total = |kernel: usize| {
        let weighted =
            contexts.iter().zip(1..).map(|(it, rank)| it.truth_ns[kernel] / f64::from(rank));
        weighted.sum::<f64>()
    };
    best_of(&(0..kernels).map(total).collect::<Vec<_>>())
}

/// Kernels that share a decoding among more rows take longer to launch and to decode.
fn arm(rng: &mut ChaCha8Rng, index: usize) -> Arm {
    const FAMILIES: [(Family, usize, f64, f64); 4] = [
        (Family::Base, 16, 3_000.0, 6e-5),
        (Family::Prefill4, 4, 2_000.0, 4.5e-5),
        (Family::Grouped, 8, 4_000.0, 5e-5),
        (Family::LargeBatch, 128, 6_000.0, 7e-5),
    ];
    let (family, rows_per_decode, launch_ns, decode) = FAMILIES[index % FAMILIES.len()];
    let name = format!("t{index}");
    let variant = Variant::new(BackendKind::Cpu, &name).expect("a letter and a number");
    let mut vary = |value: f64| value * (0.25 * normal(rng)).exp();
    Arm {
        spec: KernelSpec {
            id: KernelId::new(family).with_variant(variant),
            class: NumericClass::Half,
            tokens: TokenRange::ANY,
            tile_n: 64,
            rows_per_decode,
            workspace: WorkspaceModel::default(),
            capture_safe: true,
            deterministic: true,
        },
        cost: CostCoefficients {
            launch_ns: vary(launch_ns),
            ns_per_decoded_weight: vary(decode),
            ns_per_mac: vary(1.5e-5),
            ns_per_pair: 20.0,
        },
    }
}

fn context(
    rng: &mut ChaCha8Rng,
    config: &WorldConfig,
    index: usize,
    arms: &[Arm],
    biases: &[f64],
    shape: LayerShape,
) -> WorldContext {
    let num_tokens = 1usize << (index % 8);
    let tuple = BitTuple::new(2 + (index / 8) as u64 % 7, 3, 4).expect("2 to 8 bits");
    let active = (num_tokens * 4).min(48);
    let loads = (0..active).map(|expert| ExpertLoad {
        tuple,
        rows: (num_tokens * 4 / active + usize::from(expert < num_tokens * 4 % active)) as u32,
    });
    let mut it = WorldContext {
        num_tokens,
        loads: loads.collect(),
        tuples: vec![tuple],
        prior_ns: Vec::new(),
        truth_ns: Vec::new(),
        noise: vec![0.0; arms.len()],
        default: 0,
    };
    let facts = CallFacts {
        num_tokens,
        num_pairs: num_tokens * 4,
        active_tuples: &it.tuples,
        numeric: NumericClass::Half,
        workspace_limit: None,
    };
    let features = CallFeatures { facts, shape, loads: &it.loads };
    let prior: Vec<f64> = arms.iter().map(|arm| arm.estimate_ns(&features)).collect();
    let mut truth: Vec<f64> = prior
        .iter()
        .zip(biases)
        .map(|(ns, bias)| ns * (bias + config.prior_error_sd * normal(rng)).exp())
        .collect();
    let best = best_of(&truth);
    let tied = rng.random_range(0..arms.len());
    if rng.random_bool(0.3) && tied != best {
        truth[tied] = truth[best] * (1.0 + 0.01 * rng.random::<f64>());
    }
    let near: Vec<usize> = (0..arms.len()).filter(|&k| truth[k] < 1.4 * truth[best]).collect();
    let guess = near[rng.random_range(0..near.len())];
    it.default = if rng.random_bool(0.4) { best } else { guess };
    if config.equal {
        truth = vec![truth[best]; arms.len()];
    }
    it.prior_ns = prior;
    it.truth_ns = truth;
    it
}

/// A standard normal number, by Box and Muller.
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}
