//! Progress bars on stderr, which show themselves only where stderr is a terminal.

use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Steps of a bar that goes by shares.
const SHARES: u64 = 1000;

/// A bar of `steps` steps, removed when it is dropped or finished.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar labelled `label`.
    pub(crate) fn new(label: &'static str, steps: usize) -> Self {
        let target = ProgressDrawTarget::stderr();
        let bar = ProgressBar::with_draw_target(Some(steps as u64), target);
        let style = ProgressStyle::with_template("{msg:24} [{bar:40}] {pos}/{len}");
        let style = style.expect("a constant template").progress_chars("=> ");
        Self(bar.with_style(style).with_message(label))
    }

    /// A bar that goes by shares of the work and says what is left, see [`show`](Self::show).
    pub(crate) fn with_estimate() -> Self {
        let target = ProgressDrawTarget::stderr();
        let bar = ProgressBar::with_draw_target(Some(SHARES), target);
        let style = ProgressStyle::with_template("[{bar:30}] {percent:>3} %, {prefix}: {wide_msg}");
        let style = style.expect("a constant template").progress_chars("=> ");
        Self(bar.with_style(style).with_prefix("about to begin"))
    }

    /// How much is done, 0 to 1, how long the rest will take, and what is under way.
    pub(crate) fn show(&self, done: f64, rest: Option<Duration>, doing: String) {
        self.0.set_position((done * SHARES as f64) as u64);
        if let Some(rest) = rest {
            self.0.set_prefix(format!("about {} left", HumanDuration(rest)));
        }
        self.0.set_message(doing);
    }

    /// One more step is done.
    pub(crate) fn step(&self) {
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
