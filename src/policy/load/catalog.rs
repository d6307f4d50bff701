//! The schema as plans see it, from the catalogs.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::Forest;
use super::{Relabelled, columns, flag, oids, rel, rows, text};
use crate::error::{Error, Result};
use crate::pg::fresh::{self, Row, Seen};
use crate::policy::model::{
    Finding, ForeignKey, Ident, Leaf, OnDelete, RelId, Schema, Severity, Table, TypeClass,
};
use crate::tag::effective;
use crate::tag::grammar::{self, ColumnLabel, TableTag};
use crate::tag::target::Label;

/// A relation's own labels.
#[derive(Clone, Debug, Default)]
struct Own {
    table: Option<TableTag>,
    columns: BTreeMap<String, ColumnLabel>,
    unreadable_table: Option<String>,
    unreadable: BTreeMap<String, String>,
}

impl Own {
    /// Whether it asks for decisions; a column that was merely cleared does not.
    fn is_tag(&self) -> bool {
        self.table.is_some()
            || self.unreadable_table.is_some()
            || !self.unreadable.is_empty()
            || self
                .columns
                .values()
                .any(|label| matches!(label, ColumnLabel::Tag(_)))
    }
}

/// A relation's name, kind and owner.
struct Relation {
    ident: Ident,
    kind: String,
    owner: u32,
}

fn labels(changed: &Relabelled) -> Result<BTreeMap<RelId, Own>> {
    let known = rows(
        "SELECT l.objoid, a.attname, l.label
         FROM pg_seclabel l
         JOIN pg_class c ON c.oid = l.objoid AND c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
         LEFT JOIN pg_attribute a ON a.attrelid = l.objoid AND a.attnum = l.objsubid AND l.objsubid > 0
         WHERE l.provider = 'custodian' AND l.classoid = 'pg_class'::regclass
           AND (l.objsubid = 0 OR NOT a.attisdropped)",
    )?;
    let mut labels: BTreeMap<RelId, Own> = BTreeMap::new();
    for row in &known {
        let own = labels.entry(rel(row, 0)?).or_default();
        let label = fresh::must(row, 2)?;
        match row.get(1).cloned().flatten() {
            None => match grammar::parse_table(label) {
                Ok(tag) => own.table = Some(tag),
                Err(error) => own.unreadable_table = Some(error.to_string()),
            },
            Some(column) => match grammar::parse_column(label) {
                Ok(label) => {
                    own.columns.insert(column, label);
                }
                Err(error) => {
                    own.unreadable.insert(column, error.to_string());
                }
            },
        }
    }
    for ((relation, column), label) in changed {
        let own = labels.entry(*relation).or_default();
        match (column, label) {
            (None, Some(Label::Table(tag))) => own.table = Some(tag.clone()),
            (None, _) => own.table = None,
            (Some(column), Some(Label::Column(label))) => {
                own.columns.insert(column.clone(), label.clone());
            }
            (Some(column), _) => {
                own.columns.remove(column);
            }
        }
        match column {
            None => own.unreadable_table = None,
            Some(column) => {
                own.unreadable.remove(column);
            }
        }
    }
    Ok(labels)
}

fn forest() -> Result<Forest> {
    let pairs = rows(
        "SELECT i.inhrelid, i.inhparent FROM pg_inherits i
         JOIN pg_class c ON c.oid = i.inhrelid AND c.relkind IN ('r', 'p', 'f')
         ORDER BY i.inhrelid, i.inhseqno",
    )?;
    let pairs: Vec<(RelId, RelId)> = pairs
        .iter()
        .map(|row| Ok((rel(row, 0)?, rel(row, 1)?)))
        .collect::<Result<_>>()?;
    Ok(Forest::new(pairs))
}

/// A column list: pairs of a name and its quoted form, as JSON.
fn idents(row: &Row, column: usize) -> Result<Vec<Ident>> {
    let names: Vec<(String, String)> = fresh::json(row, column)?;
    Ok(names
        .into_iter()
        .map(|(name, quoted)| Ident { name, quoted })
        .collect())
}

