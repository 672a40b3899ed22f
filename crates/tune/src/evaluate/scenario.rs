use std::collections::BTreeMap;
use std::thread;

use serde::Serialize;

use super::{
    Drift, PolicyKind, Recording, Run, SimulatedWorld, Summary, World, WorldConfig, simulate,
};

/// First seed of every comparison: the adaptive policy's constants were tuned on seeds below it, and
/// on no recording.
pub const FIRST_SEED: u64 = 1000;

/// A world, but for its seed.
#[derive(Clone, Copy, Debug)]
pub enum Scenario<'a> {
    /// A simulated one: another machine with every seed.
    Simulated(WorldConfig),
    /// A recorded one: the same machine, other calls in another order with every seed.
    Recorded(&'a Recording),
}

impl Scenario<'_> {
    /// The simulated worlds of the comparison, with their names, for runs of `calls`: a stationary
    /// and a shifting one, the same with a poor prior, and those in which nothing should be
    /// switched.
    pub fn simulated(calls: usize) -> Vec<(String, Self)> {
        let world = |drift| WorldConfig::new(calls, drift);
        let poor = |drift| WorldConfig { prior_error_sd: 0.25, ..world(drift) };
        let step = WorldConfig { clock_step: 1.15f64.ln(), ..WorldConfig::equal(calls, 0.0) };
        let correlated = WorldConfig { noise_rho: 0.9, ..world(Drift::Stationary) };
        let worlds = [
            ("stationary", world(Drift::Stationary)),
            ("shifting", world(Drift::Shifting)),
            ("stationary, prior 25 % off", poor(Drift::Stationary)),
            ("shifting, prior 25 % off", poor(Drift::Shifting)),
            ("stationary, noise of ρ = 0.9", correlated),
            ("equal kernels", WorldConfig::equal(calls, 0.0)),
            ("equal kernels, noise of ρ = 0.9", WorldConfig::equal(calls, 0.9)),
            ("equal kernels, 15 % clock step", step),
        ];
        let named = |(name, config)| (format!("{name}, {calls} calls"), Self::Simulated(config));
        worlds.map(named).into()
    }

    /// The world of a seed.
    pub fn world(&self, seed: u64) -> Box<dyn World + '_> {
        match self {
            Self::Simulated(config) => Box::new(SimulatedWorld::new(*config, seed)),
            Self::Recorded(recording) => Box::new(recording.world(seed)),
        }
    }

    /// One run a seed from [`FIRST_SEED`] on, on as many threads as there are processors; in the
    /// order of the seeds.
    pub fn runs(&self, policy: PolicyKind, seeds: u64) -> Vec<Run> {
        let threads = thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let one = |seed: u64| {
            let mut world = self.world(seed);
            let mut policy = policy.make(&*world, seed);
            simulate(&mut *world, &mut *policy)
        };
        let work = |first: u64| {
            let seeds = (FIRST_SEED + first..FIRST_SEED + seeds).step_by(threads as usize);
            seeds.map(|seed| (seed, one(seed))).collect()
        };
        let mut runs: BTreeMap<u64, Run> = BTreeMap::new();
        thread::scope(|scope| {
            let spawn = |first| scope.spawn(move || -> Vec<(u64, Run)> { work(first) });
            let handles: Vec<_> = (0..threads).map(spawn).collect();
            let done = handles.into_iter().map(|it| it.join().expect("a run does not panic"));
            runs.extend(done.flatten());
        });
        runs.into_values().collect()
    }

    /// The figures of a policy.
    pub fn figures(&self, policy: PolicyKind, seeds: u64) -> Figures {
        let runs = self.runs(policy, seeds);
        let of = |figure: fn(&Run) -> f64| Summary::of(runs.iter().map(figure));
        let share = |part: usize, whole: usize| part as f64 / whole as f64;
        let points = runs.first().map_or(0, |run| run.curve.len());
        let curve = (0..points).map(|at| {
            let sum: f64 = runs.iter().map(|run| run.curve[at].1).sum();
            (runs[0].curve[at].0, sum / runs.len() as f64)
        });
        Figures {
            policy: policy.name(),
            regret: of(|run| run.regret),
            late_regret: of(|run| run.late_regret),
            late_regret_outside_zone: of(|run| run.late_regret_outside_zone),
            late_regret_p95: of(|run| run.late_regret_p95),
            late_regret_worst: of(|run| run.late_regret_worst),
            gap_closed: of(|run| run.gap_closed),
            worst_window_ratio: of(|run| run.worst_window_ratio),
            exploration: of(|run| run.exploration),
            converged_calls: of(|run| run.converged_calls),
            converged_ms: of(|run| run.converged_ns / 1e6),
            unconverged: of(|run| run.unconverged),
            switches: of(|run| run.switches as f64),
            false_switches: of(|run| run.false_switches as f64),
            contexts_with_false_switch: Summary::of(
                runs.iter().map(|run| share(run.contexts_with_false_switch, run.contexts)),
            ),
            recovery_calls: of(|run| run.recovery_calls),
            detection_calls: of(|run| run.detection_calls),
            flip_rate: match self {
                Self::Simulated(_) => f64::NAN,
                Self::Recorded(_) => flip_rate(&*self.world(0), &runs),
            },
            curve: curve.collect(),
        }
    }
}

/// The figures of [`Run`] over all seeds, each a mean with its interval. Those that do not apply
/// are NaN, and `null` in JSON.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "every field is explained at the field of `Run` that has its name")]
pub struct Figures {
    pub policy: &'static str,
    pub regret: Summary,
    pub late_regret: Summary,
    pub late_regret_outside_zone: Summary,
    pub late_regret_p95: Summary,
    pub late_regret_worst: Summary,
    pub gap_closed: Summary,
    pub worst_window_ratio: Summary,
    pub exploration: Summary,
    pub converged_calls: Summary,
    pub converged_ms: Summary,
    pub unconverged: Summary,
    pub switches: Summary,
    pub false_switches: Summary,
    pub contexts_with_false_switch: Summary,
    pub recovery_calls: Summary,
    pub detection_calls: Summary,
    /// Share of contexts and runs that end on another kernel than most runs do in that context, and
    /// one that is not within 1 % of theirs. NaN for simulated worlds, which differ with the seed.
    pub flip_rate: f64,
    /// [`Run::curve`], averaged.
    #[serde(skip)]
    pub curve: Vec<(usize, f64)>,
}

fn flip_rate(world: &dyn World, runs: &[Run]) -> f64 {
    let (mut flips, mut all) = (0, 0);
    for context in 0..world.contexts() {
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for kernel in runs.iter().filter_map(|run| run.last_served[context]) {
            *counts.entry(kernel).or_default() += 1;
        }
        let truth = world.truth_ns(context);
        let Some((&mode, _)) = counts.iter().max_by_key(|(_, count)| **count) else { continue };
        let apart = |kernel: usize| (truth[kernel] / truth[mode]).ln().abs() > 1.01f64.ln();
        flips += counts.iter().filter(|(kernel, _)| apart(**kernel)).map(|(_, n)| n).sum::<usize>();
        all += counts.values().sum::<usize>();
    }
    flips as f64 / all as f64
}
