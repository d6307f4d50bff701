//! Sweep workers that are started while their table is still being counted.

use integration::{Cluster, Result, wait_for_answer};

/// A table of so many blocks with a row each, of which every second is due; to delete one takes a while.
fn table(name: &str, blocks: u32) -> String {
    format!(
        "CREATE TABLE {name} (id bigint PRIMARY KEY, email text, pad text, seen timestamptz NOT NULL) WITH (fillfactor = 10);
         INSERT INTO {name} SELECT n, n || '@example.com', repeat('x', 900),
             now() - CASE WHEN n % 2 = 0 THEN interval '100 days' ELSE interval '1 day' END
         FROM generate_series(1, {blocks}) n;
         CREATE FUNCTION {name}_slowly() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_catalog.pg_sleep(0.002); RETURN NULL; END $$;
         CREATE TRIGGER slowly AFTER DELETE ON {name} FOR EACH ROW EXECUTE FUNCTION {name}_slowly();
         ANALYZE {name};
         SELECT custodian.tag_table('{name}', clock => 'seen', on_expiry => 'delete');
         SELECT custodian.tag_column('{name}', 'email', 'user.contact.email', '{{test.account}}')"
    )
}

/// Whether the worker of the table's run was there before the run was stored.
fn was_early(name: &str) -> String {
    format!(
        "SELECT a.backend_start < r.started_at FROM pg_stat_activity a, custodian.runs r
         WHERE a.backend_type = 'pg_custodian sweep' AND r.state = 'running' AND r.relation = '{name}'::regclass
           AND a.query LIKE 'pg_custodian run ' || r.run_id || ':%'"
    )
}

const SWEEPS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_custodian sweep'";

#[test]
fn the_worker_of_a_large_table_is_there_when_its_run_begins_and_disposes_of_nothing_before()
-> Result<()> {
    let node = Cluster::builder("early")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = off")
        .conf("custodian.max_disposal_fraction = 0.1")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec("SELECT custodian.define_purpose('test.account', 'contract', '50 days')")?;
    node.exec(&table("large", 5000))?;

    // Somebody must approve what is due: the worker that got ready for it ends.
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(&node, "SELECT state FROM custodian.runs", "waiting");
    wait_for_answer(&node, SWEEPS, "0");
    assert_eq!(node.text("SELECT count(*) FROM large")?, "5000");

    // In its run the worker goes on with what it found out.
    node.alter_system("custodian.disposal", "off")?;
    node.exec("SELECT custodian.tag_table('large', clock => 'seen', on_expiry => 'delete', disposal => 'on')")?;
    node.alter_system("custodian.max_disposal_fraction", "1")?;
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(&node, &was_early("large"), "t");
    wait_for_answer(&node, "SELECT count(*) FROM large", "2500");
    assert_eq!(
        node.text("SELECT state, rows_planned, rows_done FROM custodian.runs WHERE rows_done > 0")?,
        "done|2500|2500"
    );
    wait_for_answer(&node, SWEEPS, "0");

    // Of a small one, which nobody has counted yet, it is not.
    node.exec(&table("small", 400))?;
    wait_for_answer(&node, &was_early("small"), "f");
    wait_for_answer(&node, "SELECT count(*) FROM small", "200");

    // Where rows were observed that are due, a run is likely once disposal is on.
    node.alter_system("custodian.disposal", "observe")?;
    // Counting it takes longer than starting a process, and yet it is no large one.
    node.exec(&table("seen", 4000))?;
    wait_for_answer(
        &node,
        "SELECT rows_planned FROM custodian.runs WHERE state = 'observed'",
        "2000",
    );
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(&node, &was_early("seen"), "t");
    wait_for_answer(&node, "SELECT count(*) FROM seen", "2000");
    Ok(())
}
