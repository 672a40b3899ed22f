//! The tables of the evaluation, in Markdown.

use std::fmt::Write;
use std::thread;

use trellect_select::adaptive::AdaptiveConfig;

use super::{
    Adaptive, DiscountedThompson, Drift, EpsilonGreedy, FirstCallAutotune, Oracle, PlainMean,
    Policy, Run, StaticRules, StaticTable, Summary, Ucb1, UniformKernel, World, WorldConfig,
    simulate,
};

/// Makes a policy for a world and a seed.
pub type MakePolicy = fn(&World, u64) -> Box<dyn Policy>;

/// Every policy of the comparison, the adaptive one last.
pub const POLICIES: [(&str, MakePolicy); 11] = [
    ("uniform kernel", |_, _| Box::new(UniformKernel(0))),
    ("static rules (right 40 %)", |_, _| Box::new(StaticRules)),
    ("plain-mean feedback, 5 %", |_, seed| Box::new(PlainMean::new(seed))),
    ("ε-greedy, 5 %", |_, seed| Box::new(EpsilonGreedy::new(seed))),
    ("UCB1", |_, _| Box::new(Ucb1::default())),
    ("discounted TS + prior, 0.998", |_, seed| Box::new(DiscountedThompson::new(seed, 0.998))),
    ("discounted TS + prior, 0.99", |_, seed| Box::new(DiscountedThompson::new(seed, 0.99))),
    ("first-call autotune, 10", |_, _| Box::new(FirstCallAutotune::default())),
    ("perfect static table", |world, _| Box::new(StaticTable::new(world))),
    ("oracle", |_, _| Box::new(Oracle)),
    ("adaptive", adaptive),
];

/// The adaptive policy with its default constants.
pub fn adaptive(world: &World, seed: u64) -> Box<dyn Policy> {
    Box::new(Adaptive::new(world, AdaptiveConfig { seed, ..AdaptiveConfig::default() }))
}

/// First seed of every table: the adaptive policy's constants were tuned on seeds below it.
pub const FIRST_SEED: u64 = 1000;

/// One run a seed from [`FIRST_SEED`] on, on as many threads as there are processors; in the order
/// of the seeds.
pub fn runs(config: WorldConfig, seeds: u64, make: MakePolicy) -> Vec<Run> {
    let threads = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let one = |seed: u64| {
        let mut world = World::new(config, seed);
        let mut policy = make(&world, seed);
        simulate(&mut world, &mut *policy)
    };
    let mut numbered: Vec<(u64, Run)> = thread::scope(|scope| {
        let work = |first: u64| {
            (FIRST_SEED + first..FIRST_SEED + seeds).step_by(threads as usize).map(|s| (s, one(s)))
        };
        let handles: Vec<_> =
            (0..threads).map(|t| scope.spawn(move || work(t).collect::<Vec<_>>())).collect();
        handles.into_iter().flat_map(|h| h.join().expect("a simulation does not panic")).collect()
    });
    numbered.sort_by_key(|&(seed, _)| seed);
    numbered.into_iter().map(|(_, run)| run).collect()
}

/// Cumulative regret and regret in the last 20 %, in percent, for the runs of `lengths` calls in a
/// stationary and a shifting world whose prior errs by `prior_error_sd`.
pub fn regret_table(lengths: &[usize], prior_error_sd: f64, seeds: u64) -> String {
    let mut text = String::from("| policy |");
    let worlds: Vec<WorldConfig> = [Drift::Stationary, Drift::Shifting]
        .into_iter()
        .flat_map(|drift| {
            lengths
                .iter()
                .map(move |&calls| WorldConfig { prior_error_sd, ..WorldConfig::new(calls, drift) })
        })
        .collect();
    for WorldConfig { calls, drift, .. } in &worlds {
        write!(text, " {drift:?} {}k |", calls / 1000).expect("a String takes every text");
    }
    text += &format!("\n|--|{}\n", "--|".repeat(worlds.len()));
    for (name, make) in POLICIES {
        text += &format!("| {name} |");
        for config in &worlds {
            let runs = runs(*config, seeds, make);
            let regret = Summary::of(runs.iter().map(|run| run.regret));
            let late = Summary::of(runs.iter().map(|run| run.late_regret));
            text += &format!(" {regret} / {:.2} |", 100.0 * late.mean);
        }
        text.push('\n');
    }
    text
}

/// What the adaptive policy must not do: false switches among equal kernels under independent and
/// correlated noise and over a clock step of 15 %, time lost to the rules, time spent on probes,
/// and how long a shift takes.
pub fn safety_table(calls: usize, seeds: u64) -> String {
    let worlds = [
        ("equal kernels, independent noise", WorldConfig::equal(calls, 0.0)),
        ("equal kernels, noise of ρ = 0.9", WorldConfig::equal(calls, 0.9)),
        ("equal kernels, 15 % clock step", clock_step(WorldConfig::equal(calls, 0.0))),
        ("stationary", WorldConfig::new(calls, Drift::Stationary)),
        (
            "stationary, noise of ρ = 0.9",
            WorldConfig { noise_rho: 0.9, ..WorldConfig::new(calls, Drift::Stationary) },
        ),
        ("shifting", WorldConfig::new(calls, Drift::Shifting)),
    ];
    let mut text = String::from(
        "| world | switches a run | false switches a run | contexts with one, % | probing, % | \
         worst 5 % of a run against the rules, % | calls to recover |\n|--|--|--|--|--|--|--|\n",
    );
    for (name, config) in worlds {
        let runs = runs(config, seeds, adaptive);
        let mean = |figure: fn(&Run) -> f64| Summary::of(runs.iter().map(figure));
        text += &format!(
            "| {name} | {:.2} | {:.3} | {} | {} | {} | {:.0} |\n",
            mean(|run| run.switches as f64).mean,
            mean(|run| run.false_switches as f64).mean,
            mean(|run| run.contexts_with_false_switch as f64 / run.contexts as f64),
            mean(|run| run.exploration),
            mean(|run| run.worst_window_ratio),
            mean(|run| run.recovery_calls).mean,
        );
    }
    text
}

/// The same world whose clock slows by 15 % half way.
pub fn clock_step(config: WorldConfig) -> WorldConfig {
    WorldConfig { clock_step: 1.15f64.ln(), ..config }
}
