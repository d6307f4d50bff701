//! Foreign servers and foreign-data wrappers, as the catalogs have them.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use crate::pg::{list, statement};

/// A foreign server.
pub struct Server {
    pub name: CString,
    pub wrapper: pg_sys::Oid,
    pub owner: pg_sys::Oid,
    pub options: BTreeMap<String, String>,
}

/// A copy of the server's record.
///
/// # Safety
/// `found` must be NULL or a record that the server made.
unsafe fn server(found: *const pg_sys::ForeignServer) -> Option<Server> {
    // SAFETY: by the caller's promise: the name is NUL-terminated, and the options are a list of DefElem nodes.
    unsafe {
        let found = found.as_ref()?;
        Some(Server {
            name: CStr::from_ptr(found.servername).to_owned(),
            wrapper: found.fdwid,
            owner: found.owner,
            options: changed(BTreeMap::new(), &list::items(found.options)),
        })
    }
}

/// The server of this name, if there is one.
pub fn named(name: &CStr) -> Option<Server> {
    // SAFETY: a catalog lookup with a NUL-terminated name, which may find nothing.
    unsafe { server(pg_sys::GetForeignServerByName(name.as_ptr(), true)) }
}

/// The server of a foreign table. Raises an error where the table is none.
pub fn of_table(table: pg_sys::Oid) -> Option<Server> {
    // SAFETY: catalog lookups by OID, which find a record or raise an error.
    unsafe {
        let id = (*pg_sys::GetForeignTable(table)).serverid;
        server(pg_sys::GetForeignServer(id))
    }
}

/// The foreign-data wrapper of this name, if there is one.
pub fn wrapper_named(name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: a catalog lookup with a NUL-terminated name, which may find nothing.
    let oid = unsafe { pg_sys::get_foreign_data_wrapper_oid(name.as_ptr(), true) };
    (oid != pg_sys::Oid::INVALID).then_some(oid)
}

/// Whether a foreign-data wrapper has a handler. Raises an error where there is no such wrapper.
pub fn has_handler(wrapper: pg_sys::Oid) -> bool {
    // SAFETY: a catalog lookup by OID, which finds a record or raises an error.
    unsafe { (*pg_sys::GetForeignDataWrapper(wrapper)).fdwhandler != pg_sys::Oid::INVALID }
}

/// Options after a list of changes to them.
pub fn changed(
    mut options: BTreeMap<String, String>,
    changes: &[&pg_sys::Node],
) -> BTreeMap<String, String> {
    for option in changes
        .iter()
        .copied()
        .filter_map(statement::cast::<pg_sys::DefElem>)
    {
        let name = statement::string!(option.defname);
        match statement::value_of(option) {
            Some(value) if option.defaction != pg_sys::DefElemAction::DEFELEM_DROP => {
                options.insert(name, value.to_string_lossy().into_owned());
            }
            _ => {
                options.remove(&name);
            }
        }
    }
    options
}
