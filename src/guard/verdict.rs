//! What a peer is to this node: inside, outside, or unknown, and why. Pure.
//!
//! Two kinds of evidence exist: the certificate and the network address. Where both say something they must
//! agree. The address of a pooler, a unix socket and loopback say nothing, unless a `local` line vouches for
//! the role. What nothing is known about is treated as outside.

use std::net::IpAddr;

use crate::guard::rules::{Evidence, LineNumber, Own, Rules, normalize};

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Socket,
    Ip(IpAddr),
    /// Neither: nothing can be said from it.
    Unknown,
}

impl Address {
    fn is_local(self) -> bool {
        match self {
            Address::Socket => true,
            Address::Ip(address) => normalize(address).is_loopback(),
            Address::Unknown => false,
        }
    }
}

/// Who wants to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub address: Address,
    pub role: String,
    /// Distinguished name of the authority that signed the verified certificate.
    pub issuer: Option<String>,
    /// Distinguished name in the verified certificate.
    pub subject: Option<String>,
}

impl Peer {
    /// The peer in a few words, for messages and records.
    pub fn describe(&self) -> String {
        let place = match self.address {
            Address::Socket => "unix socket".to_owned(),
            Address::Ip(address) => normalize(address).to_string(),
            Address::Unknown => "unknown address".to_owned(),
        };
        match &self.subject {
            Some(subject) => format!("{place} with certificate \"{subject}\""),
            None => place,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// In the region of this cluster, and of its organisation.
    Inside,
    /// Known to be elsewhere, or somebody else's.
    Outside,
    /// Nothing is known, or what is known contradicts itself.
    Unknown,
}

impl Verdict {
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Inside => "inside",
            Verdict::Outside => "outside",
            Verdict::Unknown => "unknown",
        }
    }
}

/// A verdict with what led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub verdict: Verdict,
    pub region: Option<String>,
    pub organisation: Option<String>,
    /// The line of the rules file that decided.
    pub line: Option<LineNumber>,
    /// A sentence: why.
    pub reason: String,
    /// A sentence: what would make the flow lawful. Empty when nothing is refused.
    pub remedy: String,
    /// Whether the peer belongs to this node's organisation. Another one may hold nothing, wherever it is.
    pub ours: bool,
}

impl Judgement {
    fn unknown(line: Option<LineNumber>, reason: String, remedy: &str) -> Self {
        Judgement {
            verdict: Verdict::Unknown,
            region: None,
            organisation: None,
            line,
            reason,
            remedy: remedy.to_owned(),
            ours: false,
        }
    }

    /// A process of the server itself.
    pub fn server_process() -> Self {
        Judgement {
            verdict: Verdict::Inside,
            region: None,
            organisation: None,
            line: None,
            reason: "The session is a process of the server itself.".to_owned(),
            remedy: String::new(),
            ours: true,
        }
    }

    /// Without rules nothing is known about anybody.
    pub fn no_rules() -> Self {
        Judgement::unknown(
            None,
            "No region rules are loaded, so nothing is known about this peer.".to_owned(),
            "Write the rules file (custodian.region_rules_file) and reload the server.",
        )
    }

    /// Whether the peer may hold data whose residency is `residency`.
    pub fn may_hold(&self, rules: &Rules, residency: &[String]) -> bool {
        match &self.region {
            Some(region) => self.ours && rules.within_any(region, residency),
            None => false,
        }
    }
}

/// The stronger of two pieces of evidence that agree: of two regions of which one lies in the other, the
/// inner. `None` when they contradict each other.
fn agree<'a>(rules: &Rules, first: Evidence<'a>, second: Evidence<'a>) -> Option<Evidence<'a>> {
    let organisations = (&first.place.organisation, &second.place.organisation);
    if let (Some(one), Some(other)) = organisations
        && one != other
    {
        return None;
    }
    // An organisation that only one of them states is kept by preferring that one where regions are equal.
    if first.place.region == second.place.region {
        return Some(if first.place.organisation.is_some() {
            first
        } else {
            second
        });
    }
    if rules.within(&first.place.region, &second.place.region) {
        Some(first)
    } else if rules.within(&second.place.region, &first.place.region) {
        Some(second)
    } else {
        None
    }
}

