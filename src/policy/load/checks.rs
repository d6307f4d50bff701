//! Whether CHECK constraints and types accept what the methods of tags write, where that can be told before
//! anything is written: for `set_null` and `constant`, which write one value.

use std::collections::BTreeMap;

use pgrx::pg_sys;

use super::{oids, rel, text};
use crate::anonymize::method::Method;
use crate::error::Result;
use crate::pg::fresh::{self, Seen};
use crate::pg::subxact::subtransaction;
use crate::pg::{check, sandbox, spi, xact};
use crate::policy::model::{RelId, Schema};

/// A CHECK constraint that reads a column.
struct Constraint {
    expression: String,
    name: String,
    relation: RelId,
    owner: u32,
    attnum: i16,
    /// It calls nothing that a user made: evaluating it runs the server's own code.
    builtin: bool,
}

/// The CHECK constraints of relations, by relation and column.
fn constraints(relations: &[RelId]) -> Result<BTreeMap<(RelId, String), Vec<Constraint>>> {
    let rows = fresh::rows(
        "SELECT c.conbin::text, c.conname, c.conrelid, r.relowner, a.attnum, a.attname,
                NOT EXISTS (SELECT FROM pg_depend d
                            WHERE d.classid = 'pg_constraint'::regclass AND d.objid = c.oid
                              AND d.refclassid <> 'pg_class'::regclass)
         FROM pg_constraint c
         JOIN pg_class r ON r.oid = c.conrelid
         CROSS JOIN unnest(c.conkey) AS k (attnum)
         JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum
         WHERE c.contype = 'c' AND c.conrelid = ANY ($1)
         ORDER BY c.conname, c.oid",
        &[oids(relations.iter().copied()).into()],
        Seen::Everything,
        0,
    )?;
    let mut found: BTreeMap<(RelId, String), Vec<Constraint>> = BTreeMap::new();
    for row in &rows {
        let relation = rel(row, 2)?;
        found
            .entry((relation, text(row, 5)?))
            .or_default()
            .push(Constraint {
                expression: text(row, 0)?,
                name: text(row, 1)?,
                relation,
                owner: rel(row, 3)?,
                attnum: fresh::number(row, 4)?,
                builtin: super::flag(row, 6)?,
            });
    }
    Ok(found)
}

/// The domains that call something that a user made, or are made of one that does.
fn foreign_domains(types: &[String]) -> Result<Vec<String>> {
    let rows = fresh::rows(
        "WITH RECURSIVE domain AS (
             SELECT t.oid AS top, t.oid, t.typbasetype FROM pg_type t WHERE t.typtype = 'd' AND t.oid::regtype::text = ANY ($1)
             UNION ALL
             SELECT d.top, t.oid, t.typbasetype FROM domain d JOIN pg_type t ON t.oid = d.typbasetype AND t.typtype = 'd'
         )
         SELECT DISTINCT d.top::regtype::text
         FROM domain d
         JOIN pg_constraint c ON c.contypid = d.oid
         JOIN pg_depend p ON p.classid = 'pg_constraint'::regclass AND p.objid = c.oid
                         AND NOT (p.refclassid = 'pg_type'::regclass AND p.refobjid = d.oid)",
        &[types.to_vec().into()],
        Seen::Everything,
        0,
    )?;
    rows.iter().map(|row| text(row, 0)).collect()
}

/// What a type or constraint says to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Accepts,
    Refuses,
    Unknown,
}

/// Whether the type has the value. As the owner of the table, who would write it.
fn type_answers(owner: u32, type_name: &str, value: Option<&str>) -> Answer {
    let value = value.map(str::to_owned);
    let outcome = subtransaction(|| {
        sandbox::as_table_owner(pg_sys::Oid::from(owner), || {
            xact::with_snapshot(|| {
                spi::select(
                    &format!("SELECT ($1::{type_name}) IS NULL"),
                    &[value.into()],
                    |row| row.must::<bool>(1),
                )
            })
        })
    });
    match outcome {
        Ok(_) => Answer::Accepts,
        // Data exceptions and violated constraints.
        Err(caught) if caught.sqlstate.starts_with("22") || caught.sqlstate.starts_with("23") => {
            Answer::Refuses
        }
        Err(_) => Answer::Unknown,
    }
}

fn constraint_answers(constraint: &Constraint, value: Option<&str>) -> Answer {
    if !constraint.builtin {
        return Answer::Unknown;
    }
    let outcome = subtransaction(|| {
        sandbox::as_table_owner(pg_sys::Oid::from(constraint.owner), || {
            xact::with_snapshot(|| {
                check::accepts(
                    &constraint.expression,
                    pg_sys::Oid::from(constraint.relation),
                    constraint.attnum,
                    value,
                )
            })
        })
    });
    match outcome {
        Ok(Some(true)) => Answer::Accepts,
        Ok(Some(false)) => Answer::Refuses,
        Ok(None) | Err(_) => Answer::Unknown,
    }
}

/// Fills in for each tagged column what refuses its method's value, and whether anything is left unsure. Only what
/// the server's own code can tell is asked: nothing that a user made runs here.
pub fn decide(schema: &mut Schema) -> Result<()> {
    let asked =
        |method: Option<&Method>| matches!(method, Some(Method::SetNull | Method::Constant(_)));
    let mut members: Vec<RelId> = Vec::new();
    let mut types: Vec<String> = Vec::new();
    for table in schema.tables.values() {
        for (name, tag) in &table.column_tags {
            let Some(column) = table.column(name).filter(|_| asked(tag.on_expiry.as_ref())) else {
                continue;
            };
            if column.in_check {
                members.extend(&table.family);
            }
            types.push(column.type_name.clone());
        }
    }
    if types.is_empty() {
        return Ok(());
    }
    members.sort_unstable();
    members.dedup();
    let constraints = if members.is_empty() {
        BTreeMap::new()
    } else {
        constraints(&members)?
    };
    let foreign = foreign_domains(&types)?;

    for table in schema.tables.values_mut() {
        for (name, tag) in &table.column_tags {
            let value = match &tag.on_expiry {
                Some(Method::SetNull) => None,
                Some(Method::Constant(text)) => Some(text.as_str()),
                _ => continue,
            };
            let Some(column) = table
                .columns
                .iter_mut()
                .find(|column| column.ident.name == *name)
            else {
                continue;
            };
            if value.is_none() && !column.in_check {
                continue;
            }
            let mut unsure = foreign.contains(&column.type_name);
            if !unsure && type_answers(table.owner, &column.type_name, value) == Answer::Refuses {
                column.refused_by = Some(format!("its type, {},", column.type_name));
            }
            for member in &table.family {
                for constraint in constraints
                    .get(&(*member, name.clone()))
                    .into_iter()
                    .flatten()
                {
                    match constraint_answers(constraint, value) {
                        Answer::Accepts => {}
                        Answer::Unknown => unsure = true,
                        Answer::Refuses => {
                            column.refused_by =
                                Some(format!("CHECK constraint \"{}\"", constraint.name));
                        }
                    }
                }
            }
            column.in_check = unsure;
        }
    }
    Ok(())
}
