//! Rows of several tables that refer to each other in a circle go together, and what goes along by foreign keys' actions
//! is counted.

use std::thread;

use integration::{Cluster, Result, Sql, Stop, wait_for_answer};
use postgres::Client;

const SETUP: &str = "
    CREATE EXTENSION pg_custodian;
    CREATE ROLE app NOLOGIN;
    CREATE SCHEMA s AUTHORIZATION app;
    GRANT USAGE ON SCHEMA s TO PUBLIC;
    SELECT custodian.define_purpose('p.short', 'contract', '10 days')";

fn cluster(name: &str) -> Result<(Cluster, Client)> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.disposal = observe")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.naptime = 1h")
        .start()?;
    node.exec(SETUP)?;
    let client = node.client()?;
    Ok((node, client))
}

/// Two tables whose rows with the same number refer to each other, those up to 100 past, and a row of `b` in between.
fn two(action: &str, deferrable: &str, not_null: &str) -> String {
    format!(
        "DROP TABLE IF EXISTS s.a, s.b CASCADE;
         CREATE TABLE s.a (id int PRIMARY KEY, b int {not_null}, at timestamptz, name text);
         CREATE TABLE s.b (id int PRIMARY KEY, a int {not_null}, at timestamptz, name text);
         ALTER TABLE s.a OWNER TO app;
         ALTER TABLE s.b OWNER TO app;
         INSERT INTO s.a SELECT n, n, now() - CASE WHEN n <= 100 THEN interval '20 days' ELSE '0' END, 'n' FROM generate_series(1, 300) n;
         INSERT INTO s.b SELECT n, n, now() - CASE WHEN n <= 101 THEN interval '20 days' ELSE '0' END, 'n' FROM generate_series(1, 300) n;
         ALTER TABLE s.a ADD CONSTRAINT a_b FOREIGN KEY (b) REFERENCES s.b {action} {deferrable};
         ALTER TABLE s.b ADD CONSTRAINT b_a FOREIGN KEY (a) REFERENCES s.a {action} {deferrable};
         CREATE INDEX ON s.a (b);
         CREATE INDEX ON s.b (a);
         SELECT custodian.tag_table('s.a', clock => 'at', on_expiry => 'delete');
         SELECT custodian.tag_table('s.b', clock => 'at', on_expiry => 'delete');
         SELECT custodian.tag_column('s.a', 'name', 'user.name', '{{p.short}}');
         SELECT custodian.tag_column('s.b', 'name', 'user.name', '{{p.short}}');"
    )
}

fn count(client: &mut Client, table: &str) -> Result<String> {
    client.text(&format!(
        "SELECT count(*), count(*) FILTER (WHERE id <= 101) FROM {table}"
    ))
}

