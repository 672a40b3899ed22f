//! Ending a measurement early without losing it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use crate::output;

/// A flag that the first Ctrl-C sets; the second ends the process. `ending` is said at the first:
/// what the command ends with.
pub(crate) fn on_interrupt(ending: &'static str) -> anyhow::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        output::note(&format!("ending with {ending}; once more: at once"));
    })
    .context("listening for Ctrl-C")?;
    Ok(interrupted)
}
