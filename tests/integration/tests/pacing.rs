//! How sweeps yield: they wait while a replica is behind or a slot holds WAL back, stay below a rate of WAL, and say so.

use integration::{Cluster, Result, Sql, wait_for_answer, wait_until};

const LOG: &str = "
    CREATE EXTENSION pg_custodian;
    CREATE TABLE log (id bigint PRIMARY KEY, body text, at timestamptz NOT NULL);
    ALTER TABLE log ALTER body SET STORAGE PLAIN;
    INSERT INTO log SELECT n, repeat('x', 3000), now() - interval '1 year' FROM generate_series(1, 600) n;
    SELECT custodian.define_purpose('test.log', 'contract', '100 days');
    SELECT custodian.tag_table('log', clock => 'at', on_expiry => 'delete');
    SELECT custodian.tag_column('log', 'body', 'user.behavior', '{test.log}')";

#[test]
fn a_sweep_waits_for_a_slot_says_so_and_goes_on_when_the_setting_changes() -> Result<()> {
    let node = Cluster::builder("slot")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.max_slot_wal = 1MB")
        .start()?;
    node.exec("SELECT pg_create_physical_replication_slot('forgotten', true)")?;
    node.exec(LOG)?;
    node.exec(
        "CREATE TABLE filler AS SELECT repeat('y', 1000) AS filler FROM generate_series(1, 5000)",
    )?;
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(
        &node,
        "SELECT relation, waits_for FROM custodian.progress",
        "log|replication slot forgotten holds back more than custodian.max_slot_wal",
    );
    assert_eq!(node.text("SELECT count(*) FROM log")?, "600");
    // A pause reaches a sweep that waits.
    node.exec("SELECT custodian.pause('enough')")?;
    wait_for_answer(
        &node,
        "SELECT state, reason FROM custodian.runs",
        "interrupted|disposal is paused",
    );
    node.exec("SELECT custodian.resume('on')")?;
    wait_for_answer(
        &node,
        "SELECT waits_for IS NOT NULL FROM custodian.progress",
        "t",
    );
    node.alter_system("custodian.max_slot_wal", "0")?;
    wait_for_answer(&node, "SELECT count(*) FROM log", "0");
    wait_for_answer(
        &node,
        "SELECT state, rows_done, waited > interval '0', wal_bytes > 10000 FROM custodian.runs",
        "done|600|t|t",
    );
    // What exporters read: seconds by what was waited for, a histogram of batches, and sums that outlive their runs.
    let metric = |name: &str, label: &str| {
        node.text(&format!(
            "SELECT value FROM custodian.metrics
             WHERE name = 'custodian_{name}' AND labels @> '{{\"relation\": \"public.log\"{label}}}'"
        ))
    };
    let number = |text: String| text.parse::<f64>().unwrap_or(f64::NAN);
    assert!(number(metric("waited_seconds_total", ", \"reason\": \"slot\"")?) >= 1.0);
    let batches = metric("batch_duration_seconds_count", "")?;
    assert!(number(batches.clone()) >= 1.0, "{batches}");
    assert_eq!(
        metric("batch_duration_seconds_bucket", ", \"le\": \"+Inf\"")?,
        batches
    );
    assert_eq!(
        node.text(
            "SELECT count(*), bool_and(value >= before) FROM (
                 SELECT value, lag(value, 1, 0.0::float8) OVER (ORDER BY (labels ->> 'le')::float8) AS before
                 FROM custodian.metrics WHERE name = 'custodian_batch_duration_seconds_bucket') buckets"
        )?,
        "10|t",
        "buckets are cumulative"
    );
    assert!(number(metric("batch_duration_seconds_sum", "")?) > 0.0);
    assert!(number(metric("wal_bytes_total", "")?) > 10_000.0);
    assert_eq!(metric("rows_disposed_total", "")?, "600");
    assert_eq!(metric("runs_total", ", \"state\": \"done\"")?, "1");
    // Rounds go on meanwhile: each value lies between what holds before and after it.
    const LAST: &str = "SELECT extract(epoch FROM last_success)::float8 FROM custodian.status";
    let of_all = |name: &str| {
        node.text(&format!(
            "SELECT value FROM custodian.metrics WHERE name = 'custodian_{name}' AND labels = '{{}}'"
        ))
    };
    let before = number(node.text(LAST)?);
    let last = number(of_all("last_success_timestamp_seconds")?);
    let after = number(node.text(LAST)?);
    assert!(before <= last && last <= after, "{before} {last} {after}");
    let began = number(node.text("SELECT extract(epoch FROM clock_timestamp())::float8")?);
    let age = number(of_all("last_success_age_seconds")?);
    let now = number(node.text("SELECT extract(epoch FROM clock_timestamp())::float8")?);
    assert!(age >= 0.0 && now - age >= after, "{age} {now} {after}");
    assert!(began - age <= number(node.text(LAST)?), "{began} {age}");
    node.exec(
        "UPDATE custodian.run SET finished_at = now() - interval '3 days', state = 'superseded'",
    )?;
    node.alter_system("custodian.run_retention", "2d")?;
    wait_for_answer(&node, "SELECT count(*) FROM custodian.runs", "0");
    assert_eq!(metric("rows_disposed_total", "")?, "600");
    Ok(())
}

