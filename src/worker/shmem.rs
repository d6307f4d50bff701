//! What the launcher, the schedulers, the sweep workers and ordinary backends tell each other: one small,
//! fixed-size, pointer-free structure in shared memory. Tables are the truth; this is lost with a crash and
//! rebuilt by the launcher.

use pgrx::pg_shmem_init;
use pgrx::prelude::*;

use crate::guc;
use crate::pg::shared::{plain, shared};
use crate::pg::{latch, xact};
use crate::worker::slot::EMPTY;
pub use crate::worker::slot::{Answer, Count, Demand, SEATS, Seat, Slot, State};
use crate::worker::team;

/// How many databases can have a scheduler at the same time.
pub const SLOTS: usize = 64;

const SECOND: i64 = 1_000_000;

/// How long a scheduler may take from its registration until it claims its slot.
const START_LIMIT: i64 = 15 * SECOND;

pub struct Directory {
    pub launcher: i32,
    /// When a session last said that there is no launcher; 0 is never.
    pub launcher_missed: i64,
    pub slots: [Slot; SLOTS],
}

plain!(
    struct Directory { launcher, launcher_missed, slots }
);

impl Default for Directory {
    fn default() -> Self {
        Directory {
            launcher: 0,
            launcher_missed: 0,
            slots: [Slot::FREE; SLOTS],
        }
    }
}

impl Directory {
    pub fn find(&mut self, database: pg_sys::Oid) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.database == database)
    }

    pub fn find_or_take(&mut self, database: pg_sys::Oid) -> Option<&mut Slot> {
        let index = self
            .slots
            .iter()
            .position(|slot| slot.database == database)
            .or_else(|| {
                self.slots
                    .iter()
                    .position(|slot| slot.database == pg_sys::Oid::INVALID)
            })?;
        let slot = &mut self.slots[index];
        slot.database = database;
        Some(slot)
    }
}

shared!(lock DIRECTORY: Directory = c"pg_custodian worker");

/// Asks for the shared memory. Only while preloading.
// The macro names server versions that this crate has no feature for.
#[allow(unexpected_cfgs)]
pub fn init() {
    pg_shmem_init!(DIRECTORY);
}

/// Reads the directory, or gives `None` where it does not exist. `read` may not raise errors.
pub fn read<T>(read: impl FnOnce(&Directory) -> T) -> Option<T> {
    guc::preloaded().then(|| read(&DIRECTORY.share()))
}

fn write<T>(write: impl FnOnce(&mut Directory) -> T) -> Option<T> {
    guc::preloaded().then(|| write(&mut DIRECTORY.exclusive()))
}

/// This process is the launcher from now on; `false` when another one lives.
pub fn claim_launcher(pid: i32) -> bool {
    write(|directory| {
        if directory.launcher != 0 {
            return false;
        }
        directory.launcher = pid;
        true
    })
    .unwrap_or(false)
}

pub fn release_launcher(pid: i32) {
    write(|directory| {
        if directory.launcher == pid {
            directory.launcher = 0;
        }
    });
}

/// What the launcher should do about a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A scheduler is there, or starting.
    Taken,
    /// None may be started before this moment.
    Barred(i64),
    /// One may be started; `woken` says that somebody asked for it.
    Free { woken: bool },
    /// A scheduler looked and found no extension.
    Absent,
}

/// Looks at a database, and frees what a scheduler that never came up has left.
pub fn wish(database: pg_sys::Oid) -> Wish {
    let now = xact::server_now();
    write(|directory| {
        let Some(slot) = directory.find(database) else {
            return Wish::Free { woken: false };
        };
        if slot.state == State::Starting && slot.scheduler == 0 && now - slot.since > START_LIMIT {
            slot.state = State::Vacant;
        }
        if slot.scheduler != 0 || slot.state == State::Starting {
            Wish::Taken
        } else if slot.barred_until > now {
            Wish::Barred(slot.barred_until)
        } else if slot.wake {
            Wish::Free { woken: true }
        } else if slot.state == State::Absent {
            Wish::Absent
        } else {
            Wish::Free { woken: false }
        }
    })
    .unwrap_or(Wish::Absent)
}

/// Marks that a scheduler is about to be started; `false` when there is no room for the database.
pub fn mark_starting(database: pg_sys::Oid) -> bool {
    let now = xact::server_now();
    write(|directory| directory.start(database, now)).unwrap_or(false)
}

/// Undoes `mark_starting` when no worker could be had, and notes since when that is so.
pub fn mark_not_started(database: pg_sys::Oid) {
    mark_starved(database);
    set_state(database, State::Vacant);
}

/// Notes since when no worker can be had for the database.
pub fn mark_starved(database: pg_sys::Oid) {
    let now = xact::server_now();
    write(|directory| {
        if let Some(slot) = directory.find(database)
            && slot.starved_since == 0
        {
            slot.starved_since = now;
        }
    });
}

/// Notes that the database has the workers it needs.
pub fn clear_starved(database: pg_sys::Oid) {
    write(|directory| {
        if let Some(slot) = directory.find(database) {
            slot.starved_since = 0;
        }
    });
}

