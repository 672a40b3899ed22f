//! The pairs so far, and when they are enough.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use trellect_tune::bench::ab::Sequential;

use crate::interrupt::on_interrupt;
use crate::progress::Progress;

/// How long a Ctrl-C may take to arrive here after it has ended a command.
const INTERRUPT_DELAY: Duration = Duration::from_millis(50);

/// Pairs of (baseline, optimized) milliseconds that grow until they are enough.
pub(super) struct Pairs {
    most: usize,
    sequential: Option<Sequential>,
    interrupted: Arc<AtomicBool>,
    progress: Progress,
    found: Found,
}

/// What was measured.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) pairs: Vec<(f64, f64)>,
    /// Whether the optimized side was proved to be faster (`Some(true)`) or slower.
    pub(super) decided: Option<bool>,
}

impl Pairs {
    /// No pair yet, `most` at most; fewer where a decision of some confidence is to end them.
    pub(super) fn new(most: usize, until_decided: Option<f64>) -> anyhow::Result<Self> {
        Ok(Self {
            most,
            sequential: until_decided.map(Sequential::new),
            interrupted: on_interrupt("the pairs so far")?,
            progress: Progress::new("pairs", most),
            found: Found::default(),
        })
    }

    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Adds the milliseconds of both sides.
    pub(super) fn push(&mut self, pair: (f64, f64)) {
        self.found.pairs.push(pair);
        self.progress.step();
        if let (Some(test), None) = (&mut self.sequential, self.found.decided) {
            self.found.decided = test.push(pair);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.found.pairs.len()
    }

    /// Tells whether the user wants to end.
    pub(super) fn stop(&self) -> impl Fn() -> bool + use<> {
        let interrupted = Arc::clone(&self.interrupted);
        move || interrupted.load(Ordering::Relaxed)
    }

    /// The same after a command has failed, which a Ctrl-C ends, too.
    pub(super) fn are_ended_by_user(&self) -> bool {
        thread::sleep(INTERRUPT_DELAY);
        self.stop()()
    }

    /// Whether no more are wanted.
    pub(super) fn are_enough(&self) -> bool {
        self.stop()() || self.found.decided.is_some() || self.len() >= self.most
    }

    /// Ends the progress bar: what there is.
    pub(super) fn end(self) -> Found {
        self.found
    }
}
