//! Every difference between PostgreSQL versions that the extension must bridge.

use std::ffi::CStr;
use std::marker::PhantomData;

use pgrx::pg_sys;

use crate::guard::seen::{self, Read};
use crate::pg::executor::Starting;
use crate::pg::list;

/// The record of a setting. Up to 15 the settings are an array, from 16 on they are looked up by name.
pub fn find_setting(name: &CStr) -> Option<*mut pg_sys::config_generic> {
    #[cfg(feature = "pg15")]
    {
        // SAFETY: the array has as many valid pointers as the server says, each with a NUL-terminated name.
        unsafe {
            let all = pg_sys::get_guc_variables();
            let count = usize::try_from(pg_sys::GetNumConfigOptions()).ok()?;
            (0..count)
                .map(|at| *all.add(at))
                .find(|record| CStr::from_ptr((**record).name) == name)
        }
    }
    #[cfg(not(feature = "pg15"))]
    {
        unsafe extern "C-unwind" {
            fn find_option(
                name: *const std::ffi::c_char,
                create_placeholders: bool,
                skip_errors: bool,
                elevel: std::ffi::c_int,
            ) -> *mut pg_sys::config_generic;
        }
        // SAFETY: NUL-terminated; with skip_errors the function returns NULL for a name it does not know.
        let record = unsafe { find_option(name.as_ptr(), false, true, 0) };
        (!record.is_null()).then_some(record)
    }
}

/// A relation that a query is about to use: which rights it asks for, and which columns it reads.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    /// Its number in the range table, from 1; 0 when it is not there.
    pub entry: u32,
    pub relation: pg_sys::Oid,
    pub required: u32,
    /// Offset by `FirstLowInvalidHeapAttributeNumber`.
    read: *mut pg_sys::Bitmapset,
    /// Whether it sets columns of rows that are there: an UPDATE, and not a row lock, which asks for the same right.
    pub updates: bool,
    plan: PhantomData<&'a pg_sys::Bitmapset>,
}

impl Access<'_> {
    /// What is asked for, to compare with; `None` where it reads columns of higher numbers than that holds.
    #[inline]
    pub fn read(&self) -> Option<Read> {
        let mut columns = [0; seen::WORDS];
        // SAFETY: NULL or a set with as many words as it says, which lives as long as the plan.
        if let Some(set) = unsafe { self.read.as_ref() } {
            // SAFETY: as above. Word by word, since a copy of so few costs more.
            match unsafe { set.words.as_slice(usize::try_from(set.nwords).ok()?) } {
                [low] => columns[0] = *low,
                [low, high] => columns = [*low, *high],
                _ => return None,
            }
        }
        Some(Read {
            relation: self.relation.to_u32(),
            required: self.required,
            updates: self.updates,
            columns,
        })
    }

    /// The numbers of the columns that it reads, in ascending order: negative for system columns, 0 for the row as a whole.
    pub fn attributes(&self) -> impl Iterator<Item = i32> {
        let mut member = -1;
        std::iter::from_fn(move || {
            // SAFETY: as above.
            member = unsafe { pg_sys::bms_next_member(self.read, member) };
            (member >= 0).then_some(member + pg_sys::FirstLowInvalidHeapAttributeNumber)
        })
    }
}

/// What `ExecutorCheckPerms_hook` is called with, while it runs: the range table, and from 16 on permission records.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    range_table: *mut pg_sys::List,
    #[cfg_attr(feature = "pg15", allow(dead_code))]
    permissions: *mut pg_sys::List,
    call: PhantomData<&'a pg_sys::List>,
}

impl<'a> Asked<'a> {
    /// # Safety
    /// Both must be what the hook was called with, and the result must not outlive the call. Up to 15 `permissions` is not
    /// looked at.
    #[inline]
    pub unsafe fn new(range_table: *mut pg_sys::List, permissions: *mut pg_sys::List) -> Self {
        Asked {
            range_table,
            permissions,
            call: PhantomData,
        }
    }

