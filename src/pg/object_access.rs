//! The object-access hook: one for the whole extension, which asks the modules that care before an object
//! is dropped, a partition leaves its table, a table is truncated or a function called.

use std::ffi::{c_int, c_void};

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::error::Result;
use crate::guard::lane::archive::telling;
use crate::guard::row::{dropping, veto};
use crate::guard::{foreign, function, residency_column, written};
use crate::pg::hook::Hook;
use crate::pg::{catalog, report};
use crate::policy::declare::history;
use crate::policy::subscribers;

/// An object about to be dropped, directly or because something it depends on is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drop {
    /// The catalog the object is in, such as `pg_class`.
    pub class: pg_sys::Oid,
    pub object: pg_sys::Oid,
    /// The attribute number of a column, 0 for the object itself.
    pub sub: i32,
    /// The server drops it as a part of something else, and may make it anew, as when a column gets another type.
    pub internal: bool,
}

/// What runs before an object goes; an error refuses it.
fn before_drop(drop: Drop) -> Result<()> {
    residency_column::before_drop(drop)?;
    dropping::before_drop(drop)?;
    subscribers::before_drop(drop)?;
    history::before_drop(drop);
    Ok(())
}

/// What runs before a table is truncated; an error refuses it.
fn before_truncate(table: pg_sys::Oid) -> Result<()> {
    written::before_truncate(table)?;
    foreign::before_truncate(table)
}

/// What runs before a function is called for the first time in a statement; an error refuses it.
fn before_execute(function: pg_sys::Oid) -> Result<()> {
    function::before_execute(function)
}

/// What runs when a child has come to a parent or is leaving it, before it is gone; an error refuses it.
fn before_leaving(child: pg_sys::Oid, parent: pg_sys::Oid) -> Result<()> {
    veto::before_leaving(child, parent)
}

/// Whether anybody cares: cheap, since the server asks for every function of every statement.
fn concerns(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
) -> bool {
    match access {
        pg_sys::ObjectAccessType::OAT_POST_CREATE => telling::concerns(class),
        pg_sys::ObjectAccessType::OAT_DROP | pg_sys::ObjectAccessType::OAT_TRUNCATE => true,
        pg_sys::ObjectAccessType::OAT_POST_ALTER => class == catalog::PG_INHERITS,
        pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE => function::concerns(object),
        _ => false,
    }
}

static PREVIOUS: Hook<
    unsafe extern "C-unwind" fn(
        pg_sys::ObjectAccessType::Type,
        pg_sys::Oid,
        pg_sys::Oid,
        c_int,
        *mut c_void,
    ),
> = Hook::new();

#[pg_guard]
extern "C-unwind" fn run(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub: c_int,
    internal: bool,
    auxiliary: pg_sys::Oid,
) {
    let verdict = match access {
        pg_sys::ObjectAccessType::OAT_DROP => before_drop(Drop {
            class,
            object,
            sub,
            internal,
        }),
        pg_sys::ObjectAccessType::OAT_POST_CREATE => {
            telling::after_create(class, object);
            Ok(())
        }
        pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE => before_execute(object),
        // Of an entry of pg_inherits: the parent is the other object.
        pg_sys::ObjectAccessType::OAT_POST_ALTER => before_leaving(object, auxiliary),
        // Of each table that a TRUNCATE reaches, partitions and children too, once it is locked.
        pg_sys::ObjectAccessType::OAT_TRUNCATE => before_truncate(object),
        _ => Ok(()),
    };
    if let Err(error) = verdict {
        report::raise(error);
    }
}

/// Unguarded on purpose, and without a local that needs dropping: errors of other hooks pass unchanged.
unsafe extern "C-unwind" fn hook(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub: c_int,
    arg: *mut c_void,
) {
    // SAFETY: arguments are passed on as they came; PREVIOUS is written once, before any statement runs. The argument of
    // a drop is its flags, or NULL, and that of an alteration names the other object.
    unsafe {
        if let Some(previous) = PREVIOUS.previous() {
            previous(access, class, object, sub, arg);
        }
        // Without a transaction no catalog can be read.
        if concerns(access, class, object) && pg_sys::IsTransactionState() {
            let internal = access == pg_sys::ObjectAccessType::OAT_DROP
                && arg
                    .cast::<pg_sys::ObjectAccessDrop>()
                    .as_ref()
                    .is_some_and(|drop| {
                        drop.dropflags & pg_sys::PERFORM_DELETION_INTERNAL as c_int != 0
                    });
            let auxiliary = if access == pg_sys::ObjectAccessType::OAT_POST_ALTER {
                arg.cast::<pg_sys::ObjectAccessPostAlter>()
                    .as_ref()
                    .map_or(pg_sys::Oid::INVALID, |altered| altered.auxiliary_id)
            } else {
                pg_sys::Oid::INVALID
            };
            run(access, class, object, sub, internal, auxiliary);
        }
    }
}

/// Installs the hook behind whatever is there.
pub fn init() {
    // SAFETY: called once from _PG_init, before any statement runs in this process.
    unsafe { PREVIOUS.install(&raw mut pg_sys::object_access_hook, hook) };
}
