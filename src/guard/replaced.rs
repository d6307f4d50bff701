//! Access gate, continued: functions that are run on rows of tables which may not be read where they are written anew.
//!
//! A trigger's function, and those that indexes, constraints, generated columns, policies, rules and statistics of a table call,
//! get values of its rows in whatever session writes or reads them. From outside, to replace such a function, or to change what
//! its body means (`SET search_path`), counts as reading whole rows of these tables. What it calls itself is not followed.

use pgrx::pg_sys;

use crate::error::Result;
use crate::guard::access;
use crate::guard::scripts;
use crate::guard::session::{self, Session};
use crate::guard::verdict::Verdict;
use crate::guc::{self, Enforce, Gate};
use crate::pg::statement::{names, node};
use crate::pg::utility::Utility;
use crate::pg::{namespace, relation, sandbox, spi, xact};

/// The name of the function that a statement replaces or alters, by its parts.
fn named(statement: &Utility) -> Option<Vec<String>> {
    if let Some(create) = statement.cast::<pg_sys::CreateFunctionStmt>() {
        return create.replace.then(|| names!(create.funcname));
    }
    let alter = statement.cast::<pg_sys::AlterFunctionStmt>()?;
    let function: &pg_sys::ObjectWithArgs = node!(alter.func)?;
    Some(names!(function.objname))
}

/// The tables on whose rows functions of this name are run, whatever their arguments; in any schema where none is given and the
/// statement only alters one.
fn run_on(schema: Option<pg_sys::Oid>, name: &str) -> Result<Vec<pg_sys::Oid>> {
    sandbox::as_extension_owner(|| {
        spi::select(
            "WITH named AS (SELECT oid FROM pg_catalog.pg_proc WHERE proname = $1::pg_catalog.name AND ($2 IS NULL OR pronamespace = $2)),
                  used AS (SELECT d.classid, d.objid FROM pg_catalog.pg_depend d JOIN named n ON d.refobjid = n.oid
                           WHERE d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass)
             SELECT t.tgrelid FROM pg_catalog.pg_trigger t JOIN named n ON t.tgfoid = n.oid
             UNION SELECT i.indrelid FROM used u JOIN pg_catalog.pg_index i ON i.indexrelid = u.objid
                   WHERE u.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
             UNION SELECT c.conrelid FROM used u JOIN pg_catalog.pg_constraint c ON c.oid = u.objid
                   WHERE u.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND c.conrelid <> 0
             UNION SELECT a.adrelid FROM used u JOIN pg_catalog.pg_attrdef a ON a.oid = u.objid
                   WHERE u.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
             UNION SELECT p.polrelid FROM used u JOIN pg_catalog.pg_policy p ON p.oid = u.objid
                   WHERE u.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass
             UNION SELECT r.ev_class FROM used u JOIN pg_catalog.pg_rewrite r ON r.oid = u.objid
                   WHERE u.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
             UNION SELECT s.stxrelid FROM used u JOIN pg_catalog.pg_statistic_ext s ON s.oid = u.objid
                   WHERE u.classid = 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass
             ORDER BY 1",
            &[name.into(), schema.into()],
            |row| row.must::<pg_sys::Oid>(1),
        )
    })
}

/// Checks a statement before it is executed.
pub fn before(statement: &Utility) -> Result<()> {
    use pg_sys::NodeTag::{T_AlterFunctionStmt, T_CreateFunctionStmt};
    if !matches!(
        statement.node.type_,
        T_CreateFunctionStmt | T_AlterFunctionStmt
    ) || session::is_known_inside()
        || !guc::preloaded()
        || guc::enforce(Gate::Access) == Enforce::Off
    {
        return Ok(());
    }
    let session = session::current();
    if session.judgement.verdict == Verdict::Inside
        || (xact::in_extension_script() && !scripts::may_others_write())
        || xact::is_upgrade()
        || relation::extension_oid().is_none()
    {
        return Ok(());
    }
    let Some(parts) = named(statement) else {
        return Ok(());
    };
    let makes = statement.cast::<pg_sys::CreateFunctionStmt>().is_some();
    look(&parts, makes, &session)
}

fn look(parts: &[String], makes: bool, session: &Session) -> Result<()> {
    let Some((name, above)) = parts.split_last() else {
        return Ok(());
    };
    let schema = match above.last() {
        Some(schema) => match std::ffi::CString::new(schema.as_str()) {
            Ok(schema) => namespace::by_name(&schema),
            Err(_) => None,
        },
        None if makes => namespace::for_new(),
        None => None,
    };
    // In a schema that is not there, nothing is.
    if schema.is_none() && (makes || !above.is_empty()) {
        return Ok(());
    }
    run_on(schema, name)?
        .into_iter()
        .filter(|table| !relation::is_new(*table))
        .try_for_each(|table| access::whole_row(table, session))
}
