//! Metrics of the running process, for whatever recorder the program has installed; without one
//! they go nowhere and cost next to nothing. Only the controller calls these, never a launch.

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};
use trellect_core::KernelId;
use trellect_select::adaptive::ChoiceReason;
use trellect_tune::history::SwitchNote;

/// Calls served, by `kernel`, `reason` and `bucket`.
pub const SELECTIONS: &str = "trellect_selections_total";
/// Device time of calls in seconds, by `kernel` and `bucket`.
pub const LATENCY: &str = "trellect_latency_seconds";
/// Changes of an incumbent, by the two kernels and `bucket`.
pub const SWITCHES: &str = "trellect_switches_total";
/// Launches that failed or computed something wrong, by `kernel`.
pub const FAILURES: &str = "trellect_kernel_failures_total";
/// Device time in nanoseconds.
pub const SPENT: &str = "trellect_device_nanoseconds_total";
/// The part of the device time that other kernels are believed to have saved, by `cause`: `probe`
/// where learning cost it, else `regret`.
pub const LOST: &str = "trellect_lost_nanoseconds_total";

/// Tells the installed recorder what the metrics mean.
pub(super) fn describe() {
    describe_counter!(SELECTIONS, "calls served");
    describe_histogram!(LATENCY, Unit::Seconds, "device time of a call");
    describe_counter!(SWITCHES, "changes of the kernel that serves a context");
    describe_counter!(FAILURES, "launches that failed or computed something wrong");
    describe_counter!(SPENT, Unit::Nanoseconds, "device time");
    describe_counter!(LOST, Unit::Nanoseconds, "device time that other kernels would have saved");
}

pub(super) fn selections(kernel: KernelId, reason: &'static str, bucket: &str, calls: u64) {
    let (kernel, bucket) = (kernel.to_string(), bucket.to_owned());
    counter!(SELECTIONS, "kernel" => kernel, "reason" => reason, "bucket" => bucket)
        .increment(calls);
}

pub(super) fn latency(kernel: KernelId, bucket: &str, ns: u64) {
    let (kernel, bucket) = (kernel.to_string(), bucket.to_owned());
    histogram!(LATENCY, "kernel" => kernel, "bucket" => bucket).record(ns as f64 / 1e9);
}

pub(super) fn switch(switch: &SwitchNote, bucket: &str) {
    let (from, to) = (switch.from.to_string(), switch.to.to_string());
    counter!(SWITCHES, "from" => from, "to" => to, "bucket" => bucket.to_owned()).increment(1);
}

pub(super) fn failure(kernel: KernelId) {
    counter!(FAILURES, "kernel" => kernel.to_string()).increment(1);
}

pub(super) fn lost(reason: &'static str, total_ns: u64, lost_ns: u64) {
    counter!(SPENT).increment(total_ns);
    let cause = if is_exploration(reason) { "probe" } else { "regret" };
    counter!(LOST, "cause" => cause).increment(lost_ns);
}

/// Whether calls for this reason were made to learn.
pub fn is_exploration(reason: &str) -> bool {
    reason.parse().is_ok_and(ChoiceReason::is_exploration)
}
