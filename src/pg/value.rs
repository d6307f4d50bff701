//! Values of rows, as triggers see them: what they are is known by the columns they come from.

use std::marker::PhantomData;

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

use crate::error::{Error, Result};

/// A value of a column that is not NULL. It lives as long as the row.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    datum: pg_sys::Datum,
    /// The type of the column, which may be a domain.
    type_oid: pg_sys::Oid,
    row: PhantomData<&'a ()>,
}

/// A moment as the server keeps it, from 2000-01-01 on; the least and the greatest number are its infinities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Microseconds, of a `timestamptz` or a `timestamp`.
    Micros(i64),
    /// Days, of a `date`.
    Day(i32),
}

impl<'a> Value<'a> {
    /// The value of a column in a row; `None` where it is NULL, or there is no such column or no row.
    ///
    /// # Safety
    /// `tuple` must be NULL or a row with this descriptor, and both must be there for `'a`.
    pub(super) unsafe fn of(
        tuple: pg_sys::HeapTuple,
        descriptor: pg_sys::TupleDesc,
        attnum: i16,
    ) -> Option<Value<'a>> {
        let mut null = false;
        // SAFETY: by the caller's promise; the number is checked against the descriptor.
        unsafe {
            if tuple.is_null() || attnum < 1 || i32::from(attnum) > (*descriptor).natts {
                return None;
            }
            let datum = pg_sys::heap_getattr(tuple, i32::from(attnum), descriptor, &mut null);
            let type_oid = (*column(descriptor, attnum)).atttypid;
            (!null).then_some(Value {
                datum,
                type_oid,
                row: PhantomData,
            })
        }
    }

    /// As the server has it: to be read as a value of the type [`Value::is_of`] says it is.
    pub(super) const fn datum(self) -> pg_sys::Datum {
        self.datum
    }

    /// Whether it is of this type, or of a domain over it.
    pub(super) fn is_of(self, type_oid: pg_sys::Oid) -> bool {
        // SAFETY: a cached catalog lookup by OID.
        self.type_oid == type_oid || unsafe { pg_sys::getBaseType(self.type_oid) } == type_oid
    }

    /// The moment that the value of a clock is; `None` where it is none.
    pub fn moment(self) -> Option<Moment> {
        // SAFETY: a cached catalog lookup by OID.
        match unsafe { pg_sys::getBaseType(self.type_oid) } {
            pg_sys::TIMESTAMPTZOID | pg_sys::TIMESTAMPOID => {
                Some(Moment::Micros(self.datum.value() as i64))
            }
            pg_sys::DATEOID => Some(Moment::Day(self.datum.value() as i32)),
            _ => None,
        }
    }

    /// The value as a parameter of this type: that of its column, or the one below its domains. An error for any other.
    pub fn bind(self, type_oid: pg_sys::Oid) -> Result<DatumWithOid<'a>> {
        if !self.is_of(type_oid) {
            return Err(Error::internal(
                "a value of a row is of another type than was read before",
            ));
        }
        // SAFETY: it is of this type, and lives as long as the row.
        Ok(unsafe { DatumWithOid::new(self.datum, type_oid) })
    }
}

/// The description of a column.
///
/// # Safety
/// The descriptor must have a column of this number.
pub(super) unsafe fn column(
    descriptor: pg_sys::TupleDesc,
    attnum: i16,
) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: by the caller's promise.
    unsafe {
        (*descriptor)
            .attrs
            .as_ptr()
            .add(usize::from(attnum.unsigned_abs()).saturating_sub(1))
    }
}
