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
    let node = arena::cluster(
        "cron",
        &["pg_cron"],
        &[
            "cron.database_name = 'postgres'",
            "cron.use_background_workers = on",
        ],
    )?;
    node.exec("CREATE EXTENSION pg_cron")?;
    arena::prepare(&node, "prepared", &[&visits(sizes.rows), EXTENSION, LOOP])?;
    let (mut values, mut baselines) = (Vec::new(), Vec::new());
    for _ in 0..sizes.pairs {
        let mut client = arena::copy(&node, "prepared", "run", TAGS)?;
        node.exec("DELETE FROM cron.job_run_details; SELECT cron.schedule_in_database('purge', '* * * * *', 'CALL purge()', 'run')")?;
        let started = poll(180, || {
            let n = node
                .text("SELECT count(*) FROM cron.job_run_details WHERE start_time IS NOT NULL")
                .ok()?;
            (n != "0").then_some(())
        });
        started.ok_or("pg_cron did not start the job")?;
        node.exec("SELECT cron.unschedule('purge')")?;
        let took = poll(1800, || {
            node.text("SELECT extract(epoch FROM end_time - start_time) FROM cron.job_run_details WHERE status = 'succeeded'")
                .ok()?
                .parse::<f64>()
                .ok()
        });
        let took = took.ok_or("the job of pg_cron did not succeed")?;
        let left =
            client.text("SELECT count(*) FROM visit WHERE seen < now() - interval '200 days'")?;
        if left != "0" {
            return Err(format!("pg_cron left {left} rows").into());
        }
        drop(client);
        let mut client = arena::copy(&node, "prepared", "run", TAGS)?;
        let ours = arena::sweep(&node, &mut client, 1)?;
        values.push(took / ours);
        baselines.push(sizes.rows as f64 / 10.0 / took);
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

/// `vs_partman`: retention by dropping partitions, against `run_maintenance` of `pg_partman`.
///
/// # Errors
/// If a statement fails.
pub fn partman(sizes: Sizes) -> Result<Vec<Figure>> {
    let node = arena::cluster("partman", &[], &["custodian.drop_partitions = on"])?;
    let rows = sizes.rows;
    arena::prepare(
        &node,
        "prepared",
        &[
            "CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman",
            "CREATE TABLE visit (id bigint, ip text, page text, seen timestamptz NOT NULL) PARTITION BY RANGE (seen)",
            "SELECT partman.create_parent('public.visit', 'seen', 'native', 'monthly', p_start_partition := (now() - interval '12 months')::text)",
            "UPDATE partman.part_config SET retention = '7 months', retention_keep_table = false, infinite_time_partitions = true",
            &format!(
                "INSERT INTO visit SELECT n, '10.0.0.' || n % 250, repeat('x', 60),
                     date_trunc('month', now()) - n % 12 * interval '1 month' + interval '1 hour' FROM generate_series(1::bigint, {rows}) n"
            ),
            "CREATE EXTENSION pg_custodian;
             SELECT custodian.define_purpose('shop.visit', 'contract', '7 months')",
        ],
    )?;
    let (mut values, mut baselines) = (Vec::new(), Vec::new());
    let mut dropped = 0.0;
    for _ in 0..sizes.pairs {
        let mut client = arena::copy(&node, "prepared", "run", TAGS)?;
        let took = arena::timed(
            &mut client,
            "SELECT partman.run_maintenance('public.visit')",
        )?;
        drop(client);
        let mut client = arena::copy(&node, "prepared", "run", TAGS)?;
        let count = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'visit'::regclass";
        let before = arena::seconds(&mut client, count)?;
        let ours = arena::sweep(&node, &mut client, 1)?;
        dropped = before - arena::seconds(&mut client, count)?;
        values.push(took / ours);
        baselines.push(took);
    }
    Ok(vec![Figure {
        name: "vs_partman".to_owned(),
        unit: "speed relative to pg_partman",
        target: Target::AtLeast(1.0),
        values,
        baselines,
        note: format!("{dropped} partitions dropped by us"),
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
