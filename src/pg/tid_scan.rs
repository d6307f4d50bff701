//! A way over a table for the one statement that disposes of rows: to places that an index has named, block by block, each
//! block read once. The server's own ways would search the index again for every range of blocks, or look at every row of
//! them.
//!
//! The planner is offered no other way than this one, for the table and the statement that ask for it; all conditions of the
//! statement are evaluated as in any scan, and places only say which rows they are evaluated on. An index names the beginning
//! of a chain of row versions that lie in one block: the version that the statement's snapshot sees is looked for there, as the
//! server does it behind an index.

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr::{null, null_mut};

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::pg::hook::Hook;
use crate::pg::list;
use crate::pg::tids::Page;

// The raw declarations: each call through pg_sys costs more than what these do for one row. No frame that they are called
// from has anything to drop.
unsafe extern "C-unwind" {
    fn ExecScan(
        node: *mut pg_sys::ScanState,
        access: pg_sys::ExecScanAccessMtd,
        recheck: pg_sys::ExecScanRecheckMtd,
    ) -> *mut pg_sys::TupleTableSlot;
    fn ExecStoreBufferHeapTuple(
        tuple: pg_sys::HeapTuple,
        slot: *mut pg_sys::TupleTableSlot,
        buffer: pg_sys::Buffer,
    ) -> *mut pg_sys::TupleTableSlot;
    fn ExecScanReScan(node: *mut pg_sys::ScanState);
    fn ReleaseAndReadBuffer(
        buffer: pg_sys::Buffer,
        relation: pg_sys::Relation,
        block: pg_sys::BlockNumber,
    ) -> pg_sys::Buffer;
    fn ReleaseBuffer(buffer: pg_sys::Buffer);
    fn LockBuffer(buffer: pg_sys::Buffer, mode: c_int);
    fn heap_page_prune_opt(relation: pg_sys::Relation, buffer: pg_sys::Buffer);
    fn heap_hot_search_buffer(
        tid: pg_sys::ItemPointer,
        relation: pg_sys::Relation,
        buffer: pg_sys::Buffer,
        snapshot: pg_sys::Snapshot,
        tuple: pg_sys::HeapTuple,
        all_dead: *mut bool,
        first_call: bool,
    ) -> bool;
    fn ProcessInterrupts();
}

/// What the statement that is about to be planned goes along.
#[derive(Clone, Copy)]
struct Armed {
    relation: pg_sys::Oid,
    pages: *const Page,
    count: usize,
    /// The value of the statement's last parameter: no other statement that is planned meanwhile, as by a function
    /// of a user, has one at this address.
    mark: pg_sys::Datum,
}

thread_local! {
    static ARMED: Cell<Option<Armed>> = const { Cell::new(None) };
    static INSTALLED: Cell<bool> = const { Cell::new(false) };
}

/// Takes back what was armed, also while an error unwinds.
struct Disarm;

impl Drop for Disarm {
    fn drop(&mut self) {
        ARMED.set(None);
    }
}

/// Runs `work`, which executes one statement that changes the relation and whose last parameter is `mark`, passed by
/// reference: it goes to these pages alone, instead of the bounds of `ctid` that the statement has. Where the relation is no
/// heap of the server's own kind the pages are not used, and these bounds hold.
pub fn along<T>(
    relation: pg_sys::Oid,
    pages: &[Page],
    mark: pg_sys::Datum,
    work: impl FnOnce() -> T,
) -> T {
    if !INSTALLED.replace(true) {
        // SAFETY: once, and no statement is being planned here. Hooks belong to this process, which is one that sweeps: no
        // session pays for it.
        unsafe {
            PREVIOUS.install(&raw mut pg_sys::set_rel_pathlist_hook, offer);
        }
    }
    ARMED.set(Some(Armed {
        relation,
        pages: pages.as_ptr(),
        count: pages.len(),
        mark,
    }));
    let _until_dropped = Disarm;
    work()
}

static PREVIOUS: Hook<
    unsafe extern "C-unwind" fn(
        *mut pg_sys::PlannerInfo,
        *mut pg_sys::RelOptInfo,
        pg_sys::Index,
        *mut pg_sys::RangeTblEntry,
    ),
> = Hook::new();

struct Static<T>(T);

// SAFETY: tables of functions and names that nobody writes.
unsafe impl<T> Sync for Static<T> {}

