//! Partitions for a past time: dropped once all of their rows are due, put back where something keeps a row, and
//! finished after a crash.

use integration::{
    Cluster, Result, Sql, Stop, blocked, poll, wait_for_answer, wait_for_two_rounds,
};

fn cluster(name: &str) -> Result<Cluster> {
    Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.drop_partitions = on")
        .start()
}

/// A table `name` of visits, partitioned by range of `seen`: `_old` is over by a year and more, `_now` holds today.
/// Until [`ready`] it is paused.
fn visits(name: &str) -> String {
    format!(
        "CREATE TABLE {name} (id bigint, ip text, seen timestamptz NOT NULL) PARTITION BY RANGE (seen);
         CREATE TABLE {name}_old PARTITION OF {name} FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
         CREATE TABLE {name}_now PARTITION OF {name} FOR VALUES FROM ('2021-01-01') TO ('2100-01-01');
         INSERT INTO {name} SELECT n, '10.0.0.' || n, '2020-03-01' FROM generate_series(1, 100) n;
         INSERT INTO {name} SELECT n, '10.0.0.' || n, now() FROM generate_series(101, 120) n;
         SELECT custodian.pause('not yet', '{name}');"
    )
}

/// Tags it, by a purpose of its own, and lets it go.
fn ready(name: &str) -> String {
    format!(
        "SELECT custodian.define_purpose('shop.{name}', 'contract', '90 days');
         SELECT custodian.tag_table('{name}', subject_kind => 'visitor', subject_key => '{{id}}', clock => 'seen', on_expiry => 'delete');
         SELECT custodian.tag_column('{name}', 'ip', 'user.device.ip_address', '{{shop.{name}}}');
         SELECT custodian.resume('now', '{name}');"
    )
}

const ITEMS: &str =
    "SELECT string_agg(concat_ws(' ', leaf, action, planned, done), '; ' ORDER BY run_id, item)
                     FROM custodian.run_items";

