//! The walsenders that run, in shared memory: who is on the other side, and on which lane.

use std::net::IpAddr;

use pgrx::pg_shmem_init;
use pgrx::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::evidence::events::Text;
use crate::guard::verdict::{Address, Peer};
use crate::pg::shared::{plain, shared};
use crate::pg::{bgworker, latch, port, xact};

/// Walsenders at most; one more is refused, since it could not be watched.
const SLOTS: usize = 256;
/// Bytes kept of a distinguished name. A longer one is not kept at all, and then is no evidence.
const NAME: usize = 512;

#[derive(Clone, Copy)]
struct Entry {
    /// 0: free.
    pid: i32,
    /// 0 for physical replication.
    database: u32,
    /// Whether what is sent can be read on its way.
    plaintext: bool,
    /// Its login is not decided yet.
    pending: bool,
    /// 0: none.
    lane: i64,
    address: Address,
    role: Text<64>,
    issuer: Text<NAME>,
    subject: Text<NAME>,
}

impl Entry {
    const FREE: Entry = Entry {
        pid: 0,
        database: 0,
        plaintext: false,
        pending: false,
        lane: 0,
        address: Address::Unknown,
        role: Text::EMPTY,
        issuer: Text::EMPTY,
        subject: Text::EMPTY,
    };
}

#[derive(Clone, Copy)]
struct Registry {
    entries: [Entry; SLOTS],
}

impl Default for Registry {
    fn default() -> Self {
        Registry {
            entries: [Entry::FREE; SLOTS],
        }
    }
}

plain!(
    struct Entry { pid, database, plaintext, pending, lane, address, role, issuer, subject }
    struct Registry { entries }
);
shared!(lock REGISTRY: Registry = c"pg_custodian walsenders");

/// A walsender that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    pub pid: i32,
    /// `None` for physical replication.
    pub database: Option<pg_sys::Oid>,
    pub lane: Option<i64>,
    /// Whether what is sent can be read on its way.
    pub plaintext: bool,
    pub peer: Peer,
}

impl Running {
    /// The address, where it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.peer.address {
            Address::Ip(address) => Some(address),
            _ => None,
        }
    }
}

fn name(text: Option<&str>) -> Text<NAME> {
    match text {
        Some(text) if text.len() <= NAME => Text::new(text),
        _ => Text::EMPTY,
    }
}

fn stored(text: &Text<NAME>) -> Option<String> {
    (!text.as_str().is_empty()).then(|| text.as_str().to_owned())
}

fn on_exit() {
    let pid = latch::my_pid();
    for entry in &mut REGISTRY.exclusive().entries {
        if entry.pid == pid {
            *entry = Entry::FREE;
        }
    }
}

/// Enters this walsender, until it ends: with its database, unless it is one of physical replication. It is not listed
/// before [`settle`].
pub fn enter(peer: &Peer, database: Option<pg_sys::Oid>, plaintext: bool) -> Result<()> {
    let pid = latch::my_pid();
    {
        let mut registry = REGISTRY.exclusive();
        let Some(free) = registry.entries.iter_mut().find(|entry| entry.pid == 0) else {
            drop(registry);
            return Err(Error::new(
                Kind::ProgramLimitExceeded,
                format!("more than {SLOTS} walsenders cannot be watched"),
            )
            .hint("Lower max_wal_senders, or end some."));
        };
        *free = Entry {
            pid,
            database: database.map_or(0, |database| database.to_u32()),
            plaintext,
            pending: true,
            address: peer.address,
            role: Text::new(&peer.role),
            issuer: name(peer.issuer.as_deref()),
            subject: name(peer.subject.as_deref()),
            ..Entry::FREE
        };
    }
    bgworker::before_exit(on_exit);
    Ok(())
}

/// Notes that the login of this walsender is decided.
pub fn settle() {
    let pid = latch::my_pid();
    for entry in &mut REGISTRY.exclusive().entries {
        if entry.pid == pid {
            entry.pending = false;
        }
    }
}

/// Notes that this walsender is on a lane of its database.
pub fn on_lane(lane: i64) {
    if !port::is_walsender() {
        return;
    }
    let (pid, database) = (latch::my_pid(), xact::database().to_u32());
    for entry in &mut REGISTRY.exclusive().entries {
        if entry.pid == pid {
            entry.lane = lane;
            entry.database = database;
        }
    }
}

/// The walsenders that run now, and whose login is decided: a lane is found only in a session's first transaction.
pub fn running() -> Vec<Running> {
    REGISTRY
        .share()
        .entries
        .iter()
        .filter(|entry| entry.pid != 0 && !entry.pending)
        .map(|entry| Running {
            pid: entry.pid,
            database: (entry.database != 0).then(|| pg_sys::Oid::from(entry.database)),
            lane: (entry.lane != 0).then_some(entry.lane),
            plaintext: entry.plaintext,
            peer: Peer {
                address: entry.address,
                role: entry.role.as_str().to_owned(),
                issuer: stored(&entry.issuer),
                subject: stored(&entry.subject),
            },
        })
        .collect()
}

/// Whether any walsender runs that `which` is true for.
pub fn any(which: impl Fn(&Running) -> bool) -> bool {
    running().iter().any(which)
}

/// Ends a walsender, unless it has ended or changed lanes since it was looked at.
pub fn end(running: &Running) -> bool {
    let registry = REGISTRY.share();
    let same = registry
        .entries
        .iter()
        .any(|entry| entry.pid == running.pid && entry.lane == running.lane.unwrap_or(0));
    if same {
        latch::terminate(running.pid);
    }
    same
}

/// Asks for shared memory. Only while preloading.
pub fn init() {
    pg_shmem_init!(REGISTRY);
}
