//! Questions to the rules: where is this node, and what do the rules know about a peer?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use super::{LineNumber, Place, Rule, Rules};

/// IPv4 addresses that arrive mapped into IPv6 (`::ffff:192.0.2.1`) are IPv4 addresses.
pub fn normalize(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// The same for networks.
pub(super) fn normalize_network(network: IpNet) -> IpNet {
    if let IpNet::V6(v6) = network
        && let Some(mapped) = v6.addr().to_ipv4_mapped()
        && let Some(length) = v6.prefix_len().checked_sub(96)
        && let Ok(v4) = Ipv4Net::new(mapped, length)
    {
        return IpNet::V4(v4);
    }
    network
}

pub(super) fn is_loopback(address: IpAddr) -> bool {
    match normalize(address) {
        IpAddr::V4(v4) => v4.is_loopback() || v4 == Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(v6) => v6.is_loopback() || v6 == Ipv6Addr::UNSPECIFIED,
    }
}

/// What one kind of evidence says about a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence<'a> {
    pub line: LineNumber,
    pub kind: &'static str,
    pub place: &'a Place,
}

/// Where this node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    pub region: Option<String>,
    pub organisation: Option<String>,
    /// The `node` line that says the region; `None` when a setting does, or nothing.
    pub line: Option<LineNumber>,
    /// Why the region is unknown.
    pub problem: Option<String>,
    /// Whether it is unknown because what is known contradicts itself: then nobody is inside, whatever else the rules say.
    pub contradictory: bool,
    /// Whether that is since the addresses of the machine could not be read, which may be otherwise at the next look.
    pub unreadable: bool,
}

impl Own {
    /// Nothing is known, for a reason.
    fn unknown(problem: String) -> Own {
        Own {
            problem: Some(problem),
            ..Own::default()
        }
    }

    /// What is known contradicts itself.
    pub fn contradiction(problem: String) -> Own {
        Own {
            contradictory: true,
            ..Own::unknown(problem)
        }
    }

    /// Nothing shows whether what is known contradicts itself.
    pub fn unreadable(error: &std::io::Error) -> Own {
        Own {
            unreadable: true,
            ..Own::contradiction(format!(
                "the addresses of this machine cannot be read ({error})"
            ))
        }
    }

    /// What to do where what is known contradicts itself.
    pub const fn remedy(&self) -> &'static str {
        if self.unreadable {
            "See why the system does not tell the server the addresses of the machine; it is asked again at each statement."
        } else {
            "Correct custodian.region, which a copy of another node's files brings along, and restart the server; or the \"node\" lines of the region rules, and reload it."
        }
    }
}

impl Rules {
    /// Whether this rule stands on this line.
    pub fn holds(&self, line: LineNumber, rule: &Rule) -> bool {
        self.list
            .iter()
            .any(|(number, known)| *number == line && known == rule)
    }

    /// Whether the rules know the region.
    pub fn knows(&self, region: &str) -> bool {
        self.parents.contains_key(region)
    }

    /// Whether `region` is `other` or lies in it.
    pub fn within(&self, region: &str, other: &str) -> bool {
        let mut current = Some(region);
        // Parsing has refused circles, so this ends.
        while let Some(name) = current {
            if name == other {
                return true;
            }
            current = self.parents.get(name).and_then(Option::as_deref);
        }
        false
    }

    /// `region` and the regions that it lies in, from the inside out.
    pub fn around(&self, region: &str) -> Vec<String> {
        let mut around = Vec::new();
        let mut current = self.parents.contains_key(region).then_some(region);
        while let Some(name) = current {
            around.push(name.to_owned());
            current = self.parents.get(name).and_then(Option::as_deref);
        }
        around
    }

    /// Whether `region` is, or lies in, one of `regions`.
    pub fn within_any<S: AsRef<str>>(&self, region: &str, regions: &[S]) -> bool {
        regions
            .iter()
            .any(|other| self.within(region, other.as_ref()))
    }

    /// Whether a `node` line says where some node is.
    pub fn has_nodes(&self) -> bool {
        self.list
            .iter()
            .any(|(_, rule)| matches!(rule, Rule::Node { .. }))
    }

    /// The `residency` line.
    pub fn residency(&self) -> Option<(LineNumber, &[String])> {
        self.list.iter().find_map(|(line, rule)| match rule {
            Rule::Residency { regions } => Some((*line, regions.as_slice())),
            _ => None,
        })
    }

