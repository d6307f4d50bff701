//! What a sweep survives: each kind of trouble comes in its middle. After each, nothing went twice or wrongly, what was
//! committed stays counted, the sweep ends by itself, and the views told the truth in between.

mod killed;
mod marks;
mod updated;
mod views;

use std::process::Command;

use integration::{Cluster, Result, Sql, Stop, wait_for_answer, wait_for_two_rounds, wait_until};

fn cluster(name: &str, conf: &[&str]) -> Result<Cluster> {
    let mut builder = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.batch_target = 1ms");
    for line in conf {
        builder = builder.conf(line);
    }
    builder.start()
}

/// A table of which 300 of 400 rows go, one in each block. Batches are slow, so that the first of a sweep has 128 blocks, the
/// next 12, and all others one; what went is noted in the batch's own transaction.
const SLOW: &str = "
    CREATE EXTENSION IF NOT EXISTS pg_custodian;
    CREATE TABLE log (id bigint PRIMARY KEY, body text, at timestamptz NOT NULL);
    ALTER TABLE log ALTER body SET STORAGE PLAIN;
    CREATE TABLE gone (id bigint);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO public.gone SELECT id FROM old; PERFORM pg_sleep(0.05); RETURN NULL; END';
    CREATE TRIGGER note AFTER DELETE ON log REFERENCING OLD TABLE AS old FOR EACH STATEMENT EXECUTE FUNCTION note();
    INSERT INTO log SELECT n, repeat('x', 7000), now() - interval '1 year' FROM generate_series(1, 300) n;
    INSERT INTO log SELECT n, repeat('x', 7000), now() FROM generate_series(301, 400) n;
    SELECT custodian.define_purpose('test.log', 'contract', '100 days');
    SELECT custodian.tag_table('log', clock => 'at', on_expiry => 'delete');
    SELECT custodian.tag_column('log', 'body', 'user.behavior', '{test.log}')";

/// Waits until a sweep is at work and more rows are gone than `before`; gives how many.
fn mid_sweep(node: &Cluster, before: i64) -> i64 {
    let mut done = 0;
    wait_until("a sweep is at work", 120, || {
        done = node
            .text("SELECT coalesce(max(rows_done), 0) FROM custodian.runs WHERE state = 'running'")
            .ok()
            .and_then(|rows| rows.parse().ok())
            .unwrap_or(0);
        done > before
    });
    assert!(done < 300, "the sweep was through too soon");
    done
}

/// What the views say is what is the case, at one moment: rows that are counted are those that went, none of them twice.
fn truth(node: &Cluster) -> Result<()> {
    assert_eq!(
        node.text(
            "SELECT coalesce(sum(rows_done), 0) = (SELECT count(*) FROM gone),
                    (SELECT count(*) = count(DISTINCT id) AND count(*) = 400 - (SELECT count(*) FROM log) FROM gone)
             FROM custodian.runs WHERE relation_name LIKE '%log%'"
        )?,
        "t|t"
    );
    Ok(())
}

fn all_gone_once(node: &Cluster, table: &str) -> Result<()> {
    wait_for_answer(
        node,
        &format!("SELECT count(*), min(id) FROM {table}"),
        "100|301",
    );
    assert_eq!(
        node.text("SELECT count(*), count(DISTINCT id), max(id) FROM gone")?,
        "300|300|300"
    );
    wait_for_answer(
        node,
        "SELECT sum(rows_done), bool_or(state IN ('running', 'interrupted', 'failed')) FROM custodian.runs
         WHERE relation_name LIKE '%log%'",
        "300|f",
    );
    wait_for_answer(node, "SELECT count(*) FROM custodian.progress", "0");
    Ok(())
}

/// Kills (SIGKILL) the process that the query gives, and waits for the server to recover by itself.
fn kill(node: &Cluster, what: &str, query: &str) -> Result<()> {
    let before = node.log().matches("was terminated by signal 9").count();
    let mut pid = 0;
    wait_until(what, 120, || {
        pid = node
            .text(query)
            .ok()
            .and_then(|pid| pid.parse().ok())
            .unwrap_or(0);
        pid != 0
    });
    node.kill_backend(pid)?;
    recovered(node, before);
    Ok(())
}

