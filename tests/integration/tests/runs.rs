//! Runs that no longer apply, that cannot be, and that depend on each other.

use integration::{Cluster, Result, wait_for_answer, wait_for_two_rounds};

const CUSTOMER: &str = "
    CREATE TABLE customer (id bigint PRIMARY KEY, email text, seen timestamptz NOT NULL);
    INSERT INTO customer SELECT n, n || '@example.com', now() - (n - 0.5) * interval '1 day' FROM generate_series(1, 100) n;
    SELECT custodian.define_purpose('test.account', 'contract', '50 days');
    SELECT custodian.tag_table('customer', clock => 'seen', on_expiry => 'delete');
    SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{test.account}')";

fn cluster(name: &str, conf: &[&str]) -> Result<Cluster> {
    let mut builder = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = on");
    for line in conf {
        builder = builder.conf(line);
    }
    let node = builder.start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    Ok(node)
}

const STATES: &str = "SELECT state, rows_planned FROM custodian.runs ORDER BY run_id";

#[test]
fn a_run_that_waits_is_superseded_when_the_policy_changes_or_the_table_goes() -> Result<()> {
    let node = cluster("superseded", &[])?;
    node.exec(CUSTOMER)?;
    wait_for_answer(&node, STATES, "waiting|50");
    node.exec("SELECT custodian.define_purpose('test.account', 'contract', '40 days')")?;
    wait_for_answer(&node, STATES, "superseded|50\nwaiting|60");
    node.exec(
        "SELECT custodian.approve_run(run_id, 'backlog') FROM custodian.runs WHERE state = 'waiting';
         SELECT custodian.define_purpose('test.account', 'contract', '30 days')",
    )?;
    wait_for_answer(&node, STATES, "superseded|50\nsuperseded|60\nwaiting|70");
    assert_eq!(node.text("SELECT count(*) FROM customer")?, "100");

    // Nobody needs to approve once the fuse is wide enough.
    node.exec("DELETE FROM customer WHERE id > 32")?;
    wait_for_answer(&node, STATES, "superseded|50\nsuperseded|60\nwaiting|70");
    node.alter_system("custodian.max_disposal_fraction", "0.1")?;
    wait_for_answer(
        &node,
        STATES,
        "superseded|50\nsuperseded|60\nsuperseded|70\ndone|2",
    );

    node.alter_system("custodian.clock_offset", "10d")?;
    wait_for_answer(
        &node,
        "SELECT rows_planned FROM custodian.runs WHERE state = 'waiting'",
        "10",
    );
    node.exec("DROP TABLE customer")?;
    wait_for_answer(
        &node,
        "SELECT relation IS NULL, relation_name, state FROM custodian.runs ORDER BY run_id DESC LIMIT 1",
        "t|public.customer|superseded",
    );
    Ok(())
}

#[test]
fn another_version_of_the_library_keeps_still() -> Result<()> {
    let node = cluster("version", &["custodian.max_disposal_fraction = 1"])?;
    node.exec("UPDATE pg_extension SET extversion = '0.0.1' WHERE extname = 'pg_custodian'")?;
    wait_for_answer(
        &node,
        "SELECT count(*) FROM custodian.check() WHERE code = 'version-mismatch'",
        "1",
    );
    node.exec(CUSTOMER)?;
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(node.text("SELECT count(*) FROM custodian.runs")?, "0");
    node.exec(&format!(
        "UPDATE pg_extension SET extversion = '{}' WHERE extname = 'pg_custodian'",
        node.text("SELECT library_version FROM custodian.status")?
    ))?;
    wait_for_answer(&node, "SELECT count(*) FROM customer", "50");
    Ok(())
}

#[test]
fn a_database_without_its_keys_only_observes() -> Result<()> {
    let node = cluster("keys", &["custodian.max_disposal_fraction = 1"])?;
    node.exec("CREATE TABLE kept AS SELECT * FROM custodian.secret; DELETE FROM custodian.secret")?;
    node.exec(CUSTOMER)?;
    wait_for_answer(&node, STATES, "observed|50");
    wait_for_two_rounds(&node);
    assert_eq!(node.text("SELECT count(*) FROM customer")?, "100");
    node.exec("INSERT INTO custodian.secret SELECT * FROM kept")?;
    wait_for_answer(&node, STATES, "done|50");
    assert_eq!(node.text("SELECT count(*) FROM customer")?, "50");
    Ok(())
}

