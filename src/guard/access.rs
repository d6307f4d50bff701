//! Access gate: a session from outside reads only what may be where it is.
//!
//! The executor's permission check sees every read, also of COPY and of views, with the columns it needs. A
//! view counts with all columns of its tables that it uses. Who changes or deletes rows counts as one who reads
//! them as a whole: error messages, row security and triggers of the owner may show the old row; and who inserts, as one
//! who reads the columns of exclusion constraints, whose errors show the row that is in the way. A session that is known
//! to be inside, over a connection that nobody else can read, passes after a comparison of two numbers.

use std::cell::RefCell;

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::guard::active;
use crate::guard::break_glass;
use crate::guard::catalogs;
use crate::guard::columns::{invalidations, listen};
use crate::guard::exposure::{self, Column, Exposure};
use crate::guard::foreign;
use crate::guard::lane::session as lane;
use crate::guard::own_residency;
use crate::guard::refuse::{self, Flow};
use crate::guard::seen::{Passed, Seen, Stamp};
use crate::guard::session::{self, Session};
use crate::guard::tls;
use crate::guard::verdict::Verdict;
use crate::guard::written;
use crate::guc::{self, Enforce, Gate};
use crate::pg::backend_local::backend_local;
use crate::pg::compat::{Access, Asked};
use crate::pg::executor::Starting;
use crate::pg::{relation, report, sandbox, xact};

pub use crate::guard::columns::columns;

/// Columns named in one error.
const MAX_NAMED: usize = 8;
/// What a query does, in messages.
const READING: &str = "reading";
thread_local! {
    static SEEN: RefCell<Seen> = RefCell::new(Seen::default());
}
backend_local!(PASSED: Passed = Passed::new());

/// The attribute numbers that a query reads; `None` when it reads the row as a whole, or asks for the rows
/// without naming a column, whose number alone may tell something.
fn attributes(access: &Access) -> Option<Vec<i16>> {
    let mut attributes = Vec::new();
    for number in access.attributes() {
        match number {
            number if number > 0 => attributes.push(i16::try_from(number).ok()?),
            0 => return None,
            // System columns say which row it is, and nothing of what is in it.
            _ => {}
        }
    }
    (!attributes.is_empty()).then_some(attributes)
}

/// The columns of a relation that this session may not read of every row.
fn offending(
    session: &Session,
    relation: pg_sys::Oid,
    wanted: Option<&[i16]>,
) -> Vec<(pg_sys::Oid, Column)> {
    let columns = columns(relation);
    columns
        .columns
        .iter()
        .filter(|column| wanted.is_none_or(|wanted| wanted.contains(&column.attnum)))
        .filter(|column| match (&column.exposure, &session.active.rules) {
            (Exposure::Cleared, _) => false,
            // Each row says where it may be, in place of the tag.
            (Exposure::Tagged { .. }, _) if columns.by_row.is_some() => true,
            (
                Exposure::Tagged {
                    residency: Some(residency),
                    ..
                },
                Some(rules),
            ) => !session.judgement.may_hold(rules, residency),
            _ => true,
        })
        .filter(|column| {
            !lane::has_lanes()
                || !lane::may_read(session, relation, column.attnum, &column.exposure)
        })
        .map(|column| (relation, column.clone()))
        .collect()
}

/// The numbers of the columns of a relation that this session may not read of every row; all, where it may not read the
/// relation itself.
pub fn hidden(session: &Session, relation: pg_sys::Oid) -> Vec<i16> {
    let columns: Vec<Column> = if catalogs::closed(relation).is_some() {
        columns(relation).columns.clone()
    } else {
        let hidden = if is_at_standby(session) {
            misplaced(session, relation, None)
        } else {
            offending(session, relation, None)
        };
        hidden.into_iter().map(|(_, column)| column).collect()
    };
    columns.iter().map(|column| column.attnum).collect()
}

/// Whether a session from inside is on a standby: it may read what the standby itself may hold.
fn is_at_standby(session: &Session) -> bool {
    session.judgement.verdict == Verdict::Inside && xact::in_recovery()
}