#[test]
fn a_sweep_pauses_to_stay_below_its_rate_of_wal() -> Result<()> {
    let node = Cluster::builder("rate")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.batch_target = 1ms")
        .conf("custodian.max_wal_rate = 16kB")
        .start()?;
    node.exec(LOG)?;
    wait_for_answer(
        &node,
        "SELECT rows_done > 0 AND waited >= interval '1 second' FROM custodian.runs",
        "t",
    );
    // The sum of its pauses is what the rate asks for, less the time of the batches.
    wait_for_answer(&node, "SELECT state FROM custodian.runs", "done");
    assert_eq!(
        node.text(
            "SELECT finished_at - started_at >= make_interval(secs => wal_bytes / 16384.0 * 0.8) FROM custodian.runs"
        )?,
        "t"
    );
    Ok(())
}

/// Has each row of `log` take a tenth of a second, and sweeps: each of those that are due goes in a batch of its own.
fn one_by_one(node: &Cluster, due: u32) -> Result<()> {
    node.exec(
        "CREATE FUNCTION dear() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.1); RETURN old; END';
         CREATE TRIGGER dear BEFORE DELETE ON log FOR EACH ROW EXECUTE FUNCTION dear()",
    )?;
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(
        node,
        "SELECT state, rows_done, batches FROM custodian.runs",
        &format!("done|{due}|{due}"),
    );
    // No lock on a row was held for longer, not even by the first batch.
    assert_eq!(
        node.text(
            "SELECT DISTINCT value FROM custodian.metrics
             WHERE name = 'custodian_batch_duration_seconds_count'
                OR name = 'custodian_batch_duration_seconds_bucket' AND labels ->> 'le' = '1'"
        )?,
        due.to_string()
    );
    Ok(())
}

#[test]
fn rows_that_cost_more_than_a_batch_may_take_go_one_by_one_from_the_first_on() -> Result<()> {
    let node = Cluster::builder("dear")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = off")
        .conf("custodian.max_disposal_fraction = 1")
        .start()?;
    // A hundred rows to a block, each of which takes a tenth of a second.
    node.exec(
        &LOG.replace("repeat('x', 3000)", "'x'")
            .replace("generate_series(1, 600)", "generate_series(1, 100)"),
    )?;
    one_by_one(&node, 100)
}

#[test]
fn rows_that_may_cost_anything_begin_one_by_one_behind_blocks_that_are_not_due() -> Result<()> {
    let node = Cluster::builder("behind")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = off")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("autovacuum = off")
        .start()?;
    // Three hundred blocks that are not due, then some with a hundred rows each.
    node.exec(&LOG.replace("interval '1 year'", "interval '1 day'"))?;
    node.exec(
        "INSERT INTO log SELECT n, 'x', now() - interval '1 year' FROM generate_series(601, 700) n;
         INSERT INTO log SELECT n, repeat('x', 3000), now() FROM generate_series(701, 1300) n;
         INSERT INTO log SELECT n, 'x', now() - interval '1 year' FROM generate_series(1301, 1350) n",
    )?;
    one_by_one(&node, 150)
}