fn foreign_keys() -> Result<Vec<ForeignKey>> {
    let known = rows(
        "SELECT c.conname,
                c.conrelid, cn.nspname || '.' || cr.relname, format('%I.%I', cn.nspname, cr.relname), cr.relkind = 'p',
                c.confrelid, pn.nspname || '.' || pr.relname, format('%I.%I', pn.nspname, pr.relname), pr.relkind = 'p',
                (SELECT json_agg(json_build_array(a.attname, quote_ident(a.attname)) ORDER BY k.n)
                 FROM unnest(c.conkey) WITH ORDINALITY AS k (attnum, n)
                 JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum),
                (SELECT json_agg(json_build_array(a.attname, quote_ident(a.attname)) ORDER BY k.n)
                 FROM unnest(c.confkey) WITH ORDINALITY AS k (attnum, n)
                 JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum),
                (SELECT json_agg(format('OPERATOR(%I.%s)', n.nspname, o.oprname) ORDER BY k.n)
                 FROM unnest(c.conpfeqop) WITH ORDINALITY AS k (operator, n)
                 JOIN pg_operator o ON o.oid = k.operator
                 JOIN pg_namespace n ON n.oid = o.oprnamespace),
                c.confdeltype
         FROM pg_constraint c
         JOIN pg_class cr ON cr.oid = c.conrelid
         JOIN pg_namespace cn ON cn.oid = cr.relnamespace
         JOIN pg_class pr ON pr.oid = c.confrelid
         JOIN pg_namespace pn ON pn.oid = pr.relnamespace
         WHERE c.contype = 'f' AND c.conparentid = 0
         ORDER BY 3, 1, 7",
    )?;
    known
        .iter()
        .map(|row| {
            Ok(ForeignKey {
                name: text(row, 0)?,
                child: rel(row, 1)?,
                child_ident: Ident {
                    name: text(row, 2)?,
                    quoted: text(row, 3)?,
                },
                child_partitioned: flag(row, 4)?,
                parent: rel(row, 5)?,
                parent_ident: Ident {
                    name: text(row, 6)?,
                    quoted: text(row, 7)?,
                },
                parent_partitioned: flag(row, 8)?,
                columns: idents(row, 9)?,
                parent_columns: idents(row, 10)?,
                operators: fresh::json(row, 11)?,
                on_delete: match fresh::must(row, 12)? {
                    "r" => OnDelete::Restrict,
                    "c" => OnDelete::Cascade,
                    "n" => OnDelete::SetNull,
                    "d" => OnDelete::SetDefault,
                    _ => OnDelete::NoAction,
                },
            })
        })
        .collect()
}

fn relations(ids: &BTreeSet<RelId>) -> Result<BTreeMap<RelId, Relation>> {
    let known = fresh::looked_up(
        "SELECT c.oid, n.nspname || '.' || c.relname, format('%I.%I', n.nspname, c.relname), c.relkind, c.relowner
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1)",
        &[oids(ids.iter().copied()).into()],
        Seen::Everything,
        0,
    )?;
    known
        .iter()
        .map(|row| {
            Ok((
                rel(row, 0)?,
                Relation {
                    ident: Ident {
                        name: text(row, 1)?,
                        quoted: text(row, 2)?,
                    },
                    kind: text(row, 3)?,
                    owner: rel(row, 4)?,
                },
            ))
        })
        .collect()
}

fn class(base: &str, category: &str, typmod: i32) -> TypeClass {
    let max = (typmod > 4).then(|| typmod - 4);
    match (base, category) {
        ("text", _) => TypeClass::Text { max: None },
        ("varchar" | "bpchar", _) => TypeClass::Text { max },
        ("citext", "S") => TypeClass::Text { max: None },
        ("int2" | "int4" | "int8", _) => TypeClass::Integer,
        ("numeric", _) => TypeClass::Numeric,
        ("float4" | "float8", _) => TypeClass::Float,
        ("bool", _) => TypeClass::Boolean,
        ("date", _) => TypeClass::Date,
        ("timestamp", _) => TypeClass::Timestamp,
        ("timestamptz", _) => TypeClass::TimestampTz,
        ("inet", _) => TypeClass::Inet,
        ("cidr", _) => TypeClass::Cidr,
        ("uuid", _) => TypeClass::Uuid,
        ("bytea", _) => TypeClass::Bytea,
        ("json" | "jsonb", _) => TypeClass::Json,
        (_, "A") => TypeClass::Array,
        _ => TypeClass::Other,
    }
}

