//! The statement whose permissions the executor is about to check.
//!
//! `ExecutorCheckPerms_hook` is handed the range table and no more. What else there is to know of the statement comes from
//! here: it is kept from the executor's start until the check, and only for sessions that are not known to be inside.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use pgrx::pg_sys;

use crate::guard::session;
use crate::guc;
use crate::pg::hook::Hook;
use crate::pg::parameters::Parameters;
use crate::pg::plan;

/// A statement at its start, while its permissions are checked.
#[derive(Clone, Copy)]
pub struct Starting<'a> {
    query: *mut pg_sys::QueryDesc,
    flags: c_int,
    check: PhantomData<&'a pg_sys::QueryDesc>,
}

/// The statement that is starting, or NULL, and its flags. A process has one thread that runs queries; unlike a variable of
/// the thread, this costs a statement no call.
static QUERY: AtomicPtr<pg_sys::QueryDesc> = AtomicPtr::new(null_mut());
static FLAGS: AtomicI32 = AtomicI32::new(0);

/// Forgets the statement that is starting: its permissions are checked.
#[inline]
pub fn forget() {
    QUERY.store(null_mut(), Ordering::Relaxed);
}

impl<'a> Starting<'a> {
    /// The statement to which this range table belongs, if it is the one that is starting.
    ///
    /// # Safety
    /// The result must not outlive the check of that range table's permissions.
    pub unsafe fn of(range_table: *mut pg_sys::List) -> Option<Self> {
        let starting = Starting {
            query: QUERY.swap(null_mut(), Ordering::Relaxed),
            flags: FLAGS.load(Ordering::Relaxed),
            check: PhantomData,
        };
        if starting.query.is_null() {
            return None;
        }
        // SAFETY: it is kept while the executor's start runs, and no longer, and so is what it points to. The check is part of
        // that start.
        let known = unsafe { (*(*starting.query).plannedstmt).rtable };
        (!known.is_null() && known == range_table).then_some(starting)
    }

    /// The scans of its plan with the parameters it has; `None` as [`plan::scans`] has it.
    pub fn scans(self) -> Option<Vec<plan::Scan>> {
        // SAFETY: as above.
        unsafe { plan::scans((*self.query).plannedstmt, self.parameters()) }
    }

    /// What its plan has in place of an entry of the range table: see [`plan::family`].
    pub fn family(self, entry: u32) -> Vec<u32> {
        // SAFETY: as above.
        unsafe { plan::family((*self.query).plannedstmt, entry) }
    }

    /// Whether it is a part of a leader's statement, which a parallel worker executes: the leader's session was asked about
    /// all of it. What a function in it reads is another statement, whose rows go elsewhere.
    pub fn is_of_leader(self) -> bool {
        // SAFETY: as above; NULL or where its rows go. Those of the leader's part alone go into a queue.
        unsafe { (*self.query).dest.as_ref() }
            .is_some_and(|to| to.mydest == pg_sys::CommandDest::DestTupleQueue)
    }

    /// What it is executed with. They stay what they are to its end.
    fn parameters(self) -> Parameters {
        // SAFETY: as above.
        Parameters::Now(unsafe { (*self.query).params })
    }

    /// Whether the statement is explained, or counted row by row for another reason.
    pub fn is_explained(self) -> bool {
        // SAFETY: as above. By now other hooks have asked for the counts that they want.
        let counts = unsafe { (*self.query).instrument_options };
        counts != 0 || self.flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as c_int != 0
    }
}

static PREVIOUS: Hook<unsafe extern "C-unwind" fn(*mut pg_sys::QueryDesc, c_int)> = Hook::new();

// The raw declaration: calling through pg_sys would strip context and cursor position from every error that passes.
unsafe extern "C-unwind" {
    fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: c_int);
}

/// Unguarded on purpose, and without a local that needs dropping, as the permission check's.
unsafe extern "C-unwind" fn hook(query: *mut pg_sys::QueryDesc, flags: c_int) {
    let outside = !session::is_known_inside();
    if outside {
        FLAGS.store(flags, Ordering::Relaxed);
        QUERY.store(query, Ordering::Relaxed);
    }
    // SAFETY: PREVIOUS is written once, in the postmaster; the arguments are passed on as they came.
    unsafe {
        match PREVIOUS.previous() {
            Some(previous) => previous(query, flags),
            None => standard_ExecutorStart(query, flags),
        }
    }
    if outside {
        forget();
    }
}

unsafe extern "C-unwind" fn at_end_of_subtransaction(
    _event: pg_sys::SubXactEvent::Type,
    _own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    forget();
}

/// Installs the hook in front of whatever is there. Only while preloading.
pub fn init() {
    if !guc::preloaded() {
        return;
    }
    // SAFETY: called once from _PG_init, in the postmaster. After an error nothing of the statement is
    // left: the end of its transaction forgets it too (`xact.rs`).
    unsafe {
        PREVIOUS.install(&raw mut pg_sys::ExecutorStart_hook, hook);
        pg_sys::RegisterSubXactCallback(Some(at_end_of_subtransaction), null_mut());
    }
}
