//! A small world, to begin examples with.

use std::collections::BTreeMap;

use crate::calendar::{DAY, Period, day_number};
use crate::world::{
    CellTag, Clock, Column, Kind, Purpose, Row, Subject, Table, TableTag, Value, World,
};

/// One calendar month.
pub const MONTH: Period = Period {
    months: 1,
    days: 0,
    micros: 0,
};

/// Midnight, UTC, of a day.
#[must_use]
pub fn on(year: i64, month: i64, day: i64) -> i64 {
    day_number(year, month, day) * DAY
}

/// A clock in the row itself.
#[must_use]
pub fn own(column: &str) -> Clock {
    Clock {
        over: Vec::new(),
        column: column.to_owned(),
    }
}

/// One table with columns id, at, c and d, of which c is tagged for one purpose of a month; two rows.
#[must_use]
pub fn simple() -> World {
    let column = |name: &str, kind| Column {
        name: name.to_owned(),
        kind,
        not_null: false,
    };
    let cell = CellTag {
        purposes: vec!["m.p".to_owned()],
        method: Some(Value::Null),
        ..CellTag::default()
    };
    let table = Table {
        own: None,
        name: "t".to_owned(),
        columns: vec![
            column("id", Kind::Key),
            column("at", Kind::TimestampTz),
            column("c", Kind::Text),
            column("d", Kind::Text),
            column("boss", Kind::Key),
        ],
        key: vec!["id".to_owned()],
        above: None,
        partitioned: false,
        tag: Some(TableTag {
            clock: Some(own("at")),
            subject: Some(Subject {
                kind: "person".to_owned(),
                columns: vec!["id".to_owned()],
                via: false,
            }),
            ..TableTag::default()
        }),
        cells: BTreeMap::from([("c".to_owned(), cell)]),
    };
    let row = |id: &str| Row {
        table: 0,
        values: BTreeMap::from([
            ("id".to_owned(), Value::Text(id.to_owned())),
            ("at".to_owned(), Value::Time(on(2023, 1, 31))),
            ("c".to_owned(), Value::Text("x".to_owned())),
        ]),
    };
    let mut world = World {
        now: on(2023, 2, 28),
        tables: vec![table],
        rows: vec![row("1"), row("2")],
        ..World::default()
    };
    world.policy.purposes.insert(
        "m.p".to_owned(),
        Purpose {
            consent_based: false,
            required: true,
            periods: vec![(0, MONTH)],
            ended: None,
        },
    );
    world
}

/// The tag of its only tagged column.
///
/// # Panics
/// If it was untagged.
pub fn cell(world: &mut World) -> &mut CellTag {
    world.tables[0].cells.get_mut("c").expect("it is tagged")
}