fn primary_keys(relations: &[RelId]) -> Result<BTreeMap<RelId, Vec<String>>> {
    let known = fresh::looked_up(
        "SELECT i.indrelid, json_agg(a.attname ORDER BY k.n)
         FROM pg_index i
         CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n)
         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
         WHERE i.indisprimary AND k.n <= i.indnkeyatts AND i.indrelid = ANY ($1)
         GROUP BY i.indrelid",
        &[oids(relations.iter().copied()).into()],
        Seen::Everything,
        0,
    )?;
    known
        .iter()
        .map(|row| Ok((rel(row, 0)?, fresh::json(row, 1)?)))
        .collect()
}

/// The labels in force on a relation: its ancestors' from the top down, then its own, each of which may only
/// tighten what is above it.
fn effective_labels(relation: RelId, forest: &Forest, labels: &BTreeMap<RelId, Own>) -> Own {
    let mut above = forest.above(relation);
    above.reverse();
    above.push(relation);
    let mut merged = Own::default();
    for own in above.iter().filter_map(|relation| labels.get(relation)) {
        merged.table = match (merged.table.take(), &own.table) {
            (Some(parent), Some(child)) => Some(effective::table(&parent, child)),
            (parent, child) => parent.or_else(|| child.clone()),
        };
        for (name, child) in &own.columns {
            let label = match merged.columns.get(name) {
                Some(parent) => effective::column(parent, child),
                None => child.clone(),
            };
            merged.columns.insert(name.clone(), label);
        }
        if own.unreadable_table.is_some() {
            merged.unreadable_table.clone_from(&own.unreadable_table);
        }
        merged.unreadable.extend(own.unreadable.clone());
    }
    merged
}

fn note(table: &mut Table, code: &'static str, object: &str, problem: String, remedy: &str) {
    table.findings.push(Finding {
        severity: Severity::Error,
        code,
        object: object.to_owned(),
        problem,
        remedy: remedy.to_owned(),
    });
}

/// The relations that a foreign key connects with `start`, over any number of steps.
fn connected(
    start: BTreeSet<RelId>,
    tagged: &BTreeSet<RelId>,
    forest: &Forest,
    keys: &[ForeignKey],
) -> BTreeSet<RelId> {
    let mut by_parent: BTreeMap<RelId, Vec<RelId>> = BTreeMap::new();
    let mut by_child: BTreeMap<RelId, Vec<RelId>> = BTreeMap::new();
    for key in keys {
        by_parent.entry(key.parent).or_default().push(key.child);
        by_child.entry(key.child).or_default().push(key.parent);
    }
    let mut found = start.clone();
    let mut open: Vec<RelId> = start.into_iter().collect();
    while let Some(relation) = open.pop() {
        let mut family = forest.above(relation);
        family.extend(forest.below(relation));
        family.push(relation);
        let mut reached: Vec<RelId> = Vec::new();
        for member in &family {
            for next in by_parent
                .get(member)
                .into_iter()
                .chain(by_child.get(member))
                .flatten()
            {
                reached.push(*next);
                reached.extend(forest.governing(*next, tagged));
            }
        }
        open.extend(reached.into_iter().filter(|next| found.insert(*next)));
    }
    found
}