#[test]
fn without_a_free_worker_slot_the_check_says_so() -> Result<()> {
    let node = cluster(
        "starved",
        &[
            "custodian.max_disposal_fraction = 1",
            "max_worker_processes = 2",
            "max_logical_replication_workers = 0",
        ],
    )?;
    // The launcher and a scheduler: there is no slot for a sweep.
    node.exec(CUSTOMER)?;
    wait_for_answer(
        &node,
        "SELECT state, reason FROM custodian.runs",
        "interrupted|no background worker could be started",
    );
    wait_for_answer(
        &node,
        "SELECT count(*) FROM custodian.check() WHERE code = 'no-worker-slot'",
        "1",
    );
    assert_eq!(node.text("SELECT count(*) FROM customer")?, "100");
    Ok(())
}

#[test]
fn dependents_and_partitions_go_in_one_round() -> Result<()> {
    let node = cluster("family", &["custodian.max_disposal_fraction = 1"])?;
    node.exec(
        "CREATE ROLE app; CREATE ROLE archive;
         SELECT custodian.define_purpose('test.account', 'contract', '50 days');
         CREATE TABLE customer (id bigint PRIMARY KEY, email text, seen timestamptz NOT NULL);
         CREATE TABLE visit (customer bigint NOT NULL REFERENCES customer, at timestamptz NOT NULL, page text)
             PARTITION BY RANGE (at);
         CREATE TABLE visit_old PARTITION OF visit FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
         CREATE TABLE visit_new PARTITION OF visit FOR VALUES FROM ('2020-01-01') TO (MAXVALUE);
         INSERT INTO customer SELECT n, 'e', '2010-01-01' FROM generate_series(1, 10) n;
         INSERT INTO customer SELECT n, 'e', now() FROM generate_series(11, 20) n;
         INSERT INTO visit SELECT n, '2015-01-01', 'p' FROM generate_series(1, 20) n;
         INSERT INTO visit SELECT n, '2021-01-01', 'p' FROM generate_series(1, 20) n;
         INSERT INTO visit SELECT n, now(), 'p' FROM generate_series(5, 20) n;
         ALTER TABLE customer OWNER TO app; ALTER TABLE visit OWNER TO app;
         ALTER TABLE visit_old OWNER TO archive; ALTER TABLE visit_new OWNER TO app;
         GRANT SELECT ON visit, visit_old, visit_new, customer TO app;
         SELECT custodian.tag_table('visit', clock => 'at', on_expiry => 'delete');
         SELECT custodian.tag_column('visit', 'page', 'user.behavior', '{test.account}');
         SELECT custodian.tag_table('customer', clock => 'seen', on_expiry => 'delete');
         SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{test.account}')",
    )?;
    // Customers 5 to 10 are due and have a recent visit, which keeps them.
    wait_for_answer(
        &node,
        "SELECT relation, state, rows_planned, rows_done FROM custodian.runs WHERE state <> 'superseded' ORDER BY relation::text",
        "customer|done|4|4\nvisit|done|40|40",
    );
    assert_eq!(
        node.text("SELECT i.leaf, i.action, i.done FROM custodian.run_items i ORDER BY i.leaf")?,
        "public.customer|delete row|4\npublic.visit_new|delete row|20\npublic.visit_old|delete row|20"
    );
    assert_eq!(node.text("SELECT count(*), min(id) FROM customer")?, "16|5");
    assert_eq!(node.text("SELECT count(*) FROM visit")?, "16");
    Ok(())
}

#[test]
fn a_table_that_cannot_be_planned_is_said_and_stops_nobody() -> Result<()> {
    let node = cluster("unplannable", &["custodian.max_disposal_fraction = 1"])?;
    node.exec(
        "CREATE ROLE app;
         CREATE TABLE parent (id bigint PRIMARY KEY, email text, seen timestamptz NOT NULL);
         INSERT INTO parent SELECT n, 'e', '2010-01-01' FROM generate_series(1, 10) n;
         ALTER TABLE parent OWNER TO app;
         CREATE TABLE child (parent bigint REFERENCES parent);
         SELECT custodian.define_purpose('test.parent', 'contract', '50 days');
         SELECT custodian.tag_table('parent', clock => 'seen', on_expiry => 'delete');
         SELECT custodian.tag_column('parent', 'email', 'user.contact.email', '{test.parent}')",
    )?;
    node.exec(CUSTOMER)?;
    wait_for_answer(&node, "SELECT count(*) FROM customer", "50");
    wait_for_answer(
        &node,
        "SELECT object, regexp_replace(problem, '[0-9]+', 'N') FROM custodian.check() WHERE code = 'run-failed'",
        "public.parent|Run N failed with SQLSTATE 42501: it could not be planned.",
    );
    node.exec("GRANT SELECT ON child TO app")?;
    wait_for_answer(&node, "SELECT count(*) FROM parent", "0");
    Ok(())
}

