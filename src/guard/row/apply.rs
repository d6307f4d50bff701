//! Logical replication: a change that would destroy kept rows is refused like any other, and the subscription
//! is disabled. Otherwise it would be tried again for ever, while the publisher keeps the WAL for it.
//!
//! The worker that applies the change is about to fail, and can write nothing. So it starts one that does: it
//! disables the subscription, remembers why for `custodian.check()`, and tells the ledger. Nothing is skipped:
//! once the hold is released and the subscription enabled again, the same change is applied.

use std::cell::RefCell;

use pgrx::pg_sys;
use pgrx::prelude::*;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::evidence::ledger;
use crate::guard::row::verdict::Keeper;
use crate::pg::fresh::{self, Seen};
use crate::pg::{apply, bgworker, relation, report, sandbox, spi, xact};
use crate::policy::hold_read;
use crate::policy::model::{Finding, Severity};

thread_local! {
    /// What the last refusal of this process was about.
    static REFUSED: RefCell<Option<Keeper>> = const { RefCell::new(None) };
}

/// Remembers what keeps the row that is being refused, where a subscription is being applied.
pub fn note(keeper: &Keeper) {
    if apply::subscription().is_some() {
        REFUSED.set(Some(keeper.clone()));
    }
}

/// After the guard of a relation came to an error: where a subscription is being applied, it is disabled.
/// Errors that pass by themselves are left to be tried again.
pub fn stop(relation: pg_sys::Oid, error: &Error) {
    let keeper = REFUSED.take();
    let Some(subscription) = apply::subscription() else {
        return;
    };
    if error.kind == Kind::LockNotAvailable {
        return;
    }
    let order = Order {
        relation,
        keeper: keeper.filter(|_| error.kind == Kind::Kept),
    };
    let started = bgworker::start(&bgworker::Worker {
        name: "pg_custodian apply stop",
        function: c"custodian_stop_apply_main",
        argument: u64::from(subscription.to_u32()) << 32 | u64::from(xact::database().to_u32()),
        extra: &order.bytes(),
        restart: None,
        notify: 0,
    });
    if !started {
        // The server tries the change again in a few seconds, and then this, too.
        report::log(
            PgLogLevel::LOG,
            Error::new(
                Kind::ProgramLimitExceeded,
                "could not start a worker to disable the subscription that is being applied",
            )
            .hint("Raise max_worker_processes."),
        );
    }
}

/// What the worker is told besides the subscription: the table, and what keeps its rows.
struct Order {
    relation: pg_sys::Oid,
    keeper: Option<Keeper>,
}

/// Bytes that a worker can be handed.
const ROOM: usize = 128;

impl Order {
    /// Table, kind (0 none, 1 hold, 2 minimum), then the number of the hold or the name of the minimum.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.relation.to_u32().to_be_bytes().to_vec();
        match &self.keeper {
            None => bytes.push(0),
            Some(Keeper::Hold { id, .. }) => {
                bytes.push(1);
                bytes.extend(id.to_be_bytes());
            }
            Some(Keeper::Minimum { name, .. }) => {
                bytes.push(2);
                bytes.extend(name.bytes().take(ROOM - 6));
            }
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Option<(pg_sys::Oid, Reason)> {
        let (table, rest) = bytes.split_first_chunk::<4>()?;
        let (kind, rest) = rest.split_first()?;
        let reason = match kind {
            1 => Reason::Hold(i64::from_be_bytes(*rest.first_chunk::<8>()?)),
            2 => {
                let end = rest.iter().position(|byte| *byte == 0)?;
                Reason::Minimum(String::from_utf8_lossy(rest.get(..end)?).into_owned())
            }
            _ => Reason::Unknown,
        };
        Some((pg_sys::Oid::from(u32::from_be_bytes(*table)), reason))
    }
}

/// What made the guard refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reason {
    Hold(i64),
    Minimum(String),
    /// It could not tell what keeps the row.
    Unknown,
}

/// The main function of the worker that disables a subscription.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn custodian_stop_apply_main(argument: pg_sys::Datum) {
    let argument = argument.value() as u64;
    let database = pg_sys::Oid::from(argument as u32);
    let subscription = pg_sys::Oid::from((argument >> 32) as u32);
    bgworker::accept_signals();
    let Some((table, reason)) = Order::read(&bgworker::extra()) else {
        return;
    };
    bgworker::connect(Some(database));
    let outcome =
        xact::transaction(|| xact::with_snapshot(|| disable(subscription, table, &reason)));
    let said = match outcome {
        Ok(said) => said,
        Err(caught) => Some(caught.describe("could not disable the subscription")),
    };
    if let Some(said) = said {
        report::log(PgLogLevel::LOG, said);
    }
}

