use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use proptest::prelude::*;

use super::table::home;
use super::*;
use crate::ContextKey;

fn plan(number: u64) -> Plan {
    Plan::from_bits(number)
}

fn outcome(number: u64) -> Outcome {
    Outcome {
        context: ContextKey(number),
        plan: plan(!number),
        ticket: None,
        flags: OutcomeFlags::NONE,
        num_pairs: 8,
        num_decodes: 4,
        nanoseconds: number,
    }
}

/// Edge values and few distinct ones, for keys that are there, absent and repeated.
fn any_key() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        0_u64..32,
        (0_u64..8).prop_map(|high| high << 61),
        any::<u64>(),
    ]
}

/// The table of `plans` answers as a map for the keys it has and for those in `absent`.
fn check_table(plans: &[(u64, u64)], absent: &[u64]) {
    let table = PlanTable::new(plans.iter().map(|&(key, bits)| (ContextKey(key), plan(bits))));
    let map: HashMap<u64, u64> = plans.iter().copied().collect();
    assert_eq!(table.len(), map.len());
    assert_eq!(table.is_empty(), map.is_empty());
    assert!(table.len() * 4 <= table.capacity() * 3, "{} of {}", table.len(), table.capacity());
    assert!(table.capacity() <= 2 * plans.len() + 1, "{}", table.capacity());
    for &key in map.keys().chain(absent) {
        assert_eq!(table.get(ContextKey(key)), map.get(&key).copied().map(plan), "key {key}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 512 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn table_agrees_with_a_map(
        plans in prop::collection::vec((any_key(), any::<u64>()), 0..200),
        absent in prop::collection::vec(any_key(), 50),
    ) {
        check_table(&plans, &absent);
    }

    #[test]
    fn plan_survives_packing(bits in any::<u64>()) {
        prop_assert_eq!(Plan::from_bits(bits).to_bits(), bits);
    }
}

#[test]
fn table_is_right_up_to_its_fullest() {
    for count in [0, 1, 2, 3, 4, 6, 7, 48, 63, 64, 65, 96, 97, 500] {
        let plans: Vec<_> = (0..count).map(|n| (n * n, n)).collect();
        check_table(&plans, &[1 << 40, u64::MAX]);
    }
    let full = PlanTable::new((0..48).map(|n| (ContextKey(n), plan(n))));
    assert_eq!((full.len(), full.capacity()), (48, 64));
}

#[test]
fn colliding_keys_are_told_apart() {
    // The last place of a segment, so that probing goes round its end.
    let last_place = || (0..).filter(|&key| home(key) as u32 >> 26 == 63);
    let plans: Vec<_> = last_place().take(24).map(|key| (key, !key)).collect();
    let absent: Vec<u64> = last_place().skip(24).take(8).collect();
    check_table(&plans, &absent);
}

#[test]
fn a_published_table_shares_what_has_not_changed() {
    let table = |changed: std::ops::Range<u64>| {
        let plan = |n: u64| plan(n + u64::from(changed.contains(&n)));
        PlanTable::new((0..4096).map(|n| (ContextKey(n * n), plan(n))))
    };
    let before = table(0..0);
    let same = table(0..0).sharing(&before);
    assert_eq!(same.shared_segments(&before), (64, 64));
    assert_eq!(table(0..0).shared_segments(&before), (0, 64));
    let some = table(100..103).sharing(&before);
    assert_eq!(some.get(ContextKey(101 * 101)), Some(plan(102)));
    assert_eq!(before.get(ContextKey(101 * 101)), Some(plan(101)));
    let (shared, segments) = some.shared_segments(&before);
    assert!((61..64).contains(&shared) && segments == 64, "{shared} of {segments}");
    let board = PlanBoard::new(before);
    let mut reader = board.reader();
    board.publish(table(0..4096));
    board.publish(table(7..8));
    assert_eq!(reader.get(ContextKey(49)), Some(plan(8)));
    assert_eq!(reader.get(ContextKey(64)), Some(plan(8)));
}

/// Keys that differ in a few bits only, wherever they are, do not pile up.
#[test]
fn packed_fields_spread() {
    for shift in [0, 13, 32, 52] {
        for half in [0, 32] {
            let mut homes = vec![0_u32; 4096];
            for key in 0..if cfg!(miri) { 64 } else { 4096 } {
                homes[((home(key << shift) >> half) as u32 >> 20) as usize] += 1;
            }
            let most = homes.iter().max().expect("not empty");
            assert!(*most <= 12, "{most} of 4096 keys share a place at shift {shift}, half {half}");
        }
    }
}

fn ticket_numbers(reader: &mut PlanReader, context: ContextKey, uses: usize) -> Vec<Option<u32>> {
    let tickets = (0..uses).map(|_| reader.select(context).expect("known").ticket);
    tickets.map(|ticket| ticket.map(|ticket| ticket.0.get())).collect()
}

fn reporting(report_every: u16) -> PlanTable {
    PlanTable::new([(ContextKey(7), Plan { kernel: 1, launch: 2, epoch: 3, report_every })])
}

#[test]
fn every_nth_use_bears_a_ticket() {
    let board = PlanBoard::new(reporting(3));
    let mut reader = board.reader();
    assert_eq!(reader.select(ContextKey(8)), None);
    let numbers = ticket_numbers(&mut reader, ContextKey(7), 7);
    assert_eq!(numbers, [None, None, Some(1), None, None, Some(2), None]);

    board.publish(reporting(0));
    assert_eq!(ticket_numbers(&mut reader, ContextKey(7), 2), [None, None]);

    board.publish(reporting(1));
    assert_eq!(ticket_numbers(&mut reader, ContextKey(7), 2), [Some(3), Some(4)]);

    let longest = if cfg!(miri) { 300 } else { u16::MAX };
    board.publish(reporting(longest));
    let numbers = ticket_numbers(&mut reader, ContextKey(7), usize::from(longest));
    assert_eq!(numbers.last(), Some(&Some(5)));
    assert_eq!(numbers.iter().flatten().count(), 1);
}

#[test]
fn tables_live_as_long_as_their_readers_need_them() {
    let board = PlanBoard::new(reporting(1));
    let mut idle = board.reader();
    let mut busy = board.reader();
    assert!(idle.get(ContextKey(7)).is_some());
    for _ in 0..5 {
        assert!(busy.get(ContextKey(7)).is_some());
        board.publish(reporting(1));
    }
    assert_eq!(board.tables(), 3, "the current one, `idle`'s and `busy`'s");
    drop(idle);
    board.publish(PlanTable::new([]));
    assert_eq!(board.tables(), 2);

    drop(board);
    assert_eq!(busy.get(ContextKey(7)), None);
}

#[test]
fn readers_see_whole_tables_in_order_while_they_are_replaced() {
    const READERS: usize = 3;
    let (contexts, generations) = if cfg!(miri) { (8, 20) } else { (512, 2000) };
    let generation = |number: u16| {
        let plans = (0..contexts).map(move |key| Plan {
            kernel: number,
            launch: key,
            epoch: number,
            report_every: 0,
        });
        PlanTable::new(plans.map(|plan| (ContextKey(plan.launch.into()), plan)))
    };
    let board = PlanBoard::new(generation(0));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let mut last = 0;
                while last < generations {
                    let finished = done.load(Ordering::Acquire);
                    // Readers that stay and readers that have just come.
                    let mut reader = board.reader();
                    for key in 0..contexts {
                        let plan = reader.get(ContextKey(key.into())).expect("in every table");
                        assert_eq!(plan.launch, key);
                        assert_eq!(plan.kernel, plan.epoch);
                        assert!(plan.epoch >= last);
                        last = plan.epoch;
                    }
                    assert!(!finished || last == generations);
                }
            });
        }
        for number in 1..=generations {
            board.publish(generation(number));
            assert!(board.tables() <= READERS + 1);
        }
        done.store(true, Ordering::Release);
    });
    board.publish(generation(0));
    assert_eq!(board.tables(), 1);
}