#[test]
fn a_table_that_changes_while_a_round_is_on_its_way_to_it_is_no_failure() -> Result<()> {
    let node = cluster("changing", &["custodian.max_disposal_fraction = 1"])?;
    node.exec(
        "CREATE TABLE first (id bigint PRIMARY KEY, email text, seen timestamptz NOT NULL);
         CREATE TABLE second (LIKE first INCLUDING ALL);
         SELECT custodian.define_purpose('test.purpose', 'contract', '50 days');
         SELECT custodian.tag_table(t, clock => 'seen', on_expiry => 'delete'),
                custodian.tag_column(t, 'email', 'user.contact.email', '{test.purpose}')
         FROM unnest('{first,second}'::regclass[]) t",
    )?;
    wait_for_two_rounds(&node);
    let mut locker = node.client()?;
    locker.batch_execute("BEGIN; LOCK TABLE first")?;
    // The round that waits for the first table has read both.
    wait_for_answer(
        &node,
        "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'first'::regclass AND NOT granted",
        "t",
    );
    node.exec(
        "ALTER TABLE second RENAME seen TO happened;
         INSERT INTO second SELECT n, 'e', '2010-01-01' FROM generate_series(1, 10) n",
    )?;
    locker.batch_execute("ROLLBACK")?;
    wait_for_answer(&node, "SELECT count(*) FROM second", "0");
    let log = node.log();
    assert!(!log.contains("could not work on public.second"), "{log}");
    Ok(())
}

#[test]
fn rows_whose_run_waits_do_not_go_by_the_cascade_of_another() -> Result<()> {
    let node = cluster("cascade", &[])?;
    node.exec(
        "CREATE TABLE person (id bigint PRIMARY KEY, name text, seen timestamptz NOT NULL);
         CREATE TABLE visit (id bigint PRIMARY KEY, person bigint REFERENCES person ON DELETE CASCADE,
                             page text, at timestamptz NOT NULL);
         CREATE INDEX ON visit (person);
         INSERT INTO person SELECT n, 'x', now() - CASE WHEN n <= 2 THEN 100 ELSE 1 END * interval '1 day'
         FROM generate_series(1, 100) n;
         INSERT INTO visit SELECT n, 1 + n % 2, 'x', now() - interval '100 days' FROM generate_series(1, 50) n;
         SELECT custodian.define_purpose('test.account', 'contract', '50 days');
         SELECT custodian.tag_table('person', clock => 'seen', on_expiry => 'delete');
         SELECT custodian.tag_table('visit', clock => 'at', on_expiry => 'delete');
         SELECT custodian.tag_column('person', 'name', 'user.name', '{test.account}');
         SELECT custodian.tag_column('visit', 'page', 'user.behavior', '{test.account}')",
    )?;
    // Two of 100 persons would be let through by the fuse, all visits are not.
    wait_for_answer(&node, STATES, "waiting|50");
    wait_for_two_rounds(&node);
    assert_eq!(node.text(STATES)?, "waiting|50");
    assert_eq!(node.text("SELECT count(*) FROM person")?, "100");
    // A sweep of the persons alone leaves those who are referred to.
    assert_eq!(
        node.text("SELECT coalesce(sum(rows), 0) FROM custodian.sweep_now('person')")?,
        "0"
    );
    assert_eq!(node.text("SELECT count(*) FROM visit")?, "50");

    node.exec("SELECT custodian.approve_run(run_id, 'backlog') FROM custodian.runs WHERE state = 'waiting'")?;
    wait_for_answer(
        &node,
        "SELECT relation, state, rows_done FROM custodian.runs WHERE rows_done > 0 ORDER BY run_id",
        "visit|done|50\nperson|done|2",
    );
    assert_eq!(node.text("SELECT count(*) FROM person")?, "98");
    Ok(())
}

