//! Names, owners and kinds of relations, and what a role may do with them.

use std::cell::Cell;
use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::evidence::refusal;
use crate::guc;
use crate::pg::{catalog, compat, invalidation};
use crate::policy::model::Ident;

/// The schema of the extension.
const SCHEMA: &CStr = c"custodian";
const EXTENSION: &CStr = c"pg_custodian";

/// OID of the extension in this database, if it is installed. Reads a catalog: not for hot paths.
pub fn extension_oid() -> Option<pg_sys::Oid> {
    // SAFETY: a catalog lookup inside a transaction with a NUL-terminated constant.
    let oid = unsafe { pg_sys::get_extension_oid(EXTENSION.as_ptr(), true) };
    (oid != pg_sys::Oid::INVALID).then_some(oid)
}

/// Version in which the extension is installed in this database; `None` when it is not.
pub fn extension_version() -> Result<Option<String>> {
    crate::pg::spi::select_one(
        "SELECT extversion FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.=) 'pg_custodian'",
        &[],
        |row| row.must::<String>(1),
    )
}

thread_local! {
    /// The schema that is known to belong to the extension.
    static VERIFIED: Cell<Option<pg_sys::Oid>> = const { Cell::new(None) };
    static LISTENING: Cell<bool> = const { Cell::new(false) };
}

fn schemas_changed() {
    VERIFIED.set(None);
}

/// Whether a schema belongs to the installed extension, as one that a user made under the same name does not.
fn is_ours(schema: pg_sys::Oid) -> bool {
    // SAFETY: a catalog lookup inside a transaction; without an error where the schema belongs to no extension.
    let member_of = unsafe { pg_sys::getExtensionOfObject(pg_sys::NamespaceRelationId, schema) };
    member_of != pg_sys::Oid::INVALID && extension_oid() == Some(member_of)
}

/// OID of the extension's schema, if the extension is installed in this database; from the catalog cache. A
/// schema that only has its name is not it.
pub fn schema_oid() -> Option<pg_sys::Oid> {
    let schema = schema_of_that_name()?;
    if VERIFIED.get() == Some(schema) {
        return Some(schema);
    }
    if !LISTENING.replace(true) {
        invalidation::of_catalog(pg_sys::SysCacheIdentifier::NAMESPACEOID, schemas_changed);
    }
    if !is_ours(schema) {
        return None;
    }
    VERIFIED.set(Some(schema));
    Some(schema)
}

fn schema_of_that_name() -> Option<pg_sys::Oid> {
    // SAFETY: a cached catalog lookup inside a transaction with a NUL-terminated constant.
    let oid = unsafe { pg_sys::get_namespace_oid(SCHEMA.as_ptr(), true) };
    (oid != pg_sys::Oid::INVALID).then_some(oid)
}

/// What to say where the extension is needed and not there.
pub fn not_installed() -> Error {
    Error::new(
        Kind::NotInPrerequisiteState,
        "extension \"pg_custodian\" is not installed in this database",
    )
    .hint("Run CREATE EXTENSION pg_custodian as a superuser.")
}

/// The role that owns the extension, with whose rights its own tables are read and written.
pub fn extension_owner() -> Result<pg_sys::Oid> {
    let schema = schema_oid().ok_or_else(not_installed)?;
    // SAFETY: the tuple is released before its memory could go; the attribute number is a constant of the
    // catalog, and nspowner is never NULL.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::NAMESPACEOID as i32,
            pg_sys::Datum::from(schema),
        );
        if tuple.is_null() {
            return Err(not_installed());
        }
        let form = pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_namespace>(tuple);
        let owner = (*form).nspowner;
        pg_sys::ReleaseSysCache(tuple);
        Ok(owner)
    }
}

/// OID of a relation of the extension's own schema.
pub fn own_relation(name: &CStr) -> Option<pg_sys::Oid> {
    let schema = schema_oid()?;
    // SAFETY: a cached catalog lookup with a NUL-terminated name.
    let oid = unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) };
    (oid != pg_sys::Oid::INVALID).then_some(oid)
}

fn copy(pointer: *const std::ffi::c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: not NULL, and the server's names are NUL-terminated.
    Some(
        unsafe { CStr::from_ptr(pointer) }
            .to_string_lossy()
            .into_owned(),
    )
}