#[test]
fn partitions_whose_rows_are_all_due_are_dropped_and_others_are_emptied() -> Result<()> {
    let node = cluster("drop")?;
    node.exec("CREATE EXTENSION pg_custodian")?;

    // By its bounds; another order of columns in the partition; one more level.
    node.exec(&visits("bound"))?;
    node.exec(
        "CREATE TABLE bound_odd (seen timestamptz NOT NULL, gone int, ip text, id bigint);
         ALTER TABLE bound_odd DROP gone;
         INSERT INTO bound_odd SELECT '2019-05-01', '10.1.1.1', n FROM generate_series(1, 7) n;
         ALTER TABLE bound ATTACH PARTITION bound_odd FOR VALUES FROM ('2019-01-01') TO ('2020-01-01');
         CREATE TABLE bound_deep PARTITION OF bound FOR VALUES FROM ('2018-01-01') TO ('2019-01-01')
             PARTITION BY LIST (ip);
         CREATE TABLE bound_deep_a PARTITION OF bound_deep FOR VALUES IN ('10.0.0.1');
         INSERT INTO bound VALUES (500, '10.0.0.1', '2018-07-01');
         -- Nothing is in it any more, or ever was.
         CREATE TABLE bound_void PARTITION OF bound FOR VALUES FROM ('2017-01-01') TO ('2018-01-01');",
    )?;
    node.exec(&ready("bound"))?;
    wait_for_answer(
        &node,
        "SELECT string_agg(inhrelid::regclass::text, ',' ORDER BY inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'bound'::regclass",
        "bound_deep,bound_now",
    );
    wait_for_answer(
        &node,
        "SELECT count(*), to_regclass('bound_deep_a'), to_regclass('bound_odd') FROM bound",
        "20||",
    );
    wait_for_answer(
        &node,
        "SELECT sum(done), string_agg(DISTINCT action, ',') FROM custodian.run_items WHERE leaf LIKE '%.bound\\_%'",
        "108|drop partition",
    );
    assert_eq!(
        node.text(
            "SELECT DISTINCT reason FROM custodian.run_items WHERE leaf = 'public.bound_old'"
        )?,
        "past: shop.bound; no later seen fits its bounds"
    );
    assert_eq!(
        node.text("SELECT way FROM custodian.run_items WHERE leaf = 'public.bound_odd'")?,
        "Partition Drop of public.bound_odd  (rows=7)\n  Reason: no later seen fits its bounds"
    );
    assert_eq!(
        node.text(
            "SELECT object, detail ->> 'rows' FROM custodian.ledger WHERE kind = 'partition.dropped' ORDER BY 1"
        )?,
        "public.bound_deep_a|1\npublic.bound_odd|7\npublic.bound_old|100\npublic.bound_void|0"
    );
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.partition_drop")?,
        "0"
    );

    // Another clock than the column of the bounds: each row is looked at.
    node.exec(&visits("counted"))?;
    node.exec(
        "ALTER TABLE counted ADD changed timestamptz;
         UPDATE counted SET changed = CASE WHEN id <= 120 AND seen < '2021-01-01' THEN '2020-06-01'::timestamptz ELSE now() END;
         CREATE TABLE counted_part PARTITION OF counted FOR VALUES FROM ('2019-01-01') TO ('2020-01-01');
         INSERT INTO counted VALUES (600, '10.9.9.9', '2019-02-01', now()), (601, '10.9.9.9', '2019-02-01', '2019-03-01')",
    )?;
    node.exec(&ready("counted").replace("clock => 'seen'", "clock => 'changed'"))?;
    wait_for_answer(
        &node,
        "SELECT to_regclass('counted_old'), (SELECT count(*) FROM counted)",
        "|21",
    );
    assert_eq!(
        node.text(
            "SELECT leaf, action, reason, done FROM custodian.run_items WHERE leaf LIKE '%.counted\\_%' ORDER BY 1"
        )?,
        "public.counted_old|drop partition|past: shop.counted; each of its rows is due|100\n\
         public.counted_part|delete row|past: shop.counted|1"
    );

    // A default partition beside it: not concurrently, and what comes late goes there.
    node.exec(&visits("other"))?;
    node.exec("CREATE TABLE other_rest PARTITION OF other DEFAULT")?;
    node.exec(&ready("other"))?;
    wait_for_answer(&node, "SELECT to_regclass('other_old')", "");
    node.exec("INSERT INTO other VALUES (700, '10.0.0.1', '2020-03-01')")?;
    wait_for_answer(
        &node,
        "SELECT count(*), to_regclass('other_rest') FROM other",
        "20|other_rest",
    );

    // Without it an INSERT is refused.
    let mut client = node.client()?;
    let refused = client.refused("INSERT INTO bound VALUES (800, '10.0.0.1', '2020-03-01')");
    assert_eq!(refused.sqlstate(), "23514");
    Ok(())
}

#[test]
fn what_is_tied_to_a_partition_keeps_it_and_its_rows_go_one_by_one() -> Result<()> {
    let node = cluster("tied")?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    let cases = [
        (
            "viewed",
            "CREATE VIEW look AS SELECT * FROM viewed_old",
            "other objects depend on it",
        ),
        (
            "triggered",
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN old; END';
             CREATE TRIGGER note BEFORE DELETE ON triggered FOR EACH ROW EXECUTE FUNCTION note()",
            "a trigger fires when rows are deleted",
        ),
        (
            "referred",
            "ALTER TABLE referred ADD PRIMARY KEY (id, seen);
             CREATE TABLE refers (id bigint, seen timestamptz, FOREIGN KEY (id, seen) REFERENCES referred)",
            "foreign keys refer to the table",
        ),
        (
            "owned",
            "CREATE ROLE other; ALTER TABLE owned_old OWNER TO other",
            "it and the table have several owners",
        ),
    ];
    for (name, tie, why) in cases {
        node.exec(&visits(name))?;
        node.exec(tie)?;
        node.exec(&ready(name))?;
        wait_for_answer(
            &node,
            &format!("SELECT count(*), to_regclass('{name}_old') FROM {name}"),
            &format!("20|{name}_old"),
        );
        assert_eq!(
            node.text(&format!(
                "SELECT action, reason, done FROM custodian.run_items WHERE leaf = 'public.{name}_old'"
            ))?,
            format!("delete row|past: shop.{name}; the partition stays: {why}|100")
        );
    }
    Ok(())
}