/// Waits until the server serves again after a crash that comes behind so many.
fn recovered(node: &Cluster, crashes: usize) {
    wait_until("the server has recovered", 90, || {
        node.log().matches("was terminated by signal 9").count() > crashes
            && node.text("SELECT 1").is_ok()
    });
}

#[test]
fn a_worker_that_is_killed_in_any_phase_loses_no_more_than_its_batch() -> Result<()> {
    let node = cluster("killed", &[])?;
    let worker = |kind: &str, activity: &str| {
        format!(
            "SELECT pid FROM pg_stat_activity
             WHERE backend_type = 'pg_custodian {kind}' AND query LIKE 'pg_custodian{activity}' ORDER BY pid LIMIT 1"
        )
    };
    // While it counts: a lock on the table keeps it there.
    let mut blocker = node.client()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.alter_system("custodian.disposal", "off")?;
    node.exec(SLOW)?;
    blocker.batch_execute("BEGIN; LOCK TABLE log")?;
    node.alter_system("custodian.disposal", "on")?;
    kill(
        &node,
        "the scheduler counts",
        &format!(
            "{} ",
            worker("scheduler", ": planning %")
                .replace("ORDER BY", "AND wait_event_type = 'Lock' ORDER BY")
        ),
    )?;
    drop(blocker);

    // While it waits.
    const WAITS: &str = "SELECT waits_for FROM custodian.progress WHERE state = 'running'";
    const SLOT: &str = "replication slot forgotten holds back more than custodian.max_slot_wal";
    node.alter_system("custodian.disposal", "off")?;
    node.exec("SELECT pg_create_physical_replication_slot('forgotten', true)")?;
    node.exec(
        "CREATE TABLE filler AS SELECT repeat('y', 1000) AS y FROM generate_series(1, 2000)",
    )?;
    node.alter_system("custodian.max_slot_wal", "1MB")?;
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(&node, WAITS, SLOT);
    kill(&node, "a sweep waits", &worker("sweep", " run %"))?;
    wait_for_answer(&node, WAITS, SLOT);
    assert_eq!(node.text("SELECT count(*) FROM log")?, "400");
    node.alter_system("custodian.max_slot_wal", "0")?;

    // In a batch, and then the scheduler and the launcher meanwhile.
    kill(&node, "a sweep deletes", &worker("sweep", " run %"))?;
    truth(&node)?;
    let done = mid_sweep(&node, 0);
    kill(&node, "a scheduler waits", &worker("scheduler", "%"))?;
    truth(&node)?;
    mid_sweep(&node, done - 1);
    kill(
        &node,
        "a launcher",
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_custodian launcher'",
    )?;
    truth(&node)?;
    all_gone_once(&node, "log")
}

#[test]
fn a_table_that_is_renamed_altered_or_dropped_in_mid_sweep_is_followed_or_let_go() -> Result<()> {
    let node = cluster("altered", &[])?;
    node.exec(SLOW)?;
    let done = mid_sweep(&node, 0);
    node.exec("ALTER TABLE log RENAME TO log2; ALTER TABLE log2 RENAME COLUMN at TO moment")?;
    let done = mid_sweep(&node, done - 1);
    node.exec(
        "ALTER TABLE log2 ADD COLUMN more int DEFAULT 1; ALTER TABLE log2 ALTER id TYPE numeric",
    )?;
    let done = mid_sweep(&node, done.min(1));
    assert!(done > 0);
    // An extension that is updated ends its workers first.
    node.exec("ALTER EXTENSION pg_custodian UPDATE")?;
    all_gone_once(&node, "log2")?;

    node.exec("DROP TABLE log2, gone")?;
    node.exec("DROP FUNCTION note")?;
    node.exec(SLOW)?;
    mid_sweep(&node, 0);
    node.exec("DROP TABLE log")?;
    wait_for_answer(
        &node,
        "SELECT state, relation IS NULL FROM custodian.runs ORDER BY run_id DESC LIMIT 1",
        "superseded|t",
    );
    assert_eq!(
        node.text("SELECT rows_done = (SELECT count(*) FROM gone) FROM custodian.runs ORDER BY run_id DESC LIMIT 1")?,
        "t"
    );
    wait_for_answer(&node, "SELECT count(*) FROM custodian.progress", "0");
    assert_eq!(
        node.text(
            "SELECT count(*) FROM custodian.check() WHERE code IN ('run-failed', 'check-failed')"
        )?,
        "0"
    );
    Ok(())
}