/// Disables the subscription, unless it is already, and remembers why. Returns what the log says about it.
fn disable(
    subscription: pg_sys::Oid,
    table: pg_sys::Oid,
    reason: &Reason,
) -> Result<Option<Error>> {
    let version = relation::extension_version()?;
    if version.as_deref() != Some(env!("CARGO_PKG_VERSION")) {
        return Ok(None);
    }
    let name = fresh::rows(
        "SELECT subname FROM pg_catalog.pg_subscription WHERE oid = $1 AND subenabled",
        &[subscription.into()],
        Seen::Everything,
        1,
    )?;
    let Some(name) = name.first().map(|row| fresh::must(row, 0)).transpose()? else {
        return Ok(None);
    };
    let (matter, hold, minimum) = match reason {
        Reason::Hold(id) => {
            let matter = hold_read::one(*id)?.map(|found| found.matter);
            (matter, Some(*id), None)
        }
        Reason::Minimum(name) => (None, None, Some(name.clone())),
        Reason::Unknown => (None, None, None),
    };
    let table = relation::describe(table);
    apply::disable(subscription);
    sandbox::as_extension_owner(|| {
        spi::execute(
            "INSERT INTO custodian.stopped_subscription (subscription, relation, hold, matter, minimum) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (subscription) DO UPDATE SET stopped_at = pg_catalog.now(), \
             relation = excluded.relation, hold = excluded.hold, matter = excluded.matter, minimum = excluded.minimum",
            &[
                subscription.into(),
                table.clone().into(),
                hold.into(),
                matter.clone().into(),
                minimum.clone().into(),
            ],
        )
    })?;
    let detail = json!({"relation": table, "hold": hold, "matter": matter, "minimum": minimum});
    ledger::append("subscription.disabled", name, detail)?;
    let finding = stopped(name, &table, hold, matter.as_deref(), minimum.as_deref());
    Ok(Some(
        Error::new(Kind::Kept, format!("subscription \"{name}\" was disabled"))
            .detail(finding.problem)
            .hint(finding.remedy),
    ))
}

fn stopped(
    name: &str,
    table: &str,
    hold: Option<i64>,
    matter: Option<&str>,
    minimum: Option<&str>,
) -> Finding {
    let (why, free) = match (hold, matter, minimum) {
        (Some(id), matter, _) => (
            format!(
                "are kept by the legal hold of matter \"{}\"",
                matter.unwrap_or_default()
            ),
            format!("Have the hold released (custodian.release_hold({id}, …))"),
        ),
        (_, _, Some(minimum)) => (
            format!("are kept under the statutory minimum \"{minimum}\""),
            "Wait until the period of the minimum has passed".to_owned(),
        ),
        _ => (
            "may be kept, which could not be told".to_owned(),
            "See what else custodian.check() says about the table, and correct it".to_owned(),
        ),
    };
    Finding {
        severity: Severity::Error,
        code: "subscription-stopped",
        object: name.to_owned(),
        problem: format!(
            "The subscription was disabled: the publisher changed or deleted rows of table \"{table}\" that {why} here. \
             Nothing was skipped, and the publisher keeps its WAL until the subscription goes on."
        ),
        remedy: format!(
            "{free}, then run ALTER SUBSCRIPTION … ENABLE. To leave the rows as they are here, skip the publisher's transaction, \
             whose LSN the server log names, with ALTER SUBSCRIPTION … SKIP first."
        ),
    }
}

/// Subscriptions that the guard disabled and that still are.
pub fn findings() -> Result<Vec<Finding>> {
    let rows = sandbox::as_extension_owner(|| {
        fresh::rows(
            "SELECT s.subname, t.relation, t.hold, t.matter, t.minimum FROM custodian.stopped_subscription t \
             JOIN pg_catalog.pg_subscription s ON s.oid = t.subscription WHERE NOT s.subenabled ORDER BY s.subname",
            &[],
            Seen::Everything,
            0,
        )
    })?;
    rows.iter()
        .map(|row| {
            let hold = match row.get(2) {
                Some(Some(_)) => Some(fresh::number(row, 2)?),
                _ => None,
            };
            let text = |column: usize| row.get(column).and_then(Option::as_deref);
            Ok(stopped(
                fresh::must(row, 0)?,
                fresh::must(row, 1)?,
                hold,
                text(3),
                text(4),
            ))
        })
        .collect()
}

/// Forgets subscriptions that go on, or that are gone.
pub fn forget_resumed() -> Result<()> {
    sandbox::as_extension_owner(|| {
        let stale = spi::select(
            "SELECT t.subscription FROM custodian.stopped_subscription t WHERE NOT EXISTS \
             (SELECT FROM pg_catalog.pg_subscription s WHERE s.oid = t.subscription AND NOT s.subenabled)",
            &[],
            |row| row.must::<pg_sys::Oid>(1),
        )?;
        if !stale.is_empty() {
            spi::execute(
                "DELETE FROM custodian.stopped_subscription WHERE subscription = ANY ($1)",
                &[stale.into()],
            )?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: u32 = 70_000;

    fn handed(keeper: Option<Keeper>) -> Option<(u32, Reason)> {
        let order = Order {
            relation: pg_sys::Oid::from(TABLE),
            keeper,
        };
        let bytes = order.bytes();
        assert!(bytes.len() < ROOM);
        let mut room = [0; ROOM];
        room.iter_mut()
            .zip(&bytes)
            .for_each(|(to, from)| *to = *from);
        Order::read(&room).map(|(table, reason)| (table.to_u32(), reason))
    }

    #[test]
    fn a_worker_reads_the_order_that_it_was_handed() {
        assert_eq!(handed(None), Some((TABLE, Reason::Unknown)));
        let hold = Keeper::Hold {
            id: i64::MAX - 1,
            matter: "M".to_owned(),
        };
        assert_eq!(
            handed(Some(hold)),
            Some((TABLE, Reason::Hold(i64::MAX - 1)))
        );
        for length in [1, 122, 500] {
            let minimum = Keeper::Minimum {
                name: "x".repeat(length),
                citation: String::new(),
                open: false,
                warns: false,
            };
            let read = "x".repeat(length.min(ROOM - 6));
            assert_eq!(handed(Some(minimum)), Some((TABLE, Reason::Minimum(read))));
        }
    }
}
