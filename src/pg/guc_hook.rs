//! Settings: check hooks on those of the server, chained behind whatever is there, and what the definitions of our own
//! need of it.

use std::ffi::{CStr, CString, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use pgrx::guc::{GucContext, GucEnum, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;
use pgrx::pg_sys::submodules::panic::pgrx_extern_c_guard;

use crate::error::{Error, Result};
use crate::pg::hook::Hook;

/// A check hook on a setting that is on or off.
pub type BoolCheck =
    unsafe extern "C-unwind" fn(*mut bool, *mut *mut c_void, pg_sys::GucSource::Type) -> bool;

/// A check hook on a setting that is one of several words.
pub type EnumCheck =
    unsafe extern "C-unwind" fn(*mut i32, *mut *mut c_void, pg_sys::GucSource::Type) -> bool;

/// A check hook on a setting that is text.
pub type StringCheck = unsafe extern "C-unwind" fn(
    *mut *mut c_char,
    *mut *mut c_void,
    pg_sys::GucSource::Type,
) -> bool;

/// The record of a setting of the server.
fn find(name: &CStr) -> Result<*mut pg_sys::config_generic> {
    crate::pg::compat::find_setting(name).ok_or_else(|| {
        Error::internal(format!("setting {} does not exist", name.to_string_lossy()))
    })
}

macro_rules! chain {
    ($(#[$doc:meta])* $name:ident, $check:ty, $kind:ident, $record:ident, $problem:literal) => {
        $(#[$doc])*
        pub(super) fn $name(name: &CStr, previous: &Hook<$check>, hook: $check) -> Result<()> {
            let record = find(name)?;
            // SAFETY: called from _PG_init. The record is the server's own and lives as long as the process; its type says
            // what it is.
            unsafe {
                if (*record).vartype != pg_sys::config_type::$kind {
                    return Err(Error::internal($problem));
                }
                let record = record.cast::<pg_sys::$record>();
                previous.install(&raw mut (*record).check_hook, hook);
            }
            Ok(())
        }
    };
}

chain!(
    /// Puts a check hook, which must call `previous`, on a setting of type boolean.
    chain_bool, BoolCheck, PGC_BOOL, config_bool, "a setting is not boolean"
);
chain!(
    /// The same for a setting that is one of several words.
    chain_enum, EnumCheck, PGC_ENUM, config_enum, "a setting is not an enumeration"
);
chain!(
    /// The same for a setting that is text.
    chain_string, StringCheck, PGC_STRING, config_string, "a setting is not text"
);

/// The value of a setting as `SHOW` would give it; `None` when there is no such setting.
pub fn value(name: &CStr) -> Option<String> {
    // SAFETY: the name is NUL-terminated; the result is NULL or a NUL-terminated string, copied at once.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
    }
}

/// Whether the value in force came from a configuration file.
pub fn is_from_file(name: &CStr) -> bool {
    // SAFETY: the record is the server's own.
    find(name).is_ok_and(|record| unsafe { (*record).source == pg_sys::GucSource::PGC_S_FILE })
}

/// The configuration file that the value in force came from; `None` when it came from elsewhere, such as the command line.
pub fn source_file(name: &CStr) -> Option<PathBuf> {
    let record = find(name).ok()?;
    // SAFETY: the record is the server's own; NULL or the NUL-terminated name of a file, copied at once.
    unsafe {
        // The server notes the file of a value that the command line overrides as well.
        if (*record).source != pg_sys::GucSource::PGC_S_FILE {
            return None;
        }
        let file = (*record).sourcefile;
        (!file.is_null()).then(|| PathBuf::from(OsStr::from_bytes(CStr::from_ptr(file).to_bytes())))
    }
}

/// Whether the value in force is one that ALTER SYSTEM wrote.
pub fn is_from_alter_system(name: &CStr) -> bool {
    source_file(name).is_some_and(|file| file.ends_with("postgresql.auto.conf"))
}

/// Empties a setting as what set it could have done, so that the next change of a file is followed again. For the
/// postmaster while it starts. Whether it is empty then.
pub fn empty(name: &CStr) -> bool {
    let Ok(record) = find(name) else {
        return false;
    };
    // SAFETY: the record is the server's own; the name is NUL-terminated.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            c"".as_ptr(),
            pg_sys::GucContext::PGC_POSTMASTER,
            (*record).source,
            pg_sys::GucAction::GUC_ACTION_SET,
            true,
            0,
            false,
        );
    }
    value(name).is_some_and(|value| value.is_empty())
}

/// Says why a check hook refuses a value.
pub fn refuse_value(detail: &CStr) -> bool {
    // SAFETY: called from within a check hook; the string is copied into the server's memory.
    unsafe {
        pg_sys::GUC_check_errcode(pgrx::PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE as i32);
        pg_sys::GUC_check_errdetail_string = pg_sys::pstrdup(detail.as_ptr());
    }
    false
}

/// Says what is wrong with a value that a check hook cannot read.
pub fn invalid_value(detail: &str) -> bool {
    let detail = std::ffi::CString::new(detail).unwrap_or_default();
    // SAFETY: as above; the code of an invalid value is the one the server takes by itself.
    unsafe { pg_sys::GUC_check_errdetail_string = pg_sys::pstrdup(detail.as_ptr()) };
    false
}

/// Sets a setting for the rest of this session: nothing but the session itself can change it then.
pub fn force(name: &CStr, value: &CStr) {
    let value: *const c_char = value.as_ptr();
    // SAFETY: both strings are NUL-terminated; the server copies the value.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value,
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// The value of a setting that gates ask for with each statement, without looking at each time which thread asks.
#[inline]
pub fn in_force<T: GucEnum>(setting: &GucSetting<T>) -> T {
    // SAFETY: the server keeps a number of the type there, and changes it only in the one thread that runs queries.
    T::from_ordinal(unsafe { *setting.as_ptr() })
}

/// Whether the server is loading the libraries of shared_preload_libraries.
pub fn is_preloading() -> bool {
    // SAFETY: reads a variable of the server.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Has the server refuse settings with this prefix that are not defined. After the last definition.
pub fn reserve_prefix(prefix: &'static CStr) {
    // SAFETY: NUL-terminated; the server copies it.
    unsafe { pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) };
}

/// Whether the session applies changes of another server, which fires no ordinary triggers.
pub fn is_replication_role() -> bool {
    // SAFETY: reads a setting of this session.
    let role = unsafe { pg_sys::SessionReplicationRole } as u32;
    role == pg_sys::SESSION_REPLICATION_ROLE_REPLICA
}

/// A setting of ours whose text is checked before it is taken.
pub trait Checked {
    /// What is wrong with the value, if something is.
    fn check(value: &str) -> std::result::Result<(), String>;
}

unsafe extern "C-unwind" fn check<T: Checked>(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    let look = || {
        // SAFETY: the server passes a pointer to the new value, which is NULL or a NUL-terminated string.
        let text = unsafe {
            match (*value).is_null() {
                true => return true,
                false => CStr::from_ptr(*value).to_string_lossy(),
            }
        };
        match T::check(&text) {
            Ok(()) => true,
            Err(detail) => invalid_value(&detail),
        }
    };
    // SAFETY: called by the server's C code alone; nothing here needs dropping when an error passes.
    unsafe { pgrx_extern_c_guard(look) }
}

/// Defines such a setting.
pub fn define_checked_text<T: Checked>(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
    context: GucContext,
) {
    // SAFETY: the check hook is guarded, and reads only what the server passes.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            short,
            long,
            setting,
            context,
            GucFlags::default(),
            Some(check::<T>),
            None,
            None,
        );
    }
}