#[test]
fn rows_of_two_tables_in_a_circle_go_in_one_statement_unless_one_is_kept() -> Result<()> {
    let (_node, mut client) = cluster("two")?;
    for (action, deferrable, not_null) in [
        ("", "", "NOT NULL"),
        ("", "DEFERRABLE INITIALLY DEFERRED", "NOT NULL"),
        ("ON DELETE RESTRICT", "", ""),
        ("ON DELETE CASCADE", "", "NOT NULL"),
        ("ON DELETE SET NULL", "", ""),
        ("ON DELETE SET DEFAULT", "DEFERRABLE", ""),
    ] {
        client.batch_execute(&two(action, deferrable, not_null))?;
        // Row 100 of b is held: its circle stays whole. That of 101 waits for the row of a, which is young.
        client.batch_execute(
            "SELECT custodian.place_hold('M1', 'app', '2099-01-01', 'x', rel => 's.b', match => '{\"id\":[100]}')",
        )?;
        assert_eq!(
            client.text(
                "SELECT relation, action, reason, rows FROM custodian.preview('s.a') ORDER BY 2"
            )?,
            "s.a|delete row|past: p.short|99\ns.b|delete row (circle)|goes with s.a|99\ns.a|keep|referenced by s.a, s.b (a_b, b_a)|1",
            "{action}"
        );
        assert_eq!(
            client.text("SELECT action, reason, rows FROM custodian.preview('s.b') WHERE relation = 's.b'::regclass ORDER BY 1, 2")?,
            "delete row|past: p.short|99\nkeep|hold: M1|1\nkeep|referenced by s.b, s.a (a_b, b_a)|1"
        );
        let explained =
            "SELECT state, explanation FROM custodian.explain_row('s.a', '{\"id\":100}')";
        assert_eq!(
            client.text(explained)?,
            "due|It goes with its row, which is referenced by: s.a, s.b."
        );
        assert_eq!(
            client.text(
                "SELECT state, explanation FROM custodian.explain_row('s.a', '{\"id\":7}')"
            )?,
            "due|Its row is due for deletion."
        );
        assert_eq!(
            client.text("SELECT relation, action, rows FROM custodian.sweep_now('s.a')")?,
            "s.a|delete row|99\ns.b|delete row (circle)|99",
            "{action}"
        );
        assert_eq!(count(&mut client, "s.a")?, "201|2");
        assert_eq!(count(&mut client, "s.b")?, "201|2");
        assert_eq!(
            client.text("SELECT count(*) FROM s.a JOIN s.b ON b.id = a.b AND a.id = b.a")?,
            "201"
        );
        // What the run counted, by table, and what the ledger says.
        assert_eq!(
            client.text(
                "SELECT r.rows_planned, r.rows_done, string_agg(concat_ws(':', i.leaf, i.action, i.planned, i.done), ' ' ORDER BY i.item)
                 FROM custodian.run r JOIN custodian.run_item i USING (run_id)
                 WHERE r.run_id = (SELECT max(run_id) FROM custodian.run WHERE state = 'done') GROUP BY r.run_id"
            )?,
            "198|198|s.a:delete row:99:99 s.b:delete row (circle):99:99"
        );
        assert_eq!(
            client.text(
                "SELECT detail ->> 'done', detail -> 'along' FROM custodian.ledger WHERE kind = 'run.done' ORDER BY entry DESC LIMIT 1"
            )?,
            "198|[{\"leaf\": \"s.b\", \"rows\": 99, \"action\": \"delete row (circle)\"}]"
        );
        client.batch_execute(
            "SELECT custodian.release_hold(hold, 'app', 'over') FROM custodian.hold WHERE released_at IS NULL",
        )?;
        assert_eq!(
            client.text("SELECT relation, action, rows FROM custodian.sweep_now('s.b')")?,
            "s.b|delete row|1\ns.a|delete row (circle)|1"
        );
    }
    Ok(())
}

/// A ring of three tables, of which rows up to 50 are past.
const RING: &str = "
    CREATE TABLE s.one (id int PRIMARY KEY, up int, at timestamptz, name text);
    CREATE TABLE s.two (LIKE s.one INCLUDING ALL);
    CREATE TABLE s.three (LIKE s.one INCLUDING ALL);
    ALTER TABLE s.one OWNER TO app;
    ALTER TABLE s.two OWNER TO app;
    ALTER TABLE s.three OWNER TO app;
    INSERT INTO s.one SELECT n, n, now() - CASE WHEN n <= 50 THEN interval '20 days' ELSE '0' END, 'n' FROM generate_series(1, 60) n;
    INSERT INTO s.two TABLE s.one;
    INSERT INTO s.three TABLE s.one;
    ALTER TABLE s.one ADD FOREIGN KEY (up) REFERENCES s.two;
    ALTER TABLE s.two ADD FOREIGN KEY (up) REFERENCES s.three ON DELETE CASCADE;
    ALTER TABLE s.three ADD FOREIGN KEY (up) REFERENCES s.one;
    SELECT custodian.tag_table(t::regclass, clock => 'at', on_expiry => 'delete') FROM unnest('{s.one,s.two,s.three}'::text[]) t;
    SELECT custodian.tag_column(t::regclass, 'name', 'user.name', '{p.short}') FROM unnest('{s.one,s.two,s.three}'::text[]) t";

