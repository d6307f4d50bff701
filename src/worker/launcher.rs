//! The launcher: one per cluster. It finds the databases, has a short-lived scheduler look whether the
//! extension is there, and keeps one running where it is.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use pgrx::prelude::*;

use crate::guard;
use crate::guard::lane::archive;
use crate::guc;
use crate::pg::{bgworker, database, latch, report, xact};
use crate::worker::shmem::{self, Wish};
use crate::worker::silence::{self, Silence};
use crate::worker::{pacing, scheduler};

/// How often all databases are gone through when nothing asks for it.
const ROUND: Duration = Duration::from_secs(60);

/// How often all databases are gone through while one of them has no room.
const ROOM: Duration = Duration::from_secs(5);

/// How many databases are looked into at the same time, so that a cluster of many databases does not take
/// every slot of max_worker_processes.
const LOOKERS: usize = 2;

/// Registers the launcher. Only while preloading.
pub fn init() {
    let registered = bgworker::register_static(&bgworker::Worker {
        name: "pg_custodian launcher",
        function: c"custodian_launcher_main",
        argument: 0,
        extra: &[],
        restart: Some(1),
        notify: 0,
    });
    if !registered {
        silence::no_launcher();
    }
}

fn on_exit() {
    shmem::release_launcher(latch::my_pid());
}

/// The launcher's main function. It ends only on SIGTERM, and then with exit code 1, so that the postmaster
/// restarts it unless the server shuts down. On a standby it does not run: the postmaster starts it with the
/// promotion.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn custodian_launcher_main(_arg: pg_sys::Datum) {
    bgworker::accept_signals();
    bgworker::before_exit(on_exit);
    if !shmem::claim_launcher(latch::my_pid()) {
        bgworker::exit_for_restart();
    }
    bgworker::connect(None);
    let mut launcher = Launcher::default();
    let mut lanes = archive::Watch::default();
    loop {
        bgworker::reload_settings();
        guard::active::reload();
        guard::active::look_again();
        let rules = guard::active::current();
        guard::sentinel::settings(&rules);
        guard::sentinel::by_rules(&rules);
        let pause = guard::sentinel::pause(launcher.round());
        lanes.judge(|database| launcher.absent.contains(&database.to_u32()));
        let pause = lanes.pause(pause);
        bgworker::report_idle();
        latch::wait(pause);
    }
}

/// What the launcher knows about databases; rebuilt by looking when it is restarted.
#[derive(Default)]
struct Launcher {
    /// Databases in which a scheduler found no extension.
    absent: HashSet<u32>,
    /// When schedulers were started, to slow down where they end at once.
    starts: HashMap<u32, Start>,
    /// Databases for which no scheduler could be had.
    starved: BTreeSet<u32>,
    /// Databases for which there is no room in shared memory.
    unplaced: BTreeSet<u32>,
    silence: Silence,
}

/// What came of starting a scheduler.
enum Started {
    Yes,
    /// Every slot of max_worker_processes is taken.
    NoWorker,
    /// As many databases have one as can.
    NoRoom,
}

#[derive(Clone, Copy)]
struct Start {
    at: i64,
    quick: u32,
}

impl Launcher {
    /// Goes through all databases once; says how long nothing is to be done.
    fn round(&mut self) -> Duration {
        pgrx::debug1!("the pg_custodian launcher goes through the databases");
        let databases =
            match xact::transaction(|| xact::with_snapshot(|| Ok(database::connectable()))) {
                Ok(databases) => databases,
                Err(caught) => {
                    report::log(
                        PgLogLevel::LOG,
                        caught.describe("could not list the databases"),
                    );
                    return ROUND;
                }
            };
        let alive: HashSet<u32> = databases.iter().map(|oid| oid.to_u32()).collect();
        self.absent.retain(|oid| alive.contains(oid));
        self.starts.retain(|oid, _| alive.contains(oid));

        let now = xact::server_now();
        let mut pause = ROUND;
        let mut starved = false;
        for database in databases {
            let oid = database.to_u32();
            match shmem::wish(database) {
                Wish::Taken => {}
                Wish::Barred(until) => pause = pause.min(pacing::until(now, until)),
                Wish::Absent => {
                    self.absent.insert(oid);
                    self.starts.remove(&oid);
                }
                Wish::Free { woken: false } if self.absent.contains(&oid) => {}
                Wish::Free { woken } => {
                    self.absent.remove(&oid);
                    let wait = self.delay(oid, now, woken);
                    if wait > Duration::ZERO {
                        pause = pause.min(wait);
                    } else if starved || shmem::looking() >= LOOKERS {
                        // The end of a looking scheduler wakes the launcher, and so does the first round of one
                        // that stays; the pause is for one that never came up, or whose round takes long.
                        pause = pause.min(Duration::from_secs(1));
                    } else {
                        match self.start(database, now) {
                            Started::Yes => pause = pause.min(Duration::from_secs(5)),
                            // The others may have theirs.
                            Started::NoRoom => {
                                self.unplaced.insert(oid);
                            }
                            Started::NoWorker => {
                                starved = true;
                                let nap =
                                    Duration::from_secs(u64::from(guc::naptime().unsigned_abs()));
                                pause = pause.min(Duration::from_secs(5)).min(nap);
                            }
                        }
                    }
                }
            }
        }
        self.starved.retain(|database| alive.contains(database));
        self.silence.of_schedulers(&self.starved);
        self.unplaced.retain(|database| alive.contains(database));
        self.silence.of_room(&self.unplaced);
        let freed = shmem::forget(
            |database| alive.contains(&database.to_u32()),
            |database| !self.absent.contains(&database.to_u32()),
        );
        if !self.unplaced.is_empty() {
            // There is room for one of them now, or will be when a database that is gone need not be kept free any more,
            // of which nobody tells.
            pause = if freed {
                Duration::ZERO
            } else {
                pause.min(ROOM)
            };
        }
        pause.max(Duration::from_millis(20))
    }

    /// How long to wait before a scheduler is started again where the last one ended soon.
    fn delay(&mut self, oid: u32, now: i64, woken: bool) -> Duration {
        match self.starts.get(&oid) {
            Some(start) if !woken => {
                pacing::until(now, start.at + pacing::restart_pause(start.quick))
            }
            _ => Duration::ZERO,
        }
    }

    fn start(&mut self, database: pg_sys::Oid, now: i64) -> Started {
        if !shmem::mark_starting(database) {
            return Started::NoRoom;
        }
        self.unplaced.remove(&database.to_u32());
        if !scheduler::start(database) {
            shmem::mark_not_started(database);
            self.starved.insert(database.to_u32());
            return Started::NoWorker;
        }
        if self.starved.remove(&database.to_u32()) {
            shmem::clear_starved(database);
        }
        let start = self
            .starts
            .entry(database.to_u32())
            .or_insert(Start { at: now, quick: 0 });
        let lived = now - start.at;
        start.quick = if lived < pacing::LONG_LIFE {
            start.quick + 1
        } else {
            0
        };
        start.at = now;
        Started::Yes
    }
}
