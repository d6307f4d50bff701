//! Check hooks of the settings gate on settings of the server.

use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pgrx::pg_sys;

use crate::error::Result;
use crate::guard::settings::{self, GUARDED};
use crate::pg::guc_hook::{self, StringCheck};
use crate::pg::hook::Hook;

/// A value about to be given to a setting of the server.
pub struct NewValue<'a> {
    /// Where the server keeps it meanwhile; not NULL.
    value: *mut *mut c_char,
    call: PhantomData<&'a mut c_char>,
}

impl NewValue<'_> {
    /// The value; `None` for none.
    pub fn text(&self) -> Option<&CStr> {
        // SAFETY: the server's hook was called with a pointer to NULL or a NUL-terminated string.
        unsafe {
            let text = *self.value;
            (!text.is_null()).then(|| CStr::from_ptr(text))
        }
    }

    /// Makes it an empty text.
    pub fn empty(&mut self) {
        // SAFETY: as above; a string of the server's that a check hook may change, with room for its end.
        unsafe {
            let text = *self.value;
            if !text.is_null() {
                *text = 0;
            }
        }
    }
}

static PREVIOUS: [Hook<StringCheck>; GUARDED.len()] = [const { Hook::new() }; GUARDED.len()];

/// Why the value may not come into force, as the server shows it.
fn fault(at: usize, new: *mut *mut c_char) -> Option<std::ffi::CString> {
    let look = || {
        settings::inspect(
            at,
            &mut NewValue {
                value: new,
                call: PhantomData,
            },
        )
    };
    let reason = match catch_unwind(AssertUnwindSafe(look)) {
        Ok(reason) => reason?,
        Err(_) => "The guard failed on it.".to_owned(),
    };
    let text = format!("{reason} {}", settings::hint(GUARDED[at].1));
    Some(std::ffi::CString::new(text).unwrap_or_default())
}

/// One check hook, for the setting at `AT`. Unguarded on purpose: the hook before it may raise errors of its own.
unsafe extern "C-unwind" fn hook<const AT: usize>(
    new: *mut *mut c_char,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    if let Some(text) = fault(AT, new) {
        return guc_hook::refuse_value(&text);
    }
    // SAFETY: the arguments are passed on as they came.
    unsafe {
        match PREVIOUS[AT].previous() {
            Some(previous) => previous(new, extra, source),
            None => true,
        }
    }
}

/// Installs the hooks. Only while preloading.
pub fn init() -> Result<()> {
    const HOOKS: [StringCheck; GUARDED.len()] = [
        hook::<0>, hook::<1>, hook::<2>, hook::<3>, hook::<4>, hook::<5>, hook::<6>, hook::<7>,
        hook::<8>, hook::<9>, hook::<10>,
    ];
    for (at, (name, _)) in GUARDED.iter().enumerate() {
        guc_hook::chain_string(name, &PREVIOUS[at], HOOKS[at])?;
    }
    Ok(())
}
