use super::world::best_of;
use super::{Event, Policy, World};
use crate::statistics::quantile;

/// What one policy did in one world. Times are the world's true ones, so that luck with noise is
/// none of it. Shares and ratios are plain numbers: 0.01 is 1 %.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// `Σ (t(chosen) − t(best)) / Σ t(best)`.
    pub regret: f64,
    /// The same over the last fifth of the calls.
    pub late_regret: f64,
    /// The late regret, where a choice within 1 % of the best loses nothing.
    pub late_regret_outside_zone: f64,
    /// Late regret that 95 % of the contexts do not exceed, interpolated.
    pub late_regret_p95: f64,
    /// Late regret of the worst context.
    pub late_regret_worst: f64,
    /// Share of the gap between the single best kernel, trained beforehand, and the best of every
    /// call that the policy closes. NaN where there is no gap.
    pub gap_closed: f64,
    /// Largest `Σ t(chosen) / Σ t(rules' pick)` over any ten seconds of the run, or any twentieth of
    /// it where that is shorter.
    pub worst_window_ratio: f64,
    /// Time of choices beyond that of the context's serving kernel, as a share of all time. NaN for
    /// policies that do not serve and probe apart.
    pub exploration: f64,
    /// Calls of a context until its running regret stays below 1 %: the median over contexts. A
    /// context where it never does counts with all of its calls.
    pub converged_calls: f64,
    /// The device time of those calls in nanoseconds, median over contexts.
    pub converged_ns: f64,
    /// Share of the contexts whose running regret does not stay below 1 %.
    pub unconverged: f64,
    /// Switches.
    pub switches: usize,
    /// Switches to a kernel that does not gain the margin.
    pub false_switches: usize,
    /// Contexts with a false switch.
    pub contexts_with_false_switch: usize,
    /// Contexts that were called.
    pub contexts: usize,
    /// Mean number of a context's calls from a shift until a kernel within 1 % serves, over the
    /// contexts whose served kernel became worse; NaN without any.
    pub recovery_calls: f64,
    /// Mean number of a context's calls from such a shift until the policy tells of an alarm or a
    /// switch; NaN without any.
    pub detection_calls: f64,
    /// For every context the kernel that served it last, `None` for one never called.
    pub last_served: Vec<Option<usize>>,
    /// The regret so far at [`CURVE_POINTS`] calls that are evenly spread on a logarithmic scale, as
    /// (calls, regret).
    pub curve: Vec<(usize, f64)>,
}

/// Points of [`Run::curve`] at most.
pub const CURVE_POINTS: usize = 160;

/// Gain below which a switch is false, as the adaptive policy's default margin.
const MARGIN: f64 = 0.005;

/// A choice within this factor of the best is as good.
const ZONE: f64 = 1.01;

/// Regret below which a context has converged.
const CONVERGED: f64 = 0.01;

/// The window of [`Run::worst_window_ratio`].
const WINDOW_NS: f64 = 10e9;

/// Lets `policy` serve a whole run of `world`.
pub fn simulate(world: &mut dyn World, policy: &mut dyn Policy) -> Run {
    let calls = world.calls();
    let mut contexts = vec![ContextTally::default(); world.contexts()];
    let mut timeline = Vec::with_capacity(calls);
    let (mut all, mut late, mut late_zoned) = (Loss::default(), Loss::default(), Loss::default());
    let (mut single, mut probing, mut serves_apart) = (0.0, 0.0, false);
    let mut run = Run::default();
    let mut next_point = 1.0;
    for call in 0..calls {
        let (index, changed) = world.next_call(call);
        if changed {
            for (index, context) in contexts.iter_mut().enumerate() {
                let truth = world.truth_ns(index);
                let best = truth[best_of(truth)];
                context.shift(policy.serving(index).is_some_and(|k| truth[k] > ZONE * best));
            }
        }
        let sight = world.sight(index);
        let rules = sight.default;
        let kernel = policy.choose(&sight);
        let truth = world.truth_ns(index);
        let (chosen, best) = (truth[kernel], truth[best_of(truth)]);
        let served = policy.serving(index);
        let settled = |k: usize| truth[k] <= ZONE * best;
        let context = &mut contexts[index];
        context.call(chosen, best, settled(kernel) && served.is_none_or(settled));
        context.last_served = Some(served.unwrap_or(kernel));
        all.add(chosen, best);
        if call * 5 >= calls * 4 {
            late.add(chosen, best);
            late_zoned.add(if settled(kernel) { best } else { chosen }, best);
            context.late.add(chosen, best);
        }
        timeline.push((chosen, truth[rules]));
        single += truth[world.trained().single];
        if let Some(served) = served {
            serves_apart = true;
            probing += (chosen - truth[served]).max(0.0);
        }
        if call + 1 == calls || (call + 1) as f64 >= next_point {
            run.curve.push((call + 1, all.regret()));
            next_point = (call + 1) as f64 * (calls as f64).powf(1.0 / CURVE_POINTS as f64);
        }
        let latency = world.run(index, kernel);
        let event = policy.record(index, kernel, latency);
        if event.is_some() {
            contexts[index].detect();
        }
        if let Some(Event::Switch { from, to }) = event {
            let truth = world.truth_ns(index);
            let is_false = (truth[from] / truth[to]).ln() < MARGIN;
            run.switches += 1;
            run.false_switches += usize::from(is_false);
            contexts[index].false_switch |= is_false;
        }
    }
    run.regret = all.regret();
    run.late_regret = late.regret();
    run.late_regret_outside_zone = late_zoned.regret();
    run.gap_closed = match single - all.best {
        gap if gap > 1e-9 * all.best => (single - all.chosen) / gap,
        _ => f64::NAN,
    };
    run.worst_window_ratio = worst_window(&timeline);
    run.exploration = if serves_apart { probing / all.chosen } else { f64::NAN };
    run.last_served = contexts.iter().map(|context| context.last_served).collect();
    run.sum_up(contexts.into_iter().filter(|context| context.calls > 0).collect());
    run
}

