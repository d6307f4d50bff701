//! The clock of a row that a written one refers to, over foreign keys.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::guard::row::chain::{self, Start};
use crate::guard::row::lookup::{self, Source};
use crate::pg::late_trigger::{On, Written};
use crate::pg::subxact::{self, Caught};
use crate::pg::{fresh, inherit, invalidation, lock, relation, xact};
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
    /// All tables on the way, each with its partitions.
    relations: Vec<pg_sys::Oid>,
    /// The transaction and subtransaction that has locked them.
    locked: Cell<Option<(u32, u32)>>,
}

impl Way {
    /// Locks all tables on the way without waiting, but where this very (sub)transaction, `here`, has locked them.
    fn lock(&self, here: (u32, u32)) -> Result<()> {
        if self.locked.get() == Some(here) {
            return Ok(());
        }
        let mut relations = self.relations.iter();
        match relations.all(|relation| lock::try_relation(*relation, pg_sys::AccessShareLock)) {
            true => Ok(()),
            false => Err(Error::new(Kind::LockNotAvailable, "a table is locked")),
        }
    }
}

/// Ways by the relation that they start from and the text of the clock.
type Ways = HashMap<(u32, String), Rc<Way>>;

thread_local! {
    /// With the number of the change of relations since which they are true: foreign keys and partitions come and go.
    static WAYS: RefCell<(u64, Ways)> = RefCell::default();
}

fn way(start: pg_sys::Oid, path: &str, class: TypeClass) -> Result<Rc<Way>> {
    let key = (start.to_u32(), path.to_owned());
    let changes = invalidation::changes_of_relations();
    let known = WAYS.with_borrow_mut(|(since, ways)| {
        if std::mem::replace(since, changes) != changes {
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
    let parents = source.hops.iter().map(|hop| hop.parent);
    let relations = parents
        .flat_map(|parent| std::iter::once(parent).chain(inherit::descendants(parent)))
        .collect();
    let way = Rc::new(Way {
        relations,
        locked: Cell::new(None),
        column: column.clone(),
        // From the server's own epoch, as its raw microseconds are.
        expression: format!(
            "CASE WHEN isfinite({raw}) THEN ((extract(epoch FROM {instant}) - 946684800) * 1000000)::bigint END, \
             {row}.tableoid"
        ),
        starts,
        source,
    });
    WAYS.with_borrow_mut(|(_, ways)| ways.insert(key, Rc::clone(&way)));
    Ok(way)
}

/// Reads the clock that a path leads to from the written row; `None` where it leads nowhere. With the rights of those
/// who own the tables; an error undoes nothing of what the present statement did.
pub fn read(
    written: &Written,
    path: &str,
    class: TypeClass,
) -> std::result::Result<Option<Found>, Caught> {
    found(written, path, class, |way, starts| {
        chain::follow(&way.source, starts, &way.expression, Vec::new())
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
    // Locks that are taken in a subtransaction of this one are its own from then on, and are kept until it ends.
    let here = (xact::local_transaction_id(), xact::subtransaction());
    let mut locked = None;
    let found = found(&before, path, class, |way, starts| {
        // To delete a row of a referring table waits for nobody who has locked the other one, or a partition of it.
        way.lock(here)?;
        locked = Some(Rc::clone(way));
        let (source, expression) = (&way.source, &way.expression);
        // Its key may have changed because that of a row on the way did.
        match waiting(source, table).filter(|waiting| changed && *waiting > 0) {
            Some(waiting) => chain::follow_to_present(source, starts, expression, waiting),
            None => chain::follow_present(source, starts, expression),
        }
    })?;
    if let Some(way) = locked {
        way.locked.set(Some(here));
    }
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

/// What a path leads to. It is followed in a subtransaction, and not at all where a column that it starts from is NULL.
fn found(
    written: &Written,
    path: &str,
    class: TypeClass,
    follow: impl FnOnce(&Rc<Way>, Vec<Start>) -> Result<Option<fresh::Row>>,
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
        let Some(row) = follow(&way, starts)? else {
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
