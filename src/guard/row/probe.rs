//! Asks whether a whole table, or the rows of one that refer to a given row, have anything kept among them.
//! Runs as the table's owner in the sandbox, with a fresh snapshot.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::guard::row::keeping::{Keeping, Kept, Subjects};
use crate::guard::row::lookup::{Key, Source};
use crate::guard::row::verdict::Keeper;
use crate::pg::fresh::{self, Seen};
use crate::pg::value::Value;
use crate::pg::{clock, lock, relation, sandbox, time};
use crate::policy::model::HoldScope;
use crate::policy::{foreign_code, hold_read};

/// A parameter of a probe.
enum Param {
    Texts(Vec<String>),
    Text(String),
    Oids(Vec<pg_sys::Oid>),
    /// A column of the row that is referred to, as it was before the statement.
    Referred(String),
    Now,
}

/// A question to a table: which rows, and who keeps them.
struct Probe<'a> {
    condition: String,
    params: Vec<Param>,
    answer: Answer<'a>,
}

enum Answer<'a> {
    Keeper(&'a Keeper),
    /// The subject's key, as a JSON array.
    Subject(&'a Subjects, String),
}

/// The alias of the table that is asked.
const ROW: &str = "c";

struct Builder {
    first: usize,
    params: Vec<Param>,
}

impl Builder {
    fn bind(&mut self, param: Param) -> String {
        self.params.push(param);
        format!("${}", self.first + self.params.len() - 1)
    }
}

fn column(keeping: &Keeping, name: &str) -> Option<String> {
    let column = keeping.columns.get(name)?;
    Some(format!("{ROW}.{}", column.quoted))
}

fn text(expression: &str) -> String {
    format!("({expression}::text COLLATE pg_catalog.\"C\")")
}

/// The SQL forms of a row's own columns that a source starts from; `None` when one is not there.
fn starts(keeping: &Keeping, names: &[String]) -> Option<Vec<String>> {
    names.iter().map(|name| column(keeping, name)).collect()
}

/// The SQL forms of what a source finds for a row; `None` when a column is not there. Where the chain of
/// foreign keys leads to the row that is referred to, which may be gone by now, its old values count.
fn values(
    keeping: &Keeping,
    source: &Source,
    builder: &mut Builder,
    referring: Option<&Referring>,
) -> Result<Option<Vec<String>>> {
    let through = match (source.hops.first(), referring) {
        (Some(hop), Some(referring)) => {
            hop.columns == referring.key.columns
                && hop.parent_columns == referring.key.parent_columns
        }
        _ => false,
    };
    let rest = Source {
        hops: source.hops[usize::from(through)..].to_vec(),
        ..source.clone()
    };
    let start = if through {
        let old = rest.own_columns().iter();
        Some(
            old.map(|name| builder.bind(Param::Referred(name.clone())))
                .collect(),
        )
    } else {
        starts(keeping, rest.own_columns())
    };
    let Some(start) = start else {
        return Ok(None);
    };
    if rest.hops.is_empty() {
        return Ok(Some(start));
    }
    let mut found = Vec::with_capacity(rest.columns.len());
    for name in &rest.columns {
        let wanted = format!(
            "{}.{}",
            rest.last_alias(),
            relation::quote_identifier(name)?
        );
        found.push(format!("({})", rest.subselect(&start, &wanted)?));
    }
    Ok(Some(found))
}

fn holds<'a>(
    keeping: &'a Keeping,
    first: usize,
    referring: Option<&Referring>,
) -> Result<Vec<Probe<'a>>> {
    let mut probes = Vec::new();
    for held in &keeping.held {
        let mut builder = Builder {
            first,
            params: Vec::new(),
        };
        let mut parts = Vec::new();
        for (name, values) in &held.matching {
            // A hold that cannot be read on this table lies on every row.
            if let Some(column) = column(keeping, name) {
                let values = builder.bind(Param::Texts(values.clone()));
                parts.push(format!("{} = ANY ({values}::text[])", text(&column)));
            }
        }
        if let Some(within) = &held.within {
            let within = builder.bind(Param::Oids(within.clone()));
            parts.push(format!("{ROW}.tableoid = ANY ({within}::oid[])"));
        }
        parts.push("true".to_owned());
        probes.push(Probe {
            condition: parts.join(" AND "),
            params: builder.params,
            answer: Answer::Keeper(&held.keeper),
        });
    }
    if let Some(subjects) = &keeping.subjects {
        probes.push(subject(keeping, subjects, first, referring)?);
    }
    Ok(probes)
}

