//! Several workers on one leaf: the worker of the run leads, and helpers take ranges of blocks from it.

use std::ops::Range;
use std::time::Duration;

use pgrx::prelude::*;

use super::{End, LOCK_TIMEOUT, Part, Sweep, transaction};
use crate::guc::pace;
use crate::pg::subxact::Caught;
use crate::pg::{bgworker, latch, report, timeout, xact};
use crate::policy::reach::Reach;
use crate::policy::render::{self, SEGMENT};
use crate::worker::pacing::BatchSize;
use crate::worker::team::{self, More, Task};
use crate::worker::{run, shmem, survey};

/// A leaf is gone over by several workers when that is at least this many blocks, 32 MB.
const WORTH_IT: u64 = 4 * SEGMENT as u64;

/// How often a worker that has nothing to take looks again.
const LOOK: Duration = Duration::from_millis(20);

/// The ranges cut into pieces of at most a segment.
fn pieces(ranges: &[Range<u32>]) -> Vec<Range<u32>> {
    ranges
        .iter()
        .flat_map(|range| {
            let end = range.end;
            range
                .clone()
                .step_by(SEGMENT as usize)
                .map(move |start| start..start.saturating_add(SEGMENT).min(end))
        })
        .collect()
}

/// Ends the team when it goes, also while an error unwinds.
struct Lead(i32);

impl Drop for Lead {
    fn drop(&mut self) {
        team::close(self.0);
    }
}

impl Sweep {
    /// Goes over the ranges, with helpers where the setting allows them and it is worth it. `skipped` blocks before them were
    /// passed by an earlier attempt.
    pub(super) fn go_over(
        &mut self,
        part: &mut Part,
        ranges: &[Range<u32>],
        skipped: u64,
        size: &mut BatchSize,
    ) -> std::result::Result<End, Caught> {
        let total: u64 = ranges.iter().map(|range| range.len() as u64).sum();
        let helpers = usize::try_from(pace::max_sweep_workers_per_table() - 1).unwrap_or(0);
        // What was reopened behind the watermark is not told to helpers.
        let looks_back = part.after.as_ref().is_some_and(Reach::looks_back);
        let number = (helpers > 0 && total >= WORTH_IT && !looks_back)
            .then(|| team::open(latch::my_pid(), self.task(part)))
            .flatten();
        match number {
            None => self.pass(part, ranges, size, (skipped, skipped + total)),
            Some(number) => {
                let _lead = Lead(latch::my_pid());
                let pieces = pieces(ranges);
                self.lead(part, number, &pieces, helpers, size, skipped)
            }
        }
    }

    fn task(&self, part: &Part) -> Task {
        let steps = render::steps(&self.work.plan);
        let step = steps.iter().position(|step| *step == part.step);
        Task {
            database: xact::database(),
            run: self.run.id,
            item: part.number,
            leaf: part.leaf.id,
            step: step
                .and_then(|step| u32::try_from(step).ok())
                .unwrap_or(u32::MAX),
            after: part.after.as_ref().map(|reach| reach.after),
            asked: self.throttle.asked(),
            by_places: part.places.is_some(),
        }
    }

    fn lead(
        &mut self,
        part: &mut Part,
        number: usize,
        pieces: &[Range<u32>],
        helpers: usize,
        size: &mut BatchSize,
        skipped: u64,
    ) -> std::result::Result<End, Caught> {
        let total = skipped + pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        let mut fed = team::feed(number, pieces);
        for _ in 0..helpers.min(pieces.len() - 1).min(team::HELPERS) {
            if !start(number) {
                break;
            }
        }
        let mut passed = skipped;
        let mut end = End::Through;
        loop {
            if fed < pieces.len() {
                fed += team::feed(number, &pieces[fed..]);
            }
            let Some(piece) = team::take(number) else {
                if fed < pieces.len() {
                    continue;
                }
                break;
            };
            // What others have taken counts as passed.
            let before = pieces[..fed]
                .iter()
                .take_while(|taken| taken.start < piece.start)
                .map(|taken| taken.len() as u64)
                .sum::<u64>();
            passed = passed.max(skipped + before);
            end = self.pass(part, std::slice::from_ref(&piece), size, (passed, total))?;
            if !matches!(end, End::Through) {
                break;
            }
        }
        team::stop(number);
        while !team::helpers(number).is_empty() {
            latch::wait(Duration::from_millis(500));
        }
        let left = team::take_left(number);
        self.obstacles += left.obstacles;
        if self.first_sqlstate.is_none() {
            self.first_sqlstate = left.sqlstate;
        }
        if matches!(end, End::Through) && !left.lost.is_empty() {
            end = self.pass(part, &left.lost, size, (total, total))?;
        }
        Ok(end)
    }