const LEFT: &str = "SELECT (SELECT count(*) FROM s.one), (SELECT count(*) FROM s.two), (SELECT count(*) FROM s.three)";

#[test]
fn the_worker_deletes_a_ring_of_three_tables_across_a_crash_and_while_one_is_paused_none()
-> Result<()> {
    let (node, mut client) = cluster("ring")?;
    client.batch_execute(RING)?;
    client.batch_execute("SELECT custodian.pause('audit', 's.three')")?;
    let paused = client.refused("SELECT custodian.sweep_now('s.one')");
    assert_eq!(paused.sqlstate(), "55000");
    node.alter_system("custodian.disposal", "on")?;
    node.alter_system("custodian.naptime", "1s")?;
    // Planned and counted only, as if it were paused itself.
    let observed = "SELECT count(*) > 0 FROM custodian.runs WHERE relation_name = 's.one' AND state = 'observed'";
    wait_for_answer(&node, observed, "t");
    assert_eq!(client.text(LEFT)?, "60|60|60");
    node.crash()?;
    node.start()?;
    node.exec("SELECT custodian.resume('audited', 's.three')")?;
    wait_for_answer(&node, LEFT, "10|10|10");
    // The run ends behind its last batch.
    let done = "SELECT sum(rows_done) FROM custodian.runs WHERE state = 'done'";
    wait_for_answer(&node, done, "150");
    Ok(())
}

/// Has the statement that deletes the circles wait, when all of its rows are deleted and nothing is committed.
const GATE: &str = "
    CREATE TABLE s.gate AS SELECT 1 AS shut;
    GRANT SELECT ON s.gate TO app;
    CREATE FUNCTION s.wait() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        WHILE EXISTS (SELECT FROM s.gate) LOOP PERFORM pg_sleep(0.01); END LOOP;
        RETURN NULL;
    END $$;
    CREATE TRIGGER wait AFTER DELETE ON s.two FOR EACH STATEMENT EXECUTE FUNCTION s.wait()";

#[test]
fn a_crash_in_the_middle_of_a_circle_leaves_all_of_its_rows_or_none() -> Result<()> {
    let (node, mut client) = cluster("crash")?;
    client.batch_execute(RING)?;
    client.batch_execute(GATE)?;
    drop(client);
    for stop in [None, Some(Stop::Immediate)] {
        node.alter_system("custodian.disposal", "on")?;
        wait_for_answer(
            &node,
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'pg_custodian sweep' AND wait_event = 'PgSleep'",
            "t",
        );
        // No other sweep once it is up again.
        node.alter_system("custodian.disposal", "off")?;
        match stop {
            None => node.crash()?,
            Some(stop) => node.stop(stop)?,
        }
        node.start()?;
        assert_eq!(node.text(LEFT)?, "60|60|60");
        assert_eq!(
            node.text(
                "SELECT (SELECT sum(rows_done) FROM custodian.runs), (SELECT sum(done) FROM custodian.run_items),
                        (SELECT count(*) FROM custodian.ledger WHERE kind = 'run.done')"
            )?,
            "0|0|0"
        );
    }
    node.exec("TRUNCATE s.gate")?;
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(&node, LEFT, "10|10|10");
    wait_for_answer(
        &node,
        "SELECT sum(rows_done) FROM custodian.runs WHERE state = 'done'",
        "150",
    );
    Ok(())
}

