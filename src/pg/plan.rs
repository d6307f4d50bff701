//! What a plan does with the rows of tables: which it scans, by which conditions, and in which order these are evaluated.
//!
//! Conditions are copied, with the scanned relation as number 1 of the range table, which is how the prover has them, and with
//! the values of parameters, as far as these are known. A plan with a node that is not known here is not understood at all.

use std::ffi::{c_int, c_void};

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::prelude::*;

use crate::pg::list;
use crate::pg::parameters::Parameters;
use crate::pg::walker::expression_tree_walker;

/// A condition, with the scanned relation as number 1 of the range table.
#[derive(Clone, Copy, Debug)]
pub struct Condition {
    pub node: *mut pg_sys::Node,
    /// Whether evaluating it could tell what it is evaluated on: by an error, or by a function of a user.
    pub leaks: bool,
    /// Whether it could tell that it, or a part of it, is evaluated at all, and so what other parts said before: it calls
    /// something that is not leakproof, be it on constants, or has a parameter without a value, whose subquery may run only
    /// then. True where `leaks` is.
    pub acts: bool,
}

/// The conditions that one index is searched by. The server counts the entries that satisfy them, in its statistics.
#[derive(Clone, Debug)]
pub struct Search {
    pub conditions: Vec<Condition>,
    /// The index holds no other rows than those that satisfy these.
    pub predicate: Vec<Condition>,
    /// Whether it gives exactly what satisfies the conditions.
    pub exact: bool,
}

/// How a relation is scanned.
#[derive(Clone, Debug)]
pub enum Way {
    /// In a way that is not looked into: a sample, by row identifiers, in order of a distance.
    Other,
    Conditions {
        searches: Vec<Search>,
        /// True of each row that the searches give; evaluated again where they are not exact.
        searched: Vec<Condition>,
        /// Evaluated after that on each row, in this order, until one is false.
        filter: Vec<Condition>,
    },
}

/// The scan of one entry of the range table.
#[derive(Clone, Debug)]
pub struct Scan {
    /// From 1.
    pub entry: u32,
    pub relation: pg_sys::Oid,
    pub way: Way,
    plan: *mut pg_sys::Plan,
}

impl Scan {
    /// Puts the conditions of the filter for which `first` holds in front of the others: a conjunction has no order.
    pub fn move_to_front(&self, first: impl Fn(&Condition) -> bool) {
        let Way::Conditions { filter, .. } = &self.way else {
            return;
        };
        // SAFETY: the plan was just made, and nobody else has it yet; `filter` has one element for each of its list.
        unsafe {
            let whole = list::items::<pg_sys::Node>((*self.plan).qual);
            if whole.len() != filter.len() {
                return;
            }
            let mut ordered = std::ptr::null_mut();
            for wanted in [true, false] {
                for (node, condition) in whole.iter().zip(filter) {
                    if first(condition) == wanted {
                        ordered =
                            pg_sys::lappend(ordered, std::ptr::from_ref(*node).cast_mut().cast());
                    }
                }
            }
            (*self.plan).qual = ordered;
        }
    }
}

/// Whether an operator or function is not one of the server's own.
fn is_users(object: pg_sys::Oid) -> bool {
    object.to_u32() >= pg_sys::FirstNormalObjectId
}

unsafe extern "C-unwind" fn is_users_function(
    function: pg_sys::Oid,
    _context: *mut c_void,
) -> bool {
    is_users(function)
}

#[pg_guard]
unsafe extern "C-unwind" fn uses_users_code(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    use pg_sys::NodeTag as Tag;
    // SAFETY: the server calls this with a node of the expression, or NULL; each tag is the one of its type.
    unsafe {
        let Some(known) = node.as_ref() else {
            return false;
        };
        let operator = match known.type_ {
            Tag::T_OpExpr | Tag::T_DistinctExpr | Tag::T_NullIfExpr => {
                (*node.cast::<pg_sys::OpExpr>()).opno
            }
            Tag::T_ScalarArrayOpExpr => (*node.cast::<pg_sys::ScalarArrayOpExpr>()).opno,
            _ => pg_sys::Oid::INVALID,
        };
        is_users(operator)
            || pg_sys::check_functions_in_node(node, Some(is_users_function), context)
            || pg_guard_ffi_boundary(|| expression_tree_walker(node, uses_users_code, context))
    }
}

