//! Progress bars on stderr, which show themselves only where stderr is a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

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
