//! Where the columns of a query come from: the columns of tables behind each of its output columns, and all that it
//! uses. Follows subqueries, views, joins, WITH, set operations and the arguments of functions, but does not look into
//! functions.

use std::collections::BTreeSet;
use std::ffi::{CStr, c_void};

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::prelude::*;

use crate::pg::list;
use crate::pg::walker::{expression_tree_walker, query_tree_walker};

/// A column of a table or materialized view, by the table's OID; number 0 is all of them.
pub type Source = (u32, i16);

/// Where the columns of a query come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// What each output column is computed from, in order.
    pub outputs: Vec<BTreeSet<Source>>,
    /// All columns that the query uses, also to choose its rows; those of views included.
    pub used: BTreeSet<Source>,
    /// It calls functions that may read more than their arguments: those of users, and volatile ones.
    pub opaque: bool,
}

/// Queries from the outermost in, of which the last is meant.
type Chain = Vec<*mut pg_sys::Query>;

/// A walk in progress.
#[derive(Default)]
struct Walk {
    used: BTreeSet<Source>,
    opaque: bool,
    /// Views whose use was counted.
    views: BTreeSet<u32>,
}

/// What an expression is computed from.
struct Direct {
    chain: Chain,
    found: BTreeSet<Source>,
    /// Outputs of queries that were followed, by the query's place in memory; recursive queries end here.
    followed: BTreeSet<(usize, i16)>,
    /// Outputs of views that were followed.
    views: BTreeSet<Source>,
}

fn kind(relation: pg_sys::Oid) -> u8 {
    // SAFETY: a cached catalog lookup by OID.
    unsafe { pg_sys::get_rel_relkind(relation) as u8 }
}

/// A copy of the query of a view or materialized view.
pub(super) fn query_of_view(view: pg_sys::Oid) -> Option<*mut pg_sys::Query> {
    // SAFETY: the relation is open, with a lock, while its rules are read; a view has one rule for SELECT, with one action.
    // The copy lives in the current memory context.
    unsafe {
        let relation = pg_sys::try_relation_open(view, pg_sys::AccessShareLock as i32);
        let opened = relation.as_ref()?;
        let query = opened.rd_rules.as_ref().and_then(|rules| {
            let count = usize::try_from(rules.numLocks).ok()?;
            let rule = (0..count)
                .filter_map(|at| (*rules.rules.add(at)).as_ref())
                .find(|rule| rule.event == pg_sys::CmdType::CMD_SELECT)?;
            let action = list::items::<pg_sys::Query>(rule.actions)
                .into_iter()
                .next()?;
            Some(pg_sys::copyObjectImpl(std::ptr::from_ref(action).cast()).cast())
        });
        pg_sys::relation_close(relation, pg_sys::AccessShareLock as i32);
        query
    }
}