#[test]
fn a_drop_that_would_blow_the_fuse_waits_and_is_counted() -> Result<()> {
    let node = cluster("fuse")?;
    node.alter_system("custodian.max_disposal_fraction", "0.5")?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(&visits("fused"))?;
    node.exec(&ready("fused"))?;
    wait_for_answer(
        &node,
        "SELECT state, rows_planned, reason FROM custodian.runs",
        "waiting|100|100 of 120 rows are due, and custodian.max_disposal_fraction is 0.5",
    );
    assert_eq!(node.text("SELECT count(*) FROM fused")?, "120");
    node.exec("SELECT custodian.approve_run((SELECT run_id FROM custodian.runs), 'it is right')")?;
    wait_for_answer(
        &node,
        "SELECT state, rows_planned, rows_done FROM custodian.runs",
        "done|100|100",
    );
    assert_eq!(node.text("SELECT to_regclass('fused_old')")?, "");
    Ok(())
}

#[test]
fn a_partition_that_cannot_be_dropped_is_put_back_and_its_rows_are_deleted() -> Result<()> {
    let node = cluster("refused")?;
    node.exec(
        "CREATE EXTENSION pg_custodian;
         -- Another error where the worker has the server look for deadlocks sooner than for others: that ends autovacuums.
         CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'no' USING ERRCODE = CASE concat_ws(' ', current_setting('deadlock_timeout'), current_setting('lock_timeout'))
                 WHEN '1s 500ms' THEN '55006' ELSE '55000' END;
         END $$",
    )?;
    node.exec(&visits("kept"))?;
    node.exec(
        "CREATE EVENT TRIGGER no ON sql_drop WHEN tag IN ('DROP TABLE') EXECUTE FUNCTION no()",
    )?;
    node.exec(&ready("kept"))?;
    wait_for_answer(
        &node,
        "SELECT count(*), (SELECT count(*) FROM pg_inherits WHERE inhrelid = 'kept_old'::regclass AND NOT inhdetachpending),
                (SELECT count(*) FROM pg_seclabel WHERE objoid = 'kept_old'::regclass) FROM kept",
        "20|1|0",
    );
    assert_eq!(
        node.text("SELECT code, object, problem ~ '55006' FROM custodian.check() WHERE code LIKE 'partition-%'")?,
        "partition-not-dropped|public.kept_old|t"
    );
    wait_for_answer(
        &node,
        ITEMS,
        "public.kept_old drop partition 100 0; public.kept_old delete row 0 100",
    );
    Ok(())
}

#[test]
fn what_was_paused_meanwhile_is_put_back_whatever_the_crash_left() -> Result<()> {
    let node = cluster("paused")?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(&visits("stopped"))?;
    let user = looking(&node, "stopped")?;
    node.exec(&ready("stopped"))?;
    wait_for_answer(
        &node,
        "SELECT count(*) FROM pg_inherits WHERE inhdetachpending",
        "1",
    );
    // Out of sight of new transactions, and of the one that pauses.
    assert_eq!(node.text("SELECT count(*) FROM stopped")?, "20");
    node.exec("SELECT custodian.pause('an incident', 'stopped')")?;
    node.crash()?;
    drop(user);
    node.start()?;
    wait_for_answer(&node, "SELECT count(*) FROM stopped", "120");
    assert_eq!(
        node.text("SELECT kind, object FROM custodian.ledger WHERE kind LIKE 'partition.%'")?,
        "partition.put_back|public.stopped_old"
    );
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.partition_drop")?,
        "0"
    );
    Ok(())
}

