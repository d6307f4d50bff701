//! Circles of rows over partitioned tables: what a look at one partition tells is what a sweep of it does, from whichever side
//! two sweeps come they do not wait for each other in a circle of their own, and the worker's fuse counts what goes along.

use integration::{Cluster, Result, Sql, blocked, wait_for_answer};

fn cluster(name: &str, conf: &[&str]) -> Result<Cluster> {
    let mut builder = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("deadlock_timeout = 200ms");
    for line in conf {
        builder = builder.conf(line);
    }
    let node = builder.start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian; CREATE SCHEMA s;
         SELECT custodian.define_purpose('p.short', 'contract', '10 days')",
    )?;
    Ok(node)
}

/// A partitioned table and another one, rows of which with the same number refer to each other; those up to 20 of each ten
/// are past. Rows of the first partition whose number ends with 1 hang on a row of the second one, which is past, too; that of 5 is
/// referred to by a young one there.
const PARTS: &str = "
    DROP TABLE IF EXISTS s.a, s.b CASCADE;
    CREATE TABLE s.a (id int PRIMARY KEY, b int, at timestamptz, name text) PARTITION BY RANGE (id);
    CREATE TABLE s.a1 PARTITION OF s.a FOR VALUES FROM (0) TO (101);
    CREATE TABLE s.a2 PARTITION OF s.a FOR VALUES FROM (101) TO (1000);
    CREATE TABLE s.b (id int PRIMARY KEY, a int, at timestamptz, name text);
    INSERT INTO s.a SELECT n, NULL, now() - CASE WHEN n % 100 <= 20 THEN interval '20 days' ELSE '0' END, 'n' FROM generate_series(1, 200) n;
    INSERT INTO s.b SELECT id, id, at, name FROM s.a;
    UPDATE s.a SET b = CASE WHEN id > 100 AND id % 10 = 1 THEN id - 100 ELSE id END;
    INSERT INTO s.a VALUES (300, 5, now(), 'young');
    ALTER TABLE s.a ADD CONSTRAINT a_b FOREIGN KEY (b) REFERENCES s.b ON DELETE CASCADE;
    ALTER TABLE s.b ADD CONSTRAINT b_a FOREIGN KEY (a) REFERENCES s.a ON DELETE CASCADE;
    SELECT custodian.tag_table(t::regclass, clock => 'at', on_expiry => 'delete') FROM unnest('{s.a,s.b}'::text[]) t;
    SELECT custodian.tag_column(t::regclass, 'name', 'user.name', '{p.short}') FROM unnest('{s.a,s.b}'::text[]) t";

/// A partitioned table, rows of which refer to others of it. Ten past ones of the second partition hang on ten of the first one; a
/// young and a past one of the third partition on another each.
const SELF: &str = "
    CREATE TABLE s.t (id int PRIMARY KEY, parent int, at timestamptz, name text) PARTITION BY RANGE (id);
    CREATE TABLE s.t1 PARTITION OF s.t FOR VALUES FROM (1) TO (21);
    CREATE TABLE s.t2 PARTITION OF s.t FOR VALUES FROM (21) TO (31);
    CREATE TABLE s.t3 PARTITION OF s.t FOR VALUES FROM (31) TO (100);
    INSERT INTO s.t SELECT n, CASE WHEN n > 20 THEN n - 20 END, now() - interval '20 days', 'n' FROM generate_series(1, 32) n;
    UPDATE s.t SET at = now() WHERE id = 31;
    ALTER TABLE s.t ADD FOREIGN KEY (parent) REFERENCES s.t;
    SELECT custodian.tag_table('s.t', clock => 'at', on_expiry => 'delete');
    SELECT custodian.tag_column('s.t', 'name', 'user.name', '{p.short}')";