/// Since when some database has lacked a worker; 0 when none does.
pub fn starved_since() -> i64 {
    read(|directory| {
        let starved = directory.slots.iter().map(|slot| slot.starved_since);
        starved.filter(|since| *since != 0).min()
    })
    .flatten()
    .unwrap_or(0)
}

/// Whether this session is to say that there is no launcher: when there has been none for `patience` microseconds since
/// the server started, and nobody has said so for `again` microseconds.
pub fn launcher_is_missed(patience: i64, again: i64) -> bool {
    let now = xact::server_now();
    if now - xact::postmaster_start() < patience || read(|directory| directory.launcher) != Some(0)
    {
        return false;
    }
    write(|directory| {
        let says = directory.launcher == 0 && now - directory.launcher_missed >= again;
        if says {
            directory.launcher_missed = now;
        }
        says
    })
    .unwrap_or(false)
}

/// Forgets databases that are gone, though somebody asked to have them looked at again, and those that have no extension and
/// nobody in them. Whether there were any.
pub fn forget(
    is_there: impl Fn(pg_sys::Oid) -> bool,
    has_extension: impl Fn(pg_sys::Oid) -> bool,
) -> bool {
    let now = xact::server_now();
    write(|directory| directory.forget(now, is_there, has_extension)).unwrap_or(false)
}

/// Whether this database is the one that collects what belongs to no database: the first with a scheduler.
pub fn leads(database: pg_sys::Oid) -> bool {
    read(|directory| {
        directory
            .slots
            .iter()
            .find(|slot| slot.scheduler != 0 && slot.state == State::Active)
            .is_some_and(|slot| slot.database == database)
    })
    .unwrap_or(false)
}

/// How many schedulers are starting or looking.
pub fn looking() -> usize {
    read(|directory| {
        directory
            .slots
            .iter()
            .filter(|slot| matches!(slot.state, State::Starting | State::Looking))
            .count()
    })
    .unwrap_or(0)
}

/// A scheduler claims its database; `false` when it may not be there or another one is.
pub fn claim_scheduler(database: pg_sys::Oid, pid: i32) -> bool {
    let now = xact::server_now();
    write(|directory| match directory.find(database) {
        Some(slot) if slot.scheduler == 0 && slot.barred_until <= now => {
            slot.scheduler = pid;
            slot.state = State::Looking;
            true
        }
        Some(slot) if slot.scheduler == 0 => {
            slot.state = State::Vacant;
            false
        }
        _ => false,
    })
    .unwrap_or(false)
}

pub fn set_state(database: pg_sys::Oid, state: State) {
    write(|directory| {
        if let Some(slot) = directory.find(database) {
            slot.state = state;
        }
    });
}

/// Notes that a round went well. After the first one of a database the launcher has the next database looked into, rather
/// than when its pause is over.
pub fn set_success(database: pg_sys::Oid) {
    let now = xact::server_now();
    let launcher = write(|directory| {
        let slot = directory.find(database)?;
        let last = std::mem::replace(&mut slot.last_success, now);
        (last == 0).then_some(directory.launcher)
    });
    if let Some(launcher) = launcher.flatten() {
        latch::wake(launcher);
    }
}

/// The scheduler `pid` ends; gives the launcher, which must know. What the scheduler found out about the
/// extension stays.
pub fn release_scheduler(pid: i32) -> i32 {
    write(|directory| {
        for slot in &mut directory.slots {
            if slot.scheduler == pid {
                slot.scheduler = 0;
                if slot.state != State::Absent {
                    slot.state = State::Vacant;
                }
            }
        }
        directory.launcher
    })
    .unwrap_or(0)
}

/// Looks at the slot of a database, or changes it; `None` where there is none. `work` may not raise errors.
pub fn with_slot<T>(database: pg_sys::Oid, work: impl FnOnce(&mut Slot) -> T) -> Option<T> {
    write(|directory| directory.find(database).map(work)).flatten()
}

/// A sweep worker claims its place in the database; `false` when another one sweeps the table, there is no room, or the
/// database is to be left. `run` is 0 as long as it is not known.
pub fn claim_sweep(database: pg_sys::Oid, pid: i32, table: u32, run: i64) -> bool {
    let now = xact::server_now();
    write(|directory| {
        let Some(slot) = directory
            .find(database)
            .filter(|slot| slot.barred_until <= now)
        else {
            return false;
        };
        if slot
            .sweeps
            .iter()
            .any(|seat| seat.pid != 0 && seat.table == table)
        {
            return false;
        }
        let Some(seat) = slot.sweeps.iter_mut().find(|seat| seat.pid == 0) else {
            return false;
        };
        *seat = Seat {
            pid,
            table,
            run,
            batch_since: 0,
        };
        true
    })
    .unwrap_or(false)
}

/// Whether our workers are to keep out of the database for now.
pub fn is_barred(database: pg_sys::Oid) -> bool {
    let now = xact::server_now();
    slot(database).is_some_and(|slot| slot.barred_until > now)
}

