//! Access gate, continued: rows that a session from outside may read because of their own residency.
//!
//! Where a table says in a column of its rows where each may be (`residency_column`), that counts in place of what
//! its columns' tags say. A query passes when each of its scans of the table lets through only rows whose
//! residency the session's region is, or lies in: the planner's prover must find that out from the conditions that the
//! scan evaluates, with the values that parameters have in this execution. What is evaluated before these sees other rows, so nothing there may be able to tell what it sees: neither
//! by a function, nor by an error, nor by the server's counts of what an index gave. What is not understood is refused.

use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::pg_sys;

use crate::error::Result;
use crate::guard::access;
use crate::guard::active;
use crate::guard::exposure::{Column, Exposure};
use crate::guard::rules::Rules;
use crate::guard::session::{self, Session};
use crate::guard::verdict::Judgement;
use crate::guc::{self, Enforce, Gate};
use crate::pg::executor::Starting;
use crate::pg::plan::{self, Condition, Scan, Search, Way};
use crate::pg::prove::{self, Wanted};
use crate::pg::utility::Utility;
use crate::pg::{invalidation, relation, sandbox};

/// Why rows do not pass by their own residency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproved {
    /// Nothing implies that only rows come that may.
    NoCondition,
    /// Something is evaluated before the condition that could tell values of other rows.
    Before,
    /// An index is searched by columns that may not be read of every row.
    Index,
    /// The table is read in a way that is not looked into.
    Way,
    /// The statement does more than read, or shows how it is executed.
    Statement,
}

impl Unproved {
    /// A sentence.
    pub const fn reason(self) -> &'static str {
        match self {
            Unproved::NoCondition => {
                "The query's conditions do not imply, in constants or parameters, that it reads only rows that may be there."
            }
            Unproved::Before => {
                "Before it is known where a row may be, the query evaluates something on it that could tell its values."
            }
            Unproved::Index => {
                "The query searches an index by columns that may not be read of every row."
            }
            Unproved::Way => {
                "The query reads the table by a sample, by row identifiers or by distance, which passes for no row."
            }
            Unproved::Statement => {
                "EXPLAIN, also by auto_explain.log_analyze, row locks, statements that write, and foreign and custom scans pass for no row."
            }
        }
    }

    /// What would make the query lawful, given the condition on the rows.
    pub fn hint(self, condition: &str) -> String {
        match self {
            Unproved::NoCondition => format!(
                "Add to each use of the table the condition {condition}, in constants or parameters of the column's type."
            ),
            Unproved::Before | Unproved::Index => format!(
                "Read the table in a subquery that has only the condition {condition} and OFFSET 0, and put all other conditions around it."
            ),
            Unproved::Way | Unproved::Statement => {
                format!("Use a plain SELECT with the condition {condition}.")
            }
        }
    }
}

/// The regions that rows may name for a peer in `region` to have them: that one, and those that it lies in. Pure.
pub fn lawful(rules: &Rules, judgement: &Judgement) -> Vec<String> {
    match &judgement.region {
        Some(region) if judgement.ours => rules.around(region),
        _ => Vec::new(),
    }
}

/// Looks for a beginning of a filter that, with what is true of each row that comes to it, implies the condition. `tells` says of
/// each part of the filter whether it could tell values, `implies` whether so many parts suffice: with more parts they do so
/// all the more, so the longest that tells nothing is asked about, and no other. Pure.
fn proved_within(
    tells: &[bool],
    implies: impl Fn(usize) -> bool,
) -> std::result::Result<(), Unproved> {
    let safe = tells.iter().take_while(|tells| !**tells).count();
    if implies(safe) {
        Ok(())
    } else if safe < tells.len() && implies(tells.len()) {
        Err(Unproved::Before)
    } else {
        Err(Unproved::NoCondition)
    }
}

