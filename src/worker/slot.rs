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

/// How many sweep workers can be in a database at the same time: as many as `custodian.max_sweep_workers` may be, one that gets
/// ready, and one that only counts.
pub const SEATS: usize = 10;

/// A sweep worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// 0 is nobody.
    pub pid: i32,
    /// The table, no other sweep of which is let in.
    pub table: u32,
    /// The run; 0: it is being planned on demand; [`EARLY`]: its worker waits until that is known; [`COUNTING`] and
    /// [`ONLY_COUNTING`]: its worker finds out by itself whether there is one.
    pub run: i64,
    /// When its present batch began; 0 is between batches.
    pub batch_since: i64,
}

/// The run of a worker that was started before it is known whether there is one.
pub const EARLY: i64 = -1;

/// The run of a worker that counts what is due in its table, and sweeps it if that is to be.
pub const COUNTING: i64 = -2;

/// The run of one that only counts: it has no part in `custodian.max_sweep_workers`.
pub const ONLY_COUNTING: i64 = -3;

impl Seat {
    /// Whether its worker is about to find out whether there is a run, and stores it by itself.
    pub fn plans(&self) -> bool {
        self.run == 0 || self.counts()
    }

    /// The same of one that the scheduler started for that.
    pub fn counts(&self) -> bool {
        matches!(self.run, COUNTING | ONLY_COUNTING)
    }
}

/// What a worker came to that counted its table by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// 0 is none.
    pub table: u32,
    /// How long it took, in microseconds; 0 where nothing was counted.
    pub took: i64,
    pub found: Found,
    /// A leaf lacks the triggers that notice late rows.
    pub unwatched: bool,
    /// A run would have begun, or gone on, but for what sweeps wait for, or had disposal been on.
    pub would_begin: bool,
    /// It is to be counted again as soon as a sweep of it may begin.
    pub again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// This run waits for an approval.
    Waiting(i64),
    /// The worker executes this run.
    Run(i64),
    /// It could not be counted; the worker has said why.
    Failed,
    /// It was not counted to the end, since somebody asked for a sweep, who has it counted.
    Ended,
}

impl Count {
    pub const NONE: Count = Count {
        table: 0,
        took: 0,
        found: Found::Nothing,
        unwatched: false,
        would_begin: false,
        again: false,
    };
}

/// A seat that is free.
pub(super) const EMPTY: Seat = Seat {
    pid: 0,
    table: 0,
    run: 0,
    batch_since: 0,
};

/// A worker that was started while its table is being planned. One at a time: a scheduler plans one table after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Early {
    /// Tells one offer from the next; 0 is none.
    pub number: u32,
    pub table: u32,
    /// What its run is to have, in the server's microseconds.
    pub cutoff: i64,
    /// Who offered it.
    pub scheduler: i32,
    /// When it was offered or, once the worker was told something, when that was.
    pub since: i64,
    /// The worker, once it is there.
    pub pid: i32,
    pub told: Told,
}

/// What a worker is told that was started early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    NotYet,
    NotNeeded,
    Run(i64),
}

impl Early {
    pub const NONE: Early = Early {
        number: 0,
        table: 0,
        cutoff: 0,
        scheduler: 0,
        since: 0,
        pid: 0,
        told: Told::NotYet,
    };
}

/// How long a worker that was told its run may take to hear of it, in microseconds: as long as any may take to come up.
const HEARING: i64 = 15_000_000;