#[test]
fn a_preview_of_a_partition_in_a_circle_tells_what_a_sweep_of_it_does() -> Result<()> {
    let node = cluster(
        "parts",
        &[
            "custodian.disposal = observe",
            "custodian.max_disposal_fraction = 1",
        ],
    )?;
    let mut client = node.client()?;
    // Rows of partitions count for their table: which of them a statement reached first makes no difference.
    let counted = |told: &str| {
        format!(
            "SELECT string_agg(concat_ws(' ', name, rows), ', ' ORDER BY name)
             FROM (SELECT rtrim(relation::text, '12') AS name, sum(rows) AS rows FROM custodian.{told}
                   WHERE action LIKE 'delete row%' GROUP BY 1) AS counted"
        )
    };
    for (relation, expected) in [
        ("s.a1", "s.a 22, s.b 22"),
        ("s.a2", "s.a 21, s.b 21"),
        ("s.a", "s.a 41, s.b 41"),
        ("s.b", "s.a 41, s.b 41"),
    ] {
        client.batch_execute(PARTS)?;
        let told = client.text(&counted(&format!("preview('{relation}')")))?;
        let done = client.text(&counted(&format!("sweep_now('{relation}')")))?;
        assert_eq!(
            (told.as_str(), done.as_str()),
            (expected, expected),
            "{relation}"
        );
    }
    // The only column with a tag is named of all that go, as a preview of the whole table names it.
    let named = "SELECT string_agg(DISTINCT column_names::text, ' ') FROM custodian.preview('s.a1') WHERE action <> 'keep'";
    client.batch_execute(PARTS)?;
    assert_eq!(client.text(named)?, "{name}");
    // One subject has rows of both partitions that hang on each other: what goes along with them is told once for both.
    client.batch_execute(
        "SELECT custodian.define_purpose('p.wish', 'contract', '10 years', required => false);
         CREATE TABLE s.customer AS SELECT 7 AS id;
         SELECT custodian.tag_table('s.customer', subject_kind => 'customer', subject_key => '{id}');
         ALTER TABLE s.a ADD who int;
         ALTER TABLE s.b ADD who int;
         UPDATE s.a SET who = 7, b = 30 WHERE id IN (30, 130);
         UPDATE s.b SET who = 7 WHERE id IN (30, 130);
         SELECT custodian.tag_table(t::regclass, clock => 'at', on_expiry => 'delete', subject_kind => 'customer', subject_via => '{who}'),
                custodian.tag_column(t::regclass, 'name', 'user.name', '{p.wish}') FROM unnest('{s.a,s.b}'::text[]) t",
    )?;
    let erased = |told: &str| {
        format!(
            "SELECT string_agg(DISTINCT concat_ws(' ', name, rows), ', ')
             FROM (SELECT rtrim(relation::text, '12') AS name, sum(rows) AS rows FROM custodian.{told}
                   WHERE action LIKE 'delete row%' GROUP BY 1, reason) AS counted"
        )
    };
    let told = client.text(&erased("preview_erasure('customer', '{7}')"))?;
    let done = client.text(&erased("erase_subject('customer', '{7}', 'request 1')"))?;
    assert_eq!(
        (told.as_str(), done.as_str()),
        ("s.a 2, s.b 2", "s.a 2, s.b 2")
    );
    Ok(())
}

