//! The clock of a row that a written one refers to, over foreign keys.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::guard::row::chain::{self, Start};
use crate::guard::row::lookup::{self, Source};
use crate::pg::late_trigger::Written;
use crate::pg::subxact::{self, Caught};
use crate::pg::{fresh, relation};
use crate::policy::model::TypeClass;

/// A clock of a written row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The table that has the column.
    pub relation: pg_sys::Oid,
    pub column: String,
    /// In the server's raw microseconds; `None` where it has no value, or an infinite one.
    pub clock: Option<i64>,
}

/// How a clock is read from the rows of a relation.
struct Way {
    source: Source,
    /// Where it ends.
    relation: pg_sys::Oid,
    column: String,
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

extern "C-unwind" fn invalidated(_argument: pg_sys::Datum, _relation: pg_sys::Oid) {
    STALE.store(true, Ordering::Relaxed);
}

/// Listens for changes of relations.
pub fn init() {
    // SAFETY: called once from _PG_init; the callback only sets a flag.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(invalidated), pg_sys::Datum::null());
    }
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
    let (Some(first), Some(last), Some(column)) = (
        source.hops.first(),
        source.hops.last(),
        source.columns.first(),
    ) else {
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
    let raw = format!(
        "{}.{}",
        source.last_alias(),
        relation::quote_identifier(column)?
    );
    let instant = match class {
        TypeClass::Date => format!("({raw}::timestamp AT TIME ZONE 'UTC')"),
        TypeClass::Timestamp => format!("({raw} AT TIME ZONE 'UTC')"),
        _ => raw.clone(),
    };
    let way = Rc::new(Way {
        relation: last.parent,
        column: column.clone(),
        // From the server's own epoch, as its raw microseconds are.
        expression: format!(
            "CASE WHEN isfinite({raw}) THEN ((extract(epoch FROM {instant}) - 946684800) * 1000000)::bigint END"
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

/// The same from the row as it was before it was changed or deleted, over rows that are still there.
pub fn read_before(
    written: &Written,
    path: &str,
    class: TypeClass,
) -> std::result::Result<Before, Caught> {
    let before = written.as_before();
    let left = |way: &Way| way.starts.iter().any(|(at, _)| written.is_changed(*at));
    let unchanged = subxact::subtransaction(|| Ok(!left(&*way(written.relation(), path, class)?)))?;
    if unchanged {
        return Ok(Before::Same);
    }
    let found = found(&before, path, class, chain::follow_present)?;
    Ok(found.map_or(Before::Nowhere, Before::Read))
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
            // SAFETY: the value is of the column's type without its domains, and lives as long as the trigger's row.
            starts.push(Start::typed(unsafe { DatumWithOid::new(value, *type_oid) }));
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
            relation: way.relation,
            column: way.column.clone(),
            clock,
        }))
    })
}