#[test]
fn old_runs_are_removed_but_for_the_latest_of_a_table_and_young_ones() -> Result<()> {
    let node = cluster("prune", &["custodian.max_disposal_fraction = 1"])?;
    node.exec(CUSTOMER)?;
    wait_for_answer(&node, "SELECT count(*) FROM customer", "50");
    wait_for_answer(&node, "SELECT state FROM custodian.runs", "done");
    // 450 runs of before, superseded and done, with items; a young one, and the only run of another table.
    node.exec(
        "CREATE TABLE other (id int);
         INSERT INTO custodian.run (relation, relation_name, state, cutoff, epoch, plan, finished_at, rows_done)
         SELECT 'customer'::regclass, 'public.customer', CASE WHEN n % 2 = 0 THEN 'done' ELSE 'superseded' END,
                now(), 0, '', now() - interval '3 days', 1
         FROM generate_series(1, 450) n;
         INSERT INTO custodian.run_item (run_id, item, leaf, columns, action, reason, planned)
         SELECT run_id, 9, 'public.customer', '{}', 'delete row', '', 1 FROM custodian.run WHERE plan = '';
         INSERT INTO custodian.run (relation, relation_name, state, cutoff, epoch, plan, finished_at)
         VALUES ('customer'::regclass, 'public.customer', 'done', now(), 0, 'young', now() - interval '1 day'),
                ('other'::regclass, 'public.other', 'failed', now(), 0, 'last', now() - interval '3 days');
         UPDATE custodian.run SET finished_at = now() - interval '3 days' WHERE plan NOT IN ('', 'young', 'last')",
    )?;
    wait_for_two_rounds(&node);
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.runs")?,
        "453",
        "a year is not over"
    );
    // The fuse asks for those of the last day, and a round for those that are open, without going over all of them.
    node.exec("ANALYZE custodian.run")?;
    assert_eq!(
        node.text(
            "BEGIN; INSERT INTO customer VALUES (1000, 'x', now() - interval '1 year');
             DO $$ BEGIN PERFORM custodian.sweep_now('customer'); END $$;
             SELECT pg_stat_get_xact_numscans('custodian.run_finished'::regclass) > 0,
                    pg_stat_get_xact_numscans('custodian.run_open'::regclass) > 0"
        )?,
        "t|t"
    );
    node.alter_system("custodian.run_retention", "2d")?;
    wait_for_answer(
        &node,
        "SELECT relation, state FROM custodian.runs ORDER BY run_id",
        "customer|done\nother|failed",
    );
    assert_eq!(node.text("SELECT count(*) FROM custodian.run_items")?, "0");
    Ok(())
}

#[test]
fn what_was_observed_of_a_table_goes_with_the_table() -> Result<()> {
    let node = cluster("observed", &["custodian.disposal = observe"])?;
    node.exec(CUSTOMER)?;
    node.exec(
        "CREATE TABLE other (LIKE customer INCLUDING ALL);
         INSERT INTO other SELECT * FROM customer;
         SELECT custodian.tag_table('other', clock => 'seen', on_expiry => 'delete');
         SELECT custodian.tag_column('other', 'email', 'user.contact.email', '{test.account}')",
    )?;
    let observed = "SELECT relation_name FROM custodian.run WHERE state = 'observed' ORDER BY 1";
    wait_for_answer(&node, observed, "public.customer\npublic.other");
    node.exec("DROP TABLE other")?;
    wait_for_answer(&node, observed, "public.customer");
    node.exec("SELECT custodian.untag_column('customer', 'email'); SELECT custodian.untag_table('customer')")?;
    wait_for_answer(&node, observed, "");
    Ok(())
}

/// Whether a batch waits in the trigger of the table.
const AT_THE_GATE: &str = "SELECT count(*) > 0 FROM pg_stat_activity
    WHERE backend_type = 'pg_custodian sweep' AND wait_event = 'PgSleep'";

