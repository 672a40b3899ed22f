use super::world::best_of;
use super::{Policy, Switch, World};

/// What one policy did in one world.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// `Σ (t(chosen) − t(best)) / Σ t(best)`, expected times.
    pub regret: f64,
    /// The same over the last 20 % of the calls.
    pub late_regret: f64,
    /// Largest `Σ t(chosen) / Σ t(rules' pick)` over any twentieth of the run.
    pub worst_window_ratio: f64,
    /// Time of choices beyond that of the context's serving kernel, as a share of all time. Only
    /// for policies that serve and probe apart; 0 for others.
    pub exploration: f64,
    /// Switches.
    pub switches: usize,
    /// Switches to a kernel that does not gain the margin.
    pub false_switches: usize,
    /// Contexts with a false switch.
    pub contexts_with_false_switch: usize,
    /// Contexts.
    pub contexts: usize,
    /// Mean number of a context's calls from a shift until a kernel within 1 % serves, over the
    /// contexts whose served kernel became worse; NaN without any.
    pub recovery_calls: f64,
}

/// Gain below which a switch is false, as the adaptive policy's default margin.
const MARGIN: f64 = 0.005;

/// Windows of [`Run::worst_window_ratio`].
const WINDOWS: usize = 20;

/// Lets `policy` serve a whole run of `world`.
pub fn simulate(world: &mut World, policy: &mut dyn Policy) -> Run {
    let calls = world.config().calls;
    let contexts = world.config().contexts;
    let mut was_false = vec![false; contexts];
    let mut lost_since: Vec<Option<usize>> = vec![None; contexts];
    let (mut recoveries, mut recovery_calls) = (0usize, 0usize);
    let (mut lost, mut best_sum, mut late_lost, mut late_best) = (0.0, 0.0, 0.0, 0.0);
    let (mut all, mut probing) = (0.0, 0.0);
    let mut windows = [(0.0, 0.0); WINDOWS];
    let mut run = Run { contexts, ..Run::default() };
    for call in 0..calls {
        let (context, changed) = world.next_call(call);
        if changed {
            for (c, since) in lost_since.iter_mut().enumerate() {
                let truth = world.truth_ns(c);
                let bad =
                    policy.serving(c).is_some_and(|k| truth[k] > 1.01 * truth[best_of(truth)]);
                *since = bad.then_some(0);
            }
        }
        let kernel = policy.choose(&world.sight(context));
        let truth = world.truth_ns(context);
        let (chosen, best) = (truth[kernel], truth[best_of(truth)]);
        let rules = truth[world.default_of(context)];
        let within = chosen <= 1.01 * best;
        if let Some(since) = lost_since[context].as_mut() {
            *since += 1;
            let served = policy.serving(context).is_none_or(|k| truth[k] <= 1.01 * best);
            if within && served {
                (recoveries, recovery_calls) = (recoveries + 1, recovery_calls + *since);
                lost_since[context] = None;
            }
        }
        (lost, best_sum, all) = (lost + chosen - best, best_sum + best, all + chosen);
        if call * 5 >= calls * 4 {
            (late_lost, late_best) = (late_lost + chosen - best, late_best + best);
        }
        let window = &mut windows[call * WINDOWS / calls];
        *window = (window.0 + chosen, window.1 + rules);
        if let Some(served) = policy.serving(context) {
            probing += (chosen - truth[served]).max(0.0);
        }
        let latency = world.run(context, kernel);
        let switch = policy.record(context, kernel, latency);
        if let Some(Switch { from, to }) = switch {
            let truth = world.truth_ns(context);
            run.switches += 1;
            if (truth[from] / truth[to]).ln() < MARGIN {
                run.false_switches += 1;
                was_false[context] = true;
            }
        }
    }
    let unrecovered: usize = lost_since.iter().flatten().sum();
    let open = lost_since.iter().flatten().count();
    run.regret = lost / best_sum;
    run.late_regret = late_lost / late_best;
    run.exploration = probing / all;
    run.contexts_with_false_switch = was_false.iter().filter(|&&f| f).count();
    run.recovery_calls = (recovery_calls + unrecovered) as f64 / (recoveries + open) as f64;
    let ratios = windows.iter().map(|(chosen, rules)| chosen / rules);
    run.worst_window_ratio = ratios.fold(f64::NEG_INFINITY, f64::max);
    run
}