pub fn schema(only: Option<RelId>, changed: &Relabelled) -> Result<Schema> {
    let labels = labels(changed)?;
    let forest = forest()?;
    let tagged: BTreeSet<RelId> = labels
        .iter()
        .filter(|(_, own)| own.is_tag())
        .map(|(relation, _)| *relation)
        .collect();
    let keys = foreign_keys()?;
    let start: BTreeSet<RelId> = match only {
        None => tagged.clone(),
        Some(only) => {
            let mut family = forest.above(only);
            family.extend(forest.below(only));
            family.push(only);
            family.retain(|member| tagged.contains(member));
            family.into_iter().collect()
        }
    };
    let wanted = connected(start, &tagged, &forest, &keys);

    let mut named: BTreeSet<RelId> = wanted.clone();
    for relation in &wanted {
        if tagged.contains(relation) {
            named.extend(forest.below(*relation));
        }
    }
    let relations = relations(&named)?;
    let wanted: Vec<RelId> = wanted
        .into_iter()
        .filter(|relation| relations.contains_key(relation))
        .collect();
    let mut columns = columns::columns(
        &wanted,
        |relation| {
            let mut family = forest.above(relation);
            family.extend(forest.below(relation));
            family.push(relation);
            family
        },
        class,
    )?;
    let mut primary_keys = primary_keys(&wanted)?;

    let mut schema = Schema {
        tables: BTreeMap::new(),
        foreign_keys: keys,
    };
    for relation in &wanted {
        let facts = relations
            .get(relation)
            .ok_or_else(|| Error::internal("a relation vanished while it was read"))?;
        let above = forest.above(*relation);
        let below = forest.below(*relation);
        let mut table = Table {
            id: *relation,
            ident: facts.ident.clone(),
            owner: facts.owner,
            columns: columns.remove(relation).unwrap_or_default(),
            primary_key: primary_keys.remove(relation).unwrap_or_default(),
            tag: None,
            column_tags: BTreeMap::new(),
            leaves: Vec::new(),
            family: std::iter::once(*relation)
                .chain(above.iter().copied())
                .chain(below.iter().copied())
                .collect(),
            above,
            split: below.iter().any(|member| tagged.contains(member)),
            unreadable: BTreeMap::new(),
            refused: crate::policy::model::Refused::default(),
            findings: Vec::new(),
        };
        if tagged.contains(relation) {
            let merged = effective_labels(*relation, &forest, &labels);
            govern(&mut table, merged);
            leaves(&mut table, &below, &relations, &forest, &tagged);
        }
        schema.tables.insert(*relation, table);
    }
    let held: BTreeSet<RelId> = schema
        .tables
        .values()
        .flat_map(|table| table.family.iter().copied())
        .collect();
    schema
        .foreign_keys
        .retain(|key| held.contains(&key.child) || held.contains(&key.parent));
    Ok(schema)
}

/// Puts the labels in force into the table. What cannot be read keeps its column, or with a table's label all
/// of its columns.
fn govern(table: &mut Table, labels: Own) {
    table.unreadable = labels.unreadable;
    for (name, label) in labels.columns {
        let ColumnLabel::Tag(tag) = label else {
            continue;
        };
        match &labels.unreadable_table {
            Some(why) => {
                table
                    .unreadable
                    .insert(name, format!("the label of the table: {why}"));
            }
            None if table.unreadable.contains_key(&name) => {}
            None => {
                table.column_tags.insert(name, tag);
            }
        }
    }
    match labels.unreadable_table {
        None => table.tag = labels.table,
        Some(why) => {
            let object = table.ident.name.clone();
            note(
                table,
                "label-unreadable",
                &object,
                format!("Its label cannot be read: {why}."),
                "Set the tag again with custodian.tag_table().",
            );
        }
    }
}

fn leaves(
    table: &mut Table,
    below: &[RelId],
    relations: &BTreeMap<RelId, Relation>,
    forest: &Forest,
    tagged: &BTreeSet<RelId>,
) {
    let id = table.id;
    for member in std::iter::once(id).chain(below.iter().copied()) {
        let Some(relation) = relations.get(&member) else {
            continue;
        };
        let governing = forest.governing(member, tagged);
        if !governing.contains(&id) || relation.kind == "p" {
            continue;
        }
        let name = relation.ident.name.clone();
        if governing.len() > 1 {
            note(
                table,
                "several-parents",
                &name,
                "It inherits tags from several parents: nothing in it is disposed.".to_owned(),
                "Tag the table itself, which then governs its rows.",
            );
        } else if relation.kind == "f" {
            note(
                table,
                "foreign-table",
                &name,
                "Its rows are on another server: nothing in it is disposed from here.".to_owned(),
                "Dispose of them where they are.",
            );
        } else {
            let mut within = forest.above(member);
            within.insert(0, member);
            table.leaves.push(Leaf {
                id: member,
                ident: relation.ident.clone(),
                owner: relation.owner,
                within,
            });
        }
    }
    table
        .leaves
        .sort_by(|one, other| one.ident.cmp(&other.ident));
}
