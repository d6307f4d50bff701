//! A world of the model as SQL, and back.

use std::collections::BTreeMap;

use integration::quote_literal;
use retention_model::calendar::{self, HOUR};
use retention_model::change::Change;
use retention_model::world::{Column, Consent, Hold, Kind, OnDelete, Row, Value, World};
use retention_model::{Moment, Period};

use crate::dress::{Dress, MIDDLE_KEY, Range};
use crate::session::offset;
use crate::{relabel, structure};

/// Names that are the same in all worlds become names of one schema: those of purposes, laws and kinds of subjects.
pub fn local(schema: &str, name: &str) -> String {
    match name.strip_prefix("m.") {
        Some(rest) => format!("{schema}.{rest}"),
        None => format!("{schema}_{name}"),
    }
}

/// A label with its names made those of the schema.
pub fn localized(schema: &str, label: &str) -> String {
    label
        .replace("\"m.", &format!("\"{schema}."))
        .replace("\"kind\":\"", &format!("\"kind\":\"{schema}_"))
}

pub fn relation(dress: &Dress, world: &World, table: usize) -> String {
    format!("{}.{}", dress.schema, world.tables[table].name)
}

pub fn interval(period: Period) -> String {
    format!(
        "interval '{} months {} days {} hours'",
        period.months,
        period.days,
        period.micros / HOUR
    )
}

fn stamp(moment: Moment) -> String {
    quote_literal(&calendar::text(moment))
}

/// The columns as the server has them: the paths of a document are in one.
fn columns(all: &[Column]) -> Vec<(String, Kind, bool)> {
    let mut columns: Vec<(String, Kind, bool)> = Vec::new();
    for column in all {
        let name = match column.kind {
            Kind::Path => column.name.split('.').next().unwrap_or_default(),
            _ => &column.name,
        };
        if !columns.iter().any(|(known, ..)| known == name) {
            columns.push((name.to_owned(), column.kind, column.not_null));
        }
    }
    columns
}

