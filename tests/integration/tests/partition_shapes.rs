//! Partitions of every shape: other orders of columns, dropped ones, several levels, several owners, attached later,
//! detached. What is due is due in whatever leaf holds it, for previews, explanations, sweeps on demand and the worker.

use integration::{Cluster, Result, Sql, wait_for_answer};
use postgres::Client;

/// Leaves of `s.visit` in which rows lie, each with three rows that are due and two that are not.
const LEAVES: [&str; 4] = ["plain", "odd", "deep_1", "other"];

const TREE: &str = "
    CREATE TABLE s.visit (id int, gone int, ip text, name text, day date, touched timestamptz) PARTITION BY RANGE (day);
    ALTER TABLE s.visit DROP gone;
    CREATE TABLE s.plain PARTITION OF s.visit FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
    ALTER TABLE s.visit OWNER TO app; ALTER TABLE s.plain OWNER TO app;";

/// After the table was tagged.
const LATER: &str = "
    CREATE TABLE s.odd (touched timestamptz, gone int, name text, day date, also_gone text, id int, ip text);
    ALTER TABLE s.odd DROP gone, DROP also_gone;
    ALTER TABLE s.visit ATTACH PARTITION s.odd FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
    CREATE TABLE s.deep (day date, touched timestamptz, name text, ip text, id int) PARTITION BY LIST (id);
    CREATE TABLE s.deep_1 (gone int, id int, name text, ip text, touched timestamptz, day date);
    ALTER TABLE s.deep_1 DROP gone;
    ALTER TABLE s.deep ATTACH PARTITION s.deep_1 DEFAULT;
    ALTER TABLE s.visit ATTACH PARTITION s.deep FOR VALUES FROM ('2022-01-01') TO ('2023-01-01');
    CREATE TABLE s.other (name text, id int, ip text, day date, touched timestamptz);
    ALTER TABLE s.visit ATTACH PARTITION s.other FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
    ALTER TABLE s.odd OWNER TO app; ALTER TABLE s.deep OWNER TO app;
    ALTER TABLE s.deep_1 OWNER TO another; ALTER TABLE s.other OWNER TO another;
    INSERT INTO s.visit (id, ip, name, day, touched)
        SELECT year * 10 + n, '10.0.0.1', 'n', make_date(year, 6, 1), now() - CASE WHEN n <= 3 THEN interval '1 year' ELSE '1 hour' END
        FROM generate_series(2020, 2023) year, generate_series(1, 5) n;";

fn tag(on_expiry: &str, method: &str) -> String {
    format!(
        "SELECT custodian.tag_table('s.visit', clock => 'touched', on_expiry => {on_expiry}, subject_kind => 'visitor', subject_key => '{{id}}');
         SELECT custodian.tag_column('s.visit', 'ip', 'user.device.ip_address', '{{p.short}}', on_expiry => {method});"
    )
}

fn cluster() -> Result<Cluster> {
    let node = Cluster::builder("shapes")
        .preload("pg_custodian")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.naptime = 1s")
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian;
         CREATE ROLE app NOLOGIN; CREATE ROLE another NOLOGIN;
         CREATE SCHEMA s; GRANT USAGE ON SCHEMA s TO app, another;
         SELECT custodian.define_purpose('p.short', 'contract', '30 days')",
    )?;
    Ok(node)
}

/// How many rows of the relation still have an address, and how many rows it has.
fn left(client: &mut Client, relation: &str) -> Result<String> {
    client.text(&format!("SELECT count(ip), count(*) FROM s.{relation}"))
}

fn due(client: &mut Client, relation: &str) -> Result<String> {
    client.text(&format!(
        "SELECT sum(rows) FROM custodian.preview('s.{relation}') WHERE action <> 'keep'"
    ))
}