#[test]
fn a_preview_of_a_partition_of_a_table_that_refers_to_itself_tells_what_a_sweep_of_it_does()
-> Result<()> {
    let node = cluster(
        "itself",
        &[
            "custodian.disposal = observe",
            "custodian.max_disposal_fraction = 0.8",
        ],
    )?;
    let mut client = node.client()?;
    client.batch_execute(SELF)?;
    // A partition's rows that go with those of another are told as its own, or as those of the table.
    let told = |told: &str| {
        format!(
            "SELECT coalesce(sum(rows), 0) FROM custodian.{told} WHERE action LIKE 'delete row%'"
        )
    };
    let mut expect = |relation: &str, rows: &str| -> Result<()> {
        let preview = client.text(&told(&format!("preview('{relation}')")))?;
        client.batch_execute("BEGIN")?;
        let swept = client.text(&told(&format!("sweep_now('{relation}')")))?;
        client.batch_execute("ROLLBACK")?;
        assert_eq!(
            (preview.as_str(), swept.as_str()),
            (rows, rows),
            "{relation}"
        );
        Ok(())
    };
    // All but 11 and 31, of 32 rows, are more than the fuse lets through.
    for (relation, rows) in [("s.t2", "10"), ("s.t3", "1")] {
        expect(relation, rows)?;
    }
    let error = node
        .client()?
        .refused("SELECT * FROM custodian.sweep_now('s.t1')");
    let detail = error.db().and_then(|error| error.detail());
    let due = "30 of 32 rows are due, and custodian.max_disposal_fraction is 0.8.";
    assert_eq!(detail, Some(due), "{error}");
    node.alter_system("custodian.max_disposal_fraction", "1")?;
    wait_for_answer(&node, "SHOW custodian.max_disposal_fraction", "1");
    expect("s.t1", "30")?;
    expect("s.t", "30")?;
    // A hold on one partition keeps what its rows refer to, and no more.
    node.exec("CREATE ROLE app; SELECT custodian.place_hold('M1', 'app', '2099-01-01', 'x', rel => 's.t3')")?;
    expect("s.t1", "28")?;
    expect("s.t3", "0")
}

#[test]
fn the_fuse_of_a_partitioned_table_counts_rows_of_other_partitions_that_go_along() -> Result<()> {
    let node = cluster(
        "fuse_of_parts",
        &[
            "custodian.disposal = observe",
            "custodian.max_disposal_fraction = 0.1",
        ],
    )?;
    // Of 201 rows, 20 of the first partition are due, with which two of the second one go. Of the other table they are few.
    const FILL: &str =
        "INSERT INTO s.b SELECT n, NULL, now(), 'young' FROM generate_series(1001, 2000) n";
    const LEFT: &str = "SELECT (SELECT count(*) FROM s.a), (SELECT count(*) FROM s.b)";
    let mut client = node.client()?;
    client.batch_execute(PARTS)?;
    client.batch_execute(FILL)?;
    let error = client.refused("SELECT * FROM custodian.sweep_now('s.a1')");
    let told = error.db().map(|error| (error.message(), error.detail()));
    assert_eq!(
        told,
        Some((
            "disposal of s.a needs an approval",
            Some("22 of 201 rows are due, and custodian.max_disposal_fraction is 0.1.")
        )),
        "{error}"
    );
    assert_eq!(client.text(LEFT)?, "201|1200");
    node.alter_system("custodian.max_disposal_fraction", "0.11")?;
    wait_for_answer(&node, "SHOW custodian.max_disposal_fraction", "0.11");
    assert_eq!(
        node.text("SELECT sum(rows) FROM custodian.sweep_now('s.a1')")?,
        "44"
    );
    assert_eq!(client.text(LEFT)?, "179|1178");
    Ok(())
}

#[test]
fn sweeps_of_a_circle_from_both_sides_do_not_wait_for_each_other() -> Result<()> {
    let node = cluster(
        "sides",
        &[
            "custodian.disposal = observe",
            "custodian.max_disposal_fraction = 1",
        ],
    )?;
    let mut client = node.client()?;
    const A: &str = "SELECT sum(rows) FROM custodian.sweep_now('s.a')";
    const B: &str = "SELECT sum(rows) FROM custodian.sweep_now('s.b')";
    const PART: &str = "SELECT sum(rows) FROM custodian.sweep_now('s.a2')";
    for (first, second) in [(A, B), (B, A), (PART, B), (B, PART)] {
        for locked in ["s.a WHERE id = 101", "s.b WHERE id = 101"] {
            client.batch_execute(PARTS)?;
            // Both are at it, and one of them has rows that the other wants.
            client.batch_execute(&format!("BEGIN; SELECT FROM {locked} FOR UPDATE"))?;
            let sessions = [blocked(&node, first)?, blocked(&node, second)?];
            client.batch_execute("ROLLBACK")?;
            let states = sessions.map(|session| match session.join() {
                Ok(Ok(_)) => "done".to_owned(),
                Ok(Err(error)) => error.sqlstate().to_owned(),
                Err(_) => "panic".to_owned(),
            });
            assert_eq!(states[0], "done", "{first} {second} {locked}: {states:?}");
            // What is gone was deleted while this waited for it.
            assert!(
                ["done", "55P03"].contains(&states[1].as_str()),
                "{first} {second} {locked}: {states:?}"
            );
        }
    }
    Ok(())
}