static PATH: Static<pg_sys::CustomPathMethods> = Static(pg_sys::CustomPathMethods {
    CustomName: NAME.as_ptr(),
    PlanCustomPath: Some(plan),
    ReparameterizeCustomPathByChild: None,
});

static SCAN: Static<pg_sys::CustomScanMethods> = Static(pg_sys::CustomScanMethods {
    CustomName: NAME.as_ptr(),
    CreateCustomScanState: Some(create),
});

static EXEC: Static<pg_sys::CustomExecMethods> = Static(pg_sys::CustomExecMethods {
    CustomName: NAME.as_ptr(),
    BeginCustomScan: Some(begin),
    ExecCustomScan: Some(exec),
    EndCustomScan: Some(end),
    ReScanCustomScan: Some(rescan),
    MarkPosCustomScan: None,
    RestrPosCustomScan: None,
    EstimateDSMCustomScan: None,
    InitializeDSMCustomScan: None,
    ReInitializeDSMCustomScan: None,
    InitializeWorkerCustomScan: None,
    ShutdownCustomScan: None,
    ExplainCustomScan: None,
});

const NAME: &std::ffi::CStr = c"Custodian Places";

/// What is armed, if it is for the statement with these parameters.
///
/// # Safety
/// The parameters must be NULL or those that a statement is being planned with.
unsafe fn armed(relation: pg_sys::Oid, parameters: pg_sys::ParamListInfo) -> Option<Armed> {
    let armed = ARMED.get().filter(|armed| armed.relation == relation)?;
    // SAFETY: as the caller says; there are as many parameters as the list tells.
    unsafe {
        let parameters = parameters.as_ref()?;
        let last = usize::try_from(parameters.numParams).ok()?.checked_sub(1)?;
        let last = &*parameters.params.as_ptr().add(last);
        (!last.isnull && last.value == armed.mark).then_some(armed)
    }
}

/// Whether the server's own table access method keeps the rows of a relation.
///
/// # Safety
/// The relation must be locked.
unsafe fn is_heap(relation: pg_sys::Oid) -> bool {
    // SAFETY: the relation is NULL or open until it is closed.
    unsafe {
        let opened = pg_sys::RelationIdGetRelation(relation);
        let Some(found) = opened.as_ref() else {
            return false;
        };
        let is_heap = (*found.rd_rel).relam == pg_sys::HEAP_TABLE_AM_OID;
        pg_sys::RelationClose(opened);
        is_heap
    }
}

/// Has the planner know no other way over the table that is changed than along its places.
#[pg_guard]
unsafe extern "C-unwind" fn offer(
    root: *mut pg_sys::PlannerInfo,
    relation: *mut pg_sys::RelOptInfo,
    number: pg_sys::Index,
    entry: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: the planner hands over its records of the statement and of one of its relations.
    unsafe {
        if let Some(previous) = PREVIOUS.previous() {
            previous(root, relation, number, entry);
        }
        let changed = u32::try_from((*(*root).parse).resultRelation).unwrap_or(0);
        if (*root).query_level != 1 || changed != number {
            return;
        }
        let Some(armed) = armed((*entry).relid, (*(*root).glob).boundParams) else {
            return;
        };
        if !is_heap(armed.relation) {
            return;
        }
        let path = pg_sys::palloc0(size_of::<pg_sys::CustomPath>()).cast::<pg_sys::CustomPath>();
        (*path).path.type_ = pg_sys::NodeTag::T_CustomPath;
        (*path).path.pathtype = pg_sys::NodeTag::T_CustomScan;
        (*path).path.parent = relation;
        (*path).path.pathtarget = (*relation).reltarget;
        (*path).path.rows = (*relation).rows;
        (*path).path.total_cost = armed.count as f64;
        (*path).flags = pg_sys::CUSTOMPATH_SUPPORT_PROJECTION;
        (*path).methods = &PATH.0;
        (*relation).pathlist = pg_sys::lappend(null_mut(), path.cast());
        (*relation).partial_pathlist = null_mut();
    }
}

