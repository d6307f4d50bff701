//! The columns of relations, with what of types and constraints matters to methods. A few small queries, put together here: to
//! plan one over all of these catalogs takes longer than a small sweep.

use std::collections::{BTreeMap, BTreeSet};

use super::{flag, oids, rel, text};
use crate::error::{Error, Kind, Result};
use crate::pg::fresh::{self, Row, Seen};
use crate::policy::model::{Column, Ident, RelId, TypeClass};

const ATTRIBUTES: &str = "
    SELECT a.attrelid, a.attnum, a.attname, quote_ident(a.attname), a.atttypid, a.atttypmod,
           format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated <> '', a.attidentity <> ''
    FROM pg_attribute a
    WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attrelid, a.attnum";

/// Types, and those below them where they are domains; whether a constraint of a domain looks at the value.
const TYPES: &str = "
    WITH RECURSIVE domain AS (
        SELECT t.oid AS top, t.oid, t.typtype, t.typbasetype, t.typnotnull, t.typtypmod, t.typname, t.typcategory
        FROM pg_type t WHERE t.oid = ANY ($1)
        UNION ALL
        SELECT d.top, t.oid, t.typtype, t.typbasetype, t.typnotnull, t.typtypmod, t.typname, t.typcategory
        FROM domain d JOIN pg_type t ON d.typtype = 'd' AND t.oid = d.typbasetype
    )
    SELECT d.top, d.typtype = 'd', d.typname, d.typcategory, d.typnotnull, d.typtypmod,
           d.typtype = 'd' AND EXISTS (SELECT FROM pg_constraint c WHERE c.contypid = d.oid AND c.contype = 'c')
    FROM domain d";

/// What columns take part in: (u)nique indexes, with whether nulls are equal there; (f)oreign keys, with whether no method may
/// change them by themselves; (c)hecks; (p)artition keys; and with which an (i)ndex begins.
const PARTS: &str = "
    SELECT i.indrelid, k.attnum, 'u', i.indnullsnotdistinct
    FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, position)
    WHERE (i.indisunique OR i.indisexclusion) AND k.position <= i.indnkeyatts AND i.indrelid = ANY ($1)
    UNION ALL
    -- Columns that expressions and predicates of such an index read.
    SELECT i.indrelid, d.refobjsubid, 'u', false
    FROM pg_index i
    JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                    AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid > 0
    WHERE (i.indisunique OR i.indisexclusion) AND i.indrelid = ANY ($1)
    UNION ALL
    SELECT c.conrelid, k.attnum, 'f', c.confmatchtype = 'f' AND cardinality(c.conkey) > 1
    FROM pg_constraint c, unnest(c.conkey) AS k (attnum)
    WHERE c.contype = 'f' AND c.conrelid = ANY ($1)
    UNION ALL
    SELECT c.confrelid, k.attnum, 'f', true
    FROM pg_constraint c, unnest(c.confkey) AS k (attnum)
    WHERE c.contype = 'f' AND c.confrelid = ANY ($1)
    UNION ALL
    SELECT c.conrelid, k.attnum, 'c', false
    FROM pg_constraint c, unnest(c.conkey) AS k (attnum)
    WHERE c.contype = 'c' AND c.conrelid = ANY ($1)
    UNION ALL
    SELECT p.partrelid, k.attnum, 'p', false
    FROM pg_partitioned_table p, unnest(p.partattrs::int2[]) AS k (attnum)
    WHERE p.partrelid = ANY ($1)
    UNION ALL
    -- Columns that an expression of a partition key reads.
    SELECT d.objid, d.refobjsubid, 'p', false
    FROM pg_partitioned_table p
    JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = p.partrelid AND d.objsubid = 0
                    AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.partrelid AND d.refobjsubid > 0
    WHERE p.partrelid = ANY ($1)
    UNION ALL
    SELECT i.indrelid, i.indkey[0], 'i', false
    FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_am m ON m.oid = c.relam AND m.amname = 'btree'
    WHERE i.indisvalid AND i.indpred IS NULL AND i.indrelid = ANY ($1)";

/// A column of one relation.
struct Attribute {
    attnum: i16,
    name: String,
    quoted: String,
    type_oid: u32,
    typmod: i32,
    type_name: String,
    not_null: bool,
    generated: bool,
    identity: bool,
}

/// A type with what domains add to it.
#[derive(Default)]
struct Type {
    /// The type below all domains, and its category.
    base: Option<(String, String)>,
    not_null: bool,
    typmod: i32,
    checked: bool,
}

/// What one column of one relation takes part in.
#[derive(Clone, Copy, Default)]
struct Parts {
    unique: bool,
    nulls_equal: bool,
    foreign: bool,
    bound: bool,
    checked: bool,
    partition: bool,
    indexed: bool,
}

fn read(sql: &str, ids: impl IntoIterator<Item = u32>) -> Result<Vec<Row>> {
    fresh::looked_up(sql, &[oids(ids).into()], Seen::Everything, 0)
}

