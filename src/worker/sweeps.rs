//! The sweeps that a scheduler has begun and not seen the end of.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant as Moment};

use pgrx::pg_sys;

use crate::error::Result;
use crate::guc::pace;
use crate::pg::subxact::Caught;
use crate::pg::{latch, xact};
use crate::worker::counting::Order;
use crate::worker::early::Offer;
use crate::worker::run::{self, Run, State};
use crate::worker::shmem::Seat;
use crate::worker::slot::{EARLY, ONLY_COUNTING};
use crate::worker::{shmem, sweep, team};

/// How long a sweep worker may take until it claims its place.
const START_LIMIT: Duration = Duration::from_secs(15);

/// A batch is cancelled after a minute. Code of a table that does not let itself be cancelled is ended, with
/// the worker, after this many microseconds.
const STUBBORN: i64 = 180_000_000;

struct Begun {
    table: u32,
    /// As in its seat: what it is to do, until it is known which run it is.
    run: i64,
    since: Moment,
    /// Its worker has claimed its place.
    seen: bool,
}

impl Begun {
    fn new(table: u32, run: i64) -> Begun {
        Begun {
            table,
            run,
            since: Moment::now(),
            seen: false,
        }
    }

    fn is_in(&self, seat: &Seat) -> bool {
        let has_run = seat.run == self.run || seat.plans() || self.run < 0;
        seat.table == self.table && seat.run != EARLY && has_run
    }
}

/// What is being executed.
pub struct Executed {
    runs: BTreeSet<i64>,
    /// Workers in their place are about to store a run of these.
    planned: BTreeSet<u32>,
}

impl Executed {
    pub fn has(&self, run: &Run) -> bool {
        self.runs.contains(&run.id) || self.planned.contains(&run.relation.to_u32())
    }
}

/// The sweeps of one database.
#[derive(Default)]
pub struct Sweeps {
    begun: Vec<Begun>,
}

fn transaction<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Caught> {
    xact::transaction(|| xact::with_snapshot(work))
}

impl Sweeps {
    /// Has a worker execute the run, that which was started `early` if it is there; `false` when none can be had.
    pub fn begin(
        &mut self,
        database: pg_sys::Oid,
        table: u32,
        run: i64,
        early: Option<Offer>,
    ) -> bool {
        let given = early.is_some_and(|offer| offer.give(run));
        let started = given || sweep::start(database, table, run);
        if started {
            self.begun.push(Begun::new(table, run));
        }
        started
    }

    /// Has a worker count a table, and sweep it if that is to be; `false` when none can be had.
    pub fn count(&mut self, database: pg_sys::Oid, order: Order) -> bool {
        let started = order.start(database);
        if started {
            self.begun.push(Begun::new(order.table, order.run()));
        }
        started
    }

    /// A worker has counted a table: it executes the `run`, or ends.
    pub fn counted(&mut self, table: u32, run: Option<i64>) {
        let of_it = |begun: &Begun| begun.table == table && begun.run < 0;
        match run {
            Some(run) => {
                for begun in self.begun.iter_mut().filter(|begun| of_it(begun)) {
                    (begun.run, begun.since) = (run, Moment::now());
                }
            }
            None => self.begun.retain(|begun| !of_it(begun)),
        }
    }

    /// The tables that are being counted by workers that were begun here.
    pub fn counting(&self) -> impl Iterator<Item = u32> {
        let counting = self.begun.iter().filter(|begun| begun.run < 0);
        counting.map(|begun| begun.table)
    }

    /// Whether a worker only counts.
    pub fn only_counts(&self, database: pg_sys::Oid) -> bool {
        let mut seats = shmem::seats(database).into_iter();
        seats.any(|seat| seat.run == ONLY_COUNTING)
            || self.begun.iter().any(|begun| begun.run == ONLY_COUNTING)
    }

    /// The tables that are being swept, also those whose sweep was begun by a scheduler before this one, or on demand.
    pub fn tables(&self, database: pg_sys::Oid) -> BTreeSet<u32> {
        self.tables_with(database, |_| true)
    }

    fn tables_with(&self, database: pg_sys::Oid, run: impl Fn(i64) -> bool) -> BTreeSet<u32> {
        let slot = shmem::slot(database);
        let seats = slot.iter().flat_map(|slot| slot.sweeping());
        let seats = seats.map(|seat| (seat.table, seat.run));
        let begun = self.begun.iter().map(|begun| (begun.table, begun.run));
        let those = seats.chain(begun).filter(|(_, of)| run(*of));
        those.map(|(table, _)| table).collect()
    }

    /// Whether another sweep may be begun beside those that run.
    pub fn has_room(&self, database: pg_sys::Oid) -> bool {
        let most = usize::try_from(pace::max_sweep_workers()).unwrap_or(1);
        let sweeps = self.tables_with(database, |run| run != ONLY_COUNTING);
        sweeps.len() < most
    }

