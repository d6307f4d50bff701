//! A sweep worker that counts its table by itself: for tables that take long to count, so that the scheduler goes on with the
//! others meanwhile. Where a run is to begin it executes it, as any sweep worker does.

use std::time::{Duration, Instant as Moment};

use pgrx::prelude::*;

use crate::guc::{self, Disposal};
use crate::pg::subxact::Caught;
use crate::pg::{bgworker, latch, report};
use crate::policy::model::Leaf;
use crate::worker::decide::{self, InPlace, Next, Noticed};
use crate::worker::shmem::{self, Count};
use crate::worker::slot::{COUNTING, Found, ONLY_COUNTING};
use crate::worker::{early, heartbeat, sweep};

/// Counting a table of which nothing is known yet is taken to take long from this many blocks on, 1 GB.
const LARGE: i64 = 131_072;

/// The scheduler gives no count up sooner than after this.
const PATIENCE: Duration = Duration::from_secs(5);

fn half_a_nap() -> Duration {
    Duration::from_secs(u64::from(guc::naptime().unsigned_abs())) / 2
}

/// Whether counting a table would keep the scheduler from the others for long. `took` is what the last count took, or at least
/// took before it was given up.
pub fn is_long(took: Option<Duration>, leaves: &[Leaf]) -> std::result::Result<bool, Caught> {
    match took {
        Some(took) => Ok(took_long(took)),
        None => Ok(early::blocks(leaves)? >= LARGE),
    }
}

/// Whether a count that took so long is one for a worker.
pub fn took_long(took: Duration) -> bool {
    took >= half_a_nap()
}

/// After how long the scheduler gives a count up, and leaves the table to a worker.
pub fn patience() -> Duration {
    half_a_nap().max(PATIENCE)
}

/// For what a sweep waits while as many others are at work as may be.
pub const NO_ROOM: &str = "the end of another sweep: custodian.max_sweep_workers are at work";

/// For what it waits while tables are on their way whose rows go before its own.
pub const HELD_UP: &str = "sweeps of tables whose rows refer to its rows";

/// For what it waits when it was not to begin as the count began.
const NEXT_ROUND: &str = "the next round";

/// Why a worker is only to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Only {
    NoRoom = 1,
    HeldUp,
    /// Of which it finds out by itself, or disposal of the table is not on.
    Other,
}

impl Only {
    fn of(byte: u8) -> Option<Only> {
        [Only::NoRoom, Only::HeldUp, Only::Other]
            .into_iter()
            .find(|only| *only as u8 == byte)
    }

    /// For what the run of such a count waits.
    pub fn reason(self) -> &'static str {
        match self {
            Only::NoRoom => NO_ROOM,
            Only::HeldUp => HELD_UP,
            Only::Other => NEXT_ROUND,
        }
    }
}

/// What a worker is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    pub table: u32,
    /// It may begin a run unless there is a reason.
    pub only: Option<Only>,
    /// At most this mode.
    pub most: Disposal,
    /// How many looks in a row have failed before.
    pub failures: u32,
}

impl Order {
    fn to_bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..4].copy_from_slice(&self.table.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.failures.to_le_bytes());
        bytes[8] = self.only.map_or(0, |only| only as u8);
        bytes[9] = u8::from(self.most == Disposal::On);
        bytes
    }

    fn from_bytes(bytes: [u8; 10]) -> Order {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Order {
            table: word(0),
            failures: word(4),
            only: Only::of(bytes[8]),
            most: match bytes[9] {
                0 => Disposal::Observe,
                _ => Disposal::On,
            },
        }
    }

    /// What its seat says instead of a run.
    pub fn run(self) -> i64 {
        match self.only {
            None => COUNTING,
            Some(_) => ONLY_COUNTING,
        }
    }

    /// Starts the worker; `false` when none can be had.
    pub fn start(self, database: pg_sys::Oid) -> bool {
        bgworker::start(&bgworker::Worker {
            name: "pg_custodian sweep",
            function: c"custodian_count_main",
            argument: u64::from(database.to_u32()),
            extra: &self.to_bytes(),
            restart: None,
            notify: latch::my_pid(),
        })
    }
}

/// The main function of the worker.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn custodian_count_main(arg: pg_sys::Datum) {
    let database = pg_sys::Oid::from(arg.value() as u32);
    let mut bytes = [0; 10];
    let extra = bgworker::extra();
    bytes.copy_from_slice(&extra[..10]);
    let order = Order::from_bytes(bytes);
    if !sweep::enter(database, order.table, order.run()) {
        return;
    }
    let start = Moment::now();
    let mut noticed = Noticed::default();
    let look = InPlace {
        failures: order.failures,
        most: order.most,
        asked: false,
        deferred: order.only.map(Only::reason),
    };
    let next = decide::in_place(order.table, &look, &mut noticed);
    let found = match &next {
        Ok(Next::Nothing) => Found::Nothing,
        Ok(Next::Waiting(id, _)) => Found::Waiting(*id),
        Ok(Next::Sweep(id)) => Found::Run(*id),
        Err(_) => Found::Failed,
    };
    // Who reads of the run in the one finds it in the other.
    if let Found::Run(id) = found {
        shmem::set_run(latch::my_pid(), id);
    }
    let took = match noticed.counted {
        true => i64::try_from(start.elapsed().as_micros()).unwrap_or(i64::MAX),
        false => 0,
    };
    let count = Count {
        table: order.table,
        took,
        found,
        unwatched: noticed.unwatched,
        would_begin: noticed.waits || noticed.due && order.most != Disposal::On,
        // Rows that come free while others go first were not seen.
        again: noticed.waits || order.only == Some(Only::HeldUp),
    };
    let scheduler = shmem::with_slot(database, |slot| {
        slot.note_count(count);
        slot.scheduler
    });
    latch::wake(scheduler.unwrap_or(0));
    if let Found::Run(id) = found {
        bgworker::reload_settings();
        // The clock may have jumped since: then the sweep finds that it is paused.
        match heartbeat::look() {
            Ok(()) => sweep::execute(id, false, None),
            Err(caught) => report::log(
                PgLogLevel::WARNING,
                caught.describe(&format!("pg_custodian run {id} did not begin")),
            ),
        }
    }
    bgworker::report_idle();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_arrives_as_it_was_given() {
        let order = Order {
            table: 70_000,
            only: None,
            most: Disposal::On,
            failures: 3,
        };
        assert_eq!(Order::from_bytes(order.to_bytes()), order);
        for only in [Only::NoRoom, Only::HeldUp, Only::Other] {
            let order = Order {
                only: Some(only),
                most: Disposal::Observe,
                ..order
            };
            assert_eq!(Order::from_bytes(order.to_bytes()), order);
        }
    }
}
