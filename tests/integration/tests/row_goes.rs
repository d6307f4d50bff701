//! When a row goes although others refer to it: in a circle, and by what its foreign keys' actions reach.

use integration::{Cluster, Result, Sql};
use postgres::Client;

const SETUP: &str = "
    CREATE EXTENSION pg_custodian;
    CREATE ROLE app NOLOGIN;
    CREATE SCHEMA s AUTHORIZATION app;
    GRANT USAGE ON SCHEMA s TO PUBLIC;
    SELECT custodian.define_purpose('p.short', 'contract', '10 days')";

/// A server, and a session in which tables belong to an ordinary role.
fn cluster(name: &str) -> Result<(Cluster, Client)> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.naptime = 1h")
        .start()?;
    node.exec(SETUP)?;
    let client = node.client()?;
    Ok((node, client))
}

/// What is due and what is kept of a table, as a preview counts it.
fn preview(client: &mut Client, table: &str) -> Result<String> {
    client.text(&format!(
        "SELECT action, reason, rows FROM custodian.preview('{table}') ORDER BY 1, 2"
    ))
}

#[test]
fn rows_that_refer_to_each_other_go_in_one_sweep_unless_one_of_them_is_kept() -> Result<()> {
    let (_node, mut client) = cluster("circle")?;
    for (table, action) in [
        ("no_action", ""),
        ("restrict", "ON DELETE RESTRICT"),
        ("cascades", "ON DELETE CASCADE"),
        ("empties", "ON DELETE SET NULL"),
    ] {
        // 1 → 2 → 3 → 1 is a circle, in blocks far from each other; 10 ← 11 ← 12 a chain; 20 ← 21, which is young;
        // 30 refers to itself; 40 ← 41 ← 42, which is held.
        client.batch_execute(&format!(
            "BEGIN;
             CREATE TABLE s.{table} (id int PRIMARY KEY, up int, at timestamptz, name text, filler text);
             ALTER TABLE s.{table} OWNER TO app;
             INSERT INTO s.{table} SELECT n, NULL, now() - interval '20 days', 'n', repeat('x', 500)
                 FROM generate_series(1000, 9000) n WHERE n % 2 = 1;
             INSERT INTO s.{table} VALUES (1, 2, now() - interval '20 days', 'a', '');
             INSERT INTO s.{table} SELECT n, NULL, now(), 'n', repeat('x', 500) FROM generate_series(1000, 9000) n WHERE n % 2 = 0;
             INSERT INTO s.{table} VALUES
                 (2, 3, now() - interval '20 days', 'b', ''), (3, 1, now() - interval '20 days', 'c', ''),
                 (10, NULL, now() - interval '20 days', 'd', ''), (11, 10, now() - interval '20 days', 'e', ''),
                 (12, 11, now() - interval '20 days', 'f', ''),
                 (20, NULL, now() - interval '20 days', 'g', ''), (21, 20, now(), 'h', ''),
                 (30, 30, now() - interval '20 days', 'i', ''),
                 (40, NULL, now() - interval '20 days', 'j', ''), (41, 40, now() - interval '20 days', 'k', ''),
                 (42, 41, now() - interval '20 days', 'l', '');
             ALTER TABLE s.{table} ADD FOREIGN KEY (up) REFERENCES s.{table} {action};
             CREATE INDEX ON s.{table} (up);
             SELECT custodian.tag_table('s.{table}', clock => 'at', on_expiry => 'delete');
             SELECT custodian.tag_column('s.{table}', 'name', 'user.name', '{{p.short}}');
             SELECT custodian.place_hold('M1', 'app', '2099-01-01', 'x', rel => 's.{table}', match => '{{\"id\":[42]}}')"
        ))?;
        // In one transaction: the worker must not be faster.
        let key = format!("s.{table} ({table}_up_fkey)");
        assert_eq!(
            preview(&mut client, &format!("s.{table}"))?,
            format!("delete row|past: p.short|4007\nkeep|hold: M1|1\nkeep|referenced by {key}|3")
        );
        assert_eq!(
            client.text(&format!(
                "SELECT action, rows FROM custodian.sweep_now('s.{table}')"
            ))?,
            "delete row|4007"
        );
        assert_eq!(
            client.text(&format!(
                "SELECT string_agg(id::text, ' ' ORDER BY id) FROM s.{table} WHERE id < 1000"
            ))?,
            "20 21 40 41 42"
        );
        assert_eq!(
            client.text(&format!(
                "SELECT state, explanation FROM custodian.explain_row('s.{table}', '{{\"id\":40}}')"
            ))?,
            format!("due|It goes with its row, which is referenced by: s.{table}.")
        );
        client.batch_execute("COMMIT")?;
    }
    Ok(())
}

