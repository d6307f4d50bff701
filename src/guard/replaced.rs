//! Access gate, continued: functions that are run on rows of tables which may not be read where they are written anew.
//!
//! A trigger's function, and those that indexes, constraints, generated columns, policies, rules and statistics of a table call,
//! get values of its rows in whatever session writes or reads them. From outside, to replace such a function, or to change what
//! its body means (`SET search_path`), counts as reading whole rows of these tables. What it calls itself is not followed.

use pgrx::pg_sys;

use crate::error::Result;
use crate::guard::session::{self, Session};
use crate::guard::verdict::Verdict;
use crate::guard::{computed, function, refuse, scripts, written};
use crate::guc::{self, Enforce, Gate};
use crate::pg::fresh::{self, Seen};
use crate::pg::statement::{names, node, string};
use crate::pg::utility::Utility;
use crate::pg::{namespace, relation, sandbox, xact};

/// The name of the function that a statement replaces or alters, by its parts.
fn named(statement: &Utility) -> Option<Vec<String>> {
    if let Some(create) = statement.cast::<pg_sys::CreateFunctionStmt>() {
        return create.replace.then(|| names!(create.funcname));
    }
    let alter = statement.cast::<pg_sys::AlterFunctionStmt>()?;
    let function: &pg_sys::ObjectWithArgs = node!(alter.func)?;
    Some(names!(function.objname))
}

/// The tables on whose rows functions of this name are run, whatever their arguments, by themselves or as those of an operator or
/// an operator class; in any schema where none is given and the statement only alters one.
fn run_on(schema: Option<pg_sys::Oid>, name: &str) -> Result<Vec<pg_sys::Oid>> {
    sandbox::as_extension_owner(|| {
        let rows = fresh::rows(
            "WITH named AS (SELECT oid FROM pg_catalog.pg_proc WHERE proname = $1::pg_catalog.name AND ($2 IS NULL OR pronamespace = $2)),
                  operators AS (SELECT o.oid FROM pg_catalog.pg_operator o JOIN named n ON n.oid IN (o.oprcode::pg_catalog.oid, o.oprrest::pg_catalog.oid, o.oprjoin::pg_catalog.oid)),
                  used AS (SELECT d.classid, d.objid FROM pg_catalog.pg_depend d JOIN named n ON d.refobjid = n.oid
                           WHERE d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                           UNION SELECT d.classid, d.objid FROM pg_catalog.pg_depend d JOIN operators o ON d.refobjid = o.oid
                           WHERE d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass)
             SELECT t.tgrelid FROM pg_catalog.pg_trigger t JOIN named n ON t.tgfoid = n.oid
             UNION SELECT i.indrelid FROM used u JOIN pg_catalog.pg_index i ON i.indexrelid = u.objid
                   WHERE u.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
             UNION SELECT c.oid FROM used u JOIN pg_catalog.pg_class c ON c.oid = u.objid
                   WHERE u.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.relkind = 'p'
             UNION SELECT c.conrelid FROM used u JOIN pg_catalog.pg_constraint c ON c.oid = u.objid
                   WHERE u.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND c.conrelid <> 0
             UNION SELECT a.attrelid FROM used u JOIN pg_catalog.pg_constraint c ON c.oid = u.objid
                   JOIN pg_catalog.pg_attribute a ON a.atttypid = c.contypid
                   WHERE u.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND c.contypid <> 0
             UNION SELECT a.adrelid FROM used u JOIN pg_catalog.pg_attrdef a ON a.oid = u.objid
                   WHERE u.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
             UNION SELECT p.polrelid FROM used u JOIN pg_catalog.pg_policy p ON p.oid = u.objid
                   WHERE u.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass
             UNION SELECT r.ev_class FROM used u JOIN pg_catalog.pg_rewrite r ON r.oid = u.objid
                   WHERE u.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
             UNION SELECT s.stxrelid FROM used u JOIN pg_catalog.pg_statistic_ext s ON s.oid = u.objid
                   WHERE u.classid = 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass
             UNION SELECT i.indrelid FROM pg_catalog.pg_amproc p JOIN named n ON p.amproc::pg_catalog.oid = n.oid
                   JOIN pg_catalog.pg_opclass c ON c.opcfamily = p.amprocfamily JOIN pg_catalog.pg_index i ON c.oid = ANY (i.indclass::pg_catalog.oid[])",
            &[name.into(), schema.into()],
            // What others committed since this transaction began counts.
            Seen::Everything,
            0,
        )?;
        rows.iter().map(|row| fresh::oid(row, 0)).collect()
    })
}

/// Checks a statement before it is executed.
pub fn before(statement: &Utility) -> Result<()> {
    use pg_sys::NodeTag::{
        T_AlterExtensionContentsStmt, T_AlterFunctionStmt, T_CreateFunctionStmt,
    };
    if !matches!(
        statement.node.type_,
        T_CreateFunctionStmt | T_AlterFunctionStmt | T_AlterExtensionContentsStmt
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
    // By what it belongs to, the guard knows what it does.
    if let Some(contents) = statement.cast::<pg_sys::AlterExtensionContentsStmt>() {
        let name = string!(contents.extname);
        return match contents.action < 0
            && (function::is_known(&name) || written::is_scheduler(&name))
        {
            true => refuse::outside(
                "ALTER EXTENSION",
                &format!("taking something out of extension \"{name}\""),
                "What belongs to it is known by that.",
                &session,
            ),
            false => Ok(()),
        };
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
        .try_for_each(|table| computed::whole_or_below(table, session))
}