/// Whether evaluating an expression over columns could tell their values. What a superuser has declared leakproof is
/// not taken for it: the prover goes by what the server itself says of its operators.
///
/// # Safety
/// `node` must be an expression without subqueries of its own.
unsafe fn leaks(node: *mut pg_sys::Node) -> bool {
    // SAFETY: by the caller's promise; both only read.
    unsafe { pg_sys::contain_leaked_vars(node) || uses_users_code(node, std::ptr::null_mut()) }
}

/// Whether a call could fail for its collation, whatever it is called on: where collations are in conflict, the parser leaves
/// it to functions to complain when they are called, and some do not work under one that is not deterministic.
///
/// # Safety
/// `node` must be a node of an expression that calls a function.
unsafe fn fails_by_collation(node: *mut pg_sys::Node) -> bool {
    use pg_sys::NodeTag as Tag;
    // SAFETY: by the caller's promise; each tag is the one of its type, and the rest are cached catalog lookups.
    unsafe {
        let arguments = match (*node).type_ {
            Tag::T_OpExpr | Tag::T_DistinctExpr | Tag::T_NullIfExpr => {
                (*node.cast::<pg_sys::OpExpr>()).args
            }
            Tag::T_ScalarArrayOpExpr => (*node.cast::<pg_sys::ScalarArrayOpExpr>()).args,
            Tag::T_FuncExpr => (*node.cast::<pg_sys::FuncExpr>()).args,
            _ => return false,
        };
        let collation = pg_sys::exprInputCollation(node);
        if collation != pg_sys::Oid::INVALID {
            return !pg_sys::get_collation_isdeterministic(collation);
        }
        // By type: two arguments of which each is in conflict have no collation either.
        list::items::<pg_sys::Node>(arguments)
            .into_iter()
            .any(|argument| pg_sys::type_is_collatable(pg_sys::exprType(argument)))
    }
}

unsafe extern "C-unwind" fn may_act(function: pg_sys::Oid, _context: *mut c_void) -> bool {
    // SAFETY: a cached catalog lookup of a function that an expression calls.
    is_users(function) || unsafe { !pg_sys::get_func_leakproof(function) }
}

#[pg_guard]
unsafe extern "C-unwind" fn does_something(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    use pg_sys::NodeTag as Tag;
    // SAFETY: the server calls this with a node of the expression, or NULL.
    unsafe {
        let Some(known) = node.as_ref() else {
            return false;
        };
        match known.type_ {
            Tag::T_List
            | Tag::T_Var
            | Tag::T_Const
            | Tag::T_BoolExpr
            | Tag::T_NullTest
            | Tag::T_BooleanTest
            | Tag::T_RelabelType
            | Tag::T_CollateExpr
            | Tag::T_CaseExpr
            | Tag::T_CaseWhen
            | Tag::T_CaseTestExpr
            | Tag::T_FuncExpr
            | Tag::T_OpExpr
            | Tag::T_DistinctExpr
            | Tag::T_NullIfExpr
            | Tag::T_ScalarArrayOpExpr => {
                pg_sys::check_functions_in_node(node, Some(may_act), context)
                    || fails_by_collation(node)
                    || pg_guard_ffi_boundary(|| {
                        expression_tree_walker(node, does_something, context)
                    })
            }
            // What will be a value, while the plan is made.
            Tag::T_ArrayExpr if !context.is_null() => {
                pg_guard_ffi_boundary(|| expression_tree_walker(node, does_something, context))
            }
            Tag::T_Param if !context.is_null() => {
                (*node.cast::<pg_sys::Param>()).paramkind != pg_sys::ParamKind::PARAM_EXTERN
            }
            // Parameters without a value, subqueries, coercions that may fail, and what is not known here.
            _ => true,
        }
    }
}

/// Whether somebody could find out that an expression is evaluated, or a part of it.
///
/// # Safety
/// `node` must be an expression.
unsafe fn acts(node: *mut pg_sys::Node, parameters: Parameters) -> bool {
    let mut later = ();
    let context = match parameters {
        Parameters::Later => std::ptr::from_mut(&mut later).cast(),
        Parameters::Now(_) => std::ptr::null_mut(),
    };
    // SAFETY: by the caller's promise; it only reads, and of the context only whether there is one.
    unsafe { does_something(node, context) }
}

