//! A sweep worker that is started while its table is still being planned: it connects and reads what it needs meanwhile, and
//! disposes of nothing until the scheduler tells it which run it is for.
//!
//! ```text
//!   offered --> joined by the worker --> told which run --> it is that run's worker
//!      |              |                       not needed --> it ends
//!      +--------------+-- the worker is gone, or another one is offered: a worker is started as for any run
//! ```

use pgrx::prelude::*;

use crate::pg::subxact::Caught;
use crate::pg::{bgworker, latch, report, sandbox, spi, time, xact};
use crate::policy::model::Leaf;
use crate::policy::period::Instant;
use crate::worker::shmem;
use crate::worker::slot::{EARLY, Early, Slot, Told};
use crate::worker::sweep;

/// A table of which nothing is known yet has a worker started early when it has at least this many blocks, 32 MB: to count
/// what is due in a smaller one takes no longer than starting it.
const LARGE: i64 = 4096;

/// How often a worker that is ready looks whether the scheduler is still there.
const LOOK: std::time::Duration = std::time::Duration::from_secs(1);

/// Whether the leaves are large, by what VACUUM or ANALYZE last saw.
pub fn is_large(leaves: &[Leaf]) -> std::result::Result<bool, Caught> {
    Ok(blocks(leaves)? >= LARGE)
}

/// How many blocks the leaves have, by what VACUUM or ANALYZE last saw.
pub fn blocks(leaves: &[Leaf]) -> std::result::Result<i64, Caught> {
    let leaves: Vec<pg_sys::Oid> = leaves.iter().map(|leaf| leaf.id.into()).collect();
    let blocks = xact::transaction(|| {
        xact::with_snapshot(|| {
            sandbox::as_extension_owner(|| {
                spi::kept_one(
                    "SELECT coalesce(sum(relpages), 0)::bigint FROM pg_catalog.pg_class WHERE oid = ANY ($1)",
                    &[leaves.into()],
                    |row| row.must::<i64>(1),
                )
            })
        })
    })?;
    Ok(blocks.unwrap_or(0))
}

/// A worker that gets ready. It is told that nobody needs it when this goes unused.
pub struct Offer {
    database: pg_sys::Oid,
    number: u32,
    given: bool,
}

impl Offer {
    /// Starts a worker for the table, whose run is to have this cutoff; `None` where there is none to be had.
    pub fn make(database: pg_sys::Oid, table: u32, cutoff: Instant) -> Option<Offer> {
        let now = xact::server_now();
        let cutoff = time::raw(cutoff);
        let scheduler = latch::my_pid();
        let number = shmem::with_slot(database, |slot| {
            slot.offer(Early {
                table,
                cutoff,
                scheduler,
                since: now,
                ..Early::NONE
            })
        })
        .flatten()?;
        let offer = Offer {
            database,
            number,
            given: false,
        };
        bgworker::start(&bgworker::Worker {
            name: "pg_custodian sweep",
            function: c"custodian_early_main",
            argument: u64::from(database.to_u32()),
            extra: &number.to_le_bytes(),
            restart: None,
            notify: scheduler,
        })
        .then_some(offer)
    }

    /// Gives the run to the worker; `false` when that is gone.
    pub fn give(mut self, run: i64) -> bool {
        self.given = self.answer(Told::Run(run));
        self.given
    }

    fn answer(&self, told: Told) -> bool {
        let (number, now) = (self.number, xact::server_now());
        let pid = shmem::with_slot(self.database, |slot| slot.answer_early(number, told, now));
        match pid.flatten() {
            None => false,
            Some(0) => true,
            Some(pid) => {
                latch::wake(pid);
                true
            }
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if !self.given {
            self.answer(Told::NotNeeded);
        }
    }
}

/// The main function of a sweep worker that is started early.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn custodian_early_main(arg: pg_sys::Datum) {
    let database = pg_sys::Oid::from(arg.value() as u32);
    let extra = bgworker::extra();
    let number = u32::from_le_bytes([extra[0], extra[1], extra[2], extra[3]]);
    let pid = latch::my_pid();
    let joined = shmem::with_slot(database, |slot| slot.join_early(number, pid)).flatten();
    let Some(early) = joined else {
        return;
    };
    if !sweep::enter(database, early.table, EARLY) {
        shmem::with_slot(database, |slot| slot.leave_early(pid));
        return;
    }
    shmem::with_slot(database, Slot::seat_early);
    let cutoff = time::instant_from_raw(early.cutoff);
    bgworker::report_activity("pg_custodian: getting ready");
    let is_wanted = || shmem::slot(database).is_some_and(|slot| slot.wants_early(number));
    let ready = sweep::ready(early.table, cutoff, is_wanted).unwrap_or_else(|caught| {
        // The run, if there is one, comes to the same error, or to none.
        report::log(
            PgLogLevel::DEBUG1,
            caught.describe("a pg_custodian sweep could not get ready early"),
        );
        None
    });
    bgworker::report_idle();
    loop {
        match shmem::with_slot(database, |slot| slot.told_early(number, pid)) {
            Some(Told::NotYet) => {
                latch::wait(LOOK);
            }
            Some(Told::Run(run)) => {
                // Like one that is started now: it may have waited for long.
                bgworker::reload_settings();
                sweep::execute(run, false, ready);
                break;
            }
            Some(Told::NotNeeded) | None => break,
        }
    }
    bgworker::report_idle();
}

/// What the last count of a table came to: whether a worker would have been needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prospect {
    /// Nobody has looked.
    #[default]
    Unknown,
    /// A run began, or would have begun had disposal been on.
    Run,
    Nothing,
}

impl Prospect {
    /// What a count found out.
    pub fn of(would_begin: bool) -> Prospect {
        match would_begin {
            true => Prospect::Run,
            false => Prospect::Nothing,
        }
    }

    /// Whether to start a worker before the table is counted. `is_large` is asked where nothing is known.
    pub fn is_good<E>(
        self,
        is_large: impl FnOnce() -> std::result::Result<bool, E>,
    ) -> std::result::Result<bool, E> {
        match self {
            Prospect::Run => Ok(true),
            Prospect::Nothing => Ok(false),
            Prospect::Unknown => is_large(),
        }
    }
}