/// Keys with other names and numbers than what they refer to; and with those of another table's key.
#[test]
fn a_circle_is_followed_by_its_keys_and_not_by_equal_numbers() -> Result<()> {
    let (_node, mut client) = cluster("keys")?;
    for (user, order) in [("id", "id"), ("user_no", "order_no")] {
        client.batch_execute(&format!(
            "DROP TABLE IF EXISTS s.person, s.orders CASCADE;
             CREATE TABLE s.person ({user} int PRIMARY KEY, favourite int, at timestamptz, name text);
             CREATE TABLE s.orders ({order} int PRIMARY KEY, buyer int NOT NULL REFERENCES s.person, at timestamptz, name text);
             ALTER TABLE s.person OWNER TO app;
             ALTER TABLE s.orders OWNER TO app;
             INSERT INTO s.person VALUES (5, 105, now() - interval '20 days', 'past'), (77, 5, now(), 'young');
             INSERT INTO s.orders VALUES (105, 5, now() - interval '20 days', 'past'), (5, 77, now(), 'young');
             ALTER TABLE s.person ADD FOREIGN KEY (favourite) REFERENCES s.orders;
             SELECT custodian.tag_table('s.person', clock => 'at', on_expiry => 'delete');
             SELECT custodian.tag_table('s.orders', clock => 'at', on_expiry => 'delete');
             SELECT custodian.tag_column('s.person', 'name', 'user.name', '{{p.short}}');
             SELECT custodian.tag_column('s.orders', 'name', 'user.name', '{{p.short}}')"
        ))?;
        // That the order of the young one has the number of the past one keeps nobody.
        assert_eq!(
            client.text("SELECT relation, action, rows FROM custodian.sweep_now('s.person')")?,
            "s.person|delete row|1\ns.orders|delete row (circle)|1",
            "{user}, {order}"
        );
        assert_eq!(
            client.text(&format!(
                "SELECT (SELECT string_agg({user}::text, ',') FROM s.person), (SELECT string_agg({order}::text, ',') FROM s.orders)"
            ))?,
            "77|5"
        );
    }
    Ok(())
}

#[test]
fn a_circle_of_tables_of_several_owners_stays_and_is_a_finding() -> Result<()> {
    let (_node, mut client) = cluster("owners")?;
    client.batch_execute(&two("", "", ""))?;
    client.batch_execute(
        "CREATE ROLE other NOLOGIN;
         GRANT USAGE ON SCHEMA s TO other;
         ALTER TABLE s.b OWNER TO other;
         GRANT SELECT ON s.a, s.b TO app, other;
         SELECT custodian.sweep_now()",
    )?;
    assert_eq!(count(&mut client, "s.a")?, "300|101");
    assert_eq!(
        client.text("SELECT string_agg(object, ' ' ORDER BY object) FROM custodian.check() WHERE code = 'circle-kept'")?,
        "s.a s.b"
    );
    Ok(())
}

#[test]
fn a_row_that_cannot_go_leaves_the_other_circles_alone() -> Result<()> {
    let (node, mut client) = cluster("isolated")?;
    client.batch_execute(&two("", "", ""))?;
    // The row of b that goes with row 5 of a.
    client.batch_execute(
        "CREATE FUNCTION s.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
         CREATE TRIGGER no BEFORE DELETE ON s.b FOR EACH ROW WHEN (OLD.id = 5) EXECUTE FUNCTION s.no()",
    )?;
    node.alter_system("custodian.disposal", "on")?;
    node.alter_system("custodian.naptime", "1s")?;
    wait_for_answer(
        &node,
        "SELECT count(*), min(id) FROM s.a WHERE id <= 100",
        "1|5",
    );
    client.batch_execute("DROP TRIGGER no ON s.b")?;
    wait_for_answer(&node, "SELECT count(*) FROM s.a WHERE id <= 100", "0");
    wait_for_answer(&node, "SELECT count(*) FROM s.b WHERE id <= 100", "0");
    Ok(())
}

