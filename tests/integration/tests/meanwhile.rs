//! What other sessions and triggers do while rows that refer to each other are being deleted: no row is left that refers to
//! one that is gone, and none goes that is to stay.

use integration::{Cluster, Result, Sql, blocked, wait_for_answer};
use postgres::Client;

fn cluster(name: &str) -> Result<(Cluster, Client)> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.disposal = observe")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.naptime = 1h")
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian;
         CREATE ROLE app NOLOGIN;
         CREATE SCHEMA s AUTHORIZATION app;
         SELECT custodian.define_purpose('p.short', 'contract', '10 days');
         SELECT custodian.define_purpose('p.long', 'contract', '1000 days');
         CREATE TABLE s.audit (id int);
         ALTER TABLE s.audit OWNER TO app;
         CREATE FUNCTION s.note() RETURNS trigger LANGUAGE plpgsql
             AS 'BEGIN INSERT INTO s.audit VALUES (OLD.id); RETURN OLD; END';
         CREATE FUNCTION s.skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         ALTER FUNCTION s.note() OWNER TO app;
         ALTER FUNCTION s.skip() OWNER TO app",
    )?;
    let client = node.client()?;
    Ok((node, client))
}

/// Two tables whose rows with the same number refer to each other, ten of them past.
const CIRCLE: &str = "
    DROP TABLE IF EXISTS s.a, s.b CASCADE;
    CREATE TABLE s.a (id int PRIMARY KEY, b int NOT NULL, at timestamptz, name text);
    CREATE TABLE s.b (id int PRIMARY KEY, a int NOT NULL, at timestamptz, name text);
    ALTER TABLE s.a OWNER TO app;
    ALTER TABLE s.b OWNER TO app;
    INSERT INTO s.a SELECT n, n, now() - CASE WHEN n <= 10 THEN interval '20 days' ELSE '0' END, 'n' FROM generate_series(1, 30) n;
    INSERT INTO s.b TABLE s.a;
    ALTER TABLE s.a ADD CONSTRAINT a_b FOREIGN KEY (b) REFERENCES s.b ON DELETE CASCADE;
    ALTER TABLE s.b ADD CONSTRAINT b_a FOREIGN KEY (a) REFERENCES s.a ON DELETE CASCADE;
    SELECT custodian.tag_table(t::regclass, clock => 'at', on_expiry => 'delete') FROM unnest('{s.a,s.b}'::text[]) t;
    SELECT custodian.tag_column(t::regclass, 'name', 'user.name', '{p.short}') FROM unnest('{s.a,s.b}'::text[]) t";

/// Rows of both tables, and those of each that refer to one that is not there.
const STATE: &str = "SELECT (SELECT count(*) FROM s.a), (SELECT count(*) FROM s.b),
    (SELECT count(*) FROM s.a LEFT JOIN s.b ON b.id = a.b WHERE b.id IS NULL),
    (SELECT count(*) FROM s.b LEFT JOIN s.a ON a.id = b.a WHERE a.id IS NULL)";

const SWEEP_A: &str =
    "SELECT string_agg(concat_ws(' ', relation, rows), ', ') FROM custodian.sweep_now('s.a')";

#[test]
fn a_circle_of_which_a_trigger_swallows_a_row_stays_whole() -> Result<()> {
    let (node, mut client) = cluster("swallowed")?;
    client.batch_execute(CIRCLE)?;
    // The key's own action is swallowed as the statement is.
    client.batch_execute(
        "CREATE TRIGGER skip BEFORE DELETE ON s.b FOR EACH ROW WHEN (OLD.id = 5) EXECUTE FUNCTION s.skip()",
    )?;
    for table in ["s.a", "s.b"] {
        let refused = client.refused(&format!("SELECT custodian.sweep_now('{table}')"));
        assert_eq!(refused.sqlstate(), "09000", "{refused}");
        assert_eq!(client.text(STATE)?, "30|30|0|0");
    }
    node.alter_system("custodian.disposal", "on")?;
    node.alter_system("custodian.naptime", "1s")?;
    wait_for_answer(&node, STATE, "21|21|0|0");
    assert_eq!(
        client.text("SELECT DISTINCT sqlstate FROM custodian.quarantine")?,
        "09000"
    );
    Ok(())
}

