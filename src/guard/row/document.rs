//! What an UPDATE does to kept paths inside a JSON document. The server compares: numbers of any precision, and keys as
//! its own path language finds them, through objects only.

use std::collections::BTreeSet;

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

use crate::anonymize::json::jsonpath;
use crate::error::Result;
use crate::pg::fresh::{self, Seen};
use crate::pg::value::Value;

/// Paths in one column, in the server's path language. A path that is kept is found, and refused, whatever else the
/// document has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths(BTreeSet<String>);

impl Paths {
    pub fn add(&mut self, path: &[String]) {
        self.0.insert(jsonpath(path));
    }
}

/// What must not happen to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Its value, of whatever kind, becomes another one.
    Changed,
    /// Its value goes.
    Emptied,
}

/// Whether that happens to one of the paths between two values of a `jsonb` column.
pub fn any(asked: Asked, paths: &Paths, old: Option<Value>, new: Option<Value>) -> Result<bool> {
    let condition = match asked {
        Asked::Changed => "before IS DISTINCT FROM after",
        Asked::Emptied => "coalesce(before, 'null') <> 'null' AND coalesce(after, 'null') = 'null'",
    };
    let at = |document: &str| {
        format!("jsonb_path_query_first({document}, path::jsonpath, '{{}}'::jsonb, true)::text")
    };
    let sql = format!(
        "SELECT 1 FROM unnest($3) AS p (path) CROSS JOIN LATERAL (SELECT {}, {}) AS v (before, after) WHERE {condition}",
        at("$1"),
        at("$2")
    );
    let paths: Vec<String> = paths.0.iter().cloned().collect();
    let args = [document(old)?, document(new)?, paths.into()];
    Ok(!fresh::repeated(&sql, &args, Seen::Everything, 1)?.is_empty())
}

fn document(value: Option<Value>) -> Result<DatumWithOid> {
    match value {
        Some(value) => value.bind(pg_sys::JSONBOID),
        None => Ok(DatumWithOid::null_oid(pg_sys::JSONBOID)),
    }
}