/// The columns that a condition is about, by number: 0 for the whole row, negative ones for system columns.
pub fn columns(condition: &Condition) -> Vec<i16> {
    // SAFETY: a condition holds a copied expression of the current memory context.
    unsafe { columns_of(condition.node, 1) }
}

/// The same for an expression, or a list of them, over the relation with number `relation` in the range table.
///
/// # Safety
/// `node` must be NULL or such an expression.
pub unsafe fn columns_of(node: *mut pg_sys::Node, relation: u32) -> Vec<i16> {
    let mut set = std::ptr::null_mut();
    let mut columns = Vec::new();
    let mut member = -1;
    // SAFETY: by the caller's promise; the set is built here.
    unsafe {
        pg_sys::pull_varattnos(node, relation, &mut set);
        loop {
            member = pg_sys::bms_next_member(set, member);
            if member < 0 {
                return columns;
            }
            // A number beyond the range is of no column: counted as the whole row.
            let number = member + pg_sys::FirstLowInvalidHeapAttributeNumber;
            columns.push(i16::try_from(number).unwrap_or(0));
        }
    }
}

/// Copies of conditions over the relation with number `from`, over number 1.
///
/// # Safety
/// `conditions` must be NULL or a list of expressions, of a statement with these parameters.
unsafe fn copied(
    conditions: *mut pg_sys::List,
    from: c_int,
    parameters: Parameters,
) -> Vec<Condition> {
    // SAFETY: by the caller's promise; only copies are changed.
    unsafe {
        list::items::<pg_sys::Node>(conditions)
            .into_iter()
            .map(|node| {
                let node =
                    pg_sys::copyObjectImpl(std::ptr::from_ref(node).cast()).cast::<pg_sys::Node>();
                pg_sys::ChangeVarNodes(node, from, 1, 0);
                let node = parameters.put_into(node);
                let leaks = leaks(node);
                Condition {
                    node,
                    leaks,
                    acts: leaks || acts(node, parameters),
                }
            })
            .collect()
    }
}

/// The same for conditions over the columns of an index; `None` when one of these is an expression.
///
/// # Safety
/// `conditions` as above; `columns` the target list that says what the columns of the index are.
unsafe fn copied_from_index(
    conditions: *mut pg_sys::List,
    columns: *mut pg_sys::List,
    parameters: Parameters,
) -> Option<Vec<Condition>> {
    // SAFETY: by the caller's promise; map_variable_attnos() makes a copy.
    unsafe {
        let columns = list::items::<pg_sys::TargetEntry>(columns);
        let map = pg_sys::make_attrmap(c_int::try_from(columns.len()).ok()?);
        for (at, column) in columns.into_iter().enumerate() {
            let variable = column.expr.cast::<pg_sys::Var>();
            if variable.as_ref()?.xpr.type_ != pg_sys::NodeTag::T_Var
                || usize::try_from(column.resno).ok()? != at + 1
            {
                return None;
            }
            *(*map).attnums.add(at) = (*variable).varattno;
        }
        let mut whole_row = false;
        let mapped = pg_sys::map_variable_attnos(
            conditions.cast(),
            pg_sys::INDEX_VAR,
            0,
            map,
            pg_sys::Oid::INVALID,
            &mut whole_row,
        );
        (!whole_row).then(|| copied(mapped.cast(), pg_sys::INDEX_VAR, parameters))
    }
}

/// A search of an index, whose conditions were copied.
///
/// # Safety
/// `index` must be an index that the plan uses, and so is locked.
unsafe fn search(index: pg_sys::Oid, conditions: Vec<Condition>) -> Search {
    // SAFETY: by the caller's promise; the predicate is copied before the index is closed.
    unsafe {
        let open = pg_sys::index_open(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let exact = (*(*open).rd_rel).relam == pg_sys::BTREE_AM_OID;
        let predicate = copied(
            pg_sys::RelationGetIndexPredicate(open),
            1,
            Parameters::Now(std::ptr::null_mut()),
        );
        pg_sys::index_close(open, pg_sys::NoLock as pg_sys::LOCKMODE);
        Search {
            conditions,
            predicate,
            exact,
        }
    }
}

/// A walk over the nodes of a plan.
struct Walk<'a> {
    entries: Vec<&'a pg_sys::RangeTblEntry>,
    parameters: Parameters,
    scans: Vec<Scan>,
}

