//! Whose rights code runs with, and under which settings.
//!
//! Two changes of identity exist. [`as_extension_owner`] reads and writes the extension's own tables for a
//! caller who may not. [`as_table_owner`] touches somebody's table with that owner's rights only, in a
//! security-restricted operation, so that triggers, generated columns, index expressions and operators of
//! that owner gain nothing.
//!
//! Every query of the extension runs under the settings pinned here, whoever runs it: `pg::fresh` and `pg::spi`
//! pin them, so that no caller can forget to.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::relation;
use crate::pg::setting::{self, For};

/// Settings that both identities run under: names and operators resolve in pg_catalog alone, and neither what
/// is seen nor text forms of values depend on the session.
const PINNED: [(&CStr, &CStr); 9] = [
    (c"search_path", c"pg_catalog, pg_temp"),
    // A query that another role's row security would filter fails instead: a row that is not seen must not
    // count as one that is not there.
    (c"row_security", c"off"),
    (c"TimeZone", c"UTC"),
    (c"DateStyle", c"ISO"),
    (c"IntervalStyle", c"iso_8601"),
    (c"bytea_output", c"hex"),
    (c"extra_float_digits", c"1"),
    (c"default_text_search_config", c"pg_catalog.simple"),
    // Conditions over many tables are long, and estimated to be dear: compiling one took minutes where running
    // it took milliseconds.
    (c"jit", c"off"),
];

/// An identity, and perhaps settings, that end when this is dropped, also while an error unwinds.
struct Scope {
    user: pg_sys::Oid,
    context: i32,
    /// The level of settings that ends with it.
    nest: Option<i32>,
}

impl Scope {
    /// With `settings` they are those pinned here, in a level of their own.
    fn enter(identity: Option<(pg_sys::Oid, u32)>, settings: bool) -> Scope {
        let mut user = pg_sys::Oid::INVALID;
        let mut context = 0;
        let nest = settings.then(|| {
            // SAFETY: changes backend-local state alone.
            unsafe { pg_sys::NewGUCNestLevel() }
        });
        // SAFETY: both out-pointers are valid; the call only reads backend-local state.
        unsafe { pg_sys::GetUserIdAndSecContext(&mut user, &mut context) };
        // From here on a failure restores what was changed, since the scope is dropped.
        let scope = Scope {
            user,
            context,
            nest,
        };
        if settings {
            for (name, value) in PINNED {
                scope.set(name, value);
            }
        }
        if let Some((role, flags)) = identity {
            // SAFETY: switching the user id inside a transaction; Drop, or the transaction's abort, restores it.
            unsafe { pg_sys::SetUserIdAndSecContext(role, context | flags as i32) };
        }
        scope
    }

    /// Sets it until the scope's level of settings ends.
    fn set(&self, name: &CStr, value: &CStr) {
        setting::set(name, value, For::Level);
    }
}

/// Pins the settings, and `more`, for as long as this process lives, outside a transaction: for workers, which run nobody's
/// session. Each query costs less then.
pub fn pin_settings(more: &[(&CStr, &CStr)]) {
    for (name, value) in PINNED.iter().chain(more) {
        setting::set(name, value, For::Session);
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        // SAFETY: the nest level and identity are the ones saved by `enter` in this same transaction.
        unsafe {
            if let Some(nest) = self.nest {
                pg_sys::AtEOXact_GUC(false, nest);
            }
            pg_sys::SetUserIdAndSecContext(self.user, self.context);
        }
    }
}

thread_local! {
    /// How many calls of [`as_extension_owner`] this process is in.
    static AS_EXTENSION_OWNER: Cell<u32> = const { Cell::new(0) };
}

/// Counts one call, until it is dropped, also while an error unwinds.
struct Counted;

impl Counted {
    fn new() -> Counted {
        AS_EXTENSION_OWNER.set(AS_EXTENSION_OWNER.get() + 1);
        Counted
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        AS_EXTENSION_OWNER.set(AS_EXTENSION_OWNER.get() - 1);
    }
}

/// Whether the extension is reading or writing its own tables for a caller right now.
pub fn is_extension_owner() -> bool {
    AS_EXTENSION_OWNER.get() > 0
}

/// Runs `work` as the owner of the extension with pinned settings. For the extension's own tables only:
/// nothing that a user's object could hook into may run inside.
pub fn as_extension_owner<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let owner = relation::extension_owner()?;
    let _counted = Counted::new();
    let identity = (owner, pg_sys::SECURITY_LOCAL_USERID_CHANGE);
    let _scope = Scope::enter(Some(identity), !are_settings_pinned());
    work()
}

/// Runs `work` as the owner `role` of somebody's table: security-restricted, row security not forced,
/// settings pinned. Deferred constraints must have been made immediate before.
pub fn as_table_owner<T>(role: pg_sys::Oid, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let flags = pg_sys::SECURITY_LOCAL_USERID_CHANGE
        | pg_sys::SECURITY_RESTRICTED_OPERATION
        | pg_sys::SECURITY_NOFORCE_RLS;
    let scope = Scope::enter(Some((role, flags)), true);
    // What goes by foreign keys' actions is counted by them. No owner can switch them off again.
    scope.set(c"track_counts", c"on");
    work()
}

/// Whether the settings in force are the pinned ones. Compares what is in force, not who entered a scope:
/// inside one, code of a user may run that changes settings and comes back here.
fn are_settings_pinned() -> bool {
    PINNED.iter().all(|(name, value)| match in_force(name) {
        // The order of day and month, which ISO does not need, is named as well.
        Some(found) if *name == c"DateStyle" => found.to_bytes().starts_with(b"ISO,"),
        Some(found) => found == *value,
        None => false,
    })
}

/// The value of a setting, valid until settings change or the next one is asked for.
fn in_force<'a>(name: &CStr) -> Option<&'a CStr> {
    // SAFETY: the name is NUL-terminated; the result is NULL or a NUL-terminated string, static or the setting's own.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value))
    }
}

/// Runs `work`, queries over catalogs that name tables in a good order, without looking for a better one: planning a
/// query over many of them takes longer than running it.
pub fn joining_as_written<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let scope = Scope::enter(None, true);
    scope.set(c"join_collapse_limit", c"1");
    work()
}

/// Runs `work` with pinned settings and the caller's identity. Costs little where they are pinned already.
pub fn with_pinned_settings<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    if are_settings_pinned() {
        return work();
    }
    let _scope = Scope::enter(None, true);
    work()
}