fn contradiction(first: &Evidence, second: &Evidence) -> Judgement {
    let place = |evidence: &Evidence| match &evidence.place.organisation {
        Some(organisation) => format!("\"{}\" of \"{organisation}\"", evidence.place.region),
        None => format!("\"{}\"", evidence.place.region),
    };
    Judgement::unknown(
        Some(first.line),
        format!(
            "Line {} of the region rules ({}) puts the peer in {}, line {} ({}) in {}.",
            first.line,
            first.kind,
            place(first),
            second.line,
            second.kind,
            place(second),
        ),
        "Connect from the region that the certificate is for, or correct the rules.",
    )
}

/// What the rules say about `peer`, seen from a node that is at `own`.
pub fn judge(rules: &Rules, own: &Own, peer: &Peer) -> Judgement {
    let subject = peer.subject.as_deref().and_then(|dn| rules.by_subject(dn));
    let issuer = peer.issuer.as_deref().and_then(|dn| rules.by_issuer(dn));
    let certificate = match (subject, issuer) {
        (Some(subject), Some(issuer)) => match agree(rules, subject.clone(), issuer.clone()) {
            Some(evidence) => Some(evidence),
            None => return contradiction(&subject, &issuer),
        },
        (subject, issuer) => subject.or(issuer),
    };

    let pooler = match peer.address {
        Address::Ip(address) => rules.pooler(address),
        _ => None,
    };
    if peer.address.is_local() && pooler.is_none() && certificate.is_none() {
        return local(rules, own, peer);
    }
    let network = match (peer.address, pooler) {
        (Address::Ip(address), None) => rules.by_address(address),
        _ => None,
    };
    let evidence = match (certificate, network) {
        (Some(certificate), Some(network)) => {
            match agree(rules, certificate.clone(), network.clone()) {
                Some(evidence) => evidence,
                None => return contradiction(&certificate, &network),
            }
        }
        (Some(evidence), None) | (None, Some(evidence)) => evidence,
        (None, None) => {
            return match pooler {
                Some(line) => Judgement::unknown(
                    Some(line),
                    format!(
                        "The address belongs to a pooler (line {line} of the region rules), and is no evidence of where the peer is."
                    ),
                    "Connect directly, or give the pooler a client certificate of an issuer or subject that the rules name.",
                ),
                None => Judgement::unknown(
                    None,
                    "No line of the region rules knows this peer.".to_owned(),
                    "If the peer may receive this data, add a \"network\", \"issuer\" or \"subject\" line for it to the region rules and reload the server.",
                ),
            };
        }
    };
    weigh(rules, own, &evidence)
}

/// A session over the unix socket or loopback, without a certificate that the rules know.
fn local(rules: &Rules, own: &Own, peer: &Peer) -> Judgement {
    match rules.local(&peer.role) {
        Some(line) => Judgement {
            verdict: Verdict::Inside,
            region: own.region.clone(),
            organisation: own.organisation.clone(),
            line: Some(line),
            reason: format!(
                "Line {line} of the region rules takes local sessions of this role for the node's own."
            ),
            remedy: String::new(),
            ours: true,
        },
        None => Judgement::unknown(
            None,
            "Unix sockets and loopback have no region, since a tunnel or a pooler may stand there."
                .to_owned(),
            "If this role connects locally from this node alone, add a \"local\" line for it to the region rules and reload the server.",
        ),
    }
}

