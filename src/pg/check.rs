//! What a CHECK constraint says to one value of one of its columns, whatever is in the others.

use std::ffi::CString;

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::list;

/// Whether the expression takes the column for one of this type and modifier wherever it reads it.
///
/// # Safety
/// `expression` must be an analysed expression without sublinks.
unsafe fn all_of_type(
    expression: *mut pg_sys::Node,
    attnum: i16,
    type_oid: pg_sys::Oid,
    typmod: i32,
) -> bool {
    // SAFETY: by the caller's promise; without flags the list has `Var` nodes only, or an error is raised.
    unsafe {
        list::items::<pg_sys::Var>(pg_sys::pull_var_clause(expression, 0))
            .iter()
            .filter(|var| var.varattno == attnum)
            .all(|var| var.vartype == type_oid && var.vartypmod == typmod)
    }
}

/// Whether the constraint with this `expression` (`pg_constraint.conbin`) calls nothing but immutable functions, so that
/// evaluating it depends on the value alone: `pg_sleep()` is none of them.
pub fn is_immutable(expression: &str) -> Result<bool> {
    let expression = CString::new(expression).map_err(Error::internal)?;
    // SAFETY: the expression is one that the server stored; it is only looked at.
    unsafe {
        let expression: *mut pg_sys::Node = pg_sys::stringToNode(expression.as_ptr()).cast();
        Ok(!pg_sys::contain_mutable_functions(expression))
    }
}

/// Whether the constraint with this `expression` (`pg_constraint.conbin`) of the relation accepts rows in which the column has this value (in text form, `None` for NULL):
/// `None` when that depends on other columns, or on what is not constant. The server's own simplification of
/// expressions decides (`eval_const_expressions`); it evaluates immutable functions and nothing else, with the
/// rights of the current user. Raises what those functions raise.
pub fn accepts(
    expression: &str,
    relation: pg_sys::Oid,
    attnum: i16,
    value: Option<&str>,
) -> Result<Option<bool>> {
    let expression = CString::new(expression).map_err(Error::internal)?;
    let value = value
        .map(CString::new)
        .transpose()
        .map_err(Error::internal)?;
    // SAFETY: the expression is one that the server stored; every node is made in the current memory context, which
    // outlives the call. A constraint's expression refers to its one relation as number 1, without sublinks.
    unsafe {
        let expression: *mut pg_sys::Node = pg_sys::stringToNode(expression.as_ptr()).cast();

        // A column that stands for the whole row is not one that can be replaced.
        let mut read: *mut pg_sys::Bitmapset = std::ptr::null_mut();
        pg_sys::pull_varattnos(expression, 1, &mut read);
        let whole_row = -(pg_sys::FirstLowInvalidHeapAttributeNumber);
        if pg_sys::bms_is_member(whole_row, read) {
            return Ok(None);
        }

        let mut type_oid = pg_sys::InvalidOid;
        let mut typmod = -1;
        let mut collation = pg_sys::InvalidOid;
        pg_sys::get_atttypetypmodcoll(relation, attnum, &mut type_oid, &mut typmod, &mut collation);
        if !all_of_type(expression, attnum, type_oid, typmod) {
            // The column changed since the expression was read: a value of one type is not to be taken for one of another.
            return Ok(None);
        }
        let constant = match &value {
            None => pg_sys::makeNullConst(type_oid, typmod, collation),
            Some(value) => {
                let mut input = pg_sys::InvalidOid;
                let mut parameter = pg_sys::InvalidOid;
                pg_sys::getTypeInputInfo(type_oid, &mut input, &mut parameter);
                let datum = pg_sys::OidInputFunctionCall(
                    input,
                    value.as_ptr().cast_mut(),
                    parameter,
                    typmod,
                );
                let mut length = 0;
                let mut by_value = false;
                pg_sys::get_typlenbyval(type_oid, &mut length, &mut by_value);
                pg_sys::makeConst(
                    type_oid,
                    typmod,
                    collation,
                    i32::from(length),
                    datum,
                    false,
                    by_value,
                )
            }
        };
        let entry = pg_sys::makeTargetEntry(constant.cast(), attnum, std::ptr::null_mut(), false);
        let replacements = pg_sys::lappend(std::ptr::null_mut(), entry.cast());
        let replaced = pg_sys::ReplaceVarsFromTargetList(
            expression,
            1,
            0,
            std::ptr::null_mut(),
            replacements,
            pg_sys::ReplaceVarsNoMatchOption::REPLACEVARS_CHANGE_VARNO,
            1,
            std::ptr::null_mut(),
        );
        let simplified = pg_sys::eval_const_expressions(std::ptr::null_mut(), replaced);
        if simplified.is_null() || (*simplified).type_ != pg_sys::NodeTag::T_Const {
            return Ok(None);
        }
        let result = &*simplified.cast::<pg_sys::Const>();
        // NULL passes a CHECK constraint.
        Ok(Some(result.constisnull || result.constvalue.value() != 0))
    }
}