#[test]
fn a_circle_goes_from_all_partitions_at_once_where_one_role_owns_them() -> Result<()> {
    let (_node, mut client) = cluster("circle_parts")?;
    client.batch_execute(
        "CREATE TABLE s.part (id int, up int, at timestamptz, name text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
         CREATE TABLE s.part_1 PARTITION OF s.part FOR VALUES FROM (0) TO (10);
         CREATE TABLE s.part_2 PARTITION OF s.part FOR VALUES FROM (10) TO (20);
         ALTER TABLE s.part OWNER TO app;
         ALTER TABLE s.part_1 OWNER TO app;
         ALTER TABLE s.part_2 OWNER TO app;
         INSERT INTO s.part VALUES (1, 11, now() - interval '20 days', 'a'), (11, 12, now() - interval '20 days', 'b'),
             (12, 1, now() - interval '20 days', 'c'), (2, NULL, now() - interval '20 days', 'd'), (13, 2, now(), 'e');
         ALTER TABLE s.part ADD FOREIGN KEY (up) REFERENCES s.part;
         SELECT custodian.tag_table('s.part', clock => 'at', on_expiry => 'delete');
         SELECT custodian.tag_column('s.part', 'name', 'user.name', '{p.short}');
         SELECT custodian.sweep_now('s.part')",
    )?;
    assert_eq!(
        client.text("SELECT string_agg(id::text, ' ' ORDER BY id) FROM s.part")?,
        "2 13"
    );
    // Several owners: one statement cannot delete from all of them.
    client.batch_execute(
        "CREATE ROLE other NOLOGIN;
         GRANT USAGE ON SCHEMA s TO other;
         INSERT INTO s.part VALUES (1, NULL, now() - interval '20 days', 'a'), (11, 1, now() - interval '20 days', 'b');
         UPDATE s.part SET up = 11 WHERE id = 1;
         GRANT SELECT, DELETE ON s.part TO other;
         ALTER TABLE s.part_2 OWNER TO other;
         SELECT custodian.sweep_now('s.part')",
    )?;
    assert_eq!(
        client.text("SELECT string_agg(id::text, ' ' ORDER BY id) FROM s.part")?,
        "1 2 11 13"
    );
    assert_eq!(
        client.text("SELECT object FROM custodian.check() WHERE code = 'circle-kept'")?,
        "s.part"
    );
    Ok(())
}