    /// The statement that asks, if it is one that the executor is starting.
    pub fn starting(self) -> Option<Starting<'a>> {
        // SAFETY: as `new` was promised, this is used during the call of the hook, and so is what comes of it.
        unsafe { Starting::of(self.range_table) }
    }

    /// The range table.
    pub fn entries(self) -> Vec<&'a pg_sys::RangeTblEntry> {
        // SAFETY: as `new` was promised, a list of range table entries.
        unsafe { list::items(self.range_table) }
    }

    /// Whether `test` holds for all of the range table: takes no memory.
    #[inline]
    pub fn every_entry(self, test: impl FnMut(&pg_sys::RangeTblEntry) -> bool) -> bool {
        // SAFETY: as above.
        unsafe { list::all(self.range_table, test) }
    }

    /// The relations that are used.
    pub fn accesses(self) -> Vec<Access<'a>> {
        let entries = self.entries();
        #[cfg(feature = "pg15")]
        {
            (1..)
                .zip(entries)
                .filter(|(_, entry)| entry.rtekind == pg_sys::RTEKind::RTE_RELATION)
                .map(|(number, entry)| Access {
                    entry: number,
                    relation: entry.relid,
                    required: entry.requiredPerms,
                    read: entry.selectedCols,
                    updates: !entry.updatedCols.is_null(),
                    plan: PhantomData,
                })
                .collect()
        }
        #[cfg(not(feature = "pg15"))]
        {
            // SAFETY: as `new` was promised, a list of permission records.
            let permissions = unsafe { list::items::<pg_sys::RTEPermissionInfo>(self.permissions) };
            (1..)
                .zip(permissions)
                .map(|(index, entry)| Access {
                    entry: (1..)
                        .zip(&entries)
                        .find(|(_, known)| known.perminfoindex == index)
                        .map_or(0, |(number, _)| number),
                    relation: entry.relid,
                    required: entry.requiredPerms as u32,
                    read: entry.selectedCols,
                    updates: !entry.updatedCols.is_null(),
                    plan: PhantomData,
                })
                .collect()
        }
    }

    /// Whether `test` holds for all that [`Asked::accesses`] gives, without their numbers in the range table: takes no
    /// memory.
    #[inline]
    pub fn every_access(self, mut test: impl FnMut(&Access) -> bool) -> bool {
        #[cfg(feature = "pg15")]
        {
            self.every_entry(|entry| {
                entry.rtekind != pg_sys::RTEKind::RTE_RELATION
                    || test(&Access {
                        entry: 0,
                        relation: entry.relid,
                        required: entry.requiredPerms,
                        read: entry.selectedCols,
                        updates: !entry.updatedCols.is_null(),
                        plan: PhantomData,
                    })
            })
        }
        #[cfg(not(feature = "pg15"))]
        {
            let test = |entry: &pg_sys::RTEPermissionInfo| {
                test(&Access {
                    entry: 0,
                    relation: entry.relid,
                    required: entry.requiredPerms as u32,
                    read: entry.selectedCols,
                    updates: !entry.updatedCols.is_null(),
                    plan: PhantomData,
                })
            };
            // SAFETY: as `new` was promised, a list of permission records.
            unsafe { list::all(self.permissions, test) }
        }
    }
}

/// The number of the transaction in this session: no two transactions of a session share one.
pub fn local_transaction_id() -> u32 {
    // SAFETY: reads the session's own entry in shared memory, which only the session itself changes.
    unsafe {
        let Some(process) = pg_sys::MyProc.as_ref() else {
            return 0;
        };
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return process.lxid;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        return process.vxid.lxid;
    }
}

/// Whether a process is one of the server itself, rather than one that serves a client.
pub fn is_of_the_server(process: &pg_sys::PGPROC) -> bool {
    #[cfg(not(feature = "pg18"))]
    return process.isBackgroundWorker;
    #[cfg(feature = "pg18")]
    return !process.isRegularBackend;
}

/// Whether a role owns a relation (membership counts, superusers always).
///
/// # Safety
/// Inside a transaction.
pub unsafe fn owns_relation(relation: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: a cached catalog lookup by OID.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pg_class_ownercheck(relation, role);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::object_ownercheck(pg_sys::RelationRelationId, relation, role);
    }
}

/// Whether a role owns a type (membership counts, superusers always).
///
/// # Safety
/// Inside a transaction; the type must exist.
pub unsafe fn owns_type(type_oid: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: a cached catalog lookup by OID.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pg_type_ownercheck(type_oid, role);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::object_ownercheck(pg_sys::TypeRelationId, type_oid, role);
    }
}
