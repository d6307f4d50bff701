//! `INSERT … SELECT` that copies tagged columns into columns without a label: recorded when the statement is analyzed, once
//! in a session for each pair of columns, and a finding of `custodian.check()` while the column has no label. Nothing is
//! refused: an unreviewed column goes nowhere.

use std::cell::RefCell;
use std::collections::HashSet;

use pgrx::pg_sys;

use crate::evidence::events::{self, Database, Event, Gate, Outcome};
use crate::guard::access;
use crate::guard::exposure::Exposure;
use crate::guard::session;
use crate::pg::provenance::{self, Source};
use crate::pg::statement::range_table;
use crate::pg::{namespace, relation, sandbox, xact};
use crate::tag::target::Target;

/// Pairs remembered at most; then it begins anew.
const MAX_REMEMBERED: usize = 1024;

thread_local! {
    static RECORDED: RefCell<HashSet<(Source, Source)>> = RefCell::new(HashSet::new());
}

/// Whether a statement inserts what a query over other tables gives.
#[inline]
pub fn copies(query: &pg_sys::Query) -> bool {
    query.commandType == pg_sys::CmdType::CMD_INSERT
        && (query.hasSubLinks
            || range_table(query)
                .iter()
                .filter(|entry| entry.rtekind != pg_sys::RTEKind::RTE_VALUES)
                .nth(1)
                .is_some())
}

/// The table that an INSERT fills, when it is one that stays and is not the extension's.
fn target(query: &pg_sys::Query) -> Option<pg_sys::Oid> {
    let at = usize::try_from(query.resultRelation).ok()?;
    let table = range_table(query).get(at.checked_sub(1)?)?.relid;
    let stays = relation::persistence(table) != pg_sys::RELPERSISTENCE_TEMP;
    let own = relation::schema_oid() == Some(namespace::of(table));
    (stays && !own && relation::kind(table) != pg_sys::RELKIND_VIEW).then_some(table)
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

/// Looks at an INSERT that was analyzed, when [`copies`] says that it copies.
pub fn look(query: &pg_sys::Query) {
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
