//! Settings gate: settings of the server that ship data, run a program with it, or blind the guard.
//!
//! The values allowed are exact strings in the rules file (`setting` lines), each with the region and organisation that it
//! ships to. `ALTER SYSTEM` is checked as a statement, an edited file when the server reloads, through check hooks: there a
//! refused value leaves the old one in force. What was set before the library was loaded is looked at when the server starts:
//! commands that ship WAL are emptied then, for the rest a finding tells. Open archive lanes let `archive_command` ship outside
//! ([`crate::guard::lane::archive`]); when they end, it is emptied at the reload that the launcher asks for.

use std::ffi::CStr;
use std::path::{Component, Path};
use std::rc::Rc;

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::guard::active::{self, Active};
use crate::guard::conninfo::{self, Host};
use crate::guard::lane::archive;
use crate::guard::refuse::{self, Flow};
use crate::guard::session;
use crate::guard::verdict::{self, Address, Peer, Verdict};
use crate::guc::{self, Enforce, Gate};
use crate::pg::setting_check::NewValue;
use crate::pg::statement;
use crate::pg::utility::Utility;
use crate::pg::{guc_hook, host, relation, report};
use crate::policy::model::{Finding, Severity};

/// What a setting can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Its command or library is handed WAL: emptied at the start where it is not allowed.
    Ships,
    /// Its command runs in the server.
    Runs,
    /// It says where a standby gets its data from.
    Follows,
    /// It may hand the log to a system service.
    Logs,
    /// It says in which directory files are: the log's, or archived WAL.
    Keeps,
    /// It says how they are called.
    Names,
    /// It loads the library.
    Loads,
}

/// The settings that are guarded, with what each can do.
pub const GUARDED: [(&CStr, Power); 11] = [
    (c"archive_command", Power::Ships),
    (c"archive_library", Power::Ships),
    (c"archive_cleanup_command", Power::Ships),
    (c"recovery_end_command", Power::Ships),
    (c"restore_command", Power::Runs),
    (c"ssl_passphrase_command", Power::Runs),
    (c"primary_conninfo", Power::Follows),
    (c"log_destination", Power::Logs),
    (c"log_directory", Power::Keeps),
    (c"log_filename", Power::Names),
    (c"shared_preload_libraries", Power::Loads),
];

/// Settings of the server's own modules that say where these ship to. They are no settings before their module is loaded, in
/// processes of its own: `ALTER SYSTEM` is refused, and what a file says is a finding.
const OF_MODULES: [(&CStr, Power); 2] = [
    (c"basic_archive.archive_directory", Power::Keeps),
    (c"basebackup_to_shell.command", Power::Runs),
];

/// All of them.
fn guarded() -> impl Iterator<Item = &'static (&'static CStr, Power)> {
    GUARDED.iter().chain(&OF_MODULES)
}

/// The setting that lanes can allow.
const ARCHIVE_COMMAND: &str = "archive_command";
/// The setting that says which libraries are loaded.
const LIBRARIES: &str = "shared_preload_libraries";

/// Whether a list of libraries names this one, by name or by path.
fn loads_this_library(list: &str) -> bool {
    list.split(',').any(|library| {
        let library = library.trim().trim_matches('"');
        let file = library.rsplit('/').next().unwrap_or_default();
        file.strip_suffix(".so").unwrap_or(file) == "pg_custodian"
    })
}

/// Whether a log destination leaves the server's own files.
fn leaves_the_files(list: &str) -> bool {
    list.split(',').any(|destination| {
        let destination = destination.trim().to_ascii_lowercase();
        !matches!(destination.as_str(), "" | "stderr" | "csvlog" | "jsonlog")
    })
}

/// Whether a path of the log, relative to the data directory, may lead out of it: what is elsewhere may be on another machine.
fn leaves_the_data(path: &str, data: Option<&Path>) -> bool {
    let path = Path::new(path);
    let is_up = path.components().any(|part| part == Component::ParentDir);
    let is_below = data.is_some_and(|data| path.starts_with(data));
    is_up || (path.is_absolute() && !is_below)
}

