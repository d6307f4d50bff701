//! Where a connection that this server opens leads to: the connections of subscriptions and of foreign servers.

use crate::guard::active::{self, Active};
use crate::guard::conninfo::{self, Host};
use crate::guard::session;
use crate::guard::verdict::{Address, Judgement, Peer, Verdict};
use crate::pg::relation;

const NAME_REMEDY: &str = "Name the host by an address (host or hostaddr) that a \"network\" line of the region rules covers.";

/// A destination that the rules do not allow.
pub struct Unlawful {
    pub reason: String,
    pub remedy: String,
    pub region: Option<String>,
}

/// The first destination of a connection string that is not inside, for the current user; `None` when all are.
pub fn unlawful(conninfo: Option<&str>) -> Option<Unlawful> {
    let role = relation::role_name(relation::current_user()).unwrap_or_default();
    unlawful_as(conninfo, &role)
}

/// The same for a role: that of the owner, for what stands.
pub fn unlawful_as(conninfo: Option<&str>, role: &str) -> Option<Unlawful> {
    unlawful_under(&active::current(), conninfo, role)
}

/// The same under other rules than those in force.
pub fn unlawful_under(active: &Active, conninfo: Option<&str>, role: &str) -> Option<Unlawful> {
    let hosts = match conninfo {
        Some(text) => conninfo::hosts(text).map_err(|unclear| unclear.reason()),
        None => Err("There is no connection string.".to_owned()),
    };
    let judge = |address| {
        session::judge(
            active,
            &Peer {
                address,
                role: role.to_owned(),
                issuer: None,
                subject: None,
            },
        )
    };
    let outside = |judgement: Judgement, place: String| {
        (judgement.verdict != Verdict::Inside).then(|| Unlawful {
            reason: format!("It leads to {place}. {}", judgement.reason),
            remedy: judgement.remedy,
            region: judgement.region,
        })
    };
    match hosts {
        Err(reason) => Some(Unlawful {
            reason,
            remedy: NAME_REMEDY.to_owned(),
            region: None,
        }),
        Ok(hosts) => hosts.into_iter().find_map(|host| match host {
            Host::Address(address) => outside(judge(Address::Ip(address)), address.to_string()),
            Host::Socket => outside(judge(Address::Socket), "a unix socket".to_owned()),
            Host::Name(host) => Some(Unlawful {
                reason: match conninfo::host_name(&host) {
                    Some(host) => {
                        format!("It leads to \"{host}\", a name whose address may change.")
                    }
                    None => {
                        "It leads to something that is neither an address nor a name.".to_owned()
                    }
                },
                remedy: NAME_REMEDY.to_owned(),
                region: None,
            }),
        }),
    }
}