fn change_seat(pid: i32, change: impl FnOnce(&mut Seat)) {
    write(|directory| {
        let mut seats = directory.slots.iter_mut().flat_map(|slot| &mut slot.sweeps);
        if let Some(seat) = seats.find(|seat| seat.pid == pid) {
            change(seat);
        }
    });
}

/// Notes which run the sweep worker `pid` executes.
pub fn set_run(pid: i32, run: i64) {
    change_seat(pid, |seat| seat.run = run);
}

/// The sweep worker `pid` ends; gives the scheduler that waits for it.
pub fn release_sweep(pid: i32) -> i32 {
    write(|directory| {
        let mut scheduler = 0;
        for slot in &mut directory.slots {
            for seat in slot.sweeps.iter_mut().filter(|seat| seat.pid == pid) {
                *seat = EMPTY;
                scheduler = slot.scheduler;
            }
            slot.leave_early(pid);
        }
        scheduler
    })
    .unwrap_or(0)
}

/// The worker that vacuums claims its place; as [`claim_sweep`].
pub fn claim_vacuum(database: pg_sys::Oid, pid: i32) -> bool {
    let now = xact::server_now();
    with_slot(database, |slot| {
        let is_free = slot.vacuum == 0 && slot.barred_until <= now;
        if is_free {
            slot.vacuum = pid;
        }
        is_free
    })
    .unwrap_or(false)
}

/// The worker `pid` that vacuums ends; gives the scheduler.
pub fn release_vacuum(pid: i32) -> i32 {
    write(|directory| {
        let mut slots = directory.slots.iter_mut();
        slots.find(|slot| slot.vacuum == pid).map_or(0, |slot| {
            slot.vacuum = 0;
            slot.scheduler
        })
    })
    .unwrap_or(0)
}

/// Takes what workers counted by themselves since this was last asked.
pub fn take_counts(database: pg_sys::Oid) -> Vec<Count> {
    let counts = with_slot(database, |slot| {
        std::mem::replace(&mut slot.counts, Slot::FREE.counts)
    });
    let counts = counts.into_iter().flatten();
    counts.filter(|count| count.table != 0).collect()
}

/// Notes that the sweep worker `pid` begins a batch, or is through with it.
pub fn mark_batch(pid: i32, begins: bool) {
    let now = if begins { xact::server_now() } else { 0 };
    change_seat(pid, |seat| seat.batch_since = now);
}

/// Forgets what an earlier sweep on demand had to say.
pub fn forget_demand(database: pg_sys::Oid) {
    tell(database, Slot::FREE.demand);
}

/// Tells what a sweep on demand has to say.
pub fn tell(database: pg_sys::Oid, demand: Demand) {
    write(|directory| {
        if let Some(slot) = directory.find(database) {
            slot.demand = demand;
        }
    });
}

/// The sweep workers in the database.
pub fn seats(database: pg_sys::Oid) -> Vec<Seat> {
    slot(database).map_or_else(Vec::new, |slot| {
        let seats = slot.sweeps.into_iter();
        seats.filter(|seat| seat.pid != 0).collect()
    })
}

/// A copy of the database's slot.
pub fn slot(database: pg_sys::Oid) -> Option<Slot> {
    read(|directory| {
        directory
            .slots
            .iter()
            .find(|slot| slot.database == database)
            .copied()
    })
    .flatten()
}

/// Takes the wish to be woken, if there is one.
pub fn take_wake(database: pg_sys::Oid) -> bool {
    write(|directory| {
        directory
            .find(database)
            .is_some_and(|slot| std::mem::replace(&mut slot.wake, false))
    })
    .unwrap_or(false)
}

/// Wakes the launcher and, with a database, its scheduler. Does nothing but shared memory and latches, so
/// that it can run after a commit.
pub fn wake_now(database: Option<pg_sys::Oid>) {
    let pids = write(|directory| {
        let scheduler = database
            .and_then(|database| directory.find_or_take(database))
            .map_or(0, |slot| {
                slot.wake = true;
                slot.scheduler
            });
        (directory.launcher, scheduler)
    });
    if let Some((launcher, scheduler)) = pids {
        if scheduler == 0 {
            latch::wake(launcher);
        } else {
            latch::wake(scheduler);
        }
    }
}

/// Keeps the database free of our workers until `until`, asks those that are there to leave, and gives
/// their number.
pub fn bar(database: pg_sys::Oid, until: i64) -> usize {
    let pids = write(|directory| {
        directory.find_or_take(database).map(|slot| {
            slot.barred_until = slot.barred_until.max(until);
            // Whatever happens to the database, it is looked at again afterwards.
            slot.wake = true;
            let sweeps = slot.sweeps.iter().map(|seat| seat.pid);
            let others = [slot.vacuum, slot.scheduler];
            sweeps.chain(others).collect::<Vec<i32>>()
        })
    })
    .flatten()
    .unwrap_or_default();
    let helpers = team::helpers_in(database, None);
    for pid in pids.iter().chain(&helpers) {
        latch::terminate(*pid);
    }
    pids.iter().filter(|pid| **pid != 0).count() + helpers.len()
}
