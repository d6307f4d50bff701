//! The clock of a row that a written one refers to, over foreign keys.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::guard::row::chain::{self, Start};
use crate::guard::row::lookup::{self, Source};
use crate::pg::late_trigger::{On, Written};
use crate::pg::subxact::{self, Caught};
use crate::pg::{fresh, inherit, invalidation, lock, relation};
use crate::policy::model::TypeClass;

/// A clock of a written row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The relation that has the row, such as a partition.
    pub relation: pg_sys::Oid,
    pub column: String,
    /// In the server's raw microseconds; `None` where it has no value, or an infinite one.
    pub clock: Option<i64>,
}

/// How a clock is read from the rows of a relation.
struct Way {
    source: Source,
    column: String,
    /// The clock, and the relation that has it.
    expression: String,
    /// The columns that the first key starts from: number, and the type in which its values are handed over.
    starts: Vec<(i16, pg_sys::Oid)>,
}

/// Ways by the relation that they start from and the text of the clock.
type Ways = HashMap<(u32, String), Rc<Way>>;

thread_local! {
    static WAYS: RefCell<Ways> = RefCell::new(HashMap::new());
}

/// Set when some relation changed, and with it perhaps a foreign key.
static STALE: AtomicBool = AtomicBool::new(false);

fn invalidated() {
    STALE.store(true, Ordering::Relaxed);
}

/// Listens for changes of relations.
pub fn init() {
    invalidation::of_relations(invalidated);
}

fn way(start: pg_sys::Oid, path: &str, class: TypeClass) -> Result<Rc<Way>> {
    let key = (start.to_u32(), path.to_owned());
    let known = WAYS.with_borrow_mut(|ways| {
        if STALE.swap(false, Ordering::Relaxed) {
            ways.clear();
        }
        ways.get(&key).cloned()
    });
    if let Some(known) = known {
        return Ok(known);
    }
    let source = lookup::clock(start, path)?;
    let missing = || Error::internal("a clock leads nowhere");
    let (Some(first), Some(column)) = (source.hops.first(), source.columns.first()) else {
        return Err(missing());
    };
    let mut starts = Vec::with_capacity(first.columns.len());
    for (name, parent) in first.columns.iter().zip(&first.parent_columns) {
        let attnum = relation::column_number(start, name).ok_or_else(missing)?;
        let (type_oid, known) = chain::handed_as((start, name), (first.parent, parent))?;
        if !known {
            // Its value would have to be written as text by code of its owner.
            return Err(missing());
        }
        starts.push((attnum, type_oid));
    }
    let row = source.last_alias();
    let raw = format!("{row}.{}", relation::quote_identifier(column)?);
    let instant = match class {
        TypeClass::Date => format!("({raw}::timestamp AT TIME ZONE 'UTC')"),
        TypeClass::Timestamp => format!("({raw} AT TIME ZONE 'UTC')"),
        _ => raw.clone(),
    };
    let way = Rc::new(Way {
        column: column.clone(),
        // From the server's own epoch, as its raw microseconds are.
        expression: format!(
            "CASE WHEN isfinite({raw}) THEN ((extract(epoch FROM {instant}) - 946684800) * 1000000)::bigint END, \
             {row}.tableoid"
        ),
        starts,
        source,
    });
    WAYS.with_borrow_mut(|ways| ways.insert(key, Rc::clone(&way)));
    Ok(way)
}

/// Reads the clock that a path leads to from the written row; `None` where it leads nowhere. With the rights of those
/// who own the tables; an error undoes nothing of what the present statement did.
pub fn read(
    written: &Written,
    path: &str,
    class: TypeClass,
) -> std::result::Result<Option<Found>, Caught> {
    found(written, path, class, |source, starts, expression| {
        chain::follow(source, starts, expression, Vec::new())
    })
}

/// What a row referred to before it was changed or deleted.
pub enum Before {
    /// What it still refers to.
    Same,
    /// Nothing, or a row that is gone.
    Nowhere,
    Read(Found),
}

/// The same from the row as it was before it was changed or deleted, as far as the row of `table` that it led to is still
/// there. Waits for no lock on the tables on the way: an error where one cannot be had.
pub fn read_before(
    written: &Written,
    path: &str,
    class: TypeClass,
    table: pg_sys::Oid,
) -> std::result::Result<Before, Caught> {
    let before = written.as_before();
    let left = |way: &Way| way.starts.iter().any(|(at, _)| written.is_changed(*at));
    let unchanged = subxact::subtransaction(|| Ok(!left(&*way(written.relation(), path, class)?)))?;
    if unchanged {
        return Ok(Before::Same);
    }
    let changed = written.on == On::Update;
    let found = found(&before, path, class, |source, starts, expression| {
        for hop in &source.hops {
            // To delete a row of a referring table waits for nobody who has locked the other one, or a partition of it.
            let below = inherit::descendants(hop.parent);
            let mut all = std::iter::once(hop.parent).chain(below);
            if !all.all(|relation| lock::try_relation(relation, pg_sys::AccessShareLock)) {
                return Err(Error::new(Kind::LockNotAvailable, "a table is locked"));
            }
        }
        // Its key may have changed because that of a row on the way did.
        match waiting(source, table).filter(|waiting| changed && *waiting > 0) {
            Some(waiting) => chain::follow_to_present(source, starts, expression, waiting),
            None => chain::follow_present(source, starts, expression),
        }
    })?;
    Ok(found.map_or(Before::Nowhere, Before::Read))
}

/// Which key leads to the table.
fn waiting(source: &Source, table: pg_sys::Oid) -> Option<usize> {
    let is_of = |relation: pg_sys::Oid| {
        relation == table
            || inherit::ancestors(relation).contains(&table)
            || inherit::ancestors(table).contains(&relation)
    };
    source.hops.iter().position(|hop| is_of(hop.parent))
}

fn found(
    written: &Written,
    path: &str,
    class: TypeClass,
    follow: impl FnOnce(&Source, Vec<Start>, &str) -> Result<Option<fresh::Row>>,
) -> std::result::Result<Option<Found>, Caught> {
    subxact::subtransaction(|| {
        let way = way(written.relation(), path, class)?;
        let mut starts = Vec::with_capacity(way.starts.len());
        for (attnum, type_oid) in &way.starts {
            let Some(value) = written.value(*attnum) else {
                return Ok(None);
            };
            starts.push(Start::typed(value.bind(*type_oid)?));
        }
        let row = follow(&way.source, starts, &way.expression)?;
        let Some(row) = row else {
            return Ok(None);
        };
        let clock = match row.first() {
            Some(Some(_)) => Some(fresh::number::<i64>(&row, 0)?),
            _ => None,
        };
        Ok(Some(Found {
            relation: fresh::oid(&row, 1)?,
            column: way.column.clone(),
            clock,
        }))
    })
}
