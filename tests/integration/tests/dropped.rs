//! A column that a clock leads to is dropped while a sweep is at work: the run ends as superseded, has not failed, and no row is put
//! into quarantine for it, wherever the sweep was.

use integration::{Cluster, Result, blocked, wait_for_answer};

/// Rows whose clock is in another table, a trigger that waits after each batch while the gate is shut, and one that lets no row go
/// while it is to.
const TABLES: &str = "
    CREATE SCHEMA s;
    CREATE TABLE s.parent (id int PRIMARY KEY, at timestamptz, name text);
    CREATE TABLE s.item (id int PRIMARY KEY, parent int REFERENCES s.parent, body text);
    ALTER TABLE s.item ALTER body SET STORAGE PLAIN;
    INSERT INTO s.parent VALUES (1, now() - interval '20 days', 'n');
    CREATE TRIGGER wait AFTER DELETE ON s.item FOR EACH STATEMENT EXECUTE FUNCTION public.wait();
    CREATE TRIGGER keep BEFORE DELETE ON s.item FOR EACH ROW EXECUTE FUNCTION public.keep();
    SELECT custodian.tag_table('s.item', clock => 'parent.at', on_expiry => 'delete'),
           custodian.tag_column('s.item', 'body', 'user.behavior', '{p.short}')";

const SHUT: &str = "INSERT INTO gate VALUES (1)";
const OPEN: &str = "DELETE FROM gate";
const DROP: &str = "ALTER TABLE s.parent DROP COLUMN at";

const ENDED: &str =
    "SELECT state, reason FROM custodian.run WHERE state <> 'done' ORDER BY run_id DESC LIMIT 1";

#[test]
fn a_column_that_is_dropped_under_a_sweep_supersedes_its_run_and_puts_no_row_into_quarantine()
-> Result<()> {
    let node = Cluster::builder("dropped")
        .preload("pg_custodian")
        .conf("custodian.disposal = on")
        .conf("custodian.naptime = 1s")
        .conf("custodian.batch_target = 1ms")
        .conf("custodian.max_disposal_fraction = 1")
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian;
         SELECT custodian.define_purpose('p.short', 'contract', '10 days');
         CREATE TABLE gate (shut int);
         CREATE TABLE kept (id int);
         CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN WHILE EXISTS (SELECT FROM public.gate) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN NULL; END';
         CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN IF EXISTS (SELECT FROM public.kept) THEN RAISE ''kept''; END IF; RETURN OLD; END'",
    )?;
    // In the next batch; in the look at the leaf behind the only batch; and at the second of two rows that are tried again.
    for (rows, quarantined) in [(300, false), (1, false), (2, true)] {
        let what = format!("{rows} rows, {quarantined}");
        node.exec(&format!("DROP SCHEMA IF EXISTS s CASCADE; {TABLES}"))?;
        let insert = format!(
            "INSERT INTO s.item SELECT n, 1, repeat('x', 5000) FROM generate_series(1, {rows}) n"
        );
        if quarantined {
            node.exec(&format!("INSERT INTO kept VALUES (1); {insert}"))?;
            wait_for_answer(
                &node,
                "SELECT count(*) FROM custodian.quarantine WHERE leaf = 's.item'::regclass",
                "2",
            );
            node.exec(&format!("{SHUT}; DELETE FROM kept"))?;
        } else {
            node.exec(&format!("{SHUT}; {insert}"))?;
        }
        wait_for_answer(
            &node,
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'pg_custodian sweep' AND wait_event = 'PgSleep'",
            "t",
        );
        let dropping = blocked(&node, DROP)?;
        node.exec(OPEN)?;
        dropping
            .join()
            .expect("the session that drops the column")?;
        wait_for_answer(
            &node,
            ENDED,
            "superseded|the policy or the table has changed",
        );
        let left = "SELECT count(*) BETWEEN 1 AND 299 FROM s.item";
        assert!(rows == 1 || node.text(left)? == "t", "{what}");
        assert_eq!(
            node.text("SELECT count(*) FROM custodian.quarantine WHERE sqlstate <> 'P0001'")?,
            "0",
            "{what}"
        );
        assert_eq!(
            node.text("SELECT count(*) FROM custodian.run WHERE sqlstate = '42703'")?,
            "0",
            "{what}"
        );
    }
    // The same error of the table's own code is told of its rows.
    node.exec(&format!(
        "DROP SCHEMA s CASCADE; {TABLES};
         CREATE OR REPLACE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN RAISE undefined_column; END';
         INSERT INTO s.item SELECT n, 1, 'x' FROM generate_series(1, 3) n"
    ))?;
    wait_for_answer(
        &node,
        "SELECT count(*) FROM custodian.quarantine WHERE leaf = 's.item'::regclass AND sqlstate = '42703'",
        "3",
    );
    Ok(())
}