    /// Whether some sweep that was begun here has not been seen to end.
    pub fn any(&self) -> bool {
        !self.begun.is_empty()
    }

    /// What is being executed. A worker takes its place before it stores a run: to be asked after what is stored was read.
    pub fn executed(&self, database: pg_sys::Oid) -> Executed {
        let (planning, seated): (Vec<Seat>, Vec<Seat>) =
            shmem::seats(database).into_iter().partition(Seat::plans);
        let (known, unknown): (Vec<&Begun>, Vec<&Begun>) =
            self.begun.iter().partition(|begun| begun.run > 0);
        let runs = seated.iter().map(|seat| seat.run);
        let planned = planning.iter().map(|seat| seat.table);
        Executed {
            runs: runs.chain(known.iter().map(|begun| begun.run)).collect(),
            planned: planned
                .chain(unknown.iter().map(|begun| begun.table))
                .collect(),
        }
    }

    /// Takes out those that have ended, with the tables that they were about and the runs as they are then. `seats` were
    /// read before what workers counted was asked for.
    pub fn ended(
        &mut self,
        seats: &[Seat],
    ) -> std::result::Result<Vec<(u32, Option<Run>)>, Caught> {
        let mut ended = Vec::new();
        let mut left = Vec::new();
        for mut begun in std::mem::take(&mut self.begun) {
            if let Some(seat) = seats.iter().find(|seat| begun.is_in(seat)) {
                begun.seen = true;
                if seat.run > 0 {
                    begun.run = seat.run;
                }
                left.push(begun);
            } else if begun.seen || begun.since.elapsed() > START_LIMIT || is_over(begun.run) {
                ended.push(begun);
            } else {
                left.push(begun);
            }
        }
        self.begun = left;
        let mut outcomes = Vec::new();
        for Begun { table, run, .. } in ended {
            let run = transaction(|| {
                run::interrupt(run, "its worker ended")?;
                run::get(run)
            })?;
            outcomes.push((table, run));
        }
        Ok(outcomes)
    }

    /// Waits a while for a sweep to end, and ends workers that let themselves not be cancelled.
    pub fn wait(&self, database: pg_sys::Oid) {
        let since = xact::server_now() - STUBBORN;
        for seat in shmem::seats(database) {
            if seat.batch_since != 0 && seat.batch_since < since {
                latch::terminate(seat.pid);
            }
        }
        for helper in team::helpers_in(database, Some(since)) {
            latch::terminate(helper);
        }
        let coming = self.begun.iter().any(|begun| !begun.seen);
        latch::wait(Duration::from_millis(if coming { 20 } else { 1000 }));
    }
}

/// Whether the run has ended before its worker was seen.
fn is_over(run: i64) -> bool {
    if run < 0 {
        return false;
    }
    let over = transaction(|| Ok(run::get(run)?.is_none_or(|run| run.state != State::Running)));
    // It is the worker's to claim its place before it changes the run: it may have been there in between.
    matches!(over, Ok(true))
}

/// Whether rows of `from` refer to rows of `to`, over any number of tables.
fn leads_to(referring: &BTreeMap<u32, BTreeSet<u32>>, from: u32, to: u32) -> bool {
    let mut found = BTreeSet::new();
    let mut open = vec![to];
    while let Some(table) = open.pop() {
        let more = referring.get(&table).into_iter().flatten();
        open.extend(more.filter(|other| found.insert(**other)));
    }
    found.contains(&from)
}

/// Which tables wait for others. A table waits for those before it whose rows refer to its own and which are `pending` or
/// `busy`, and for every `busy` one that it is in a circle with: sweeps of both would meet in the same rows. Pure.
#[derive(Clone, Copy)]
pub struct Queue<'a> {
    pub pending: &'a [u32],
    pub busy: &'a BTreeSet<u32>,
    pub referring: &'a BTreeMap<u32, BTreeSet<u32>>,
    pub order: &'a BTreeMap<u32, usize>,
}