#[test]
fn a_database_or_extension_that_is_dropped_in_mid_sweep_is_left_at_once() -> Result<()> {
    let node = cluster("dropped", &[])?;
    let mut app = node.create_database("app")?;
    app.batch_execute(SLOW)?;
    wait_until("a sweep is at work", 120, || {
        app.text("SELECT rows_done > 0 FROM custodian.runs WHERE state = 'running'")
            .is_ok_and(|at_work| at_work == "t")
    });
    app.batch_execute("DROP EXTENSION pg_custodian")?;
    let left = app.text("SELECT count(*) FROM log")?;
    assert_eq!(
        app.text("SELECT 400 - count(*) FROM gone")?,
        left,
        "the last batch is in both or in neither"
    );
    app.batch_execute("DROP TABLE log, gone; DROP FUNCTION note")?;
    app.batch_execute(SLOW)?;
    wait_until("a sweep is at work", 120, || {
        app.text("SELECT rows_done > 0 FROM custodian.runs WHERE state = 'running'")
            .is_ok_and(|at_work| at_work == "t")
    });
    drop(app);
    node.exec("DROP DATABASE app WITH (FORCE)")?;
    wait_for_answer(
        &node,
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg\\_custodian s%'",
        "0",
    );
    for bad in ["PANIC", "terminated by signal"] {
        assert!(!node.log().contains(bad), "the log has {bad}");
    }
    Ok(())
}

#[test]
fn locks_and_old_snapshots_hold_up_what_they_are_about_and_nothing_else() -> Result<()> {
    let node = cluster("locks", &[])?;
    // An old snapshot, which still sees everything at the end.
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.alter_system("custodian.disposal", "off")?;
    node.exec(SLOW)?;
    let mut old = node.client()?;
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM log")?;
    // A row that somebody has locked and does not let go of.
    let mut row = node.client()?;
    row.batch_execute("BEGIN; SELECT FROM log WHERE id = 150 FOR UPDATE")?;
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(&node, "SELECT count(*) FROM log", "101");
    wait_for_answer(
        &node,
        "SELECT sqlstate FROM custodian.quarantined_rows",
        "55P03",
    );
    // Its batch was tried again, and so was every half of it.
    wait_for_answer(&node, "SELECT max(retries) > 3 FROM custodian.runs", "t");
    assert_eq!(old.text("SELECT count(*) FROM log")?, "400");
    assert_eq!(
        node.text("SELECT problem LIKE '%SQLSTATE 55P03%' FROM custodian.check() WHERE code = 'undisposable-rows'")?,
        "t"
    );
    row.batch_execute("ROLLBACK")?;
    all_gone_once_but_for_failures(&node)?;
    // Nothing is swept again because of the old snapshot.
    let runs = node.text("SELECT max(run_id) FROM custodian.runs")?;
    for _ in 0..2 {
        let last = node.text("SELECT last_success FROM custodian.status")?;
        wait_for_answer(
            &node,
            &format!("SELECT last_success > '{last}' FROM custodian.status"),
            "t",
        );
    }
    assert_eq!(node.text("SELECT max(run_id) FROM custodian.runs")?, runs);
    assert_eq!(old.text("SELECT count(*) FROM log")?, "400");
    old.batch_execute("COMMIT")?;

    // A lock on the whole table that outlasts several attempts.
    node.exec(
        "INSERT INTO log SELECT n, 'x', now() - interval '1 year' FROM generate_series(1, 10) n",
    )?;
    let mut table = node.client()?;
    table.batch_execute("BEGIN; LOCK TABLE log IN SHARE MODE")?;
    node.exec("SELECT custodian.record_policy()")?;
    wait_for_answer(
        &node,
        "SELECT reason FROM custodian.runs WHERE state = 'interrupted'",
        "the table or the policy is locked by another session",
    );
    let attempts = || node.text("SELECT count(*) FROM custodian.runs");
    let before = attempts()?;
    let last = node.text("SELECT last_success FROM custodian.status")?;
    wait_for_answer(
        &node,
        &format!("SELECT last_success > '{last}' FROM custodian.status"),
        "t",
    );
    assert_eq!(attempts()?, before, "an attempt is no new run");
    table.batch_execute("ROLLBACK")?;
    wait_for_answer(&node, "SELECT count(*) FROM log", "100");
    wait_for_answer(&node, "SELECT count(*) FROM custodian.progress", "0");
    Ok(())
}

