//! What the workers that sweep one leaf together tell each other: a queue of disjoint ranges of blocks in shared memory.
//! The leader, which executes the run, fills it; the leader and its helpers take from it. What a helper had taken when it
//! ended comes back to the leader. Counts are not here: they are in the run's row, and go with each batch's transaction.

use std::ops::Range;

use pgrx::pg_shmem_init;
use pgrx::prelude::*;

use crate::guc;
use crate::pg::shared::{plain, shared};
use crate::pg::xact;
use crate::policy::period::Instant;

/// How many leaves can be swept by several workers at the same time in the cluster.
const TEAMS: usize = 32;

/// Ranges that wait to be taken.
const QUEUE: usize = 32;

/// The most helpers of one leader.
pub const HELPERS: usize = 7;

#[derive(Clone, Copy)]
struct Helper {
    /// 0 is a free place.
    pid: i32,
    /// What it has taken and is not through with; empty: nothing.
    taken: (u32, u32),
    /// When its present batch began; 0 is between batches.
    batch_since: i64,
}

const NOBODY: Helper = Helper {
    pid: 0,
    taken: (0, 0),
    batch_since: 0,
};

/// What a team works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    pub database: pg_sys::Oid,
    pub run: i64,
    /// The number of the run's item.
    pub item: i32,
    pub leaf: u32,
    /// The index of the step among those of the plan.
    pub step: u32,
    pub after: Option<Instant>,
    /// A person asked for the sweep.
    pub asked: bool,
    /// Of the blocks only the rows are looked at that an index names.
    pub by_places: bool,
}

#[derive(Clone, Copy)]
struct Team {
    /// The leader's process id; 0 is a free team.
    leader: i32,
    task: Task,
    queue: [(u32, u32); QUEUE],
    queued: usize,
    /// Nothing more will come into the queue.
    complete: bool,
    helpers: [Helper; HELPERS],
    /// What helpers that ended had taken.
    lost: [(u32, u32); HELPERS],
    lost_count: usize,
    obstacles: u32,
    /// Of the first obstacle; zeros are none.
    sqlstate: [u8; 5],
}

const FREE: Team = Team {
    leader: 0,
    task: Task {
        database: pg_sys::Oid::INVALID,
        run: 0,
        item: 0,
        leaf: 0,
        step: 0,
        after: None,
        asked: false,
        by_places: false,
    },
    queue: [(0, 0); QUEUE],
    queued: 0,
    complete: false,
    helpers: [NOBODY; HELPERS],
    lost: [(0, 0); HELPERS],
    lost_count: 0,
    obstacles: 0,
    sqlstate: [0; 5],
};

impl Team {
    fn take(&mut self) -> Option<(u32, u32)> {
        let first = (self.queued > 0).then(|| self.queue[0])?;
        self.queue.copy_within(1..self.queued, 0);
        self.queued -= 1;
        Some(first)
    }

    /// Ends the membership of the helper in this place. There is room for what each had taken: no more than
    /// [`HELPERS`] are started for a team.
    fn release(&mut self, place: usize) {
        let helper = std::mem::replace(&mut self.helpers[place], NOBODY);
        if helper.taken.0 < helper.taken.1 && self.lost_count < HELPERS {
            self.lost[self.lost_count] = helper.taken;
            self.lost_count += 1;
        }
    }

    fn place(&self, pid: i32) -> Option<usize> {
        self.helpers.iter().position(|helper| helper.pid == pid)
    }
}

struct Teams([Team; TEAMS]);

plain!(
    struct Helper { pid, taken, batch_since }
    struct Task { database, run, item, leaf, step, after, asked, by_places }
    struct Team {
        leader, task, queue, queued, complete, helpers, lost, lost_count, obstacles, sqlstate,
    }
    struct Teams { 0 }
);

impl Default for Teams {
    fn default() -> Self {
        Teams([FREE; TEAMS])
    }
}

shared!(lock BOARD: Teams = c"pg_custodian teams");

/// Asks for the shared memory. Only while preloading.
// The macro names server versions that this crate has no feature for.
#[allow(unexpected_cfgs)]
pub fn init() {
    pg_shmem_init!(BOARD);
}

fn read<T>(read: impl FnOnce(&[Team; TEAMS]) -> T) -> Option<T> {
    guc::preloaded().then(|| read(&BOARD.share().0))
}

fn write<T>(write: impl FnOnce(&mut [Team; TEAMS]) -> T) -> Option<T> {
    guc::preloaded().then(|| write(&mut BOARD.exclusive().0))
}

/// Opens a team; its number, `None` when there is no room.
pub fn open(leader: i32, task: Task) -> Option<usize> {
    write(|teams| {
        let number = teams.iter().position(|team| {
            team.leader == 0 && team.helpers.iter().all(|helper| helper.pid == 0)
        })?;
        teams[number] = Team {
            leader,
            task,
            ..FREE
        };
        Some(number)
    })
    .flatten()
}

/// Puts ranges into the queue as long as there is room, and gives how many; `complete` says that those were the last, if
/// all had room.
pub fn feed(number: usize, ranges: &[Range<u32>]) -> usize {
    write(|teams| {
        let team = &mut teams[number];
        let mut fed = 0;
        for range in ranges {
            if team.queued == QUEUE {
                return fed;
            }
            team.queue[team.queued] = (range.start, range.end);
            team.queued += 1;
            fed += 1;
        }
        team.complete = true;
        fed
    })
    .unwrap_or(0)
}

/// The leader takes a range.
pub fn take(number: usize) -> Option<Range<u32>> {
    write(|teams| teams[number].take().map(|(start, end)| start..end)).flatten()
}

/// What a helper finds when it asks for more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum More {
    Range(Range<u32>),
    /// The queue is empty for the moment.
    Wait,
    /// There is nothing more to do here.
    Over,
}