/// The tagged columns of a relation that this node, a standby, may not hold.
fn misplaced(
    session: &Session,
    relation: pg_sys::Oid,
    wanted: Option<&[i16]>,
) -> Vec<(pg_sys::Oid, Column)> {
    let may_hold = |residency: &Option<Vec<String>>| {
        let own = session.active.own().region.as_deref();
        match (&session.active.rules, own, residency) {
            (Some(rules), Some(own), Some(residency)) => rules.within_any(own, residency),
            _ => false,
        }
    };
    columns(relation)
        .columns
        .iter()
        .filter(|column| wanted.is_none_or(|wanted| wanted.contains(&column.attnum)))
        .filter(|column| {
            matches!(&column.exposure, Exposure::Tagged { residency, .. } if !may_hold(residency))
        })
        .map(|column| (relation, column.clone()))
        .collect()
}

/// Refuses a session from inside what the standby that it is on may not hold.
fn examine_at_standby(
    relation: pg_sys::Oid,
    wanted: Option<&[i16]>,
    session: &Session,
) -> Result<Outcome> {
    let misplaced = misplaced(session, relation, wanted);
    if misplaced.is_empty() {
        return Ok(Outcome::Always);
    }
    let name = relation::describe(relation);
    let place = match &session.active.own().region {
        Some(region) => format!("This standby is in region \"{region}\"."),
        None => "The region of this standby is unknown.".to_owned(),
    };
    let error = Error::new(
        Kind::RegionRefused,
        format!("reading \"{name}\" on this standby is not allowed"),
    )
    .detail(format!(
        "Columns that may not be here: {}. {place}",
        exposure::describe(&misplaced, MAX_NAMED)
    ))
    .hint("Connect to a node in a region where the data may be, and have this standby removed or moved.");
    refuse::unless_only_warned(
        Flow {
            region: session.active.own().region.clone(),
            ..Flow::of(session, Gate::Access, name, error)
        },
        |_| {},
    )
    .map(|()| Outcome::Warned)
}

/// Refuses over a connection that is not encrypted what a tag wants encrypted, to sessions from inside as well.
fn examine_plaintext(
    relation: pg_sys::Oid,
    wanted: Option<&[i16]>,
    doing: &str,
    session: &Session,
) -> Result<Outcome> {
    let what = if catalogs::holds_values(relation) {
        if !tls::demanded(Some(xact::database())) {
            return Ok(Outcome::Always);
        }
        "It holds values of other tables' columns.".to_owned()
    } else {
        let demanding: Vec<(pg_sys::Oid, Column)> = columns(relation)
            .columns
            .iter()
            .filter(|column| column.tls)
            .filter(|column| wanted.is_none_or(|wanted| wanted.contains(&column.attnum)))
            .map(|column| (relation, column.clone()))
            .collect();
        if demanding.is_empty() {
            return Ok(Outcome::Always);
        }
        format!(
            "Refused columns: {}.",
            exposure::describe(&demanding, MAX_NAMED)
        )
    };
    let name = relation::describe(relation);
    let error = Error::new(
        Kind::RegionRefused,
        format!(
            "{} \"{name}\" over a connection that is not encrypted is not allowed",
            doing
        ),
    )
    .detail(format!("{what} {}", tls::REASON))
    .hint(tls::REMEDY);
    refuse::unless_only_warned(Flow::of(session, Gate::Access, name, error), |_| {})
        .map(|()| Outcome::Warned)
}

/// Whether a query changes or deletes rows that are there.
fn changes_rows(access: &Access) -> bool {
    access.required & pg_sys::ACL_DELETE != 0
        || (access.required & pg_sys::ACL_UPDATE != 0 && access.updates)
}

/// The columns of a row in the way that an error may show to who inserts; 0 for an expression.
fn shown_to(access: &Access) -> Vec<i16> {
    if access.required & pg_sys::ACL_INSERT == 0 {
        return Vec::new();
    }
    columns(access.relation).shown.clone()
}

/// Whether a session passes all but what wants an encrypted connection.
pub fn passes_encrypted(session: &Session) -> bool {
    session.judgement.verdict == Verdict::Inside && !xact::in_recovery()
}

