//! `INSERT … SELECT` that copies tagged columns into columns without a label: recorded when the statement is analyzed, once
//! in a session for each pair of columns, and a finding of `custodian.check()` while the column has no label. Nothing is
//! refused: an unreviewed column goes nowhere.

use std::cell::RefCell;
use std::collections::HashSet;

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::evidence::events::{self, Database, Event, Gate, Outcome};
use crate::guard::access;
use crate::guard::exposure::Exposure;
use crate::guard::session;
use crate::guc;
use crate::pg::provenance::{self, Source};
use crate::pg::{list, namespace, relation, sandbox, xact};
use crate::tag::target::Target;

/// Pairs remembered at most; then it begins anew.
const MAX_REMEMBERED: usize = 1024;

thread_local! {
    static RECORDED: RefCell<HashSet<(Source, Source)>> = RefCell::new(HashSet::new());
}

static mut PREVIOUS: pg_sys::post_parse_analyze_hook_type = None;

/// Whether a statement inserts what a query over other tables gives.
///
/// # Safety
/// `query` must be NULL or a valid analyzed query.
unsafe fn copies(query: *mut pg_sys::Query) -> bool {
    // SAFETY: by the caller's promise.
    unsafe {
        query.as_ref().is_some_and(|query| {
            query.commandType == pg_sys::CmdType::CMD_INSERT
                && (query.hasSubLinks
                    || list::items::<pg_sys::RangeTblEntry>(query.rtable)
                        .iter()
                        .filter(|entry| entry.rtekind != pg_sys::RTEKind::RTE_VALUES)
                        .nth(1)
                        .is_some())
        })
    }
}

/// The table that an INSERT fills, when it is one that stays and is not the extension's.
///
/// # Safety
/// `query` must be a valid analyzed INSERT.
unsafe fn target(query: *mut pg_sys::Query) -> Option<pg_sys::Oid> {
    // SAFETY: by the caller's promise; a cached catalog lookup by OID.
    unsafe {
        let entries = list::items::<pg_sys::RangeTblEntry>((*query).rtable);
        let at = usize::try_from((*query).resultRelation).ok()?;
        let table = entries.get(at.checked_sub(1)?)?.relid;
        let stays = relation::persistence(table) != pg_sys::RELPERSISTENCE_TEMP;
        let own = relation::schema_oid() == Some(namespace::of(table));
        (stays && !own && relation::kind(table) != pg_sys::RELKIND_VIEW).then_some(table)
    }
}

fn is_tagged(&(table, number): &Source) -> bool {
    access::columns(pg_sys::Oid::from(table))
        .columns
        .iter()
        .any(|column| {
            (number == 0 || column.attnum == number)
                && matches!(column.exposure, Exposure::Tagged { .. })
        })
}

#[pg_guard]
unsafe extern "C-unwind" fn look(query: *mut pg_sys::Query) {
    // SAFETY: the query that the server has just analyzed, an INSERT.
    unsafe {
        if !xact::in_transaction()
            || xact::in_recovery()
            || sandbox::is_extension_owner()
            || relation::extension_oid().is_none()
        {
            return;
        }
        let Some(table) = target(query) else { return };
        let copied: Vec<(i16, Source)> = provenance::of_insert(query)
            .into_iter()
            .flat_map(|(number, sources)| sources.into_iter().map(move |source| (number, source)))
            .filter(|(_, source)| source.0 != table.to_u32() && is_tagged(source))
            .collect();
        if copied.is_empty() {
            return;
        }
        // This opens the partitions of the table, which an INSERT does by itself only where it puts rows: it could wait
        // for somebody's lock on another.
        let filled = access::columns(table);
        for (number, source) in copied {
            let unreviewed = filled
                .columns
                .iter()
                .any(|column| column.attnum == number && column.exposure == Exposure::Unreviewed);
            if unreviewed {
                record((table.to_u32(), number), source);
            }
        }
    }
}

fn record(filled: Source, source: Source) {
    let new = RECORDED.with_borrow_mut(|recorded| {
        if recorded.len() >= MAX_REMEMBERED {
            recorded.clear();
        }
        recorded.insert((filled, source))
    });
    let name = |(table, number): Source| {
        let table = pg_sys::Oid::from(table);
        Target::attribute(table, i32::from(number))
            .map_or_else(|_| relation::describe(table), |target| target.name)
    };
    if !new {
        return;
    }
    let session = session::current();
    events::record(Event {
        gate: Gate::Copy,
        outcome: Outcome::Warned,
        database: Database::current(),
        role: relation::role_name(relation::current_user()).unwrap_or_default(),
        peer: String::new(),
        region: session.active.own().region.clone().unwrap_or_default(),
        object: name(filled),
        reason: format!("INSERT fills it from {}, which is tagged.", name(source)),
    });
}

/// Unguarded on purpose, without a local that needs dropping: errors of other libraries pass through unchanged.
unsafe extern "C-unwind" fn hook(
    state: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: *mut pg_sys::JumbleState,
) {
    // SAFETY: PREVIOUS is written once, in the postmaster; the arguments are passed on as they came.
    unsafe {
        if let Some(previous) = PREVIOUS {
            previous(state, query, jumble);
        }
        if copies(query) {
            look(query);
        }
    }
}

/// Installs the hook behind whatever is there. Only while preloading: elsewhere there is no store for what it sees.
pub fn init() {
    if !guc::preloaded() {
        return;
    }
    // SAFETY: called once from _PG_init, in the postmaster.
    unsafe {
        PREVIOUS = pg_sys::post_parse_analyze_hook;
        pg_sys::post_parse_analyze_hook = Some(hook);
    }
}
