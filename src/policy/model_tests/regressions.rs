//! Small worlds whose decision is easily got wrong, by name: what the model says of them is written down, and compiler and
//! evaluation must say the same. Worlds made at random that were decided differently are kept as seeds.

use retention_model::calendar::Period;
use retention_model::example::{MONTH, cell, on, own, simple};
use retention_model::world::{
    Consent, Erasure, ForeignKey, Kind, Minimum, OnDelete, Purpose, Reference, Value,
};
use retention_model::{State, World};

use super::{Compiled, compare};

fn purpose(world: &mut World) -> &mut Purpose {
    let purposes = &mut world.policy.purposes;
    purposes.get_mut("m.p").expect("it is the only purpose")
}

/// All three readings agree on these states of the two cells, and on how many rows go.
#[track_caller]
fn decided(world: &World, states: [State; 2], deleted: usize) {
    let decision = world.decide();
    let found: Vec<State> = decision.states.iter().map(|cells| cells["c"]).collect();
    assert_eq!(found, states);
    assert_eq!(decision.deleted.len(), deleted);
    if let Err(why) = compare(world, &Compiled::new(world)) {
        panic!("{why}");
    }
}

#[test]
fn a_month_from_the_last_of_january_ends_with_february_and_not_a_microsecond_before() {
    let mut world = simple();
    decided(&world, [State::Due, State::Due], 0);
    world.now -= 1;
    decided(&world, [State::Active, State::Active], 0);
}

#[test]
fn a_period_that_was_lengthened_counts_for_what_was_collected_since() {
    let mut world = simple();
    world.now = on(2023, 3, 1);
    world.tables[0].tag.as_mut().expect("tagged").collected = Some(own("at"));
    let year = Period {
        months: 12,
        ..MONTH
    };
    purpose(&mut world).periods.push((on(2023, 1, 31), year));
    world.rows[0]
        .values
        .insert("at".to_owned(), Value::Time(on(2023, 1, 31) - 1));
    decided(&world, [State::Due, State::Active], 0);
}

#[test]
fn a_suspension_that_begins_as_a_defence_lapses_revives_nothing() {
    let mut world = simple();
    cell(&mut world).minimums.push(Reference {
        name: "m.claim".to_owned(),
        clock: None,
    });
    let mut suspended_from = |from: i64| {
        let defence = Minimum {
            period: MONTH,
            defence: Some(vec![(from, None)]),
        };
        world.policy.minimums.insert("m.claim".to_owned(), defence);
        world.clone()
    };
    decided(
        &suspended_from(on(2023, 2, 28)),
        [State::Due, State::Due],
        0,
    );
    decided(
        &suspended_from(on(2023, 2, 28) - 1),
        [State::Blocked, State::Blocked],
        0,
    );
}

#[test]
fn a_maximum_below_a_minimum_blocks_and_destroys_nothing() {
    let mut world = simple();
    world.now = on(2023, 2, 15);
    let day = Period {
        months: 0,
        days: 1,
        micros: 0,
    };
    let named = |name: &str| Reference {
        name: name.to_owned(),
        clock: None,
    };
    cell(&mut world).maximums.push(named("m.cap"));
    world.policy.maximums.insert("m.cap".to_owned(), day);
    decided(&world, [State::Due, State::Due], 0);
    cell(&mut world).minimums.push(named("m.tax"));
    let minimum = Minimum {
        period: MONTH,
        defence: None,
    };
    world.policy.minimums.insert("m.tax".to_owned(), minimum);
    decided(&world, [State::Blocked, State::Blocked], 0);
}

#[test]
fn a_consent_that_was_given_again_covers_and_one_that_was_never_recorded_does() {
    let mut world = simple();
    world.now = on(2023, 2, 15);
    purpose(&mut world).consent_based = true;
    let mut consent = |granted: i64, withdrawn: Option<i64>| {
        world.policy.consents.push(Consent {
            kind: "person".to_owned(),
            key: vec!["1".to_owned()],
            purpose: "m.p".to_owned(),
            granted,
            withdrawn,
        });
        world.clone()
    };
    let withdrawn = consent(on(2023, 1, 31), Some(on(2023, 2, 15)));
    decided(&withdrawn, [State::Due, State::Active], 0);
    // It begins at the very moment.
    let again = consent(on(2023, 2, 15), None);
    decided(&again, [State::Active, State::Active], 0);
}

#[test]
fn a_row_of_the_day_of_an_erasure_is_not_taken_for_one_before_it() {
    let mut world = simple();
    world.now = on(2023, 2, 15);
    world.tables[0].columns[1].kind = Kind::Date;
    purpose(&mut world).required = false;
    let mut erased_at = |at: i64| {
        world.policy.erasures = vec![Erasure {
            kind: "person".to_owned(),
            key: vec!["1".to_owned()],
            at,
        }];
        world.clone()
    };
    decided(
        &erased_at(on(2023, 2, 1) - 1),
        [State::Active, State::Active],
        0,
    );
    decided(&erased_at(on(2023, 2, 1)), [State::Due, State::Active], 0);
}

#[test]
fn two_rows_that_refer_to_each_other_go_together_or_stay_as_shells() {
    let mut world = simple();
    let table = &mut world.tables[0];
    table.tag.as_mut().expect("tagged").delete = true;
    world.foreign_keys.push(ForeignKey {
        name: "boss".to_owned(),
        child: 0,
        columns: vec!["boss".to_owned()],
        parent: 0,
        parent_columns: vec!["id".to_owned()],
        on_delete: OnDelete::Cascade,
    });
    for (row, boss) in [(0, "2"), (1, "1")] {
        let boss = Value::Text(boss.to_owned());
        world.rows[row].values.insert("boss".to_owned(), boss);
    }
    decided(&world, [State::Due, State::Due], 2);
    world.rows[1]
        .values
        .insert("at".to_owned(), Value::Infinite);
    decided(&world, [State::Due, State::Active], 0);
}
