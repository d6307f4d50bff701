//! Changes of the tables themselves as SQL.

use integration::quote_literal;
use retention_model::change::Change;
use retention_model::world::World;

use crate::dress::Dress;
use crate::sql::{attach, insert_into, localized, partition, relation};

/// The name of a change of tables, if it is one.
pub fn name(world: &World, change: &Change) -> Option<&'static str> {
    let is_partition = |above: Option<usize>| above.is_some_and(|at| world.tables[at].partitioned);
    match change {
        Change::Detach(table) if is_partition(world.tables[*table].above) => Some("DETACH"),
        Change::Detach(_) => Some("NO INHERIT"),
        Change::Attach(_, above) if is_partition(Some(*above)) => Some("ATTACH"),
        Change::Attach(..) => Some("INHERIT"),
        Change::Divide(..) => Some("new partitions"),
        Change::Extend(_, _, _, Some(_)) => Some("new tagged columns"),
        Change::Extend(..) => Some("new columns"),
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
        _ => return None,
    };
    Some(format!("BEGIN;\n{sql}COMMIT"))
}
