//! The fuse lets no more go of any table than of one that is swept by itself, also where its rows go along with others.

use std::thread;

use integration::{Cluster, Result, Sql, wait_for_answer};

/// Rows of `s.b`, of which the first 100 and the rows of `s.a` refer to each other. The first five of those are past, all
/// there is in one of the partitions.
const TABLES: &str = "
    CREATE TABLE s.a (id int PRIMARY KEY, b int, at timestamptz, name text) PARTITION BY RANGE (id);
    CREATE TABLE s.a_first PARTITION OF s.a FOR VALUES FROM (0) TO (6);
    CREATE TABLE s.a_rest PARTITION OF s.a FOR VALUES FROM (6) TO (1000);
    CREATE TABLE s.b (id int PRIMARY KEY, a int, at timestamptz, name text);
    INSERT INTO s.b SELECT n, NULL, now() - CASE WHEN n <= 5 THEN interval '20 days' ELSE '0' END, 'n' FROM generate_series(1, 1000) n;
    INSERT INTO s.a SELECT id, id, at, name FROM s.b WHERE id <= 100;
    UPDATE s.b SET a = id WHERE id <= 100;
    ALTER TABLE s.a ADD CONSTRAINT a_b FOREIGN KEY (b) REFERENCES s.b;
    ALTER TABLE s.b ADD CONSTRAINT b_a FOREIGN KEY (a) REFERENCES s.a;
    SELECT custodian.tag_table(t::regclass, clock => 'at', on_expiry => 'delete') FROM unnest('{s.a,s.b}'::text[]) t;
    SELECT custodian.tag_column(t::regclass, 'name', 'user.name', '{p.short}') FROM unnest('{s.a,s.b}'::text[]) t";

fn cluster(name: &str, naptime: &str) -> Result<Cluster> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.disposal = observe")
        .conf("custodian.max_disposal_fraction = 0.1")
        .conf(&format!("custodian.naptime = {naptime}"))
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian; CREATE SCHEMA s;
         SELECT custodian.define_purpose('p.short', 'contract', '10 days')",
    )?;
    Ok(node)
}

#[test]
fn the_fuse_counts_what_goes_along_by_table_before_a_run_and_during_it() -> Result<()> {
    let node = cluster("along", "1h")?;
    let mut client = node.client()?;
    client.batch_execute(TABLES)?;
    // All of a partition, and a twentieth of its table.
    const SWEEP: &str =
        "SELECT string_agg(concat_ws(' ', relation, rows), ', ') FROM custodian.sweep_now('s.b')";
    assert_eq!(client.text(SWEEP)?, "s.b 5, s.a_first 5");
    // Five more may go today, whatever their partition is called.
    client.batch_execute(
        "ALTER TABLE s.a_first RENAME TO a_one;
         UPDATE s.b SET at = now() - interval '20 days' WHERE id <= 11;
         UPDATE s.a SET at = now() - interval '20 days' WHERE id <= 11",
    )?;
    let refused = client.refused(SWEEP);
    assert_eq!(refused.sqlstate(), "55000");
    let why = refused.to_string();
    assert!(why.contains("rows of s.a go along: 6 of 95 rows"), "{why}");
    client.batch_execute("UPDATE s.b SET at = now() WHERE id = 11")?;
    // It has counted, and waits to write.
    client.batch_execute("BEGIN; LOCK TABLE s.b IN SHARE MODE")?;
    let mut session = node.client()?;
    let sweep = thread::spawn(move || session.refused(SWEEP));
    wait_for_answer(
        &node,
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT string_agg%custodian.sweep_now%' AND wait_event_type = 'Lock'",
        "1",
    );
    // Few rows of the one table, and many of the other.
    client.batch_execute(
        "UPDATE s.b SET at = now() - interval '20 days' WHERE id <= 40;
         UPDATE s.a SET at = now() - interval '20 days' WHERE id <= 40;
         COMMIT",
    )?;
    let refused = sweep.join().expect("the sweep's session ends");
    assert_eq!(refused.sqlstate(), "55000");
    let why = refused.to_string();
    assert!(why.contains("More rows are due than were counted"), "{why}");
    assert_eq!(
        client.text("SELECT (SELECT count(*) FROM s.a), (SELECT count(*) FROM s.b)")?,
        "95|995"
    );
    Ok(())
}

/// A row that refers to the same row by two keys loses the one, by the action that comes first, before it goes by the other.
#[test]
fn an_approved_run_ends_where_rows_lose_a_key_before_they_go() -> Result<()> {
    let node = cluster("along_two_keys", "1s")?;
    let mut client = node.client()?;
    client.batch_execute(
        "CREATE TABLE s.one (id int PRIMARY KEY, at timestamptz, name text);
         CREATE TABLE s.below (id int PRIMARY KEY, loses int REFERENCES s.one ON DELETE SET NULL, goes int REFERENCES s.one ON DELETE CASCADE);
         INSERT INTO s.one SELECT n, now() - CASE WHEN n <= 50 THEN interval '20 days' ELSE '0' END, 'n' FROM generate_series(1, 100) n;
         INSERT INTO s.below SELECT id, id, id FROM s.one;
         INSERT INTO s.below VALUES (101, 1, NULL), (102, 2, 100), (103, NULL, 3), (104, 100, 100);
         SELECT custodian.tag_table('s.one', clock => 'at', on_expiry => 'delete'),
                custodian.tag_column('s.one', 'name', 'user.name', '{p.short}'),
                custodian.declare_dependents('s.one', '{s.below}')",
    )?;
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(&node, "SELECT state FROM custodian.runs", "waiting");
    const ITEMS: &str =
        "SELECT leaf, action, $ FROM custodian.run_item WHERE $ > 0 ORDER BY leaf, action";
    assert_eq!(
        client.text(&ITEMS.replace('$', "planned"))?,
        "s.below|change row (cascade)|2\ns.below|delete row (cascade)|51\ns.one|delete row|50"
    );
    client.text("SELECT custodian.approve_run(run_id, 'expected') FROM custodian.runs")?;
    wait_for_answer(&node, "SELECT state FROM custodian.runs", "done");
    // What it counts are the actions: 50 of the changes were of rows that went.
    assert_eq!(
        client.text(&ITEMS.replace('$', "done"))?,
        "s.below|change row (cascade)|52\ns.below|delete row (cascade)|51\ns.one|delete row|50"
    );
    assert_eq!(
        client.text("SELECT (SELECT count(*) FROM s.one), string_agg(concat_ws(' ', id, loses, goes), ',' ORDER BY id) FILTER (WHERE id > 99) FROM s.below")?,
        "50|100 100 100,101,102 100,104 100 100"
    );
    Ok(())
}