/// The name of a publication.
pub fn publication_name(publication: pg_sys::Oid) -> Option<String> {
    // SAFETY: a cached catalog lookup; the result is palloc'd or NULL.
    copy(unsafe { pg_sys::get_publication_name(publication, true) })
}

/// An identifier as the server quotes it.
pub fn quote_identifier(name: &str) -> Result<String> {
    let name = CString::new(name)
        .map_err(|_| Error::new(Kind::InvalidParameter, "a name may not contain a null byte"))?;
    // SAFETY: NUL-terminated; the result is the argument or palloc'd, and is copied at once.
    copy(unsafe { pg_sys::quote_identifier(name.as_ptr()) })
        .ok_or_else(|| Error::internal("quote_identifier returned nothing"))
}

/// The schema-qualified name of a relation, plain and quoted; `None` when it does not exist.
pub fn qualified(relation: pg_sys::Oid) -> Result<Option<Ident>> {
    // SAFETY: cached catalog lookups by OID; results are NULL or palloc'd strings.
    let (name, schema) = unsafe {
        (
            copy(pg_sys::get_rel_name(relation)),
            copy(pg_sys::get_namespace_name(pg_sys::get_rel_namespace(
                relation,
            ))),
        )
    };
    match (schema, name) {
        (Some(schema), Some(name)) => Ok(Some(Ident {
            quoted: format!(
                "{}.{}",
                quote_identifier(&schema)?,
                quote_identifier(&name)?
            ),
            name: format!("{schema}.{name}"),
        })),
        _ => Ok(None),
    }
}

/// The kind of a relation, as `pg_class.relkind` has it; 0 when it does not exist.
pub fn kind(relation: pg_sys::Oid) -> u8 {
    // SAFETY: a cached catalog lookup by OID.
    unsafe { pg_sys::get_rel_relkind(relation) as u8 }
}

/// How long a relation's data stays, as `pg_class.relpersistence` has it; 0 when it does not exist.
pub fn persistence(relation: pg_sys::Oid) -> u8 {
    // SAFETY: a cached catalog lookup by OID.
    unsafe { pg_sys::get_rel_persistence(relation) as u8 }
}

/// Whether a relation was made in this very transaction, so that nobody else has put rows into it.
pub fn is_new(relation: pg_sys::Oid) -> bool {
    // SAFETY: NULL or an entry of the relation cache, which is given back at once.
    unsafe {
        let entry = pg_sys::RelationIdGetRelation(relation);
        let Some(found) = entry.as_ref() else {
            return false;
        };
        // 0 is the server's InvalidSubTransactionId.
        let new = found.rd_createSubid != 0;
        pg_sys::RelationClose(entry);
        new
    }
}

/// The relation that a statement names, if it exists; without a lock. `None` for no name.
pub fn named(name: Option<&pg_sys::RangeVar>) -> Option<pg_sys::Oid> {
    let name = std::ptr::from_ref(name?);
    // SAFETY: a RangeVar of the parse tree; without an error where there is no such relation.
    let oid = unsafe {
        pg_sys::RangeVarGetRelidExtended(
            name,
            pg_sys::NoLock as i32,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        )
    };
    (oid != pg_sys::Oid::INVALID).then_some(oid)
}

/// The relation of a name in parts, as it would be found by the search path.
pub fn by_name_parts(parts: &[String]) -> Result<Option<pg_sys::Oid>> {
    let mut strings = Vec::with_capacity(parts.len());
    for part in parts {
        strings.push(std::ffi::CString::new(part.as_str()).map_err(Error::internal)?);
    }
    let mut range = pg_sys::RangeVar {
        type_: pg_sys::NodeTag::T_RangeVar,
        inh: true,
        relpersistence: b'p' as std::ffi::c_char,
        location: -1,
        ..Default::default()
    };
    let pointer = |string: &std::ffi::CString| string.as_ptr().cast_mut();
    match strings.as_slice() {
        [name] => range.relname = pointer(name),
        [schema, name] => {
            range.schemaname = pointer(schema);
            range.relname = pointer(name);
        }
        [catalog, schema, name] => {
            range.catalogname = pointer(catalog);
            range.schemaname = pointer(schema);
            range.relname = pointer(name);
        }
        _ => return Ok(None),
    }
    Ok(named(Some(&range)))
}