impl Walk<'_> {
    /// Adds the scans of a node and those below; `None` where a node is not known.
    ///
    /// # Safety
    /// `plan` must be NULL or a node of the plan whose range table this is.
    unsafe fn node(&mut self, plan: *mut pg_sys::Plan) -> Option<()> {
        use pg_sys::NodeTag as Tag;
        let parameters = self.parameters;
        // SAFETY: by the caller's promise; each tag is the one of its type.
        unsafe {
            let Some(node) = plan.as_ref() else {
                return Some(());
            };
            pg_sys::check_stack_depth();
            match node.type_ {
                Tag::T_SeqScan => self.scan(plan, |_| Some((Vec::new(), Vec::new())))?,
                Tag::T_IndexScan => self.scan(plan, |entry| {
                    let scan = &*plan.cast::<pg_sys::IndexScan>();
                    let conditions = copied(scan.indexqualorig, entry, parameters);
                    let searches = vec![search(scan.indexid, conditions.clone())];
                    scan.indexorderby
                        .is_null()
                        .then_some((searches, conditions))
                })?,
                Tag::T_IndexOnlyScan => {
                    let scan = &*plan.cast::<pg_sys::IndexOnlyScan>();
                    let conditions =
                        copied_from_index(scan.recheckqual, scan.indextlist, parameters);
                    let filter = copied_from_index(node.qual, scan.indextlist, parameters);
                    self.scan(plan, |_| {
                        let conditions = conditions?;
                        let searches = vec![search(scan.indexid, conditions.clone())];
                        scan.indexorderby
                            .is_null()
                            .then_some((searches, conditions))
                    })?;
                    self.filter(filter);
                }
                Tag::T_BitmapHeapScan => self.scan(plan, |entry| {
                    let scan = &*plan.cast::<pg_sys::BitmapHeapScan>();
                    let mut searches = Vec::new();
                    bitmap(node.lefttree, entry, parameters, &mut searches)?;
                    Some((searches, copied(scan.bitmapqualorig, entry, parameters)))
                })?,
                Tag::T_SampleScan | Tag::T_TidScan | Tag::T_TidRangeScan => {
                    self.scan(plan, |_| None)?;
                }
                Tag::T_Append => {
                    self.nodes((*plan.cast::<pg_sys::Append>()).appendplans)?;
                }
                Tag::T_MergeAppend => {
                    self.nodes((*plan.cast::<pg_sys::MergeAppend>()).mergeplans)?;
                }
                Tag::T_SubqueryScan => {
                    self.node((*plan.cast::<pg_sys::SubqueryScan>()).subplan)?;
                }
                Tag::T_Result
                | Tag::T_ProjectSet
                | Tag::T_RecursiveUnion
                | Tag::T_FunctionScan
                | Tag::T_ValuesScan
                | Tag::T_TableFuncScan
                | Tag::T_CteScan
                | Tag::T_NamedTuplestoreScan
                | Tag::T_WorkTableScan
                | Tag::T_NestLoop
                | Tag::T_MergeJoin
                | Tag::T_HashJoin
                | Tag::T_Material
                | Tag::T_Memoize
                | Tag::T_Sort
                | Tag::T_IncrementalSort
                | Tag::T_Group
                | Tag::T_Agg
                | Tag::T_WindowAgg
                | Tag::T_Unique
                | Tag::T_Gather
                | Tag::T_GatherMerge
                | Tag::T_Hash
                | Tag::T_SetOp
                | Tag::T_Limit => {
                    self.node(node.lefttree)?;
                    self.node(node.righttree)?;
                }
                // What changes or locks rows, foreign and custom scans, and nodes of later versions.
                _ => return None,
            }
        }
        Some(())
    }

    /// # Safety
    /// As for `node`, of each element.
    unsafe fn nodes(&mut self, plans: *mut pg_sys::List) -> Option<()> {
        // SAFETY: by the caller's promise.
        unsafe {
            for plan in list::items::<pg_sys::Plan>(plans) {
                self.node(std::ptr::from_ref(plan).cast_mut())?;
            }
        }
        Some(())
    }

    /// Adds a scan. `searched` gives the searches and what is true of the rows that these give, or `None` for a way that is
    /// not looked into.
    ///
    /// # Safety
    /// `plan` must be a scan of a relation.
    unsafe fn scan(
        &mut self,
        plan: *mut pg_sys::Plan,
        searched: impl FnOnce(c_int) -> Option<(Vec<Search>, Vec<Condition>)>,
    ) -> Option<()> {
        // SAFETY: by the caller's promise, it begins with a Scan.
        unsafe {
            let entry = (*plan.cast::<pg_sys::Scan>()).scanrelid;
            let number = c_int::try_from(entry).ok()?;
            let relation = self
                .entries
                .get(usize::try_from(entry).ok()?.checked_sub(1)?)?
                .relid;
            let way = match searched(number) {
                Some((searches, searched)) => Way::Conditions {
                    searches,
                    searched,
                    filter: copied((*plan).qual, number, self.parameters),
                },
                None => Way::Other,
            };
            self.scans.push(Scan {
                entry,
                relation,
                way,
                plan,
            });
        }
        Some(())
    }

    /// The filter of the last scan, where it is not over the relation's own columns.
    fn filter(&mut self, conditions: Option<Vec<Condition>>) {
        if let Some(Scan { way, .. }) = self.scans.last_mut() {
            match (way, conditions) {
                (Way::Conditions { filter, .. }, Some(conditions)) => *filter = conditions,
                (way, _) => *way = Way::Other,
            }
        }
    }
}

