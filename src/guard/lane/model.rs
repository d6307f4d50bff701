//! What a transfer covers, and which peer and command a lane is for. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::guard::command::Command;
use crate::guard::rules::{Rules, normalize};

/// The only plugin that sends what publications say and nothing else.
pub const PLUGIN: &str = "pgoutput";

/// An approved movement of data to another region or organisation, as far as the gates ask about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    pub name: String,
    pub organisation: String,
    pub region: String,
    /// The purposes that have not ended.
    pub purposes: Vec<String>,
    pub categories: Vec<String>,
    /// The boolean column that says whether a row's subject consented to the transfer.
    pub consent_column: Option<String>,
    /// The residencies of the rows that may go, in tables whose rows say where they may be.
    pub residencies: Vec<String>,
    /// The instant it ends at, in the server's microseconds.
    pub valid_until: i64,
}

impl Transfer {
    /// Whether a column of this category, held for these purposes, may go.
    pub fn covers(&self, category: &str, purposes: &[String]) -> bool {
        let named = self.categories.iter().any(|named| {
            category
                .strip_prefix(named.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        named
            && purposes
                .iter()
                .any(|purpose| self.purposes.contains(purpose))
    }

    /// Whether it has not ended by `now`.
    pub const fn is_valid(&self, now: i64) -> bool {
        now < self.valid_until
    }
}

/// The technical opening for a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    pub id: i64,
    pub role: String,
    pub network: Option<IpNet>,
    pub issuer: Option<String>,
    pub slot: String,
    pub plugin: String,
    pub publications: Vec<String>,
    pub transfer: Transfer,
}

/// Who asks, with what the rules say about the place.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    pub role: &'a str,
    pub address: Option<IpAddr>,
    pub issuer: Option<&'a str>,
    pub region: Option<&'a str>,
    pub organisation: Option<&'a str>,
}

/// A name that the server gives the slot of a subscription's initial copy of one table.
fn is_synchronisation(slot: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((subscription, rest)) = slot
        .strip_prefix("pg_")
        .and_then(|rest| rest.split_once("_sync_"))
    else {
        return false;
    };
    rest.split_once('_')
        .is_some_and(|(table, system)| number(subscription) && number(table) && number(system))
}

/// The names in a list as `publication_names` has it: separated by commas, folded to lower case unless quoted.
/// `None` when it is no such list.
pub fn identifiers(list: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut chars = list.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        let mut name = String::new();
        if chars.next_if_eq(&'"').is_some() {
            loop {
                match chars.next()? {
                    '"' if chars.next_if_eq(&'"').is_none() => break,
                    c => name.push(c),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != ',' && !c.is_ascii_whitespace()) {
                // A quote inside, or a letter that folds by locale: clients quote those.
                if c == '"' || !c.is_ascii() {
                    return None;
                }
                name.push(c.to_ascii_lowercase());
            }
        }
        if name.is_empty() {
            return None;
        }
        names.push(name);
        while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        match chars.next() {
            None => return Some(names),
            Some(',') => {}
            Some(_) => return None,
        }
    }
}

/// The options of `pgoutput` that do not change what is sent.
const OPTIONS: [&str; 5] = [
    "proto_version",
    "binary",
    "streaming",
    "two_phase",
    "origin",
];

impl Lane {
    /// What about the caller is not what the lane says; `None` when all fits.
    pub fn differs(&self, rules: &Rules, caller: &Caller) -> Option<&'static str> {
        if self.role != caller.role {
            return Some("role");
        }
        if let Some(network) = &self.network
            && !caller
                .address
                .is_some_and(|address| network.contains(&normalize(address)))
        {
            return Some("network");
        }
        if self.issuer.is_some() && self.issuer.as_deref() != caller.issuer {
            return Some("certificate issuer");
        }
        if !caller
            .region
            .is_some_and(|region| rules.within(region, &self.transfer.region))
        {
            return Some("region");
        }
        if caller.organisation != Some(self.transfer.organisation.as_str()) {
            return Some("organisation");
        }
        None
    }