/// Whether a pattern for the names of the log's files makes names and no paths. Of conversions only those count that give
/// digits or words: `%D` and `%x` give slashes, `%Z` what the time zone is called, and one that is unknown itself.
fn stays_a_name(pattern: &str) -> bool {
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        let harmless = match character {
            '/' => false,
            '%' => characters
                .next()
                .is_some_and(|conversion| "aAbBdeHIjklmMpsSuUVwWyYGgC%".contains(conversion)),
            _ => true,
        };
        if !harmless {
            return false;
        }
    }
    true
}

/// Why a connection string does not lead to a peer inside; `None` when it does.
fn leads_outside(active: &Active, conninfo: &str) -> Option<String> {
    let hosts = match conninfo::hosts(conninfo) {
        Ok(hosts) => hosts,
        Err(unclear) => return Some(unclear.reason()),
    };
    hosts.into_iter().find_map(|host| {
        let address = match host {
            Host::Name(_) => {
                return Some("It names a host by a name, whose address may change.".to_owned());
            }
            Host::Socket => Address::Socket,
            Host::Address(address) => Address::Ip(address),
        };
        let peer = Peer {
            address,
            role: String::new(),
            issuer: None,
            subject: None,
        };
        let judgement = session::judge(active, &peer);
        (judgement.verdict != Verdict::Inside).then_some(judgement.reason)
    })
}

/// Why a value is not allowed; `None` when it is. The reason shows nothing of the value.
fn fault(active: &Active, name: &str, power: Power, value: &str) -> Option<String> {
    if power == Power::Loads {
        return (!loads_this_library(value)).then(|| {
            "The value does not load pg_custodian, without which nothing is guarded.".to_owned()
        });
    }
    let harmless = match power {
        Power::Names => stays_a_name(value),
        Power::Logs => !leaves_the_files(value),
        Power::Keeps => {
            let own = active::own_directory();
            !leaves_the_data(value, own.as_deref().and_then(Path::parent))
        }
        _ => value.is_empty(),
    };
    if harmless {
        return None;
    }
    let known = active
        .rules
        .as_ref()
        .and_then(|rules| Some((rules, rules.setting(name, value)?)));
    if let Some((rules, evidence)) = known {
        let judgement = verdict::weigh(rules, active.own(), &evidence);
        if judgement.verdict == Verdict::Inside {
            return None;
        }
        if name != ARCHIVE_COMMAND {
            return Some(judgement.reason);
        }
        if is_given_for_good(value) {
            return Some(format!(
                "{} It was given on the command line, where no end of its lanes could take it away.",
                judgement.reason
            ));
        }
        return archive::fault(value, evidence.place)
            .map(|reason| format!("{} {reason}", judgement.reason));
    }
    if power == Power::Follows {
        return leads_outside(active, value);
    }
    Some("No \"setting\" line of the region rules has exactly this value.".to_owned())
}

/// Whether an `archive_command` is in force in a way that no configuration file, and so no reload, can change.
fn is_given_for_good(command: &str) -> bool {
    guc_hook::value(c"archive_command").is_some_and(|known| known == command)
        && !guc_hook::is_from_file(c"archive_command")
}

/// Whether an `archive_command` that lanes allowed is not allowed any more, and is to be emptied.
pub fn is_to_end(active: &Active, command: &str) -> bool {
    !command.is_empty()
        && archive::has_ended(command)
        && fault(active, ARCHIVE_COMMAND, Power::Ships, command).is_some()
}

/// What would make a value lawful.
pub fn hint(power: Power) -> &'static str {
    match power {
        Power::Loads => "Keep pg_custodian in the list.",
        Power::Follows => {
            "Name the primary by an address that a \"network\" line covers, or add a \"setting\" line with the exact value."
        }
        _ => {
            "Add a line to the region rules: setting NAME \"the exact value\" REGION ORGANISATION, and reload the server."
        }
    }
}

fn refusal(name: &str, power: Power, reason: String) -> Error {
    Error::new(
        Kind::RegionRefused,
        format!("this value of {name} is not allowed by the region rules"),
    )
    .detail(reason)
    .hint(hint(power))
}

/// The settings that say what the guard does, by which rules, and who is who.
fn is_of_the_guard(name: &str) -> bool {
    name.starts_with("custodian.enforce")
        || [
            "custodian.region",
            "custodian.region_rules_file",
            "custodian.steward_role",
            // Which certificates are taken for whose.
            "ssl_ca_file",
            "ssl_crl_dir",
            "ssl_crl_file",
        ]
        .contains(&name)
}

