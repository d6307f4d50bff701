//! The model against examples worked out by hand.

use std::collections::{BTreeMap, BTreeSet};

use crate::calendar::{DAY, HOUR, Period, add, date, day_number, text};
use crate::change::Change;
use crate::decide::State;
use crate::example::{MONTH, cell, on, own, simple};
use crate::generate::{Features, Tape, change, world};
use crate::world::{
    CellTag, Column, Consent, Erasure, ForeignKey, Hold, Kind, Minimum, OnDelete, Reference, Value,
    World,
};

pub(crate) fn states(world: &World) -> Vec<State> {
    let decision = world.decide();
    decision.states.iter().map(|cells| cells["c"]).collect()
}

#[test]
fn the_calendar_agrees_with_known_dates() {
    assert_eq!(day_number(2000, 3, 1), 11_017);
    assert_eq!(date(11_016), (2000, 2, 29));
    assert_eq!(date(-1), (1969, 12, 31));
    for day in -1_000..30_000 {
        let (year, month, number) = date(day);
        assert_eq!(day_number(year, month, number), day);
    }
    assert_eq!(add(on(2023, 1, 31), MONTH), on(2023, 2, 28));
    let year = Period {
        months: 12,
        days: 1,
        micros: HOUR,
    };
    assert_eq!(add(on(2024, 2, 29), year), on(2025, 3, 1) + HOUR);
    assert_eq!(text(on(2024, 2, 29) + 5 * HOUR), "2024-02-29 05:00:00Z");
}

#[test]
fn a_cell_is_due_when_its_period_has_run_out_and_not_before() {
    let mut world = simple();
    assert_eq!(states(&world), [State::Due, State::Due]);
    world.now -= 1;
    assert_eq!(states(&world), [State::Active, State::Active]);
    world.now += 1;
    let (after, _) = world.sweep();
    assert_eq!(states(&after), [State::Disposed, State::Disposed]);
    assert_eq!(after.rows.len(), 2);
}

#[test]
fn without_a_clock_only_the_end_of_a_purpose_ends_its_cover() {
    let mut world = simple();
    world.now = on(2090, 1, 1);
    world.rows[0]
        .values
        .insert("at".to_owned(), Value::Infinite);
    assert_eq!(states(&world), [State::Active, State::Due]);
    world.policy.purposes.get_mut("m.p").expect("defined").ended = Some(on(2090, 1, 1));
    assert_eq!(states(&world), [State::Due, State::Due]);
}

#[test]
fn lengthening_is_for_rows_collected_afterwards_and_shortening_for_all() {
    let mut world = simple();
    let long = Period {
        months: 12,
        days: 0,
        micros: 0,
    };
    let purpose = world.policy.purposes.get_mut("m.p").expect("defined");
    purpose.periods = vec![(0, MONTH), (on(2023, 1, 1), long)];
    assert_eq!(
        states(&world),
        [State::Due, State::Due],
        "without collected the shortest ever"
    );
    world.tables[0].tag.as_mut().expect("tagged").collected = Some(own("at"));
    assert_eq!(states(&world), [State::Active, State::Active]);
    world
        .policy
        .purposes
        .get_mut("m.p")
        .expect("defined")
        .periods = vec![(0, long), (on(2023, 2, 28), MONTH)];
    assert_eq!(states(&world), [State::Due, State::Due]);
}

#[test]
fn consent_covers_while_it_lasts_and_when_none_is_on_record() {
    let mut world = simple();
    world.now = on(2023, 2, 10);
    world
        .policy
        .purposes
        .get_mut("m.p")
        .expect("defined")
        .consent_based = true;
    assert_eq!(states(&world), [State::Active, State::Active]);
    let consent = |granted, withdrawn| Consent {
        kind: "person".to_owned(),
        key: vec!["1".to_owned()],
        purpose: "m.p".to_owned(),
        granted,
        withdrawn,
    };
    world
        .policy
        .consents
        .push(consent(on(2023, 1, 1), Some(on(2023, 2, 10))));
    assert_eq!(states(&world), [State::Due, State::Active]);
    world.policy.consents.push(consent(on(2023, 2, 11), None));
    assert_eq!(states(&world), [State::Due, State::Active], "granted later");
    world.now = on(2023, 2, 11);
    assert_eq!(states(&world), [State::Active, State::Active]);
}

