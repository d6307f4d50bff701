//! What the planner of a session from outside may go by.
//!
//! The planner has operators evaluated on values that ANALYZE took from rows, before anybody checks whether the session may read
//! these: an operator of a user can tell what it is called with. So columns that the session may not read have no statistics
//! for it, and no index. And where rows pass by their own residency, the condition that says so is evaluated first, as the
//! server does it with those of row security.

use std::ffi::{c_char, c_int};

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::guard::{own_residency, session};
use crate::guc;
use crate::pg::hook::Hook;
use crate::pg::parameters::Parameters;
use crate::pg::{list, plan};

static PLANNER: Hook<
    unsafe extern "C-unwind" fn(
        *mut pg_sys::Query,
        *const c_char,
        c_int,
        pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt,
> = Hook::new();
static RELATION: Hook<
    unsafe extern "C-unwind" fn(
        *mut pg_sys::PlannerInfo,
        pg_sys::Oid,
        bool,
        *mut pg_sys::RelOptInfo,
    ),
> = Hook::new();
static STATISTICS: Hook<
    unsafe extern "C-unwind" fn(
        *mut pg_sys::PlannerInfo,
        *mut pg_sys::RangeTblEntry,
        pg_sys::AttrNumber,
        *mut pg_sys::VariableStatData,
    ) -> bool,
> = Hook::new();
static WIDTH: Hook<unsafe extern "C-unwind" fn(pg_sys::Oid, pg_sys::AttrNumber) -> pg_sys::int32> =
    Hook::new();

// The raw declaration: calling through pg_sys would strip context and cursor position from every error that passes.
unsafe extern "C-unwind" {
    fn standard_planner(
        query: *mut pg_sys::Query,
        text: *const c_char,
        options: c_int,
        parameters: pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt;
}

/// Puts conditions on the rows' own residency first.
#[pg_guard]
extern "C-unwind" fn order(planned: *mut pg_sys::PlannedStmt) {
    // SAFETY: the plan that the planner has just made.
    for scan in unsafe { plan::scans(planned, Parameters::Later) }.unwrap_or_default() {
        if let Some(column) = own_residency::column(scan.relation) {
            scan.move_to_front(|condition| !condition.acts && plan::columns(condition) == [column]);
        }
    }
}

/// Whether an index may be used by the session: it, and its predicate, are over columns that the session may read of every
/// row; or it is a B-tree that begins with the rows' residency, whose entries are those that the conditions say.
///
/// # Safety
/// `index` must be one of the relation with number `relation`, from the planner.
unsafe fn may_use(
    index: &pg_sys::IndexOptInfo,
    relation: u32,
    hidden: &[i16],
    residency: Option<i16>,
) -> bool {
    let count = usize::try_from(index.ncolumns).unwrap_or(0);
    // SAFETY: an index has a number for each of its columns, 0 for an expression.
    let keys: Vec<i16> = (0..count)
        .map(|at| i16::try_from(unsafe { *index.indexkeys.add(at) }).unwrap_or(0))
        .collect();
    // SAFETY: by the caller's promise, its predicate is over that relation.
    let predicate = unsafe { plan::columns_of(index.indpred.cast(), relation) };
    let is_open = |column: &i16| *column < 0 || (*column != 0 && !hidden.contains(column));
    !keys.contains(&0)
        && (keys.iter().chain(&predicate).all(is_open)
            || (residency.is_some()
                && keys.first().copied() == residency
                && index.relam == pg_sys::BTREE_AM_OID))
}

#[pg_guard]
unsafe extern "C-unwind" fn hide(relation: pg_sys::Oid, info: *mut pg_sys::RelOptInfo) {
    let hidden = own_residency::hidden(relation);
    if hidden.is_empty() {
        return;
    }
    let residency = own_residency::column(relation);
    // SAFETY: the planner's own record of the relation, which it hands over to be changed.
    unsafe {
        let mut kept = std::ptr::null_mut();
        for index in list::items::<pg_sys::IndexOptInfo>((*info).indexlist) {
            if may_use(index, (*info).relid, &hidden, residency) {
                kept = pg_sys::lappend(kept, std::ptr::from_ref(index).cast_mut().cast());
            }
        }
        (*info).indexlist = kept;
        (*info).statlist = std::ptr::null_mut();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn is_hidden(
    entry: *mut pg_sys::RangeTblEntry,
    column: pg_sys::AttrNumber,
) -> bool {
    // SAFETY: an entry of the range table, from the planner.
    unsafe { entry.as_ref() }.is_some_and(|entry| {
        entry.rtekind == pg_sys::RTEKind::RTE_RELATION
            && own_residency::hidden(entry.relid).contains(&column)
    })
}

/// The width in bytes of values of a hidden column, by its type and not by what ANALYZE saw; 0 for any other column.
#[pg_guard]
unsafe extern "C-unwind" fn width_by_type(
    relation: pg_sys::Oid,
    column: pg_sys::AttrNumber,
) -> pg_sys::int32 {
    if !own_residency::hidden(relation).contains(&column) {
        return 0;
    }
    // SAFETY: cached catalog lookups of a column that the planner asks for.
    unsafe {
        let mut kind = pg_sys::Oid::INVALID;
        let mut modifier = 0;
        let mut collation = pg_sys::Oid::INVALID;
        pg_sys::get_atttypetypmodcoll(relation, column, &mut kind, &mut modifier, &mut collation);
        pg_sys::get_typavgwidth(kind, modifier)
    }
}

/// Unguarded on purpose, as the other three, and without a local that needs dropping: errors pass through unchanged.
unsafe extern "C-unwind" fn planner(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: PLANNER is written once, in the postmaster; the arguments are passed on as they came.
    let planned = unsafe {
        match PLANNER.previous() {
            Some(previous) => previous(query, text, options, parameters),
            None => standard_planner(query, text, options, parameters),
        }
    };
    if !session::is_known_in_region() {
        order(planned);
    }
    planned
}

unsafe extern "C-unwind" fn relation_info(
    root: *mut pg_sys::PlannerInfo,
    relation: pg_sys::Oid,
    is_parent: bool,
    info: *mut pg_sys::RelOptInfo,
) {
    // SAFETY: as above.
    unsafe {
        if let Some(previous) = RELATION.previous() {
            previous(root, relation, is_parent, info);
        }
        if !session::is_known_in_region() {
            hide(relation, info);
        }
    }
}

unsafe extern "C-unwind" fn relation_statistics(
    root: *mut pg_sys::PlannerInfo,
    entry: *mut pg_sys::RangeTblEntry,
    column: pg_sys::AttrNumber,
    found: *mut pg_sys::VariableStatData,
) -> bool {
    // SAFETY: as above. True without a tuple says that there are no statistics.
    unsafe {
        if !session::is_known_in_region() && is_hidden(entry, column) {
            return true;
        }
        match STATISTICS.previous() {
            Some(previous) => previous(root, entry, column, found),
            None => false,
        }
    }
}

unsafe extern "C-unwind" fn width(
    relation: pg_sys::Oid,
    column: pg_sys::AttrNumber,
) -> pg_sys::int32 {
    // SAFETY: as above. 0 says that the server may look into the statistics.
    unsafe {
        let given = match WIDTH.previous() {
            Some(previous) => previous(relation, column),
            None => 0,
        };
        if given > 0 || session::is_known_in_region() {
            return given;
        }
        width_by_type(relation, column)
    }
}

/// Installs the hooks. Only while preloading.
pub fn init() {
    if !guc::preloaded() {
        return;
    }
    // SAFETY: called once from _PG_init, in the postmaster.
    unsafe {
        PLANNER.install(&raw mut pg_sys::planner_hook, planner);
        RELATION.install(&raw mut pg_sys::get_relation_info_hook, relation_info);
        STATISTICS.install(
            &raw mut pg_sys::get_relation_stats_hook,
            relation_statistics,
        );
        WIDTH.install(&raw mut pg_sys::get_attavgwidth_hook, width);
    }
}
