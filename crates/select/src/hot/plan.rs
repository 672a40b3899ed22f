use std::num::NonZeroU32;

/// Which kernel serves a context and how.
///
/// Packs into 64 bits; every combination of fields is a valid plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Position of the kernel in the controller's list of candidates.
    pub kernel: u16,
    /// Launch parameters in the backend's own encoding.
    pub launch: u16,
    /// Low bits of the tuning generation that made the plan.
    pub epoch: u16,
    /// Every so many uses one is to be reported with a [`Ticket`]; 0 for never.
    ///
    /// [`PlanReader::select`](super::PlanReader::select) says whose uses are counted.
    pub report_every: u16,
}

impl Plan {
    /// The plan as a word: from the lowest bits up `kernel`, `launch`, `epoch`, `report_every`.
    pub const fn to_bits(self) -> u64 {
        self.kernel as u64
            | (self.launch as u64) << 16
            | (self.epoch as u64) << 32
            | (self.report_every as u64) << 48
    }

    /// The inverse of [`Plan::to_bits`].
    pub const fn from_bits(bits: u64) -> Self {
        // The casts cut the word into its fields.
        Self {
            kernel: bits as u16,
            launch: (bits >> 16) as u16,
            epoch: (bits >> 32) as u16,
            report_every: (bits >> 48) as u16,
        }
    }
}

/// Asks that the outcome of this use be measured and reported.
///
/// The number counts the tickets of one reader, from 1, and leaves 0 out when it wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub NonZeroU32);