impl Run {
    /// The figures that are taken over contexts.
    fn sum_up(&mut self, contexts: Vec<ContextTally>) {
        let late: Vec<f64> = contexts
            .iter()
            .filter(|context| context.late.best > 0.0)
            .map(|context| context.late.regret())
            .collect();
        self.late_regret_p95 = quantile(late.clone(), 0.95);
        self.late_regret_worst = quantile(late, 1.0);
        self.converged_calls =
            quantile(contexts.iter().map(|context| context.above_until.0 as f64).collect(), 0.5);
        self.converged_ns =
            quantile(contexts.iter().map(|context| context.above_until.1).collect(), 0.5);
        let count = |is: fn(&ContextTally) -> bool| contexts.iter().filter(|it| is(it)).count();
        self.contexts = contexts.len();
        self.unconverged = count(|it| it.above_until.0 == it.calls) as f64 / contexts.len() as f64;
        self.contexts_with_false_switch = count(|it| it.false_switch);
        let mean = |delays: &dyn Fn(&ContextTally) -> &Delays| {
            let total: usize = contexts.iter().map(|it| delays(it).total()).sum();
            let shifts: usize = contexts.iter().map(|it| delays(it).shifts()).sum();
            total as f64 / shifts as f64
        };
        self.recovery_calls = mean(&|it| &it.recovery);
        self.detection_calls = mean(&|it| &it.detection);
    }
}

/// Time spent, and time that the best kernels would have spent.
#[derive(Clone, Copy, Debug, Default)]
struct Loss {
    chosen: f64,
    best: f64,
}

impl Loss {
    fn add(&mut self, chosen: f64, best: f64) {
        *self = Self { chosen: self.chosen + chosen, best: self.best + best };
    }

    fn regret(&self) -> f64 {
        self.chosen / self.best - 1.0
    }
}

/// What happened in one context.
#[derive(Clone, Debug, Default)]
struct ContextTally {
    calls: usize,
    all: Loss,
    late: Loss,
    /// Calls and time until the running regret was last above the limit.
    above_until: (usize, f64),
    recovery: Delays,
    detection: Delays,
    false_switch: bool,
    last_served: Option<usize>,
}

impl ContextTally {
    fn call(&mut self, chosen: f64, best: f64, settled: bool) {
        self.calls += 1;
        self.all.add(chosen, best);
        if self.all.regret() >= CONVERGED {
            self.above_until = (self.calls, self.all.chosen);
        }
        self.recovery.call();
        self.detection.call();
        if settled {
            self.recovery.end();
        }
    }

    /// The truth has changed; `lost`: what serves is no longer good.
    fn shift(&mut self, lost: bool) {
        self.recovery.begin(lost);
        self.detection.begin(lost);
    }

    fn detect(&mut self) {
        self.detection.end();
    }
}

/// Numbers of calls from a shift to what answers it. A shift that a later one or the end of the run
/// overtakes counts with the calls so far.
#[derive(Clone, Debug, Default)]
struct Delays {
    open: Option<usize>,
    ended: usize,
    calls: usize,
}

impl Delays {
    fn begin(&mut self, lost: bool) {
        self.end();
        self.open = lost.then_some(0);
    }

    fn call(&mut self) {
        self.open = self.open.map(|calls| calls + 1);
    }

    fn end(&mut self) {
        if let Some(calls) = self.open.take() {
            (self.ended, self.calls) = (self.ended + 1, self.calls + calls);
        }
    }

    fn total(&self) -> usize {
        self.calls + self.open.unwrap_or(0)
    }

    fn shifts(&self) -> usize {
        self.ended + usize::from(self.open.is_some())
    }
}

/// Largest ratio of the two times over any stretch of successive calls that is just as long as the
/// window.
fn worst_window(timeline: &[(f64, f64)]) -> f64 {
    let total: f64 = timeline.iter().map(|(chosen, _)| chosen).sum();
    let window = WINDOW_NS.min(total / 20.0);
    let (mut first, mut chosen, mut rules, mut worst) = (0, 0.0, 0.0, f64::NEG_INFINITY);
    for &(ns, rules_ns) in timeline {
        (chosen, rules) = (chosen + ns, rules + rules_ns);
        while chosen - timeline[first].0 >= window {
            (chosen, rules) = (chosen - timeline[first].0, rules - timeline[first].1);
            first += 1;
        }
        if chosen >= window {
            worst = f64::max(worst, chosen / rules);
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_window_is_found_wherever_it_begins() {
        let mut timeline = vec![(1.0, 1.0); 100];
        timeline[48..53].fill((2.0, 1.0));
        // A twentieth of the 105 is 5.25: three calls of 2 are the shortest that fill it.
        assert_eq!(worst_window(&timeline), 2.0);
        assert_eq!(worst_window(&[(3.0, 2.0); 7]), 1.5);
        assert_eq!(worst_window(&[]), f64::NEG_INFINITY);
    }

    #[test]
    fn delays_count_from_the_shift_and_keep_what_is_open() {
        let mut delays = Delays::default();
        delays.call();
        delays.begin(true);
        (0..3).for_each(|_| delays.call());
        delays.end();
        delays.begin(true);
        delays.call();
        assert_eq!((delays.total(), delays.shifts()), (4, 2));
        delays.begin(false);
        assert_eq!((delays.total(), delays.shifts()), (4, 2));
    }
}