#[test]
fn untagged_dependents_keep_a_row_unless_its_tag_lets_them_go() -> Result<()> {
    let (_node, mut client) = cluster("declared")?;
    client.batch_execute(
        "CREATE TABLE s.customer (id int PRIMARY KEY, at timestamptz, name text);
         CREATE TABLE s.session (id int PRIMARY KEY, customer int REFERENCES s.customer ON DELETE CASCADE, data text);
         CREATE TABLE s.click (id int PRIMARY KEY, session int REFERENCES s.session ON DELETE CASCADE);
         CREATE TABLE s.vote (id int PRIMARY KEY, customer int REFERENCES s.customer ON DELETE SET NULL);
         CREATE TABLE s.seat (id int PRIMARY KEY, customer int DEFAULT 0 REFERENCES s.customer ON DELETE SET DEFAULT);
         CREATE TABLE s.debt (id int PRIMARY KEY, customer int REFERENCES s.customer);
         ALTER TABLE s.customer OWNER TO app;
         GRANT SELECT ON ALL TABLES IN SCHEMA s TO app;
         INSERT INTO s.customer SELECT n, CASE WHEN n > 0 THEN now() - interval '20 days' END, 'n' FROM generate_series(0, 6) n;
         INSERT INTO s.session VALUES (1, 1, 'x'), (5, 5, 'x'), (6, 6, 'x');
         INSERT INTO s.click VALUES (1, 6);
         INSERT INTO s.vote VALUES (2, 2);
         INSERT INTO s.seat VALUES (3, 3);
         INSERT INTO s.debt VALUES (4, 4);
         SELECT custodian.tag_table('s.customer', clock => 'at', on_expiry => 'delete', null_clock => 'not_started');
         SELECT custodian.tag_column('s.customer', 'name', 'user.name', '{p.short}')",
    )?;
    let left = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM s.customer";
    client.batch_execute("SELECT custodian.sweep_now('s.customer')")?;
    assert_eq!(client.text(left)?, "0 1 2 3 4 5 6");

    // Only a steward declares, and of a table that is there.
    client.batch_execute("SET ROLE app")?;
    let declare =
        "SELECT custodian.declare_dependents('s.customer', '{s.session,s.vote,s.seat,s.debt}')";
    assert_eq!(client.refused(declare).sqlstate(), "42501");
    client.batch_execute("RESET ROLE")?;
    let unknown = "SELECT custodian.declare_dependents('s.customer', '{s.nothing}')";
    assert_eq!(client.refused(unknown).sqlstate(), "42704");
    client.batch_execute(declare)?;
    // A hold keeps what would go with the row; a click that was not declared keeps its session; a key without an
    // action still keeps the row.
    client.batch_execute(
        "SELECT custodian.place_hold('M1', 'app', '2099-01-01', 'x', rel => 's.session', match => '{\"id\":[5]}');
         SELECT custodian.sweep_now('s.customer')",
    )?;
    assert_eq!(client.text(left)?, "0 4 5 6");
    assert_eq!(
        client.text(
            "SELECT (SELECT string_agg(id::text, ' ' ORDER BY id) FROM s.session),
                    (SELECT string_agg(id || ':' || coalesce(customer::text, 'null'), ' ') FROM s.vote),
                    (SELECT string_agg(id || ':' || customer, ' ') FROM s.seat)"
        )?,
        "5 6|2:null|3:0"
    );
    // A new tag keeps the declaration; a table that is tagged decides for itself.
    client.batch_execute(
        "SELECT custodian.tag_table('s.customer', clock => 'at', on_expiry => 'delete');
         SELECT custodian.declare_dependents('s.customer', '{s.session,s.click,s.vote}');
         SELECT custodian.clear_column('s.vote', 'id');
         SELECT custodian.sweep_now('s.customer')",
    )?;
    assert_eq!(client.text(left)?, "0 4 5");
    assert_eq!(client.text("SELECT count(*) FROM s.click")?, "0");
    client.batch_execute(
        "ALTER TABLE s.vote ADD at timestamptz, ADD what text;
         SELECT custodian.tag_table('s.vote', clock => 'at');
         SELECT custodian.tag_column('s.vote', 'what', 'user.content', '{p.short}', on_expiry => 'set_null')",
    )?;
    assert_eq!(
        client.text("SELECT object FROM custodian.check() WHERE code = 'dependent-unknown'")?,
        "s.customer"
    );
    Ok(())
}

