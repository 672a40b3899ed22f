use std::collections::VecDeque;
use std::time::Duration;

use trellect_core::{DeviceTime, KernelId, LaunchId};
use trellect_select::ContextKey;

use crate::selector::{Pick, Work};

/// Launches that a time is awaited of. A launch is given up when so many later ones wait, too: its
/// time will not come.
const MAX_AWAITED: usize = 256;

/// A launch, and who wants to know what it took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) kernel: KernelId,
    pub(super) num_tokens: usize,
    /// What the selector needs to know, where it chose.
    pub(super) pick: Option<(ContextKey, Pick, Work)>,
}

/// Launches whose times have not come, and times that have.
///
/// A time may come late, in any order, never, or twice: the first one of an awaited launch is
/// learned from, every other is nobody's.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    launches: VecDeque<(LaunchId, Told)>,
    arrived: Vec<DeviceTime>,
}

impl Awaited {
    pub(super) fn push(&mut self, launch: LaunchId, told: Told) {
        if self.launches.len() == MAX_AWAITED {
            self.launches.pop_front();
        }
        self.launches.push_back((launch, told));
    }

    pub(super) fn arrive(&mut self, time: DeviceTime) {
        self.arrived.push(time);
    }

    /// The time of a launch that is not awaited, since it has just been made.
    pub(super) fn take_arrived(&mut self, launch: LaunchId) -> Option<Duration> {
        let at = self.arrived.iter().position(|time| time.launch == launch)?;
        Some(self.arrived.swap_remove(at).elapsed)
    }

    /// An awaited launch whose time has come.
    pub(super) fn next_told(&mut self) -> Option<(Told, Duration)> {
        while let Some(time) = self.arrived.pop() {
            let at = self.launches.iter().position(|(launch, _)| *launch == time.launch);
            if let Some((_, told)) = at.and_then(|at| self.launches.remove(at)) {
                return Some((told, time.elapsed));
            }
        }
        None
    }
}