/// Refuses whoever is not inside to change what the guard does. `name` is `None` for all settings at once; `statement` is what
/// is recorded.
fn from_inside_only(name: Option<&str>, statement: &str) -> Result<()> {
    if !name.is_none_or(is_of_the_guard) {
        return Ok(());
    }
    // Before there are rules everybody is unknown, and who sets the guard up need not be told.
    if guc::enforce(Gate::Settings) == Enforce::Warn && active::current().rules.is_none() {
        return Ok(());
    }
    let session = session::current();
    if session.judgement.verdict == Verdict::Inside {
        return Ok(());
    }
    let error = Error::new(
        Kind::RegionRefused,
        format!(
            "settings of the region guard cannot be changed from {}",
            session.peer
        ),
    )
    .detail(session.judgement.reason.clone())
    .hint(format!(
        "{} Or edit the configuration file on the server, and reload it.",
        session.judgement.remedy
    ));
    refuse::unless_only_warned(
        Flow::of(&session, Gate::Settings, statement.to_owned(), error),
        |error| report::log(PgLogLevel::WARNING, error),
    )
}

/// Checks `ALTER SYSTEM` before it is executed.
pub fn before(statement: &Utility) -> Result<()> {
    if !guc::preloaded() || guc::enforce(Gate::Settings) == Enforce::Off {
        return Ok(());
    }
    let Some(alter) = statement.cast::<pg_sys::AlterSystemStmt>() else {
        return Ok(());
    };
    let (name, value) = match statement::set_by_system(alter) {
        Some((name, value)) => (Some(name), Some(value.to_string_lossy().into_owned())),
        None => (statement::reset_by_system(alter), None),
    };
    let name = name.map(|name| name.to_string_lossy().to_ascii_lowercase());
    let verb = if value.is_some() { "SET" } else { "RESET" };
    let text = format!("ALTER SYSTEM {verb} {}", name.as_deref().unwrap_or("ALL"));
    from_inside_only(name.as_deref(), &text)?;
    // Of all settings that RESET ALL takes away, this is the one that matters.
    let name = name.unwrap_or_else(|| LIBRARIES.to_owned());
    let Some((setting, power)) =
        guarded().find(|(guarded, _)| guarded.to_bytes() == name.as_bytes())
    else {
        return Ok(());
    };
    let reason = match value {
        Some(value) => fault(&active::current(), &name, *power, &value),
        // Other values are checked as they come into force; without the library nothing would check this one.
        None => (*power == Power::Loads && guc_hook::is_from_alter_system(setting)).then(|| {
            "The value in force, which loads pg_custodian, was set by ALTER SYSTEM.".to_owned()
        }),
    };
    let Some(reason) = reason else {
        return Ok(());
    };
    let session = session::current();
    refuse::unless_only_warned(
        Flow {
            role: relation::role_name(relation::current_user()).unwrap_or_default(),
            ..Flow::of(
                &session,
                Gate::Settings,
                text,
                refusal(&name, *power, reason),
            )
        },
        |error| report::log(PgLogLevel::WARNING, error),
    )
}

/// Why a new value may not come into force. A value that is in force already stays, and findings tell of it; but for an
/// `archive_command` whose lanes have ended: that is emptied here.
pub fn inspect(at: usize, new: &mut NewValue) -> Option<String> {
    let (name, power) = GUARDED[at];
    if guc::enforce(Gate::Settings) != Enforce::On {
        return None;
    }
    let value = new
        .text()
        .map_or_else(String::new, |value| value.to_string_lossy().into_owned());
    // To empty a setting needs no rules, which cannot be read yet while the server starts.
    let harmless = value.is_empty() && power != Power::Loads;
    if harmless {
        return None;
    }
    if guc_hook::value(name).is_some_and(|known| known == value) {
        // What a file does not set stays whatever is said here.
        if name.to_bytes() == ARCHIVE_COMMAND.as_bytes()
            && guc_hook::is_from_file(name)
            && is_to_end(&active::upcoming(), &value)
        {
            new.empty();
            tell_ended(name);
        }
        return None;
    }
    fault(&active::upcoming(), &name.to_string_lossy(), power, &value)
}

