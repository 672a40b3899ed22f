//! Where a run was measured.

use std::fs;
use std::path::Path;

use trellect::core::{Backend, DeviceDescription};
use trellect_tune::bench::{BenchMachine, Cache};

use crate::device::Device;

/// Taken where the system does not tell its caches: more than most have.
const UNKNOWN_CACHE_BYTES: u64 = 64 << 20;

const CACHES: &str = "/sys/devices/system/cpu/cpu0/cache";
const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Describes this machine; its ceilings are still to be measured.
pub(crate) fn describe(device: &Device) -> BenchMachine {
    let DeviceDescription { name, facts } = device.describe();
    let memory = device.memory();
    let processors = std::thread::available_parallelism();
    BenchMachine {
        backend: device.kind().name().into(),
        device: name,
        // Threads are each cell's own.
        facts: facts
            .into_iter()
            .filter(|(name, _)| *name != "threads")
            .map(|(name, value)| (name.into(), value))
            .collect(),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        processors: processors.map_or(1, std::num::NonZeroUsize::get),
        caches: caches(Path::new(CACHES)),
        memory_bytes: memory.total,
        available_bytes: memory.available,
        huge_pages: fs::read_to_string(HUGE_PAGES).ok().and_then(|modes| chosen(&modes)),
        ceilings: Vec::new(),
    }
}

/// Bytes that leave no other in any cache between the device's cores and memory: twice the largest.
pub(crate) fn beyond_caches(machine: &BenchMachine, device: &Device) -> u64 {
    let host = machine.caches.iter().map(|cache| cache.bytes).max();
    2 * device.shared_cache_bytes().or(host).unwrap_or(UNKNOWN_CACHE_BYTES)
}

/// The caches of the first processor, as Linux lists them.
fn caches(folder: &Path) -> Vec<Cache> {
    let cache = |index: u32| {
        let read = |file: &str| {
            let text = fs::read_to_string(folder.join(format!("index{index}")).join(file)).ok()?;
            Some(text.trim().to_owned())
        };
        Some(Cache {
            level: read("level")?.parse().ok()?,
            kind: read("type")?.to_lowercase(),
            bytes: cache_bytes(&read("size")?)?,
            processors: read("shared_cpu_list").unwrap_or_default(),
        })
    };
    (0..).map_while(cache).collect()
}

/// Reads `32768K`.
fn cache_bytes(text: &str) -> Option<u64> {
    text.strip_suffix('K')?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The mode in brackets.
fn chosen(modes: &str) -> Option<String> {
    let (_, rest) = modes.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_tells_is_read() {
        assert_eq!(cache_bytes("32768K"), Some(32 << 20));
        assert_eq!(cache_bytes("big"), None);
        assert_eq!(chosen("always [madvise] never\n").as_deref(), Some("madvise"));
        assert_eq!(chosen("none"), None);
        assert!(caches(Path::new("/nonexistent")).is_empty());
    }
}