#[test]
fn a_sweep_says_that_it_waits_for_its_rate_of_wal_and_goes_on_when_that_is_raised() -> Result<()> {
    // One batch writes more than a minute's worth.
    let node = Cluster::builder("raised")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.batch_target = 1ms")
        .conf("custodian.max_wal_rate = 1kB")
        .start()?;
    node.exec(LOG)?;
    const WAITS: &str = "SELECT relation, state, phase, waits_for FROM custodian.progress";
    wait_for_answer(&node, WAITS, "log|running|waiting|custodian.max_wal_rate");
    // A pause reaches it as well.
    node.exec("SELECT custodian.pause('enough')")?;
    wait_for_answer(
        &node,
        "SELECT state, reason FROM custodian.runs",
        "interrupted|disposal is paused",
    );
    assert_eq!(node.text(WAITS)?, "");
    node.exec("SELECT custodian.resume('on')")?;
    wait_for_answer(&node, WAITS, "log|running|waiting|custodian.max_wal_rate");
    node.alter_system("custodian.max_wal_rate", "0")?;
    wait_for_answer(
        &node,
        "SELECT state, rows_done, waited >= interval '1 second' FROM custodian.runs",
        "done|600|t",
    );
    assert_eq!(node.text(WAITS)?, "");
    Ok(())
}

#[test]
fn a_sweep_waits_for_a_standby_that_is_behind_and_goes_on_when_it_has_caught_up() -> Result<()> {
    let node = Cluster::builder("lag")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.max_replay_lag = 1s")
        .start()?;
    node.exec(LOG)?;
    let standby = node
        .standby("slow")
        .conf("wal_receiver_status_interval = 1s")
        .start()?;
    node.wait_for_catchup(&standby, 60)?;
    standby.exec("SELECT pg_wal_replay_pause()")?;
    node.exec(
        "CREATE TABLE filler AS SELECT repeat('y', 1000) AS filler FROM generate_series(1, 5000)",
    )?;
    wait_for_answer(
        &node,
        "SELECT replay_lag > interval '2 seconds' FROM pg_stat_replication",
        "t",
    );
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(
        &node,
        "SELECT relation, state, waits_for FROM custodian.progress",
        "log|running|slow is behind by more than custodian.max_replay_lag",
    );
    assert_eq!(node.text("SELECT count(*) FROM log")?, "600");
    standby.exec("SELECT pg_wal_replay_resume()")?;
    wait_for_answer(&node, "SELECT count(*) FROM log", "0");
    wait_for_answer(
        &node,
        "SELECT value >= 1 FROM custodian.metrics
         WHERE name = 'custodian_waited_seconds_total' AND labels ->> 'reason' = 'replay_lag'",
        "t",
    );
    node.wait_for_catchup(&standby, 60)?;
    assert_eq!(standby.text("SELECT count(*) FROM log")?, "0");
    Ok(())
}

#[test]
fn a_sweep_waits_for_vacuum_of_its_table() -> Result<()> {
    let node = Cluster::builder("vacuum")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("autovacuum = off")
        .start()?;
    node.exec(LOG)?;
    // 300 pages, each of which makes it sleep for a tenth of a second: it is ended below.
    let vacuum = std::thread::scope(|scope| {
        let vacuum = scope.spawn(|| {
            let mut client = node.client()?;
            client.batch_execute("SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1")?;
            Ok::<_, integration::Error>(client.refused("VACUUM (FREEZE) log").sqlstate().to_owned())
        });
        wait_for_answer(
            &node,
            "SELECT relid::regclass FROM pg_stat_progress_vacuum",
            "log",
        );
        node.alter_system("custodian.disposal", "on")?;
        wait_for_answer(
            &node,
            "SELECT relation, waits_for FROM custodian.progress",
            "log|VACUUM of the table",
        );
        assert_eq!(node.text("SELECT count(*) FROM log")?, "600");
        node.exec("SELECT pg_cancel_backend(pid) FROM pg_stat_progress_vacuum")?;
        vacuum
            .join()
            .map_err(|_| integration::Error::new("the thread of VACUUM panicked"))?
    })?;
    assert_eq!(vacuum, "57014", "it did not end by itself");
    wait_for_answer(&node, "SELECT count(*) FROM log", "0");
    wait_for_answer(
        &node,
        "SELECT value >= 1 FROM custodian.metrics
         WHERE name = 'custodian_waited_seconds_total' AND labels ->> 'reason' = 'vacuum'",
        "t",
    );
    Ok(())
}

