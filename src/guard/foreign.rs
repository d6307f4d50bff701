//! Access gate, for foreign tables: a statement that uses one whose server the rules do not allow is refused, to sessions
//! inside as well. Servers are judged when they are made ([`crate::guard::shipping`]); here they are judged as rules and
//! options are now, whichever way the server came to be.
//!
//! Reading a foreign table ships the values that the query compares with, so it counts as writing into it. A row that is
//! inserted into a partitioned table, or moved within it, may be routed to any of its foreign partitions.

use std::cell::Cell;

use pgrx::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::guard::refuse::{self, Flow};
use crate::guard::{access, session, shipping};
use crate::guc::{self, Enforce, Gate};
use crate::pg::compat::{Access, Asked};
use crate::pg::{catalog, invalidation, relation, report, sandbox};

const SERVERS: pg_sys::Oid = pg_sys::Oid::from_u32(1417);
const SERVERS_BY_OID: pg_sys::Oid = pg_sys::Oid::from_u32(113);

thread_local! {
    /// Whether there are foreign servers in this database; `None` when that is not known.
    static ANY: Cell<Option<bool>> = const { Cell::new(None) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

fn invalidate() {
    ANY.set(None);
}

/// Whether this database has foreign servers: without any, nobody pays for looking at partitions.
fn any_server() -> bool {
    if !REGISTERED.replace(true) {
        invalidation::of_catalog(pg_sys::SysCacheIdentifier::FOREIGNSERVEROID, invalidate);
    }
    if let Some(known) = ANY.get() {
        return known;
    }
    let found = !catalog::scan(SERVERS, SERVERS_BY_OID, &[], |_| Some(())).is_empty();
    ANY.set(Some(found));
    found
}

/// Refuses to use a foreign table whose server is not allowed now.
fn check(table: pg_sys::Oid) -> Result<()> {
    let (server, unlawful) = match shipping::fault_of_table(table) {
        None => return Ok(()),
        Some(found) => found,
    };
    let name = relation::describe(table);
    let session = session::current();
    let error = Error::new(
        Kind::RegionRefused,
        format!("using foreign table \"{name}\" is not allowed"),
    )
    .detail(format!(
        "The region rules do not allow its server \"{server}\". {}",
        unlawful.reason
    ))
    .hint(format!("Drop or alter the server. {}", unlawful.remedy));
    refuse::unless_only_warned(
        Flow {
            role: relation::role_name(relation::current_user()).unwrap_or_default(),
            region: unlawful.region,
            ..Flow::of(&session, Gate::Access, name, error)
        },
        |_| {},
    )
}

/// The foreign tables to which a statement can ship: those that it names or its plan reaches, and partitions to which rows
/// may be routed.
fn reached(asked: Asked) -> Vec<pg_sys::Oid> {
    let mut tables: Vec<pg_sys::Oid> = asked
        .entries()
        .into_iter()
        .filter(|entry| {
            entry.rtekind == pg_sys::RTEKind::RTE_RELATION
                && entry.relkind as u8 == pg_sys::RELKIND_FOREIGN_TABLE
        })
        .map(|entry| entry.relid)
        .collect();
    // Asked here also for what reads only, so that it is known for the next statement.
    let any = any_server();
    for access in asked.accesses() {
        // A row lock asks for the right to UPDATE as well, and moves nothing.
        let routes = access.required & pg_sys::ACL_INSERT != 0 || access.updates;
        if routes && any && relation::kind(access.relation) == pg_sys::RELKIND_PARTITIONED_TABLE {
            tables.extend_from_slice(&access::columns(access.relation).foreign_below);
        }
    }
    tables.sort_unstable_by_key(|table| table.to_u32());
    tables.dedup();
    tables
}

/// Refuses what ships to where the rules do not allow.
pub fn examine(asked: Asked) {
    if guc::enforce(Gate::Access) == Enforce::Off || sandbox::is_extension_owner() {
        return;
    }
    for table in reached(asked) {
        if let Err(error) = check(table) {
            report::raise(error);
        }
    }
}

/// Before a table is truncated, whatever led to it: `TRUNCATE` is passed on to the server of a foreign table.
pub fn before_truncate(table: pg_sys::Oid) -> Result<()> {
    if !guc::preloaded()
        || guc::enforce(Gate::Access) == Enforce::Off
        || relation::kind(table) != pg_sys::RELKIND_FOREIGN_TABLE
    {
        return Ok(());
    }
    check(table)
}

/// Whether a statement may reach foreign tables: a look at its list of relations, for all statements.
#[inline]
pub fn may_reach(asked: Asked) -> bool {
    !asked.every_entry(|entry| {
        entry.rtekind != pg_sys::RTEKind::RTE_RELATION
            || match entry.relkind as u8 {
                pg_sys::RELKIND_FOREIGN_TABLE => false,
                // No look into catalogs here, where an error could not be raised.
                pg_sys::RELKIND_PARTITIONED_TABLE => ANY.get() == Some(false),
                _ => true,
            }
    })
}

/// Whether what a statement asks for of a relation may reach foreign tables, now or once it has such partitions.
pub fn may_ship(access: &Access) -> bool {
    match relation::kind(access.relation) {
        pg_sys::RELKIND_FOREIGN_TABLE => true,
        pg_sys::RELKIND_PARTITIONED_TABLE => {
            access.required & pg_sys::ACL_INSERT != 0 || access.updates
        }
        _ => false,
    }
}