/// Adds the searches of a bitmap.
///
/// # Safety
/// `plan` must be a node below a bitmap scan.
unsafe fn bitmap(
    plan: *mut pg_sys::Plan,
    entry: c_int,
    parameters: Parameters,
    searches: &mut Vec<Search>,
) -> Option<()> {
    use pg_sys::NodeTag as Tag;
    // SAFETY: by the caller's promise; each tag is the one of its type.
    unsafe {
        let plans = match plan.as_ref()?.type_ {
            Tag::T_BitmapIndexScan => {
                let scan = &*plan.cast::<pg_sys::BitmapIndexScan>();
                searches.push(search(
                    scan.indexid,
                    copied(scan.indexqualorig, entry, parameters),
                ));
                return Some(());
            }
            Tag::T_BitmapAnd => (*plan.cast::<pg_sys::BitmapAnd>()).bitmapplans,
            Tag::T_BitmapOr => (*plan.cast::<pg_sys::BitmapOr>()).bitmapplans,
            _ => return None,
        };
        for plan in list::items::<pg_sys::Plan>(plans) {
            bitmap(
                std::ptr::from_ref(plan).cast_mut(),
                entry,
                parameters,
                searches,
            )?;
        }
    }
    Some(())
}

/// All scans of relations in a plan, its subqueries included; `None` when it does more than read, or something that is
/// not known here.
///
/// # Safety
/// `planned` must be NULL or a plan of the server's planner, and the parameters those of its statement.
pub unsafe fn scans(
    planned: *mut pg_sys::PlannedStmt,
    parameters: Parameters,
) -> Option<Vec<Scan>> {
    // SAFETY: by the caller's promise.
    unsafe {
        let planned = planned.as_ref()?;
        if planned.commandType != pg_sys::CmdType::CMD_SELECT
            || planned.hasModifyingCTE
            || !planned.rowMarks.is_null()
        {
            return None;
        }
        let mut walk = Walk {
            entries: list::items(planned.rtable),
            parameters,
            scans: Vec::new(),
        };
        walk.node(planned.planTree)?;
        walk.nodes(planned.subplans)?;
        Some(walk.scans)
    }
}

/// An entry of the range table and those of its partitions or children that the plan has instead.
///
/// # Safety
/// As for `planned` of [`scans`].
pub unsafe fn family(planned: *mut pg_sys::PlannedStmt, entry: u32) -> Vec<u32> {
    let mut family = vec![entry];
    // SAFETY: by the caller's promise.
    unsafe {
        let Some(planned) = planned.as_ref() else {
            return family;
        };
        let below = list::items::<pg_sys::AppendRelInfo>(planned.appendRelations);
        let mut next = 0;
        while let Some(parent) = family.get(next).copied() {
            for info in &below {
                if info.parent_relid == parent && !family.contains(&info.child_relid) {
                    family.push(info.child_relid);
                }
            }
            next += 1;
        }
    }
    family
}