#[test]
fn a_partition_that_a_cancel_leaves_half_way_is_dropped_afterwards() -> Result<()> {
    let node = cluster("cancelled")?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(&visits("halfway"))?;
    let user = looking(&node, "halfway")?;
    node.exec(&ready("halfway"))?;
    wait_for_answer(
        &node,
        "SELECT count(*) FROM pg_inherits WHERE inhdetachpending",
        "1",
    );
    // A cancel that comes between two attempts is none of a command.
    const CANCEL: &str = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
        WHERE backend_type LIKE 'pg_custodian %' AND wait_event_type = 'Lock'";
    let cancelled = poll(120, || {
        let _others_may_be_hit = node.text(CANCEL);
        let sqlstate = node.text("SELECT sqlstate FROM custodian.partition_drop");
        (sqlstate.ok()? == "57014").then_some(())
    });
    assert!(cancelled.is_some());
    // Out of sight, as one that is detached: that is what is said, and it is not forgotten when its time is over.
    const SAID: &str = "SELECT code, object, problem ~ '57014' FROM custodian.check() WHERE code LIKE 'partition-%'";
    assert_eq!(node.text(SAID)?, "partition-detached|public.halfway_old|t");
    node.exec("UPDATE custodian.partition_drop SET retry_at = now() - interval '1 minute', began_at = now() - interval '1 hour'")?;
    // A sweep of another table, which pauses for a minute after each of three batches, is in nobody's way.
    node.alter_system("custodian.max_wal_rate", "1kB")?;
    node.exec(
        "CREATE TABLE busy (id int, body text, at timestamptz);
         INSERT INTO busy SELECT n, repeat('x', 100), '2000-01-01' FROM generate_series(1, 20000) n;
         SELECT custodian.tag_table('busy', clock => 'at', on_expiry => 'delete');
         SELECT custodian.tag_column('busy', 'body', 'user.behavior', '{shop.halfway}')",
    )?;
    const BUSY: &str = "SELECT state, rows_done BETWEEN 1 AND 19999 FROM custodian.runs WHERE relation = 'busy'::regclass";
    wait_for_answer(&node, BUSY, "running|t");
    drop(user);
    wait_for_answer(&node, "SELECT to_regclass('halfway_old')", "");
    assert_eq!(node.text(BUSY)?, "running|t");
    wait_for_answer(&node, "SELECT count(*) FROM custodian.partition_drop", "0");
    assert_eq!(node.text("SELECT count(*) FROM halfway")?, "20");
    Ok(())
}

#[test]
fn a_drop_that_code_holds_up_is_given_up_also_where_a_constraint_is_slow() -> Result<()> {
    let node = cluster("held_up")?;
    node.alter_system("custodian.count_timeout", "4s")?;
    node.exec(
        "CREATE EXTENSION pg_custodian;
         CREATE FUNCTION wait() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_catalog.pg_sleep(3600); END $$",
    )?;
    node.exec(&visits("slow"))?;
    // Reading the policy asks the constraint, which is given up after a second: the rest of the four seconds goes on.
    let sum = vec!["factorial(32177)"; 60].join(" + ");
    node.exec(&format!(
        "ALTER TABLE slow ADD body text; {}
         SELECT custodian.tag_column('slow', 'body', 'user.behavior', '{{shop.slow}}', on_expiry => '{{\"constant\":\"gone\"}}');
         ALTER TABLE slow ADD CHECK (body <> 'gone' OR {sum} > 0) NOT VALID;
         CREATE EVENT TRIGGER wait ON sql_drop WHEN tag IN ('DROP TABLE') EXECUTE FUNCTION wait()",
        ready("slow").replace("SELECT custodian.resume('now', 'slow');", "")
    ))?;
    node.exec("SELECT custodian.resume('now', 'slow')")?;
    wait_for_answer(
        &node,
        "SELECT string_agg(concat_ws(' ', leaf_name, sqlstate), '') FROM custodian.partition_drop",
        "public.slow_old 57014",
    );
    wait_for_answer(&node, "SELECT count(*) FROM slow", "20");
    assert_eq!(
        node.text("SELECT kind, object FROM custodian.ledger WHERE kind LIKE 'partition.%'")?,
        "partition.put_back|public.slow_old"
    );
    Ok(())
}