/// Whether an entry of a query's range table is read, and the columns that it is read for, offset as the server does it.
///
/// # Safety
/// Both must be of one analyzed query.
unsafe fn selected(
    query: &pg_sys::Query,
    entry: &pg_sys::RangeTblEntry,
) -> (bool, *mut pg_sys::Bitmapset) {
    #[cfg(feature = "pg15")]
    {
        let _ = query;
        let reads = entry.requiredPerms & pg_sys::ACL_SELECT != 0;
        (reads, entry.selectedCols)
    }
    #[cfg(not(feature = "pg15"))]
    {
        // SAFETY: by the caller's promise.
        unsafe {
            let entry = std::ptr::from_ref(entry).cast_mut();
            if (*entry).perminfoindex == 0 {
                return (false, std::ptr::null_mut());
            }
            let permission = &*pg_sys::getRTEPermissionInfo(query.rteperminfos, entry);
            let reads = permission.requiredPerms as u32 & pg_sys::ACL_SELECT != 0;
            (reads, permission.selectedCols)
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn note_function(function: pg_sys::Oid, context: *mut c_void) -> bool {
    // SAFETY: the context is the walk; a cached catalog lookup by OID.
    unsafe {
        let walk = &mut *context.cast::<Walk>();
        walk.opaque |= function.to_u32() >= pg_sys::FirstNormalObjectId
            || pg_sys::func_volatile(function) as u8 == pg_sys::PROVOLATILE_VOLATILE;
    }
    false
}

/// Counts what subqueries inside expressions use, and looks at functions.
#[pg_guard]
unsafe extern "C-unwind" fn use_in_expression(
    node: *mut pg_sys::Node,
    context: *mut c_void,
) -> bool {
    // SAFETY: NULL or a node of the analyzed query; the context is the walk, of which no reference is kept over a call.
    unsafe {
        if node.is_null() {
            return false;
        }
        if (*node).type_ == pg_sys::NodeTag::T_Query {
            (*context.cast::<Walk>()).query(node.cast());
            return false;
        }
        pg_sys::check_functions_in_node(node, Some(note_function), context);
        pg_guard_ffi_boundary(|| expression_tree_walker(node, use_in_expression, context))
    }
}

impl Walk {
    /// Counts what a query uses.
    fn query(&mut self, query: *mut pg_sys::Query) {
        // SAFETY: an analyzed query, whose lists and entries live as long as it.
        unsafe {
            pg_sys::check_stack_depth();
            let Some(read) = query.as_ref() else { return };
            for entry in list::items::<pg_sys::RangeTblEntry>(read.rtable) {
                match entry.rtekind {
                    pg_sys::RTEKind::RTE_RELATION => self.relation(read, entry),
                    pg_sys::RTEKind::RTE_SUBQUERY => self.query(entry.subquery),
                    // Rows of a table on their way through a trigger.
                    pg_sys::RTEKind::RTE_NAMEDTUPLESTORE if entry.relid != pg_sys::Oid::INVALID => {
                        self.used.insert((entry.relid.to_u32(), 0));
                    }
                    _ => {}
                }
            }
            for with in list::items::<pg_sys::CommonTableExpr>(read.cteList) {
                self.query(with.ctequery.cast());
            }
            let context = std::ptr::from_mut(self).cast();
            let flags = (pg_sys::QTW_IGNORE_RC_SUBQUERIES | pg_sys::QTW_IGNORE_JOINALIASES) as i32;
            pg_guard_ffi_boundary(|| query_tree_walker(query, use_in_expression, context, flags));
        }
    }

    /// # Safety
    /// The entry must be one of the query's.
    unsafe fn relation(&mut self, query: &pg_sys::Query, entry: &pg_sys::RangeTblEntry) {
        if kind(entry.relid) == pg_sys::RELKIND_VIEW {
            // A view counts with all columns that it uses.
            if self.views.insert(entry.relid.to_u32())
                && let Some(below) = query_of_view(entry.relid)
            {
                self.query(below);
            }
            return;
        }
        // SAFETY: by the caller's promise; a valid set or NULL.
        unsafe {
            let (reads, columns) = selected(query, entry);
            if !reads {
                return;
            }
            // Where no column is read, the number of rows counts.
            if columns.is_null() {
                self.used.insert((entry.relid.to_u32(), 0));
            }
            let mut member = -1;
            loop {
                member = pg_sys::bms_next_member(columns, member);
                if member < 0 {
                    break;
                }
                let attnum = member + pg_sys::FirstLowInvalidHeapAttributeNumber;
                if attnum >= 0
                    && let Ok(attnum) = i16::try_from(attnum)
                {
                    self.used.insert((entry.relid.to_u32(), attnum));
                }
            }
        }
    }
}

/// Follows the variables of an expression.
#[pg_guard]
unsafe extern "C-unwind" fn follow(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: NULL or a node of the analyzed query, of the type that its tag says; the context is the walk, of which no
    // reference is kept over a call.
    unsafe {
        if node.is_null() {
            return false;
        }
        let walk = &mut *context.cast::<Direct>();
        match (*node).type_ {
            pg_sys::NodeTag::T_Var => {
                let var = &*node.cast::<pg_sys::Var>();
                walk.variable(var.varno as usize, var.varattno, var.varlevelsup as usize);
                false
            }
            pg_sys::NodeTag::T_Query => {
                // Of a subquery in an expression, what it gives counts.
                walk.all_outputs(node.cast());
                false
            }
            _ => pg_guard_ffi_boundary(|| expression_tree_walker(node, follow, context)),
        }
    }
}

impl Direct {
    fn expression(&mut self, node: *mut pg_sys::Node) {
        // SAFETY: NULL or a node of the query that is last in the chain.
        unsafe {
            pg_sys::check_stack_depth();
            follow(node, std::ptr::from_mut(self).cast());
        }
    }

    /// Runs with another query last in the chain, which goes inside the first `keep` ones.
    fn inside(
        &mut self,
        keep: usize,
        query: Option<*mut pg_sys::Query>,
        walk: impl FnOnce(&mut Self),
    ) {
        let mut chain = self.chain[..keep.min(self.chain.len())].to_vec();
        chain.extend(query);
        let before = std::mem::replace(&mut self.chain, chain);
        walk(self);
        self.chain = before;
    }

    /// Follows an output column of a query inside the first `keep` of the chain; number 0 is all of them.
    fn output(&mut self, keep: usize, query: *mut pg_sys::Query, number: i16) {
        if !self.followed.insert((query as usize, number)) {
            return;
        }
        self.inside(keep, Some(query), |walk| walk.last_output(query, number));
    }

    fn last_output(&mut self, query: *mut pg_sys::Query, number: i16) {
        // SAFETY: an analyzed query, whose lists live as long as it.
        unsafe {
            let Some(read) = query.as_ref() else { return };
            if !read.setOperations.is_null() {
                // Each branch is a subquery of its own in the range table.
                let here = self.chain.len();
                for entry in list::items::<pg_sys::RangeTblEntry>(read.rtable) {
                    if entry.rtekind == pg_sys::RTEKind::RTE_SUBQUERY {
                        self.output(here, entry.subquery, number);
                    }
                }
                return;
            }
            for target in outputs(read) {
                if number == 0 || target.resno == number {
                    self.expression(target.expr.cast());
                }
            }
        }
    }

    fn all_outputs(&mut self, query: *mut pg_sys::Query) {
        let here = self.chain.len();
        self.output(here, query, 0);
    }

    fn column(&mut self, relation: pg_sys::Oid, number: i16) {
        if kind(relation) != pg_sys::RELKIND_VIEW {
            if number >= 0 {
                self.found.insert((relation.to_u32(), number));
            }
            return;
        }
        if self.views.insert((relation.to_u32(), number))
            && let Some(query) = query_of_view(relation)
        {
            self.output(0, query, number);
        }
    }

    fn variable(&mut self, entry: usize, number: i16, levels_up: usize) {
        let Some(level) = self.chain.len().checked_sub(levels_up + 1) else {
            return;
        };
        // SAFETY: the queries of the chain live during the walk; an entry is of the kind that it says.
        unsafe {
            let entries = list::items::<pg_sys::RangeTblEntry>((*self.chain[level]).rtable);
            let Some(entry) = entry.checked_sub(1).and_then(|at| entries.get(at)) else {
                return;
            };
            let nth = |list: *mut pg_sys::List| nth(list, number);
            match entry.rtekind {
                pg_sys::RTEKind::RTE_RELATION => self.column(entry.relid, number),
                pg_sys::RTEKind::RTE_NAMEDTUPLESTORE => self.column(entry.relid, number),
                pg_sys::RTEKind::RTE_SUBQUERY => {
                    self.output(level + 1, entry.subquery, number);
                }
                pg_sys::RTEKind::RTE_JOIN => {
                    let aliased = nth(entry.joinaliasvars);
                    self.expressions(level + 1, aliased);
                }
                pg_sys::RTEKind::RTE_VALUES => {
                    for row in list::items::<pg_sys::List>(entry.values_lists) {
                        let values = nth(std::ptr::from_ref(row).cast_mut());
                        self.expressions(level + 1, values);
                    }
                }
                pg_sys::RTEKind::RTE_FUNCTION => {
                    let functions = list::items::<pg_sys::Node>(entry.functions);
                    let functions = functions.into_iter();
                    let functions = functions.map(|node| std::ptr::from_ref(node).cast_mut());
                    self.expressions(level + 1, functions.collect());
                }
                pg_sys::RTEKind::RTE_TABLEFUNC => {
                    self.expressions(level + 1, vec![entry.tablefunc.cast()]);
                }
                pg_sys::RTEKind::RTE_CTE => {
                    let Some(level) = level.checked_sub(entry.ctelevelsup as usize) else {
                        return;
                    };
                    let with = list::items::<pg_sys::CommonTableExpr>((*self.chain[level]).cteList);
                    if let Some(with) = with
                        .into_iter()
                        .find(|with| CStr::from_ptr(with.ctename) == CStr::from_ptr(entry.ctename))
                    {
                        self.output(level + 1, with.ctequery.cast(), number);
                    }
                }
                #[cfg(feature = "pg18")]
                pg_sys::RTEKind::RTE_GROUP => {
                    let grouped = nth(entry.groupexprs);
                    self.expressions(level + 1, grouped);
                }
                _ => {}
            }
        }
    }

    /// Follows expressions of the query at the end of the first `keep` of the chain.
    fn expressions(&mut self, keep: usize, nodes: Vec<*mut pg_sys::Node>) {
        self.inside(keep, None, |walk| {
            for node in nodes {
                walk.expression(node);
            }
        });
    }
}

/// The expression at a place of a list, counted from 1; at 0 all of them. Columns that were dropped have none.
///
/// # Safety
/// `list` must be NULL or a list of nodes.
unsafe fn nth(list: *mut pg_sys::List, number: i16) -> Vec<*mut pg_sys::Node> {
    // SAFETY: by the caller's promise; a list has as many elements as its length says.
    unsafe {
        let Some(list) = list.as_ref() else {
            return Vec::new();
        };
        let length = usize::try_from(list.length).unwrap_or(0);
        let place = usize::try_from(number).unwrap_or(0);
        (0..length)
            .filter(|at| place == 0 || at + 1 == place)
            .map(|at| (*list.elements.add(at)).ptr_value.cast::<pg_sys::Node>())
            .filter(|node| !node.is_null())
            .collect()
    }
}

/// The output columns of a query: of one that changes rows, those it returns.
///
/// # Safety
/// An analyzed query, which outlives `'a`.
unsafe fn outputs<'a>(query: &pg_sys::Query) -> Vec<&'a pg_sys::TargetEntry> {
    let targets = if query.commandType == pg_sys::CmdType::CMD_SELECT {
        query.targetList
    } else {
        query.returningList
    };
    // SAFETY: by the caller's promise.
    unsafe { list::items::<pg_sys::TargetEntry>(targets) }
        .into_iter()
        .filter(|target| !target.resjunk)
        .collect()
}

/// Where the output columns of an analyzed query come from, and what it uses.
pub fn of(query: &pg_sys::Query) -> Provenance {
    let query = std::ptr::from_ref(query).cast_mut();
    let mut walk = Walk::default();
    walk.query(query);
    // SAFETY: made of a reference above.
    let numbers: Vec<i16> = unsafe { outputs(&*query) }
        .into_iter()
        .map(|target| target.resno)
        .collect();
    let outputs = numbers
        .into_iter()
        .map(|number| {
            let mut direct = direct();
            direct.output(0, query, number);
            direct.found
        })
        .collect();
    Provenance {
        outputs,
        used: walk.used,
        opaque: walk.opaque,
    }
}

fn direct() -> Direct {
    Direct {
        chain: Vec::new(),
        found: BTreeSet::new(),
        followed: BTreeSet::new(),
        views: BTreeSet::new(),
    }
}

/// Columns that an INSERT fills, each with what its value is computed from.
pub fn of_insert(query: &pg_sys::Query) -> Vec<(i16, BTreeSet<Source>)> {
    // SAFETY: an analyzed query has a list of TargetEntry nodes there.
    let targets = unsafe { list::items::<pg_sys::TargetEntry>(query.targetList) };
    let query = std::ptr::from_ref(query).cast_mut();
    targets
        .into_iter()
        .filter(|target| !target.resjunk)
        .map(|target| {
            let mut direct = direct();
            direct.inside(0, Some(query), |walk| walk.expression(target.expr.cast()));
            (target.resno, direct.found)
        })
        .filter(|(_, sources)| !sources.is_empty())
        .collect()
}
