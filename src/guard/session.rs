//! Who the client of this backend is: judged at the first use, and again when other rules come into force; at each use while
//! nobody can tell where this node is.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::guard::active::{self, Active};
use crate::guard::verdict::{self, Address, Judgement, Peer, Verdict};
use crate::pg::port::{self, Remote};
use crate::pg::xact;

/// The generation of rules under which this session is inside. `u64::MAX`: whatever the rules say. A process has one thread
/// that runs queries; unlike a variable of the thread, this costs a statement no call.
static INSIDE: AtomicU64 = AtomicU64::new(0);
/// The same but for the encryption of the connection, which some tags demand.
static IN_REGION: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static JUDGED: RefCell<Option<Rc<Session>>> = const { RefCell::new(None) };
}

/// A session with what is known about its client.
pub struct Session {
    generation: u64,
    /// As in messages: the address and the certificate.
    pub peer: String,
    pub role: String,
    /// The database of the startup packet; `None` for physical replication and server processes.
    pub database: Option<String>,
    pub judgement: Judgement,
    pub active: Rc<Active>,
    /// Whether what is sent to the client can be read on its way.
    pub plaintext: bool,
    /// Whether it was judged while nobody could tell where this node is, which may be told at the next look.
    provisional: bool,
}

/// The peer that a client is.
pub fn peer(client: &port::Client) -> Peer {
    Peer {
        address: match client.remote {
            Remote::Socket => Address::Socket,
            Remote::Ip(address) => Address::Ip(address),
            Remote::Unknown => Address::Unknown,
        },
        role: client.role.clone(),
        issuer: client.issuer.clone(),
        subject: client.subject.clone(),
    }
}

/// Judges a peer by the rules given.
pub fn judge(active: &Active, peer: &Peer) -> Judgement {
    match &active.rules {
        Some(rules) => verdict::judge(rules, active.own(), peer),
        None => Judgement::no_rules(),
    }
}

fn judge_this(active: Rc<Active>) -> Rc<Session> {
    // Background workers, autovacuum and single-user mode have no client. That of a parallel worker is its leader's.
    let session = match port::client() {
        None => {
            INSIDE.store(u64::MAX, Ordering::Relaxed);
            IN_REGION.store(u64::MAX, Ordering::Relaxed);
            Session {
                generation: active.generation,
                peer: "server process".to_owned(),
                role: String::new(),
                database: None,
                judgement: Judgement::server_process(),
                active,
                plaintext: false,
                provisional: false,
            }
        }
        Some(client) => {
            let peer = peer(&client);
            let judgement = judge(&active, &peer);
            // On a standby, what the node itself may serve is looked at for sessions from inside, too; and over a
            // connection that is not encrypted, tags that demand TLS.
            let passes = judgement.verdict == Verdict::Inside && !xact::in_recovery();
            let generation = if passes { active.generation } else { 0 };
            IN_REGION.store(generation, Ordering::Relaxed);
            let inside = if client.plaintext { 0 } else { generation };
            INSIDE.store(inside, Ordering::Relaxed);
            Session {
                generation: active.generation,
                peer: peer.describe(),
                role: client.role,
                database: client.database,
                judgement,
                provisional: active.is_lost(),
                active,
                plaintext: client.plaintext,
            }
        }
    };
    let session = Rc::new(session);
    JUDGED.with(|judged| judged.replace(Some(Rc::clone(&session))));
    session
}

fn under(active: Rc<Active>) -> Rc<Session> {
    let known = JUDGED.with_borrow(|judged| {
        judged
            .as_ref()
            .filter(|session| session.generation == active.generation && !session.provisional)
            .cloned()
    });
    known.unwrap_or_else(|| judge_this(active))
}

/// This session under the rules in force.
pub fn current() -> Rc<Session> {
    under(active::current())
}

/// The same without reading the rules file, for hooks in which nothing may be locked or logged.
pub fn as_published() -> Rc<Session> {
    under(active::as_published())
}

/// Whether this session is known to be inside, over a connection that needs no encryption: a comparison of two numbers,
/// for hot paths.
#[inline]
pub fn is_known_inside() -> bool {
    is_of_now(INSIDE.load(Ordering::Relaxed))
}

/// The same, however the connection is.
#[inline]
pub fn is_known_in_region() -> bool {
    is_of_now(IN_REGION.load(Ordering::Relaxed))
}

#[inline]
fn is_of_now(inside: u64) -> bool {
    inside == u64::MAX || (inside != 0 && inside == active::generation() && !active::is_stale())
}
