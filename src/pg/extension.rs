//! Which extensions there are, and which one an object belongs to.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::pg::{relation, xact};

/// Whether an extension is installed in this database.
pub fn is_installed(name: &CStr) -> bool {
    // SAFETY: a catalog lookup inside a transaction, by a NUL-terminated name; a missing one gives no OID.
    unsafe { pg_sys::get_extension_oid(name.as_ptr(), true) != pg_sys::Oid::INVALID }
}

/// The name of the extension that an object of a catalog belongs to.
pub fn of_object(class: pg_sys::Oid, object: pg_sys::Oid) -> Option<String> {
    // SAFETY: catalog lookups inside a transaction; the name is NULL or NUL-terminated, and is copied at once.
    unsafe {
        let extension = pg_sys::getExtensionOfObject(class, object);
        if extension == pg_sys::Oid::INVALID {
            return None;
        }
        let name = pg_sys::get_extension_name(extension);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

/// Whether the script that is being run, if any, is this extension's own.
pub fn is_in_own_script() -> bool {
    // SAFETY: reads backend-local variables; the object is that of the script while one is being run.
    xact::in_extension_script()
        && relation::extension_oid() == Some(unsafe { pg_sys::CurrentExtensionObject })
}
