//! Who asks: where a peer is, which certificate it shows, and as whom it connects.

use Kind::*;
use Place::{At, Loopback, Socket};

/// What DESIGN, section 4, makes of a peer. The matrix has a column for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// In the region, and of the node's organisation.
    InRegion,
    /// In another region, with a lane that says exactly this peer.
    LaneFits,
    /// The same, but one field of the lane is another.
    LaneDiffers,
    /// In another region.
    Outside,
    /// In the region, but of another organisation.
    OtherOrganisation,
    /// No line of the rules knows it, or two contradict each other.
    Unknown,
    /// It comes from the address of a pooler.
    Pooler,
    /// Over the unix socket, as a role that no `local` line names.
    UnixSocket,
    /// Over loopback, as such a role.
    OverLoopback,
    /// The server does not believe who it says it is.
    Unauthenticated,
}

pub const KINDS: [Kind; 10] = [
    InRegion,
    LaneFits,
    LaneDiffers,
    Outside,
    OtherOrganisation,
    Unknown,
    Pooler,
    UnixSocket,
    OverLoopback,
    Unauthenticated,
];

impl Kind {
    /// The head of its column.
    pub const fn title(self) -> &'static str {
        match self {
            InRegion => "in the region",
            LaneFits => "lane fits",
            LaneDiffers => "lane differs in one field",
            Outside => "outside",
            OtherOrganisation => "other organisation",
            Unknown => "unknown",
            Pooler => "pooler",
            UnixSocket => "unix socket",
            OverLoopback => "loopback",
            Unauthenticated => "failed authentication",
        }
    }

    /// One word, for values of settings and directories that lead there.
    pub const fn word(self) -> &'static str {
        match self {
            InRegion => "inside",
            LaneFits => "lane",
            LaneDiffers => "differs",
            Outside => "outside",
            OtherOrganisation => "vendor",
            Unknown => "unknown",
            Pooler => "pooler",
            UnixSocket => "socket",
            OverLoopback => "loopback",
            Unauthenticated => "stranger",
        }
    }
}

/// How a peer reaches the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// From a network namespace.
    At(&'static str),
    /// Over 127.0.0.1.
    Loopback,
    /// Over the unix socket.
    Socket,
}

impl Place {
    /// The foreign server that leads there.
    pub fn server(self) -> String {
        match self {
            At(place) => format!("to_{}", place.replace('-', "_")),
            Loopback => "to_loopback".to_owned(),
            Socket => "to_socket".to_owned(),
        }
    }
}

#[derive(Debug)]
pub struct Peer {
    pub name: &'static str,
    pub kind: Kind,
    pub place: Place,
    /// The authority that signed its certificate.
    pub cert: Option<&'static str>,
    pub role: &'static str,
}

impl Peer {
    pub fn needs_net(&self) -> bool {
        matches!(self.place, At(_))
    }

    /// The foreign server that leads there.
    pub fn server(&self) -> String {
        self.place.server()
    }

    /// Whether a connection that the node itself opens can lead to it: a place is one, a certificate is not. One peer of a
    /// place stands for it.
    pub fn is_destination(&self) -> bool {
        self.cert.is_none()
            && !matches!(self.kind, LaneDiffers | Unauthenticated)
            && self.name != NAMED_LOCALLY
    }
}

const fn peer(
    name: &'static str,
    kind: Kind,
    place: Place,
    cert: Option<&'static str>,
    role: &'static str,
) -> Peer {
    Peer {
        name,
        kind,
        place,
        cert,
        role,
    }
}

const NAMED_LOCALLY: &str = "over the unix socket, as a role of a local line";

/// The authorities, and the line of the rules for each that has one.
pub const AUTHORITIES: [(&str, Option<&str>); 6] = [
    ("cn", Some("cn shop")),
    ("eu", Some("eu acme")),
    ("eutwo", Some("eu acme")),
    ("away", Some("eu shop")),
    ("vendor", Some("cn vendor")),
    ("nobody", None),
];

/// The lines of the rules that say what a place is, beside the node's own. A place without one is unknown.
pub const PLACES: [(&str, Option<&str>); 9] = [
    ("cn-b", Some("network {} cn shop")),
    ("cn-c", Some("network {} cn vendor")),
    ("cn-d", Some("pooler {}")),
    ("eu-a", Some("network {} eu acme")),
    ("eu-b", Some("network {} eu acme")),
    ("eu-c", Some("network {} eu other")),
    ("eu-d", Some("network {} eu shop")),
    ("us-a", Some("network {} us acme")),
    ("zz-a", None),
];

/// The lanes: role, and the arguments that say from where.
pub const LANES: [(&str, &str); 7] = [
    ("lane_net", "network => '10.33.0.1/32'"),
    ("lane_org", "network => '10.33.0.0/16'"),
    ("lane_region", "network => '10.0.0.0/8'"),
    ("lane_closed", "network => '10.33.0.0/16'"),
    (IN_OTHER_DATABASE, "network => '10.33.0.0/16'"),
    ("lane_cert", "issuer => '/O=eu/CN=eu authority'"),
    (
        "lane_both",
        "network => '10.33.0.1/32', issuer => '/O=eu/CN=eu authority'",
    ),
];