fn subject<'a>(
    keeping: &'a Keeping,
    subjects: &'a Subjects,
    first: usize,
    referring: Option<&Referring>,
) -> Result<Probe<'a>> {
    let keys: Vec<Vec<String>> = match &subjects.known {
        Some(known) => known.keys().cloned().collect(),
        None => hold_read::on_subjects(&subjects.kind, 0)?
            .into_iter()
            .filter_map(|hold| match hold.scope {
                HoldScope::Subject { key, .. } => Some(key),
                _ => None,
            })
            .collect(),
    };
    let mut builder = Builder {
        first,
        params: Vec::new(),
    };
    let expressions: Vec<String> = values(keeping, &subjects.source, &mut builder, referring)?
        .ok_or_else(|| Error::internal("a column by which a tag finds subjects is not there"))?
        .iter()
        .map(|value| text(value))
        .collect();
    let arrays: Vec<String> = (0..expressions.len())
        .map(|position| {
            let values = keys
                .iter()
                .filter(|key| key.len() == expressions.len())
                .filter_map(|key| key.get(position).cloned())
                .collect();
            let array = builder.bind(Param::Texts(values));
            format!("pg_catalog.unnest({array}::text[])")
        })
        .collect();
    Ok(Probe {
        condition: format!(
            "({}) IN (SELECT * FROM ROWS FROM ({}))",
            expressions.join(", "),
            arrays.join(", ")
        ),
        params: builder.params,
        answer: Answer::Subject(
            subjects,
            format!("pg_catalog.json_build_array({})", expressions.join(", ")),
        ),
    })
}

/// The condition that a minimum still keeps a row. An infinite clock counts as NULL, which keeps.
pub fn minimum_condition(clock: &str, period: &str, now: &str) -> String {
    format!(
        "(nullif(({clock})::pg_catalog.timestamptz, '-infinity') + {period}::pg_catalog.interval > {now}) IS NOT FALSE"
    )
}

fn minimum<'a>(
    keeping: &'a Keeping,
    kept: &'a Kept,
    first: usize,
    referring: Option<&Referring>,
) -> Result<Probe<'a>> {
    let mut builder = Builder {
        first,
        params: Vec::new(),
    };
    let clock = match &kept.rule {
        None => None,
        Some((period, source)) => values(keeping, source, &mut builder, referring)?
            .and_then(|values| values.into_iter().next())
            .map(|clock| (period, clock)),
    };
    let condition = match clock {
        // How long, or from when, cannot be said: kept.
        None => "true".to_owned(),
        Some((period, clock)) => {
            let period = format!("{}::text", builder.bind(Param::Text(period.iso())));
            let now = builder.bind(Param::Now);
            minimum_condition(&clock, &period, &now)
        }
    };
    Ok(Probe {
        condition,
        params: builder.params,
        answer: Answer::Keeper(&kept.keeper),
    })
}

/// A column's value, `None` for NULL, and the column's type.
pub type Typed<'a> = (Option<Value<'a>>, pg_sys::Oid);

/// The rows that refer to a given row by a foreign key.
pub struct Referring<'a> {
    pub key: &'a Key,
    /// The values that they refer to, in the key's order.
    pub values: Vec<(Value<'a>, pg_sys::Oid)>,
    /// Any column of the row that is referred to, as it was before the statement.
    pub old: &'a dyn Fn(&str) -> Result<Typed<'a>>,
}

