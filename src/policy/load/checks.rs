//! Whether CHECK constraints and types accept what the methods of tags write, where that can be told before
//! anything is written: for `set_null` and `constant`, which write one value.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pgrx::pg_sys;

use super::{oids, rel, text};
use crate::anonymize::method::Method;
use crate::error::Result;
use crate::pg::fresh::{self, Seen};
use crate::pg::subxact::subtransaction_within;
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
    let rows = fresh::looked_up(
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

/// The domains whose constraints are not evaluated: they call something that a user made, or a function that is not
/// immutable, which could wait or change something.
fn unasked_domains(types: &[String]) -> Result<BTreeSet<String>> {
    let rows = fresh::looked_up(
        "WITH RECURSIVE domain AS (
             SELECT t.oid AS top, t.oid, t.typbasetype FROM pg_type t WHERE t.typtype = 'd' AND t.oid::regtype::text = ANY ($1)
             UNION ALL
             SELECT d.top, t.oid, t.typbasetype FROM domain d JOIN pg_type t ON t.oid = d.typbasetype AND t.typtype = 'd'
         )
         SELECT d.top::regtype::text, c.conbin::text,
                EXISTS (SELECT FROM pg_depend p WHERE p.classid = 'pg_constraint'::regclass AND p.objid = c.oid
                        AND NOT (p.refclassid = 'pg_type'::regclass AND p.refobjid = d.oid))
         FROM domain d
         JOIN pg_constraint c ON c.contypid = d.oid",
        &[types.to_vec().into()],
        Seen::Everything,
        0,
    )?;
    let mut found = BTreeSet::new();
    for row in &rows {
        if super::flag(row, 2)? || !check::is_immutable(fresh::must(row, 1)?)? {
            found.insert(text(row, 0)?);
        }
    }
    Ok(found)
}

/// What a type or constraint says to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Accepts,
    Refuses,
    Unknown,
}

/// How long a worker lets one constraint take, which may be slow although all that it calls is the server's own.
const LIMIT: Duration = Duration::from_secs(1);

/// The SQLSTATE of what took longer.
const CANCELLED: &str = "57014";

/// Owners whose constraints took too long: no more of them are asked until the policy is read again.
type Slow = BTreeSet<u32>;

/// Whether the type has the value. As the owner of the table, who would write it.
fn type_answers(owner: u32, type_name: &str, value: Option<&str>, slow: &mut Slow) -> Answer {
    if slow.contains(&owner) {
        return Answer::Unknown;
    }
    let value = value.map(str::to_owned);
    let outcome = subtransaction_within(LIMIT, || {
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
        Err(caught) => {
            if caught.sqlstate == CANCELLED {
                slow.insert(owner);
            }
            Answer::Unknown
        }
    }
}

fn constraint_answers(constraint: &Constraint, value: Option<&str>, slow: &mut Slow) -> Answer {
    if !constraint.builtin || slow.contains(&constraint.owner) {
        return Answer::Unknown;
    }
    let outcome = subtransaction_within(LIMIT, || {
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
        Ok(None) => Answer::Unknown,
        Err(caught) => {
            if caught.sqlstate == CANCELLED {
                slow.insert(constraint.owner);
            }
            Answer::Unknown
        }
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
    let unasked = unasked_domains(&types)?;
    let mut slow = Slow::new();

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
            // Reading a value of the domain would evaluate its constraints, whatever asks.
            if unasked.contains(&column.type_name) {
                column.in_check = true;
                continue;
            }
            let mut unsure = false;
            match type_answers(table.owner, &column.type_name, value, &mut slow) {
                Answer::Accepts => {}
                Answer::Unknown => unsure = true,
                Answer::Refuses => {
                    column.refused_by = Some(format!("its type, {},", column.type_name));
                }
            }
            for member in &table.family {
                for constraint in constraints
                    .get(&(*member, name.clone()))
                    .into_iter()
                    .flatten()
                {
                    match constraint_answers(constraint, value, &mut slow) {
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