#[derive(Clone, Copy)]
pub struct Slot {
    pub database: pg_sys::Oid,
    pub state: State,
    /// Process ids; 0 is nobody.
    pub scheduler: i32,
    pub sweeps: [Seat; SEATS],
    pub vacuum: i32,
    /// What workers counted by themselves, and the scheduler has not heard yet.
    pub counts: [Count; SEATS],
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
    pub early: Early,
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
        counts: [Count::NONE; SEATS],
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
        early: Early::NONE,
    };

    /// Makes room for a worker, of which all but the number is told; its number, `None` while the one before may still have to
    /// hear of its run.
    pub fn offer(&mut self, early: Early) -> Option<u32> {
        let before = self.early;
        // One that is there hears of it when it is ready, however long that takes.
        let to_hear = matches!(before.told, Told::Run(_))
            && (before.pid != 0 || early.since - before.since < HEARING);
        if before.number != 0 && to_hear {
            return None;
        }
        let number = before.number.wrapping_add(1).max(1);
        self.early = Early { number, ..early };
        Some(number)
    }

    /// A worker comes up; what it is for, `None` when it is not needed any more.
    pub fn join_early(&mut self, number: u32, pid: i32) -> Option<Early> {
        let early = &mut self.early;
        let wanted = early.number == number && early.told != Told::NotNeeded && early.pid == 0;
        wanted.then(|| {
            early.pid = pid;
            *early
        })
    }

    /// The scheduler tells the worker; its process id, 0 while it is coming up; `None` when it is gone.
    pub fn answer_early(&mut self, number: u32, told: Told, now: i64) -> Option<i32> {
        if self.early.number != number || self.early.table == 0 {
            return None;
        }
        self.early.told = told;
        self.early.since = now;
        self.seat_early();
        Some(self.early.pid)
    }

    /// Notes in the seat of the worker which run it is for, once that is told: it may still be getting ready, and is that run's
    /// worker all the same.
    pub fn seat_early(&mut self) {
        let Early { pid, told, .. } = self.early;
        if let Told::Run(run) = told
            && let Some(seat) = self.sweeps.iter_mut().find(|seat| seat.pid == pid)
            && pid != 0
        {
            seat.run = run;
        }
    }

    /// Whether the worker has still something to get ready for, as far as anybody knows.
    pub fn wants_early(&self, number: u32) -> bool {
        self.early.number == number
            && self.early.told != Told::NotNeeded
            && self.early.scheduler == self.scheduler
    }

    /// The sweep workers, without one that waits to hear what it is for: one that is not needed any more has its table until it
    /// is gone.
    pub fn sweeping(&self) -> impl Iterator<Item = Seat> {
        let Early { pid, told, .. } = self.early;
        let waits = move |seat: &Seat| seat.pid == pid && told == Told::NotYet;
        let seats = self.sweeps.into_iter().filter(|seat| seat.pid != 0);
        seats.filter(move |seat| seat.run != EARLY || !waits(seat))
    }

    /// What the worker is told. Once it has heard what it is for, or that nobody waits for it, there is room for another one.
    pub fn told_early(&mut self, number: u32, pid: i32) -> Told {
        let early = self.early;
        if early.number != number || early.pid != pid || early.scheduler != self.scheduler {
            return Told::NotNeeded;
        }
        if early.told != Told::NotYet {
            self.leave_early(pid);
        }
        early.told
    }

    /// The worker is there for that no more. The number stays, so that the next one is another.
    pub fn leave_early(&mut self, pid: i32) {
        if self.early.pid == pid {
            self.early = Early {
                number: self.early.number,
                ..Early::NONE
            };
        }
    }

    /// Notes what a worker came to, in place of what was last noted of its table. Without room for it nobody hears of it: the
    /// table is counted again.
    pub fn note_count(&mut self, count: Count) {
        let of = |table| move |noted: &Count| noted.table == table;
        let at = self.counts.iter().position(of(count.table));
        if let Some(at) = at.or_else(|| self.counts.iter().position(of(0))) {
            self.counts[at] = count;
        }
    }

    /// Has it heard of that the count by the worker `pid` is ended; `false` where that counts no more.
    pub fn end_count(&mut self, pid: i32) -> bool {
        let mut seats = self.sweeps.into_iter();
        let Some(seat) = seats.find(|seat| seat.pid == pid && seat.counts()) else {
            return false;
        };
        self.note_count(Count {
            table: seat.table,
            found: Found::Ended,
            ..Count::NONE
        });
        true
    }

    /// Whether no worker of ours is there, but for helpers.
    pub fn is_left(&self) -> bool {
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
    enum Told {
        NotYet,
        NotNeeded,
        Run(i64),
    }
    enum Found {
        Nothing,
        Waiting(i64),
        Run(i64),
        Failed,
        Ended,
    }
);
plain!(
    struct Count { table, took, found, unwatched, would_begin, again }
    struct Seat { pid, table, run, batch_since }
    struct Demand { requester, answer, run }
    struct Early { number, table, cutoff, scheduler, since, pid, told }
    struct Slot {
        database, state, scheduler, sweeps, vacuum, counts, wake, since, barred_until, last_success, starved_since, demand, early,
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULER: i32 = 5;

    fn slot() -> Slot {
        let mut slot = Slot {
            scheduler: SCHEDULER,
            ..Slot::FREE
        };
        slot.sweeps[0] = Seat {
            pid: 7,
            table: 1,
            run: EARLY,
            batch_since: 0,
        };
        slot
    }

    fn offer(slot: &mut Slot, since: i64) -> Option<u32> {
        slot.offer(Early {
            table: 1,
            cutoff: 9,
            scheduler: SCHEDULER,
            since,
            ..Early::NONE
        })
    }

    #[test]
    fn a_worker_that_is_ready_hears_of_its_run_and_makes_room_for_the_next() {
        let mut slot = slot();
        let number = offer(&mut slot, 0).expect("room");
        assert_eq!(
            slot.join_early(number, 7).map(|early| early.cutoff),
            Some(9)
        );
        assert_eq!(slot.join_early(number, 8), None);
        assert_eq!(slot.told_early(number, 7), Told::NotYet);
        assert_eq!(slot.sweeping().count(), 0);
        assert_eq!(slot.answer_early(number, Told::Run(3), 5), Some(7));
        assert_eq!(slot.sweeps[0].run, 3);
        assert_eq!(slot.sweeping().count(), 1);
        // Until it has heard, there is no other.
        assert_eq!(offer(&mut slot, 10 * HEARING), None);
        assert_eq!(slot.told_early(number, 7), Told::Run(3));
        assert_eq!(offer(&mut slot, 1), Some(number + 1));
    }

    #[test]
    fn a_worker_that_comes_late_hears_all_the_same() {
        let mut slot = slot();
        let number = offer(&mut slot, 0).expect("room");
        assert_eq!(slot.answer_early(number, Told::Run(3), 0), Some(0));
        assert!(slot.join_early(number, 7).is_some());
        slot.seat_early();
        assert_eq!(slot.sweeps[0].run, 3);
        assert_eq!(slot.told_early(number, 7), Told::Run(3));
        // One that never comes keeps the place no longer than any worker may take to come up.
        let number = offer(&mut slot, 0).expect("room");
        slot.answer_early(number, Told::Run(4), 8);
        assert_eq!(offer(&mut slot, HEARING + 7), None);
        assert!(offer(&mut slot, HEARING + 8).is_some());
        assert_eq!(slot.join_early(number, 7), None);
    }

    #[test]
    fn nobody_waits_for_what_is_not_needed_or_for_a_scheduler_that_is_gone() {
        let mut slot = slot();
        let number = offer(&mut slot, 0).expect("room");
        slot.answer_early(number, Told::NotNeeded, 0);
        assert_eq!(slot.join_early(number, 7), None);
        let number = offer(&mut slot, 0).expect("room");
        slot.join_early(number, 7);
        assert!(slot.wants_early(number));
        assert_eq!(slot.sweeping().count(), 0);
        // It has its table until it is gone.
        slot.answer_early(number, Told::NotNeeded, 0);
        assert!(!slot.wants_early(number));
        assert_eq!(slot.sweeping().count(), 1);
        let number = offer(&mut slot, 0).expect("room");
        slot.join_early(number, 7);
        slot.scheduler = 6;
        assert_eq!(slot.told_early(number, 7), Told::NotNeeded);
        slot.scheduler = SCHEDULER;
        // Another offer was made meanwhile.
        let next = offer(&mut slot, 0).expect("room");
        assert_eq!(slot.told_early(number, 7), Told::NotNeeded);
        assert_eq!(slot.early.number, next);
        assert_eq!(slot.answer_early(number, Told::Run(1), 0), None);
    }

    #[test]
    fn the_last_count_of_each_table_is_heard_of_as_far_as_there_is_room() {
        let mut slot = Slot::FREE;
        let count = |table, took| Count {
            table,
            took,
            ..Count::NONE
        };
        for table in (1..).take(SEATS + 1) {
            slot.note_count(count(table, 1));
        }
        slot.note_count(count(2, 7));
        let known: Vec<(u32, i64)> = slot.counts.map(|count| (count.table, count.took)).into();
        assert_eq!(known[..3], [(1, 1), (2, 7), (3, 1)]);
        assert_eq!(known.len(), SEATS);
    }

    #[test]
    fn a_run_is_given_to_nobody_where_the_worker_is_gone() {
        let mut slot = slot();
        let number = offer(&mut slot, 0).expect("room");
        slot.join_early(number, 7);
        slot.leave_early(7);
        assert_eq!(slot.answer_early(number, Told::Run(3), 0), None);
        assert_eq!(offer(&mut slot, 0), Some(number + 1));
    }
}