/// Rows of `s.big`, a few of which the rows of `s.small` refer to and go with them. The batch that takes them waits, so that
/// others can come.
const ALONG: &str = "
    CREATE TABLE gate AS SELECT 1 AS shut;
    CREATE TABLE s.small (id int PRIMARY KEY, big int, at timestamptz, name text);
    CREATE TABLE s.big (id int PRIMARY KEY, small int, at timestamptz, name text);
    INSERT INTO s.big SELECT n, NULL, now() - CASE WHEN n <= 4 THEN interval '20 days' ELSE '0' END, 'n' FROM generate_series(1, 1000) n;
    INSERT INTO s.small SELECT id, id, at, name FROM s.big WHERE id <= 20;
    UPDATE s.big SET small = id WHERE id <= 20;
    ALTER TABLE s.big ADD CONSTRAINT big_small FOREIGN KEY (small) REFERENCES s.small;
    ALTER TABLE s.small ADD CONSTRAINT small_big FOREIGN KEY (big) REFERENCES s.big;
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN WHILE EXISTS (SELECT FROM public.gate) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN NULL; END';
    CREATE TRIGGER wait AFTER DELETE ON s.big FOR EACH STATEMENT EXECUTE FUNCTION wait();
    SELECT custodian.tag_table(t::regclass, clock => 'at', on_expiry => 'delete') FROM unnest('{s.big,s.small}'::text[]) t;
    SELECT custodian.tag_column(t::regclass, 'name', 'user.name', '{p.short}') FROM unnest('{s.big,s.small}'::text[]) t";

#[test]
fn the_worker_asks_before_more_goes_along_than_the_fuse_of_that_table_allows() -> Result<()> {
    let node = cluster(
        "fuse",
        &[
            "custodian.disposal = observe",
            "custodian.naptime = 1s",
            "custodian.max_disposal_fraction = 0.5",
        ],
    )?;
    node.exec(ALONG)?;
    // Of the one table four in a thousand go, of the other four of twenty.
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(
        &node,
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'pg_custodian sweep' AND wait_event = 'PgSleep'",
        "t",
    );
    // That batch does not see these. Others find them: few of the one table, and too many of the other. The one that takes more
    // than half of that table is undone, and the next round asks.
    node.exec(
        "UPDATE s.big SET at = now() - interval '20 days' WHERE id BETWEEN 5 AND 18;
         UPDATE s.small SET at = now() - interval '20 days' WHERE id BETWEEN 5 AND 18;
         DELETE FROM gate",
    )?;
    wait_for_answer(
        &node,
        "SELECT count(*) FROM custodian.run WHERE state = 'waiting' AND relation_name = 's.big' AND reason LIKE '%rows of s.small go along%'",
        "1",
    );
    // How many go before depends on how large batches are by then: they begin with one row.
    assert_eq!(
        node.text(
            "SELECT state, reason, rows_done BETWEEN 8 AND 20,
                    rows_done = 2 * (1000 - (SELECT count(*) FROM s.big)), rows_done = 2 * (20 - (SELECT count(*) FROM s.small))
             FROM custodian.run WHERE relation_name = 's.big' ORDER BY run_id LIMIT 1"
        )?,
        "superseded|more rows are due than the run may dispose|t|t|t"
    );
    node.exec("SELECT custodian.approve_run(run_id, 'an import of old rows') FROM custodian.run WHERE state = 'waiting'")?;
    wait_for_answer(
        &node,
        "SELECT (SELECT count(*) FROM s.big), (SELECT count(*) FROM s.small)",
        "982|2",
    );
    Ok(())
}