/// The relation that a statement names, if it exists and `may` says so of it, under a lock until the end of the
/// transaction: while that was waited for, the name may have come to mean another one. `may` is asked without a lock, so
/// that nobody takes one who may not.
pub fn named_and_locked(
    name: Option<&pg_sys::RangeVar>,
    lock: i32,
    may: impl Fn(pg_sys::Oid) -> bool,
) -> Option<pg_sys::Oid> {
    found_and_locked(|| named(name), lock, may)
}

/// The same for a relation that is looked up in another way.
pub fn found_and_locked(
    look: impl Fn() -> Option<pg_sys::Oid>,
    lock: i32,
    may: impl Fn(pg_sys::Oid) -> bool,
) -> Option<pg_sys::Oid> {
    loop {
        let found = look().filter(|found| may(*found))?;
        // SAFETY: takes a lock, or raises the server's error where it is not to be had; what the name means is looked up
        // again after the changes that others made meanwhile were heard of.
        unsafe { pg_sys::LockRelationOid(found, lock) };
        if look() == Some(found) {
            return Some(found);
        }
        // SAFETY: the lock that was taken above.
        unsafe { pg_sys::UnlockRelationOid(found, lock) };
    }
}

/// The name of a column by its number; `None` when there is no such column.
pub fn column_name(relation: pg_sys::Oid, attnum: i16) -> Option<String> {
    // SAFETY: a cached catalog lookup; the result is NULL or a palloc'd string.
    copy(unsafe { pg_sys::get_attname(relation, attnum, true) })
}

/// The number of a column by its name as stored, negative for a system column; `None` when there is no such
/// column, or it was dropped.
pub fn column_number(relation: pg_sys::Oid, name: &str) -> Option<i16> {
    let name = CString::new(name).ok()?;
    // SAFETY: a cached catalog lookup with a NUL-terminated name.
    let attnum = unsafe { pg_sys::get_attnum(relation, name.as_ptr()) };
    (attnum != 0).then_some(attnum)
}

/// Whether a relation is a materialized view.
pub fn is_materialized_view(relation: pg_sys::Oid) -> bool {
    kind(relation) == pg_sys::RELKIND_MATVIEW
}

/// The columns of a relation's exclusion constraints; 0 for an expression. From the catalog, without a lock.
pub fn excluded_columns(relation: pg_sys::Oid) -> Vec<i16> {
    catalog::scan(
        pg_sys::IndexRelationId,
        pg_sys::Oid::from(pg_sys::IndexIndrelidIndexId),
        &[(pg_sys::Anum_pg_index_indrelid as i16, relation)],
        |row| {
            let index = row.form::<pg_sys::FormData_pg_index>();
            index.indisexclusion.then(|| {
                let keys = usize::try_from(index.indnkeyatts).unwrap_or(0);
                // SAFETY: an index has at least as many columns as keys, and the row is there while it is read.
                unsafe { index.indkey.values.as_slice(keys) }.to_vec()
            })
        },
    )
    .concat()
}

/// The qualified name, or the OID in words for a relation that is gone.
pub fn describe(relation: pg_sys::Oid) -> String {
    match qualified(relation) {
        Ok(Some(ident)) => ident.name,
        _ => format!("relation {}", relation.to_u32()),
    }
}

/// The name without its schema.
pub fn plain_name(relation: pg_sys::Oid) -> Option<String> {
    // SAFETY: a cached catalog lookup by OID; the result is NULL or a palloc'd string.
    copy(unsafe { pg_sys::get_rel_name(relation) })
}

/// The name of a type of any length: `character` would be one of length 1. With its schema, where it is no word of SQL.
pub fn type_name(type_oid: pg_sys::Oid) -> Result<String> {
    let flags = pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN | pg_sys::FORMAT_TYPE_FORCE_QUALIFY;
    // SAFETY: a catalog lookup by OID; a palloc'd string, or an error where the type is gone.
    copy(unsafe { pg_sys::format_type_extended(type_oid, -1, flags as u16) })
        .ok_or_else(|| Error::internal("a type has no name"))
}

/// The name of a database; `None` when it does not exist.
pub fn database_name(database: pg_sys::Oid) -> Option<String> {
    // SAFETY: a catalog lookup by OID; the result is NULL or a palloc'd string.
    copy(unsafe { pg_sys::get_database_name(database) })
}