/// The conditions without the bounds of the places of rows: the pages lie within them, and each costs every row.
///
/// # Safety
/// It must be a list of expressions.
unsafe fn unbounded(clauses: *mut pg_sys::List) -> *mut pg_sys::List {
    let mut kept = null_mut();
    // SAFETY: as the caller says; what begins with the tag of an OpExpr is one, and so is a Var.
    unsafe {
        for clause in list::items::<pg_sys::Node>(clauses) {
            let clause = std::ptr::from_ref(clause).cast_mut();
            let bounds = (*clause).type_ == pg_sys::NodeTag::T_OpExpr && {
                let operation = clause.cast::<pg_sys::OpExpr>();
                let operator = (*operation).opno.to_u32();
                let first = list::items::<pg_sys::Node>((*operation).args)
                    .first()
                    .copied();
                let of_place = first.is_some_and(|first| {
                    first.type_ == pg_sys::NodeTag::T_Var
                        && (*std::ptr::from_ref(first).cast::<pg_sys::Var>()).varattno
                            == pg_sys::SelfItemPointerAttributeNumber as i16
                });
                of_place
                    && [pg_sys::TIDLessOperator, pg_sys::TIDGreaterEqOperator].contains(&operator)
            };
            if !bounds {
                kept = pg_sys::lappend(kept, clause.cast());
            }
        }
    }
    kept
}

#[pg_guard]
unsafe extern "C-unwind" fn plan(
    _root: *mut pg_sys::PlannerInfo,
    relation: *mut pg_sys::RelOptInfo,
    path: *mut pg_sys::CustomPath,
    target: *mut pg_sys::List,
    clauses: *mut pg_sys::List,
    _plans: *mut pg_sys::List,
) -> *mut pg_sys::Plan {
    // SAFETY: called by the planner with the path made above; a new node is zeroed.
    unsafe {
        let scan = pg_sys::palloc0(size_of::<pg_sys::CustomScan>()).cast::<pg_sys::CustomScan>();
        (*scan).scan.plan.type_ = pg_sys::NodeTag::T_CustomScan;
        (*scan).scan.plan.targetlist = target;
        (*scan).scan.plan.qual = unbounded(pg_sys::extract_actual_clauses(clauses, false));
        (*scan).scan.scanrelid = (*relation).relid;
        (*scan).flags = (*path).flags;
        (*scan).methods = &SCAN.0;
        scan.cast()
    }
}

/// The node of the executor. The server knows its first part.
#[repr(C)]
struct State {
    node: pg_sys::CustomScanState,
    pages: *const Page,
    count: usize,
    /// The page that comes next.
    next: usize,
    /// Blocks of the table when the scan began: nobody cuts it off meanwhile, under the lock of a statement that writes.
    blocks: u32,
    /// The block that is pinned, if it is not 0, with the rows of it that are seen.
    buffer: pg_sys::Buffer,
    tuples: *mut pg_sys::HeapTupleData,
    found: usize,
    at: usize,
}

/// The most rows that a block can have.
const MOST: usize = pg_sys::BLCKSZ as usize / 24;