/// Whether each row that comes out of a scan, and nothing of others, is one that satisfies `wanted`.
fn proved(scan: &Scan, wanted: Wanted, hidden: &[i16]) -> std::result::Result<(), Unproved> {
    let Way::Conditions {
        searches,
        searched,
        filter,
    } = &scan.way
    else {
        return Err(Unproved::Way);
    };
    // What a user's code is in has another meaning than its form says: the prover is not asked about it.
    let sound = |conditions: &[Condition]| -> Vec<Condition> {
        conditions
            .iter()
            .filter(|condition| !condition.leaks)
            .copied()
            .collect()
    };
    let is_open = |condition: &Condition| {
        plan::columns(condition)
            .iter()
            .all(|column| *column < 0 || (*column != 0 && !hidden.contains(column)))
    };
    let mut given = sound(searched);
    for Search { predicate, .. } in searches.iter().filter(|_| searches.len() == 1) {
        given.extend(sound(predicate));
    }
    let implies = |parts: usize| {
        let mut given = given.clone();
        given.extend(sound(&filter[..parts]));
        wanted.follows(&given)
    };
    // Parts of one condition are evaluated by what the others say, so there what is called on constants tells, too.
    let tells: Vec<bool> = filter.iter().map(|condition| condition.acts).collect();
    proved_within(&tells, implies)?;
    // Of columns that may be read of every row, an operator may tell what it likes.
    let tells = |condition: &Condition| condition.leaks && !is_open(condition);
    if searched.iter().any(tells) {
        return Err(Unproved::Before);
    }
    for search in searches {
        if search.conditions.iter().any(tells) {
            return Err(Unproved::Before);
        }
        let mut of_index = sound(&search.conditions);
        of_index.extend(sound(&search.predicate));
        // How many entries an index holds tells of its predicate, as what is found tells of the conditions.
        let mut all = search.conditions.iter().chain(&search.predicate);
        let lawful = all.all(is_open) || (search.exact && wanted.follows(&of_index));
        if !lawful {
            return Err(Unproved::Index);
        }
    }
    Ok(())
}

/// The condition that a row of a table must satisfy, as SQL, to be where the session is; `None` when no condition can
/// say so.
pub fn condition(table: pg_sys::Oid, session: &Session) -> Result<Option<String>> {
    let columns = access::columns(table);
    let Some(by_row) = columns
        .by_row
        .as_ref()
        .filter(|by_row| by_row.attnum.is_some())
    else {
        return Ok(None);
    };
    let regions = match &session.active.rules {
        Some(rules) => lawful(rules, &session.judgement),
        None => Vec::new(),
    };
    if regions.is_empty() {
        return Ok(None);
    }
    let regions = regions
        .iter()
        .map(|region| prove::literal(region))
        .collect::<Result<Vec<_>>>()?;
    Ok(Some(format!(
        "{} IN ({})",
        relation::quote_identifier(&by_row.name)?,
        regions.join(", ")
    )))
}

/// Whether the rows' own residency can let this column through: nobody has reviewed others, and those whose tags were
/// derived from other tables are not about this row.
pub fn concerns(column: &Column) -> bool {
    matches!(&column.exposure, Exposure::Tagged { cells, .. } if !cells.is_empty())
}

/// Whether all that a statement reads of `table`, which is entry `entry` of its range table, are rows that may be
/// where the session is.
pub fn passes(
    table: pg_sys::Oid,
    entry: u32,
    starting: Option<Starting<'_>>,
    session: &Session,
) -> Result<std::result::Result<(), Unproved>> {
    // What reads a table without a plan, as COPY does, reads all of it.
    let Some(starting) = starting else {
        return Ok(Err(Unproved::NoCondition));
    };
    if starting.is_explained() {
        return Ok(Err(Unproved::Statement));
    }
    let name = access::columns(table)
        .by_row
        .as_ref()
        .map(|by_row| by_row.name.clone());
    let Some(scans) = starting.scans() else {
        return Ok(Err(Unproved::Statement));
    };
    let family = starting.family(entry);
    for scan in scans.iter().filter(|scan| family.contains(&scan.entry)) {
        pgrx::check_for_interrupts!();
        let own = access::columns(scan.relation);
        let same = own.by_row.as_ref().map(|by_row| &by_row.name) == name.as_ref();
        let Some(condition) = condition(scan.relation, session)?.filter(|_| same) else {
            return Ok(Err(Unproved::NoCondition));
        };
        let wanted = Wanted::new(scan.relation, &condition)?;
        // In warn the planner has indexes that in on it has not.
        let only_warned = guc::enforce(Gate::Access) == Enforce::Warn;
        if let Err(reason) = proved(scan, wanted, &access::hidden(session, scan.relation))
            && !(only_warned && reason == Unproved::Index)
        {
            return Ok(Err(reason));
        }
    }
    Ok(Ok(()))
}

/// The session, if its reads are refused of rows or columns that may not be where it is, or of which the standby it is on
/// may not hold.
fn outside() -> Option<std::rc::Rc<Session>> {
    if guc::enforce(Gate::Access) == Enforce::Off || sandbox::is_extension_owner() {
        return None;
    }
    let session = session::current();
    (!access::passes_encrypted(&session)).then_some(session)
}