/// A helper is through with what it had taken, and takes a range.
pub fn take_as_helper(number: usize, leader: i32, pid: i32) -> More {
    write(|teams| {
        let team = &mut teams[number];
        let Some(place) = team.place(pid).filter(|_| team.leader == leader) else {
            return More::Over;
        };
        team.helpers[place].taken = (0, 0);
        match team.take() {
            Some(taken) => {
                team.helpers[place].taken = taken;
                More::Range(taken.0..taken.1)
            }
            None if team.complete => More::Over,
            None => More::Wait,
        }
    })
    .unwrap_or(More::Over)
}

/// A helper joins the team that `leader` leads; what the team works on, `None` when it is over or full.
pub fn join(number: usize, leader: i32, pid: i32) -> Option<Task> {
    write(|teams| {
        let team = teams.get_mut(number).filter(|team| team.leader == leader)?;
        let place = team.helpers.iter().position(|helper| helper.pid == 0)?;
        team.helpers[place] = Helper { pid, ..NOBODY };
        Some(team.task)
    })
    .flatten()
}

/// A helper ends; gives the leader, which may wait for it.
pub fn leave(pid: i32) -> i32 {
    write(|teams| {
        let mut leader = 0;
        for team in teams {
            if let Some(place) = team.place(pid) {
                team.release(place);
                leader = team.leader;
            }
        }
        leader
    })
    .unwrap_or(0)
}

/// A helper tells what stood in its way.
pub fn report(number: usize, pid: i32, obstacles: u32, sqlstate: Option<&str>) {
    write(|teams| {
        let team = &mut teams[number];
        if team.place(pid).is_none() {
            return;
        }
        team.obstacles = team.obstacles.saturating_add(obstacles);
        let bytes = sqlstate.and_then(|text| <[u8; 5]>::try_from(text.as_bytes()).ok());
        if let (Some(bytes), [0, ..]) = (bytes, team.sqlstate) {
            team.sqlstate = bytes;
        }
    });
}

/// Nothing more is to be taken: what is left in the queue is given back, and helpers end after their range.
pub fn stop(number: usize) {
    write(|teams| {
        teams[number].queued = 0;
        teams[number].complete = true;
    });
}

/// The helpers that are there.
pub fn helpers(number: usize) -> Vec<i32> {
    read(|teams| {
        let pids = teams[number].helpers.iter().map(|helper| helper.pid);
        pids.filter(|pid| *pid != 0).collect()
    })
    .unwrap_or_default()
}

/// How many workers go over a leaf together under this leader; 1 where it leads nobody.
pub fn members(leader: i32) -> usize {
    read(|teams| {
        let team = teams.iter().find(|team| team.leader == leader);
        let helpers = team.iter().flat_map(|team| &team.helpers);
        1 + helpers.filter(|helper| helper.pid != 0).count()
    })
    .unwrap_or(1)
}

/// The first block of what the helpers of a leader have taken and are not through with.
pub fn first_unfinished(leader: i32) -> Option<u32> {
    read(|teams| {
        let team = teams.iter().find(|team| team.leader == leader)?;
        let taken = team.helpers.iter().map(|helper| helper.taken);
        let lost = team.lost[..team.lost_count].iter().copied();
        let unfinished = taken.chain(lost).filter(|(start, end)| start < end);
        unfinished.map(|(start, _)| start).min()
    })
    .flatten()
}

/// What helpers left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    pub lost: Vec<Range<u32>>,
    pub obstacles: u32,
    pub sqlstate: Option<String>,
}

/// Takes what helpers left behind.
pub fn take_left(number: usize) -> Left {
    write(|teams| {
        let team = &mut teams[number];
        let mut lost: Vec<Range<u32>> = team.lost[..team.lost_count]
            .iter()
            .map(|(start, end)| *start..*end)
            .collect();
        lost.sort_unstable_by_key(|range| range.start);
        let sqlstate =
            (team.sqlstate[0] != 0).then(|| String::from_utf8_lossy(&team.sqlstate).into_owned());
        let obstacles = std::mem::take(&mut team.obstacles);
        team.lost_count = 0;
        team.sqlstate = [0; 5];
        Left {
            lost,
            obstacles,
            sqlstate,
        }
    })
    .unwrap_or_default()
}

/// Ends the teams of a leader: helpers that are still there stop after their batch.
pub fn close(leader: i32) {
    write(|teams| {
        for team in teams.iter_mut().filter(|team| team.leader == leader) {
            team.leader = 0;
            team.queued = 0;
            team.complete = true;
        }
    });
}

/// Whether the helper's team is still led by this process.
pub fn is_led(number: usize, leader: i32) -> bool {
    read(|teams| teams[number].leader == leader).unwrap_or(false)
}

/// Notes that a helper begins a batch, or is through with it.
pub fn mark_batch(pid: i32, begins: bool) {
    let now = if begins { xact::server_now() } else { 0 };
    write(|teams| {
        for helper in teams.iter_mut().flat_map(|team| &mut team.helpers) {
            if helper.pid == pid {
                helper.batch_since = now;
            }
        }
    });
}

/// The helpers in a database whose batch began before `since`, or all of them.
pub fn helpers_in(database: pg_sys::Oid, since: Option<i64>) -> Vec<i32> {
    read(|teams| {
        teams
            .iter()
            .filter(|team| team.task.database == database)
            .flat_map(|team| &team.helpers)
            .filter(|helper| helper.pid != 0)
            .filter(|helper| {
                since.is_none_or(|since| helper.batch_since != 0 && helper.batch_since < since)
            })
            .map(|helper| helper.pid)
            .collect()
    })
    .unwrap_or_default()
}
