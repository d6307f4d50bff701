//! Rows reached over foreign keys: the chain of keys, and the subselect that walks it.

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::pg::fresh::{self, Seen};
use crate::pg::{inherit, relation};
use crate::policy::foreign_code;
use crate::tag::names;

/// A foreign key, with names for everything, quoted by the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub constraint: pg_sys::Oid,
    pub name: String,
    pub child: pg_sys::Oid,
    pub parent: pg_sys::Oid,
    /// Plain names, in the key's order.
    pub columns: Vec<String>,
    pub parent_columns: Vec<String>,
    /// `OPERATOR(schema.=)` for each pair, the parent's column on its left.
    pub operators: Vec<String>,
}

const KEYS: &str = "SELECT c.conname, c.conrelid, c.confrelid, \
    (SELECT pg_catalog.json_agg(a.attname ORDER BY k.n) FROM pg_catalog.unnest(c.conkey) WITH ORDINALITY k(num, n) \
     JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.num), \
    (SELECT pg_catalog.json_agg(a.attname ORDER BY k.n) FROM pg_catalog.unnest(c.confkey) WITH ORDINALITY k(num, n) \
     JOIN pg_catalog.pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.num), \
    (SELECT pg_catalog.json_agg(pg_catalog.concat('OPERATOR(', pg_catalog.quote_ident(n.nspname), '.', o.oprname, ')') ORDER BY k.n) \
     FROM pg_catalog.unnest(c.conpfeqop) WITH ORDINALITY k(num, n) \
     JOIN pg_catalog.pg_operator o ON o.oid = k.num JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace) \
    , c.oid FROM pg_catalog.pg_constraint c ";

fn keys(condition: &str, relation: pg_sys::Oid) -> Result<Vec<Key>> {
    fresh::rows(
        &format!("{KEYS}{condition}"),
        &[relation.into()],
        Seen::Everything,
        0,
    )?
    .iter()
    .map(|row| {
        Ok(Key {
            constraint: fresh::oid(row, 6)?,
            name: fresh::must(row, 0)?.to_owned(),
            child: fresh::oid(row, 1)?,
            parent: fresh::oid(row, 2)?,
            columns: fresh::json(row, 3)?,
            parent_columns: fresh::json(row, 4)?,
            operators: fresh::json(row, 5)?,
        })
    })
    .collect()
}

/// The foreign keys that a relation itself declares or has from the table it is a partition of, without the copies that
/// lead to the partitions of the table it refers to.
pub fn of_child(child: pg_sys::Oid) -> Result<Vec<Key>> {
    keys(
        "LEFT JOIN pg_catalog.pg_constraint up ON up.oid = c.conparentid \
         WHERE c.contype = 'f' AND c.conrelid = $1 AND up.conrelid IS DISTINCT FROM c.conrelid ORDER BY c.conname",
        child,
    )
}

/// The foreign keys that refer to a relation, without the copies that partitions of the referring table have.
/// Found through the triggers that enforce them, since the catalog has no index for this question.
pub fn of_parent(parent: pg_sys::Oid) -> Result<Vec<Key>> {
    keys(
        "LEFT JOIN pg_catalog.pg_constraint up ON up.oid = c.conparentid \
         WHERE c.contype = 'f' AND c.confrelid = $1 AND up.confrelid IS DISTINCT FROM c.confrelid \
         AND c.oid IN (SELECT t.tgconstraint FROM pg_catalog.pg_trigger t WHERE t.tgrelid = $1) \
         ORDER BY c.oid",
        parent,
    )
}

/// What a foreign key does to the rows that refer to one that goes or changes its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// The server looks at each of them, and deletes or changes it or refuses: their own guard sees it.
    Seen,
    /// The key's columns are emptied.
    Emptied,
    /// The key's columns follow.
    Moved,
    /// It may leave them as they are.
    Unsure,
}

/// What a key does on deletion and on change of its parent's row, unless triggers of foreign keys do not fire
/// at all. Disabled triggers, and triggers and rules of the referring tables that can make the server pass a
/// row over, leave it unsure.
pub fn reactions(key: &Key) -> Result<(Reaction, Reaction)> {
    let mut tree = vec![key.child];
    tree.extend(inherit::descendants(key.child));
    let rows = fresh::rows(
        "SELECT c.confdeltype, c.confupdtype, \
         (EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgconstraint = c.oid AND t.tgenabled NOT IN ('O', 'A')) \
          OR EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = ANY ($2) AND NOT t.tgisinternal \
                     AND t.tgtype::int & 3 = 3) \
          OR EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class = ANY ($2)))::int \
         FROM pg_catalog.pg_constraint c WHERE c.oid = $1",
        &[key.constraint.into(), tree.into()],
        Seen::Everything,
        1,
    )?;
    let Some(row) = rows.first() else {
        return Ok((Reaction::Unsure, Reaction::Unsure));
    };
    if fresh::number::<i32>(row, 2)? != 0 {
        return Ok((Reaction::Unsure, Reaction::Unsure));
    }
    let reaction = |code: &str, on_delete: bool| match code {
        "a" | "r" => Reaction::Seen,
        "c" if on_delete => Reaction::Seen,
        "c" => Reaction::Moved,
        _ => Reaction::Emptied,
    };
    Ok((
        reaction(fresh::must(row, 0)?, true),
        reaction(fresh::must(row, 1)?, false),
    ))
}

