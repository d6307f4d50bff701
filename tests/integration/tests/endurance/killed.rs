//! Workers that are killed (SIGKILL) in each of their phases, and a server that ends at once in the middle of a batch.

use integration::{Cluster, Result, Stop, wait_for_answer, wait_until};

use super::{SLOW, all_gone_once, all_gone_once_but_for_failures, cluster, recovered, truth};

/// What is written into `hold` keeps workers where they are: the name of a phase whoever enters it for three seconds, the
/// number of a row its batch, for as long as a test takes.
const HOLD: &str = "
    CREATE TABLE hold (what text);
    CREATE FUNCTION hold_phase() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(3) FROM public.hold WHERE what = new.phase; RETURN NULL; END';
    CREATE TRIGGER hold AFTER UPDATE OF phase ON custodian.run FOR EACH ROW
        WHEN (new.phase IS DISTINCT FROM old.phase) EXECUTE FUNCTION hold_phase();
    CREATE OR REPLACE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO public.gone SELECT id FROM old;
         PERFORM pg_sleep(0.02);
         PERFORM pg_sleep(50) FROM public.hold JOIN old ON what = id::text; RETURN NULL; END'";

/// A sweep that has slept in one transaction for longer than its batches do.
pub const ASLEEP: &str = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_custodian sweep'
                      AND wait_event = 'PgSleep' AND xact_start < clock_timestamp() - interval '1 second'";

pub fn prepared(name: &str, conf: &[&str]) -> Result<Cluster> {
    let node = cluster(name, conf)?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.alter_system("custodian.disposal", "off")?;
    node.exec(SLOW)?;
    node.exec(HOLD)?;
    Ok(node)
}

/// Waits until the query gives a process.
pub fn process(node: &Cluster, what: &str, query: &str) -> i32 {
    integration::wait_for(what, 120, || node.text(query).ok()?.parse().ok())
}

/// Kills what the query gives, while it is held by what is in `hold`, which does not hold its successor.
fn kill_held(node: &Cluster, what: &str, query: &str) -> Result<()> {
    let crashes = node.log().matches("was terminated by signal 9").count();
    let pid = process(node, what, query);
    node.exec("DELETE FROM hold")?;
    node.kill_backend(pid)?;
    recovered(node, crashes);
    Ok(())
}

/// Kills the sweep of `log` in a phase that it has entered, and in which a lock keeps it.
fn kill_in_phase(node: &Cluster, phase: &str) -> Result<()> {
    let crashes = node.log().matches("was terminated by signal 9").count();
    process(node, "a sweep enters the phase", ASLEEP);
    let mut blocker = node.client()?;
    blocker.batch_execute("BEGIN; LOCK TABLE log")?;
    node.exec("DELETE FROM hold")?;
    let held = format!(
        "SELECT pid FROM pg_stat_activity, custodian.progress
         WHERE backend_type = 'pg_custodian sweep' AND wait_event_type = 'Lock' AND phase = '{phase}'"
    );
    let pid = process(node, "a lock keeps the sweep in the phase", &held);
    node.kill_backend(pid)?;
    drop(blocker);
    recovered(node, crashes);
    Ok(())
}

#[test]
fn a_sweep_that_is_killed_while_it_looks_or_deletes_loses_nothing() -> Result<()> {
    let node = prepared("looking", &[])?;
    node.exec("INSERT INTO hold VALUES ('choosing the way')")?;
    node.alter_system("custodian.disposal", "on")?;
    kill_in_phase(&node, "choosing the way")?;
    assert_eq!(node.text("SELECT count(*) FROM log")?, "400");

    node.alter_system("custodian.disposal", "off")?;
    node.exec("INSERT INTO hold VALUES ('200')")?;
    node.alter_system("custodian.disposal", "on")?;
    process(&node, "a batch is held", ASLEEP);
    assert_eq!(
        node.text("SELECT phase, rows_done > 0 FROM custodian.progress")?,
        "disposing|t"
    );
    kill_held(&node, "a batch is held", ASLEEP)?;
    truth(&node)?;

    node.exec("INSERT INTO hold VALUES ('verifying')")?;
    kill_in_phase(&node, "verifying")?;
    truth(&node)?;
    all_gone_once(&node, "log")
}

#[test]
fn a_sweep_that_is_killed_while_it_tries_a_row_again_tries_it_once_more() -> Result<()> {
    let node = prepared("trying", &[])?;
    node.exec(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN
                  IF EXISTS (SELECT FROM public.hold WHERE what = ''refuse'') THEN RAISE division_by_zero; END IF;
                  RETURN old;
              END';
         CREATE TRIGGER refuse BEFORE DELETE ON log FOR EACH ROW WHEN (old.id = 150) EXECUTE FUNCTION refuse();
         INSERT INTO hold VALUES ('refuse')",
    )?;
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(&node, "SELECT count(*) FROM log", "101");
    wait_for_answer(
        &node,
        "SELECT sqlstate FROM custodian.quarantined_rows",
        "22012",
    );
    node.exec("UPDATE hold SET what = '150'")?;
    process(&node, "a row is tried again", ASLEEP);
    assert_eq!(
        node.text("SELECT phase FROM custodian.progress")?,
        "retrying rows"
    );
    kill_held(&node, "a row is tried again", ASLEEP)?;
    truth(&node)?;
    all_gone_once_but_for_failures(&node)
}

