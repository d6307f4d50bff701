//! What people use today: a batched DELETE under `pg_cron`, retention by `pg_partman`, and an application beside a sweep.

use std::fs;
use std::time::Duration;

use integration::{Cluster, Result, Sql, poll};

use crate::arena::{self, Sizes};
use crate::result::{Figure, Target, median};

const VISITS: &str = "
    CREATE TABLE visit (id bigint PRIMARY KEY, ip text, page text, seen timestamptz NOT NULL);
    CREATE INDEX ON visit (seen)";

fn visits(rows: u64) -> String {
    format!(
        "{VISITS};
         INSERT INTO visit SELECT n, '10.0.0.' || n % 250, repeat('x', 60),
             now() - CASE WHEN (n * 7919) % {rows} < {rows} / 10 THEN interval '250 days' ELSE interval '10 days' END
         FROM generate_series(1::bigint, {rows}) n"
    )
}

const EXTENSION: &str = "
    CREATE EXTENSION pg_custodian;
    SELECT custodian.define_purpose('shop.visit', 'contract', '200 days')";

const TAGS: &str = "
    SELECT custodian.tag_table('visit', clock => 'seen', on_expiry => 'delete');
    SELECT custodian.tag_column('visit', 'ip', 'user.device.ip_address', '{shop.visit}')";

/// The loop of countless wikis, with the planner left to find the rows.
const LOOP: &str = "
    CREATE PROCEDURE purge() LANGUAGE plpgsql AS $$
    DECLARE n bigint;
    BEGIN
        LOOP
            DELETE FROM visit WHERE ctid IN (SELECT ctid FROM visit WHERE seen < now() - interval '200 days' LIMIT 10000);
            GET DIAGNOSTICS n = ROW_COUNT;
            COMMIT;
            EXIT WHEN n = 0;
        END LOOP;
    END $$";

/// `vs_pg_cron`: rows per second against the batched loop that `pg_cron` runs.
///
/// # Errors
/// If a statement fails, or the job does not run.
pub fn cron(sizes: Sizes) -> Result<Vec<Figure>> {
    let theirs = arena::bare(
        "cron",
        &[
            "shared_preload_libraries = 'pg_cron'",
            "cron.database_name = 'postgres'",
            "cron.use_background_workers = on",
        ],
    )?;
    theirs.exec("CREATE EXTENSION pg_cron")?;
    arena::prepare(&theirs, "prepared", &[&visits(sizes.rows), LOOP])?;
    let ours = arena::cluster("cron-ours", &[], &[])?;
    arena::prepare(&ours, "prepared", &[&visits(sizes.rows), EXTENSION])?;
    let (mut values, mut baselines) = (Vec::new(), Vec::new());
    for pair in 0..sizes.pairs {
        let mut took = [0.0, 0.0];
        for side in arena::in_turn(pair) {
            took[side] = if side == 0 {
                purged(&theirs)?
            } else {
                let mut client = arena::copy(&ours, "prepared", "run", TAGS)?;
                arena::sweep(&ours, &mut client, 1)?
            };
        }
        values.push(took[0] / took[1]);
        baselines.push(sizes.rows as f64 / 10.0 / took[0]);
    }
    Ok(vec![Figure {
        name: "vs_pg_cron".to_owned(),
        unit: "speed relative to the batched loop under pg_cron",
        target: Target::AtLeast(3.0),
        values,
        baselines,
        note: String::new(),
    }])
}