#[test]
fn a_row_that_becomes_young_while_its_circle_is_being_deleted_keeps_it() -> Result<()> {
    let (node, mut client) = cluster("young")?;
    for trigger in [
        "",
        "CREATE TRIGGER note BEFORE DELETE ON s.a FOR EACH ROW EXECUTE FUNCTION s.note()",
    ] {
        client.batch_execute(CIRCLE)?;
        client.batch_execute(trigger)?;
        client.batch_execute("BEGIN; UPDATE s.b SET at = now() WHERE id = 7")?;
        let sweep = blocked(&node, SWEEP_A)?;
        client.batch_execute("COMMIT")?;
        let outcome = sweep.join().expect("the sweep's session ends");
        // Without code of the owner's what was deleted tells; with it, rows are locked first.
        if trigger.is_empty() {
            assert_eq!(
                outcome.map_err(|error| error.sqlstate().to_owned()),
                Err("55P03".to_owned())
            );
            assert_eq!(client.text(STATE)?, "30|30|0|0");
            assert_eq!(client.text(SWEEP_A)?, "s.a 9, s.b 9");
        } else {
            assert_eq!(outcome?, "s.a 9, s.b 9");
        }
        assert_eq!(client.text(STATE)?, "21|21|0|0");
        assert_eq!(client.text("SELECT count(*) FROM s.b WHERE id = 7")?, "1");
    }
    // One that comes to refer to it keeps it as well.
    client.batch_execute(CIRCLE)?;
    client.batch_execute(
        "CREATE TRIGGER note AFTER DELETE ON s.b FOR EACH ROW EXECUTE FUNCTION s.note();
         BEGIN; INSERT INTO s.b VALUES (100, 3, now(), 'young')",
    )?;
    let sweep = blocked(&node, SWEEP_A)?;
    client.batch_execute("COMMIT")?;
    assert_eq!(
        sweep.join().expect("the sweep's session ends")?,
        "s.a 9, s.b 9"
    );
    // The row of a to which it refers, and with that the one of b.
    assert_eq!(client.text(STATE)?, "21|22|0|0");
    Ok(())
}

#[test]
fn no_action_reaches_a_row_that_came_meanwhile_where_a_trigger_hides_what_reached_it() -> Result<()>
{
    let (node, mut client) = cluster("hidden")?;
    client.batch_execute(
        "CREATE TABLE s.parent (id int PRIMARY KEY, at timestamptz, name text);
         CREATE TABLE s.child (id int PRIMARY KEY, parent int REFERENCES s.parent ON DELETE CASCADE, at timestamptz, name text);
         ALTER TABLE s.parent OWNER TO app;
         ALTER TABLE s.child OWNER TO app;
         INSERT INTO s.parent VALUES (1, now() - interval '20 days', 'a'), (2, now() - interval '20 days', 'b');
         CREATE TRIGGER note AFTER DELETE ON s.parent FOR EACH ROW EXECUTE FUNCTION s.note();
         SELECT custodian.tag_table(t::regclass, clock => 'at', on_expiry => 'delete') FROM unnest('{s.parent,s.child}'::text[]) t;
         SELECT custodian.tag_column(t::regclass, 'name', 'user.name', '{p.short}') FROM unnest('{s.parent,s.child}'::text[]) t",
    )?;
    client.batch_execute("BEGIN; INSERT INTO s.child VALUES (1, 1, now(), 'young')")?;
    let sweep = blocked(&node, "SELECT rows FROM custodian.sweep_now('s.parent')")?;
    client.batch_execute("COMMIT")?;
    assert_eq!(sweep.join().expect("the sweep's session ends")?, "1");
    assert_eq!(
        client.text("SELECT (SELECT string_agg(id::text, ' ') FROM s.parent), (SELECT count(*) FROM s.child), (SELECT string_agg(id::text, ' ') FROM s.audit)")?,
        "1|1|2"
    );
    Ok(())
}

