//! What the store of events keeps, hands over and counts as lost.

use proptest::prelude::*;

use super::*;

fn key(database: u32, object: &str) -> Key {
    Key {
        gate: Gate::Ddl,
        outcome: Outcome::Refused,
        database,
        role: Text::new("app"),
        object: Text::new(object),
        ..Key::EMPTY
    }
}

/// An event of a role in the first database.
fn of(role: &str, object: &str) -> Key {
    Key {
        role: Text::new(role),
        ..key(1, object)
    }
}

fn filter(database: u32) -> Filter<'static> {
    Filter {
        database,
        database_name: "shop",
        also_unbound: false,
        repeats: false,
    }
}

fn ring() -> Box<Ring> {
    Box::new(Ring::new(0, 0))
}

#[test]
fn text_is_cut_at_a_character() {
    assert_eq!(Text::<8>::new("abc").as_str(), "abc");
    assert_eq!(Text::<8>::new("abcdefgh").as_str(), "abcdefgh");
    assert_eq!(Text::<8>::new("abcdefghi").as_str(), "abcde…");
    assert_eq!(Text::<8>::new("öööööö").as_str(), "öö…");
    assert_eq!(Text::<8>::new("a\0b").as_str(), "a b");
}

#[test]
fn the_same_event_is_counted_once() {
    let mut ring = ring();
    ring.record(&key(1, "a"), 10);
    ring.record(&key(1, "b"), 11);
    ring.record(&key(1, "a"), 12);
    let pending = ring.pending(filter(1), 20).events;
    assert_eq!(pending.len(), 2);
    assert_eq!(
        (pending[0].count, pending[0].first_at, pending[0].last_at),
        (2, 10, 12)
    );
    assert_eq!(pending[1].count, 1);
    assert!(ring.pending(filter(2), 20).events.is_empty());
}

#[test]
fn what_was_not_handed_over_is_still_there() {
    let mut ring = ring();
    ring.record(&key(1, "a"), 10);
    let first = ring.pending(filter(1), 20);
    ring.record(&key(1, "a"), 21);
    assert_eq!(ring.pending(filter(1), 22).events[0].count, 2);
    ring.handed(&first, 23);
    let force = Filter {
        repeats: true,
        ..filter(1)
    };
    let rest = ring.pending(force, 24).events;
    assert_eq!((rest[0].count, rest[0].last_at), (1, 21));
    assert!(ring.pending(filter(1), 24).events.is_empty());
    assert_eq!(ring.pending(filter(1), 23 + REPEAT).events.len(), 1);
}

#[test]
fn handing_over_twice_takes_off_once() {
    let mut ring = ring();
    ring.record(&key(1, "a"), 10);
    let pending = ring.pending(filter(1), 20);
    ring.handed(&pending, 21);
    ring.handed(&pending, 22);
    ring.record(&key(1, "a"), 23);
    let force = Filter {
        repeats: true,
        ..filter(1)
    };
    assert_eq!(ring.pending(force, 24).events[0].count, 1);
    assert_eq!(ring.pending(force, 24).events[0].first_at, 23);
}

#[test]
fn overflow_is_counted_and_handed_over_slots_are_reused() {
    let mut ring = ring();
    for number in 0..SLOTS + 3 {
        ring.record(&of(&number.to_string(), "a"), number as i64);
    }
    assert_eq!(ring.lost(), 3);
    let pending = ring.pending(filter(1), 1000);
    assert_eq!((pending.events.len(), pending.lost), (SLOTS, 0));
    let mut one = ring.pending(filter(1), 1000);
    one.events.truncate(1);
    ring.handed(&one, 1000);
    ring.record(&of("new", "new"), 1001);
    ring.record(&of("newer", "newer"), 1002);
    assert_eq!(ring.lost(), 4);
}

#[test]
fn one_role_cannot_keep_the_events_of_others_out() {
    let mut ring = ring();
    for number in 0..10_000 {
        ring.record(&of("flood", &number.to_string()), number);
    }
    for number in 0..20 {
        ring.record(&of("quiet", &number.to_string()), 20_000 + number);
    }
    assert_eq!(ring.lost(), 0);
    let events = ring.pending(filter(1), 30_000).events;
    let quiet = events
        .iter()
        .filter(|event| event.key.role.as_str() == "quiet");
    assert!(
        quiet
            .clone()
            .all(|event| event.key.reason.as_str().is_empty())
    );
    assert_eq!(quiet.count(), 20);
    let flood: Vec<_> = events
        .iter()
        .filter(|event| event.key.role.as_str() == "flood")
        .collect();
    assert_eq!(flood.iter().map(|event| event.count).sum::<u64>(), 10_000);
    let summaries: Vec<_> = flood
        .iter()
        .filter(|event| event.key.reason.as_str() == SUMMARY)
        .collect();
    assert_eq!(summaries.len(), 1);
    assert_eq!(summaries[0].last_at, 9_999);
    // What it did first is told one by one.
    assert!(flood.iter().any(|event| event.key.object.as_str() == "0"));
}