/// In one transaction: the worker must not be faster.
fn on_demand(client: &mut Client, deletes: bool) -> Result<()> {
    let (on_expiry, method) = if deletes {
        ("'delete'", "NULL")
    } else {
        ("NULL", "'set_null'")
    };
    client.batch_execute(&format!("BEGIN; {TREE} {} {LATER}", tag(on_expiry, method)))?;
    assert_eq!(due(client, "visit")?, "12");
    assert_eq!(due(client, "deep")?, "3");
    for (leaf, year) in LEAVES.into_iter().zip(2020..) {
        assert_eq!(due(client, leaf)?, "3", "{leaf}");
        // Asked by way of the root, of the partition above it and of the leaf itself: the same.
        for (id, state) in [(year * 10 + 1, "due"), (year * 10 + 4, "active")] {
            for relation in ["visit", leaf, if leaf == "deep_1" { "deep" } else { leaf }] {
                assert_eq!(
                    client.text(&format!(
                        "SELECT column_name, state FROM custodian.explain_row('s.{relation}', '{{\"id\": {id}}}')"
                    ))?,
                    format!("ip|{state}"),
                    "{relation} {id}"
                );
            }
        }
    }
    // Of a leaf, of a partition with partitions, and of all.
    let action = if deletes { "delete row" } else { "set null" };
    let gone = if deletes { "2|2" } else { "2|5" };
    client.batch_execute("SAVEPOINT before")?;
    for (relation, swept) in [
        ("odd", &LEAVES[1..2]),
        ("deep", &LEAVES[2..3]),
        ("visit", &LEAVES[..]),
    ] {
        client.batch_execute("ROLLBACK TO before")?;
        assert_eq!(
            client.text(&format!(
                "SELECT relation, action, sum(rows) FROM custodian.sweep_now('s.{relation}') GROUP BY 1, 2"
            ))?,
            format!("s.visit|{action}|{}", 3 * swept.len()),
            "{relation}"
        );
        for leaf in LEAVES {
            let left_in = if swept.contains(&leaf) { gone } else { "5|5" };
            assert_eq!(left(client, leaf)?, left_in, "{relation}: {leaf}");
        }
    }
    assert_eq!(
        client.text("SELECT count(*) FROM s.visit WHERE touched > now() - interval '1 day' AND ip IS NOT NULL")?,
        "8"
    );
    client.batch_execute("ROLLBACK")?;
    Ok(())
}

#[test]
fn what_is_due_is_due_in_whatever_leaf_holds_it() -> Result<()> {
    let node = cluster()?;
    let mut client = node.client()?;
    on_demand(&mut client, false)?;
    on_demand(&mut client, true)?;

    // The worker, on the same tree, with a subtree and a leaf that were detached before it could come: the tag in force
    // goes with them, down to the leaf two levels below.
    client.batch_execute(&format!(
        "BEGIN; {TREE} {} {LATER}
         ALTER TABLE s.visit DETACH PARTITION s.deep; ALTER TABLE s.visit DETACH PARTITION s.odd; COMMIT",
        tag("NULL", "'set_null'")
    ))?;
    for leaf in LEAVES {
        wait_for_answer(
            &node,
            &format!("SELECT count(ip), count(*) FROM s.{leaf}"),
            "2|5",
        );
    }
    assert_eq!(
        node.text(
            "SELECT DISTINCT column_name, on_expiry FROM custodian.tags
             WHERE relation IN ('s.deep'::regclass, 's.odd') AND column_name IS NOT NULL"
        )?,
        "ip|set_null"
    );
    // And back, where they are part of the tree again: nothing is done twice, and what comes goes.
    node.exec(
        "ALTER TABLE s.visit ATTACH PARTITION s.odd FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
         ALTER TABLE s.visit ATTACH PARTITION s.deep FOR VALUES FROM ('2022-01-01') TO ('2023-01-01');
         INSERT INTO s.visit (id, ip, name, day, touched) VALUES (7, '10.0.0.1', 'n', '2021-06-01', now() - interval '1 year'),
             (8, '10.0.0.1', 'n', '2022-06-01', now() - interval '1 year')",
    )?;
    wait_for_answer(&node, "SELECT count(ip), count(*) FROM s.odd", "2|6");
    wait_for_answer(&node, "SELECT count(ip), count(*) FROM s.deep_1", "2|6");
    assert_eq!(node.text("SELECT count(name) FROM s.visit")?, "22");
    Ok(())
}