/// What of a relation is asked for.
#[derive(Clone, Copy)]
struct Request<'a> {
    relation: pg_sys::Oid,
    /// The columns by number; `None` for whole rows.
    wanted: Option<&'a [i16]>,
    /// For messages.
    doing: &'a str,
    /// For a query: the relation's number in the range table, and the statement, if there is a plan.
    query: Option<(u32, Option<Starting<'a>>)>,
}

/// What came of looking at a request that was not refused.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The same holds for all statements.
    Always,
    /// The same in mode `warn`: what `on` would refuse, if anything, is recorded.
    Warned,
    /// It passes by the conditions of this statement.
    ByRows,
}

fn check(access: &Access, starting: Option<Starting<'_>>, session: &Session) -> Result<Outcome> {
    let changes = changes_rows(access);
    if passes_encrypted(session) && !catalogs::holds_values(access.relation) {
        // Sessions inside pay no more than this look into the cache.
        if access.relation.to_u32() < pg_sys::FirstNormalObjectId
            || !columns(access.relation).demands_tls()
        {
            return Ok(Outcome::Always);
        }
    }
    let writes = changes || access.required & pg_sys::ACL_INSERT != 0;
    // Before there are rules everybody is unknown, and who sets the guard up need not be told.
    let judged = session.active.rules.is_some();
    if writes && judged && session.judgement.verdict != Verdict::Inside {
        written::before(access.relation, "writing to", session)?;
    }
    if catalogs::is_catalog(access.relation) {
        return Ok(Outcome::Always);
    }
    let (wanted, doing) = if changes {
        (None, "changing or deleting rows of")
    } else {
        let shown = shown_to(access);
        let reads = access.required & pg_sys::ACL_SELECT != 0;
        if shown.is_empty() && !reads {
            return Ok(Outcome::Always);
        }
        // With RETURNING, ON CONFLICT or MERGE an INSERT reads as well.
        let read = if reads {
            attributes(access)
        } else {
            Some(Vec::new())
        };
        let wanted = read
            .filter(|_| !shown.contains(&0))
            .map(|read| [read, shown.clone()].concat());
        (
            wanted,
            if shown.is_empty() {
                READING
            } else {
                "inserting into"
            },
        )
    };
    let request = Request {
        relation: access.relation,
        wanted: wanted.as_deref(),
        doing,
        query: (doing == READING).then_some((access.entry, starting)),
    };
    if guc::enforce(Gate::Access) != Enforce::Warn {
        return examine(request, session);
    }
    let key = access.relation.to_u32();
    let stamp = Stamp {
        generation: session.active.generation,
        invalidations: invalidations(),
        on: false,
        break_glass: break_glass::until(),
    };
    if SEEN.with_borrow_mut(|seen| seen.knows(stamp, key, &wanted)) {
        return Ok(Outcome::Warned);
    }
    let outcome = examine(request, session)?;
    if outcome != Outcome::ByRows {
        SEEN.with_borrow_mut(|seen| seen.remember(key, wanted));
    }
    Ok(outcome)
}

fn examine(request: Request, session: &Session) -> Result<Outcome> {
    let (relation, wanted, doing) = (request.relation, request.wanted, request.doing);
    let kind = relation::kind(relation);
    // The tables below a view are in the list themselves; a sequence holds a number of its own.
    if matches!(kind, pg_sys::RELKIND_VIEW | pg_sys::RELKIND_SEQUENCE)
        || catalogs::is_open_table(relation)
    {
        return Ok(Outcome::Always);
    }
    let encrypted = if session.plaintext {
        examine_plaintext(relation, wanted, doing, session)?
    } else {
        Outcome::Always
    };
    if passes_encrypted(session) {
        return Ok(encrypted);
    }
    if is_at_standby(session) {
        let placed = examine_at_standby(relation, wanted, session)?;
        return Ok(if encrypted == Outcome::Always {
            placed
        } else {
            encrypted
        });
    }
    let mut hint = None;
    let what = match catalogs::closed(relation) {
        Some(what) => what.to_owned(),
        None => {
            let offending = offending(session, relation, wanted);
            if offending.is_empty() {
                return Ok(encrypted);
            }
            let mut what = format!(
                "Refused columns: {}.",
                exposure::describe(&offending, MAX_NAMED)
            );
            if let Some((entry, starting)) = request.query
                && offending
                    .iter()
                    .all(|(_, column)| own_residency::concerns(column))
                && let Some(condition) = own_residency::condition(relation, session)?
            {
                match own_residency::passes(relation, entry, starting, session)? {
                    Ok(()) => return Ok(Outcome::ByRows),
                    Err(reason) => {
                        what.push(' ');
                        what.push_str(reason.reason());
                        hint = Some(reason.hint(&condition));
                    }
                }
            }
            what
        }
    };
    let name = relation::describe(relation);
    let error = Error::new(
        Kind::RegionRefused,
        format!(
            "{} \"{name}\" from {} is not allowed",
            doing,
            session.peer
        ),
    )
    .detail(format!("{what} {}", session.judgement.reason))
    .hint(if let Some(hint) = hint {
        hint
    } else if session.judgement.verdict == Verdict::Outside {
        "Connect from inside. A column that holds no personal data can be cleared with custodian.clear_column()."
            .to_owned()
    } else {
        session.judgement.remedy.clone()
    });
    refuse::unless_only_warned(Flow::of(session, Gate::Access, name, error), |_| {})
        .map(|()| Outcome::Warned)
}

