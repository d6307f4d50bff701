//! The lanes of this session: read in its first transaction, since neither the login hook nor the hook on
//! replication commands can read tables.

use std::cell::RefCell;

use pgrx::prelude::*;

use crate::error::Result;
use crate::guard::command::Command;
use crate::guard::exposure::Exposure;
use crate::guard::lane::model::{Caller, Lane};
use crate::guard::lane::qualify::{self, Open};
use crate::guard::lane::store;
use crate::guard::sentinel::registry;
use crate::guard::session::Session;
use crate::guard::{login, session};
use crate::pg::port::{self, Remote};
use crate::pg::{report, slot, xact};
use crate::worker::{self, shmem};

/// A lane that is for this session's peer.
struct Loaded {
    lane: Lane,
    /// What it may also read for the initial copy.
    open: Vec<Open>,
}

thread_local! {
    static LANES: RefCell<Vec<Loaded>> = const { RefCell::new(Vec::new()) };
}

/// Leaves the decision on this login to the session's first transaction, before any command is read.
pub fn decide_later() {
    xact::before_first_commit();
}

/// What of the peer is not what a lane says; `None` when all fits.
fn differs(lane: &Lane, session: &Session, client: &port::Client) -> Option<&'static str> {
    let Some(rules) = &session.active.rules else {
        return Some("region");
    };
    lane.differs(
        rules,
        &Caller {
            role: &client.role,
            address: match client.remote {
                Remote::Ip(address) => Some(address),
                _ => None,
            },
            issuer: client.issuer.as_deref(),
            region: session.judgement.region.as_deref(),
            organisation: session.judgement.organisation.as_deref(),
        },
    )
}

/// Reads the lanes for this peer. Otherwise sentences on why there is none.
fn load() -> Result<std::result::Result<Vec<Loaded>, String>> {
    let session = session::current();
    let Some(client) = port::client() else {
        return Ok(Err(String::new()));
    };
    let mut loaded = Vec::new();
    let mut reasons = Vec::new();
    for lane in store::open_lanes()? {
        // Lanes of other roles are nothing that a stranger should hear about.
        if lane.role != client.role {
            continue;
        }
        if let Some(field) = differs(&lane, &session, &client) {
            reasons.push(format!("Lane {} is for another {field}.", lane.id));
            continue;
        }
        match qualify::publications(&lane.publications, &lane.transfer)? {
            Ok(open) => loaded.push(Loaded { lane, open }),
            Err(reason) => reasons.push(format!("Lane {} cannot be used. {reason}", lane.id)),
        }
    }
    Ok(if loaded.is_empty() {
        Err(if reasons.is_empty() {
            "No lane is open for it.".to_owned()
        } else {
            reasons.join(" ")
        })
    } else {
        Ok(loaded)
    })
}

fn decide() -> Result<()> {
    match xact::with_snapshot(load)? {
        Ok(lanes) => {
            if let Some(first) = lanes.first() {
                registry::on_lane(first.lane.id);
                // From now on the scheduler has something to watch.
                worker::wake(Some(xact::database()));
            }
            LANES.with(|known| known.replace(lanes));
            Ok(())
        }
        Err(reason) => login::refuse(&session::current(), Some(reason)),
    }
}

/// Runs before the first transaction of a session commits, which is before it reads any command.
fn before_first_commit() {
    if let Err(error) = decide() {
        report::log(PgLogLevel::FATAL, error);
    }
    registry::settle();
    shmem::wake_now(None);
}

/// Whether a lane lets this command through; otherwise a sentence on each lane that does not. Reads neither catalogs
/// nor files.
pub fn allows(session: &Session, command: &Command) -> std::result::Result<i64, String> {
    let Some(client) = port::client() else {
        return Err(String::new());
    };
    LANES.with_borrow(|lanes| {
        let mut reasons = Vec::new();
        for Loaded { lane, .. } in lanes {
            let field = match differs(lane, session, &client) {
                Some(field) => field,
                None if !lane.transfer.is_valid(xact::server_now()) => "time",
                None => match lane.allows(command, slot::plugin) {
                    Ok(()) => return Ok(lane.id),
                    Err(field) => field,
                },
            };
            reasons.push(format!("Lane {} does not allow it: {field}.", lane.id));
        }
        Err(reasons.join(" "))
    })
}

/// Whether this walsender may read a column for the initial copy of a subscription: a lane for it carries the column, and
/// no condition lies on the rows.
pub fn may_read(
    session: &Session,
    relation: pg_sys::Oid,
    attnum: i16,
    exposure: &Exposure,
) -> bool {
    let Some(client) = port::client() else {
        return false;
    };
    LANES.with_borrow(|lanes| {
        lanes.iter().any(|loaded| {
            loaded.open.iter().any(|open| {
                open.relation == relation.to_u32()
                    && open
                        .columns
                        .as_ref()
                        .is_none_or(|columns| columns.contains(&attnum))
            }) && loaded.lane.transfer.is_valid(xact::server_now())
                && qualify::covers(&loaded.lane.transfer, exposure)
                && differs(&loaded.lane, session, &client).is_none()
        })
    })
}

/// Whether this session has a lane.
pub fn has_lanes() -> bool {
    LANES.with_borrow(|lanes| !lanes.is_empty())
}

/// Says what decides on a login that was left for later. Only while preloading.
pub fn init() {
    xact::init_before_first_commit(before_first_commit);
}
