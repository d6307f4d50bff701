//! A world of the model as SQL, and back.

use std::collections::BTreeMap;

use integration::{Result, quote_literal};
use postgres::{Client, SimpleQueryMessage};
use retention_model::calendar::{self, HOUR};
use retention_model::change::Change;
use retention_model::world::{Column, Consent, Hold, Kind, OnDelete, Row, Value, World};
use retention_model::{Moment, Period};

use crate::story::offset;

/// Names that are the same in all worlds become names of one schema: those of purposes, laws and kinds of subjects.
pub fn local(schema: &str, name: &str) -> String {
    match name.strip_prefix("m.") {
        Some(rest) => format!("{schema}.{rest}"),
        None => format!("{schema}_{name}"),
    }
}

/// A label with its names made those of the schema.
fn localized(schema: &str, label: &str) -> String {
    label
        .replace("\"m.", &format!("\"{schema}."))
        .replace("\"kind\":\"", &format!("\"kind\":\"{schema}_"))
}

fn relation(schema: &str, world: &World, table: usize) -> String {
    format!("{schema}.{}", world.tables[table].name)
}

fn interval(period: Period) -> String {
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

fn kind_sql(kind: Kind) -> &'static str {
    match kind {
        Kind::Key => "int",
        Kind::Text => "text",
        Kind::Path => "jsonb",
        Kind::Date => "date",
        Kind::Timestamp => "timestamp",
        Kind::TimestampTz => "timestamptz",
    }
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

fn literal(value: &Value, kind: Kind) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Text(text) => quote_literal(text),
        Value::Infinite => "'infinity'".to_owned(),
        Value::Time(moment) if kind == Kind::TimestampTz => stamp(*moment),
        Value::Time(moment) => quote_literal(calendar::text(*moment).trim_end_matches('Z')),
    }
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

fn insert(schema: &str, world: &World, row: &Row) -> String {
    let columns = columns(&world.tables[row.table].columns);
    let values: Vec<String> = columns
        .iter()
        .map(|(name, kind, _)| match kind {
            Kind::Path => document(row, name),
            kind => literal(row.value(name), *kind),
        })
        .collect();
    let names: Vec<&str> = columns.iter().map(|(name, ..)| name.as_str()).collect();
    format!(
        "INSERT INTO {} ({}) VALUES ({});\n",
        relation(schema, world, row.table),
        names.join(", "),
        values.join(", ")
    )
}

/// Tables without their foreign keys. Partitions have their columns in another order, and are attached.
fn tables(schema: &str, world: &World) -> String {
    let mut sql = String::new();
    for (at, table) in world.tables.iter().enumerate() {
        let name = relation(schema, world, at);
        let above = table.above.map(|above| &world.tables[above]);
        let mut items: Vec<String> = columns(&table.columns)
            .into_iter()
            .map(|(name, kind, not_null)| {
                let not_null = if not_null { " NOT NULL" } else { "" };
                format!("{name} {}{not_null}", kind_sql(kind))
            })
            .collect();
        let is_alone = above.is_none() && !world.tables.iter().any(|other| other.above == Some(at));
        if is_alone && at % 2 == 1 {
            items.push("serial int GENERATED ALWAYS AS IDENTITY".to_owned());
        }
        if above.is_some() {
            items.reverse();
        } else if !table.key.is_empty() {
            items.push(format!("PRIMARY KEY ({})", table.key.join(", ")));
        }
        let items = items.join(", ");
        let parent = table.above.map(|above| relation(schema, world, above));
        match (above, parent) {
            (Some(above), Some(parent)) if above.partitioned => {
                let number = at - table.above.unwrap_or_default();
                // The partition's key columns are NOT NULL before it is attached, as the parent's are.
                sql += &format!("CREATE TABLE {name} ({items});\n");
                for column in &above.key {
                    sql += &format!("ALTER TABLE {name} ALTER {column} SET NOT NULL;\n");
                }
                sql += &format!(
                    "ALTER TABLE {parent} ATTACH PARTITION {name} FOR VALUES IN ({number});\n"
                );
            }
            (Some(_), Some(parent)) => {
                sql += &format!("CREATE TABLE {name} () INHERITS ({parent});\n");
            }
            _ if table.partitioned => {
                sql += &format!("CREATE TABLE {name} ({items}) PARTITION BY LIST (k2);\n");
            }
            _ => sql += &format!("CREATE TABLE {name} ({items});\n"),
        }
    }
    sql
}

