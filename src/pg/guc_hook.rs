//! Check hooks on settings of the server: chained behind whatever is there.

use std::ffi::{CStr, c_char};

use pgrx::pg_sys;

use crate::error::{Error, Result};

/// The record of a setting of the server.
fn find(name: &CStr) -> Result<*mut pg_sys::config_generic> {
    crate::compat::find_setting(name).ok_or_else(|| {
        Error::internal(format!("setting {} does not exist", name.to_string_lossy()))
    })
}

/// Puts a check hook on a setting of type boolean; returns the one that was there.
pub fn chain_bool(name: &CStr, hook: pg_sys::GucBoolCheckHook) -> Result<pg_sys::GucBoolCheckHook> {
    let record = find(name)?;
    // SAFETY: the record is the server's own and lives as long as the process; its type says what it is.
    unsafe {
        if (*record).vartype != pg_sys::config_type::PGC_BOOL {
            return Err(Error::internal("a setting is not boolean"));
        }
        let record = record.cast::<pg_sys::config_bool>();
        Ok(std::mem::replace(&mut (*record).check_hook, hook))
    }
}

/// The same for a setting that is one of several words.
pub fn chain_enum(name: &CStr, hook: pg_sys::GucEnumCheckHook) -> Result<pg_sys::GucEnumCheckHook> {
    let record = find(name)?;
    // SAFETY: as above.
    unsafe {
        if (*record).vartype != pg_sys::config_type::PGC_ENUM {
            return Err(Error::internal("a setting is not an enumeration"));
        }
        let record = record.cast::<pg_sys::config_enum>();
        Ok(std::mem::replace(&mut (*record).check_hook, hook))
    }
}

/// The same for a setting that is text.
pub fn chain_string(
    name: &CStr,
    hook: pg_sys::GucStringCheckHook,
) -> Result<pg_sys::GucStringCheckHook> {
    let record = find(name)?;
    // SAFETY: as above.
    unsafe {
        if (*record).vartype != pg_sys::config_type::PGC_STRING {
            return Err(Error::internal("a setting is not text"));
        }
        let record = record.cast::<pg_sys::config_string>();
        Ok(std::mem::replace(&mut (*record).check_hook, hook))
    }
}

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
