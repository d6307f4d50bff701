//! Changes of tags and laws, in examples worked out by hand.

use std::collections::BTreeMap;

use crate::calendar::Period;
use crate::change::Change;
use crate::decide::State;
use crate::example::{MONTH, cell, on, own, simple};
use crate::tests::{divided, states};
use crate::world::{CellTag, Own, Reference};

#[test]
fn tags_and_laws_change_for_rows_that_are_there() {
    let mut world = simple();
    assert_eq!(states(&world), [State::Due, State::Due]);
    let law = Reference {
        name: "m.tax".to_owned(),
        clock: None,
    };
    let require = |period| Change::RequireMinimum(0, "c".to_owned(), law.clone(), period);
    world.apply(&require(MONTH));
    assert_eq!(states(&world), [State::Due, State::Due]);
    let two = Period { months: 2, ..MONTH };
    world.apply(&require(two));
    assert_eq!(states(&world), [State::Blocked, State::Blocked]);
    // From another clock it would fall, and it ends where a tag drops it.
    let mut other = cell(&mut world).clone();
    other.clock = Some(own("day"));
    let retag = |tag: &CellTag| Change::Retag(0, "c".to_owned(), tag.clone());
    assert!(world.moves_minimum(&retag(&other)));
    other.minimums.clear();
    other.clock = None;
    assert!(!world.moves_minimum(&retag(&other)));
    world.apply(&retag(&other));
    assert_eq!(states(&world), [State::Due, State::Due]);
    world.apply(&Change::SetDelete(0, true));
    assert_eq!(world.decide().deleted.len(), 2);
    // A maximum ends what purposes cover; what has no method waits for its row.
    world.now = on(2023, 2, 2);
    let day = Period {
        months: 0,
        days: 1,
        micros: 0,
    };
    world.apply(&Change::RequireMaximum(0, "c".to_owned(), law, day));
    assert_eq!(world.decide().deleted.len(), 2);
    world.apply(&Change::SetDelete(0, false));
    let without_method = CellTag {
        method: None,
        ..cell(&mut world).clone()
    };
    world.apply(&retag(&without_method));
    assert_eq!(states(&world), [State::Unresolved, State::Unresolved]);
}

#[test]
fn what_a_table_says_otherwise_is_in_force_below() {
    let mut world = divided();
    let mut tag = world.tables[1].cells["c"].clone();
    let own_tag = Own {
        tag: None,
        cells: BTreeMap::from([("c".to_owned(), tag.clone())]),
    };
    let above = world.tables[1].clone();
    world.tables[0].tighten(&above, own_tag);
    assert_eq!(states(&world), [State::Due, State::Due]);
    tag.purposes = vec!["m.other".to_owned()];
    world.apply(&Change::Retag(1, "c".to_owned(), tag));
    // The part still names the purpose that the whole does not name any more.
    assert_eq!(states(&world), [State::Unresolved, State::Unresolved]);
}