/// Compares the place of a peer with where this cluster's data may be.
pub fn weigh(rules: &Rules, own: &Own, evidence: &Evidence) -> Judgement {
    let place = evidence.place;
    let line = evidence.line;
    // Where what is known of this node contradicts itself, or could not be read, nobody knows whose it is either.
    let ours = !own.contradictory
        && (own.organisation.is_none() || own.organisation == place.organisation);
    let judgement = |verdict, reason: String, remedy: &str| Judgement {
        verdict,
        region: Some(place.region.clone()),
        organisation: place.organisation.clone(),
        line: Some(line),
        reason,
        remedy: remedy.to_owned(),
        ours,
    };
    let lost = |remedy: &str| {
        let problem = own.problem.as_deref().unwrap_or("nothing says where it is");
        judgement(
            Verdict::Unknown,
            format!("The region of this node is unknown: {problem}."),
            remedy,
        )
    };
    if own.contradictory {
        return lost(own.remedy());
    }
    let (allowed, source): (Vec<String>, String) = match (rules.residency(), &own.region) {
        (Some((line, regions)), _) => (
            regions.to_vec(),
            format!("line {line} of the region rules allows"),
        ),
        (None, Some(region)) => (vec![region.clone()], "this node is in".to_owned()),
        (None, None) => {
            return lost(
                "Set custodian.region and restart the server, or add a \"node\" line with an address of this node to the region rules and reload it.",
            );
        }
    };
    let names = allowed
        .iter()
        .map(|region| format!("\"{region}\""))
        .collect::<Vec<_>>()
        .join(", ");
    if !rules.within_any(&place.region, &allowed) {
        return judgement(
            Verdict::Outside,
            format!(
                "Line {line} of the region rules ({}) puts the peer in region \"{}\", but {source} {names}.",
                evidence.kind, place.region
            ),
            "Connect from inside, or have a transfer to that region approved and add the region to the \"residency\" line.",
        );
    }
    if !ours {
        let own = own.organisation.as_deref().unwrap_or_default();
        let other = match &place.organisation {
            Some(other) => format!("organisation \"{other}\""),
            None => "no organisation".to_owned(),
        };
        return judgement(
            Verdict::Outside,
            format!(
                "Line {line} of the region rules ({}) names {other} for the peer, but this node belongs to \"{own}\".",
                evidence.kind
            ),
            "Connect from a node of the same organisation, or correct the organisation in that line.",
        );
    }
    judgement(
        Verdict::Inside,
        format!(
            "Line {line} of the region rules ({}) puts the peer in region \"{}\", and {source} {names}.",
            evidence.kind, place.region
        ),
        "",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::rules::parse;

    const FILE: &str = r#"
region eu
region de in eu
region cn
node 10.86.0.1 cn
network 10.86.0.0/16 cn
network 10.33.0.0/16 de
network 10.34.0.0/16 eu
issuer "/CN=cn" cn
issuer "/CN=eu" eu
subject "/CN=berlin" de
subject "/CN=spy" cn
pooler 10.86.5.0/24
local postgres
"#;

    fn peer(address: &str, issuer: Option<&str>, subject: Option<&str>) -> Peer {
        Peer {
            address: match address {
                "" => Address::Socket,
                text => Address::Ip(text.parse().unwrap()),
            },
            role: "app".to_owned(),
            issuer: issuer.map(str::to_owned),
            subject: subject.map(str::to_owned),
        }
    }

    fn with(extra: &str, own: &str, peer: &Peer) -> Judgement {
        let rules = parse(&format!("{FILE}{extra}")).rules().unwrap();
        let own = rules.own(None, false, &[own.parse().unwrap()]);
        judge(&rules, &own, peer)
    }

    fn verdict(
        address: &str,
        issuer: Option<&str>,
        subject: Option<&str>,
    ) -> (Verdict, Option<u32>) {
        let judgement = with("", "10.86.0.1", &peer(address, issuer, subject));
        assert_eq!(
            judgement.remedy.is_empty(),
            judgement.verdict == Verdict::Inside
        );
        (judgement.verdict, judgement.line.map(|line| line.number))
    }

    #[test]
    fn the_address_alone_decides_without_a_certificate() {
        assert_eq!(verdict("10.86.1.1", None, None), (Verdict::Inside, Some(6)));
        assert_eq!(
            verdict("10.33.1.1", None, None),
            (Verdict::Outside, Some(7))
        );
        assert_eq!(verdict("192.0.2.1", None, None), (Verdict::Unknown, None));
    }

    #[test]
    fn certificate_and_address_must_agree() {
        let cn = Some("/CN=cn");
        assert_eq!(verdict("10.86.1.1", cn, None), (Verdict::Inside, Some(6)));
        // A certificate of the region, used from elsewhere.
        assert_eq!(verdict("10.33.1.1", cn, None), (Verdict::Unknown, Some(9)));
        // From an address that nothing is known about, the certificate is what there is.
        assert_eq!(verdict("192.0.2.1", cn, None), (Verdict::Inside, Some(9)));
        // An unknown certificate takes nothing away.
        assert_eq!(
            verdict("10.86.1.1", Some("/CN=other"), Some("/CN=me")),
            (Verdict::Inside, Some(6))
        );
    }

    #[test]
    fn the_inner_of_two_nested_regions_counts() {
        let judgement = with(
            "residency de\n",
            "10.86.0.1",
            &peer("10.34.1.1", Some("/CN=eu"), Some("/CN=berlin")),
        );
        assert_eq!(judgement.verdict, Verdict::Inside);
        assert_eq!(judgement.region.as_deref(), Some("de"));
    }

    #[test]
    fn subject_and_issuer_must_agree() {
        assert_eq!(
            verdict("10.33.1.1", Some("/CN=eu"), Some("/CN=spy")),
            (Verdict::Unknown, Some(12))
        );
    }

    #[test]
    fn the_address_of_a_pooler_is_no_evidence() {
        assert_eq!(
            verdict("10.86.5.9", None, None),
            (Verdict::Unknown, Some(13))
        );
        assert_eq!(
            verdict("10.86.5.9", Some("/CN=cn"), None),
            (Verdict::Inside, Some(9))
        );
        assert_eq!(
            verdict("10.86.5.9", Some("/CN=eu"), None),
            (Verdict::Outside, Some(10))
        );
    }

    #[test]
    fn local_sessions_are_unknown_unless_a_line_names_the_role() {
        for address in ["", "127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(verdict(address, None, None), (Verdict::Unknown, None));
            let mut named = peer(address, None, None);
            named.role = "postgres".to_owned();
            let judgement = with("", "10.86.0.1", &named);
            assert_eq!(judgement.verdict, Verdict::Inside);
            assert_eq!(judgement.region.as_deref(), Some("cn"));
            // A certificate from elsewhere weighs more than the local line.
            named.issuer = Some("/CN=eu".to_owned());
            assert_eq!(with("", "10.86.0.1", &named).verdict, Verdict::Outside);
        }
    }

    #[test]
    fn a_pooler_on_loopback_is_a_pooler() {
        let mut named = peer("127.0.0.1", None, None);
        named.role = "postgres".to_owned();
        let judgement = with("pooler 127.0.0.1\n", "10.86.0.1", &named);
        assert_eq!(judgement.verdict, Verdict::Unknown);
    }

    #[test]
    fn a_node_that_does_not_know_where_it_is_lets_nobody_in() {
        let lost = with("", "192.0.2.1", &peer("10.86.1.1", None, None));
        assert_eq!(lost.verdict, Verdict::Unknown);
        assert!(lost.reason.contains("no \"node\" line"));
        let declared = with(
            "residency cn\n",
            "192.0.2.1",
            &peer("10.86.1.1", None, None),
        );
        assert_eq!(declared.verdict, Verdict::Inside);
    }

    #[test]
    fn a_node_that_is_told_two_regions_lets_nobody_in_whatever_the_residency() {
        let rules = parse(&format!("{FILE}residency cn\n")).rules().unwrap();
        let address = "10.86.0.1".parse().unwrap();
        let near = peer("10.86.1.1", None, None);
        assert_eq!(
            judge(&rules, &rules.own(Some("cn"), false, &[address]), &near).verdict,
            Verdict::Inside
        );
        let told = judge(&rules, &rules.own(Some("de"), false, &[address]), &near);
        assert_eq!(told.verdict, Verdict::Unknown);
        assert!(
            told.reason
                .contains("custodian.region is \"de\", but line 5")
        );
        assert!(told.remedy.starts_with("Correct custodian.region"));
        // Nor does it count whose the peer is, since nobody knows whose the node is.
        assert!(!told.may_hold(&rules, &["cn".to_owned()]));
    }

    #[test]
    fn another_organisation_in_the_region_is_outside_and_may_hold_nothing() {
        let extra =
            "node 10.86.0.2 cn shop\nnetwork 10.86.7.0/24 cn other\nnetwork 10.86.8.0/24 cn shop\n";
        let other = with(extra, "10.86.0.2", &peer("10.86.7.1", None, None));
        assert_eq!((other.verdict, other.ours), (Verdict::Outside, false));
        let unnamed = with(extra, "10.86.0.2", &peer("10.86.1.1", None, None));
        assert_eq!(unnamed.verdict, Verdict::Outside);
        let same = with(extra, "10.86.0.2", &peer("10.86.8.1", None, None));
        assert_eq!(same.verdict, Verdict::Inside);
        let rules = parse(&format!("{FILE}{extra}")).rules().unwrap();
        assert!(!other.may_hold(&rules, &["cn".to_owned()]));
        assert!(same.may_hold(&rules, &["cn".to_owned()]));
        assert!(!same.may_hold(&rules, &["eu".to_owned()]));
    }

    #[test]
    fn reasons_name_line_and_region() {
        let judgement = with("", "10.86.0.1", &peer("10.33.1.1", None, None));
        assert_eq!(
            judgement.reason,
            "Line 7 of the region rules (network) puts the peer in region \"de\", but this node is in \"cn\"."
        );
    }
}