/// OID of the role that owns a relation.
pub fn owner(relation: pg_sys::Oid) -> Result<pg_sys::Oid> {
    // SAFETY: a cached catalog lookup; the tuple is released before its memory could go, and relowner is
    // never NULL.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::RELOID as i32,
            pg_sys::Datum::from(relation),
        );
        if tuple.is_null() {
            return Err(Error::new(
                Kind::UndefinedObject,
                format!("relation {} does not exist", relation.to_u32()),
            ));
        }
        let form = pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_class>(tuple);
        let owner = (*form).relowner;
        pg_sys::ReleaseSysCache(tuple);
        Ok(owner)
    }
}

/// The name of a role; `None` when it does not exist.
pub fn role_name(role: pg_sys::Oid) -> Option<String> {
    // SAFETY: a cached catalog lookup by OID that may return NULL.
    copy(unsafe { pg_sys::GetUserNameFromId(role, true) })
}

/// The current user's OID.
pub fn current_user() -> pg_sys::Oid {
    // SAFETY: reads a backend-local variable.
    unsafe { pg_sys::GetUserId() }
}

/// The OID of the user that the session was started as, or switched to by SET SESSION AUTHORIZATION.
pub fn session_user() -> pg_sys::Oid {
    // SAFETY: reads a backend-local variable.
    unsafe { pg_sys::GetSessionUserId() }
}

/// The OID of the user that logged in, whatever the session was switched to since.
pub fn login_user() -> pg_sys::Oid {
    // SAFETY: reads a backend-local variable.
    unsafe { pg_sys::GetAuthenticatedUserId() }
}

/// The role of this name, if there is one.
pub fn role_named(name: &str) -> Option<pg_sys::Oid> {
    let name = CString::new(name).ok()?;
    // SAFETY: a catalog lookup inside a transaction with a NUL-terminated name that may find nothing.
    let role = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    (role != pg_sys::Oid::INVALID).then_some(role)
}

/// Whether the current user is a superuser.
pub fn is_superuser() -> bool {
    // SAFETY: a catalog lookup inside a transaction.
    unsafe { pg_sys::superuser() }
}

/// Whether a role is a superuser.
pub fn is_superuser_role(role: pg_sys::Oid) -> bool {
    // SAFETY: a cached catalog lookup by OID inside a transaction; false where there is no such role.
    unsafe { pg_sys::superuser_arg(role) }
}

/// Whether the current user has the privileges of a role.
pub fn has_privileges_of(role: pg_sys::Oid) -> bool {
    // SAFETY: a catalog lookup inside a transaction.
    unsafe { pg_sys::has_privs_of_role(current_user(), role) }
}

/// Whether the current user owns the relation (membership counts, superusers always).
pub fn is_owner(relation: pg_sys::Oid) -> bool {
    // SAFETY: a cached catalog lookup by OID.
    unsafe { compat::owns_relation(relation, current_user()) }
}

/// Whether the current user may put triggers on a relation.
pub fn may_have_triggers(relation: pg_sys::Oid) -> bool {
    // SAFETY: cached catalog lookups by OID; a relation that is gone is an error of the server's.
    unsafe {
        pg_sys::pg_class_aclcheck(relation, current_user(), pg_sys::ACL_TRIGGER)
            == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// Whether the current user is a steward: a superuser, or one with the privileges of `custodian.steward_role`. A
/// member that does not inherit them must SET ROLE first.
pub fn is_steward() -> bool {
    is_superuser()
        || guc::steward_role()
            .and_then(|role| role_named(&role))
            .is_some_and(has_privileges_of)
}

/// Whether the current user may see what monitoring sees: a member of pg_monitor.
pub fn is_monitor() -> bool {
    has_privileges_of(pg_sys::Oid::from(pg_sys::ROLE_PG_MONITOR))
}

/// Fails unless the current user is a steward, and puts the attempt on its way to the ledger. `action`
/// completes "must be a data steward to …"; it may hold no personal value.
pub fn require_steward(action: &str) -> Result<()> {
    expect_steward(action).map_err(|error| refusal::of_decision(action, error))
}

/// The same for those who only want to look: the attempt is not recorded.
pub fn expect_steward(action: &str) -> Result<()> {
    if is_steward() {
        return Ok(());
    }
    let hint = match guc::steward_role() {
        Some(role) => {
            format!("Ask a member of role \"{role}\" (custodian.steward_role), or a superuser.")
        }
        None => "Ask a superuser, or have one set custodian.steward_role.".to_owned(),
    };
    Err(Error::new(
        Kind::InsufficientPrivilege,
        format!("must be a data steward to {action}"),
    )
    .hint(hint))
}