#[test]
fn a_preview_says_where_it_cannot_tell_what_goes_and_the_sweep_takes_it() -> Result<()> {
    let (_node, mut client) = cluster("chain")?;
    // Eight tables, each row of which the row of the next one refers to, all of them due.
    for n in 1..=8 {
        let up = match n {
            1 => "int".to_owned(),
            _ => format!("int REFERENCES s.t{}", n - 1),
        };
        client.batch_execute(&format!(
            "CREATE TABLE s.t{n} (id int PRIMARY KEY, up {up}, at timestamptz, name text);
             ALTER TABLE s.t{n} OWNER TO app;
             INSERT INTO s.t{n} VALUES (1, 1, now() - interval '20 days', 'n');
             SELECT custodian.tag_table('s.t{n}', clock => 'at', on_expiry => 'delete');
             SELECT custodian.tag_column('s.t{n}', 'name', 'user.name', '{{p.short}}')"
        ))?;
    }
    let unseen = "cannot count|more tables refer to each other below it than are looked into: rows that are told to be referenced may go, once those have gone that refer to them|";
    for (table, told) in [
        (
            "s.t1",
            format!("{unseen}\nkeep|referenced by s.t2 (t2_up_fkey)|1"),
        ),
        (
            "s.t2",
            format!("{unseen}\nkeep|referenced by s.t3 (t3_up_fkey)|1"),
        ),
        ("s.t3", "delete row|past: p.short|1".to_owned()),
        ("s.t8", "delete row|past: p.short|1".to_owned()),
    ] {
        assert_eq!(preview(&mut client, table)?, told, "{table}");
    }
    assert_eq!(
        client.text(
            "SELECT object FROM custodian.check() WHERE code = 'dependents-beyond' ORDER BY 1"
        )?,
        "s.t1\ns.t2"
    );
    client.batch_execute("SELECT count(*) FROM custodian.sweep_now()")?;
    for n in 1..=8 {
        assert_eq!(
            client.text(&format!("SELECT count(*) FROM s.t{n}"))?,
            "0",
            "{n}"
        );
    }
    Ok(())
}

#[test]
fn a_maximum_below_a_minimum_by_another_clock_blocks_those_rows_that_both_are_about() -> Result<()>
{
    let (_node, mut client) = cluster("laws")?;
    client.batch_execute(
        "CREATE TABLE s.bill (id int PRIMARY KEY, at timestamptz, paid timestamptz, name text);
         ALTER TABLE s.bill OWNER TO app;
         INSERT INTO s.bill SELECT n, now() - a * interval '1 day', now() - p * interval '1 day', 'n'
         FROM (VALUES (1, 40, 10), (2, 40, 100), (3, 10, 100), (4, 10, 10)) AS v (n, a, p);
         SELECT custodian.define_purpose('p.long', 'contract', '10 years');
         SELECT custodian.tag_table('s.bill', clock => 'at');
         SELECT custodian.tag_column('s.bill', 'name', 'user.name', '{p.long}', on_expiry => 'set_null');
         SELECT custodian.require_maximum('k.most', 's.bill', '{name}', '30 days', 'Act M');
         SELECT custodian.require_minimum('k.least', 's.bill', '{name}', '90 days', 'Act L', clock => 'paid')",
    )?;
    let states = "SELECT string_agg(state, ' ' ORDER BY id) FROM s.bill, custodian.explain_row('s.bill', jsonb_build_object('id', id))";
    assert_eq!(client.text(states)?, "blocked due active active");
    let told = preview(&mut client, "s.bill")?;
    assert!(told.contains("keep|conflict: Act M and Act L|1"), "{told}");
    assert!(told.contains("set null|past: p.long|1"), "{told}");
    client.batch_execute("SELECT count(*) FROM custodian.sweep_now('s.bill')")?;
    assert_eq!(
        client.text(
            "SELECT string_agg(id::text, ' ' ORDER BY id) FROM s.bill WHERE name IS NOT NULL"
        )?,
        "1 3 4"
    );
    // Nor may a user destroy what the minimum keeps, though the maximum has passed.
    assert_eq!(
        client
            .refused("UPDATE s.bill SET name = NULL WHERE id = 1")
            .sqlstate(),
        "23001"
    );
    client.batch_execute(
        "SET custodian.clock_offset = '81d'; SELECT count(*) FROM custodian.sweep_now('s.bill')",
    )?;
    assert_eq!(client.text("SELECT count(name) FROM s.bill")?, "0");
    Ok(())
}