#[pg_guard]
unsafe extern "C-unwind" fn create(_scan: *mut pg_sys::CustomScan) -> *mut pg_sys::Node {
    // SAFETY: a new node is zeroed, and lives as long as the statement is executed.
    unsafe {
        let state = pg_sys::palloc0(size_of::<State>()).cast::<State>();
        (*state).node.ss.ps.type_ = pg_sys::NodeTag::T_CustomScanState;
        (*state).node.methods = &EXEC.0;
        #[cfg(not(feature = "pg15"))]
        {
            (*state).node.slotOps = &raw const pg_sys::TTSOpsBufferHeapTuple;
        }
        let armed = ARMED.get();
        (*state).pages = armed.map_or(null(), |armed| armed.pages);
        (*state).count = armed.map_or(0, |armed| armed.count);
        state.cast()
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn begin(
    node: *mut pg_sys::CustomScanState,
    executor: *mut pg_sys::EState,
    _flags: c_int,
) {
    // SAFETY: the node made above, with its relation open.
    unsafe {
        let state = node.cast::<State>();
        let scan = &raw mut (*node).ss;
        let relation = (*scan).ss_currentRelation;
        (*state).blocks =
            pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM);
        (*state).tuples = pg_sys::palloc(MOST * size_of::<pg_sys::HeapTupleData>()).cast();
        #[cfg(not(feature = "pg15"))]
        let _ = executor;
        // Before 16 the server takes it that such a node yields rows taken apart already, and compiles conditions for that.
        #[cfg(feature = "pg15")]
        {
            let planned = (*scan).ps.plan.cast::<pg_sys::CustomScan>();
            // Those of what was compiled before: they are found again.
            (*scan).ps.subPlan = null_mut();
            pg_sys::ExecInitScanTupleSlot(
                executor,
                scan,
                (*relation).rd_att,
                &raw const pg_sys::TTSOpsBufferHeapTuple,
            );
            pg_sys::ExecAssignScanProjectionInfoWithVarno(scan, (*planned).scan.scanrelid as c_int);
            (*scan).ps.qual = pg_sys::ExecInitQual((*planned).scan.plan.qual, &raw mut (*scan).ps);
        }
    }
}

/// Reads the next block of which rows are seen; `false` behind the last.
///
/// # Safety
/// `state` must be a node that was begun.
unsafe fn load(state: *mut State) -> bool {
    // SAFETY: the block is there, and pinned while its rows are looked at; what the server finds in it is valid until the
    // pin is let go, and nobody removes a row from it while it is pinned. The pages outlive the statement.
    unsafe {
        let relation = (*state).node.ss.ss_currentRelation;
        let snapshot = (*(*state).node.ss.ps.state).es_snapshot;
        while (*state).next < (*state).count {
            let page = &*(*state).pages.add((*state).next);
            (*state).next += 1;
            if page.block >= (*state).blocks {
                continue;
            }
            if pg_sys::InterruptPending != 0 {
                ProcessInterrupts();
            }
            (*state).buffer = ReleaseAndReadBuffer((*state).buffer, relation, page.block);
            let buffer = (*state).buffer;
            heap_page_prune_opt(relation, buffer);
            LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as c_int);
            let most = pg_sys::PageGetMaxOffsetNumber(pg_sys::BufferGetPage(buffer));
            let (mut found, mut from) = (0, 1);
            while let Some(offset) = page.next(from, most) {
                from = offset + 1;
                let mut tid = pg_sys::ItemPointerData {
                    ip_blkid: pg_sys::BlockIdData {
                        bi_hi: (page.block >> 16) as u16,
                        bi_lo: page.block as u16,
                    },
                    ip_posid: offset,
                };
                let tuple = (*state).tuples.add(found);
                found += usize::from(heap_hot_search_buffer(
                    &mut tid,
                    relation,
                    buffer,
                    snapshot,
                    tuple,
                    null_mut(),
                    true,
                ));
                if found == MOST {
                    break;
                }
            }
            LockBuffer(buffer, pg_sys::BUFFER_LOCK_UNLOCK as c_int);
            if found > 0 {
                (*state).found = found;
                (*state).at = 0;
                return true;
            }
        }
        false
    }
}

unsafe extern "C-unwind" fn access(scan: *mut pg_sys::ScanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: the node was begun; rows that were found are valid while their block is pinned, which the slot does as well.
    unsafe {
        let state = scan.cast::<State>();
        let slot = (*scan).ss_ScanTupleSlot;
        if (*state).at >= (*state).found && !load(state) {
            if let Some(clear) = (*(*slot).tts_ops).clear {
                clear(slot);
            }
            return slot;
        }
        let tuple = (*state).tuples.add((*state).at);
        (*state).at += 1;
        ExecStoreBufferHeapTuple(tuple, slot, (*state).buffer)
    }
}

/// The conditions are evaluated again after this on a row that was changed meanwhile.
unsafe extern "C-unwind" fn recheck(
    _scan: *mut pg_sys::ScanState,
    _slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    true
}

unsafe extern "C-unwind" fn exec(
    node: *mut pg_sys::CustomScanState,
) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: the executor's own loop over a scan, with the functions above.
    unsafe { ExecScan(&raw mut (*node).ss, Some(access), Some(recheck)) }
}

/// Begins anew.
///
/// # Safety
/// `state` must be a node that was begun.
unsafe fn reset(state: *mut State) {
    // SAFETY: as the caller says; the buffer is pinned unless it is 0.
    unsafe {
        if (*state).buffer != 0 {
            ReleaseBuffer((*state).buffer);
        }
        (*state).buffer = 0;
        (*state).next = 0;
        (*state).found = 0;
        (*state).at = 0;
    }
}

unsafe extern "C-unwind" fn end(node: *mut pg_sys::CustomScanState) {
    // SAFETY: a node that was begun.
    unsafe { reset(node.cast()) }
}

unsafe extern "C-unwind" fn rescan(node: *mut pg_sys::CustomScanState) {
    // SAFETY: a node that was begun.
    unsafe {
        reset(node.cast());
        ExecScanReScan(&raw mut (*node).ss);
    }
}
