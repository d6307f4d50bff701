//! DDL gate, continued: foreign servers and tables, tablespaces, extensions that reach the network, and COPY with programs and
//! files of the server.

use std::collections::BTreeMap;
use std::ffi::CStr;

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::guard::active::{self, Active};
use crate::guard::destination::{self, Unlawful};
use crate::guard::refuse::{self, Flow};
use crate::guard::verdict::{self, Verdict};
use crate::guard::{ddl, session};
use crate::guc::{self, Enforce, Gate};
use crate::pg::foreign_server::{self, changed};
use crate::pg::statement::{self, nodes, string, text};
use crate::pg::utility::Utility;
use crate::pg::{extension, relation, spi};

/// Extensions that reach the network, other files or programs of the server, by what their functions do.
const REACHING: [&str; 62] = [
    "adminpack",
    "amqp",
    "aws_lambda",
    "aws_s3",
    "bdr",
    "bigquery_fdw",
    "cassandra_fdw",
    "citus",
    "clickhouse_fdw",
    "cstore_fdw",
    "db2_fdw",
    "dblink",
    "duckdb_fdw",
    "file_fdw",
    "firebird_fdw",
    "hdfs_fdw",
    "hive_fdw",
    "http",
    "influxdb_fdw",
    "jdbc_fdw",
    "kafka_fdw",
    "ldap_fdw",
    "mongo_fdw",
    "multicorn",
    "mysql_fdw",
    "odbc_fdw",
    "ogr_fdw",
    "oracle_fdw",
    "orafce",
    "parquet_fdw",
    "parquet_s3_fdw",
    "pg_bulkload",
    "pg_curl",
    "pg_duckdb",
    "pg_lake",
    "pg_mooncake",
    "pg_net",
    "pg_parquet",
    "pg_smtp_client",
    "pgagent",
    "pglogical",
    "pgmemcache",
    "pljava",
    "plluau",
    "plperlu",
    "plproxy",
    "plpython2u",
    "plpython3u",
    "plpythonu",
    "plr",
    "plrust",
    "plsh",
    "pltclu",
    "postgis_raster",
    "postgres_fdw",
    "redis_fdw",
    "repmgr",
    "s3_fdw",
    "spock",
    "sqlite_fdw",
    "tds_fdw",
    "wrappers",
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
        return server(create);
    }
    if let Some(alter) = statement.cast::<pg_sys::AlterForeignServerStmt>() {
        return existing(text!(alter.servername), &nodes!(alter.options));
    }
    if let Some(alter) = statement.cast::<pg_sys::AlterFdwStmt>() {
        return handler(alter);
    }
    if let Some(create) = statement.cast::<pg_sys::CreateForeignTableStmt>() {
        if changed(BTreeMap::new(), &nodes!(create.options)).contains_key("program") {
            return program();
        }
        return existing(text!(create.servername), &[]);
    }
    if let Some(import) = statement.cast::<pg_sys::ImportForeignSchemaStmt>() {
        return existing(text!(import.server_name), &[]);
    }
    // What a mapping holds (a role, a password, a key) goes to the server, so it is the server that is judged.
    if let Some(create) = statement.cast::<pg_sys::CreateUserMappingStmt>() {
        return existing(text!(create.servername), &[]);
    }
    if let Some(alter) = statement.cast::<pg_sys::AlterUserMappingStmt>() {
        return existing(text!(alter.servername), &[]);
    }
    if let Some(create) = statement.cast::<pg_sys::CreateTableSpaceStmt>() {
        return tablespace(&string!(create.tablespacename), &string!(create.location));
    }
    if let Some(alter) = statement.cast::<pg_sys::AlterTableStmt>() {
        return match statement::commands(alter).into_iter().any(runs_program) {
            true => program(),
            false => Ok(()),
        };
    }
    if let Some(create) = statement.cast::<pg_sys::CreateExtensionStmt>() {
        let name = string!(create.extname);
        extension(&name)?;
        // What it needs comes with it, by no statement of its own.
        let is_cascade = |option: &pg_sys::DefElem| text!(option.defname) == Some(c"cascade");
        let mut options = nodes!(create.options).into_iter();
        if options.any(|option| statement::cast(option).is_some_and(is_cascade)) {
            return needed(&name)?.iter().try_for_each(|name| extension(name));
        }
    }
    Ok(())
}

