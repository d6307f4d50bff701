//! The columns of a world's table as they are read from the catalog.

use retention_model::world::{Kind, World};

use crate::policy::fixture;
use crate::policy::model::{Column, TypeClass};

/// The columns as the server has them: the paths of a document are in one column.
pub fn columns(world: &World, at: usize) -> Vec<Column> {
    let table = &world.tables[at];
    let keys = || {
        let keys = world.foreign_keys.iter();
        keys.flat_map(|key| {
            [
                (key.child, &key.columns, false),
                (key.parent, &key.parent_columns, true),
            ]
        })
        .filter(|(table, ..)| *table == at)
    };
    let is_in_key = |name: &String, parent: bool| {
        keys().any(|(_, columns, is_parent)| is_parent == parent && columns.contains(name))
    };
    let mut columns: Vec<Column> = Vec::new();
    for known in &table.columns {
        let class = match known.kind {
            Kind::Key => TypeClass::Integer,
            Kind::Text => TypeClass::Text { max: None },
            Kind::Path => TypeClass::Json,
            Kind::Date => TypeClass::Date,
            Kind::Timestamp => TypeClass::Timestamp,
            Kind::TimestampTz => TypeClass::TimestampTz,
        };
        let name = match (known.kind, known.name.split_once('.')) {
            (Kind::Path, Some((document, _))) => document,
            _ => &known.name,
        };
        if columns.iter().any(|column| column.ident.name == name) {
            continue;
        }
        let mut made = fixture::column(name, class);
        if class == TypeClass::Json {
            made.base = "jsonb".to_owned();
            made.type_name = "jsonb".to_owned();
        }
        made.in_unique = table.key.contains(&known.name);
        // As a primary key makes it.
        made.not_null = known.not_null || made.in_unique;
        made.in_foreign_key = is_in_key(&known.name, false);
        made.referenced = is_in_key(&known.name, true);
        made.in_partition_key = table.partitioned && known.name == "k2";
        columns.push(made);
    }
    columns
}
