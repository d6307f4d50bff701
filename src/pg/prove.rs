//! The planner's prover: does what a row filter lets through satisfy a condition in every case?

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::plan::Condition;
use crate::pg::{list, sandbox};

/// Brings a boolean expression into the form that the prover compares.
///
/// # Safety
/// `node` must be an analysed boolean expression.
unsafe fn clauses(node: *mut pg_sys::Node) -> *mut pg_sys::List {
    // SAFETY: by the caller's promise; the results live in the current memory context.
    unsafe {
        let constant = pg_sys::eval_const_expressions(std::ptr::null_mut(), node);
        let canonical = pg_sys::canonicalize_qual(constant.cast(), false);
        pg_sys::make_ands_implicit(canonical)
    }
}

/// The analysed form of a condition over the columns of a relation, whose columns have number 1 in the range table, as
/// in stored row filters.
fn analyse(relation: pg_sys::Oid, condition: &str) -> Result<*mut pg_sys::Node> {
    let query = CString::new(format!("SELECT 1 WHERE {condition}")).map_err(Error::internal)?;
    // SAFETY: the relation is open, with a lock, while its columns are looked up; trees live in the current memory
    // context; the parser returns one raw statement with the WHERE clause that was put in.
    unsafe {
        let statements =
            pg_sys::raw_parser(query.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        let statements = list::items::<pg_sys::RawStmt>(statements);
        let [statement] = statements.as_slice() else {
            return Err(Error::internal("a condition is more than one statement"));
        };
        if (*statement.stmt).type_ != pg_sys::NodeTag::T_SelectStmt {
            return Err(Error::internal("a condition is not part of a query"));
        }
        let select = &*statement.stmt.cast::<pg_sys::SelectStmt>();
        let open = pg_sys::relation_open(relation, pg_sys::AccessShareLock as i32);
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        (*state).p_sourcetext = query.as_ptr();
        let item = pg_sys::addRangeTableEntryForRelation(
            state,
            open,
            pg_sys::AccessShareLock as i32,
            std::ptr::null_mut(),
            false,
            false,
        );
        pg_sys::addNSItemToQuery(state, item, false, true, true);
        let node = pg_sys::transformExpr(
            state,
            select.whereClause,
            pg_sys::ParseExprKind::EXPR_KIND_WHERE,
        );
        let node = pg_sys::coerce_to_boolean(state, node, c"WHERE".as_ptr());
        pg_sys::assign_expr_collations(state, node);
        pg_sys::free_parsestate(state);
        pg_sys::relation_close(open, pg_sys::NoLock as i32);
        Ok(node)
    }
}

/// Whether every row that passes `filter`, the stored form (`pg_node_tree`) of a row filter on `relation`, satisfies
/// `condition`, SQL text over that relation's columns with names and literals quoted. False where it cannot be proved.
/// Errors of the parser, as for a column that is gone, pass through.
pub fn implies(relation: pg_sys::Oid, filter: &str, condition: &str) -> Result<bool> {
    let filter = CString::new(filter).map_err(Error::internal)?;
    sandbox::with_pinned_settings(|| {
        let wanted = analyse(relation, condition)?;
        // SAFETY: the text was written by the server as the form of a node tree; the trees are only read.
        Ok(unsafe {
            let given = pg_sys::stringToNode(filter.as_ptr()).cast::<pg_sys::Node>();
            !given.is_null() && pg_sys::predicate_implied_by(clauses(wanted), clauses(given), false)
        })
    })
}

/// A condition that was brought into the form that the prover compares.
#[derive(Clone, Copy)]
pub struct Wanted(*mut pg_sys::List);

impl Wanted {
    /// `condition` is SQL text over the columns of `relation`, with names and literals quoted.
    pub fn new(relation: pg_sys::Oid, condition: &str) -> Result<Wanted> {
        sandbox::with_pinned_settings(|| {
            let node = analyse(relation, condition)?;
            // SAFETY: the analysed form of a boolean expression.
            Ok(Wanted(unsafe { clauses(node) }))
        })
    }

    /// Whether it is true of every row of which all of `given` are.
    pub fn follows(self, given: &[Condition]) -> bool {
        // SAFETY: conditions of a plan, which the planner has brought into that form, over the relation as number 1 of the
        // range table, as the wanted one; the trees are only read.
        unsafe {
            let mut clauses = std::ptr::null_mut();
            for condition in given {
                clauses = pg_sys::lappend(clauses, condition.node.cast());
            }
            pg_sys::predicate_implied_by(self.0, clauses, false)
        }
    }
}

/// A string literal of SQL.
pub fn literal(text: &str) -> Result<String> {
    let text = CString::new(text).map_err(Error::internal)?;
    // SAFETY: the result is a NUL-terminated string of the server's in the current memory context.
    Ok(
        unsafe { CStr::from_ptr(pg_sys::quote_literal_cstr(text.as_ptr())) }
            .to_string_lossy()
            .into_owned(),
    )
}
