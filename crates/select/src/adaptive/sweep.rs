use rand::seq::SliceRandom;

use super::tickets::Pending;
use super::{AdaptivePolicy, CallFeatures, Choice, ChoiceReason, Fitness, MemoryLevel, Mode};

/// Kernels surely slower than the incumbent by this factor are not swept: they cannot win, and a
/// call that arrives meanwhile would wait for them.
const SLOWEST: f64 = 4.0;

/// A full-information round: every kernel that may win, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// Index, among the calls handed in, of the one to repeat.
    pub call: usize,
    /// What to run, in this order, the incumbent among them.
    pub choices: Vec<Choice>,
}

impl AdaptivePolicy {
    /// The next round of an idle sweep over `recent` calls, whose inputs the host still has; none
    /// where nothing is to be gained now.
    ///
    /// The host runs one choice after the other and [records](Self::record) each, and stops as soon
    /// as a call arrives: what it has not run, it forgets. Its outputs are thrown away.
    ///
    /// A round goes to the context that has waited longest for one. It has every legal kernel that
    /// is fit and not hopeless, the retired ones too, in random order, and each with the incumbent
    /// makes a pair: within one challenger's test every pair has a fresh control, and that a round's
    /// pairs share theirs only ties the tests of different challengers to each other, over which α
    /// is split in any case.
    ///
    /// Nobody waits for a sweep, so it takes nothing from the budget of probes and earns nothing
    /// for it. What it does cost is heat, power, and the wait of a call that arrives meanwhile. The
    /// first is bounded by [`sweep_share`](super::AdaptiveConfig::sweep_share) of the time, the
    /// latter by one launch, not of a kernel that is surely four times slower than the incumbent.
    /// Where memory is short nothing is swept.
    pub fn sweep(&mut self, recent: &[CallFeatures<'_>], now_ns: u64) -> Option<Sweep> {
        self.now_ns = self.now_ns.max(now_ns);
        let allowed = self.config.mode == Mode::Learn
            && self.memory.level() == MemoryLevel::Normal
            && self.now_ns >= self.sweep_not_before_ns;
        if !allowed {
            return None;
        }
        let waiting = |features: &CallFeatures<'_>| {
            let context = self.contexts.get(&self.context_key(features))?;
            Some(context.swept_at)
        };
        let mut order: Vec<(u64, usize)> =
            (0..recent.len()).filter_map(|call| Some((waiting(&recent[call])?, call))).collect();
        order.sort_unstable();
        order.into_iter().find_map(|(_, call)| {
            let choices = self.sweep_round(&recent[call])?;
            Some(Sweep { call, choices })
        })
    }

    fn sweep_round(&mut self, features: &CallFeatures<'_>) -> Option<Vec<Choice>> {
        let key = self.context_key(features);
        let fitness = self.fitness(features);
        let context = self.contexts.get(&key)?;
        let (incumbent, epoch) = (context.incumbent, context.epoch);
        let to_beat = self.belief(context, incumbent);
        let may_win = |kernel: usize| {
            let belief = self.belief(context, kernel);
            belief.mean - 2.0 * belief.sd < to_beat.mean + SLOWEST.ln()
                && !self.hopeless(context, kernel)
        };
        let fit = |kernel: &usize| fitness[*kernel] == Some(Fitness::Fit);
        let mut kernels: Vec<usize> = (0..self.arms.len())
            .filter(fit)
            .filter(|&kernel| kernel == incumbent || may_win(kernel))
            .collect();
        if kernels.len() < 2 || !kernels.contains(&incumbent) {
            return None;
        }
        let expected_ns: f64 =
            kernels.iter().map(|&kernel| self.belief(context, kernel).mean.exp()).sum();
        kernels.shuffle(&mut self.rng);
        let pairs: Vec<(usize, u64)> = kernels
            .iter()
            .filter(|&&kernel| kernel != incumbent)
            .map(|&kernel| (kernel, self.tickets.open_pair(kernel, epoch)))
            .collect();
        self.totals.sweeps += 1;
        // The cast saturates.
        let pause_ns = expected_ns / self.config.sweep_share.max(f64::MIN_POSITIVE);
        self.sweep_not_before_ns = self.now_ns.saturating_add(pause_ns as u64);
        if let Some(context) = self.contexts.get_mut(&key) {
            context.swept_at = self.totals.sweeps;
        }
        let legs = kernels.into_iter().map(|kernel| {
            let own =
                |&&(challenger, _): &&(usize, u64)| kernel == incumbent || challenger == kernel;
            let pending = Pending {
                context: key,
                kernel,
                log_estimate: self.arms[kernel].estimate_ns(features).ln(),
                pairs: pairs.iter().filter(own).map(|&(_, pair)| pair).collect(),
                default: incumbent,
                served: false,
            };
            let decided = (kernel, ChoiceReason::Sweep);
            self.log_choice(key, features, &fitness, decided, None);
            let ticket = self.tickets.issue(pending, self.config.max_pending);
            Choice { kernel, reason: ChoiceReason::Sweep, ticket, context: key }
        });
        Some(legs.collect())
    }
}