/// Detaching waits for whoever may still look at the table as it was: as long as this transaction is open, the
/// partition is out of sight and not gone.
fn looking(node: &Cluster, name: &str) -> Result<postgres::Client> {
    let mut user = node.client()?;
    user.batch_execute(&format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM {name}"
    ))?;
    Ok(user)
}

#[test]
fn a_partition_that_a_crash_leaves_half_way_is_dropped_afterwards() -> Result<()> {
    let node = cluster("crash")?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(&visits("left_behind"))?;
    let user = looking(&node, "left_behind")?;
    node.exec(&ready("left_behind"))?;
    wait_for_answer(
        &node,
        "SELECT inhdetachpending, (SELECT count(*) FROM pg_seclabel WHERE objoid = 'left_behind_old'::regclass)
         FROM pg_inherits WHERE inhrelid = 'left_behind_old'::regclass",
        "t|2",
    );
    node.crash()?;
    drop(user);
    node.start()?;
    wait_for_answer(&node, "SELECT to_regclass('left_behind_old')", "");
    wait_for_answer(
        &node,
        "SELECT state, rows_planned, rows_done FROM custodian.runs",
        "done|100|100",
    );
    assert_eq!(node.text("SELECT count(*) FROM left_behind")?, "20");

    // The server restarted at once, with another partition detached and not dropped: a change of the policy that is
    // not committed keeps it from being looked at.
    node.exec(
        "SELECT custodian.pause('not yet', 'left_behind');
         CREATE TABLE left_behind_old PARTITION OF left_behind FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
         INSERT INTO left_behind SELECT n, '10.0.0.' || n, '2020-03-01' FROM generate_series(1, 50) n",
    )?;
    let mut user = looking(&node, "left_behind")?;
    node.exec("SELECT custodian.resume('now', 'left_behind')")?;
    wait_for_answer(
        &node,
        "SELECT count(*) FROM pg_inherits WHERE inhdetachpending",
        "1",
    );
    let mut steward = node.client()?;
    steward.batch_execute(
        "BEGIN; SELECT custodian.define_purpose('shop.more', 'contract', '1 day')",
    )?;
    user.batch_execute("COMMIT")?;
    wait_for_answer(
        &node,
        "SELECT relispartition, to_regclass('left_behind_old') FROM pg_class WHERE relname = 'left_behind_old'",
        "f|left_behind_old",
    );
    // Its tags went with it.
    assert_eq!(
        node.text("SELECT count(*) FROM pg_seclabel WHERE objoid = 'left_behind_old'::regclass")?,
        "2"
    );
    node.stop(Stop::Immediate)?;
    drop((user, steward));
    node.start()?;
    wait_for_answer(&node, "SELECT to_regclass('left_behind_old')", "");
    assert_eq!(
        node.text(
            "SELECT count(*), sum((detail ->> 'rows')::int) FROM custodian.ledger WHERE kind = 'partition.dropped'"
        )?,
        "2|150"
    );
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.partition_drop")?,
        "0"
    );
    Ok(())
}