    /// Whether the lane lets a command through; otherwise what about it is not what the lane says. `plugin` is
    /// the plugin of an existing slot.
    pub fn allows(
        &self,
        command: &Command,
        plugin: impl Fn(&str) -> Option<String>,
    ) -> Result<(), &'static str> {
        let slot_fits = |slot: &str| {
            if slot == self.slot || is_synchronisation(slot) {
                Ok(())
            } else {
                Err("slot")
            }
        };
        match command {
            Command::CreateLogicalSlot {
                slot,
                plugin: wanted,
            } => {
                slot_fits(slot)?;
                if *wanted == self.plugin {
                    Ok(())
                } else {
                    Err("plugin")
                }
            }
            Command::StartLogical { slot, options } => {
                slot_fits(slot)?;
                if plugin(slot).as_deref() != Some(self.plugin.as_str()) {
                    return Err("plugin");
                }
                self.options_fit(options)
            }
            Command::DropSlot { slot } | Command::AlterSlot { slot } => slot_fits(slot),
            _ => Err("kind of replication"),
        }
    }

    fn options_fit(&self, options: &[(String, Option<String>)]) -> Result<(), &'static str> {
        let mut published = false;
        for (name, value) in options {
            match name.as_str() {
                "publication_names" => {
                    let names = value.as_deref().and_then(identifiers);
                    if !names.is_some_and(|names| {
                        names.iter().all(|name| self.publications.contains(name))
                    }) {
                        return Err("publications");
                    }
                    published = true;
                }
                // Messages belong to no publication.
                "messages" => match value.as_deref() {
                    Some("false" | "off" | "no" | "0") => {}
                    _ => return Err("logical messages"),
                },
                name if OPTIONS.contains(&name) => {}
                _ => return Err("options"),
            }
        }
        if published {
            Ok(())
        } else {
            Err("publications")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::command::parse as command;
    use crate::guard::rules::parse as rules;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    fn lane() -> Lane {
        Lane {
            id: 1,
            role: "eu_sub".into(),
            network: "10.33.0.0/16".parse().ok(),
            issuer: None,
            slot: "sub".into(),
            plugin: PLUGIN.into(),
            publications: words(&["p", "Odd \"name\""]),
            transfer: Transfer {
                name: "shop.eu".into(),
                organisation: "acme".into(),
                region: "eu".into(),
                purposes: words(&["shop.orders"]),
                categories: words(&["user.contact"]),
                consent_column: None,
                residencies: vec![],
                valid_until: 100,
            },
        }
    }

    fn caller<'a>(address: &str) -> Caller<'a> {
        Caller {
            role: "eu_sub",
            address: address.parse().ok(),
            issuer: None,
            region: Some("de"),
            organisation: Some("acme"),
        }
    }

    #[test]
    fn a_transfer_covers_its_categories_and_those_below_for_its_purposes() {
        let transfer = lane().transfer;
        let covers =
            |category: &str, purpose: &str| transfer.covers(category, &words(&[purpose, "a.b"]));
        assert!(covers("user.contact", "shop.orders"));
        assert!(covers("user.contact.email", "shop.orders"));
        assert!(!covers("user.contacts", "shop.orders"));
        assert!(!covers("user", "shop.orders"));
        assert!(!covers("user.contact.email", "shop.marketing"));
        assert!(transfer.is_valid(99));
        assert!(!transfer.is_valid(100));
    }

    #[test]
    fn a_lane_fits_one_peer_and_each_field_counts() {
        let file = rules("region eu\nregion de in eu\nregion us");
        let rules = file.rules().unwrap();
        let lane = lane();
        let fits = caller("10.33.0.7");
        assert_eq!(lane.differs(&rules, &fits), None);
        assert_eq!(lane.differs(&rules, &caller("::ffff:10.33.0.7")), None);
        for (caller, field) in [
            (caller("10.34.0.7"), "network"),
            (
                Caller {
                    address: None,
                    ..fits
                },
                "network",
            ),
            (
                Caller {
                    role: "other",
                    ..fits
                },
                "role",
            ),
            (
                Caller {
                    region: Some("us"),
                    ..fits
                },
                "region",
            ),
            (
                Caller {
                    region: None,
                    ..fits
                },
                "region",
            ),
            (
                Caller {
                    organisation: Some("evil"),
                    ..fits
                },
                "organisation",
            ),
            (
                Caller {
                    organisation: None,
                    ..fits
                },
                "organisation",
            ),
        ] {
            assert_eq!(lane.differs(&rules, &caller), Some(field), "{caller:?}");
        }
        let certified = Lane {
            network: None,
            issuer: Some("/CN=eu".into()),
            ..lane
        };
        assert_eq!(certified.differs(&rules, &fits), Some("certificate issuer"));
        let shown = Caller {
            issuer: Some("/CN=eu"),
            ..fits
        };
        assert_eq!(certified.differs(&rules, &shown), None);
    }

    #[test]
    fn a_lane_lets_its_own_slot_plugin_and_publications_through() {
        let lane = lane();
        let ask = |text: &str| {
            let command = command(text).unwrap();
            lane.allows(&command, |slot| {
                Some(if slot == "sub" { "pgoutput" } else { "other" }.to_owned())
            })
        };
        for text in [
            "CREATE_REPLICATION_SLOT sub LOGICAL pgoutput (SNAPSHOT 'nothing')",
            "CREATE_REPLICATION_SLOT \"pg_16394_sync_16385_7012345678901234567\" LOGICAL pgoutput (SNAPSHOT 'use')",
            "START_REPLICATION SLOT \"sub\" LOGICAL 0/0 (proto_version '3', publication_names '\"p\"')",
            "START_REPLICATION SLOT sub LOGICAL 0/0 (publication_names 'p, \"Odd \"\"name\"\"\"', messages 'off')",
            "DROP_REPLICATION_SLOT sub WAIT",
        ] {
            assert_eq!(ask(text), Ok(()), "{text}");
        }
        for (text, field) in [
            ("CREATE_REPLICATION_SLOT other LOGICAL pgoutput", "slot"),
            (
                "CREATE_REPLICATION_SLOT pg_a_sync_1_1 LOGICAL pgoutput",
                "slot",
            ),
            (
                "CREATE_REPLICATION_SLOT sub LOGICAL test_decoding",
                "plugin",
            ),
            (
                "CREATE_REPLICATION_SLOT sub PHYSICAL",
                "kind of replication",
            ),
            ("START_REPLICATION 0/0", "kind of replication"),
            ("BASE_BACKUP", "kind of replication"),
            ("START_REPLICATION SLOT sub LOGICAL 0/0", "publications"),
            (
                "START_REPLICATION SLOT pg_1_sync_2_3 LOGICAL 0/0 (publication_names 'p')",
                "plugin",
            ),
            (
                "START_REPLICATION SLOT sub LOGICAL 0/0 (publication_names 'p,q')",
                "publications",
            ),
            (
                "START_REPLICATION SLOT sub LOGICAL 0/0 (publication_names 'p', publication_names 'q')",
                "publications",
            ),
            (
                "START_REPLICATION SLOT sub LOGICAL 0/0 (publication_names 'p', messages 'true')",
                "logical messages",
            ),
            (
                "START_REPLICATION SLOT sub LOGICAL 0/0 (publication_names 'p', news '1')",
                "options",
            ),
        ] {
            assert_eq!(ask(text), Err(field), "{text}");
        }
    }

    #[test]
    fn lists_of_publications_are_read_as_the_server_reads_them() {
        assert_eq!(
            identifiers("\"A,b\" , cD"),
            Some(words(&["A,b", "cd"])),
            "quoted names keep their case"
        );
        for wrong in ["", "a,", ",a", "\"a", "a b", "\"a\"b", "a\"b\"", "\"\""] {
            assert_eq!(identifiers(wrong), None, "{wrong}");
        }
    }
}