#[test]
fn a_run_that_finds_more_than_it_may_dispose_of_undoes_that_batch_and_waits() -> Result<()> {
    let node = Cluster::builder("tripwire")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 0.5")
        .start()?;
    // 40 of 100 rows may go. The batch that takes them waits, so that others can come.
    node.exec(
        "CREATE EXTENSION pg_custodian;
         CREATE TABLE gate AS SELECT 1 AS shut;
         CREATE TABLE log (id bigint PRIMARY KEY, body text, at timestamptz NOT NULL);
         INSERT INTO log SELECT n, 'x', now() - CASE WHEN n <= 40 THEN interval '1 year' ELSE '0' END FROM generate_series(1, 100) n;
         CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN WHILE EXISTS (SELECT FROM public.gate) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN NULL; END';
         CREATE TRIGGER wait AFTER DELETE ON log FOR EACH STATEMENT EXECUTE FUNCTION wait();
         SELECT custodian.define_purpose('test.log', 'contract', '100 days');
         SELECT custodian.tag_table('log', clock => 'at', on_expiry => 'delete');
         SELECT custodian.tag_column('log', 'body', 'user.behavior', '{test.log}')",
    )?;
    wait_for_answer(&node, AT_THE_GATE, "t");
    node.exec(
        "INSERT INTO log SELECT n, 'x', now() - interval '1 year' FROM generate_series(101, 160) n;
         DELETE FROM gate",
    )?;
    wait_for_answer(
        &node,
        "SELECT state, rows_planned, rows_done, reason FROM custodian.runs ORDER BY run_id LIMIT 1",
        "superseded|40|40|more rows are due than the run may dispose",
    );
    assert_eq!(
        node.text("SELECT count(*), count(*) FILTER (WHERE id > 100) FROM log")?,
        "120|60"
    );
    // The next one asks.
    wait_for_answer(
        &node,
        "SELECT state, rows_planned FROM custodian.runs ORDER BY run_id DESC LIMIT 1",
        "waiting|60",
    );
    node.exec("SELECT custodian.approve_run(run_id, 'an import of old rows') FROM custodian.runs WHERE state = 'waiting'")?;
    wait_for_answer(&node, "SELECT count(*), min(id) FROM log", "60|41");

    // A row that falls due while a run is at work stays for the next one: each has one cutoff.
    node.exec(
        "INSERT INTO gate VALUES (1); UPDATE log SET at = now() - interval '1 year' WHERE id = 41",
    )?;
    wait_for_answer(&node, AT_THE_GATE, "t");
    node.exec(
        "UPDATE log SET at = now() - interval '100 days' + interval '1 second' WHERE id = 42",
    )?;
    wait_for_answer(
        &node,
        "SELECT state FROM custodian.explain_row('log', '{\"id\": 42}')",
        "due",
    );
    node.exec("DELETE FROM gate")?;
    wait_for_answer(&node, "SELECT count(*), min(id) FROM log", "58|43");
    wait_for_answer(
        &node,
        "SELECT state, rows_planned, rows_done FROM custodian.runs ORDER BY run_id DESC LIMIT 2",
        "done|1|1\ndone|1|1",
    );
    Ok(())
}

#[test]
fn the_duration_of_a_run_goes_on_until_it_ends() -> Result<()> {
    let node = cluster("duration", &["custodian.max_disposal_fraction = 0.1"])?;
    node.exec(
        "CREATE TABLE log (id bigint PRIMARY KEY, body text, at timestamptz NOT NULL);
         CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.1); RETURN OLD; END';
         CREATE TRIGGER slowly BEFORE DELETE ON log FOR EACH ROW EXECUTE FUNCTION slowly();
         INSERT INTO log SELECT n, 'x', now() - interval '1 year' FROM generate_series(1, 40) n;
         SELECT custodian.define_purpose('test.log', 'contract', '100 days');
         SELECT custodian.tag_table('log', clock => 'at', on_expiry => 'delete');
         SELECT custodian.tag_column('log', 'body', 'user.behavior', '{test.log}')",
    )?;
    wait_for_answer(
        &node,
        "SELECT state, duration IS NULL FROM custodian.runs",
        "waiting|t",
    );
    node.exec("SELECT custodian.approve_run(run_id, 'expected') FROM custodian.runs")?;
    wait_for_answer(
        &node,
        "SELECT state, duration > interval '0.1 s' AND duration <= clock_timestamp() - started_at FROM custodian.runs",
        "running|t",
    );
    wait_for_answer(
        &node,
        "SELECT state, duration = finished_at - started_at, duration >= interval '4 s' FROM custodian.runs",
        "done|t|t",
    );
    let over = node.text("SELECT duration FROM custodian.runs")?;
    assert_eq!(node.text("SELECT duration FROM custodian.runs")?, over);
    Ok(())
}