/// Seconds that the loop takes under `pg_cron`, in a copy of the prepared database.
fn purged(node: &Cluster) -> Result<f64> {
    let mut client = arena::copy(node, "prepared", "run", "")?;
    node.exec("DELETE FROM cron.job_run_details; SELECT cron.schedule_in_database('purge', '* * * * *', 'CALL purge()', 'run')")?;
    let started = poll(180, || {
        let n = node
            .text("SELECT count(*) FROM cron.job_run_details WHERE start_time IS NOT NULL")
            .ok()?;
        (n != "0").then_some(())
    });
    started.ok_or("pg_cron did not start the job")?;
    // Not before it has ended: a job that is taken off the schedule is canceled.
    let took = poll(1800, || {
        let ended = node.text(
            "SELECT coalesce(extract(epoch FROM end_time - start_time)::text, '') || ' ' || status || ' ' || coalesce(return_message, '')
             FROM cron.job_run_details WHERE status IN ('succeeded', 'failed') ORDER BY runid LIMIT 1",
        );
        ended.ok().filter(|ended| !ended.is_empty())
    });
    node.exec("SELECT cron.unschedule('purge')")?;
    let ended = took.ok_or("the job of pg_cron did not end")?;
    let took = match ended.split_once(' ') {
        Some((took, rest)) if rest.starts_with("succeeded") => took.parse::<f64>(),
        _ => return Err(format!("the job of pg_cron ended so: {ended}").into()),
    };
    let took = took.map_err(|_| "pg_cron does not say how long its job took")?;
    let left =
        client.text("SELECT count(*) FROM visit WHERE seen < now() - interval '200 days'")?;
    if left != "0" {
        return Err(format!("pg_cron left {left} rows").into());
    }
    Ok(took)
}

/// How many days of visits are kept: until about the tenth of a month half a year ago, so that neither its partition nor any of
/// the rows in the middle of months lies near the edge.
fn retention(node: &Cluster) -> Result<String> {
    node.text("SELECT extract(day FROM now() - (date_trunc('month', now()) - interval '6 months' + interval '10 days')) || ' days'")
}

/// `vs_partman`: retention by dropping partitions, against `run_maintenance` of `pg_partman` on a server without the library.
///
/// # Errors
/// If a statement fails, or the two do not drop the same partitions.
pub fn partman(sizes: Sizes) -> Result<Vec<Figure>> {
    let nodes = [
        arena::bare("partman", &[])?,
        arena::cluster("partman-ours", &[], &["custodian.drop_partitions = on"])?,
    ];
    let rows = sizes.rows;
    let days = retention(&nodes[0])?;
    let extension = format!(
        "CREATE EXTENSION pg_custodian; SELECT custodian.define_purpose('shop.visit', 'contract', '{days}')"
    );
    for (side, node) in nodes.iter().enumerate() {
        let retention = format!(
            "UPDATE partman.part_config SET retention = '{days}', retention_keep_table = false, infinite_time_partitions = true"
        );
        let visits = format!(
            "INSERT INTO visit SELECT n, '10.0.0.' || n % 250, repeat('x', 60),
                 date_trunc('month', now()) - n % 12 * interval '1 month' + interval '14 days' FROM generate_series(1::bigint, {rows}) n"
        );
        let mut statements = vec![
            "CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman",
            "CREATE TABLE visit (id bigint, ip text, page text, seen timestamptz NOT NULL) PARTITION BY RANGE (seen)",
            "SELECT partman.create_parent('public.visit', 'seen', 'native', 'monthly', p_start_partition := (now() - interval '12 months')::text)",
            retention.as_str(),
            visits.as_str(),
        ];
        if side == 1 {
            statements.push(&extension);
        }
        arena::prepare(node, "prepared", &statements)?;
    }
    let (mut values, mut baselines) = (Vec::new(), Vec::new());
    let mut what = String::new();
    for pair in 0..sizes.pairs {
        let mut took = [0.0, 0.0];
        let mut left = [String::new(), String::new()];
        for side in arena::in_turn(pair) {
            let node = &nodes[side];
            let mut client =
                arena::copy(node, "prepared", "run", if side == 0 { "" } else { TAGS })?;
            // What is made for the time to come is no matter.
            let past = r"SELECT count(*) FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
                        WHERE inhparent = 'visit'::regclass
                          AND substring(pg_get_expr(relpartbound, c.oid) FROM $x$FROM \('([^']*)$x$)::timestamptz < now()";
            let before = client.text(past)?;
            took[side] = if side == 0 {
                arena::timed(
                    &mut client,
                    "SELECT partman.run_maintenance('public.visit')",
                )?
            } else {
                arena::sweep(node, &mut client, 1)?
            };
            let after = client.text(past)?;
            let rows = client.text("SELECT count(*) FROM visit")?;
            left[side] = format!("{after} of {before} past partitions with {rows} rows are left");
        }
        if left[0] != left[1] {
            return Err(format!("after pg_partman {}, after us {}", left[0], left[1]).into());
        }
        what.clone_from(&left[1]);
        values.push(took[0] / took[1]);
        baselines.push(took[0]);
    }
    Ok(vec![Figure {
        name: "vs_partman".to_owned(),
        unit: "speed relative to pg_partman",
        target: Target::AtLeast(1.0),
        values,
        baselines,
        note: format!("{what}, of either"),
    }])
}

