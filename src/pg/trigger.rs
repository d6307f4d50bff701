//! Internal triggers: how they are created, found and removed, and what one sees when it fires.
//!
//! An internal trigger is absent from dumps and from `\d`, and its table's owner cannot disable it; one that
//! fires always also fires under `session_replication_role = replica` and while logical replication applies.

use std::ffi::CString;

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::pg::value::{self, Value};
use crate::pg::{catalog, fresh, relation};

/// When a trigger of ours fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Firing {
    /// After each row deleted or updated: it sees the row as all other triggers left it.
    AfterRow,
    /// Before a TRUNCATE.
    BeforeTruncate,
}

/// A trigger as the catalog has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Installed {
    pub trigger: pg_sys::Oid,
    pub relation: pg_sys::Oid,
    pub firing: Firing,
    /// It fires always, as it was made.
    pub always: bool,
}

const RELATION: i16 = pg_sys::Anum_pg_trigger_tgrelid as i16;
const FUNCTION: i16 = pg_sys::Anum_pg_trigger_tgfoid as i16;
const TYPE: i16 = pg_sys::Anum_pg_trigger_tgtype as i16;
const ENABLED: i16 = pg_sys::Anum_pg_trigger_tgenabled as i16;
const OID: i16 = pg_sys::Anum_pg_trigger_oid as i16;

/// OID of the extension's trigger function of this name, which takes no arguments.
pub fn function(name: &str) -> Result<Option<pg_sys::Oid>> {
    let Some(schema) = relation::schema_oid() else {
        return Ok(None);
    };
    let name = CString::new(name).map_err(Error::internal)?;
    // SAFETY: a cached catalog lookup with a NUL-terminated name and an empty vector of argument types.
    let oid = unsafe {
        let arguments = pg_sys::buildoidvector(std::ptr::null(), 0);
        pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as i32,
            pg_sys::Anum_pg_proc_oid as i16,
            pg_sys::Datum::from(name.as_ptr()),
            pg_sys::Datum::from(arguments),
            pg_sys::Datum::from(schema),
            pg_sys::Datum::null(),
        )
    };
    Ok((oid != pg_sys::Oid::INVALID).then_some(oid))
}

fn installed(row: &catalog::Tuple, function: pg_sys::Oid) -> Option<Installed> {
    if row.oid(FUNCTION)? != function {
        return None;
    }
    let kind = row.int(TYPE)? as u32;
    Some(Installed {
        trigger: row.oid(OID)?,
        relation: row.oid(RELATION)?,
        firing: if kind & pg_sys::TRIGGER_TYPE_TRUNCATE != 0 {
            Firing::BeforeTruncate
        } else {
            Firing::AfterRow
        },
        always: row.int(ENABLED)? as u8 == pg_sys::TRIGGER_FIRES_ALWAYS,
    })
}

/// The triggers on a relation that call `function`.
pub fn on(relation: pg_sys::Oid, function: pg_sys::Oid) -> Vec<Installed> {
    catalog::scan(
        pg_sys::TriggerRelationId,
        pg_sys::Oid::from(pg_sys::TriggerRelidNameIndexId),
        &[(RELATION, relation)],
        |row| installed(row, function),
    )
}

/// The trigger with this OID, if it calls `function`.
pub fn get(trigger: pg_sys::Oid, function: pg_sys::Oid) -> Option<Installed> {
    catalog::scan(
        pg_sys::TriggerRelationId,
        pg_sys::Oid::from(pg_sys::TriggerOidIndexId),
        &[(OID, trigger)],
        |row| installed(row, function),
    )
    .into_iter()
    .next()
}

/// Every relation with a trigger that calls `function`.
pub fn relations(function: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
    fresh::rows(
        "SELECT DISTINCT tgrelid FROM pg_catalog.pg_trigger WHERE tgfoid = $1",
        &[function.into()],
        fresh::Seen::Everything,
        0,
    )?
    .iter()
    .map(|row| fresh::oid(row, 0))
    .collect()
}

/// The OID of the trigger of this name on a relation.
pub fn named(relation: pg_sys::Oid, name: &std::ffi::CStr) -> Option<pg_sys::Oid> {
    // SAFETY: a catalog lookup with a NUL-terminated name that may find nothing.
    let oid = unsafe { pg_sys::get_trigger_oid(relation, name.as_ptr(), true) };
    (oid != pg_sys::Oid::INVALID).then_some(oid)
}