#[test]
fn a_pass_that_is_interrupted_goes_on_where_it_was_and_says_what_it_does() -> Result<()> {
    let node = Cluster::builder("resumed")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.batch_target = 1ms")
        .start()?;
    node.exec(LOG)?;
    // One row in each of 2,500 blocks; the last hundred stay. The batch with the row 2399, in block 2098, sleeps until it is
    // killed: how far a pass has come is shown at least every 1,024 blocks.
    node.exec(
        "INSERT INTO log SELECT n, repeat('x', 7000), now() - CASE WHEN n <= 2400 THEN interval '1 year' ELSE '0' END
         FROM generate_series(601, 2800) n;
         CREATE TABLE gone (id bigint);
         CREATE TABLE sleeper AS SELECT 2399 AS id;
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO public.gone SELECT id FROM old;
              PERFORM pg_sleep(50) FROM public.sleeper JOIN old USING (id); RETURN NULL; END';
         CREATE TRIGGER note AFTER DELETE ON log REFERENCING OLD TABLE AS old FOR EACH STATEMENT EXECUTE FUNCTION note();
         CREATE TABLE trace (n bigint GENERATED ALWAYS AS IDENTITY, phase text, blocks_done bigint);
         CREATE FUNCTION trace() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO public.trace (phase, blocks_done) VALUES (new.phase, new.blocks_done); RETURN NULL; END';
         CREATE TRIGGER trace AFTER UPDATE ON custodian.run FOR EACH ROW
             WHEN ((new.phase, new.blocks_done) IS DISTINCT FROM (old.phase, old.blocks_done)) EXECUTE FUNCTION trace()",
    )?;
    node.alter_system("custodian.disposal", "on")?;
    const ASLEEP: &str = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_custodian sweep' AND wait_event = 'PgSleep'";
    wait_for_answer(&node, ASLEEP, "1");
    assert_eq!(
        node.text("SELECT phase, blocks_done >= 1024, rows_done > 600 FROM custodian.progress")?,
        "disposing|t|t"
    );
    // A row that is due comes into a block that was passed.
    node.exec("VACUUM log")?;
    node.exec("INSERT INTO log VALUES (0, '', now() - interval '1 year')")?;
    assert_eq!(
        node.text("SELECT (ctid::text::point)[0] < 1024 FROM log WHERE id = 0")?,
        "t"
    );
    let pid = node
        .text("SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_custodian sweep'")?
        .parse()
        .map_err(|_| integration::Error::new("no worker"))?;
    node.exec("DELETE FROM sleeper")?;
    node.exec("TRUNCATE trace")?;
    node.kill_backend(pid)?;
    wait_until("the server has recovered", 90, || {
        node.log().contains("was terminated by signal 9") && node.text("SELECT 1").is_ok()
    });
    wait_for_answer(
        &node,
        "SELECT state, rows_done FROM custodian.runs",
        "done|2401",
    );
    assert_eq!(
        node.text("SELECT count(*), min(id), (SELECT count(DISTINCT id) FROM gone), (SELECT count(*) FROM gone) FROM log")?,
        "400|2401|2401|2401"
    );
    // The pass began behind what it had passed.
    assert_eq!(
        node.text("SELECT min(blocks_done) >= 1024, max(blocks_done) > 1400 FROM trace WHERE phase = 'disposing' AND n < (
                       SELECT min(n) FROM trace WHERE phase = 'verifying')")?,
        "t|t"
    );
    assert_eq!(
        node.text(
            "SELECT string_agg(phase, ', ' ORDER BY n) FROM (
                 SELECT n, phase, lag(phase) OVER (ORDER BY n) AS before FROM trace) t
             WHERE phase IS DISTINCT FROM before AND phase IS NOT NULL"
        )?,
        "choosing the way, disposing, verifying, disposing, verifying",
    );
    Ok(())
}