/// Where a value is found: in columns of the row itself (`hops` empty), or of one reached over foreign keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub hops: Vec<Key>,
    pub columns: Vec<String>,
    /// The foreign keys without which it could not be said where the value is.
    pub keys: Vec<pg_sys::Oid>,
    /// The tables on the way belong to several owners: each is read as its own.
    pub apart: bool,
}

impl Source {
    /// Over these keys to these columns.
    pub fn new(hops: Vec<Key>, columns: Vec<String>) -> Result<Source> {
        let parents = hops.iter().map(|hop| hop.parent);
        let apart = match hops.first() {
            Some(first) => {
                let owner = relation::owner(first.parent)?;
                !foreign_code::strangers(owner, parents)?.is_empty()
            }
            None => false,
        };
        Ok(Source {
            keys: hops.iter().map(|hop| hop.constraint).collect(),
            hops,
            columns,
            apart,
        })
    }

    /// The columns of the row itself that decide.
    pub fn own_columns(&self) -> &[String] {
        self.hops.first().map_or(&self.columns, |hop| &hop.columns)
    }

    /// `SELECT expressions FROM …`: the row at the end of the chain, whose alias is the last of `h0`, `h1`, …
    /// `first` are the SQL forms of the first key's columns in the row.
    pub fn subselect(&self, first: &[String], expressions: &str) -> Result<String> {
        let mut from = String::new();
        let mut condition = String::new();
        for (index, hop) in self.hops.iter().enumerate() {
            let table = relation::qualified(hop.parent)?.ok_or_else(|| gone(&hop.name))?;
            let mut pairs = Vec::new();
            for (position, ((parent, child), operator)) in hop
                .parent_columns
                .iter()
                .zip(&hop.columns)
                .zip(&hop.operators)
                .enumerate()
            {
                let child = if index == 0 {
                    first
                        .get(position)
                        .cloned()
                        .ok_or_else(|| gone(&hop.name))?
                } else {
                    format!("h{}.{}", index - 1, relation::quote_identifier(child)?)
                };
                pairs.push(format!(
                    "h{index}.{} {operator} {child}",
                    relation::quote_identifier(parent)?
                ));
            }
            let pairs = pairs.join(" AND ");
            if index == 0 {
                from = format!("{} AS h0", table.quoted);
                condition = pairs;
            } else {
                from.push_str(&format!(" JOIN {} AS h{index} ON {pairs}", table.quoted));
            }
        }
        Ok(format!(
            "SELECT {expressions} FROM {from} WHERE {condition}"
        ))
    }

    /// The alias of the row at the end of the chain.
    pub fn last_alias(&self) -> String {
        format!("h{}", self.hops.len().saturating_sub(1))
    }
}

fn gone(name: &str) -> Error {
    Error::new(
        Kind::NotInPrerequisiteState,
        format!("foreign key \"{name}\", over which a tag reaches another table, is not there"),
    )
    .hint("Correct the tag: custodian.check() names it.")
}

/// Finds a clock from a relation as the compiler does: `column`, or one reached over foreign keys, each named by its
/// own name, or else by the table it leads to, or else by the single column that it is on, where only one does.
pub fn clock(start: pg_sys::Oid, path: &str) -> Result<Source> {
    if relation::column_number(start, path).is_some_and(|attnum| attnum > 0) {
        return Source::new(Vec::new(), vec![path.to_owned()]);
    }
    let mut parts = names::clock_path(path).map_err(|_| gone(path))?;
    let column = parts.pop().unwrap_or_default();
    let mut hops = Vec::new();
    let mut at = start;
    for name in parts {
        let key = key_named(at, &name)?.ok_or_else(|| gone(&name))?;
        at = key.parent;
        hops.push(key);
    }
    Source::new(hops, vec![column])
}

fn key_named(child: pg_sys::Oid, name: &str) -> Result<Option<Key>> {
    let (mut by_table, mut by_column): (Vec<Key>, Vec<Key>) = (Vec::new(), Vec::new());
    for relation in std::iter::once(child).chain(inherit::ancestors(child)) {
        for key in of_child(relation)? {
            if key.name == name {
                return Ok(Some(key));
            }
            let list = if relation::plain_name(key.parent).as_deref() == Some(name) {
                &mut by_table
            } else if matches!(key.columns.as_slice(), [column] if column == name) {
                &mut by_column
            } else {
                continue;
            };
            // A partition has the keys of its parents as copies.
            if !list
                .iter()
                .any(|known| known.parent == key.parent && known.columns == key.columns)
            {
                list.push(key);
            }
        }
    }
    let mut found = if by_table.is_empty() {
        by_column
    } else {
        by_table
    };
    // Of several it is not told which one is meant.
    Ok(found.pop().filter(|_| found.is_empty()))
}

/// The foreign key of a relation, or of what it is a partition of, over exactly these columns, whose parent
/// satisfies `accept`.
pub fn key_over(
    child: pg_sys::Oid,
    columns: &[String],
    accept: impl Fn(pg_sys::Oid) -> Result<bool>,
) -> Result<Option<Key>> {
    let mut wanted: Vec<&String> = columns.iter().collect();
    wanted.sort();
    for relation in std::iter::once(child).chain(inherit::ancestors(child)) {
        for key in of_child(relation)? {
            let mut has: Vec<&String> = key.columns.iter().collect();
            has.sort();
            if has == wanted && accept(key.parent)? {
                return Ok(Some(key));
            }
        }
    }
    Ok(None)
}