/// Says in the log, once for all processes, that a command is not used any more.
fn tell_ended(name: &CStr) {
    if host::is_child_of_postmaster() {
        return;
    }
    report::log(
        PgLogLevel::WARNING,
        Error::new(
            Kind::RegionRefused,
            format!(
                "{} is not used any more, since its archive lanes have ended",
                name.to_string_lossy()
            ),
        )
        .detail("WAL is kept until it is archived.")
        .hint("Set a command that the region rules allow, or open the lanes again."),
    );
}

/// The values in force that are not allowed, with why.
fn faults(active: &Active) -> Vec<(&'static CStr, Power, String)> {
    guarded()
        .filter_map(|(name, power)| {
            let value = guc_hook::value(name)?;
            let reason = fault(active, &name.to_string_lossy(), *power, &value)?;
            Some((*name, *power, reason))
        })
        .collect()
}

/// Looks at what was set before the library was loaded. In the postmaster, once the rules are read.
pub fn at_start(active: &Rc<Active>) {
    let mode = guc::enforce(Gate::Settings);
    if mode == Enforce::Off {
        return;
    }
    for (name, power, reason) in faults(active) {
        let text = name.to_string_lossy();
        let mut error = refusal(&text, power, reason);
        let emptied = mode == Enforce::On && power == Power::Ships && guc_hook::empty(name);
        error.message = match (mode, emptied) {
            (_, true) => format!("{text} is not used: {}", error.message),
            (Enforce::On, false) => error.message,
            _ => format!(
                "custodian.enforce = on would refuse this: {}",
                error.message
            ),
        };
        report::log(PgLogLevel::LOG, error);
    }
}

/// The values in force that are not allowed, for `custodian.check()`.
pub fn findings(active: &Active) -> Vec<Finding> {
    if guc::enforce(Gate::Settings) == Enforce::Off {
        return Vec::new();
    }
    faults(active)
        .into_iter()
        .map(|(name, power, reason)| Finding {
            severity: if guc::enforce(Gate::Settings) == Enforce::On {
                Severity::Error
            } else {
                Severity::Warning
            },
            code: "setting-not-allowed",
            object: name.to_string_lossy().into_owned(),
            problem: format!("The value in force is not allowed by the region rules. {reason}"),
            remedy: hint(power).to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_found_in_a_list_however_it_is_written() {
        for list in [
            "pg_custodian",
            "a, pg_custodian",
            "\"pg_custodian\",b",
            "$libdir/pg_custodian.so",
        ] {
            assert!(loads_this_library(list), "{list}");
        }
        for list in ["", "pg_custodian2", "not_pg_custodian", "a,b"] {
            assert!(!loads_this_library(list), "{list}");
        }
    }

    #[test]
    fn files_of_the_log_are_below_the_data_directory_without_a_line() {
        let leaves = |path| leaves_the_data(path, Some(Path::new("/data")));
        for path in [
            "log",
            "",
            "log/today",
            "./log",
            "postgresql-%a.log",
            "a..b",
            "/data/log",
        ] {
            assert!(!leaves(path), "{path}");
        }
        for path in [
            "/var/log/postgresql",
            "../log",
            "log/../../log",
            "/",
            "/database",
            "/data/../x",
        ] {
            assert!(leaves(path), "{path}");
        }
        assert!(leaves_the_data("/data/log", None));
    }

    #[test]
    fn patterns_make_names_and_no_paths() {
        for pattern in ["postgresql-%Y-%m-%d_%H%M%S.log", "log.%a", "100%%", ""] {
            assert!(stays_a_name(pattern), "{pattern}");
        }
        for pattern in ["a/b", ".%./.%./x", "%D", "%x", "%c", "%Z", "%+", "%", "%Ex"] {
            assert!(!stays_a_name(pattern), "{pattern}");
        }
    }

    #[test]
    fn only_files_are_a_destination_of_the_log_without_a_line() {
        assert!(!leaves_the_files("stderr, CSVLOG,jsonlog"));
        assert!(leaves_the_files("stderr,syslog"));
        assert!(leaves_the_files("eventlog"));
    }
}
