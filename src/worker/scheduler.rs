//! The scheduler: one per database with the extension. Each round it plans every tagged table, and starts a
//! sweep where something is due.

use std::time::{Duration, Instant};

use pgrx::prelude::*;

use crate::guard::lane::archive;
use crate::guard::{sentinel, tls};
use crate::guc;
use crate::pg::{bgworker, latch, relation, report, xact};
use crate::worker::prune::Prune;
use crate::worker::records::Records;
use crate::worker::round::Rounds;
use crate::worker::shmem::{self, State};
use crate::worker::tidy::Tidy;

/// No more than two rounds begin within this time, however often the scheduler is woken: whoever wakes one that was idle
/// does not wait.
const TWO_ROUNDS: Duration = Duration::from_millis(500);

/// Starts a scheduler for a database; `false` when no worker can be had.
pub fn start(database: pg_sys::Oid) -> bool {
    bgworker::start(&bgworker::Worker {
        name: "pg_custodian scheduler",
        function: c"custodian_scheduler_main",
        argument: u64::from(database.to_u32()),
        extra: &[],
        restart: None,
        notify: latch::my_pid(),
    })
}

fn on_exit() {
    latch::wake(shmem::release_scheduler(latch::my_pid()));
}

/// What a round found about the extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Installed {
    No,
    /// Installed in another version than the library's.
    Other,
    Yes,
}

fn installed() -> Result<Installed, crate::pg::subxact::Caught> {
    xact::transaction(|| {
        xact::with_snapshot(|| {
            Ok(match relation::extension_version()? {
                None => Installed::No,
                Some(version) if version == env!("CARGO_PKG_VERSION") => Installed::Yes,
                Some(_) => Installed::Other,
            })
        })
    })
}

/// The scheduler's main function. It leaves when the extension is not there; the launcher restarts it when
/// it ended for any other reason.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn custodian_scheduler_main(arg: pg_sys::Datum) {
    let database = pg_sys::Oid::from(arg.value() as u32);
    bgworker::accept_signals();
    if !shmem::claim_scheduler(database, latch::my_pid()) {
        return;
    }
    bgworker::before_exit(on_exit);
    bgworker::connect(Some(database));
    let mut rounds = Rounds::default();
    let mut records = Records::default();
    let mut prune = Prune::default();
    let mut lasting = sentinel::Lasting::default();
    let mut tidy = Tidy::default();
    let mut archives = archive::Reporter::default();
    // When the last round began, and the one before.
    let mut begun: (Option<Instant>, Option<Instant>) = (None, None);
    loop {
        begun = (Some(Instant::now()), begun.0);
        if bgworker::reload_settings() {
            rounds.settings_changed();
            prune.settings_changed();
            tidy.settings_changed();
        }
        shmem::take_wake(database);
        pgrx::debug1!("a round of the pg_custodian scheduler begins");
        match installed() {
            Ok(Installed::No) => {
                archive::close(database);
                shmem::set_state(database, State::Absent);
                return;
            }
            Ok(Installed::Other) => {
                archive::close(database);
                shmem::set_state(database, State::Mismatch);
            }
            Ok(Installed::Yes) => {
                shmem::set_state(database, State::Active);
                tls::reconcile();
                sentinel::by_lanes(database);
                archives.report(database);
                lasting.look();
                records.look();
                match rounds.round(database) {
                    Ok(()) => shmem::set_success(database),
                    Err(caught) => report::log(
                        PgLogLevel::WARNING,
                        caught.describe("a round of the pg_custodian scheduler failed"),
                    ),
                }
                // Nobody waits for these, as they do for rows that are due.
                prune.look();
                tidy.look(database);
            }
            Err(caught) => report::log(
                PgLogLevel::LOG,
                caught.describe("could not look for extension pg_custodian"),
            ),
        }
        bgworker::report_idle();
        let spare = begun.1.map_or(Duration::ZERO, |before| {
            TWO_ROUNDS.saturating_sub(before.elapsed())
        });
        if pause(database, spare, rounds.waited(), &mut archives) {
            rounds.settings_changed();
            prune.settings_changed();
            tidy.settings_changed();
        }
    }
}

/// Waits for the next round: `spare`, then the nap time, of which the last round has `waited` a part, or until woken or told to
/// reread the settings, which it reports.
fn pause(
    database: pg_sys::Oid,
    spare: Duration,
    waited: Duration,
    archives: &mut archive::Reporter,
) -> bool {
    latch::sleep(spare);
    let nap = Duration::from_secs(u64::from(guc::naptime().unsigned_abs())).saturating_sub(waited);
    let start = Instant::now();
    while !shmem::slot(database).is_some_and(|slot| slot.wake) {
        if bgworker::reload_settings() {
            return true;
        }
        let left = nap.saturating_sub(start.elapsed());
        if left.is_zero() {
            break;
        }
        let left = archive::pause_on_report(database, left);
        if !latch::wait(sentinel::pause_on_lanes(database, left)) {
            sentinel::by_lanes(database);
            archives.report_closings(database);
        }
    }
    false
}