/// `{"a":{"b":"v"},"c":"w"}`, of the paths that have a value. Documents here are at most two levels deep.
fn document(row: &Row, name: &str) -> String {
    let mut nested: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut members = Vec::new();
    for (path, value) in &row.values {
        let (Some(rest), Value::Text(text)) = (path.strip_prefix(&format!("{name}.")), value)
        else {
            continue;
        };
        match rest.split_once('.') {
            Some((outer, inner)) => nested
                .entry(outer)
                .or_default()
                .push(format!(r#""{inner}":"{text}""#)),
            None => members.push(format!(r#""{rest}":"{text}""#)),
        }
    }
    for (outer, inner) in nested {
        members.push(format!(r#""{outer}":{{{}}}"#, inner.join(",")));
    }
    format!("'{{{}}}'", members.join(","))
}

fn insert(dress: &Dress, world: &World, row: &Row) -> String {
    insert_into(
        dress,
        world,
        row,
        dress.named(world, row.table, row.value("id")),
    )
}

pub fn insert_into(dress: &Dress, world: &World, row: &Row, mut table: usize) -> String {
    // Rows that are inserted into an inheritance parent are its own.
    if !world.tables[table].partitioned {
        table = row.table;
    }
    let mut names = Vec::new();
    let mut values = Vec::new();
    for (name, kind, _) in columns(&world.tables[row.table].columns) {
        let (written, as_kind) = dress.written(world, row.table, &name, kind);
        names.push(written);
        values.push(match kind {
            Kind::Path => document(row, &name),
            _ => dress.literal(world, row.table, &name, as_kind, row.value(&name)),
        });
    }
    format!(
        "INSERT INTO {} ({}) VALUES ({});\n",
        relation(dress, world, table),
        names.join(", "),
        values.join(", ")
    )
}

/// The columns of a table as they are defined.
fn items(dress: &Dress, world: &World, table: usize) -> Vec<String> {
    columns(&world.tables[table].columns)
        .iter()
        .flat_map(|(name, kind, not_null)| {
            dress.definitions(world, table, (name, *kind, *not_null))
        })
        .collect()
}

/// Where partitions of partitions by the clock meet, at midnight UTC.
pub const MIDDLE: &str = "2021-07-01";

/// Whether the table is, or was, a partition of a partition.
pub fn is_part(world: &World, table: usize) -> bool {
    world.tables[table].name.matches('_').count() == 2
}

/// Whether the partition has partitions of its own.
pub fn is_divided(dress: &Dress, world: &World, table: usize) -> bool {
    if is_part(world, table) {
        return false;
    }
    let is_partition = match world.tables[table].above.or_else(|| world.left(table)) {
        Some(above) => world.tables[above].partitioned,
        None => false,
    };
    is_partition && dress.range(world, table).is_some()
}

/// What a partition is divided by, and the bounds of its two partitions.
fn division(
    dress: &Dress,
    world: &World,
    at: usize,
    range: Range,
) -> (&'static str, [(&'static str, String); 2]) {
    let (by, bound) = match range {
        Range::Id => {
            let middle = Value::Text(MIDDLE_KEY.to_owned());
            ("id", dress.literal(world, at, "id", Kind::Key, &middle))
        }
        Range::At => ("at", quote_literal(&format!("{MIDDLE} 00:00:00Z"))),
    };
    let rest = match range {
        Range::Id => format!("FOR VALUES FROM ({bound}) TO (MAXVALUE)"),
        Range::At => "DEFAULT".to_owned(),
    };
    let low = format!("FOR VALUES FROM (MINVALUE) TO ({bound})");
    (by, [("lo", low), ("hi", rest)])
}

/// A partition that is not attached, perhaps with partitions of its own. All have their columns in another order.
pub fn partition(dress: &Dress, world: &World, at: usize, key: &[String]) -> String {
    let name = relation(dress, world, at);
    let mut items = items(dress, world, at);
    items.reverse();
    // The partition's key columns are NOT NULL before it is attached, as the parent's are.
    let not_null = |name: &str| -> String {
        let each = key.iter();
        each.map(|column| format!("ALTER TABLE {name} ALTER {column} SET NOT NULL;\n"))
            .collect()
    };
    let Some(range) = dress.range(world, at) else {
        return format!(
            "CREATE TABLE {name} ({});\n{}",
            items.join(", "),
            not_null(&name)
        );
    };
    let (by, parts) = division(dress, world, at, range);
    let mut sql = format!(
        "CREATE TABLE {name} ({}) PARTITION BY RANGE ({by});\n{}",
        items.join(", "),
        not_null(&name)
    );
    for (part, bounds) in parts {
        items.rotate_left(3);
        let leaf = format!("{name}_{part}");
        sql += &format!(
            "CREATE TABLE {leaf} ({});\n{}",
            items.join(", "),
            not_null(&leaf)
        );
        sql += &format!("ALTER TABLE {name} ATTACH PARTITION {leaf} {bounds};\n");
    }
    sql
}

/// Puts a table below another one.
pub fn attach(dress: &Dress, world: &World, at: usize, above: usize) -> String {
    let name = relation(dress, world, at);
    let parent = relation(dress, world, above);
    if !world.tables[above].partitioned {
        return format!("ALTER TABLE {name} INHERIT {parent};\n");
    }
    if let Some(range) = dress.range(world, at).filter(|_| is_part(world, at)) {
        let (_, parts) = division(dress, world, at, range);
        let bounds = parts.into_iter().find(|(part, _)| name.ends_with(part));
        let bounds = bounds.map(|(_, bounds)| bounds).unwrap_or_default();
        return format!("ALTER TABLE {parent} ATTACH PARTITION {name} {bounds};\n");
    }
    let number = Value::Text(world.number(at).to_owned());
    let value = dress.literal(world, at, "k2", Kind::Key, &number);
    format!("ALTER TABLE {parent} ATTACH PARTITION {name} FOR VALUES IN ({value});\n")
}

/// Tables without their foreign keys. Partitions have their columns in another order, and are attached.
fn tables(dress: &Dress, world: &World) -> String {
    let mut sql = dress.domains();
    for (at, table) in world.tables.iter().enumerate() {
        if is_part(world, at) {
            continue;
        }
        let name = relation(dress, world, at);
        let mut items = items(dress, world, at);
        let is_alone =
            table.above.is_none() && !world.tables.iter().any(|other| other.above == Some(at));
        if is_alone && at % 2 == 1 {
            items.push("serial int GENERATED ALWAYS AS IDENTITY".to_owned());
        }
        if table.above.is_none() && !table.key.is_empty() {
            items.push(format!("PRIMARY KEY ({})", table.key.join(", ")));
        }
        let items = items.join(", ");
        match table.above {
            Some(above) if world.tables[above].partitioned => {
                sql += &partition(dress, world, at, &world.tables[above].key);
                sql += &attach(dress, world, at, above);
            }
            Some(above) => {
                let parent = relation(dress, world, above);
                sql += &format!("CREATE TABLE {name} () INHERITS ({parent});\n");
            }
            None if table.partitioned => {
                sql += &format!("CREATE TABLE {name} ({items}) PARTITION BY LIST (k2);\n");
            }
            None => sql += &format!("CREATE TABLE {name} ({items});\n"),
        }
    }
    sql
}

fn foreign_keys(dress: &Dress, world: &World) -> String {
    let mut sql = String::new();
    for key in &world.foreign_keys {
        let action = match key.on_delete {
            OnDelete::NoAction => "NO ACTION",
            OnDelete::Restrict => "RESTRICT",
            OnDelete::Cascade => "CASCADE",
            OnDelete::SetNull => "SET NULL",
            OnDelete::SetDefault => "SET DEFAULT",
        };
        sql += &format!(
            "ALTER TABLE {} ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({}) ON DELETE {action};\n",
            relation(dress, world, key.child),
            key.name,
            key.columns.join(", "),
            relation(dress, world, key.parent),
            key.parent_columns.join(", "),
        );
    }
    sql
}

fn labels(dress: &Dress, world: &World) -> String {
    let mut sql = String::new();
    for (at, table) in world.tables.iter().enumerate() {
        let name = relation(dress, world, at);
        if table.above.is_some() && table.own.is_none() {
            continue;
        }
        if let Some(label) = table.label() {
            let label = quote_literal(&localized(&dress.schema, &label));
            sql += &format!("SECURITY LABEL FOR custodian ON TABLE {name} IS {label};\n");
        }
        for (column, label) in table.column_labels() {
            let label = quote_literal(&localized(&dress.schema, &label));
            sql += &format!("SECURITY LABEL FOR custodian ON COLUMN {name}.{column} IS {label};\n");
        }
    }
    sql
}

/// The past of the policy is written straight into its tables, for functions give it the present.
fn policy(dress: &Dress, world: &World) -> String {
    let mut sql = String::new();
    for (name, purpose) in &world.policy.purposes {
        let name = quote_literal(&local(&dress.schema, name));
        let basis = if purpose.consent_based {
            "consent"
        } else {
            "contract"
        };
        let ended = purpose.ended.map_or("NULL".to_owned(), stamp);
        sql += &format!(
            "INSERT INTO custodian.purpose (name, basis, jurisdiction, required, ended_at) VALUES ({name}, '{basis}', 'cn', {}, {ended});\n",
            purpose.required
        );
        for (since, period) in &purpose.periods {
            sql += &format!(
                "INSERT INTO custodian.purpose_period VALUES ({name}, {}, {});\n",
                stamp(*since),
                interval(*period)
            );
        }
    }
    for (name, minimum) in &world.policy.minimums {
        sql += &format!(
            "INSERT INTO custodian.minimum (name, period, citation, defence) VALUES ({}, {}, 'a law', {});\n",
            quote_literal(&local(&dress.schema, name)),
            interval(minimum.period),
            minimum.defence.is_some()
        );
        for (suspended, resumed) in minimum.defence.iter().flatten() {
            sql += &format!(
                "INSERT INTO custodian.suspension (minimum, suspended_at, resumed_at) VALUES ({}, {}, {});\n",
                quote_literal(&local(&dress.schema, name)),
                stamp(*suspended),
                resumed.map_or("NULL".to_owned(), stamp)
            );
        }
    }
    for (name, period) in &world.policy.maximums {
        sql += &format!(
            "INSERT INTO custodian.maximum (name, period, citation) VALUES ({}, {}, 'another law');\n",
            quote_literal(&local(&dress.schema, name)),
            interval(*period)
        );
    }
    for consent in &world.policy.consents {
        sql += &format!(
            "INSERT INTO custodian.consent (subject_kind, subject_key, purpose, granted_at, withdrawn_at) VALUES ({}, {}, {});\n",
            subject(dress, world, consent),
            stamp(consent.granted),
            consent.withdrawn.map_or("NULL".to_owned(), stamp)
        );
    }
    sql
}

/// Erasures of the past: they are asked for at their time, before there are rows.
fn erasures(dress: &Dress, world: &World) -> String {
    if world.policy.erasures.is_empty() {
        return String::new();
    }
    let mut sql =
        "SELECT set_config('test.offset', current_setting('custodian.clock_offset'), true);\n"
            .to_owned();
    for erasure in &world.policy.erasures {
        sql += &format!(
            "SET LOCAL custodian.clock_offset = '{}s';\nSELECT custodian.erase_subject('{}', {}, 'earlier request');\n",
            offset(erasure.at),
            local(&dress.schema, &erasure.kind),
            dress.subject(world, &erasure.kind, &erasure.key)
        );
    }
    sql + "SELECT set_config('custodian.clock_offset', current_setting('test.offset'), true);\n"
}

/// Kind and key of a consent's subject, and its purpose.
fn subject(dress: &Dress, world: &World, consent: &Consent) -> String {
    format!(
        "{}, {}, {}",
        quote_literal(&local(&dress.schema, &consent.kind)),
        dress.subject(world, &consent.kind, &consent.key),
        quote_literal(&local(&dress.schema, &consent.purpose))
    )
}

/// A call that places the hold and gives its number.
pub fn place(dress: &Dress, world: &World, hold: &Hold) -> String {
    let scope = match hold {
        Hold::Subject { kind, key } => format!(
            "subject_kind => '{}', subject_key => {}",
            local(&dress.schema, kind),
            dress.subject(world, kind, key)
        ),
        Hold::Table { table } => format!("rel => '{}'", relation(dress, world, *table)),
        Hold::Rows { table, matching } => {
            let columns: Vec<String> = matching
                .iter()
                .map(|(column, values)| {
                    let values: Vec<String> =
                        values.iter().map(|value| format!("\"{value}\"")).collect();
                    format!("\"{column}\":[{}]", values.join(","))
                })
                .collect();
            format!(
                "rel => '{}', match => '{{{}}}'",
                relation(dress, world, *table),
                columns.join(",")
            )
        }
    };
    format!(
        "SELECT custodian.place_hold('{}', approver => 'counsel', review_on => '2099-01-01', reason => 'suit', {scope})",
        dress.schema
    )
}

/// Whether rows of the table can refer to each other, also over other tables.
fn is_circular(world: &World, table: usize) -> bool {
    let mut reached = vec![table];
    let mut next = 0;
    while let Some(child) = reached.get(next).copied() {
        for key in world.foreign_keys.iter().filter(|key| key.child == child) {
            if key.parent == table {
                return true;
            }
            if !reached.contains(&key.parent) {
                reached.push(key.parent);
            }
        }
        next += 1;
    }
    false
}

/// Some tables and partitions belong to another role. Tables in a circle keep one owner: otherwise rows that refer to
/// each other stay.
fn owners(dress: &Dress, world: &World) -> String {
    let schema = &dress.schema;
    let mut sql = format!("GRANT USAGE ON SCHEMA {schema} TO counsel;\n");
    let number: usize = schema.trim_start_matches('r').parse().unwrap_or(0);
    for at in 0..world.tables.len() {
        let mut root = at;
        while let Some(above) = world.tables[root].above {
            root = above;
        }
        if is_circular(world, root) {
            continue;
        }
        let name = relation(dress, world, at);
        if (number + at).is_multiple_of(3) {
            sql += &format!("ALTER TABLE {name} OWNER TO counsel;\n");
        }
        if is_divided(dress, world, at) && (number + at).is_multiple_of(2) {
            sql += &format!("ALTER TABLE {name}_hi OWNER TO counsel;\n");
        }
    }
    // Whoever owns a table loses with it what was granted before.
    sql + &format!("GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO app, counsel;\n")
}

/// Everything but the holds.
pub fn create(dress: &Dress, world: &World) -> String {
    let rows: String = world
        .rows
        .iter()
        .map(|row| insert(dress, world, row))
        .collect();
    format!(
        "CREATE SCHEMA {} AUTHORIZATION app;\nSET ROLE app;\n{}RESET ROLE;\n{}{}{}SET ROLE app;\n{rows}{}RESET ROLE;\n{}",
        dress.schema,
        tables(dress, world),
        policy(dress, world),
        labels(dress, world),
        erasures(dress, world),
        foreign_keys(dress, world),
        owners(dress, world),
    )
}

/// The relation by which users reach the row.
fn named(dress: &Dress, world: &World, row: &Row) -> String {
    relation(dress, world, dress.named(world, row.table, row.value("id")))
}

/// The condition that finds the row.
fn is_row(dress: &Dress, world: &World, row: &Row) -> String {
    let id = dress.literal(world, row.table, "id", Kind::Key, row.value("id"));
    format!("id = {id}")
}

/// A change of rows or of the policy, but for holds and the passing of time.
pub fn change(dress: &Dress, world: &World, change: &Change) -> Option<String> {
    let sql = match change {
        Change::Period(name, period) => {
            let purpose = &world.policy.purposes[name];
            let basis = if purpose.consent_based {
                "consent"
            } else {
                "contract"
            };
            format!(
                "SELECT custodian.define_purpose('{}', '{basis}', {}, 'cn', {})",
                local(&dress.schema, name),
                interval(*period),
                purpose.required
            )
        }
        Change::End(name) => format!(
            "SELECT custodian.end_purpose('{}')",
            local(&dress.schema, name)
        ),
        Change::Update(at, column, value) => {
            let row = &world.rows[*at];
            let kind = world.tables[row.table]
                .column(column)
                .map(|column| column.kind)?;
            let mut changed = row.clone();
            changed.values.insert(column.clone(), value.clone());
            let name = column.split('.').next().unwrap_or_default();
            let (written, as_kind) = dress.written(world, row.table, name, kind);
            let value = match kind {
                Kind::Path => document(&changed, name),
                _ => dress.literal(world, row.table, column, as_kind, value),
            };
            format!(
                "UPDATE {} SET {written} = {value} WHERE {}",
                named(dress, world, row),
                is_row(dress, world, row)
            )
        }
        Change::Insert(row) => insert(dress, world, row),
        Change::Delete(at) => {
            let row = &world.rows[*at];
            format!(
                "DELETE FROM {} WHERE {}",
                named(dress, world, row),
                is_row(dress, world, row)
            )
        }
        Change::Consent(consent) => {
            format!(
                "SELECT custodian.record_consent({})",
                subject(dress, world, consent)
            )
        }
        Change::Withdraw(at) => format!(
            "SELECT custodian.withdraw_consent({})",
            subject(dress, world, &world.policy.consents[*at])
        ),
        Change::Erase(kind, key) => format!(
            "SELECT count(*) FROM custodian.erase_subject('{}', {}, 'request')",
            local(&dress.schema, kind),
            dress.subject(world, kind, key)
        ),
        Change::Suspend(name) => {
            format!(
                "SELECT custodian.suspend_defence('{}')",
                local(&dress.schema, name)
            )
        }
        Change::Resume(name) => {
            format!(
                "SELECT custodian.resume_defence('{}')",
                local(&dress.schema, name)
            )
        }
        change => {
            return structure::change(dress, world, change)
                .or_else(|| relabel::change(dress, world, change));
        }
    };
    Some(sql)
}
