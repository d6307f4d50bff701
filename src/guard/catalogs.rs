//! Relations of the server and of the extension: which of them anybody may read.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::pg::{namespace, relation};

/// Catalogs that hold values of users' columns: pg_statistic, pg_statistic_ext_data and pg_largeobject.
const VALUES: [pg_sys::Oid; 3] = [
    pg_sys::StatisticRelationId,
    pg_sys::Oid::from_u32(3429),
    pg_sys::Oid::from_u32(2613),
];
/// Catalogs that scripts of extensions write to: pg_proc, pg_aggregate and pg_depend.
const SCRIPTS: [pg_sys::Oid; 3] = [
    pg_sys::ProcedureRelationId,
    pg_sys::Oid::from_u32(2600),
    pg_sys::Oid::from_u32(2608),
];
/// Tables of the extension that hold neither values of users nor keys of subjects.
const OWN: [&CStr; 20] = [
    c"purpose",
    c"purpose_period",
    c"minimum",
    c"publication_permit",
    c"subscriber_disposal",
    c"key_ref",
    c"relation_ref",
    c"relation_oid",
    c"epoch",
    c"run",
    c"run_item",
    c"obstacle",
    c"watermark",
    c"reopening",
    c"quarantine",
    c"heartbeat",
    c"pause",
    c"ledger_entry",
    c"ledger_block",
    c"ledger_leaf",
];

/// Whether a relation is a catalog that holds values of users' columns.
pub fn holds_values(relation: pg_sys::Oid) -> bool {
    VALUES.contains(&relation)
}

/// Whether a relation is the server's own and holds no values of users' columns.
pub fn is_catalog(relation: pg_sys::Oid) -> bool {
    if relation.to_u32() >= pg_sys::FirstNormalObjectId || holds_values(relation) {
        return false;
    }
    let schema = namespace::of(relation);
    schema == pg_sys::Oid::from(pg_sys::PG_CATALOG_NAMESPACE)
        || namespace::by_name(c"information_schema") == Some(schema)
}

/// Whether a relation is one of the extension's tables that anybody may see.
pub fn is_open_table(relation: pg_sys::Oid) -> bool {
    OWN.iter()
        .any(|name| relation::own_relation(name) == Some(relation))
}

/// Whether a relation is in the extension's schema.
pub fn is_own(relation: pg_sys::Oid) -> bool {
    relation::schema_oid() == Some(namespace::of(relation))
}

/// Whether a relation is one that scripts of extensions write to by themselves: those of contrib change properties of functions
/// and aggregates and the kind of dependencies, and this extension's bring the bases that laws know.
pub fn is_for_scripts(relation: pg_sys::Oid) -> bool {
    SCRIPTS.contains(&relation) || relation::own_relation(c"lawful_basis") == Some(relation)
}

/// Why a relation may not be read from outside at all.
pub fn closed(relation: pg_sys::Oid) -> Option<&'static str> {
    if holds_values(relation) {
        Some("It holds values of other tables' columns.")
    } else if is_own(relation) && !is_open_table(relation) {
        Some("It is a table of the extension that may hold keys of subjects.")
    } else {
        None
    }
}
