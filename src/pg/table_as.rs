//! The query that a table is made of.

use pgrx::pg_sys;

use crate::pg::list;
use crate::pg::provenance::{self, Provenance};
use crate::pg::statement::{cast, node};

/// What CREATE TABLE AS, SELECT INTO or CREATE MATERIALIZED VIEW makes its table of; `None` where nothing is known of it.
pub fn provenance(create: &pg_sys::CreateTableAsStmt) -> Option<Provenance> {
    let query: &pg_sys::Query = node!(create.query)?;
    if query.commandType != pg_sys::CmdType::CMD_UTILITY {
        return Some(provenance::of(query));
    }
    // CREATE TABLE AS EXECUTE: what was prepared.
    let execute: &pg_sys::ExecuteStmt = node!(query.utilityStmt)?;
    prepared(execute)
}

fn prepared(execute: &pg_sys::ExecuteStmt) -> Option<Provenance> {
    // SAFETY: the name is of the parse tree; what it finds is NULL or a statement that stays while nothing is run. Queries are
    // lists of nodes that begin with their tag.
    let query = unsafe {
        let prepared = pg_sys::FetchPreparedStatement(execute.name, false).as_ref()?;
        // A view or the search path may be another since then: asking for the columns has it analyzed anew, as executing it
        // will. Nothing is known of one that is still not valid, and its columns stay unreviewed.
        pg_sys::CachedPlanGetTargetList(prepared.plansource, std::ptr::null_mut());
        let source = prepared
            .plansource
            .as_ref()
            .filter(|source| source.is_valid)?;
        list::items::<pg_sys::Node>(source.query_list)
    };
    let only: &pg_sys::Query = cast(query.into_iter().next()?)?;
    Some(provenance::of(only))
}

/// What EXPLAIN would make, when it explains such a statement.
pub fn explained(explain: &pg_sys::ExplainStmt) -> Option<&pg_sys::CreateTableAsStmt> {
    let query: &pg_sys::Query = node!(explain.query)?;
    node!(query.utilityStmt)
}

/// What the columns of a view or a materialized view are made of.
pub fn of_view(view: pg_sys::Oid) -> Option<Provenance> {
    let query = provenance::query_of_view(view)?;
    // SAFETY: a copy of an analyzed query, which lives as long as the current memory context.
    unsafe { query.as_ref() }.map(provenance::of)
}
