//! DDL gate, continued: foreign servers and tables, tablespaces, extensions that reach the network, and COPY with programs and
//! files of the server.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::evidence::events::Database;
use crate::guard::destination::{self, Unlawful};
use crate::guard::refuse::{self, Flow};
use crate::guard::verdict::{self, Verdict};
use crate::guard::{active, ddl, session};
use crate::guc::{self, Enforce, Gate};
use crate::pg::utility::{self, Utility};
use crate::pg::{list, relation};

/// Extensions that reach the network, other files or programs of the server, by what their functions do.
const REACHING: [&str; 24] = [
    "adminpack",
    "aws_lambda",
    "aws_s3",
    "dblink",
    "file_fdw",
    "http",
    "jdbc_fdw",
    "mongo_fdw",
    "multicorn",
    "mysql_fdw",
    "odbc_fdw",
    "ogr_fdw",
    "oracle_fdw",
    "parquet_fdw",
    "pg_net",
    "pg_parquet",
    "plperlu",
    "plpython3u",
    "plsh",
    "pltclu",
    "postgres_fdw",
    "redis_fdw",
    "sqlite_fdw",
    "tds_fdw",
];

/// Checks a statement before it is executed.
pub fn before(statement: &Utility) -> Result<()> {
    if !guc::preloaded() {
        return Ok(());
    }
    if let Some(copy) = statement.cast::<pg_sys::CopyStmt>() {
        return copy_of_server(copy);
    }
    if guc::enforce(Gate::Ddl) == Enforce::Off {
        return Ok(());
    }
    if let Some(create) = statement.cast::<pg_sys::CreateForeignServerStmt>() {
        let options = changed(BTreeMap::new(), create.options);
        return server(&string(create.servername), create.fdwname, &options);
    }
    if let Some(alter) = statement.cast::<pg_sys::AlterForeignServerStmt>() {
        return existing(alter.servername, alter.options);
    }
    if let Some(alter) = statement.cast::<pg_sys::AlterFdwStmt>() {
        return handler(alter.fdwname, alter.func_options);
    }
    if let Some(create) = statement.cast::<pg_sys::CreateForeignTableStmt>() {
        if changed(BTreeMap::new(), create.options).contains_key("program") {
            return refuse_ddl(
                "a foreign table that runs a program".to_owned(),
                "a foreign table that runs a program is not allowed in a guarded region".to_owned(),
                "What a program does with its data cannot be seen.".to_owned(),
                "Read a file (filename) instead.".to_owned(),
                None,
            );
        }
        return existing(create.servername, std::ptr::null_mut());
    }
    if let Some(import) = statement.cast::<pg_sys::ImportForeignSchemaStmt>() {
        return existing(import.server_name, std::ptr::null_mut());
    }
    // What a mapping holds (a role, a password, a key) goes to the server, so it is the server that is judged.
    if let Some(create) = statement.cast::<pg_sys::CreateUserMappingStmt>() {
        return existing(create.servername, std::ptr::null_mut());
    }
    if let Some(alter) = statement.cast::<pg_sys::AlterUserMappingStmt>() {
        return existing(alter.servername, std::ptr::null_mut());
    }
    if let Some(create) = statement.cast::<pg_sys::CreateTableSpaceStmt>() {
        return tablespace(&string(create.tablespacename), &string(create.location));
    }
    if let Some(create) = statement.cast::<pg_sys::CreateExtensionStmt>() {
        return extension(&string(create.extname));
    }
    Ok(())
}

fn string(pointer: *const c_char) -> String {
    utility::text(pointer).map_or_else(String::new, |text| text.to_string_lossy().into_owned())
}

/// Options after a list of changes to them.
fn changed(
    mut options: BTreeMap<String, String>,
    changes: *mut pg_sys::List,
) -> BTreeMap<String, String> {
    // SAFETY: a list of options of the parse tree or the catalog; the value of one that is not dropped is a string.
    unsafe {
        for option in list::items::<pg_sys::DefElem>(changes) {
            let name = string(option.defname);
            if option.defaction == pg_sys::DefElemAction::DEFELEM_DROP || option.arg.is_null() {
                options.remove(&name);
            } else {
                let value = pg_sys::defGetString(std::ptr::from_ref(option).cast_mut());
                options.insert(name, string(value));
            }
        }
    }
    options
}

fn refuse_ddl(
    object: String,
    message: String,
    reason: String,
    remedy: String,
    region: Option<String>,
) -> Result<()> {
    let error = Error::new(Kind::RegionRefused, message)
        .detail(reason)
        .hint(remedy);
    ddl::decide(object, region, error, true)
}

