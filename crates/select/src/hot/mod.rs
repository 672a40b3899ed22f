//! What happens on every call: looking a plan up and handing its outcome back.
//!
//! Two one-way roads between the threads that launch kernels and the one controller that learns:
//!
//! - down: the controller builds a [`PlanTable`] and publishes it on the [`PlanBoard`]; each
//!   launching thread looks plans up through its own [`PlanReader`];
//! - up: each launching thread pushes [`Outcome`]s into its own [`feedback_ring`], and the
//!   controller drains all of them.
//!
//! [`PlanReader::select`] and [`FeedbackProducer::push`] take no lock, allocate nothing, and use
//! neither floating point nor a clock nor random numbers. Nothing here decides anything: what a
//! plan says and when tables are published is the controller's business.
//!
//! ```
//! use trellect_select::ContextKey;
//! use trellect_select::hot::{
//!     Outcome, OutcomeFlags, Plan, PlanBoard, PlanTable, feedback_ring,
//! };
//!
//! let context = ContextKey(0x5eed);
//! let plan = Plan { kernel: 3, launch: 0, epoch: 1, report_every: 2 };
//! let board = PlanBoard::new(PlanTable::new([(context, plan)]));
//! let mut reader = board.reader();
//! let (mut producer, mut consumer) = feedback_ring(1024);
//!
//! for _ in 0..2 {
//!     let selected = reader.select(context).expect("the table knows this context");
//!     if selected.ticket.is_some() {
//!         let (plan, ticket) = (selected.plan, selected.ticket);
//!         producer.push(Outcome {
//!             context,
//!             plan,
//!             ticket,
//!             flags: OutcomeFlags::NONE,
//!             num_pairs: 8,
//!             num_decodes: 8,
//!             nanoseconds: 81_000,
//!         });
//!     }
//! }
//! assert_eq!(consumer.drain().count(), 1);
//! ```

mod board;
mod plan;
mod publish;
mod ring;
mod sync;
mod table;

#[cfg(all(test, not(loom)))]
mod tests;

pub use board::{PlanBoard, PlanReader, Selected};
pub use plan::{Plan, Ticket};
pub use ring::{Drain, FeedbackConsumer, FeedbackProducer, Outcome, OutcomeFlags, feedback_ring};
pub use table::PlanTable;
