/// How full the device's memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemoryLevel {
    /// Room to probe.
    #[default]
    Normal,
    /// Nothing is probed; what serves is learned apart from the normal level.
    High,
}

/// The memory level with hysteresis: high from 92 % used, normal again below 85 %.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryGauge {
    level: MemoryLevel,
    headroom_bytes: Option<u64>,
}

impl MemoryGauge {
    /// Takes a reading in bytes and gives the level. Without a total nothing is known and the level
    /// stays.
    pub fn observe(&mut self, used_bytes: u64, total_bytes: u64) -> MemoryLevel {
        self.headroom_bytes = (total_bytes > 0).then(|| total_bytes.saturating_sub(used_bytes));
        let (used, total) = (u128::from(used_bytes) * 100, u128::from(total_bytes));
        if total > 0 && used >= 92 * total {
            self.level = MemoryLevel::High;
        } else if total > 0 && used < 85 * total {
            self.level = MemoryLevel::Normal;
        }
        self.level
    }

    /// The level of the last reading.
    pub const fn level(&self) -> MemoryLevel {
        self.level
    }

    /// Bytes that were free at the last reading; `None` where that is not known.
    pub const fn headroom_bytes(&self) -> Option<u64> {
        self.headroom_bytes
    }
}