#[test]
fn a_minimum_blocks_and_a_maximum_ends_purposes_only() {
    let mut world = simple();
    let years = |months| Period {
        months,
        days: 0,
        micros: 0,
    };
    world.policy.minimums.insert(
        "law".to_owned(),
        Minimum {
            period: years(2),
            defence: None,
        },
    );
    world.policy.maximums.insert(
        "most".to_owned(),
        Period {
            months: 0,
            days: 5,
            micros: 0,
        },
    );
    let named = |name: &str| Reference {
        name: name.to_owned(),
        clock: None,
    };
    cell(&mut world).maximums.push(named("most"));
    world.now = on(2023, 2, 5);
    assert_eq!(states(&world)[0], State::Due);
    world.now -= 1;
    assert_eq!(states(&world)[0], State::Active);
    cell(&mut world).minimums.push(named("law"));
    world.now = on(2023, 3, 30);
    assert_eq!(states(&world)[0], State::Blocked);
    world.now = on(2023, 3, 31);
    assert_eq!(states(&world)[0], State::Due);
}

#[test]
fn suspended_time_does_not_count_for_a_defence() {
    let mut world = simple();
    cell(&mut world).minimums.push(Reference {
        name: "claim".to_owned(),
        clock: None,
    });
    let with = |world: &mut World, suspensions: Vec<(i64, Option<i64>)>| {
        let defence = Minimum {
            period: MONTH,
            defence: Some(suspensions),
        };
        world.policy.minimums.insert("claim".to_owned(), defence);
    };
    // It would end on 28 February.
    with(&mut world, vec![(on(2023, 2, 27), Some(on(2023, 3, 9)))]);
    world.now = on(2023, 3, 9);
    assert_eq!(states(&world)[0], State::Blocked);
    world.now = on(2023, 3, 10);
    assert_eq!(states(&world)[0], State::Due);
    with(&mut world, vec![(on(2023, 2, 28), None)]);
    assert_eq!(
        states(&world)[0],
        State::Due,
        "it had lapsed when it was suspended"
    );
    with(&mut world, vec![(on(2023, 1, 1), None)]);
    world.now = on(2099, 1, 1);
    assert_eq!(states(&world)[0], State::Blocked);
    // Suspended before the clock began: only what is after it counts.
    with(&mut world, vec![(on(2023, 1, 1), Some(on(2023, 2, 1)))]);
    world.now = on(2023, 3, 1);
    assert_eq!(states(&world)[0], State::Due);
    world.now -= 1;
    assert_eq!(states(&world)[0], State::Blocked);
}

#[test]
fn an_erasure_ends_what_is_optional_of_what_was_there() {
    let mut world = simple();
    world.now = on(2023, 2, 1);
    let key = vec!["1".to_owned()];
    // The purpose is required, and an erasure ends nothing.
    let (after, _) = world.erase("person", &key);
    assert_eq!(states(&after), [State::Active, State::Active]);
    world
        .policy
        .purposes
        .get_mut("m.p")
        .expect("defined")
        .required = false;
    let (after, _) = world.erase("person", &key);
    assert_eq!(states(&after), [State::Disposed, State::Active]);
    // What comes back goes again, and what begins anew stays.
    for (began, state) in [
        (on(2023, 1, 31), State::Due),
        (on(2023, 2, 1), State::Active),
    ] {
        let mut back = after.clone();
        back.rows[0] = world.rows[0].clone();
        back.rows[0]
            .values
            .insert("at".to_owned(), Value::Time(began));
        back.now += DAY;
        assert_eq!(states(&back), [state, State::Active]);
    }
    // Of what has no clock it is not known whether it was there; the request itself is about everything.
    world.rows[0].values.insert("at".to_owned(), Value::Null);
    let (after, _) = world.erase("person", &key);
    assert_eq!(*after.rows[0].value("c"), Value::Null);
    let mut back = after;
    back.rows[0] = world.rows[0].clone();
    assert_eq!(states(&back)[0], State::Active);
}

#[test]
fn a_date_must_lie_before_an_erasure_as_a_whole_day() {
    let mut world = simple();
    world.tables[0].columns[1].kind = Kind::Date;
    world
        .policy
        .purposes
        .get_mut("m.p")
        .expect("defined")
        .required = false;
    world.now = on(2023, 2, 2);
    for (at, state) in [
        (on(2023, 2, 1) - 1, State::Active),
        (on(2023, 2, 1), State::Due),
    ] {
        world.policy.erasures = vec![Erasure {
            kind: "person".to_owned(),
            key: vec!["2".to_owned()],
            at,
        }];
        assert_eq!(states(&world), [State::Active, state]);
    }
}

