//! One launch and its device time, waited for.

use std::thread;
use std::time::{Duration, Instant};

use trellect_core::{Call, KernelId, LaunchError, Queue};

/// How long a finished launch may keep its time to itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// Launches and waits for the time, in nanoseconds, at least 1.
pub(crate) fn timed_launch(
    queue: &mut dyn Queue,
    kernel: KernelId,
    call: &Call<'_>,
    out: &mut [f32],
) -> Result<u64, LaunchError> {
    let launch = queue.launch(kernel, call, out)?;
    let asked = Instant::now();
    loop {
        let mut found = None;
        queue.harvest(&mut |time| {
            if time.launch == launch {
                found = Some(time.elapsed);
            }
        });
        if let Some(elapsed) = found {
            return Ok(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX).max(1));
        }
        if asked.elapsed() > PATIENCE {
            let message = format!("no time of the launch after {} s", PATIENCE.as_secs());
            return Err(LaunchError::Device { kernel, message });
        }
        thread::yield_now();
    }
}