#[test]
fn a_hold_that_is_placed_while_a_partition_is_detached_puts_it_back() -> Result<()> {
    let node = cluster("held")?;
    node.exec("CREATE ROLE counsel; CREATE EXTENSION pg_custodian")?;
    for (name, hold) in [
        (
            "one",
            "SELECT custodian.place_hold('m', 'counsel', current_date + 30, 'lawsuit', subject_kind => 'visitor', subject_key => '{7}')",
        ),
        (
            "two",
            "SELECT custodian.place_hold('m', 'counsel', current_date + 30, 'lawsuit', rel => 'two')",
        ),
    ] {
        node.exec(&visits(name))?;
        let mut user = looking(&node, name)?;
        node.exec(&ready(name))?;
        let pending = format!(
            "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = '{name}_old'::regclass"
        );
        wait_for_answer(&node, &pending, "t");
        node.exec(hold)?;
        user.batch_execute("COMMIT")?;
        wait_for_answer(&node, &pending, "f");
        // What is held stays, and so do the labels that the partition had of its own: none.
        assert_eq!(
            node.text(&format!("SELECT count(*) FROM {name} WHERE id = 7"))?,
            "1"
        );
        wait_for_answer(
            &node,
            &format!("SELECT count(*) FROM pg_seclabel WHERE objoid = '{name}_old'::regclass"),
            "0",
        );
        wait_for_answer(
            &node,
            &format!("SELECT count(*) FROM {name}"),
            if name == "one" { "21" } else { "120" },
        );
        let mut client = node.client()?;
        let refused = client.refused(&format!("DROP TABLE {name}_old"));
        assert_eq!(refused.sqlstate(), "23001");
        node.exec(&format!("SELECT custodian.pause('enough', '{name}'); SELECT custodian.release_hold(hold, 'counsel', 'settled') FROM custodian.holds WHERE released_at IS NULL"))?;
    }
    Ok(())
}

#[test]
fn a_minimum_that_comes_while_a_partition_is_detached_puts_it_back() -> Result<()> {
    let node = cluster("kept")?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(&visits("one"))?;
    let mut user = looking(&node, "one")?;
    node.exec(&ready("one"))?;
    let pending = "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = 'one_old'::regclass";
    wait_for_answer(&node, pending, "t");
    node.exec("SELECT custodian.require_minimum('k.tax', 'one', '{ip}', '90 years', 'Act A')")?;
    user.batch_execute("COMMIT")?;
    wait_for_answer(&node, pending, "f");
    assert_eq!(node.text("SELECT count(*) FROM one")?, "120");
    assert_eq!(
        node.text("SELECT kind, object FROM custodian.ledger WHERE kind LIKE 'partition.%'")?,
        "partition.put_back|public.one_old"
    );
    wait_for_two_rounds(&node);
    assert_eq!(node.text("SELECT count(*) FROM one")?, "120");

    // Who detaches it is told, and takes the minimum along.
    node.exec(&visits("two"))?;
    node.exec(&ready("two").replace("SELECT custodian.resume('now', 'two');", ""))?;
    let mut user = looking(&node, "two")?;
    let detaching = blocked(
        &node,
        "ALTER TABLE two DETACH PARTITION two_now CONCURRENTLY",
    )?;
    node.exec("SELECT custodian.tag_column('two', 'id', 'user.unique_id', '{shop.two}')")?;
    user.batch_execute("COMMIT")?;
    let detached = detaching
        .join()
        .map_err(|_| integration::Error::new("a panic"))?;
    assert_eq!(
        detached
            .err()
            .map(|error| error.sqlstate().to_owned())
            .as_deref(),
        Some("55000")
    );
    node.exec("ALTER TABLE two DETACH PARTITION two_now FINALIZE")?;
    assert_eq!(
        node.text("SELECT count(*) FROM pg_seclabel WHERE objoid = 'two_now'::regclass AND label LIKE '%user.unique_id%'")?,
        "1"
    );
    Ok(())
}