fn run(keeping: &Keeping, probe: Probe, referring: Option<&Referring>) -> Result<Option<Keeper>> {
    let mut args: Vec<DatumWithOid> = Vec::new();
    let mut condition = format!("({})", probe.condition);
    if let Some(referring) = referring {
        for (position, (name, operator)) in referring
            .key
            .columns
            .iter()
            .zip(&referring.key.operators)
            .enumerate()
        {
            let child = column(keeping, name)
                .ok_or_else(|| Error::internal("a column of a foreign key is not there"))?;
            condition.push_str(&format!(" AND ${} {operator} {child}", position + 1));
        }
        for (value, type_oid) in &referring.values {
            args.push(value.bind(*type_oid)?);
        }
    }
    for param in probe.params {
        args.push(match param {
            Param::Texts(values) => values.into(),
            Param::Text(value) => value.into(),
            Param::Oids(values) => values.into(),
            Param::Referred(name) => {
                let referring =
                    referring.ok_or_else(|| Error::internal("no row is referred to"))?;
                match (referring.old)(&name)? {
                    (Some(value), type_oid) => value.bind(type_oid)?,
                    (None, type_oid) => DatumWithOid::null_oid(type_oid),
                }
            }
            Param::Now => time::timestamp(clock::wall())
                .ok_or_else(|| Error::internal("the clock is out of range"))?
                .into(),
        });
    }
    let answer = match &probe.answer {
        Answer::Keeper(_) => "1",
        Answer::Subject(_, key) => key,
    };
    let only = if keeping.partitioned { "" } else { "ONLY " };
    let sql = format!(
        "SELECT {answer} FROM {only}{} AS {ROW} WHERE {condition}",
        keeping.quoted
    );
    let strangers = &keeping.strangers;
    let rows = foreign_code::as_owner_beside(keeping.owner, &keeping.name, strangers, || {
        // Asked for each row that is referred to.
        if referring.is_some() {
            fresh::repeated(&sql, &args, Seen::Everything, 1)
        } else {
            fresh::rows(&sql, &args, Seen::Everything, 1)
        }
    })?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    match probe.answer {
        Answer::Keeper(keeper) => Ok(Some(keeper.clone())),
        Answer::Subject(subjects, _) => {
            let key: Vec<String> = fresh::json(row, 0)?;
            Ok(subject_keeper(subjects, &key)?)
        }
    }
}

/// The hold on a subject, if there is one.
pub fn subject_keeper(subjects: &Subjects, key: &[String]) -> Result<Option<Keeper>> {
    match &subjects.known {
        Some(known) => Ok(known.get(key).cloned()),
        None => Ok(
            hold_read::on_subject(&subjects.kind, key)?.map(|hold| Keeper::Hold {
                id: hold.id,
                matter: hold.matter,
            }),
        ),
    }
}

/// Whether a table has no rows of its own.
pub fn is_empty(table: pg_sys::Oid) -> Result<bool> {
    // From here on its name stays as it is.
    lock::relation(table, pg_sys::AccessShareLock);
    let Some(ident) = relation::qualified(table)? else {
        return Ok(true);
    };
    let sql = format!("SELECT 1 FROM ONLY {}", ident.quoted);
    let rows = sandbox::as_table_owner(relation::owner(table)?, || {
        fresh::rows(&sql, &[], Seen::Everything, 1)
    })?;
    Ok(rows.is_empty())
}

/// Which kept columns are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Minimums<'a> {
    /// Any: the rows are about to go.
    All,
    /// Only minimums that keep this column, or whose clock is found by it.
    OfColumn(&'a str),
    /// None: it is holds that are asked about.
    Disregarded,
}

/// What keeps some row of the table (or of those that refer to a given row): holds first.
pub fn any(
    keeping: &Keeping,
    with_holds: bool,
    minimums: Minimums,
    referring: Option<&Referring>,
) -> Result<Option<Keeper>> {
    let first = referring.map_or(0, |referring| referring.values.len()) + 1;
    if with_holds {
        for probe in holds(keeping, first, referring)? {
            if let Some(keeper) = run(keeping, probe, referring)? {
                return Ok(Some(keeper));
            }
        }
    }
    for kept in &keeping.minimums {
        let asked = match minimums {
            Minimums::All => true,
            Minimums::OfColumn(column) => kept.concerns(column),
            Minimums::Disregarded => false,
        };
        if asked {
            let probe = minimum(keeping, kept, first, referring)?;
            if let Some(keeper) = run(keeping, probe, referring)? {
                return Ok(Some(keeper));
            }
        }
    }
    Ok(None)
}