#[test]
fn outcomes_survive_the_ring() {
    let (mut producer, mut consumer) = feedback_ring(4);
    let sent = Outcome {
        context: ContextKey(u64::MAX),
        plan: Plan { kernel: 1, launch: 2, epoch: 3, report_every: 4 },
        ticket: Some(Ticket(u32::MAX.try_into().expect("not 0"))),
        flags: OutcomeFlags::MISS | OutcomeFlags::FAILED,
        num_pairs: u32::MAX,
        num_decodes: 1,
        nanoseconds: u64::MAX,
    };
    assert!(producer.push(sent));
    let received: Vec<_> = consumer.drain().collect();
    assert_eq!(received, [sent]);
    assert!(received[0].flags.contains(OutcomeFlags::FAILED));
    assert!(!OutcomeFlags::MISS.contains(received[0].flags));
}

#[test]
fn ring_keeps_order_as_it_wraps_and_drops_the_newest() {
    for asked in [0, 1, 2, 3, 8] {
        let (mut producer, mut consumer) = feedback_ring(asked);
        let capacity = asked.next_power_of_two() as u64;
        let mut next = 0;
        for round in 1..=5 {
            for number in next..next + capacity {
                assert!(producer.push(outcome(number)));
            }
            assert!(!producer.push(outcome(u64::MAX)));
            assert_eq!(consumer.dropped(), round);
            assert_eq!(consumer.drain().len() as u64, capacity, "looking takes nothing");
            assert_eq!(consumer.drain().next(), Some(outcome(next)));
            let rest: Vec<_> = (next + 1..next + capacity).map(outcome).collect();
            assert_eq!(consumer.drain().collect::<Vec<_>>(), rest);
            next += capacity;
        }
    }
}

#[test]
fn either_end_may_go_first() {
    let (mut producer, mut consumer) = feedback_ring(2);
    producer.push(outcome(1));
    assert!(!consumer.is_closed());
    drop(producer);
    assert!(consumer.is_closed());
    assert_eq!(consumer.drain().collect::<Vec<_>>(), [outcome(1)]);

    let (mut producer, consumer) = feedback_ring(2);
    drop(consumer);
    let accepted: Vec<_> = (0..3).map(|number| producer.push(outcome(number))).collect();
    assert_eq!(accepted, [true, true, false]);
}

#[test]
fn ring_between_threads_loses_and_repeats_nothing() {
    let pushes = if cfg!(miri) { 200 } else { 500_000 };
    let (mut producer, mut consumer) = feedback_ring(16);
    let pushing = thread::spawn(move || {
        (0..pushes).filter(|&number| producer.push(outcome(number))).collect::<Vec<_>>()
    });
    let mut received = Vec::new();
    loop {
        let closed = consumer.is_closed();
        let before = received.len();
        received.extend(consumer.drain());
        if closed {
            break;
        }
        if received.len() == before {
            thread::yield_now();
        }
    }
    let accepted = pushing.join().expect("the producer is fine");
    assert_eq!(received.len() as u64 + consumer.dropped(), pushes);
    assert_eq!(received, accepted.into_iter().map(outcome).collect::<Vec<_>>());
}