/// Refuses a session from outside that would have the server compute over whole rows of a relation, which may not be read there.
pub fn whole_row(relation: pg_sys::Oid, session: &Session) -> Result<()> {
    if catalogs::is_catalog(relation) {
        return Ok(());
    }
    let request = Request {
        relation,
        wanted: None,
        doing: "computing over rows of",
        query: None,
    };
    examine(request, session).map(|_| ())
}

/// Under what reads pass now; `None` while nothing is examined, and while the rules file is to be read again.
#[inline]
fn stamp() -> Option<Stamp> {
    let mode = guc::enforce(Gate::Access);
    (mode != Enforce::Off && !active::is_stale()).then(|| Stamp {
        generation: active::generation(),
        invalidations: invalidations(),
        on: mode == Enforce::On,
        break_glass: match mode {
            Enforce::Warn => break_glass::until(),
            _ => 0,
        },
    })
}

/// Remembers a read that passed, if nothing has changed since `before` and nothing but that decides about it.
fn remember(access: &Access, before: Option<Stamp>, outcome: Outcome) {
    let (Some(before), Some(read)) = (before, access.read()) else {
        return;
    };
    let lasts = match outcome {
        Outcome::Always => true,
        Outcome::Warned => !before.on,
        Outcome::ByRows => false,
    };
    // Lanes end by themselves, and of these catalogs the label of the database decides. Foreign tables are judged each time.
    if lasts
        && !lane::has_lanes()
        && !catalogs::holds_values(access.relation)
        && !foreign::may_ship(access)
        // What passes for a script does not pass afterwards.
        && !xact::in_extension_script()
        && stamp() == Some(before)
    {
        PASSED.get().remember(before, read);
    }
}

/// Whether all that a statement asks for passed before, and would again.
#[inline]
pub fn passed(asked: Asked) -> bool {
    let Some(stamp) = stamp() else {
        return false;
    };
    let mode = if stamp.on { Enforce::On } else { Enforce::Warn };
    if !own_residency::are_plans_of(stamp.generation, mode) {
        return false;
    }
    let passed = PASSED.get();
    passed.is_of(stamp)
        && asked.every_access(|access| access.read().is_some_and(|read| passed.has(&read)))
}

/// Refuses what the session may not read, or remembers that it passed.
pub fn gate(asked: Asked) {
    // Taken in any case: it is of this check alone.
    let starting = asked.starting();
    own_residency::notice_circumstances();
    if guc::enforce(Gate::Access) == Enforce::Off || starting.is_some_and(Starting::is_of_leader) {
        return;
    }
    let session = session::current();
    // The extension reads its own tables for callers who may not; nothing of a user runs inside that.
    let passes = passes_encrypted(&session) && !session.plaintext;
    if passes || sandbox::is_extension_owner() {
        return;
    }
    listen();
    let before = stamp().filter(|stamp| stamp.generation == session.active.generation);
    for access in asked.accesses() {
        match check(&access, starting, &session) {
            Ok(outcome) => remember(&access, before, outcome),
            Err(error) => report::raise(error),
        }
    }
}
