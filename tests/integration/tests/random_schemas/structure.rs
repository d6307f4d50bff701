//! Changes of the tables themselves as SQL, and what of all changes is counted.

use integration::quote_literal;
use retention_model::calendar;
use retention_model::change::Change;
use retention_model::world::{Row, Value, World};

use crate::dress::{Dress, Range};
use crate::sql::{
    MIDDLE, attach, insert_into, is_divided, is_part, localized, partition, relation,
};

/// What happened in a change that was made: which of the tables', or how users came at a row and what became of it.
pub fn seen(dress: &Dress, world: &World, change: &Change) -> Vec<&'static str> {
    let kind = name(world, change).or_else(|| change.of_labels(world));
    let mut seen: Vec<_> = kind.into_iter().collect();
    let row = match change {
        Change::Update(at, ..) | Change::Delete(at) => world.rows.get(*at),
        Change::Insert(row) => Some(row),
        _ => None,
    };
    if row.is_some_and(|row| is_from_above(dress, world, row, change)) {
        seen.push("rows named from above");
    }
    if let (Change::Update(_, column, value), Some(row)) = (change, row) {
        let is_by_clock =
            is_divided(dress, world, row.table) && dress.range(world, row.table) == Some(Range::At);
        if is_by_clock && column == "at" && is_early(row.value("at")) != is_early(value) {
            seen.push("rows that move");
        }
    }
    seen
}

/// Whether users name the table above that of the row. One that is inserted into an inheritance parent is its own.
fn is_from_above(dress: &Dress, world: &World, row: &Row, change: &Change) -> bool {
    let named = dress.named(world, row.table, row.value("id"));
    let inserted = matches!(change, Change::Insert(_));
    named != row.table && (!inserted || world.tables[named].partitioned)
}

/// Whether a clock lies in the first of two partitions of a partition.
fn is_early(clock: &Value) -> bool {
    matches!(clock, Value::Time(moment) if calendar::text(*moment).as_str() < MIDDLE)
}

/// The name of a change of tables, if it is one.
pub fn name(world: &World, change: &Change) -> Option<&'static str> {
    let is_partition = |above: Option<usize>| above.is_some_and(|at| world.tables[at].partitioned);
    match change {
        Change::Detach(table) if is_part(world, *table) => Some("DETACH of a second level"),
        Change::Detach(table) if is_partition(world.tables[*table].above) => Some("DETACH"),
        Change::Detach(_) => Some("NO INHERIT"),
        Change::Attach(_, above) if is_partition(Some(*above)) => Some("ATTACH"),
        Change::Attach(..) => Some("INHERIT"),
        Change::Divide(..) => Some("new partitions"),
        Change::Extend(_, _, _, Some(_)) => Some("new tagged columns"),
        Change::Extend(..) => Some("new columns"),
        Change::Drop(table, column) => {
            let tables = || (0..world.tables.len()).filter(|at| world.is_within(*at, *table));
            let before = |cell: &str| tables().any(|at| world.is_resolved(at, cell));
            let mut after = world.clone();
            after.apply(change);
            let cells = tables().flat_map(|at| after.tables[at].cells.keys());
            let mut cells = cells.filter(|cell| before(cell.as_str()));
            let lost = cells.any(|cell| tables().all(|at| !after.is_resolved(at, cell)));
            Some(match () {
                () if tables().any(|at| world.tables[at].cells.contains_key(column)) => {
                    "tagged columns that go"
                }
                () if lost => "clocks that go",
                () => "columns that go",
            })
        }
        _ => None,
    }
}

/// A transaction that makes it; none for what is no change of tables.
pub fn change(dress: &Dress, world: &World, change: &Change) -> Option<String> {
    let mut after = world.clone();
    let sql = match change {
        Change::Detach(table) => {
            let name = relation(dress, world, *table);
            let above = world.tables[*table].above?;
            let parent = relation(dress, world, above);
            match world.tables[above].partitioned {
                true => format!("ALTER TABLE {parent} DETACH PARTITION {name};\n"),
                false => format!("ALTER TABLE {name} NO INHERIT {parent};\n"),
            }
        }
        Change::Attach(table, above) => attach(dress, world, *table, *above),
        Change::Divide(table, rows) => {
            after.apply(change);
            let at = after.tables.len() - 1;
            let above = table.above?;
            let rows: String = rows
                .iter()
                .map(|row| insert_into(dress, &after, row, at))
                .collect();
            format!(
                "SET LOCAL ROLE app;\n{}{rows}RESET ROLE;\nGRANT ALL ON ALL TABLES IN SCHEMA {} TO app, counsel;\n{}",
                partition(dress, &after, at, &world.tables[above].key),
                dress.schema,
                attach(dress, &after, at, above)
            )
        }
        Change::Extend(table, column, value, tag) => {
            let name = relation(dress, world, *table);
            let mut sql = format!(
                "ALTER TABLE {name} ADD COLUMN {} {} DEFAULT {};\n",
                column.name,
                dress.type_of(world, *table, &column.name, column.kind),
                dress.literal(world, *table, &column.name, column.kind, value)
            );
            after.apply(change);
            let labels = after.tables[*table].column_labels();
            for (labelled, label) in labels.iter().filter(|_| tag.is_some()) {
                if *labelled == column.name {
                    let label = quote_literal(&localized(&dress.schema, label));
                    sql += &format!(
                        "SECURITY LABEL FOR custodian ON COLUMN {name}.{labelled} IS {label};\n"
                    );
                }
            }
            sql
        }
        Change::Drop(table, column) => {
            let name = relation(dress, world, *table);
            format!("ALTER TABLE {name} DROP COLUMN {column};\n")
        }
        _ => return None,
    };
    Some(format!("BEGIN;\n{sql}COMMIT"))
}
