//! What shared memory knows of the workers in one database.

use pgrx::pg_sys;

use crate::pg::shared::plain;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Nobody is there: free, barred, or asked for.
    Vacant,
    /// The launcher asked for a scheduler, which has not come up yet.
    Starting,
    /// A scheduler is looking whether the extension is there.
    Looking,
    /// A scheduler works here.
    Active,
    /// A scheduler is here and keeps still: library and SQL version differ.
    Mismatch,
    /// A scheduler looked and found no extension.
    Absent,
}

/// How many sweeps can be in a database at the same time.
pub const SEATS: usize = 8;

/// A sweep worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// 0 is nobody.
    pub pid: i32,
    /// The table, no other sweep of which is let in.
    pub table: u32,
    /// The run; 0: it is being planned.
    pub run: i64,
    /// When its present batch began; 0 is between batches.
    pub batch_since: i64,
}

/// A seat that is free.
pub(super) const EMPTY: Seat = Seat {
    pid: 0,
    table: 0,
    run: 0,
    batch_since: 0,
};

#[derive(Clone, Copy)]
pub struct Slot {
    pub database: pg_sys::Oid,
    pub state: State,
    /// Process ids; 0 is nobody.
    pub scheduler: i32,
    pub sweeps: [Seat; SEATS],
    pub vacuum: i32,
    /// Something changed that the scheduler, or the launcher, should look at now.
    pub wake: bool,
    /// When the state became `Starting`.
    pub since: i64,
    /// No scheduler may be here before this moment of the server's clock.
    pub barred_until: i64,
    /// When a round last ended without an error; 0 is never.
    pub last_success: i64,
    /// Since when a worker could not be started for want of a slot of max_worker_processes; 0 is fine.
    pub starved_since: i64,
    /// What the last sweep on demand has to say.
    pub demand: Demand,
}

/// What a sweep on demand tells the session that waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The process id of that session.
    pub requester: i32,
    pub answer: Answer,
    /// The run it is about; 0 is none.
    pub run: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Answer {
    /// The worker is there, and has not found out yet.
    Planning,
    /// Nothing is due, or it has to wait for rows that refer to it.
    Nothing,
    /// The run waits for an approval.
    Waits,
    /// The run is being executed.
    Running,
    /// The run was executed; its row says with which outcome.
    Ended,
    /// It could not be planned.
    Failed,
}

impl Slot {
    pub(super) const FREE: Slot = Slot {
        database: pg_sys::Oid::INVALID,
        state: State::Vacant,
        scheduler: 0,
        sweeps: [EMPTY; SEATS],
        vacuum: 0,
        wake: false,
        since: 0,
        barred_until: 0,
        last_success: 0,
        starved_since: 0,
        demand: Demand {
            requester: 0,
            answer: Answer::Nothing,
            run: 0,
        },
    };

    pub(super) fn idle(&self) -> bool {
        self.scheduler == 0 && self.vacuum == 0 && !self.is_swept()
    }

    /// Whether a sweep worker is there.
    pub fn is_swept(&self) -> bool {
        self.sweeps.iter().any(|seat| seat.pid != 0)
    }
}

plain!(
    enum State {
        Vacant,
        Starting,
        Looking,
        Active,
        Mismatch,
        Absent,
    }
    enum Answer {
        Planning,
        Nothing,
        Waits,
        Running,
        Ended,
        Failed,
    }
);
plain!(
    struct Seat { pid, table, run, batch_since }
    struct Demand { requester, answer, run }
    struct Slot {
        database, state, scheduler, sweeps, vacuum, wake, since, barred_until, last_success, starved_since, demand,
    }
);