#[test]
fn users_may_neither_change_what_is_held_nor_destroy_what_a_minimum_keeps() {
    let mut world = simple();
    let set = |column: &str, value| Change::Update(0, column.to_owned(), value);
    let text = || Value::Text("y".to_owned());
    assert_eq!(world.refuses(&Change::Delete(0)), Some(false));
    cell(&mut world).minimums = vec![Reference {
        name: "m.law".to_owned(),
        clock: None,
    }];
    let law = |defence| Minimum {
        period: Period { days: 1, ..MONTH },
        defence,
    };
    world.policy.minimums.insert("m.law".to_owned(), law(None));
    assert_eq!(world.refuses(&Change::Delete(0)), Some(true));
    assert_eq!(world.refuses(&set("c", Value::Null)), Some(true));
    assert_eq!(world.refuses(&set("c", text())), Some(false));
    // A defence lets data be kept, and makes nobody keep it.
    let defence = law(Some(Vec::new()));
    world.policy.minimums.insert("m.law".to_owned(), defence);
    assert_eq!(world.refuses(&Change::Delete(0)), Some(false));
    world.policy.holds = vec![Hold::Rows {
        table: 0,
        matching: BTreeMap::from([("d".to_owned(), vec!["z".to_owned()])]),
    }];
    world.rows[0]
        .values
        .insert("d".to_owned(), Value::Text("z".to_owned()));
    assert_eq!(world.refuses(&Change::Delete(0)), Some(true));
    for (column, refused) in [("c", true), ("d", true), ("at", false)] {
        assert_eq!(
            world.refuses(&set(column, text())),
            Some(refused),
            "{column}"
        );
    }
    assert_eq!(world.refuses(&Change::Delete(1)), Some(false));
}

#[test]
fn rows_go_together_with_all_that_refer_to_them_or_not_at_all() {
    let mut world = simple();
    world.tables[0].tag.as_mut().expect("tagged").delete = true;
    world.foreign_keys.push(ForeignKey {
        name: "boss".to_owned(),
        child: 0,
        columns: vec!["boss".to_owned()],
        parent: 0,
        parent_columns: vec!["id".to_owned()],
        on_delete: OnDelete::Cascade,
    });
    // Each is the other's boss.
    for (row, boss) in [(0, "2"), (1, "1")] {
        world.rows[row]
            .values
            .insert("boss".to_owned(), Value::Text(boss.to_owned()));
    }
    assert_eq!(world.decide().deleted.len(), 2);
    world.rows[1].values.insert("at".to_owned(), Value::Null);
    assert!(world.decide().deleted.is_empty());
    assert_eq!(states(&world), [State::Due, State::Active], "a shell");
    world.rows[1].values.insert("boss".to_owned(), Value::Null);
    assert_eq!(
        world.decide().deleted,
        BTreeSet::from([0]),
        "nobody refers to it"
    );
}

#[test]
fn a_hold_lies_over_everything_it_names() {
    let mut world = simple();
    world.policy.holds.push(Hold::Subject {
        kind: "person".to_owned(),
        key: vec!["2".to_owned()],
    });
    assert_eq!(states(&world), [State::Due, State::Held]);
    world.policy.holds = vec![Hold::Rows {
        table: 0,
        matching: BTreeMap::from([("c".to_owned(), vec!["x".to_owned()])]),
    }];
    assert_eq!(states(&world), [State::Held, State::Held]);
    world.rows[0].values.insert("c".to_owned(), Value::Null);
    assert_eq!(states(&world), [State::Disposed, State::Held]);
}

#[test]
fn a_tag_that_means_nothing_keeps_its_cell_and_its_row() {
    let mut world = simple();
    world.tables[0].tag.as_mut().expect("tagged").delete = true;
    assert_eq!(world.decide().deleted.len(), 2);
    let broken = CellTag {
        purposes: vec!["m.unknown".to_owned()],
        ..CellTag::default()
    };
    world.tables[0].cells.insert("d".to_owned(), broken);
    assert!(world.decide().deleted.is_empty());
    assert_eq!(world.decide().states[0]["d"], State::Unresolved);
}