/// As [`all_gone_once`], where the run that had to leave a row failed, and another took it.
fn all_gone_once_but_for_failures(node: &Cluster) -> Result<()> {
    wait_for_answer(node, "SELECT count(*), min(id) FROM log", "100|301");
    wait_for_answer(
        node,
        "SELECT sum(rows_done) FROM custodian.runs WHERE state IN ('done', 'failed')",
        "300",
    );
    assert_eq!(
        node.text("SELECT count(*), count(DISTINCT id) FROM gone")?,
        "300|300"
    );
    wait_for_answer(node, "SELECT count(*) FROM custodian.quarantined_rows", "0");
    Ok(())
}

#[test]
fn a_standby_that_is_promoted_in_mid_sweep_goes_on_where_the_primary_ended() -> Result<()> {
    let node = cluster("primary", &[])?;
    let standby = node.standby("promoted").start()?;
    node.exec(SLOW)?;
    mid_sweep(&node, 0);
    node.stop(Stop::Fast)?;
    // What the views say on a standby is what was the case on the primary.
    truth(&standby)?;
    let done = standby.text("SELECT count(*) FROM gone")?;
    assert_ne!(done, "300");
    standby.promote()?;
    all_gone_once(&standby, "log")?;
    assert_eq!(
        standby.text("SELECT state, rows_planned FROM custodian.runs")?,
        "done|300"
    );
    assert_eq!(standby.text("SELECT count(*) FROM custodian.pauses")?, "0");
    Ok(())
}

#[test]
fn a_recovery_to_a_moment_in_mid_sweep_asks_before_it_goes_on() -> Result<()> {
    let node = cluster("original", &[])?;
    let copy = node
        .standby("copy")
        .conf("recovery_target_name = 'here'")
        .conf("recovery_target_action = 'promote'")
        .start()?;
    node.exec(SLOW)?;
    mid_sweep(&node, 0);
    node.exec("SELECT pg_create_restore_point('here')")?;
    wait_for_answer(&copy, "SELECT pg_is_in_recovery()", "f");
    wait_for_answer(&copy, "SELECT cause FROM custodian.pauses", "restored");
    wait_for_answer(
        &copy,
        "SELECT state FROM custodian.runs ORDER BY run_id LIMIT 1",
        "interrupted",
    );
    truth(&copy)?;
    let gone = copy.text("SELECT count(*) FROM gone")?;
    assert_ne!(gone, "300");
    wait_for_two_rounds(&copy);
    assert_eq!(copy.text("SELECT count(*) FROM gone")?, gone);
    truth(&copy)?;
    copy.exec("SELECT custodian.resume('it is the cluster that serves now')")?;
    all_gone_once(&copy, "log")
}

#[test]
fn a_logical_subscriber_loses_the_rows_as_well() -> Result<()> {
    let node = cluster("publisher", &[])?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.alter_system("custodian.disposal", "off")?;
    node.exec(SLOW)?;
    node.exec("CREATE PUBLICATION logs FOR TABLE log")?;
    let subscriber = Cluster::builder("subscriber").start()?;
    subscriber
        .exec("CREATE TABLE log (id bigint PRIMARY KEY, body text, at timestamptz NOT NULL)")?;
    subscriber.exec(&format!(
        "CREATE SUBSCRIPTION logs CONNECTION '{}' PUBLICATION logs",
        node.conninfo("postgres", "postgres")
    ))?;
    wait_for_answer(&subscriber, "SELECT count(*) FROM log", "400");
    node.alter_system("custodian.disposal", "on")?;
    let done = mid_sweep(&node, 0);
    // It ends in the middle of the stream, and takes the rest up again.
    subscriber.stop(Stop::Immediate)?;
    mid_sweep(&node, done);
    subscriber.start()?;
    all_gone_once(&node, "log")?;
    wait_for_answer(&subscriber, "SELECT count(*), min(id) FROM log", "100|301");
    subscriber.exec("DROP SUBSCRIPTION logs")
}

/// A small disk of its own, unmounted at the end.
struct Disk(std::path::PathBuf);