#[test]
fn a_published_partition_is_emptied_first_so_that_subscribers_lose_its_rows() -> Result<()> {
    let node = cluster("publisher")?;
    node.alter_system("custodian.enforce", "off")?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(&visits("sent"))?;
    node.exec(
        "ALTER TABLE sent ADD PRIMARY KEY (id, seen); CREATE PUBLICATION sent FOR TABLE sent",
    )?;
    let subscriber = Cluster::builder("subscriber").start()?;
    subscriber.exec(
        "CREATE TABLE sent (id bigint, ip text, seen timestamptz NOT NULL, PRIMARY KEY (id, seen)) PARTITION BY RANGE (seen);
         CREATE TABLE sent_old PARTITION OF sent FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
         CREATE TABLE sent_now PARTITION OF sent FOR VALUES FROM ('2021-01-01') TO ('2100-01-01')",
    )?;
    subscriber.exec(&format!(
        "CREATE SUBSCRIPTION sent CONNECTION '{}' PUBLICATION sent",
        node.conninfo("postgres", "postgres")
    ))?;
    let copied = poll(90, || {
        (subscriber.text("SELECT count(*) FROM sent").ok()? == "120").then_some(())
    });
    assert!(copied.is_some(), "the subscriber has the rows");
    node.exec(&ready("sent"))?;
    wait_for_answer(&node, "SELECT to_regclass('sent_old')", "");
    let gone = poll(90, || {
        (subscriber.text("SELECT count(*) FROM sent").ok()? == "20").then_some(())
    });
    assert!(gone.is_some(), "the subscriber has lost the rows");
    wait_for_answer(
        &node,
        ITEMS,
        "public.sent_old delete row 100 100; public.sent_old drop partition 0 0",
    );

    // A publication that does not tell them is a finding.
    let findings =
        "SELECT object, problem FROM custodian.check() WHERE code = 'subscribers-keep-data'";
    assert_eq!(node.text(findings)?, "");
    node.exec("ALTER PUBLICATION sent SET (publish = 'insert, update')")?;
    assert_eq!(
        node.text(findings)?,
        "public.sent|Publication \"sent\" of it leaves out delete: subscribers keep what is disposed of here."
    );
    // Also where the table that is published lies above the one that is tagged.
    node.exec(
        "CREATE TABLE above (LIKE sent INCLUDING ALL) PARTITION BY RANGE (seen);
         DROP PUBLICATION sent;
         ALTER TABLE above ATTACH PARTITION sent FOR VALUES FROM ('2020-01-01') TO ('2100-01-01');
         CREATE PUBLICATION above FOR TABLE above WITH (publish_via_partition_root, publish = 'insert, update')",
    )?;
    assert_eq!(
        node.text(findings)?,
        "public.sent|Publication \"above\" of it leaves out delete: subscribers keep what is disposed of here."
    );
    Ok(())
}

/// How often relations were read from end to end, as the statistics have it.
const READ: &str = "SELECT string_agg(relname || ' ' || CASE seq_scan WHEN 0 THEN 'never' ELSE 'read' END, ', ' ORDER BY relname)
                    FROM pg_stat_user_tables WHERE relname LIKE 'visit\\_%'";

#[test]
fn a_partition_whose_bounds_leave_out_what_is_due_is_not_read() -> Result<()> {
    let node = cluster("bounds")?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    // No index leads to what is due. Rows of the last partition are from the future, and more than are counted for the fuse.
    node.exec(&visits("visit"))?;
    node.exec(
        "ALTER TABLE visit ADD COLUMN note text;
         CREATE TABLE visit_next PARTITION OF visit FOR VALUES FROM ('2100-01-01') TO ('2101-01-01');
         ALTER TABLE visit_next ALTER note SET STORAGE plain;
         INSERT INTO visit SELECT n, '10.0.0.1', '2100-03-01', repeat('x', 7000) FROM generate_series(1, 5000) n;
         ANALYZE visit",
    )?;
    let cells = ready("visit").replace("'delete'", "'keep'");
    let cells = cells.replace("'{shop.visit}'", "'{shop.visit}', on_expiry => 'set_null'");
    let (tags, resume) = cells.split_at(cells.rfind("SELECT").ok_or("no resume")?);
    // While it is paused rows stay due, and it is found out since when: neither counting nor that look at all partitions.
    node.exec(tags)?;
    wait_for_answer(&node, "SELECT count(*) FROM custodian.overdue", "1");
    wait_for_two_rounds(&node);
    assert_eq!(
        node.text(READ)?,
        "visit_next never, visit_now read, visit_old read"
    );
    node.exec(resume)?;
    // Not a look at the table, which would count as one.
    let done = "SELECT sum(done) FROM custodian.run_items";
    wait_for_answer(&node, done, "100");
    wait_for_answer(
        &node,
        "SELECT count(*) FROM custodian.watermark WHERE isfinite(cutoff)",
        "3",
    );
    // What was read before is in the statistics by then.
    wait_for_two_rounds(&node);
    node.exec("SELECT pg_stat_reset_single_table_counters(oid) FROM pg_class WHERE relname LIKE 'visit\\_%'")?;
    // The one that can have rows that are due now is looked through in each round, the others in none.
    wait_for_answer(
        &node,
        READ,
        "visit_next never, visit_now read, visit_old never",
    );
    wait_for_two_rounds(&node);
    assert_eq!(
        node.text(READ)?,
        "visit_next never, visit_now read, visit_old never"
    );
    node.exec("INSERT INTO visit VALUES (600, '10.0.0.6', now() - interval '100 days')")?;
    wait_for_answer(&node, done, "101");
    // Nor did the run that took it.
    wait_for_two_rounds(&node);
    assert_eq!(
        node.text(READ)?,
        "visit_next never, visit_now read, visit_old never"
    );
    // A row that comes late is found where it is, though a pass that begins at the watermark would not look there.
    node.exec("INSERT INTO visit VALUES (700, '10.0.0.7', '2020-06-01')")?;
    wait_for_answer(&node, done, "102");
    // Bounds count no more once it is a table of its own.
    node.exec(
        "ALTER TABLE visit DETACH PARTITION visit_next;
         UPDATE visit_next SET seen = '2020-06-01' WHERE id = 1",
    )?;
    wait_for_answer(
        &node,
        "SELECT count(*) FROM visit_next WHERE ip IS NULL",
        "1",
    );
    Ok(())
}