#[test]
fn a_sweep_that_is_killed_while_it_anonymizes_changes_no_row_twice() -> Result<()> {
    let node = prepared("anonymizing", &[])?;
    node.exec(
        "CREATE TRIGGER note_update AFTER UPDATE ON log REFERENCING OLD TABLE AS old FOR EACH STATEMENT EXECUTE FUNCTION note();
         SELECT custodian.tag_table('log', clock => 'at', on_expiry => 'keep');
         SELECT custodian.tag_column('log', 'body', 'user.behavior', '{test.log}', on_expiry => 'set_null');
         INSERT INTO hold VALUES ('200')",
    )?;
    node.alter_system("custodian.disposal", "on")?;
    process(&node, "a batch is held", ASLEEP);
    assert_eq!(
        node.text("SELECT phase, action, rows_done > 0 FROM custodian.progress")?,
        "disposing|set null|t"
    );
    kill_held(&node, "a batch is held", ASLEEP)?;
    wait_for_answer(
        &node,
        "SELECT state, rows_done FROM custodian.runs",
        "done|300",
    );
    assert_eq!(
        node.text(
            "SELECT (SELECT count(*) FROM log WHERE body IS NULL), count(*), count(DISTINCT id), max(id) FROM gone"
        )?,
        "300|300|300|300"
    );
    Ok(())
}

#[test]
fn a_worker_that_is_killed_before_its_run_is_known_is_replaced() -> Result<()> {
    let node = prepared("early", &[])?;
    node.exec(
        "CREATE FUNCTION hold_early() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_sleep(50) FROM public.hold WHERE what = ''early''; RETURN new; END';
         CREATE TRIGGER hold_early BEFORE INSERT ON custodian.run FOR EACH ROW WHEN (new.state = 'running')
             EXECUTE FUNCTION hold_early()",
    )?;
    node.alter_system("custodian.disposal", "observe")?;
    wait_for_answer(
        &node,
        "SELECT rows_planned FROM custodian.runs WHERE state = 'observed'",
        "300",
    );
    node.exec("INSERT INTO hold VALUES ('early')")?;
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(
        &node,
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_custodian scheduler' AND wait_event = 'PgSleep'",
        "1",
    );
    kill_held(
        &node,
        "a worker got ready",
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_custodian sweep' AND query = 'pg_custodian: getting ready'",
    )?;
    assert_eq!(
        node.text("SELECT count(*) FROM gone WHERE id IS NULL")?,
        "0"
    );
    all_gone_once(&node, "log")
}

#[test]
fn a_worker_that_is_killed_while_it_vacuums_does_it_again() -> Result<()> {
    let node = prepared(
        "vacuuming",
        &["custodian.vacuum_interval = 1s", "autovacuum = off"],
    )?;
    // ANALYZE computes what is indexed.
    node.exec(
        "CREATE FUNCTION slowly(bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_catalog.pg_sleep(50) FROM public.hold WHERE what = ''vacuum''; RETURN $1; END';
         CREATE INDEX ON log (slowly(id));
         INSERT INTO hold VALUES ('vacuum')",
    )?;
    node.alter_system("custodian.disposal", "on")?;
    kill_held(
        &node,
        "the worker vacuums",
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_custodian vacuum' AND wait_event = 'PgSleep'",
    )?;
    truth(&node)?;
    all_gone_once(&node, "log")?;
    // The server's counters were lost with the crash: it is done after the next sweep.
    node.exec("INSERT INTO log VALUES (0, 'x', now() - interval '1 year')")?;
    wait_for_answer(
        &node,
        "SELECT vacuum_count > 0 AND analyze_count > 0 FROM pg_stat_user_tables WHERE relname = 'log'",
        "t",
    );
    Ok(())
}