#[test]
fn a_sweep_takes_the_locks_of_all_its_tables_before_that_of_the_policy() -> Result<()> {
    let (node, mut client) = cluster("order")?;
    client.batch_execute(CIRCLE)?;
    // Whoever places a hold has the table's lock before it takes that of the policy.
    client.batch_execute(
        "BEGIN; SELECT custodian.place_hold('M1', 'app', '2099-01-01', 'x', rel => 's.a', match => '{\"id\":[7]}')",
    )?;
    let sweep = blocked(&node, "SELECT sum(rows) FROM custodian.sweep_now('s.b')")?;
    let locks = "SELECT string_agg(CASE objid WHEN 0 THEN 'policy' ELSE objid::regclass::text END || CASE WHEN granted THEN '' ELSE ' waits' END, ', ')
                 FROM pg_locks WHERE classid = 'custodian.epoch'::regclass
                   AND pid = (SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT sum(rows) FROM custodian.sweep_now%')";
    assert_eq!(node.text(locks)?, "s.a waits");
    client.batch_execute("COMMIT")?;
    assert_eq!(sweep.join().expect("the sweep's session ends")?, "18");
    assert_eq!(client.text(STATE)?, "21|21|0|0");
    Ok(())
}

#[test]
fn a_partition_that_came_since_a_circle_was_planned_has_it_planned_again() -> Result<()> {
    let (node, mut client) = cluster("attached")?;
    client.batch_execute(
        "CREATE TABLE s.b (id int PRIMARY KEY, a int NOT NULL, at timestamptz, name text);
         CREATE TABLE s.a (id int PRIMARY KEY, b int REFERENCES s.b ON DELETE CASCADE, at timestamptz, name text) PARTITION BY RANGE (id);
         CREATE TABLE s.a1 PARTITION OF s.a FOR VALUES FROM (0) TO (10);
         CREATE TABLE s.a2 (id int PRIMARY KEY, b int REFERENCES s.b ON DELETE CASCADE, at timestamptz, name text);
         INSERT INTO s.b SELECT n, n, now() - interval '20 days', 'n' FROM generate_series(1, 3) n;
         INSERT INTO s.a SELECT n, n, now() - interval '20 days', 'n' FROM generate_series(1, 3) n;
         ALTER TABLE s.b ADD CONSTRAINT b_a FOREIGN KEY (a) REFERENCES s.a ON DELETE CASCADE;
         ALTER TABLE s.a OWNER TO app; ALTER TABLE s.a1 OWNER TO app; ALTER TABLE s.a2 OWNER TO app; ALTER TABLE s.b OWNER TO app;
         SELECT custodian.tag_table(t::regclass, clock => 'at', on_expiry => 'delete') FROM unnest('{s.a,s.b}'::text[]) t;
         SELECT custodian.tag_column(t::regclass, 'name', 'user.name', '{p.short}') FROM unnest('{s.a,s.b}'::text[]) t",
    )?;
    // It has planned, and waits to write.
    client.batch_execute("BEGIN; LOCK TABLE s.b IN SHARE MODE")?;
    let sweep = blocked(&node, "SELECT sum(rows) FROM custodian.sweep_now('s.b')")?;
    client.batch_execute(
        "INSERT INTO s.a2 VALUES (10, 2, now() - interval '20 days', 'n');
         ALTER TABLE s.a ATTACH PARTITION s.a2 FOR VALUES FROM (10) TO (20);
         COMMIT",
    )?;
    let outcome = sweep.join().expect("the sweep's session ends");
    assert_eq!(
        outcome.map_err(|error| error.sqlstate().to_owned()),
        Err("55P03".to_owned())
    );
    assert_eq!(
        client.text("SELECT (SELECT count(*) FROM s.a), (SELECT count(*) FROM s.b)")?,
        "4|3"
    );
    // Planned again, it counts the rows of the partition as its own.
    assert_eq!(
        client.text(
            "SELECT relation, rows FROM custodian.sweep_now('s.b') ORDER BY relation::text"
        )?,
        "s.a1|3\ns.a2|1\ns.b|3"
    );
    Ok(())
}

#[test]
fn a_foreign_key_that_comes_between_two_looks_at_the_catalogs_takes_nothing_along() -> Result<()> {
    let (node, mut client) = cluster("planning")?;
    client.batch_execute(
        "CREATE TABLE s.parent (id int PRIMARY KEY, at timestamptz, name text);
         CREATE TABLE s.along (id int PRIMARY KEY, parent int REFERENCES s.parent ON DELETE CASCADE);
         CREATE TABLE s.other (id int PRIMARY KEY, parent int);
         ALTER TABLE s.parent OWNER TO app; ALTER TABLE s.along OWNER TO app; ALTER TABLE s.other OWNER TO app;
         INSERT INTO s.parent SELECT n, now() - interval '20 days', 'n' FROM generate_series(1, 3) n;
         INSERT INTO s.along SELECT n, n FROM generate_series(1, 3) n;
         INSERT INTO s.other VALUES (1, 2);
         SECURITY LABEL FOR custodian ON TABLE s.parent IS '{\"clock\":\"at\",\"on_expiry\":\"delete\",\"dependents\":[\"s.along\"]}';
         SELECT custodian.tag_column('s.parent', 'name', 'user.name', '{p.short}')",
    )?;
    let state = "SELECT (SELECT count(*) FROM s.parent), (SELECT count(*) FROM s.along), (SELECT count(*) FROM s.other)";
    // The catalogs are read by now, and the policy is not. Or all is planned, and no row is locked yet. What goes along is
    // looked at once the plan tells what that is, and the plan made again: it knows the key, by which the row stays.
    for (lock, parent, expected, left) in [
        ("custodian.maximum", "s.parent", Err("55P03"), "3|3|1"),
        ("s.parent IN SHARE MODE", "s.along", Err("55P03"), "3|3|1"),
        ("custodian.maximum", "s.along", Ok("4"), "1|1|1"),
    ] {
        client.batch_execute(&format!("BEGIN; LOCK TABLE {lock}"))?;
        let sweep = blocked(
            &node,
            "SELECT sum(rows) FROM custodian.sweep_now('s.parent')",
        )?;
        client.batch_execute(&format!(
            "ALTER TABLE s.other ADD CONSTRAINT came FOREIGN KEY (parent) REFERENCES {parent} ON DELETE CASCADE; COMMIT"
        ))?;
        let outcome = sweep.join().expect("the sweep's session ends");
        let outcome = outcome.map_err(|error| error.sqlstate().to_owned());
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(outcome, expected, "{lock}, {parent}");
        assert_eq!(client.text(state)?, left, "{lock}, {parent}");
        client.batch_execute("ALTER TABLE s.other DROP CONSTRAINT came")?;
    }
    Ok(())
}

#[test]
fn a_column_that_comes_between_two_looks_at_the_catalogs_has_the_run_planned_again() -> Result<()> {
    let (node, mut client) = cluster("column")?;
    client.batch_execute(CIRCLE)?;
    // What goes together with the table that is swept is looked at once the plan tells which these are, and the plan made
    // again.
    for (table, expected) in [("s.b", Err("55P03")), ("s.a", Ok("20"))] {
        client.batch_execute("BEGIN; LOCK TABLE custodian.maximum")?;
        let sweep = blocked(&node, "SELECT sum(rows) FROM custodian.sweep_now('s.b')")?;
        client.batch_execute(&format!("ALTER TABLE {table} ADD COLUMN came int; COMMIT"))?;
        let outcome = sweep.join().expect("the sweep's session ends");
        let outcome = outcome.map_err(|error| error.sqlstate().to_owned());
        assert_eq!(
            outcome,
            expected.map(str::to_owned).map_err(str::to_owned),
            "{table}"
        );
    }
    assert_eq!(client.text(STATE)?, "20|20|0|0");
    Ok(())
}
