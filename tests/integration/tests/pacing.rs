//! How sweeps yield: they wait while a replica is behind or a slot holds WAL back, stay below a rate of WAL, and say so.

use integration::{Cluster, Result, poll};

fn wait_for(node: &Cluster, query: &str, value: &str) {
    let mut last = String::new();
    let reached = poll(90, || {
        last = node
            .text(query)
            .unwrap_or_else(|error| format!("error: {error}"));
        (last == value).then_some(())
    });
    assert!(
        reached.is_some(),
        "{query}: expected {value:?}, is {last:?}; runs:\n{}",
        node.text("SELECT * FROM custodian.runs ORDER BY run_id")
            .unwrap_or_default()
    );
}

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
    wait_for(
        &node,
        "SELECT relation, waits_for FROM custodian.progress",
        "log|replication slot forgotten holds back more than custodian.max_slot_wal",
    );
    assert_eq!(node.text("SELECT count(*) FROM log")?, "600");
    // A pause reaches a sweep that waits.
    node.exec("SELECT custodian.pause('enough')")?;
    wait_for(
        &node,
        "SELECT state, reason FROM custodian.runs",
        "interrupted|disposal is paused",
    );
    node.exec("SELECT custodian.resume('on')")?;
    wait_for(
        &node,
        "SELECT waits_for IS NOT NULL FROM custodian.progress",
        "t",
    );
    node.alter_system("custodian.max_slot_wal", "0")?;
    wait_for(&node, "SELECT count(*) FROM log", "0");
    wait_for(
        &node,
        "SELECT state, rows_done, waited > interval '0', wal_bytes > 10000 FROM custodian.runs",
        "done|600|t|t",
    );
    assert_eq!(
        node.text("SELECT value FROM custodian.metrics WHERE name = 'custodian_rows_disposed' AND labels ->> 'relation' = 'public.log'")?,
        "600"
    );
    assert_eq!(
        node.text(
            "SELECT value > 0 FROM custodian.metrics WHERE name = 'custodian_waited_seconds'"
        )?,
        "t"
    );
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
    wait_for(
        &node,
        "SELECT rows_done > 0 AND waited >= interval '1 second' FROM custodian.runs",
        "t",
    );
    // The sum of its pauses is what the rate asks for, less the time of the batches.
    wait_for(&node, "SELECT state FROM custodian.runs", "done");
    assert_eq!(
        node.text(
            "SELECT finished_at - started_at >= make_interval(secs => wal_bytes / 16384.0 * 0.8) FROM custodian.runs"
        )?,
        "t"
    );
    Ok(())
}