/// Whether a command gives a foreign table a program to run.
fn runs_program(command: &pg_sys::AlterTableCmd) -> bool {
    command.subtype == pg_sys::AlterTableType::AT_GenericOptions
        && changed(BTreeMap::new(), &statement::options(command)).contains_key("program")
}

fn program() -> Result<()> {
    refuse_ddl(
        "a foreign table that runs a program".to_owned(),
        "a foreign table that runs a program is not allowed in a guarded region".to_owned(),
        "What a program does with its data cannot be seen.".to_owned(),
        "Read a file (filename) instead.".to_owned(),
        None,
    )
}

/// The extensions that are not there yet, and that an extension needs in any of its versions, directly or not.
fn needed(extension: &str) -> Result<Vec<String>> {
    // As whoever asks: in a database without this extension nobody owns it, and anybody may read these.
    spi::select(
        "WITH RECURSIVE available AS MATERIALIZED (SELECT name, requires FROM pg_catalog.pg_available_extension_versions()), \
                  needed (name) AS (SELECT $1::pg_catalog.name COLLATE \"C\" UNION \
                                    SELECT required FROM needed JOIN available USING (name), pg_catalog.unnest(requires) AS required) \
             SELECT name::pg_catalog.text FROM needed n \
             WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE e.extname = n.name) ORDER BY 1",
        &[extension.into()],
        |row| row.must(1),
    )
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
    extension::of_object(pg_sys::ForeignDataWrapperRelationId, wrapper)
}

/// Judges a wrapper that is given a handler: its servers may exist already, and lead somewhere from now on.
fn handler(alter: &pg_sys::AlterFdwStmt) -> Result<()> {
    let given = nodes!(alter.func_options)
        .into_iter()
        .filter_map(statement::cast::<pg_sys::DefElem>)
        .any(|option| text!(option.defname) == Some(c"handler") && !option.arg.is_null());
    let wrapper = text!(alter.fdwname).and_then(foreign_server::wrapper_named);
    let Some(wrapper) = wrapper.filter(|_| given) else {
        return Ok(());
    };
    if extension_of(wrapper).is_some_and(|extension| is_named(&extension)) {
        return Ok(());
    }
    let name = string!(alter.fdwname);
    refuse_ddl(
        format!("foreign-data wrapper {name}"),
        format!("foreign-data wrapper \"{name}\" is not allowed by the region rules"),
        "With a handler its servers lead somewhere, and the guard does not know where.".to_owned(),
        "Make the wrapper with its handler, and its servers after it.".to_owned(),
        None,
    )
}

fn server(create: &pg_sys::CreateForeignServerStmt) -> Result<()> {
    // The server reports a wrapper that is not there.
    let Some(wrapper) = text!(create.fdwname).and_then(foreign_server::wrapper_named) else {
        return Ok(());
    };
    let options = changed(BTreeMap::new(), &nodes!(create.options));
    judge_server(&string!(create.servername), wrapper, &options)
}

/// Why a foreign server of this wrapper, with these options, is not allowed for a role; `None` when it is.
fn fault(
    active: &Active,
    wrapper: pg_sys::Oid,
    options: &BTreeMap<String, String>,
    role: pg_sys::Oid,
) -> Option<Unlawful> {
    let leads_to = |conninfo: &str| {
        destination::unlawful_under(
            active,
            Some(conninfo),
            &relation::role_name(role).unwrap_or_default(),
        )
    };
    match extension_of(wrapper).as_deref() {
        Some("postgres_fdw" | "dblink") => leads_to(&conninfo(options)),
        // No foreign table can use it, but dblink_connect(), where it is installed, takes a server of any wrapper.
        _ if !foreign_server::has_handler(wrapper) => Some(conninfo(options))
            .filter(|to| !to.is_empty() && extension::is_installed(c"dblink"))
            .and_then(|to| leads_to(&to)),
        // It reads files of this server.
        Some("file_fdw") => None,
        Some(extension) if is_named_in(active, extension) => None,
        _ => Some(Unlawful {
            reason: "The guard does not know where its foreign-data wrapper leads.".to_owned(),
            remedy: "Add an \"extension\" line for the wrapper's extension to the region rules and reload the server."
                .to_owned(),
            region: None,
        }),
    }
}