/// For the planner: the column with the residency of each row, if the session is from outside.
pub fn column(table: pg_sys::Oid) -> Option<i16> {
    if table.to_u32() < pg_sys::FirstNormalObjectId {
        return None;
    }
    outside()?;
    access::columns(table).by_row.as_ref()?.attnum
}

/// For the planner: the columns that the session may not read of every row of a table.
pub fn hidden(table: pg_sys::Oid) -> Vec<i16> {
    // In warn nothing becomes slower.
    if table.to_u32() < pg_sys::FirstNormalObjectId || guc::enforce(Gate::Access) != Enforce::On {
        return Vec::new();
    }
    outside().map_or_else(Vec::new, |session| access::hidden(&session, table))
}

/// The generation of the rules, and the mode of the gate, under which this session's plans were made ([`circumstances`]);
/// 0 before the first. Unlike a variable of the thread, this costs a statement no call.
static PLANNED: AtomicU64 = AtomicU64::new(0);

/// Both as one number.
#[inline]
fn circumstances(generation: u64, mode: Enforce) -> u64 {
    generation << 2 | (mode as u64 + 1)
}

/// For sessions not known to be inside, before a statement is looked at: plans that are kept were perhaps made under
/// other rules or in another mode, with indexes and an order of conditions that do not pass now. They are made anew from
/// the next execution on.
pub fn notice_circumstances() {
    let now = circumstances(active::generation(), guc::enforce(Gate::Access));
    if PLANNED.swap(now, Ordering::Relaxed) != now {
        invalidation::of_kept_plans();
    }
}

/// Whether this session's plans were last seen to be of these rules and this mode.
#[inline]
pub fn are_plans_of(generation: u64, mode: Enforce) -> bool {
    PLANNED.load(Ordering::Relaxed) == circumstances(generation, mode)
}

/// Before EXECUTE takes a plan that was kept.
pub fn before(utility: &Utility) {
    if utility.node.type_ == pg_sys::NodeTag::T_ExecuteStmt
        && guc::preloaded()
        && !session::is_known_in_region()
    {
        notice_circumstances();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::guard::rules::parse;
    use crate::guard::verdict::Verdict;

    fn at(region: Option<&str>, ours: bool) -> Vec<String> {
        let rules = parse("region eu\nregion de in eu\nregion cn\nregion be in de")
            .rules()
            .unwrap();
        let judgement = Judgement {
            verdict: Verdict::Outside,
            region: region.map(str::to_owned),
            ours,
            ..Judgement::no_rules()
        };
        lawful(&rules, &judgement)
    }

    #[test]
    fn rows_may_name_the_region_of_the_peer_and_those_around_it() {
        assert_eq!(at(Some("de"), true), ["de", "eu"]);
        assert_eq!(at(Some("be"), true), ["be", "de", "eu"]);
        assert_eq!(at(Some("eu"), true), ["eu"]);
        // Somebody else's, or somewhere unknown: no row may go there.
        assert!(at(Some("de"), false).is_empty());
        assert!(at(None, true).is_empty());
    }

    #[test]
    fn however_long_a_filter_is_the_prover_is_asked_at_most_twice() {
        let asked = Cell::new(0);
        let never = |_| {
            asked.set(asked.get() + 1);
            false
        };
        let mut tells = vec![false; 10_000];
        assert_eq!(proved_within(&tells, never), Err(Unproved::NoCondition));
        assert_eq!(asked.replace(0), 1);
        tells[9_000] = true;
        assert_eq!(proved_within(&tells, never), Err(Unproved::NoCondition));
        assert_eq!(asked.get(), 2);
    }

    #[test]
    fn a_proof_uses_nothing_that_comes_after_what_could_tell_values() {
        // The condition is part number 1, counted from 0.
        let with = |tells: &[bool]| proved_within(tells, |parts| parts > 1);
        assert_eq!(with(&[false, false]), Ok(()));
        assert_eq!(with(&[false, false, true]), Ok(()));
        assert_eq!(with(&[true, false]), Err(Unproved::Before));
        // The condition could tell values itself.
        assert_eq!(with(&[false, true]), Err(Unproved::Before));
        assert_eq!(with(&[false]), Err(Unproved::NoCondition));
        assert_eq!(with(&[]), Err(Unproved::NoCondition));
        // What an index gave says it already.
        assert_eq!(proved_within(&[true], |_| true), Ok(()));
    }
}