/// Creates an internal trigger that fires always. Takes a ShareRowExclusiveLock on the relation, and so waits
/// for all who are writing to it. Checks no privilege.
pub fn install(relation: pg_sys::Oid, function: pg_sys::Oid, firing: Firing) -> Result<()> {
    let name = match firing {
        // Sorts before RI_ConstraintTrigger: rows that refer to a deleted one are still as they were.
        Firing::AfterRow => c"Custodian_row_guard",
        Firing::BeforeTruncate => c"Custodian_truncate_guard",
    };
    let events = match firing {
        Firing::AfterRow => pg_sys::TRIGGER_TYPE_DELETE | pg_sys::TRIGGER_TYPE_UPDATE,
        Firing::BeforeTruncate => pg_sys::TRIGGER_TYPE_TRUNCATE,
    };
    let timing = match firing {
        Firing::AfterRow => pg_sys::TRIGGER_TYPE_AFTER,
        Firing::BeforeTruncate => pg_sys::TRIGGER_TYPE_BEFORE,
    };
    let mut statement = pg_sys::CreateTrigStmt {
        type_: pg_sys::NodeTag::T_CreateTrigStmt,
        trigname: name.as_ptr().cast_mut(),
        row: firing == Firing::AfterRow,
        timing: timing as i16,
        events: events as i16,
        ..Default::default()
    };
    // SAFETY: the statement is a complete CREATE TRIGGER without lists; relation and function are given by
    // OID; the server copies what it keeps.
    unsafe {
        pg_sys::CreateTriggerFiringOn(
            &mut statement,
            std::ptr::null(),
            relation,
            pg_sys::Oid::INVALID,
            pg_sys::Oid::INVALID,
            pg_sys::Oid::INVALID,
            function,
            pg_sys::Oid::INVALID,
            std::ptr::null_mut(),
            true,
            false,
            pg_sys::TRIGGER_FIRES_ALWAYS as std::ffi::c_char,
        );
        pg_sys::CommandCounterIncrement();
    }
    Ok(())
}

/// Removes a trigger. Takes an AccessExclusiveLock on its relation.
pub fn remove(trigger: pg_sys::Oid) {
    let object = pg_sys::ObjectAddress {
        classId: pg_sys::TriggerRelationId,
        objectId: trigger,
        objectSubId: 0,
    };
    // SAFETY: the address outlives the call; nothing depends on a trigger.
    unsafe {
        pg_sys::performDeletion(
            &object,
            pg_sys::DropBehavior::DROP_RESTRICT,
            pg_sys::PERFORM_DELETION_INTERNAL as i32,
        );
        pg_sys::CommandCounterIncrement();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Delete,
    Update,
    Truncate,
}

/// What a trigger sees when it fires.
pub struct Fired<'a> {
    data: &'a pg_sys::TriggerData,
    pub event: Event,
}

impl<'a> Fired<'a> {
    /// # Safety
    /// `fcinfo` must be the argument of the function call that is being executed.
    pub unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Result<Fired<'a>> {
        let misuse = || {
            Error::new(
                Kind::WrongObjectType,
                "custodian.row_guard() can only be called as a trigger",
            )
        };
        // SAFETY: the caller says that this is the current call's argument; the node's tag says what it is.
        unsafe {
            let context = (*fcinfo).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                return Err(misuse());
            }
            let data = &*context.cast::<pg_sys::TriggerData>();
            let event = match data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
                pg_sys::TRIGGER_EVENT_DELETE => Event::Delete,
                pg_sys::TRIGGER_EVENT_UPDATE => Event::Update,
                pg_sys::TRIGGER_EVENT_TRUNCATE => Event::Truncate,
                _ => return Err(misuse()),
            };
            Ok(Fired { data, event })
        }
    }

    /// The relation it fired on: the one that holds the row.
    pub fn relation(&self) -> pg_sys::Oid {
        // SAFETY: the relation is open while the trigger runs.
        unsafe { (*self.data.tg_relation).rd_id }
    }

    fn value(&self, tuple: pg_sys::HeapTuple, attnum: i16) -> Option<Value<'a>> {
        // SAFETY: the tuple is one of this relation's, or NULL, and both are there while the trigger runs.
        unsafe { Value::of(tuple, (*self.data.tg_relation).rd_att, attnum) }
    }

    /// The column's value in the row deleted, or before the update; `None` for NULL.
    pub fn old(&self, attnum: i16) -> Option<Value<'a>> {
        self.value(self.data.tg_trigtuple, attnum)
    }

    /// The column's value after the update.
    pub fn new_value(&self, attnum: i16) -> Option<Value<'a>> {
        self.value(self.data.tg_newtuple, attnum)
    }

    /// Whether the update changed the column, byte for byte.
    pub fn changed(&self, attnum: i16) -> bool {
        let (old, new) = match (self.old(attnum), self.new_value(attnum)) {
            (None, None) => return false,
            (Some(old), Some(new)) => (old.datum(), new.datum()),
            _ => return true,
        };
        // SAFETY: both are values of this column, which the descriptor describes.
        unsafe {
            let column = &*value::column((*self.data.tg_relation).rd_att, attnum);
            if column.attbyval {
                old.value() != new.value()
            } else {
                bytes(old, column.attlen) != bytes(new, column.attlen)
            }
        }
    }
}

/// The bytes of a value that is passed by reference, without its header and as it is before compression.
///
/// # Safety
/// The value must be of a type with this length (-1 for varlena, -2 for C strings), and is not freed.
unsafe fn bytes<'a>(value: pg_sys::Datum, length: i16) -> &'a [u8] {
    // SAFETY: as the caller says; a detoasted copy lives as long as the statement's memory.
    unsafe {
        match length {
            -1 => {
                let value = pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr());
                std::slice::from_raw_parts(
                    pgrx::vardata_any(value).cast(),
                    pgrx::varsize_any_exhdr(value),
                )
            }
            -2 => std::ffi::CStr::from_ptr(value.cast_mut_ptr()).to_bytes(),
            _ => {
                std::slice::from_raw_parts(value.cast_mut_ptr(), usize::from(length.unsigned_abs()))
            }
        }
    }
}