    /// Takes ranges from the leader until there are none.
    fn help(number: usize, leader: i32, task: Task) -> std::result::Result<(), Caught> {
        let Some(mut sweep) = transaction(|| Sweep::load(task.run, true, task.asked, None))? else {
            return Ok(());
        };
        sweep.leader = Some((number, leader));
        bgworker::report_activity(&format!(
            "pg_custodian run {}: {}",
            task.run, sweep.run.relation_name
        ));
        let plan = &sweep.work.plan;
        let steps = render::steps(plan);
        let step = steps.get(task.step as usize).copied();
        let leaf = plan.leaves.iter().find(|leaf| leaf.id == task.leaf);
        let (Some(step), Some(leaf)) = (step, leaf.cloned()) else {
            return Ok(());
        };
        let item = survey::item(plan, step, &leaf, 0);
        let entries = sweep.quarantine.of(&leaf, &item);
        let mut part = Part {
            step,
            leaf,
            after: task.after.map(Reach::since),
            number: task.item,
            filenode: None,
            places: None,
            except: entries.iter().map(|entry| entry.tid).collect(),
            item,
        };
        // The places are its own reading of the index; whether it goes by any is the leader's choice.
        if task.by_places {
            part.places = match sweep.named(&part) {
                Ok((_, _, places)) => places,
                Err(caught) => match sweep.outdated(&caught)? {
                    Some(_) => return Ok(()),
                    None => return Err(caught),
                },
            };
        }
        let mut size = sweep.first_size(&part)?;
        let outcome = loop {
            match team::take_as_helper(number, leader, latch::my_pid()) {
                More::Over => break Ok(()),
                More::Wait => {
                    latch::wait(LOOK);
                }
                More::Range(range) => {
                    let ranges = std::slice::from_ref(&range);
                    match sweep.pass(&mut part, ranges, &mut size, (0, 0)) {
                        Ok(End::Through) => {}
                        // The leader takes the range, and finds the same.
                        Ok(_) => break Ok(()),
                        Err(caught) => break Err(caught),
                    }
                }
            }
        };
        pgrx::debug1!(
            "a helper of pg_custodian run {} did {} batches",
            task.run,
            sweep.batches
        );
        let (id, spent) = (sweep.run.id, sweep.take_spent());
        sweep.hand_over_measures()?;
        team::report(
            number,
            latch::my_pid(),
            sweep.obstacles,
            sweep.first_sqlstate.as_deref(),
        );
        transaction(|| {
            xact::commit_asynchronously();
            run::account(id, &spent)
        })?;
        outcome
    }
}

/// Starts a helper; `false` when none can be had.
fn start(number: usize) -> bool {
    let mut extra = [0; 8];
    extra[..4].copy_from_slice(&latch::my_pid().to_le_bytes());
    extra[4..].copy_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
    bgworker::start(&bgworker::Worker {
        name: "pg_custodian sweep helper",
        function: c"custodian_helper_main",
        argument: u64::from(xact::database().to_u32()),
        extra: &extra,
        restart: None,
        notify: latch::my_pid(),
    })
}

fn on_exit() {
    latch::wake(team::leave(latch::my_pid()));
}

/// The main function of a helper.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn custodian_helper_main(arg: pg_sys::Datum) {
    let database = pg_sys::Oid::from(arg.value() as u32);
    let extra = bgworker::extra();
    let word = |at: usize| [extra[at], extra[at + 1], extra[at + 2], extra[at + 3]];
    let leader = i32::from_le_bytes(word(0));
    let number = u32::from_le_bytes(word(4)) as usize;
    bgworker::accept_signals();
    let Some(task) = team::join(number, leader, latch::my_pid()) else {
        return;
    };
    // Whoever asks the workers to leave either sees this one, or is seen here.
    if shmem::is_barred(database) {
        latch::wake(team::leave(latch::my_pid()));
        return;
    }
    bgworker::before_exit(on_exit);
    bgworker::connect(Some(database));
    timeout::give_way(LOCK_TIMEOUT);
    if let Err(caught) = Sweep::help(number, leader, task) {
        report::log(
            PgLogLevel::WARNING,
            caught.describe(&format!("a helper of pg_custodian run {} failed", task.run)),
        );
    }
    bgworker::report_idle();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_disjoint_and_leave_nothing_out() {
        let ranges = [5..7, 10..10 + 2 * SEGMENT + 1];
        let pieces = pieces(&ranges);
        assert_eq!(
            pieces,
            [
                5..7,
                10..10 + SEGMENT,
                10 + SEGMENT..10 + 2 * SEGMENT,
                10 + 2 * SEGMENT..10 + 2 * SEGMENT + 1
            ]
        );
    }
}
