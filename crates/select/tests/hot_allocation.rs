//! Looking plans up and reporting outcomes allocates nothing.

use trellect_select::ContextKey;
use trellect_select::hot::{Outcome, OutcomeFlags, Plan, PlanBoard, PlanTable, feedback_ring};
use trellect_testkit::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn table(epoch: u16) -> PlanTable {
    PlanTable::new(
        (0..4096)
            .map(|key| (ContextKey(key), Plan { kernel: 1, launch: 0, epoch, report_every: 5 })),
    )
}

#[test]
fn the_path_allocates_and_frees_nothing() {
    let board = PlanBoard::new(table(0));
    let mut reader = board.reader();
    let (mut producer, mut consumer) = feedback_ring(4096);
    let mut outcomes = 0;
    for epoch in 1..4 {
        // The first lookups below move on to this table and leave the one before to be freed.
        board.publish(table(epoch));
        let before = CountingAllocator::of_thread();
        for key in 0..5000 {
            let context = ContextKey(key);
            let selected = reader.select(context);
            let Some(selected) = selected else {
                assert!(key >= 4096);
                continue;
            };
            assert_eq!(selected.plan.epoch, epoch);
            let (plan, ticket) = (selected.plan, selected.ticket);
            producer.push(Outcome {
                context,
                plan,
                ticket,
                flags: OutcomeFlags::NONE,
                num_pairs: 1,
                num_decodes: 1,
                nanoseconds: 1,
            });
        }
        outcomes += consumer.drain().count();
        assert_eq!(CountingAllocator::of_thread() - before, 0);
    }
    assert_eq!(outcomes, 3 * 4096);
}
