//! What must happen in a cell, from DESIGN, section 4, and from nothing of the code:
//!
//! - whom the server does not believe gets the server's own answer;
//! - inside, everything passes that is not unlawful whoever asks for it;
//! - by a lane passes exactly what the lane says;
//! - rows that may be where the peer is pass to it, if it belongs to the node's organisation;
//! - everything else is refused by the gate that sees it first: walsenders at login, unless a lane let them in; with
//!   `warn` it passes, and is recorded by the gate that would have refused it.

use crate::channels::{Asks, Brings, Channel, Gate};
use crate::peers::{Kind, Peer};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    Warn,
    On,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The channel does not lead to this peer.
    NoSuchCell,
    /// The server lets nobody in (28P01), and the guard has nothing to say.
    NotAuthenticated,
    /// It works, and the guard has nothing to say.
    Passes,
    /// It works, and this gate says that it would refuse it.
    Warned(Gate),
    /// This gate refuses it (42501), and nothing arrives.
    Refused(Gate),
}

/// The gate that would refuse; none where it is lawful.
fn objection(channel: &Channel, peer: &Peer) -> Option<Gate> {
    let inside = peer.kind == Kind::InRegion;
    let has_lane = peer.kind == Kind::LaneFits;
    match channel.asks {
        Asks::Never(gate) => Some(gate),
        _ if inside => None,
        Asks::Physical => Some(Gate::Login),
        Asks::TheLane if has_lane => None,
        Asks::Logical(gate) if has_lane => Some(gate),
        Asks::TheLane | Asks::Logical(_) => Some(Gate::Login),
        // Those in eu that are of the node's own organisation.
        Asks::RowsOfEu(_) if peer.kind == Kind::Outside => None,
        Asks::Session(gate)
        | Asks::RowsOfEu(gate)
        | Asks::Destination(gate)
        | Asks::Named(gate) => Some(gate),
    }
}

fn exists(channel: &Channel, peer: &Peer) -> bool {
    match channel.asks {
        Asks::Destination(_) => peer.is_destination(),
        Asks::Named(_) => {
            peer.cert.is_none()
                && matches!(
                    peer.kind,
                    Kind::InRegion | Kind::Outside | Kind::OtherOrganisation | Kind::Unknown
                )
        }
        _ => true,
    }
}

pub fn expected(channel: &Channel, peer: &Peer, mode: Mode) -> Expected {
    if !exists(channel, peer) {
        return Expected::NoSuchCell;
    }
    if peer.kind == Kind::Unauthenticated {
        return Expected::NotAuthenticated;
    }
    match (objection(channel, peer), mode) {
        (None, _) => Expected::Passes,
        (Some(gate), Mode::Warn) => Expected::Warned(gate),
        (Some(gate), Mode::On) => Expected::Refused(gate),
    }
}

/// What must arrive, and what must not.
pub fn arrives(channel: &Channel, expected: Expected) -> Brings {
    match expected {
        Expected::Passes | Expected::Warned(_) => channel.brings,
        Expected::Refused(_) | Expected::NotAuthenticated | Expected::NoSuchCell => Brings::Nothing,
    }
}
