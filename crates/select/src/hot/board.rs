use std::fmt;
use std::num::NonZeroU32;

use super::plan::{Plan, Ticket};
use super::publish::{Pinned, Published};
use super::table::{PlanTable, home};
use crate::ContextKey;

/// Where the controller publishes tables and launching threads get their readers.
pub struct PlanBoard {
    tables: Published<PlanTable>,
}

impl PlanBoard {
    /// A board that shows `table`.
    pub fn new(table: PlanTable) -> Self {
        Self { tables: Published::new(table) }
    }

    /// Shows `table` from now on, and frees the tables that no reader uses any more.
    ///
    /// May wait for another `publish`, for [`PlanBoard::reader`] and for a reader's end, but never
    /// for a lookup. A reader that looks nothing up keeps one old table alive, so there are never
    /// more tables than readers and one.
    ///
    /// What has changed since the table before is cold for every reader: publish at most some
    /// thousand times a second. What has not changed is the same memory as before.
    pub fn publish(&self, table: PlanTable) {
        self.tables.publish(|before| table.sharing(before));
    }

    /// A reader for one thread. Takes a lock and allocates: get it once, when the thread starts.
    pub fn reader(&self) -> PlanReader {
        PlanReader { table: self.tables.reader(), uses: Box::new([0; LANES]), tickets: 0 }
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn tables(&self) -> usize {
        self.tables.values()
    }
}

impl fmt::Debug for PlanBoard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlanBoard").finish_non_exhaustive()
    }
}

/// Enough that a step's few hundred contexts seldom share a lane, small enough to stay cached.
const LANES: usize = 1024;

/// One thread's view of a [`PlanBoard`].
pub struct PlanReader {
    table: Pinned<PlanTable>,
    /// Uses since the last ticket, by the context's lane.
    uses: Box<[u16; LANES]>,
    tickets: u32,
}

/// What [`PlanReader::select`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selected {
    /// What to run.
    pub plan: Plan,
    /// If present, the outcome is wanted; put the ticket into the [`Outcome`](super::Outcome).
    pub ticket: Option<Ticket>,
}

impl PlanReader {
    /// The plan of `context` and whether this use is to be reported, or none if the table does
    /// not know the context: run the default kernel and report with
    /// [`OutcomeFlags::MISS`](super::OutcomeFlags::MISS).
    ///
    /// The uses counted towards [`Plan::report_every`] are those through this reader, of a context
    /// and of the few others that hash to the same of 1024 lanes: the rate is exact for each lane,
    /// but contexts that share one and are used in a fixed rhythm may share its tickets unevenly.
    /// To break the rhythm, publish another `report_every` now and then. Publishing a table
    /// does not restart the count.
    ///
    /// Takes no lock, allocates nothing.
    #[inline]
    pub fn select(&mut self, context: ContextKey) -> Option<Selected> {
        let plan = self.get(context)?;
        let ticket = if plan.report_every == 0 { None } else { self.count(context, plan) };
        Some(Selected { plan, ticket })
    }

    /// The plan of `context`, without counting this as a use.
    #[inline]
    pub fn get(&mut self, context: ContextKey) -> Option<Plan> {
        self.table.get().get(context)
    }

    #[inline]
    fn count(&mut self, context: ContextKey, plan: Plan) -> Option<Ticket> {
        let uses = &mut self.uses[(home(context.0) >> (u64::BITS - LANES.ilog2())) as usize];
        // Cannot overflow: it was below the period when stored, and a shorter one reports at once.
        *uses += 1;
        if *uses < plan.report_every {
            return None;
        }
        *uses = 0;
        self.tickets = self.tickets.wrapping_add(1).max(1);
        NonZeroU32::new(self.tickets).map(Ticket)
    }
}

impl fmt::Debug for PlanReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlanReader").field("tickets", &self.tickets).finish_non_exhaustive()
    }
}
