//! Foreign keys are the named table's alone: what refers to a row keeps no row of an inheritance child, of a parent, or of
//! another partition that has the same values.

use integration::{Cluster, Result, Sql};
use postgres::Client;

fn cluster(name: &str) -> Result<(Cluster, Client)> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.disposal = observe")
        .conf("custodian.max_disposal_fraction = 1")
        .start()?;
    node.exec(
        "CREATE ROLE app; CREATE EXTENSION pg_custodian; CREATE SCHEMA s;
         SELECT custodian.define_purpose('p.short', 'contract', '10 days')",
    )?;
    let client = node.client()?;
    Ok((node, client))
}

/// Rows that are left, by table.
const LEFT: &str = "SELECT string_agg(concat_ws(' ', tableoid::regclass, id), ', ' ORDER BY tableoid::regclass::text, id) FROM s.p";

/// A table, one that inherits from it, and rows that refer to each, and to others of the same table. All are past but those of 9.
const TABLES: &str = "
    DROP TABLE IF EXISTS s.p, s.to_p, s.to_c CASCADE;
    CREATE TABLE s.p (id int PRIMARY KEY, up int REFERENCES s.p, at timestamptz, name text);
    CREATE TABLE s.c (PRIMARY KEY (id)) INHERITS (s.p);
    CREATE TABLE s.to_p (p int REFERENCES s.p);
    CREATE TABLE s.to_c (c int REFERENCES s.c);
    INSERT INTO s.p SELECT n, NULL, now() - interval '20 days', 'n' FROM generate_series(1, 4) n;
    INSERT INTO s.c SELECT n, NULL, now() - interval '20 days', 'n' FROM generate_series(1, 4) n;
    INSERT INTO s.p VALUES (9, 3, now(), 'young');
    INSERT INTO s.to_p VALUES (1);
    INSERT INTO s.to_c VALUES (2);
    SELECT custodian.tag_table('s.p', clock => 'at', on_expiry => 'delete');
    SELECT custodian.tag_column('s.p', 'name', 'user.name', '{p.short}')";

#[test]
fn what_refers_to_a_parent_keeps_no_row_of_a_child_with_the_same_key() -> Result<()> {
    let (node, mut client) = cluster("inherited")?;
    for sweep in [
        "SELECT custodian.sweep_now('s.p')",
        "SELECT custodian.sweep_now('s.c'); SELECT custodian.sweep_now('s.p')",
        "CALL custodian.sweep('s.p')",
    ] {
        client.batch_execute(TABLES)?;
        // 1 of the parent and 2 of the child are referred to by rows that nothing lets go, 3 of the parent by a young one.
        assert_eq!(
            client.text("SELECT action, split_part(reason, ' (', 1), rows FROM custodian.preview('s.p') ORDER BY 1, 2")?,
            "delete row|past: p.short|5\nkeep|referenced by s.p|1\nkeep|referenced by s.to_c|1\nkeep|referenced by s.to_p|1"
        );
        let explained = |table: &str, id: u32| {
            format!(
                "SELECT explanation FROM custodian.explain_row('s.{table}', '{{\"id\":{id}}}') WHERE column_name = 'name'"
            )
        };
        const GOES: &str = "Its row is due for deletion.";
        for (id, of_parent, of_child) in [
            (
                1,
                "It goes with its row, which is referenced by: s.to_p.",
                GOES,
            ),
            (
                2,
                GOES,
                "It goes with its row, which is referenced by: s.to_c.",
            ),
            (
                3,
                "It goes with its row, which is referenced by: s.p.",
                GOES,
            ),
            (4, GOES, GOES),
        ] {
            assert_eq!(client.text(&explained("c", id))?, of_child, "{id}");
            // Of a key of the parent's there are two rows, as of its child: that one's is told above.
            let told = client.text(&format!(
                "SELECT string_agg(explanation, '/' ORDER BY explanation) FROM ({}) AS told",
                explained("p", id)
            ));
            assert!(told.is_err() || told?.contains(of_parent), "{id}");
        }
        client.batch_execute(sweep)?;
        assert_eq!(client.text(LEFT)?, "s.c 2, s.p 1, s.p 3, s.p 9", "{sweep}");
        // A hold on what refers to the parent is none on the child's row.
        client.batch_execute(
            "INSERT INTO s.c VALUES (1, NULL, now() - interval '20 days', 'n');
             SELECT custodian.place_hold('M1', 'app', '2099-01-01', 'x', rel => 's.to_p')",
        )?;
        client.batch_execute(sweep)?;
        assert_eq!(client.text(LEFT)?, "s.c 2, s.p 1, s.p 3, s.p 9", "{sweep}");
        client.batch_execute("SELECT custodian.release_hold(hold, 'app', 'over') FROM custodian.holds WHERE released_at IS NULL")?;
        // What keeps them is gone: the child's and the parent's go as well.
        client.batch_execute(
            "DELETE FROM s.to_p; DELETE FROM s.to_c; DELETE FROM s.p WHERE id = 9",
        )?;
        client.batch_execute(sweep)?;
        assert_eq!(client.text(LEFT)?, "", "{sweep}");
    }
    drop(node);
    Ok(())
}

#[test]
fn what_refers_to_a_partition_keeps_no_row_of_another_one_with_the_same_values() -> Result<()> {
    let (_node, mut client) = cluster("inherited_parts")?;
    client.batch_execute(
        "CREATE TABLE s.p (part int, id int, at timestamptz, name text) PARTITION BY LIST (part);
         CREATE TABLE s.p1 PARTITION OF s.p (PRIMARY KEY (id)) FOR VALUES IN (1);
         CREATE TABLE s.p2 PARTITION OF s.p FOR VALUES IN (2, 3) PARTITION BY LIST (part);
         CREATE TABLE s.p21 PARTITION OF s.p2 FOR VALUES IN (2);
         CREATE TABLE s.p22 PARTITION OF s.p2 FOR VALUES IN (3);
         ALTER TABLE s.p2 ADD UNIQUE (part, id);
         CREATE TABLE s.to_p1 (id int REFERENCES s.p1);
         CREATE TABLE s.to_p2 (part int, id int, FOREIGN KEY (part, id) REFERENCES s.p2 (part, id));
         INSERT INTO s.p SELECT part, n, now() - interval '20 days', 'n' FROM generate_series(1, 3) part, generate_series(1, 2) n;
         INSERT INTO s.to_p1 VALUES (1);
         INSERT INTO s.to_p2 VALUES (3, 2);
         SELECT custodian.tag_table('s.p', clock => 'at', on_expiry => 'delete');
         SELECT custodian.tag_column('s.p', 'name', 'user.name', '{p.short}')",
    )?;
    assert_eq!(
        client
            .text("SELECT sum(rows) FROM custodian.preview('s.p') WHERE action = 'delete row'")?,
        "4"
    );
    assert_eq!(
        client.text("SELECT rows FROM custodian.sweep_now('s.p')")?,
        "4"
    );
    assert_eq!(client.text(LEFT)?, "s.p1 1, s.p22 2");
    Ok(())
}