const CUSTOMERS: &str = "
    CREATE TABLE s.customer (id int PRIMARY KEY, at timestamptz, name text);
    CREATE TABLE s.session (id int PRIMARY KEY, customer int REFERENCES s.customer ON DELETE CASCADE);
    CREATE TABLE s.click (id int PRIMARY KEY, session int REFERENCES s.session ON DELETE CASCADE);
    CREATE TABLE s.vote (id int PRIMARY KEY, customer int REFERENCES s.customer ON DELETE SET NULL);
    ALTER TABLE s.customer OWNER TO app;
    GRANT SELECT ON ALL TABLES IN SCHEMA s TO app;
    INSERT INTO s.customer SELECT n, now() - CASE WHEN n <= 10 THEN interval '20 days' ELSE '0' END, 'n' FROM generate_series(1, 100) n;
    INSERT INTO s.session SELECT n, 1 + n % 100 FROM generate_series(1, 1000) n;
    INSERT INTO s.click SELECT n, 1 + n % 1000 FROM generate_series(1, 2000) n;
    INSERT INTO s.vote SELECT n, 1 + n % 100 FROM generate_series(1, 300) n;
    SELECT custodian.tag_table('s.customer', clock => 'at', on_expiry => 'delete');
    SELECT custodian.tag_column('s.customer', 'name', 'user.name', '{p.short}');
    SELECT custodian.declare_dependents('s.customer', '{s.session,s.click,s.vote}')";

#[test]
fn what_goes_by_a_foreign_keys_action_is_planned_and_counted_by_table() -> Result<()> {
    let (node, mut client) = cluster("cascades")?;
    client.batch_execute(CUSTOMERS)?;
    let expected = "s.click|delete row (cascade)|200\ns.customer|delete row|10\ns.session|delete row (cascade)|100\ns.vote|change row (cascade)|30";
    assert_eq!(
        client.text("SELECT relation, action, rows FROM custodian.preview('s.customer') ORDER BY relation::text")?,
        expected
    );
    node.alter_system("custodian.disposal", "on")?;
    node.alter_system("custodian.naptime", "1s")?;
    wait_for_answer(
        &node,
        "SELECT state FROM custodian.runs WHERE state = 'done'",
        "done",
    );
    for (column, when) in [("planned", "what was planned"), ("done", "what was done")] {
        assert_eq!(
            client.text(&format!("SELECT leaf, action, {column} FROM custodian.run_items WHERE run_id = (SELECT max(run_id) FROM custodian.runs WHERE state = 'done') ORDER BY leaf"))?,
            expected,
            "{when}"
        );
    }
    assert_eq!(
        client.text("SELECT rows_planned, rows_done FROM custodian.runs WHERE state = 'done'")?,
        "340|340"
    );
    assert_eq!(
        client.text("SELECT (SELECT count(*) FROM s.session), (SELECT count(*) FROM s.click), (SELECT count(*) FROM s.vote WHERE customer IS NULL)")?,
        "900|1800|30"
    );
    Ok(())
}

#[test]
fn rows_that_go_along_count_for_the_fuse_of_their_own_table() -> Result<()> {
    let (node, mut client) = cluster("fuse")?;
    client.batch_execute(CUSTOMERS)?;
    // A tenth of the customers, and of what goes with them; but half of the votes.
    client.batch_execute("DELETE FROM s.vote WHERE id % 100 > 19")?;
    node.alter_system("custodian.max_disposal_fraction", "0.2")?;
    let refused = client.refused("SELECT custodian.sweep_now('s.customer')");
    assert_eq!(refused.sqlstate(), "55000");
    let why = refused.to_string();
    assert!(why.contains("rows of s.vote go along"), "{why}");
    node.alter_system("custodian.max_disposal_fraction", "0.6")?;
    client.batch_execute("SELECT custodian.sweep_now('s.customer')")?;
    assert_eq!(client.text("SELECT count(*) FROM s.customer")?, "90");
    Ok(())
}

