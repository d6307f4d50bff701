//! What the processes of the cluster tell each other about archive lanes: files in the data directory, since the
//! postmaster decides on settings and can read no table. Each file has one writer: the scheduler of a database its report,
//! the launcher where all stand, once a scheduler made that file as one by which nothing does. What is missing or cannot be read opens nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pgrx::pg_sys;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::model::{self, Open, Standing};
use crate::error::{Error, Kind};
use crate::guard::{active, files};
use crate::pg::report;

const DIRECTORY: &str = "archive_lanes";
const STANDING: &str = "standing";

fn directory() -> Option<PathBuf> {
    Some(active::own_directory()?.join(DIRECTORY))
}

fn read<T: DeserializeOwned>(path: &std::path::Path) -> Option<T> {
    serde_json::from_str(&files::read_copy(path).ok()??).ok()
}

/// Writes a file; whether it is there now.
fn write<T: Serialize>(name: &str, content: &T) -> bool {
    let Some(path) = directory().map(|directory| directory.join(name)) else {
        return false;
    };
    let written = serde_json::to_string(content)
        .map_err(std::io::Error::other)
        .and_then(|text| files::replace(&path, &text));
    if let Err(error) = written {
        // What an old file says must not stay in force.
        let _ = std::fs::remove_file(&path);
        report::log(
            pgrx::PgLogLevel::WARNING,
            Error::new(
                Kind::ConfigFile,
                format!("could not write down where archive lanes stand ({error})"),
            )
            .hint("Until that is possible, no archive lane is open."),
        );
        return false;
    }
    true
}

/// Makes the directory where there is none, with a file in it by which nothing stands yet: without that file what stood would
/// count as lost, and commands that are in force as ended.
fn make_directory() -> std::io::Result<()> {
    let Some(directory) = directory() else {
        return Err(std::io::Error::other("there is no data directory"));
    };
    if directory.exists() {
        return Ok(());
    }
    let new = directory.with_extension("new");
    files::replace(&new.join(STANDING), "[]")?;
    match std::fs::rename(&new, &directory) {
        // Another scheduler was first.
        Err(_) if directory.exists() => std::fs::remove_dir_all(&new).or(Ok(())),
        made => made,
    }
}

/// The report of a database.
pub fn report_of(database: pg_sys::Oid) -> Option<Vec<Open>> {
    read(&directory()?.join(database.to_u32().to_string()))
}

/// Writes the report of a database, unless it says that already; whether it is another one.
pub fn put_report(database: pg_sys::Oid, open: &Vec<Open>) -> bool {
    let known = report_of(database);
    if known.as_ref() == Some(open) || (known.is_none() && open.is_empty()) {
        return false;
    }
    if let Err(error) = make_directory() {
        report::log(
            pgrx::PgLogLevel::WARNING,
            Error::new(
                Kind::ConfigFile,
                format!("could not make the directory of archive lanes ({error})"),
            )
            .hint("Until that is possible, no archive lane is open."),
        );
        return false;
    }
    write(&database.to_u32().to_string(), open)
}

/// All reports, by database.
pub fn reports() -> BTreeMap<u32, Vec<Open>> {
    let Some(Ok(entries)) = directory().map(std::fs::read_dir) else {
        return BTreeMap::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let database = entry.file_name().to_str()?.parse().ok()?;
            Some((database, read(&entry.path())?))
        })
        .collect()
}

/// Removes the report of a database that is gone.
pub fn remove_report(database: u32) {
    if let Some(directory) = directory() {
        // Where it cannot be removed it says nothing either: nobody asks for that database.
        let _ = std::fs::remove_file(directory.join(database.to_string()));
    }
}

/// Where all stand; `None` when that was written down and cannot be read any more.
pub fn standings() -> Option<Vec<Standing>> {
    let directory = directory()?;
    match std::fs::metadata(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(Vec::new()),
        _ => read(&directory.join(STANDING)),
    }
}

/// Writes where all stand; whether it is there now.
pub fn put_standings(standings: &[Standing]) -> bool {
    write(STANDING, &standings)
}

/// Ends everything: on a standby, which got the files with a copy of its primary. What was open is remembered, so that a
/// command of it that is in force is ended as well. Whether anything was open, or that is not known.
pub fn forget() -> bool {
    for database in reports().into_keys() {
        remove_report(database);
    }
    let Some(before) = standings() else {
        return true;
    };
    let open = before.iter().any(|standing| standing.open);
    if open {
        put_standings(&model::end_all(before, "this standby"));
    }
    open
}