impl Queue<'_> {
    /// Whether nothing holds the table up.
    pub fn is_free(&self, table: u32) -> bool {
        let Queue {
            pending,
            busy,
            referring,
            order,
        } = self;
        let holds_up = |other: u32| {
            order.get(&other) < order.get(&table)
                && (pending.contains(&other) || busy.contains(&other))
        };
        let is_swept = || {
            busy.iter().any(|other| {
                *other != table
                    && leads_to(referring, *other, table)
                    && leads_to(referring, table, *other)
            })
        };
        let mut others = referring.get(&table).into_iter().flatten();
        others.all(|other| !holds_up(*other)) && !is_swept()
    }

    /// The next table whose sweep may begin: of those that nothing holds up the one that was looked at longest ago, earlier
    /// ones first.
    pub fn next(&self, looked_at: impl Fn(u32) -> Option<Moment>) -> Option<usize> {
        (0..self.pending.len())
            .filter(|at| self.is_free(self.pending[*at]))
            .min_by_key(|at| (looked_at(self.pending[*at]), *at))
    }

    /// The next table that can only be counted, of those that were not in this round: that which was counted longest ago.
    pub fn next_to_count(
        &self,
        counted: &BTreeSet<u32>,
        counted_at: impl Fn(u32) -> Option<Moment>,
    ) -> Option<usize> {
        (0..self.pending.len())
            .filter(|at| !counted.contains(&self.pending[*at]))
            .min_by_key(|at| (counted_at(self.pending[*at]), *at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(u32, &[u32])]) -> BTreeMap<u32, BTreeSet<u32>> {
        pairs
            .iter()
            .map(|(table, others)| (*table, others.iter().copied().collect()))
            .collect()
    }

    fn order(tables: &[u32]) -> BTreeMap<u32, usize> {
        tables.iter().copied().zip(0..).collect()
    }

    fn next(
        pending: &[u32],
        busy: &BTreeSet<u32>,
        referring: &BTreeMap<u32, BTreeSet<u32>>,
        order: &BTreeMap<u32, usize>,
        looked_at: impl Fn(u32) -> Option<Moment>,
    ) -> Option<usize> {
        let queue = Queue {
            pending,
            busy,
            referring,
            order,
        };
        queue.next(looked_at)
    }

    #[test]
    fn a_table_waits_for_those_that_refer_to_it_and_nobody_else() {
        // 2 is the parent of 1; 3 is alone.
        let referring = map(&[(2, &[1])]);
        let order = order(&[1, 2, 3]);
        let never = |_| None;
        let none = BTreeSet::new();
        assert_eq!(next(&[1, 2, 3], &none, &referring, &order, never), Some(0));
        // The sweep of 1 takes its time.
        let busy = BTreeSet::from([1]);
        assert_eq!(next(&[2, 3], &busy, &referring, &order, never), Some(1));
        assert_eq!(next(&[2], &busy, &referring, &order, never), None);
        assert_eq!(next(&[2], &none, &referring, &order, never), Some(0));
    }

    #[test]
    fn tables_of_a_circle_do_not_wait_for_each_other_for_ever() {
        let referring = map(&[(1, &[2]), (2, &[1])]);
        let order = order(&[1, 2]);
        let none = BTreeSet::new();
        assert_eq!(next(&[1, 2], &none, &referring, &order, |_| None), Some(0));
        assert_eq!(
            next(&[2], &BTreeSet::from([1]), &referring, &order, |_| None),
            None
        );
    }

    #[test]
    fn no_table_is_swept_beside_another_of_its_circle_whatever_their_order() {
        // A ring of three, and 4, to which rows of the first refer.
        let referring = map(&[(1, &[3]), (2, &[1]), (3, &[2]), (4, &[1])]);
        let order = order(&[1, 2, 3, 4]);
        for busy in [2, 3] {
            let busy = BTreeSet::from([busy]);
            assert_eq!(next(&[1], &busy, &referring, &order, |_| None), None);
            assert_eq!(next(&[4], &busy, &referring, &order, |_| None), Some(0));
        }
        let below = BTreeSet::from([4]);
        assert_eq!(next(&[1], &below, &referring, &order, |_| None), Some(0));
    }

    #[test]
    fn the_stalest_table_comes_first() {
        let order = order(&[1, 2, 3]);
        let now = Moment::now();
        let later = now + Duration::from_secs(1);
        let looked_at = |table| match table {
            1 => Some(later),
            2 => Some(now),
            _ => None,
        };
        let (none, nobody) = (BTreeSet::new(), BTreeMap::new());
        assert_eq!(next(&[1, 2, 3], &none, &nobody, &order, looked_at), Some(2));
        assert_eq!(next(&[1, 2], &none, &nobody, &order, looked_at), Some(1));
    }

    #[test]
    fn what_cannot_be_swept_is_counted_once_the_stalest_first() {
        // 1 is being swept, and its rows refer to those of 2.
        let (referring, order) = (map(&[(2, &[1])]), order(&[1, 2, 3]));
        let busy = BTreeSet::from([1]);
        let queue = Queue {
            pending: &[2, 3],
            busy: &busy,
            referring: &referring,
            order: &order,
        };
        let now = Moment::now();
        let counted_at = |table| (table == 2).then_some(now);
        let mut counted = BTreeSet::new();
        assert_eq!(queue.next_to_count(&counted, counted_at), Some(1));
        counted.insert(3);
        assert_eq!(queue.next_to_count(&counted, counted_at), Some(0));
        assert!(!queue.is_free(2));
        counted.insert(2);
        assert_eq!(queue.next_to_count(&counted, counted_at), None);
    }
}