#[test]
fn no_action_reaches_a_row_that_came_while_what_it_refers_to_was_being_deleted() -> Result<()> {
    let (node, mut client) = cluster("meanwhile")?;
    client.batch_execute(
        "CREATE TABLE s.parent (id int PRIMARY KEY, at timestamptz, name text);
         CREATE TABLE s.child (id int PRIMARY KEY, parent int REFERENCES s.parent ON DELETE CASCADE, at timestamptz, name text);
         ALTER TABLE s.parent OWNER TO app;
         ALTER TABLE s.child OWNER TO app;
         INSERT INTO s.parent VALUES (1, now() - interval '20 days', 'a'), (2, now() - interval '20 days', 'b');
         SELECT custodian.tag_table(t::regclass, clock => 'at', on_expiry => 'delete') FROM unnest('{s.parent,s.child}'::text[]) t;
         SELECT custodian.tag_column(t::regclass, 'name', 'user.name', '{p.short}') FROM unnest('{s.parent,s.child}'::text[]) t",
    )?;
    // Code that does not run when rows are deleted leaves it plain what reached others.
    client.batch_execute(
        "CREATE FUNCTION s.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         ALTER FUNCTION s.touch() OWNER TO app;
         CREATE TRIGGER touch BEFORE UPDATE ON s.parent FOR EACH ROW EXECUTE FUNCTION s.touch()",
    )?;
    client.batch_execute("BEGIN; INSERT INTO s.child VALUES (1, 1, now(), 'young')")?;
    let mut sweeper = node.client()?;
    let sweep = thread::spawn(move || {
        sweeper
            .refused("SELECT custodian.sweep_now('s.parent')")
            .sqlstate()
            .to_owned()
    });
    wait_for_answer(
        &node,
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT custodian.sweep_now%' AND wait_event_type = 'Lock'",
        "1",
    );
    client.batch_execute("COMMIT")?;
    assert_eq!(sweep.join().expect("the sweep's session ends"), "55P03");
    assert_eq!(client.text("SELECT count(*) FROM s.child")?, "1");
    // The next one sees it, and leaves what it refers to.
    client.batch_execute("SELECT custodian.sweep_now('s.parent')")?;
    assert_eq!(client.text("SELECT id FROM s.parent")?, "1");
    assert_eq!(client.text("SELECT count(*) FROM s.child")?, "1");
    Ok(())
}

#[test]
fn a_declared_table_stays_declared_under_another_name() -> Result<()> {
    let (_node, mut client) = cluster("renamed")?;
    client.batch_execute(CUSTOMERS)?;
    let declared = "SELECT label::json -> 'dependents' FROM pg_seclabels WHERE objname = 's.customer' AND objtype = 'table'";
    for (statement, expected) in [
        (
            "ALTER TABLE s.session RENAME TO visit",
            "s.click,s.visit,s.vote",
        ),
        (
            "SET search_path = s; ALTER TABLE click RENAME TO \"Click\"; RESET search_path",
            "s.\\\"Click\\\",s.visit,s.vote",
        ),
        (
            "CREATE SCHEMA other; ALTER TABLE s.vote SET SCHEMA other",
            "other.vote,s.\\\"Click\\\",s.visit",
        ),
        (
            "ALTER SCHEMA other RENAME TO \"Other\"",
            "\\\"Other\\\".vote,s.\\\"Click\\\",s.visit",
        ),
        // The server takes a table there as well.
        (
            "ALTER INDEX s.visit RENAME TO stay",
            "\\\"Other\\\".vote,s.\\\"Click\\\",s.stay",
        ),
        (
            "ALTER INDEX s.stay RENAME TO visit",
            "\\\"Other\\\".vote,s.\\\"Click\\\",s.visit",
        ),
        // Another table of the same name is none of them.
        (
            "CREATE TABLE s.vote (); ALTER TABLE s.vote RENAME TO ballot",
            "\\\"Other\\\".vote,s.\\\"Click\\\",s.visit",
        ),
    ] {
        client.batch_execute(statement)?;
        let names: Vec<String> = expected
            .split(',')
            .map(|name| format!("\"{name}\""))
            .collect();
        assert_eq!(
            client.text(declared)?,
            format!("[{}]", names.join(",")),
            "{statement}"
        );
    }
    client.batch_execute(
        "GRANT USAGE ON SCHEMA \"Other\" TO app; SELECT custodian.sweep_now('s.customer')",
    )?;
    assert_eq!(client.text("SELECT count(*) FROM s.customer")?, "90");
    Ok(())
}