fn attributes(members: &BTreeSet<RelId>) -> Result<BTreeMap<RelId, Vec<Attribute>>> {
    let mut attributes: BTreeMap<RelId, Vec<Attribute>> = BTreeMap::new();
    for row in &read(ATTRIBUTES, members.iter().copied())? {
        attributes.entry(rel(row, 0)?).or_default().push(Attribute {
            attnum: fresh::number(row, 1)?,
            name: text(row, 2)?,
            quoted: text(row, 3)?,
            type_oid: fresh::number(row, 4)?,
            typmod: fresh::number(row, 5)?,
            type_name: text(row, 6)?,
            not_null: flag(row, 7)?,
            generated: flag(row, 8)?,
            identity: flag(row, 9)?,
        });
    }
    Ok(attributes)
}

fn types(ids: BTreeSet<u32>) -> Result<BTreeMap<u32, Type>> {
    let mut types: BTreeMap<u32, Type> = BTreeMap::new();
    for row in &read(TYPES, ids)? {
        let known = types.entry(rel(row, 0)?).or_insert_with(|| Type {
            typmod: -1,
            ..Type::default()
        });
        if !flag(row, 1)? {
            known.base = Some((text(row, 2)?, text(row, 3)?));
        }
        known.not_null |= flag(row, 4)?;
        known.typmod = known.typmod.max(fresh::number(row, 5)?);
        known.checked |= flag(row, 6)?;
    }
    Ok(types)
}

fn parts(members: &BTreeSet<RelId>) -> Result<BTreeMap<(RelId, i16), Parts>> {
    let mut parts: BTreeMap<(RelId, i16), Parts> = BTreeMap::new();
    for row in &read(PARTS, members.iter().copied())? {
        let of = parts
            .entry((rel(row, 0)?, fresh::number(row, 1)?))
            .or_default();
        let more = flag(row, 3)?;
        match fresh::must(row, 2)? {
            "u" => {
                of.unique = true;
                of.nulls_equal |= more;
            }
            "f" => {
                of.foreign = true;
                of.bound |= more;
            }
            "c" => of.checked = true,
            "p" => of.partition = true,
            _ => of.indexed = true,
        }
    }
    Ok(parts)
}

/// The columns of each relation; a constraint on one of the same name of any of its `family` (itself, its ancestors and
/// descendants) counts. `class` tells of a type by its name, category and modifier.
pub fn columns(
    relations: &[RelId],
    family: impl Fn(RelId) -> Vec<RelId>,
    class: impl Fn(&str, &str, i32) -> TypeClass,
) -> Result<BTreeMap<RelId, Vec<Column>>> {
    let families: BTreeMap<RelId, BTreeSet<RelId>> = relations
        .iter()
        .map(|relation| (*relation, family(*relation).into_iter().collect()))
        .collect();
    let members: BTreeSet<RelId> = families.values().flatten().copied().collect();
    let attributes = attributes(&members)?;
    let all = attributes.values().flatten();
    let types = types(all.map(|attribute| attribute.type_oid).collect())?;
    let parts = parts(&members)?;
    let mut found = BTreeMap::new();
    for (relation, family) in &families {
        let mut columns = Vec::new();
        for own in attributes.get(relation).into_iter().flatten() {
            let known = types.get(&own.type_oid);
            let Some((known, (base, category))) =
                known.and_then(|known| Some((known, known.base.as_ref()?)))
            else {
                // It was changed between the queries: without the column a plan would be another.
                return Err(Error::new(
                    Kind::LockNotAvailable,
                    format!("the type of column {} is being changed", own.quoted),
                )
                .hint("Try again."));
            };
            let typmod = if known.typmod >= 0 {
                known.typmod
            } else {
                own.typmod
            };
            let ident = Ident {
                name: own.name.clone(),
                quoted: own.quoted.clone(),
            };
            let class = class(base, category, typmod);
            let mut column = Column {
                base: base.clone(),
                typmod,
                ..Column::plain(ident, own.attnum, &own.type_name, class)
            };
            for member in family {
                let mut same = attributes.get(member).into_iter().flatten();
                if let Some(same) = same.find(|same| same.name == own.name) {
                    let parts = parts.get(&(*member, same.attnum)).copied();
                    add(&mut column, same, types.get(&same.type_oid), parts);
                }
            }
            columns.push(column);
        }
        if !columns.is_empty() {
            found.insert(*relation, columns);
        }
    }
    Ok(found)
}

/// Adds what holds for the column in one relation of the family.
fn add(column: &mut Column, same: &Attribute, known: Option<&Type>, parts: Option<Parts>) {
    let Some(known) = known.filter(|known| known.base.is_some()) else {
        return;
    };
    let parts = parts.unwrap_or_default();
    column.not_null |= same.not_null || known.not_null;
    column.generated |= same.generated;
    column.identity |= same.identity;
    column.in_unique |= parts.unique;
    column.unique_nulls_equal |= parts.nulls_equal;
    column.in_foreign_key |= parts.foreign && !parts.bound;
    column.referenced |= parts.bound;
    column.in_check |= parts.checked || known.checked;
    column.in_partition_key |= parts.partition;
    column.indexed |= parts.indexed;
}
