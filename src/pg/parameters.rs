//! The parameters of a statement, and what they are in the execution that is starting.
//!
//! A plan that is kept for all values of its parameters has them in its conditions; in one execution each stands for one value.

use std::ffi::{c_int, c_void};

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::prelude::*;

use crate::pg::list;
use crate::pg::walker::expression_tree_mutator;

/// What is known of a statement's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameters {
    /// A plan is being made: each will be a value.
    Later,
    /// The plan is about to be executed with these, or none.
    Now(pg_sys::ParamListInfo),
}

/// The value of a parameter, as a constant; `None` where there is none of that type.
///
/// # Safety
/// `given` must be NULL or the parameters of a statement that is starting.
unsafe fn constant(
    given: pg_sys::ParamListInfo,
    parameter: &pg_sys::Param,
) -> Option<*mut pg_sys::Const> {
    let number = parameter.paramid;
    let mut workspace = pg_sys::ParamExternData::default();
    // SAFETY: by the caller's promise; the number is within the list's bounds. A language that looks its variables up fills the
    // workspace, as for the planner: without evaluating anything. None of them changes while the statement runs.
    unsafe {
        let list = given.as_ref()?;
        if parameter.paramkind != pg_sys::ParamKind::PARAM_EXTERN
            || number < 1
            || number > list.numParams
        {
            return None;
        }
        let found = match list.paramFetch {
            Some(fetch) => fetch(given, number, true, &mut workspace),
            None => list
                .params
                .as_ptr()
                .add(usize::try_from(number - 1).ok()?)
                .cast_mut(),
        };
        let found = found.as_ref()?;
        if found.ptype == pg_sys::Oid::INVALID || found.ptype != parameter.paramtype {
            return None;
        }
        let mut length = 0;
        let mut by_value = false;
        pg_sys::get_typlenbyval(parameter.paramtype, &mut length, &mut by_value);
        Some(pg_sys::makeConst(
            parameter.paramtype,
            parameter.paramtypmod,
            parameter.paramcollid,
            c_int::from(length),
            found.value,
            found.isnull,
            by_value,
        ))
    }
}

/// Whether a node is `ARRAY[…]` of constants alone.
///
/// # Safety
/// `node` must be an expression.
unsafe fn is_constant_array(node: *mut pg_sys::Node) -> bool {
    // SAFETY: by the caller's promise; the tag is the one of its type.
    unsafe {
        (*node).type_ == pg_sys::NodeTag::T_ArrayExpr && {
            let array = &*node.cast::<pg_sys::ArrayExpr>();
            !array.multidims
                && list::items::<pg_sys::Node>(array.elements)
                    .iter()
                    .all(|element| element.type_ == pg_sys::NodeTag::T_Const)
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn put(node: *mut pg_sys::Node, given: *mut c_void) -> *mut pg_sys::Node {
    use pg_sys::NodeTag as Tag;
    // SAFETY: the server calls this with a node of the expression, or NULL; each tag is the one of its type. What the server's
    // mutator gives is a copy.
    unsafe {
        let Some(known) = node.as_ref() else {
            return node;
        };
        match known.type_ {
            Tag::T_Param => {
                if let Some(constant) = constant(given.cast(), &*node.cast::<pg_sys::Param>()) {
                    return constant.cast();
                }
            }
            // A constant of another type is a constant, as the planner has it.
            Tag::T_RelabelType => {
                let relabel = &*node.cast::<pg_sys::RelabelType>();
                return pg_sys::applyRelabelType(
                    put(relabel.arg.cast(), given),
                    relabel.resulttype,
                    relabel.resulttypmod,
                    relabel.resultcollid,
                    relabel.relabelformat,
                    relabel.location,
                    true,
                );
            }
            _ => {}
        }
        let copy = pg_guard_ffi_boundary(|| expression_tree_mutator(node, put, given));
        // Made here, so that an array too large to be made says nothing of rows.
        if is_constant_array(copy) {
            pg_sys::eval_const_expressions(std::ptr::null_mut(), copy)
        } else {
            copy
        }
    }
}

impl Parameters {
    /// An expression with the values of parameters put into it, as far as they are known: a copy, or itself.
    ///
    /// # Safety
    /// `node` must be an expression of the statement to which the parameters belong.
    pub unsafe fn put_into(self, node: *mut pg_sys::Node) -> *mut pg_sys::Node {
        match self {
            // SAFETY: by the caller's promise.
            Parameters::Now(given) if !given.is_null() => unsafe { put(node, given.cast()) },
            _ => node,
        }
    }
}