impl Disk {
    fn mount(path: std::path::PathBuf, like: &std::path::Path) -> Result<Disk> {
        use std::os::unix::fs::MetadataExt;
        std::fs::create_dir(&path)?;
        let owner = std::fs::metadata(like)?;
        let options = format!("size=4m,mode=700,uid={},gid={}", owner.uid(), owner.gid());
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&path)
            .output()?;
        if mounted.status.success() {
            return Ok(Disk(path));
        }
        Err(String::from_utf8_lossy(&mounted.stderr).into_owned().into())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A cluster with a tablespace `small` on a disk of its own, where nothing is disposed of yet; `None` where none can be mounted.
fn with_small_disk(name: &str) -> Result<Option<(Cluster, Disk)>> {
    // SAFETY: asks who this process is.
    if unsafe { libc::geteuid() } != 0 {
        integration::not_run("only root can mount a small disk");
        return Ok(None);
    }
    let node = cluster(name, &[])?;
    let disk = Disk::mount(node.dir().join("small"), &node.data_dir())?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.alter_system("custodian.disposal", "off")?;
    node.exec(&format!(
        "CREATE TABLESPACE small LOCATION '{}'",
        disk.0.display()
    ))?;
    Ok(Some((node, disk)))
}

#[test]
fn a_full_disk_stops_the_run_blames_no_row_and_the_rest_goes_once_there_is_room() -> Result<()> {
    let Some((node, disk)) = with_small_disk("full")? else {
        return Ok(());
    };
    // Rows that fill their pages: a changed one needs a new page.
    node.exec(
        "CREATE TABLE note (id bigint, body text, at timestamptz NOT NULL) TABLESPACE small;
         INSERT INTO note SELECT n, repeat('x', 200), now() - interval '1 year' FROM generate_series(1, 3000) n;
         SELECT custodian.define_purpose('test.note', 'contract', '100 days');
         SELECT custodian.tag_table('note', clock => 'at');
         SELECT custodian.tag_column('note', 'body', 'user.behavior', '{test.note}', on_expiry => 'set_null')",
    )?;
    let filler = disk.0.join("filler");
    let full = std::fs::write(&filler, vec![0; 4 << 20]);
    assert!(full.is_err(), "the disk is full");
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(
        &node,
        "SELECT state, sqlstate FROM custodian.runs WHERE state = 'failed'",
        "failed|53100",
    );
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.quarantined_rows")?,
        "0"
    );
    assert_eq!(
        node.text(
            "SELECT remedy LIKE '%disk is full%' FROM custodian.check() WHERE code = 'run-failed'"
        )?,
        "t"
    );
    assert_eq!(
        node.text("SELECT sum(rows_done) = (SELECT count(*) FROM note WHERE body IS NULL) FROM custodian.runs")?,
        "t"
    );
    std::fs::remove_file(&filler)?;
    wait_for_answer(
        &node,
        "SELECT count(*) FROM note WHERE body IS NOT NULL",
        "0",
    );
    wait_for_answer(&node, "SELECT sum(rows_done) FROM custodian.runs", "3000");
    drop(node);
    drop(disk);
    Ok(())
}

#[test]
fn a_full_disk_stops_a_run_that_deletes_and_the_rest_goes_once_there_is_room() -> Result<()> {
    let Some((node, disk)) = with_small_disk("full-of-traces")? else {
        return Ok(());
    };
    node.exec(SLOW)?;
    // To delete needs no room. What the application notes of it does.
    node.exec(
        "ALTER TABLE gone ADD trace text; ALTER TABLE gone ALTER trace SET STORAGE PLAIN;
         ALTER TABLE gone SET TABLESPACE small;
         CREATE OR REPLACE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO public.gone SELECT id, repeat(''x'', 3000) FROM old; RETURN NULL; END'",
    )?;
    // Some of it fits.
    let filler = disk.0.join("filler");
    std::fs::write(&filler, vec![0; (4 << 20) - (400 << 10)])?;
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(
        &node,
        "SELECT state, sqlstate, rows_done > 0 FROM custodian.runs WHERE state = 'failed' AND rows_done > 0",
        "failed|53100|t",
    );
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.quarantined_rows")?,
        "0"
    );
    truth(&node)?;
    std::fs::remove_file(&filler)?;
    all_gone_once_but_for_failures(&node)?;
    drop(node);
    drop(disk);
    Ok(())
}