#[test]
fn partitions_that_go_at_once_are_all_there_after_the_worker_is_killed_and_go_once() -> Result<()> {
    let node = cluster("at-once", &["custodian.drop_partitions = on"])?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.alter_system("custodian.disposal", "off")?;
    node.exec(
        "CREATE TABLE visit (id bigint, ip text, seen timestamptz NOT NULL) PARTITION BY RANGE (seen);
         CREATE TABLE visit_1 PARTITION OF visit FOR VALUES FROM ('2019-01-01') TO ('2020-01-01');
         CREATE TABLE visit_2 PARTITION OF visit FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
         CREATE TABLE visit_3 PARTITION OF visit FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
         CREATE TABLE visit_now PARTITION OF visit FOR VALUES FROM ('2022-01-01') TO ('2100-01-01');
         INSERT INTO visit SELECT n, '10.0.0.1', '2019-06-01'::timestamptz + (n % 3) * interval '1 year' FROM generate_series(1, 300) n;
         INSERT INTO visit SELECT n, '10.0.0.1', now() FROM generate_series(301, 320) n;
         SELECT custodian.define_purpose('test.visit', 'contract', '90 days');
         SELECT custodian.tag_table('visit', clock => 'seen', on_expiry => 'delete');
         SELECT custodian.tag_column('visit', 'ip', 'user.device.ip_address', '{test.visit}');
         CREATE TABLE hold (what text);
         INSERT INTO hold VALUES ('partitions');
         CREATE FUNCTION hold_partitions() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_sleep(50) FROM public.hold WHERE what = ''partitions''; RETURN NULL; END';
         -- When the second of them is counted, the first is gone in the same transaction.
         CREATE TRIGGER hold AFTER UPDATE OF rows_done ON custodian.run FOR EACH ROW
             WHEN (old.rows_done > 0 AND new.rows_done > old.rows_done) EXECUTE FUNCTION hold_partitions()",
    )?;
    node.alter_system("custodian.disposal", "on")?;
    let crashes = node.log().matches("was terminated by signal 9").count();
    let pid = process(&node, "the second partition is counted", ASLEEP);
    const NOTHING_GONE: &str = "
        SELECT phase, rows_done, (SELECT count(*) FROM pg_inherits WHERE inhparent = 'visit'::regclass) FROM custodian.progress";
    assert_eq!(node.text(NOTHING_GONE)?, "dropping partitions|0|4");
    node.kill_backend(pid)?;
    recovered(&node, crashes);
    // The next attempt begins with all of them, and comes as far.
    process(&node, "the second partition is counted again", ASLEEP);
    assert_eq!(node.text(NOTHING_GONE)?, "dropping partitions|0|4");
    kill_held(&node, "the second partition is counted again", ASLEEP)?;
    wait_for_answer(
        &node,
        "SELECT count(*), (SELECT count(*) FROM pg_inherits WHERE inhparent = 'visit'::regclass) FROM visit",
        "20|1",
    );
    wait_for_answer(
        &node,
        "SELECT sum(rows_done), bool_or(state IN ('running', 'interrupted', 'failed')) FROM custodian.runs",
        "300|f",
    );
    assert_eq!(
        node.text(
            "SELECT string_agg(object || ' ' || (detail ->> 'rows'), ', ' ORDER BY object) FROM custodian.ledger
             WHERE kind = 'partition.dropped'"
        )?,
        "public.visit_1 100, public.visit_2 100, public.visit_3 100"
    );
    Ok(())
}

/// Ends the server in the middle of a batch, in a way of its own, and compares what is on record with what was before.
fn loses_no_more_than_a_batch(name: &str, end: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    // Nobody else writes WAL to the disk meanwhile.
    let node = prepared(
        name,
        &[
            "custodian.naptime = 1h",
            "wal_writer_delay = 10s",
            "full_page_writes = off",
            "autovacuum = off",
            "restart_after_crash = off",
        ],
    )?;
    node.exec("INSERT INTO hold VALUES ('200')")?;
    node.alter_system("custodian.disposal", "on")?;
    process(&node, "a batch is held", ASLEEP);
    let counted = || -> Result<(i64, i64)> {
        let row = node
            .client()?
            .query_one("SELECT batches, rows_done FROM custodian.runs", &[])?;
        Ok((row.get(0), row.get(1)))
    };
    let (batches, rows) = counted()?;
    assert!(
        batches >= 10 && rows < 200,
        "{batches} batches, {rows} rows"
    );
    // In force from the next start on.
    node.exec("ALTER SYSTEM SET custodian.disposal = off")?;
    end(&node)?;
    node.start()?;
    wait_for_answer(&node, "SELECT state FROM custodian.runs", "interrupted");
    let (batches_left, rows_left) = counted()?;
    assert!(
        batches_left == batches || batches_left == batches - 1,
        "of {batches} batches {batches_left} are left"
    );
    assert!(rows_left <= rows, "{rows_left} of {rows} rows");
    truth(&node)?;
    node.exec("DELETE FROM hold")?;
    node.alter_system("custodian.disposal", "on")?;
    all_gone_once(&node, "log")
}

#[test]
fn a_worker_that_is_killed_loses_no_more_than_the_batch_before_its_last() -> Result<()> {
    loses_no_more_than_a_batch("sigkill", |node| {
        node.kill_backend(process(node, "a batch is held", ASLEEP))?;
        wait_until("the server has ended", 90, || !node.is_running());
        node.stop(Stop::Immediate)
    })
}

#[test]
fn a_server_that_ends_at_once_loses_no_more_than_one_batch() -> Result<()> {
    loses_no_more_than_a_batch("immediate", |node| node.stop(Stop::Immediate))
}