/// The generator reaches what the rules speak of: otherwise the comparisons made with it prove little.
#[test]
fn generated_worlds_reach_every_state_and_deletion() {
    let mut seen: BTreeMap<State, u32> = BTreeMap::new();
    let (mut deleted, mut in_circles) = (0, 0);
    let mut random: u64 = 7;
    for _ in 0..2_000 {
        let tape: Vec<u8> = (0..600)
            .map(|_| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                random.to_be_bytes()[0]
            })
            .collect();
        let mut tape = Tape::new(&tape);
        let mut world = world(&mut tape, Features::ALL);
        for _ in 0..3 {
            let (after, decision) = world.sweep();
            for state in decision.states.iter().flat_map(BTreeMap::values) {
                *seen.entry(*state).or_default() += 1;
            }
            deleted += decision.deleted.len();
            for row in &decision.deleted {
                in_circles += u32::from(decision.deleted.iter().any(|other| {
                    world
                        .foreign_keys
                        .iter()
                        .any(|key| world.refers(key, &world.rows[*row], &world.rows[*other]))
                }));
            }
            // Where a reference leads nowhere, as one of an inheritance child may, a deletion can change whose a row is:
            // nothing is left once a sweep has deleted nothing.
            let mut settled = after.sweep();
            while !settled.1.deleted.is_empty() {
                settled = settled.0.sweep();
            }
            let settled = settled.0;
            for (row, cells) in settled.rows.iter().zip(settled.decide().states) {
                let tags = &settled.governing(row.table).cells;
                assert!(
                    cells
                        .iter()
                        .all(|(name, state)| *state != State::Due || tags[name].method.is_none())
                );
            }
            world = after;
            if let Some(change) = change(&mut tape, &world, Features::ALL) {
                world.apply(&change);
            }
        }
    }
    for state in [
        State::Active,
        State::Blocked,
        State::Due,
        State::Disposed,
        State::Held,
        State::Unresolved,
    ] {
        assert!(
            seen.get(&state).is_some_and(|count| *count > 500),
            "{seen:?}"
        );
    }
    assert!(deleted > 500 && in_circles > 50, "{deleted} {in_circles}");
}

#[test]
fn a_withdrawal_without_a_consent_on_record_counts() {
    let mut world = simple();
    world.now = on(2023, 2, 1);
    world
        .policy
        .purposes
        .get_mut("m.p")
        .expect("it is there")
        .consent_based = true;
    let later = Consent {
        kind: "person".to_owned(),
        key: vec!["1".to_owned()],
        purpose: "m.p".to_owned(),
        granted: on(2023, 2, 10),
        withdrawn: None,
    };
    world.policy.consents.push(later);
    assert_eq!(states(&world), [State::Active, State::Active]);
    world.apply(&Change::Withdraw(0));
    assert_eq!(states(&world), [State::Due, State::Active]);
    world.now = on(2023, 2, 10);
    assert_eq!(states(&world), [State::Active, State::Active]);
}

/// The simple world with its table a partition of `whole`, which has the tags.
pub(crate) fn divided() -> World {
    let mut world = simple();
    let mut whole = world.tables[0].clone();
    whole.name = "whole".to_owned();
    whole.partitioned = true;
    world.tables.push(whole);
    let part = &mut world.tables[0];
    part.name = "whole_1".to_owned();
    part.above = Some(1);
    (part.tag, part.cells) = (None, BTreeMap::new());
    world.foreign_keys.push(ForeignKey {
        name: "boss".to_owned(),
        child: 1,
        columns: vec!["boss".to_owned()],
        parent: 1,
        parent_columns: vec!["id".to_owned()],
        on_delete: OnDelete::SetNull,
    });
    world
}

#[test]
fn what_leaves_takes_its_tags_and_references_along() {
    let mut world = divided();
    world.now = on(2023, 2, 28);
    assert_eq!(states(&world), [State::Due, State::Due]);
    let table = Hold::Table { table: 1 };
    world.apply(&Change::Place(table));
    assert_eq!(world.refuses(&Change::Detach(0)), Some(true));
    world.apply(&Change::Release(0));
    assert_eq!(world.refuses(&Change::Detach(0)), Some(false));
    world.apply(&Change::Detach(0));
    assert_eq!(states(&world), [State::Due, State::Due]);
    assert!(world.tables[0].label().is_some() && world.foreign_keys.len() == 2);
    // A hold on what it left is none on it, until it is back.
    world.apply(&Change::Place(Hold::Table { table: 1 }));
    assert_eq!(states(&world), [State::Due, State::Due]);
    world.apply(&Change::Attach(0, 1));
    assert_eq!(states(&world), [State::Held, State::Held]);
    assert_eq!(world.foreign_keys.len(), 1);
}

#[test]
fn a_new_column_is_decided_like_others() {
    let mut world = divided();
    world.now = on(2023, 2, 28);
    let column = Column {
        name: "e".to_owned(),
        kind: Kind::Text,
        not_null: false,
    };
    let tag = world.tables[1].cells["c"].clone();
    let value = Value::Text("y".to_owned());
    world.apply(&Change::Extend(1, column, value, Some(tag)));
    assert_eq!(world.decide().states[0]["e"], State::Due);
    let (after, _) = world.sweep();
    assert_eq!(after.rows[0].value("e"), &Value::Null);
}
