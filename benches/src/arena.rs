//! Where measures run: a cluster as somebody would run it, databases that are copied for each run, and a sweep by
//! the worker from the moment it is let go until its run is done.

use integration::{Cluster, Result, Sql, poll};
use postgres::Client;

/// Sizes, from the environment.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Rows of a table.
    pub rows: u64,
    /// Pairs of runs, ours and the baseline's.
    pub pairs: usize,
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.replace('_', "").parse().ok())
        .unwrap_or(default)
}

impl Sizes {
    #[must_use]
    pub fn from_environment() -> Self {
        Sizes {
            rows: number("BENCH_ROWS", 2_000_000),
            pairs: usize::try_from(number("BENCH_PAIRS", 5))
                .unwrap_or(5)
                .max(1),
        }
    }
}

/// Settings of a server that does work: durable, with room for its WAL, and without autovacuum, which would come at
/// another moment in each run.
const CONF: [&str; 12] = [
    "fsync = on",
    "shared_buffers = 1GB",
    "max_wal_size = 16GB",
    "min_wal_size = 1GB",
    "checkpoint_timeout = 1h",
    "wal_level = replica",
    "wal_keep_size = 0",
    "autovacuum = off",
    "maintenance_work_mem = 256MB",
    "max_worker_processes = 24",
    "max_connections = 50",
    "track_io_timing = off",
];

/// Settings of the extension: the worker acts only when it is told to, and the fuse counts but lets everything through.
const OURS: [&str; 3] = [
    "custodian.naptime = '1h'",
    "custodian.disposal = off",
    "custodian.max_disposal_fraction = 1",
];

/// A cluster with the extension preloaded, and further libraries.
///
/// # Errors
/// If it does not start.
pub fn cluster(name: &str, libraries: &[&str], conf: &[&str]) -> Result<Cluster> {
    let mut builder = Cluster::builder(name).preload("pg_custodian");
    for library in libraries {
        builder = builder.preload(library);
    }
    for line in CONF.iter().chain(&OURS).chain(conf) {
        builder = builder.conf(line);
    }
    builder.start()
}

/// A cluster of the same settings without the extension.
///
/// # Errors
/// If it does not start.
pub fn bare(name: &str, conf: &[&str]) -> Result<Cluster> {
    let mut builder = Cluster::builder(name);
    for line in CONF.iter().chain(conf) {
        builder = builder.conf(line);
    }
    builder.start()
}

/// Makes the database that runs are copied from. Its tables are vacuumed and all in the buffers or on disk alike.
///
/// # Errors
/// If a statement fails.
pub fn prepare(node: &Cluster, database: &str, statements: &[&str]) -> Result<()> {
    let mut client = node.create_database(database)?;
    for statement in statements {
        client.batch_execute(statement)?;
    }
    client.batch_execute("VACUUM (FREEZE, ANALYZE)")?;
    Ok(())
}

/// A copy of a prepared database, as files; a checkpoint is before and after it. The tags come into the copy alone:
/// disposal is switched on for the whole cluster, and the prepared database must stay as it is.
///
/// # Errors
/// If the server refuses.
pub fn copy(node: &Cluster, of: &str, name: &str, tags: &str) -> Result<Client> {
    remove(node, name)?;
    node.exec(&format!(
        "CREATE DATABASE {name} TEMPLATE {of} STRATEGY file_copy"
    ))?;
    let mut client = node.client_as("postgres", name)?;
    client.batch_execute(tags)?;
    Ok(client)
}

/// The sides of a pair, the one that comes first in turn: 0 is the baseline, 1 is ours.
#[must_use]
pub fn in_turn(pair: usize) -> [usize; 2] {
    [pair % 2, 1 - pair % 2]
}