/// The same under these rules for a server that exists, as it is and for its owner; `None` also when there is none.
pub fn fault_of_existing(active: &Active, name: &CStr) -> Option<Unlawful> {
    let found = foreign_server::named(name)?;
    fault(active, found.wrapper, &found.options, found.owner)
}

/// The server of a foreign table and why it is not allowed; `None` when it is.
pub fn fault_of_table(table: pg_sys::Oid) -> Option<(String, Unlawful)> {
    let found = foreign_server::of_table(table)?;
    let unlawful = fault(
        &active::current(),
        found.wrapper,
        &found.options,
        found.owner,
    )?;
    Some((found.name.to_string_lossy().into_owned(), unlawful))
}

fn judge_server(
    name: &str,
    wrapper: pg_sys::Oid,
    options: &BTreeMap<String, String>,
) -> Result<()> {
    let Some(unlawful) = fault(
        &active::current(),
        wrapper,
        options,
        relation::current_user(),
    ) else {
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
fn existing(name: Option<&CStr>, changes: &[&pg_sys::Node]) -> Result<()> {
    // The server reports one that is not there.
    let Some(found) = name.and_then(foreign_server::named) else {
        return Ok(());
    };
    let options = changed(found.options, changes);
    judge_server(&found.name.to_string_lossy(), found.wrapper, &options)
}

fn is_named(extension: &str) -> bool {
    is_named_in(&active::current(), extension)
}

fn is_named_in(active: &Active, extension: &str) -> bool {
    let rules = active.rules.as_ref();
    rules.is_some_and(|rules| rules.names_extension(extension))
}

/// Why an extension is not allowed; `None` when it is.
pub fn fault_of_extension(name: &str) -> Option<Unlawful> {
    if !REACHING.contains(&name) || is_named(name) {
        return None;
    }
    Some(Unlawful {
        reason: "It reaches the network, or files and programs of the server.".to_owned(),
        remedy: format!(
            "If it may be used here, add the line \"extension {name}\" to the region rules and reload the server."
        ),
        region: None,
    })
}

fn extension(name: &str) -> Result<()> {
    let Some(unlawful) = fault_of_extension(name) else {
        return Ok(());
    };
    refuse_ddl(
        format!("extension {name}"),
        format!("extension \"{name}\" is not allowed by the region rules"),
        unlawful.reason,
        unlawful.remedy,
        unlawful.region,
    )
}

/// Why a directory is not allowed for a tablespace; `None` when it is.
pub fn fault_of_tablespace(location: &str) -> Option<Unlawful> {
    // An empty location is inside the data directory.
    if location.is_empty() {
        return None;
    }
    let active = active::current();
    let found = active
        .rules
        .as_ref()
        .and_then(|rules| Some((rules, rules.tablespace(location.trim_end_matches('/'))?)));
    let Some((rules, evidence)) = found else {
        return Some(Unlawful {
            reason: "No \"tablespace\" line of the region rules has its directory, which may be on another machine.".to_owned(),
            remedy: "Add a line: tablespace \"/the/directory\" REGION ORGANISATION, and reload the server.".to_owned(),
            region: None,
        });
    };
    let judgement = verdict::weigh(rules, active.own(), &evidence);
    (judgement.verdict != Verdict::Inside).then_some(Unlawful {
        reason: judgement.reason,
        remedy: judgement.remedy,
        region: judgement.region,
    })
}

fn tablespace(name: &str, location: &str) -> Result<()> {
    let Some(unlawful) = fault_of_tablespace(location) else {
        return Ok(());
    };
    refuse_ddl(
        format!("tablespace {name}"),
        format!("tablespace \"{name}\" is not allowed by the region rules"),
        unlawful.reason,
        unlawful.remedy,
        unlawful.region,
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
        Flow::of(&session, Gate::Access, object.to_owned(), error),
        |_| {},
    )
}