/// The lane that is opened in another database than the one where its role, slot and publication are used.
pub const IN_OTHER_DATABASE: &str = "lane_database";

/// The lane that is closed before anybody uses it.
pub const CLOSED: &str = "lane_closed";

pub const PEERS: [Peer; 32] = [
    peer(
        "from a network of the region",
        InRegion,
        At("cn-b"),
        None,
        "p_cn",
    ),
    peer(
        "from there, with a certificate of the region",
        InRegion,
        At("cn-b"),
        Some("cn"),
        "p_cn",
    ),
    peer(NAMED_LOCALLY, InRegion, Socket, None, "p_local"),
    peer(
        "over loopback, with a certificate of the region",
        InRegion,
        Loopback,
        Some("cn"),
        "p_cert",
    ),
    peer(
        "through a pooler that has a certificate of the region",
        InRegion,
        At("cn-d"),
        Some("cn"),
        "p_cert",
    ),
    peer("lane by network", LaneFits, At("eu-a"), None, "lane_net"),
    peer(
        "lane by issuer",
        LaneFits,
        Loopback,
        Some("eu"),
        "lane_cert",
    ),
    peer(
        "lane by both",
        LaneFits,
        At("eu-a"),
        Some("eu"),
        "lane_both",
    ),
    peer("another role", LaneDiffers, At("eu-a"), None, "p_role"),
    peer("another network", LaneDiffers, At("eu-b"), None, "lane_net"),
    peer(
        "another organisation",
        LaneDiffers,
        At("eu-c"),
        None,
        "lane_org",
    ),
    peer(
        "another region",
        LaneDiffers,
        At("us-a"),
        None,
        "lane_region",
    ),
    peer(
        "another database",
        LaneDiffers,
        At("eu-a"),
        None,
        IN_OTHER_DATABASE,
    ),
    peer(
        "the lane is closed",
        LaneDiffers,
        At("eu-a"),
        None,
        "lane_closed",
    ),
    peer(
        "another issuer",
        LaneDiffers,
        Loopback,
        Some("eutwo"),
        "lane_cert",
    ),
    peer(
        "another issuer, from the network",
        LaneDiffers,
        At("eu-a"),
        Some("eutwo"),
        "lane_both",
    ),
    peer(
        "another network, with the certificate",
        LaneDiffers,
        At("eu-b"),
        Some("eu"),
        "lane_both",
    ),
    peer(
        "the role, by certificate",
        LaneDiffers,
        Loopback,
        Some("eu"),
        "p_role",
    ),
    peer(
        "from a network of another region",
        Outside,
        At("eu-d"),
        None,
        "p_eu",
    ),
    peer(
        "with a certificate of another region",
        Outside,
        Loopback,
        Some("away"),
        "p_away",
    ),
    peer(
        "from a network of another organisation",
        OtherOrganisation,
        At("cn-c"),
        None,
        "p_vendor",
    ),
    peer(
        "with a certificate of another organisation",
        OtherOrganisation,
        Loopback,
        Some("vendor"),
        "p_vendor2",
    ),
    peer(
        "from a network that no line names",
        Unknown,
        At("zz-a"),
        None,
        "p_zz",
    ),
    peer(
        "with a certificate that no line names",
        Unknown,
        Loopback,
        Some("nobody"),
        "p_nobody",
    ),
    peer(
        "in the region, with a certificate of another",
        Unknown,
        At("cn-b"),
        Some("away"),
        "p_mixed",
    ),
    peer(
        "outside, with a certificate of the region",
        Unknown,
        At("eu-d"),
        Some("cn"),
        "p_mixed",
    ),
    peer(
        "from the address of a pooler",
        Pooler,
        At("cn-d"),
        None,
        "p_pool",
    ),
    peer("over the unix socket", UnixSocket, Socket, None, "p_sock"),
    peer("over loopback", OverLoopback, Loopback, None, "p_loop"),
    peer(
        "with a wrong password, from the region",
        Unauthenticated,
        At("cn-b"),
        None,
        "intruder",
    ),
    peer(
        "with a wrong password, over loopback",
        Unauthenticated,
        Loopback,
        None,
        "intruder",
    ),
    peer(
        "with a wrong password, by a certificate of the region",
        Unauthenticated,
        Loopback,
        Some("cn"),
        "intruder",
    ),
];

/// A role whose password nobody knows.
pub const INTRUDER: &str = "intruder";

/// Every role, each once.
pub fn roles() -> Vec<&'static str> {
    let mut roles: Vec<_> = PEERS.iter().map(|peer| peer.role).collect();
    roles.sort_unstable();
    roles.dedup();
    roles
}
