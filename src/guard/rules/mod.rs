//! The region rules: which network, certificate or node is in which region and belongs to whom. Pure.
//!
//! The file is read in the manner of `pg_hba.conf`: one rule per line, comments with `#`, tokens in double
//! quotes where they hold spaces, every wrong line reported with its number. Unlike there, a file with an
//! error is not used at all, since a rule that is missing may widen what others allow.

mod include;
mod lookup;
mod parse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

pub use include::{Files, Found, Include, Noting, parse_kept};
pub use lookup::{Evidence, Own, normalize};
pub use parse::{MAX_BYTES, parse, parse_with};

/// Number of a line in the rules file, from 1, or in a file that it includes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineNumber {
    /// `None` for the rules file itself.
    pub file: Option<&'static str>,
    pub number: u32,
}

impl std::fmt::Display for LineNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self.file {
            None => write!(f, "{}", self.number),
            Some(file) => write!(f, "{} of \"{file}\"", self.number),
        }
    }
}

/// What a rule says about a place: its region, and perhaps who runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub region: String,
    pub organisation: Option<String>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    Region {
        name: String,
        parent: Option<String>,
    },
    /// An address by which a node knows where it is itself.
    Node {
        address: IpAddr,
        place: Place,
    },
    Network {
        network: IpNet,
        place: Place,
    },
    /// The distinguished name of a certificate authority, as `pg_stat_ssl.issuer_dn` shows it.
    Issuer {
        name: String,
        place: Place,
    },
    /// The distinguished name of a client's certificate, as `pg_stat_ssl.client_dn` shows it.
    Subject {
        name: String,
        place: Place,
    },
    /// A network from which others' connections come: its addresses are no evidence.
    Pooler {
        network: IpNet,
    },
    /// A role (`None`: all) whose sessions over the unix socket or loopback are the node's own.
    Local {
        role: Option<String>,
    },
    /// The regions that replicas of this cluster may be in.
    Residency {
        regions: Vec<String>,
    },
    /// The exact value of a setting of the server by which data may be shipped, and where that is.
    Setting {
        name: String,
        value: String,
        place: Place,
    },
    /// The directory of a tablespace, and where it is.
    Tablespace {
        location: String,
        place: Place,
    },
    /// Other files, whose lines count as if they stood here.
    Include {
        how: Include,
        path: String,
    },
    /// An extension that can reach the network or run programs, and may be used here.
    Extension {
        name: String,
    },
}

impl Rule {
    /// The word that begins the line.
    pub const fn kind(&self) -> &'static str {
        match self {
            Rule::Region { .. } => "region",
            Rule::Node { .. } => "node",
            Rule::Network { .. } => "network",
            Rule::Issuer { .. } => "issuer",
            Rule::Subject { .. } => "subject",
            Rule::Pooler { .. } => "pooler",
            Rule::Local { .. } => "local",
            Rule::Residency { .. } => "residency",
            Rule::Setting { .. } => "setting",
            Rule::Tablespace { .. } => "tablespace",
            Rule::Extension { .. } => "extension",
            Rule::Include { how, .. } => match how {
                Include::File => "include",
                Include::IfExists => "include_if_exists",
                Include::Directory => "include_dir",
            },
        }
    }

    /// The region and organisation that the rule assigns, if it is of such a kind.
    pub const fn place(&self) -> Option<&Place> {
        match self {
            Rule::Node { place, .. }
            | Rule::Network { place, .. }
            | Rule::Issuer { place, .. }
            | Rule::Subject { place, .. }
            | Rule::Setting { place, .. }
            | Rule::Tablespace { place, .. } => Some(place),
            _ => None,
        }
    }
}

/// A line of the file that is neither empty nor a comment: what it says, or what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub number: LineNumber,
    /// The first word, which may be unknown.
    pub kind: String,
    /// The other words, as written but for quotes.
    pub arguments: Vec<String>,
    pub rule: Result<Rule, String>,
}

/// A file as read. [`File::rules`] gives the rules when no line is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    pub lines: Vec<Line>,
}

impl File {
    /// The lines that are wrong, with what is wrong.
    pub fn errors(&self) -> impl Iterator<Item = (LineNumber, &str)> {
        self.lines.iter().filter_map(|line| {
            let error = line.rule.as_ref().err()?;
            Some((line.number, error.as_str()))
        })
    }

    /// The rules, unless a line is wrong.
    pub fn rules(&self) -> Option<Rules> {
        let mut rules = Rules::default();
        for line in &self.lines {
            let rule = line.rule.as_ref().ok()?;
            if let Rule::Region { name, parent } = rule {
                rules.parents.insert(name.clone(), parent.clone());
            }
            rules.list.push((line.number, rule.clone()));
        }
        Some(rules)
    }
}

/// Rules without an error, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    list: Vec<(LineNumber, Rule)>,
    /// Each region with the one it lies in.
    parents: BTreeMap<String, Option<String>>,
}
