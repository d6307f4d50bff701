//! Code of one table that waits, or takes for ever, does not keep the scheduler from the others.

use integration::{Cluster, Result, Sql, wait_for_answer, wait_until};

#[test]
fn constraints_that_wait_hold_up_no_other_table() -> Result<()> {
    let node = Cluster::builder("stalling")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = off")
        .conf("custodian.count_timeout = 2s")
        .conf("custodian.max_disposal_fraction = 1")
        .start()?;
    // Seven minutes of the server's own immutable code; it can be cancelled.
    let sum = vec!["factorial(32177)"; 60].join(" + ");
    node.exec(&format!(
        "CREATE EXTENSION pg_custodian;
         CREATE DOMAIN waits AS text;
         CREATE DOMAIN rows_wait AS text;
         CREATE TABLE a_domain (id int, body waits, at timestamptz);
         CREATE TABLE b_rows (id int, body rows_wait, at timestamptz);
         CREATE TABLE c_check (id int, body text, at timestamptz);
         CREATE TABLE d_item (id int, body text, at timestamptz);
         INSERT INTO a_domain VALUES (1, 'x', '2000-01-01');
         INSERT INTO b_rows VALUES (1, 'x', '2000-01-01');
         INSERT INTO c_check VALUES (1, 'x', '2000-01-01');
         INSERT INTO d_item VALUES (1, 'x', '2000-01-01');
         SELECT custodian.define_purpose('test.item', 'contract', '50 days');
         SELECT custodian.tag_table(t, clock => 'at'),
                custodian.tag_column(t, 'body', 'user.behavior', '{{test.item}}', on_expiry => '{{\"constant\":\"gone\"}}')
         FROM unnest('{{a_domain,b_rows,c_check,d_item}}'::regclass[]) t;
         -- Nothing is due there: their constraints matter when the policy is read.
         UPDATE a_domain SET at = now(); UPDATE c_check SET at = now();
         ALTER DOMAIN waits ADD CHECK (pg_sleep(3600) IS NOT NULL OR VALUE IS NULL) NOT VALID;
         ALTER DOMAIN rows_wait ADD CHECK (pg_sleep(3600) IS NOT NULL OR VALUE IS NULL) NOT VALID;
         ALTER TABLE c_check ADD CHECK (body <> 'gone' OR {sum} > 0) NOT VALID"
    ))?;
    node.alter_system("custodian.disposal", "on")?;
    wait_until("the item is disposed of", 60, || {
        node.text("SELECT body FROM d_item")
            .is_ok_and(|body| body == "gone")
    });
    node.wait_for_log("DETAIL:  SQLSTATE 57014.", 60);
    assert_eq!(
        node.text("SELECT DISTINCT state FROM custodian.runs WHERE relation = 'b_rows'::regclass")?,
        "failed"
    );
    assert_eq!(node.text("SELECT body FROM b_rows")?, "x");

    // A person is told that nobody knows what the constraints say, without waiting for them.
    let mut client = node.client()?;
    client.batch_execute(
        "ALTER TABLE c_check DROP CONSTRAINT c_check_body_check; SET statement_timeout = '30s'",
    )?;
    let told = client
        .text("SELECT object FROM custodian.check() WHERE code = 'check-constraint' ORDER BY 1")?;
    assert_eq!(told, "public.a_domain.body\npublic.b_rows.body");
    Ok(())
}

#[test]
fn a_table_that_somebody_has_locked_holds_up_no_other() -> Result<()> {
    let node = Cluster::builder("locked")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = off")
        .conf("custodian.count_timeout = 0")
        .conf("custodian.max_disposal_fraction = 1")
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian;
         CREATE TABLE a_locked (id int, body text, at timestamptz);
         CREATE TABLE b_item (id int, body text, at timestamptz);
         INSERT INTO a_locked VALUES (1, 'x', '2000-01-01');
         INSERT INTO b_item VALUES (1, 'x', '2000-01-01');
         SELECT custodian.define_purpose('test.item', 'contract', '50 days');
         SELECT custodian.tag_table(t, clock => 'at'), custodian.tag_column(t, 'body', 'user.behavior', '{test.item}', on_expiry => 'set_null')
         FROM unnest('{a_locked,b_item}'::regclass[]) t",
    )?;
    let mut user = node.client()?;
    user.batch_execute("BEGIN; LOCK TABLE a_locked")?;
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(&node, "SELECT body IS NULL FROM b_item", "t");
    // What goes on is said.
    wait_for_answer(
        &node,
        "SELECT object, problem ~ '55P03' FROM custodian.check() WHERE code = 'run-failed'",
        "public.a_locked|t",
    );
    user.batch_execute("COMMIT")?;
    // The pause after some failures could be long.
    node.alter_system("custodian.max_overdue", "6d")?;
    wait_for_answer(&node, "SELECT body IS NULL FROM a_locked", "t");
    Ok(())
}

#[test]
fn a_sweep_that_finds_its_table_locked_before_its_first_batch_goes_on_later() -> Result<()> {
    let node = Cluster::builder("way-locked")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 0.1")
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian;
         CREATE TABLE item (id int PRIMARY KEY, body text, at timestamptz);
         INSERT INTO item SELECT n, 'x', '2000-01-01' FROM generate_series(1, 10) n;
         SELECT custodian.define_purpose('test.item', 'contract', '50 days');
         SELECT custodian.tag_table('item', clock => 'at', on_expiry => 'delete');
         SELECT custodian.tag_column('item', 'body', 'user.behavior', '{test.item}')",
    )?;
    let state = "SELECT state, reason FROM custodian.runs WHERE state <> 'observed'";
    wait_for_answer(
        &node,
        &format!("SELECT state FROM ({state}) AS r"),
        "waiting",
    );
    let mut user = node.client()?;
    user.batch_execute("BEGIN; LOCK TABLE item")?;
    // What was approved is not counted again: the sweep is the first to come to the table.
    node.exec("SELECT custodian.approve_run(run_id, 'expected') FROM custodian.runs WHERE state = 'waiting'")?;
    wait_for_answer(
        &node,
        state,
        "interrupted|the table or the policy is locked by another session",
    );
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.check() WHERE code = 'run-failed'")?,
        "0"
    );
    user.batch_execute("COMMIT")?;
    wait_for_answer(&node, "SELECT count(*) FROM item", "0");
    assert_eq!(
        node.text("SELECT state, retries > 0 FROM custodian.runs WHERE rows_done > 0")?,
        "done|t"
    );
    Ok(())
}