/// The 99th percentile of latency in milliseconds of a slice of pgbench's TPC-B.
fn p99(node: &Cluster, seconds: u32, slice: usize) -> Result<f64> {
    let prefix = format!("pgbench-{slice}");
    node.program("pgbench")?
        .args([
            "-n",
            "-c",
            "4",
            "-j",
            "1",
            "-T",
            &seconds.to_string(),
            "-R",
            "200",
            "-l",
        ])
        .arg(format!("--log-prefix={prefix}"))
        .database("run")
        .timeout(u64::from(seconds) + 60)
        .run()?
        .ok()?;
    let mut latencies = Vec::new();
    for entry in fs::read_dir(node.dir())? {
        let path = entry?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if name.starts_with(&format!("{prefix}.")) {
            for line in fs::read_to_string(&path)?.lines() {
                latencies.extend(
                    line.split_whitespace()
                        .nth(2)
                        .and_then(|text| text.parse::<f64>().ok()),
                );
            }
            fs::remove_file(path)?;
        }
    }
    latencies.sort_by(f64::total_cmp);
    let at = latencies.len() * 99 / 100;
    latencies
        .get(at)
        .map(|micros| micros / 1000.0)
        .ok_or_else(|| "pgbench logged nothing".into())
}

/// `foreground_p99`: latency of an application while a paced sweep runs, against without; a second slice without it is the
/// control.
///
/// # Errors
/// If a statement fails.
pub fn foreground(sizes: Sizes) -> Result<Vec<Figure>> {
    const SLICE: u32 = 15;
    // Each page goes whole into the WAL when it is first written, about 100 bytes for each row of the table: at this rate, of
    // 10 MB per second for 2,000,000 rows, the sweep lasts longer than a slice.
    let pace = format!("custodian.max_wal_rate = '{}kB'", (sizes.rows / 200).max(1));
    let node = arena::cluster("foreground", &[], &[&pace])?;
    arena::prepare(&node, "prepared", &[&visits(sizes.rows), EXTENSION])?;
    node.program("pgbench")?
        .args(["-i", "-s", "10", "-q"])
        .database("prepared")
        .run()?
        .ok()?;
    node.client_as("postgres", "prepared")?
        .batch_execute("VACUUM (FREEZE, ANALYZE)")?;
    let (mut ours, mut control, mut baselines) = (Vec::new(), Vec::new(), Vec::new());
    let mut covered = Vec::new();
    let mut restless = 0;
    for pair in 0..sizes.pairs {
        let mut client = arena::copy(&node, "prepared", "run", TAGS)?;
        arena::wait_for_scheduler(&mut client)?;
        // Each slice begins with a disk that has nothing left to do.
        let mut quiet = || restless += usize::from(!arena::quiet());
        quiet();
        let without = p99(&node, SLICE, pair * 3)?;
        quiet();
        let again = p99(&node, SLICE, pair * 3 + 1)?;
        quiet();
        node.alter_system("custodian.disposal", "on")?;
        std::thread::sleep(Duration::from_millis(500));
        let with = p99(&node, SLICE, pair * 3 + 2)?;
        let took = client
            .text("SELECT extract(epoch FROM coalesce(finished_at, clock_timestamp()) - started_at) FROM custodian.runs ORDER BY run_id DESC LIMIT 1")?
            .parse::<f64>()
            .unwrap_or(0.0);
        covered.push((took / f64::from(SLICE)).min(1.0));
        node.alter_system("custodian.disposal", "off")?;
        ours.push(with / without);
        control.push(again / without);
        baselines.push(without);
    }
    Ok(vec![Figure {
        name: "foreground_p99".to_owned(),
        unit: "p99 latency relative to without a sweep",
        target: Target::AtMost(1.10),
        values: ours,
        baselines,
        note: format!(
            "control {:.3}; a sweep ran during {:.0}% of the slices; {restless} slices began before the disk was quiet",
            median(&control),
            100.0 * median(&covered)
        ),
    }])
}