/// Which share of the batches in a database took no longer than a tenth of a second, as its metrics say; `None` without any.
///
/// # Errors
/// If the query fails.
pub fn short_batches(client: &mut Client) -> Result<Option<f64>> {
    let text = client.text(
        "SELECT sum(value) FILTER (WHERE name = 'custodian_batch_duration_seconds_bucket' AND labels ->> 'le' = '0.1')
                / nullif(sum(value) FILTER (WHERE name = 'custodian_batch_duration_seconds_count'), 0)
         FROM custodian.metrics",
    )?;
    Ok(text.parse().ok())
}

/// Removes a copy.
///
/// # Errors
/// If the server refuses.
pub fn remove(node: &Cluster, name: &str) -> Result<()> {
    node.exec(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
}

/// Waits for the scheduler of the database, so that its start is not measured.
///
/// # Errors
/// If none comes.
pub fn wait_for_scheduler(client: &mut Client) -> Result<()> {
    let alive = poll(120, || {
        let state =
            client.text("SELECT worker_alive AND last_success IS NOT NULL FROM custodian.status");
        matches!(state.as_deref(), Ok("t")).then_some(())
    });
    alive.ok_or_else(|| "no scheduler came".into())
}

/// Seconds from the moment that disposal is switched on until nothing is left to do, counting included; disposal is
/// off again afterwards. `runs` is how many runs must be done, one for each table.
///
/// # Errors
/// If a run fails, or none is done in half an hour.
pub fn sweep(node: &Cluster, client: &mut Client, runs: usize) -> Result<f64> {
    wait_for_scheduler(client)?;
    let before = client.text("SELECT clock_timestamp()")?;
    node.alter_system("custodian.disposal", "on")?;
    let done = poll(1800, || {
        let states = client
            .text("SELECT count(*) FILTER (WHERE state = 'done'), count(*) FILTER (WHERE state NOT IN ('done', 'running')) FROM custodian.runs")
            .unwrap_or_default();
        let (done, other) = states.split_once('|')?;
        if other != "0" {
            return Some(Err(client
                .text("SELECT * FROM custodian.runs")
                .unwrap_or_default()));
        }
        (done.parse::<usize>().ok()? >= runs).then_some(Ok(()))
    });
    node.alter_system("custodian.disposal", "off")?;
    match done {
        Some(Ok(())) => {}
        Some(Err(runs)) => return Err(format!("a sweep did not go through:\n{runs}").into()),
        None => return Err("no sweep was done in time".into()),
    }
    seconds(
        client,
        &format!("SELECT extract(epoch FROM max(finished_at) - '{before}') FROM custodian.runs"),
    )
}

/// Bytes in memory that the system has still to write to disk.
fn unwritten() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    Some((of("Dirty:")? + of("Writeback:")?) * 1024)
}

/// Waits until the disk is through with what was written before, as by a copy of a database: latencies measured meanwhile
/// would be those of the copy. No longer than a minute; says whether it came to that.
#[must_use]
pub fn quiet() -> bool {
    const LITTLE: u64 = 4 << 20;
    let _ = std::process::Command::new("sync").status();
    let written = poll(60, || (unwritten()? <= LITTLE).then_some(()));
    written.is_some()
}

/// Seconds that one statement takes, its commit included, by the server's clock.
///
/// # Errors
/// If it fails.
pub fn timed(client: &mut Client, statement: &str) -> Result<f64> {
    let before = client.text("SELECT clock_timestamp()")?;
    client.batch_execute(statement)?;
    seconds(
        client,
        &format!("SELECT extract(epoch FROM clock_timestamp() - '{before}')"),
    )
}

/// A number that a query gives.
///
/// # Errors
/// If it fails or gives none.
pub fn seconds(client: &mut Client, query: &str) -> Result<f64> {
    let text = client.text(query)?;
    text.parse()
        .map_err(|_| format!("{query} gave {text:?}, not a number").into())
}

/// Whether the extension has a setting, so that a measure of a later version says that it cannot be made.
///
/// # Errors
/// If the query fails.
pub fn has_setting(node: &Cluster, name: &str) -> Result<bool> {
    let found = node.text(&format!(
        "SELECT count(*) FROM pg_settings WHERE name = '{name}'"
    ))?;
    Ok(found == "1")
}
