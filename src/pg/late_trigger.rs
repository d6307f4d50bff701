//! Internal triggers with a WHEN condition, and what one sees when it fires after a statement.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::pg::list;
use crate::pg::value::{self, Value};
use crate::policy::model::TypeClass;

unsafe extern "C-unwind" {
    /// Of utils/datum.h: whether two values of a type have the same bytes.
    fn datumIsEqual(
        one: pg_sys::Datum,
        other: pg_sys::Datum,
        by_value: bool,
        length: std::ffi::c_int,
    ) -> bool;
}

/// On which statements a trigger fires, for each row (of a TRUNCATE once for the table), afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Insert,
    Update,
    Delete,
    Truncate,
}

impl On {
    /// As the catalog has it in `tgtype`.
    pub const fn bit(self) -> u32 {
        match self {
            On::Insert => pg_sys::TRIGGER_TYPE_INSERT,
            On::Update => pg_sys::TRIGGER_TYPE_UPDATE,
            On::Delete => pg_sys::TRIGGER_TYPE_DELETE,
            On::Truncate => pg_sys::TRIGGER_TYPE_TRUNCATE,
        }
    }
}

/// Creates an internal trigger that fires always, with `when` (an expression over NEW and OLD; none for a TRUNCATE) as
/// its condition and `args` as its arguments. Names in `when` resolve as the search path says. Takes a ShareRowExclusiveLock
/// on the relation, and so waits for all who are writing to it. Checks no privilege.
pub fn install(
    relation: pg_sys::Oid,
    function: pg_sys::Oid,
    name: &CStr,
    on: On,
    when: Option<&str>,
    args: &[String],
) -> Result<()> {
    let query =
        CString::new(format!("SELECT {}", when.unwrap_or("true"))).map_err(Error::internal)?;
    let args: Vec<CString> = args
        .iter()
        .map(|arg| CString::new(arg.as_str()))
        .collect::<std::result::Result<_, _>>()
        .map_err(Error::internal)?;
    let mut statement = pg_sys::CreateTrigStmt {
        type_: pg_sys::NodeTag::T_CreateTrigStmt,
        trigname: name.as_ptr().cast_mut(),
        row: on != On::Truncate,
        timing: pg_sys::TRIGGER_TYPE_AFTER as i16,
        events: on.bit() as i16,
        ..Default::default()
    };
    // SAFETY: strings and query are NUL-terminated and outlive the call. raw_parser gives a list of one RawStmt
    // around a SELECT with one target, or raises. The server copies what it keeps.
    unsafe {
        let parsed = list::items::<pg_sys::RawStmt>(pg_sys::raw_parser(
            query.as_ptr(),
            pg_sys::RawParseMode::RAW_PARSE_DEFAULT,
        ));
        let target = parsed
            .first()
            .and_then(|raw| raw.stmt.cast::<pg_sys::SelectStmt>().as_ref())
            .and_then(|select| {
                list::items::<pg_sys::ResTarget>(select.targetList)
                    .first()
                    .copied()
            })
            .ok_or_else(|| Error::internal("the condition of a trigger is no expression"))?;
        if when.is_some() {
            statement.whenClause = target.val;
        }
        for arg in &args {
            let copy = pg_sys::pstrdup(arg.as_ptr());
            statement.args = pg_sys::lappend(statement.args, pg_sys::makeString(copy).cast());
        }
        pg_sys::CreateTriggerFiringOn(
            &mut statement,
            query.as_ptr(),
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

/// What a trigger sees when it fires after a row was inserted, updated or deleted, or a table was truncated.
pub struct Written<'a> {
    data: &'a pg_sys::TriggerData,
    pub on: On,
    /// The row as it was is looked at, rather than as it is.
    before: bool,
}

const DAY: i64 = 86_400_000_000;

impl<'a> Written<'a> {
    /// # Safety
    /// `fcinfo` must be the argument of the function call that is being executed.
    pub unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Result<Written<'a>> {
        let misuse = || {
            Error::new(
                Kind::WrongObjectType,
                "the function can only be called as a row trigger of the extension",
            )
        };
        // SAFETY: the caller says that this is the current call's argument; the node's tag says what it is.
        unsafe {
            let context = (*fcinfo).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                return Err(misuse());
            }
            let data = &*context.cast::<pg_sys::TriggerData>();
            let on = match data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
                pg_sys::TRIGGER_EVENT_INSERT => On::Insert,
                pg_sys::TRIGGER_EVENT_UPDATE => On::Update,
                pg_sys::TRIGGER_EVENT_DELETE => On::Delete,
                _ => On::Truncate,
            };
            if (data.tg_event & pg_sys::TRIGGER_EVENT_ROW == 0) != (on == On::Truncate) {
                return Err(misuse());
            }
            Ok(Written {
                data,
                on,
                before: on == On::Delete,
            })
        }
    }

    /// The row as it was before it was updated or deleted.
    pub const fn as_before(&self) -> Written<'a> {
        Written {
            data: self.data,
            on: self.on,
            before: true,
        }
    }

    /// The relation that holds the row.
    pub fn relation(&self) -> pg_sys::Oid {
        // SAFETY: the relation is open while the trigger runs.
        unsafe { (*self.data.tg_relation).rd_id }
    }

    /// The arguments that the trigger was made with.
    pub fn args(&self) -> Vec<String> {
        // SAFETY: the trigger has as many NUL-terminated arguments as it says, while it runs.
        unsafe {
            let trigger = &*self.data.tg_trigger;
            (0..usize::try_from(trigger.tgnargs).unwrap_or(0))
                .map(|at| {
                    CStr::from_ptr(*trigger.tgargs.add(at))
                        .to_string_lossy()
                        .into_owned()
                })
                .collect()
        }
    }

    /// The value of a column in the row; `None` when it is NULL, or there is no row.
    pub fn value(&self, attnum: i16) -> Option<Value<'a>> {
        let tuple = match self.on {
            On::Truncate => return None,
            On::Update if !self.before => self.data.tg_newtuple,
            _ => self.data.tg_trigtuple,
        };
        // SAFETY: the tuple is one of this relation's, whose descriptor is open while the trigger runs.
        unsafe { Value::of(tuple, (*self.data.tg_relation).rd_att, attnum) }
    }

    /// Whether the statement gave the row another value in a column; of a deleted row it took it away.
    pub fn is_changed(&self, attnum: i16) -> bool {
        if self.on != On::Update {
            return true;
        }
        let (old, new) = match (self.as_before().value(attnum), self.value(attnum)) {
            (Some(old), Some(new)) => (old, new),
            (None, None) => return false,
            _ => return true,
        };
        // SAFETY: both are values of this column, whose number `value` has checked against the open descriptor.
        unsafe {
            let descriptor = (*self.data.tg_relation).rd_att;
            let column = value::column(descriptor, attnum);
            let (old, new) = (old.datum(), new.datum());
            !datumIsEqual(old, new, (*column).attbyval, i32::from((*column).attlen))
        }
    }

    /// The instant in a column of the row, in the server's raw microseconds; `None` when it is NULL or
    /// infinite. `class` is the column's: a date counts from its midnight, a timestamp is read as UTC.
    pub fn instant(&self, attnum: i16, class: TypeClass) -> Option<i64> {
        let datum = self.value(attnum)?.datum();
        match class {
            TypeClass::Date => {
                let days = datum.value() as i32;
                (days != i32::MIN && days != i32::MAX).then(|| i64::from(days).saturating_mul(DAY))
            }
            _ => {
                let micros = datum.value() as i64;
                (micros != i64::MIN && micros != i64::MAX).then_some(micros)
            }
        }
    }
}

/// The innermost transaction that is writing: its top-level number and that of its subtransaction.
pub fn transaction() -> (u64, u32) {
    // SAFETY: both read backend-local state.
    unsafe {
        (
            pg_sys::GetTopFullTransactionIdIfAny().value,
            pg_sys::GetCurrentSubTransactionId(),
        )
    }
}
