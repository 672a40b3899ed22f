//! How much memory this process has had at most.

/// Bytes of the largest resident set so far, where the system tells.
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    vm_hwm(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// `VmHWM` of a `/proc/PID/status`.
fn vm_hwm(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::vm_hwm;

    #[test]
    fn the_high_water_mark_is_read_in_bytes() {
        assert_eq!(vm_hwm("Name:\tx\nVmHWM:\t    12 kB\nVmRSS:\t 4 kB\n"), Some(12288));
        assert_eq!(vm_hwm("VmRSS:\t 4 kB\n"), None);
        assert_eq!(vm_hwm("VmHWM:\t many kB\n"), None);
    }
}