#[test]
fn partitions_that_nobody_uses_go_together_and_others_do_not_wait_for_them() -> Result<()> {
    let node = cluster("together")?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    let more = |name: &str| {
        format!(
            "{} CREATE TABLE {name}_older PARTITION OF {name} FOR VALUES FROM ('2019-01-01') TO ('2020-01-01');
             INSERT INTO {name} SELECT n, '10.0.0.' || n, '2019-03-01' FROM generate_series(201, 230) n;",
            visits(name)
        )
    };
    // One transaction, and none of them was ever detached.
    const DROPPED: &str =
        "SELECT count(*), count(DISTINCT e.xmin::text), sum((l.detail ->> 'rows')::int)
         FROM custodian.ledger l JOIN custodian.ledger_entry e USING (entry)
         WHERE l.kind = 'partition.dropped' AND l.object LIKE";
    node.exec(&more("alone"))?;
    node.exec(&ready("alone"))?;
    // Without reading the table, which would be in the way.
    wait_for_answer(
        &node,
        "SELECT to_regclass('alone_old'), to_regclass('alone_older')",
        "|",
    );
    assert_eq!(node.text("SELECT count(*) FROM alone")?, "20");
    assert_eq!(node.text(&format!("{DROPPED} 'public.alone%'"))?, "2|1|130");
    assert_eq!(
        node.text("SELECT n_tup_ins FROM pg_stat_user_tables WHERE relid = 'custodian.partition_drop'::regclass")?,
        "0"
    );

    // Somebody reads the table: it is not locked against others, and each partition goes by itself once that is over.
    let mut reader = node.client()?;
    node.exec(&more("read"))?;
    reader.batch_execute("BEGIN; SELECT FROM read LIMIT 1")?;
    node.exec(&ready("read"))?;
    wait_for_answer(
        &node,
        "SELECT count(*) FROM custodian.partition_drop WHERE leaf_name LIKE 'public.read%'",
        "1",
    );
    let mut other = node.client()?;
    other.batch_execute("SET statement_timeout = '30s'; SELECT count(*) FROM read; INSERT INTO read VALUES (1, '10.0.0.1', now())")?;
    reader.batch_execute("COMMIT")?;
    wait_for_answer(
        &node,
        "SELECT to_regclass('read_old'), to_regclass('read_older'), (SELECT count(*) FROM read)",
        "||21",
    );
    assert_eq!(node.text(&format!("{DROPPED} 'public.read%'"))?, "2|2|130");
    Ok(())
}