fn foreign_keys(schema: &str, world: &World) -> String {
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
            relation(schema, world, key.child),
            key.name,
            key.columns.join(", "),
            relation(schema, world, key.parent),
            key.parent_columns.join(", "),
        );
    }
    sql
}

fn labels(schema: &str, world: &World) -> String {
    let mut sql = String::new();
    for (at, table) in world.tables.iter().enumerate() {
        let name = relation(schema, world, at);
        if table.above.is_some() && table.own.is_none() {
            continue;
        }
        if let Some(label) = table.label() {
            let label = quote_literal(&localized(schema, &label));
            sql += &format!("SECURITY LABEL FOR custodian ON TABLE {name} IS {label};\n");
        }
        for (column, label) in table.column_labels() {
            let label = quote_literal(&localized(schema, &label));
            sql += &format!("SECURITY LABEL FOR custodian ON COLUMN {name}.{column} IS {label};\n");
        }
    }
    sql
}

/// The past of the policy is written straight into its tables, for functions give it the present.
fn policy(schema: &str, world: &World) -> String {
    let mut sql = String::new();
    for (name, purpose) in &world.policy.purposes {
        let name = quote_literal(&local(schema, name));
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
            quote_literal(&local(schema, name)),
            interval(minimum.period),
            minimum.defence.is_some()
        );
        for (suspended, resumed) in minimum.defence.iter().flatten() {
            sql += &format!(
                "INSERT INTO custodian.suspension (minimum, suspended_at, resumed_at) VALUES ({}, {}, {});\n",
                quote_literal(&local(schema, name)),
                stamp(*suspended),
                resumed.map_or("NULL".to_owned(), stamp)
            );
        }
    }
    for (name, period) in &world.policy.maximums {
        sql += &format!(
            "INSERT INTO custodian.maximum (name, period, citation) VALUES ({}, {}, 'another law');\n",
            quote_literal(&local(schema, name)),
            interval(*period)
        );
    }
    for consent in &world.policy.consents {
        sql += &format!(
            "INSERT INTO custodian.consent (subject_kind, subject_key, purpose, granted_at, withdrawn_at) VALUES ({}, {}, {});\n",
            subject(schema, consent),
            stamp(consent.granted),
            consent.withdrawn.map_or("NULL".to_owned(), stamp)
        );
    }
    sql
}

/// Erasures of the past: they are asked for at their time, before there are rows.
fn erasures(schema: &str, world: &World) -> String {
    if world.policy.erasures.is_empty() {
        return String::new();
    }
    let mut sql =
        "SELECT set_config('test.offset', current_setting('custodian.clock_offset'), true);\n"
            .to_owned();
    for erasure in &world.policy.erasures {
        sql += &format!(
            "SET LOCAL custodian.clock_offset = '{}s';\nSELECT custodian.erase_subject('{}', '{{{}}}', 'earlier request');\n",
            offset(erasure.at),
            local(schema, &erasure.kind),
            erasure.key.join(",")
        );
    }
    sql + "SELECT set_config('custodian.clock_offset', current_setting('test.offset'), true);\n"
}

/// Kind and key of a consent's subject, and its purpose.
fn subject(schema: &str, consent: &Consent) -> String {
    format!(
        "{}, '{{{}}}', {}",
        quote_literal(&local(schema, &consent.kind)),
        consent.key.join(","),
        quote_literal(&local(schema, &consent.purpose))
    )
}