proptest! {
    // Each case records hundreds of events into a full store.
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_occurrence_is_told_or_counted_as_lost_and_small_shares_are_told_one_by_one(
        events in prop::collection::vec((0u32..6, 0u32..400, 0u32..3), 0..1500),
    ) {
        let mut ring = ring();
        let mut own = std::collections::BTreeMap::new();
        for (at, (role, object, database)) in events.iter().enumerate() {
            // Role 0 does a few different things only.
            let object = if *role == 0 { object % 8 } else { *object };
            let mut key = of(&role.to_string(), &object.to_string());
            key.database = 1 + database;
            *own.entry((*role, 1 + database, object)).or_insert(0u64) += 1;
            ring.record(&key, at as i64);
        }
        let pending: Vec<_> = (1..=3)
            .flat_map(|database| ring.pending(filter(database), 10_000).events)
            .collect();
        prop_assert!(pending.len() <= SLOTS);
        let told: u64 = pending.iter().map(|event| event.count).sum();
        prop_assert_eq!(told + ring.lost(), events.len() as u64);
        prop_assert_eq!(ring.lost(), 0);
        for ((role, database, object), count) in own {
            if role != 0 {
                continue;
            }
            let found = pending.iter().find(|event| {
                event.key.role.as_str() == "0"
                    && event.key.database == database
                    && event.key.object.as_str() == object.to_string()
            });
            prop_assert_eq!(found.map(|event| event.count), Some(count));
        }
    }
}

#[test]
fn unbound_and_orphaned_events_go_to_the_one_that_is_told_so() {
    let mut ring = ring();
    ring.record(&key(0, "physical standby"), 10);
    ring.record(&key(7, "database without the extension"), 11);
    let mut named = key(0, "login");
    named.database_name = Text::new("shop");
    ring.record(&named, 12);
    assert_eq!(ring.pending(filter(1), 20).events.len(), 1);
    let all = Filter {
        also_unbound: true,
        ..filter(1)
    };
    assert_eq!(ring.pending(all, 20).events.len(), 2);
    assert_eq!(ring.pending(all, 11 + ORPHAN).events.len(), 3);
}

#[test]
fn the_start_is_told_to_each_ledger_once_and_losses_to_one() {
    let mut ring = Box::new(Ring::new(5, 1));
    let started = Some(Started { at: 5, crashes: 1 });
    for number in 0..SLOTS + 2 {
        let mut key = of(&number.to_string(), "a");
        key.database = 9;
        ring.record(&key, 0);
    }
    let all = Filter {
        also_unbound: true,
        ..filter(1)
    };
    let first = ring.pending(all, 20);
    assert_eq!((first.started, first.lost), (started, 2));
    ring.handed(&first, 20);
    let second = ring.pending(all, 21);
    assert_eq!((second.started, second.lost), (None, 0));
    assert!(second.is_empty());
    assert_eq!(ring.pending(filter(2), 21).started, started);
    for database in 2..=DATABASES as u32 + 1 {
        let handover = ring.pending(filter(database), 22);
        ring.handed(&handover, 22);
    }
    assert_eq!(ring.pending(filter(1000), 23).started, None);
}

#[test]
fn what_was_handed_over_lately_is_still_told() {
    let mut ring = ring();
    ring.record(&key(1, "a"), 10);
    ring.record(&key(1, "a"), 12);
    ring.record(&key(2, "b"), 13);
    let handover = ring.pending(filter(1), 20);
    ring.record(&key(1, "a"), 25);
    ring.handed(&handover, 30);
    let told = |since| -> Vec<(u64, i64, i64)> {
        let events = ring.handed_since(filter(1), since, 40);
        let as_handed = |event: &Pending| (event.count, event.first_at, event.last_at);
        events.iter().map(as_handed).collect()
    };
    assert_eq!(told(30), [(2, 10, 12)]);
    assert_eq!(told(31), []);
    let again = ring.pending(filter(1), 40).events;
    assert!(again.is_empty(), "one that came again waits for its hour");
}
