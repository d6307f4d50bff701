//! What the server has, as rows of the model.

use integration::Result;
use postgres::{Client, SimpleQueryMessage};
use retention_model::Moment;
use retention_model::world::{Kind, Row, Value, World};

use crate::dress::Dress;
use crate::sql;

/// The rows as they are, in the tables of `world`.
pub fn read(client: &mut Client, dress: &Dress, world: &World) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (at, table) in world.tables.iter().enumerate() {
        if table.partitioned {
            continue;
        }
        let items: Vec<String> = table
            .columns
            .iter()
            .map(|column| match column.kind {
                Kind::Key => dress.expression(world, at, &column.name),
                Kind::Text => format!("{}::text", column.name),
                Kind::Path => {
                    let (document, path) = column.name.split_once('.').unwrap_or_default();
                    format!("{document} #>> '{{{}}}'", path.replace('.', ","))
                }
                kind => {
                    // Whatever the session's time zone is.
                    let moment = match kind {
                        Kind::TimestampTz => column.name.clone(),
                        _ => format!("{}::timestamp AT TIME ZONE 'UTC'", column.name),
                    };
                    format!(
                        "CASE WHEN isfinite({0}) THEN (extract(epoch FROM {moment}) * 1000000)::bigint::text ELSE {0}::text END",
                        column.name
                    )
                }
            })
            .collect();
        // The partitions of a partition are it; the children of a parent are not.
        let only = if sql::is_divided(dress, world, at) {
            ""
        } else {
            "ONLY "
        };
        let sql = format!(
            "SELECT {} FROM {only}{} ORDER BY id",
            items.join(", "),
            sql::relation(dress, world, at)
        );
        for message in client.simple_query(&sql)? {
            let SimpleQueryMessage::Row(found) = message else {
                continue;
            };
            let values = table.columns.iter().enumerate().map(|(position, column)| {
                let value = match found.get(position) {
                    None => Value::Null,
                    Some("infinity") if column.kind.is_time() => Value::Infinite,
                    Some(text) if column.kind.is_time() => {
                        Value::Time(text.parse().unwrap_or(Moment::MIN))
                    }
                    Some(text) if column.kind == Kind::Key => {
                        dress.value(world, at, &column.name, text)
                    }
                    Some(text) => Value::Text(text.to_owned()),
                };
                (column.name.clone(), value)
            });
            rows.push(Row {
                table: at,
                values: values.collect(),
            });
        }
    }
    Ok(rows)
}