/// A call that places the hold and gives its number.
pub fn place(schema: &str, world: &World, hold: &Hold) -> String {
    let scope = match hold {
        Hold::Subject { kind, key } => format!(
            "subject_kind => '{}', subject_key => '{{{}}}'",
            local(schema, kind),
            key.join(",")
        ),
        Hold::Table { table } => format!("rel => '{}'", relation(schema, world, *table)),
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
                relation(schema, world, *table),
                columns.join(",")
            )
        }
    };
    format!(
        "SELECT custodian.place_hold('{schema}', approver => 'counsel', review_on => '2099-01-01', reason => 'suit', {scope})"
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
fn owners(schema: &str, world: &World) -> String {
    let mut sql = format!("GRANT USAGE ON SCHEMA {schema} TO counsel;\n");
    let number: usize = schema.trim_start_matches('r').parse().unwrap_or(0);
    for (at, table) in world.tables.iter().enumerate() {
        let root = table.above.unwrap_or(at);
        if !is_circular(world, root) && (number + at).is_multiple_of(3) {
            sql += &format!(
                "ALTER TABLE {} OWNER TO counsel;\n",
                relation(schema, world, at)
            );
        }
    }
    // Whoever owns a table loses with it what was granted before.
    sql + &format!("GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO app, counsel;\n")
}

/// Everything but the holds.
pub fn create(schema: &str, world: &World) -> String {
    let rows: String = world
        .rows
        .iter()
        .map(|row| insert(schema, world, row))
        .collect();
    format!(
        "CREATE SCHEMA {schema} AUTHORIZATION app;\nSET ROLE app;\n{}RESET ROLE;\n{}{}{}SET ROLE app;\n{rows}{}RESET ROLE;\n{}",
        tables(schema, world),
        policy(schema, world),
        labels(schema, world),
        erasures(schema, world),
        foreign_keys(schema, world),
        owners(schema, world),
    )
}

/// A change of rows or of the policy, but for holds and the passing of time.
pub fn change(schema: &str, world: &World, change: &Change) -> Option<String> {
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
                local(schema, name),
                interval(*period),
                purpose.required
            )
        }
        Change::End(name) => format!("SELECT custodian.end_purpose('{}')", local(schema, name)),
        Change::Update(at, column, value) => {
            let row = &world.rows[*at];
            let kind = world.tables[row.table]
                .column(column)
                .map(|column| column.kind)?;
            let mut changed = row.clone();
            changed.values.insert(column.clone(), value.clone());
            let name = column.split('.').next().unwrap_or_default();
            let value = match kind {
                Kind::Path => document(&changed, name),
                kind => literal(value, kind),
            };
            format!(
                "UPDATE {} SET {name} = {value} WHERE id = {}",
                relation(schema, world, row.table),
                literal(row.value("id"), Kind::Key)
            )
        }
        Change::Insert(row) => insert(schema, world, row),
        Change::Delete(at) => format!(
            "DELETE FROM {} WHERE id = {}",
            relation(schema, world, world.rows[*at].table),
            literal(world.rows[*at].value("id"), Kind::Key)
        ),
        Change::Consent(consent) => {
            format!(
                "SELECT custodian.record_consent({})",
                subject(schema, consent)
            )
        }
        Change::Withdraw(at) => format!(
            "SELECT custodian.withdraw_consent({})",
            subject(schema, &world.policy.consents[*at])
        ),
        Change::Erase(kind, key) => format!(
            "SELECT count(*) FROM custodian.erase_subject('{}', '{{{}}}', 'request')",
            local(schema, kind),
            key.join(",")
        ),
        Change::Suspend(name) => {
            format!(
                "SELECT custodian.suspend_defence('{}')",
                local(schema, name)
            )
        }
        Change::Resume(name) => {
            format!("SELECT custodian.resume_defence('{}')", local(schema, name))
        }
        Change::Later(_) | Change::Place(_) | Change::Release(_) => return None,
    };
    Some(sql)
}

/// The rows as they are, in the tables of `world`.
pub fn read(client: &mut Client, schema: &str, world: &World) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (at, table) in world.tables.iter().enumerate() {
        if table.partitioned {
            continue;
        }
        let items: Vec<String> = table
            .columns
            .iter()
            .map(|column| match column.kind {
                Kind::Key | Kind::Text => format!("{}::text", column.name),
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
        let sql = format!(
            "SELECT {} FROM ONLY {} ORDER BY id",
            items.join(", "),
            relation(schema, world, at)
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