/// The connection string that a foreign server's options amount to, as far as it says where it leads.
fn conninfo(options: &BTreeMap<String, String>) -> String {
    ["host", "hostaddr", "service", "servicefile"]
        .iter()
        .filter_map(|key| Some((key, options.get(*key)?)))
        .map(|(key, value)| {
            format!(
                "{key}='{}'",
                value.replace('\\', "\\\\").replace('\'', "\\'")
            )
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// The name of the extension that a foreign-data wrapper belongs to.
fn extension_of(wrapper: pg_sys::Oid) -> Option<String> {
    // SAFETY: catalog lookups inside a transaction; the name is NULL or NUL-terminated.
    unsafe {
        let extension = pg_sys::getExtensionOfObject(pg_sys::ForeignDataWrapperRelationId, wrapper);
        if extension == pg_sys::Oid::INVALID {
            return None;
        }
        utility::text(pg_sys::get_extension_name(extension))
            .map(|name| name.to_string_lossy().into_owned())
    }
}

/// Whether a foreign-data wrapper can be used: without a handler it leads nowhere, and the server refuses its tables.
fn has_handler(wrapper: pg_sys::Oid) -> bool {
    // SAFETY: a catalog lookup that raises an error only for a wrapper that does not exist.
    unsafe { (*pg_sys::GetForeignDataWrapper(wrapper)).fdwhandler != pg_sys::Oid::INVALID }
}

/// Judges a wrapper that is given a handler: its servers may exist already, and lead somewhere from now on.
fn handler(wrapper: *const c_char, functions: *mut pg_sys::List) -> Result<()> {
    // SAFETY: a list of options of the parse tree, and its string; no error where there is no such wrapper.
    let (given, oid) = unsafe {
        let given = list::items::<pg_sys::DefElem>(functions)
            .iter()
            .any(|option| string(option.defname) == "handler" && !option.arg.is_null());
        (given, pg_sys::get_foreign_data_wrapper_oid(wrapper, true))
    };
    if !given
        || oid == pg_sys::Oid::INVALID
        || extension_of(oid).is_some_and(|extension| is_named(&extension))
    {
        return Ok(());
    }
    let name = string(wrapper);
    refuse_ddl(
        format!("foreign-data wrapper {name}"),
        format!("foreign-data wrapper \"{name}\" is not allowed by the region rules"),
        "With a handler its servers lead somewhere, and the guard does not know where.".to_owned(),
        "Make the wrapper with its handler, and its servers after it.".to_owned(),
        None,
    )
}

fn server(name: &str, wrapper: *const c_char, options: &BTreeMap<String, String>) -> Result<()> {
    // SAFETY: the parse tree's string; without an error where there is no such wrapper, which the server reports.
    let oid = unsafe { pg_sys::get_foreign_data_wrapper_oid(wrapper, true) };
    if oid == pg_sys::Oid::INVALID {
        return Ok(());
    }
    judge_server(name, oid, options)
}

/// Why a foreign server of this wrapper, with these options, is not allowed for a role; `None` when it is.
fn fault(
    wrapper: pg_sys::Oid,
    options: &BTreeMap<String, String>,
    role: pg_sys::Oid,
) -> Option<Unlawful> {
    match extension_of(wrapper).as_deref() {
        _ if !has_handler(wrapper) => None,
        Some("postgres_fdw" | "dblink") => destination::unlawful_as(
            Some(&conninfo(options)),
            &relation::role_name(role).unwrap_or_default(),
        ),
        // It reads files of this server.
        Some("file_fdw") => None,
        Some(extension) if is_named(extension) => None,
        _ => Some(Unlawful {
            reason: "The guard does not know where its foreign-data wrapper leads.".to_owned(),
            remedy: "Add an \"extension\" line for the wrapper's extension to the region rules and reload the server."
                .to_owned(),
            region: None,
        }),
    }
}

/// The same for a server that exists, as it is and for its owner; `None` also when there is none.
pub fn fault_of_existing(name: &CStr) -> Option<Unlawful> {
    // SAFETY: a catalog lookup with a NUL-terminated name; the record lives in the current memory context.
    unsafe {
        let found = pg_sys::GetForeignServerByName(name.as_ptr(), true).as_ref()?;
        fault(
            found.fdwid,
            &changed(BTreeMap::new(), found.options),
            found.owner,
        )
    }
}

/// The server of a foreign table and why it is not allowed; `None` when it is.
pub fn fault_of_table(table: pg_sys::Oid) -> Option<(String, Unlawful)> {
    // SAFETY: catalog lookups of a foreign table that a statement has locked, and of its server; the records live in the
    // current memory context.
    unsafe {
        let found = &*pg_sys::GetForeignServer((*pg_sys::GetForeignTable(table)).serverid);
        let options = changed(BTreeMap::new(), found.options);
        let unlawful = fault(found.fdwid, &options, found.owner)?;
        Some((string(found.servername), unlawful))
    }
}

fn judge_server(
    name: &str,
    wrapper: pg_sys::Oid,
    options: &BTreeMap<String, String>,
) -> Result<()> {
    let Some(unlawful) = fault(wrapper, options, relation::current_user()) else {
        return Ok(());
    };
    refuse_ddl(
        format!("foreign server {name}"),
        format!("foreign server \"{name}\" is not allowed by the region rules"),
        unlawful.reason,
        unlawful.remedy,
        unlawful.region,
    )
}

/// Judges a foreign server that exists, with changes of its options.
fn existing(name: *const c_char, changes: *mut pg_sys::List) -> Result<()> {
    // SAFETY: the parse tree's string; NULL where there is no such server, which the server reports. The record lives in
    // the current memory context.
    unsafe {
        let Some(found) = pg_sys::GetForeignServerByName(name, true).as_ref() else {
            return Ok(());
        };
        let options = changed(changed(BTreeMap::new(), found.options), changes);
        judge_server(&string(found.servername), found.fdwid, &options)
    }
}

fn is_named(extension: &str) -> bool {
    active::current()
        .rules
        .as_ref()
        .is_some_and(|rules| rules.names_extension(extension))
}

fn extension(name: &str) -> Result<()> {
    if !REACHING.contains(&name) || is_named(name) {
        return Ok(());
    }
    refuse_ddl(
        format!("extension {name}"),
        format!("extension \"{name}\" is not allowed by the region rules"),
        "It reaches the network, or files and programs of the server.".to_owned(),
        format!(
            "If it may be used here, add the line \"extension {name}\" to the region rules and reload the server."
        ),
        None,
    )
}

fn tablespace(name: &str, location: &str) -> Result<()> {
    // An empty location is inside the data directory.
    if location.is_empty() {
        return Ok(());
    }
    let active = active::current();
    let found = active
        .rules
        .as_ref()
        .and_then(|rules| Some((rules, rules.tablespace(location.trim_end_matches('/'))?)));
    let (reason, remedy, region) = match found {
        Some((rules, evidence)) => {
            let judgement = verdict::weigh(rules, active.own(), &evidence);
            if judgement.verdict == Verdict::Inside {
                return Ok(());
            }
            (judgement.reason, judgement.remedy, judgement.region)
        }
        None => (
            "No \"tablespace\" line of the region rules has its directory, which may be on another machine.".to_owned(),
            "Add a line: tablespace \"/the/directory\" REGION ORGANISATION, and reload the server.".to_owned(),
            None,
        ),
    };
    refuse_ddl(
        format!("tablespace {name}"),
        format!("tablespace \"{name}\" is not allowed by the region rules"),
        reason,
        remedy,
        region,
    )
}

/// COPY with a program or file of the server, by a session from outside.
fn copy_of_server(copy: &pg_sys::CopyStmt) -> Result<()> {
    if !copy.is_program && copy.filename.is_null() {
        return Ok(());
    }
    if guc::enforce(Gate::Access) == Enforce::Off || session::is_known_inside() {
        return Ok(());
    }
    let session = session::current();
    if session.judgement.verdict == Verdict::Inside {
        return Ok(());
    }
    let object = match (copy.is_from, copy.is_program) {
        (true, true) => "COPY FROM PROGRAM",
        (false, true) => "COPY TO PROGRAM",
        (true, false) => "COPY from a file of the server",
        (false, false) => "COPY to a file of the server",
    };
    let error = Error::new(
        Kind::RegionRefused,
        format!("{object} from {} is not allowed", session.peer),
    )
    .detail(session.judgement.reason.clone())
    .hint(session.judgement.remedy.clone());
    refuse::unless_only_warned(
        Flow {
            gate: Gate::Access,
            database: Database::current(),
            role: session.role.clone(),
            peer: session.peer.clone(),
            region: session.judgement.region.clone(),
            object: object.to_owned(),
            error,
        },
        |_| {},
    )
}
