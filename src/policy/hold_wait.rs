//! On whom a hold waits: said while it waits, and when it gave up; and which partitions are half detached where it lies.

use std::time::Duration;

use pgrx::PgLogLevel;
use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::guard::row::sync;
use crate::pg::{inherit, relation, report, spi, subxact, timeout};
use crate::policy::hold::{roots_of, trees};

/// How long a hold waits before it says for whom.
const SILENCE: Duration = Duration::from_secs(1);

/// Does what takes the locks of a hold on these tables. When that takes longer than a second it says, by a
/// NOTICE, that `what` is pending and on whom it waits, and goes on waiting as long as the session's
/// `lock_timeout` allows.
///
/// Errors: 55P03 with those it waited for. Nothing has changed then.
pub fn patiently<T>(what: &str, roots: &[pg_sys::Oid], work: impl Fn() -> Result<T>) -> Result<T> {
    let limit = timeout::lock_timeout();
    if limit.is_none_or(|limit| limit > SILENCE) {
        let quickly = subxact::unless_lock_timeout(|| timeout::with_lock_timeout(SILENCE, &work))?;
        if let Some(done) = quickly {
            return Ok(done);
        }
        pending(what, &waited_for(roots)?);
    }
    match subxact::unless_lock_timeout(&work)? {
        Some(done) => Ok(done),
        None => Err(waited(&waited_for(roots)?)),
    }
}

/// Tells of the partitions of these tables that the server has begun to detach concurrently: the hold keeps them from leaving.
pub fn tell_of_pending_detachments(roots: &[pg_sys::Oid]) -> Result<()> {
    for relation in trees(roots)? {
        for parent in inherit::parents(relation) {
            if !inherit::is_detach_pending(relation, parent) {
                continue;
            }
            let (name, table) = (relation::describe(relation), relation::describe(parent));
            report::log(
                PgLogLevel::NOTICE,
                Error::new(
                    Kind::NotInPrerequisiteState,
                    format!("partition \"{name}\" is being detached from table \"{table}\" concurrently"),
                )
                .detail("The legal hold lies on it, too. It cannot leave while rows of it are held, and the table does not show them.")
                .hint("Read the partition by its name. Once the hold is released, DETACH PARTITION … FINALIZE comes to the end of it."),
            );
        }
    }
    Ok(())
}

fn pending(what: &str, others: &[String]) {
    if others.is_empty() {
        return;
    }
    report::log(
        PgLogLevel::NOTICE,
        Error::new(
            Kind::LockNotAvailable,
            format!("{what} is pending: transactions that write to its tables have not ended yet"),
        )
        .detail(format!("It waits for {}.", others.join(", ")))
        .hint(
            "It is in force when the call returns. Set lock_timeout to limit how long that takes.",
        ),
    );
}

/// The error that says on whom the call waited.
fn waited(others: &[String]) -> Error {
    let detail = if others.is_empty() {
        "Those it waited for have ended since. Nothing was changed.".to_owned()
    } else {
        format!(
            "It waited for the transactions of {}. Nothing was changed.",
            others.join(", ")
        )
    };
    Error::new(
        Kind::LockNotAvailable,
        "other transactions that write to the tables of the legal hold did not end within lock_timeout",
    )
    .detail(detail)
    .hint("Try again, with a longer lock_timeout, or end those transactions with pg_terminate_backend() or ROLLBACK PREPARED.")
}

const MODES_BEFORE_TRIGGER: [&str; 6] = [
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
];

/// Those who hold locks with which a hold on these tables conflicts: `process 123`, or
/// `prepared transaction "name"`, which has none.
fn waited_for(roots: &[pg_sys::Oid]) -> Result<Vec<String>> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for root in roots {
        for relation in sync::surroundings(*root)? {
            let relation = pg_sys::Oid::from(relation);
            if sync::is_guarded(relation)? {
                with.push(relation);
            } else {
                without.push(relation);
            }
        }
    }
    with.extend(relation::own_relation(c"hold"));
    let class = relation::own_relation(c"epoch").unwrap_or(pg_sys::Oid::INVALID);
    let modes = |from: usize| -> Vec<String> {
        MODES_BEFORE_TRIGGER
            .iter()
            .skip(from)
            .map(|mode| (*mode).to_owned())
            .collect()
    };
    // A prepared transaction has no process; the lock on its own number tells which it is.
    spi::select(
        "SELECT DISTINCT coalesce('process ' || l.pid, 'prepared transaction \"' || p.gid || '\"') AS who \
         FROM pg_catalog.pg_locks l \
         LEFT JOIN (pg_catalog.pg_locks n JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = n.transactionid) \
         ON l.pid IS NULL AND n.pid IS NULL AND n.virtualtransaction = l.virtualtransaction \
         WHERE l.granted AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() AND l.database = \
         (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) \
         AND ((l.locktype = 'relation' AND l.relation = ANY ($1) AND l.mode = ANY ($2)) \
         OR (l.locktype = 'relation' AND l.relation = ANY ($3) AND l.mode = ANY ($4)) \
         OR (l.locktype = 'object' AND l.classid = $5 AND l.objid = ANY ($6))) \
         AND (l.pid IS NOT NULL OR p.gid IS NOT NULL) ORDER BY who",
        &[
            without.into(),
            modes(0).into(),
            with.into(),
            modes(1).into(),
            class.into(),
            roots_of(&trees(roots)?).into(),
        ],
        |row| row.must::<String>(1),
    )
}
