//! Waiting for an event, with a limit that is only there to end a test that would otherwise hang.

use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::{Cluster, Result, Sql};

/// How often a condition is tried.
const STEP: Duration = Duration::from_millis(50);

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not hold within `seconds`; the text names `what` was waited for.
#[track_caller]
pub fn wait_until(what: &str, seconds: u64, mut condition: impl FnMut() -> bool) {
    assert!(
        poll(seconds, || condition().then_some(())).is_some(),
        "waited {seconds} s in vain: {what}"
    );
}

/// Waits until `attempt` gives a value, and returns it.
///
/// # Panics
/// If it gives none within `seconds`; the text names `what` was waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, seconds: u64, attempt: impl FnMut() -> Option<T>) -> T {
    match poll(seconds, attempt) {
        Some(value) => value,
        None => panic!("waited {seconds} s in vain: {what}"),
    }
}

/// How long an answer is waited for, in seconds: machines of CI are slow, and share their processors.
const PATIENCE: u64 = 180;

/// What a failure shows of the worker's state, as far as the server has it.
const STATE: [&str; 5] = [
    "custodian.runs ORDER BY run_id",
    "custodian.run_items ORDER BY run_id, item",
    "custodian.watermarks",
    "custodian.reopening",
    "custodian.partition_drop",
];

/// Waits until a leaf was swept, with its triggers in place, and nothing is left to be looked at again. Without reading the
/// leaf, and with no whole table read where an index serves.
///
/// # Panics
/// As [`wait_for_answer`].
#[track_caller]
pub fn wait_until_swept(node: &Cluster, leaf: &str) {
    wait_for_answer(
        node,
        &format!(
            "SET enable_seqscan = off;
             SELECT (SELECT count(*) FROM custodian.watermarks
                     WHERE leaf = '{leaf}'::regclass AND watched AND swept_until IS NOT NULL),
                    (SELECT count(*) FROM custodian.reopening)
                    + (SELECT count(*) FROM custodian.watermark WHERE again_at > '-infinity' AND again <> '{{}}')"
        ),
        "1|0",
    );
}

/// Waits until the node answers the query with this text.
///
/// # Panics
/// If it does not within three minutes; the text shows the last answer, and what the worker was at.
#[track_caller]
pub fn wait_for_answer(node: &Cluster, query: &str, value: &str) {
    let mut last = String::new();
    let reached = poll(PATIENCE, || {
        last = node
            .text(query)
            .unwrap_or_else(|error| format!("error: {error}"));
        (last == value).then_some(())
    });
    let state = || {
        let rows = |from: &str| node.text(&format!("SELECT * FROM {from}"));
        STATE.map(|from| format!("{from}:\n{}", rows(from).unwrap_or_default()))
    };
    assert!(
        reached.is_some(),
        "{query}: expected {value:?}, is {last:?}\n{}",
        state().join("\n")
    );
}

/// Waits until the scheduler of the database `postgres` has finished two rounds, the second of which began after this
/// was called.
///
/// # Panics
/// As [`wait_for_answer`].
#[track_caller]
pub fn wait_for_two_rounds(node: &Cluster) {
    for _ in 0..2 {
        let last = node
            .text("SELECT last_success FROM custodian.status")
            .unwrap_or_default();
        let query = format!(
            "SELECT last_success IS DISTINCT FROM nullif('{last}', '')::timestamptz FROM custodian.status"
        );
        wait_for_answer(node, &query, "t");
    }
}

/// Tries until there is a value or the time is over.
pub fn poll<T>(seconds: u64, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(value) = attempt() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        sleep(STEP);
    }
}

/// Begins a query in a session of its own, and comes back once it waits for a lock.
///
/// # Errors
/// If there is no session to be had. The query's own is the thread's.
///
/// # Panics
/// If it waits for none within the time that a test may take.
#[track_caller]
pub fn blocked(node: &Cluster, sql: &'static str) -> Result<JoinHandle<Result<String>>> {
    let mut session = node.client()?;
    let running = thread::spawn(move || session.text(sql));
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE query = '{}' AND wait_event_type = 'Lock'",
        sql.replace('\'', "''")
    );
    wait_for_answer(node, &waiting, "1");
    Ok(running)
}