    /// What the networks say about an address: the longest prefix that holds it, the first line among
    /// equals. Loopback addresses have no region.
    pub fn by_address(&self, address: IpAddr) -> Option<Evidence<'_>> {
        let address = normalize(address);
        if is_loopback(address) {
            return None;
        }
        let mut best: Option<(u8, Evidence)> = None;
        for (line, rule) in &self.list {
            let Rule::Network { network, place } = rule else {
                continue;
            };
            let length = network.prefix_len();
            let better = best.as_ref().is_none_or(|(known, _)| length > *known);
            if better && network.contains(&address) {
                best = Some((
                    length,
                    Evidence {
                        line: *line,
                        kind: rule.kind(),
                        place,
                    },
                ));
            }
        }
        best.map(|(_, evidence)| evidence)
    }

    /// The `pooler` line that covers an address.
    pub fn pooler(&self, address: IpAddr) -> Option<LineNumber> {
        let address = normalize(address);
        self.list.iter().find_map(|(line, rule)| match rule {
            Rule::Pooler { network } if network.contains(&address) => Some(*line),
            _ => None,
        })
    }

    /// The `local` line that makes a role's sessions over socket or loopback the node's own.
    pub fn local(&self, role: &str) -> Option<LineNumber> {
        self.list.iter().find_map(|(line, rule)| match rule {
            Rule::Local { role: None } => Some(*line),
            Rule::Local { role: Some(name) } if name == role => Some(*line),
            _ => None,
        })
    }

    /// Where the data goes that this exact value of a setting ships.
    pub fn setting(&self, wanted: &str, given: &str) -> Option<Evidence<'_>> {
        self.placed(|rule| matches!(rule, Rule::Setting { name, value, .. } if name == wanted && value == given))
    }

    /// Where the directory of a tablespace is.
    pub fn tablespace(&self, given: &str) -> Option<Evidence<'_>> {
        self.placed(|rule| matches!(rule, Rule::Tablespace { location, .. } if location == given))
    }

    fn placed(&self, is: impl Fn(&Rule) -> bool) -> Option<Evidence<'_>> {
        self.list.iter().find_map(|(line, rule)| {
            if !is(rule) {
                return None;
            }
            Some(Evidence {
                line: *line,
                kind: rule.kind(),
                place: rule.place()?,
            })
        })
    }

    /// Whether an `extension` line names an extension.
    pub fn names_extension(&self, wanted: &str) -> bool {
        self.list
            .iter()
            .any(|(_, rule)| matches!(rule, Rule::Extension { name } if name == wanted))
    }

    /// What the rules say about the issuer of a certificate.
    pub fn by_issuer(&self, name: &str) -> Option<Evidence<'_>> {
        self.certificate(name, |rule| match rule {
            Rule::Issuer { name, .. } => Some(name),
            _ => None,
        })
    }

    /// What the rules say about the subject of a certificate.
    pub fn by_subject(&self, name: &str) -> Option<Evidence<'_>> {
        self.certificate(name, |rule| match rule {
            Rule::Subject { name, .. } => Some(name),
            _ => None,
        })
    }

    fn certificate(
        &self,
        name: &str,
        key: impl Fn(&Rule) -> Option<&String>,
    ) -> Option<Evidence<'_>> {
        self.list.iter().find_map(|(line, rule)| {
            if key(rule)? != name {
                return None;
            }
            Some(Evidence {
                line: *line,
                kind: rule.kind(),
                place: rule.place()?,
            })
        })
    }

    /// Where this node is: what the `node` lines say about `addresses`, or `setting` (`custodian.region`) where none names
    /// one of them; `copied` says that the setting goes with copies of the data directory. All that say something must agree: a setting that came with a copy of another node's files, or a line
    /// that was forgotten, does not decide. A line and the setting agree where one region lies in the other, and the inner
    /// one counts, as with two proofs of a peer.
    pub fn own(&self, setting: Option<&str>, copied: bool, addresses: &[IpAddr]) -> Own {
        let matching: Vec<(LineNumber, &Place)> = self
            .list
            .iter()
            .filter_map(|(line, rule)| match rule {
                Rule::Node { address, place }
                    if addresses.iter().any(|own| normalize(*own) == *address) =>
                {
                    Some((*line, place))
                }
                _ => None,
            })
            .collect();
        let Some((line, place)) = matching.first() else {
            return match setting {
                None => Own::unknown("no \"node\" line names an address of this node".to_owned()),
                Some(setting) if !self.knows(setting) => Own::unknown(format!(
                    "custodian.region is \"{setting}\", which the rules do not define"
                )),
                Some(setting) => Own {
                    region: Some(setting.to_owned()),
                    ..Own::default()
                },
            };
        };
        if let Some((other, _)) = matching.iter().find(|(_, other)| other != place) {
            return Own::contradiction(format!(
                "lines {line} and {other} both name addresses of this node and contradict each other"
            ));
        }
        let region = match setting {
            Some(setting) if self.within(&place.region, setting) => place.region.as_str(),
            // What came with a copy would let a standby serve what its line alone would not.
            Some(setting) if !copied && self.within(setting, &place.region) => setting,
            Some(setting) => {
                return Own::contradiction(format!(
                    "custodian.region is \"{setting}\", but line {line} names an address of this node and puts it in \"{}\"",
                    place.region
                ));
            }
            None => place.region.as_str(),
        };
        Own {
            region: Some(region.to_owned()),
            organisation: place.organisation.clone(),
            line: (region == place.region).then_some(*line),
            ..Own::default()
        }
    }
}
