//! A row that goes is counted once, under its own table: previews of everything add up to what sweeps do, over circles of
//! tables and partitions, tables that refer to themselves, and rows that several foreign keys take along.

use integration::{Cluster, Result, Sql};
use postgres::Client;

fn cluster(name: &str) -> Result<Cluster> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.disposal = observe")
        .conf("custodian.max_disposal_fraction = 1")
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian; CREATE SCHEMA s;
         SELECT custodian.define_purpose('p.short', 'contract', '10 days'),
                custodian.define_purpose('p.wish', 'contract', '10 years', required => false)",
    )?;
    Ok(node)
}

/// A partitioned table and another one in a circle, a third one, a table that refers to itself, and three that are
/// not tagged: rows of `d` go with those of both by three keys, those of `e` with those of `d`, and in `v` keys are emptied. Rows
/// with numbers up to 10, and from 101 to 110, are past.
const TABLES: &str = "
    CREATE TABLE s.a (id int PRIMARY KEY, b int, who int, at timestamptz, name text) PARTITION BY RANGE (id);
    CREATE TABLE s.a1 PARTITION OF s.a FOR VALUES FROM (0) TO (101);
    CREATE TABLE s.a2 PARTITION OF s.a FOR VALUES FROM (101) TO (1000);
    CREATE TABLE s.b (id int PRIMARY KEY, a int, who int, at timestamptz, name text);
    CREATE TABLE s.c (id int PRIMARY KEY, who int, at timestamptz, name text);
    CREATE TABLE s.t (id int PRIMARY KEY, parent int REFERENCES s.t, at timestamptz, name text);
    INSERT INTO s.a SELECT n, NULL, 7, now() - CASE WHEN n % 100 <= 10 THEN interval '20 days' ELSE '0' END, 'n'
      FROM generate_series(1, 150) n WHERE n % 100 <= 10 OR n % 100 = 50;
    DELETE FROM s.a WHERE id = 100;
    INSERT INTO s.b SELECT id, id, who, at, name FROM s.a;
    UPDATE s.a SET b = id;
    ALTER TABLE s.a ADD FOREIGN KEY (b) REFERENCES s.b ON DELETE CASCADE;
    ALTER TABLE s.b ADD FOREIGN KEY (a) REFERENCES s.a ON DELETE CASCADE;
    INSERT INTO s.c SELECT n, 7, now() - CASE WHEN n <= 5 THEN interval '20 days' ELSE '0' END, 'n' FROM generate_series(1, 6) n;
    INSERT INTO s.t SELECT n, nullif(n - 1, 0), now() - interval '20 days', 'n' FROM generate_series(1, 4) n;
    INSERT INTO s.t VALUES (5, 5, now(), 'young');
    CREATE TABLE s.d (id int PRIMARY KEY, a int REFERENCES s.a ON DELETE CASCADE, also int REFERENCES s.a ON DELETE CASCADE,
                      c int REFERENCES s.c ON DELETE CASCADE);
    CREATE TABLE s.e (id int PRIMARY KEY, d int REFERENCES s.d ON DELETE CASCADE);
    CREATE TABLE s.v (id int PRIMARY KEY, a int REFERENCES s.a ON DELETE SET NULL, also int REFERENCES s.a ON DELETE SET NULL,
                      c int REFERENCES s.c ON DELETE SET NULL);
    INSERT INTO s.d VALUES (1, 1, 101, 1), (2, 2, NULL, NULL), (3, NULL, NULL, 2), (4, 3, NULL, 3), (5, 50, NULL, 4),
                           (6, 50, 150, 6);
    INSERT INTO s.e VALUES (1, 1), (2, 1), (3, 3), (4, 6);
    INSERT INTO s.v VALUES (1, 1, NULL, 1), (2, 102, NULL, NULL), (3, 50, NULL, 5), (4, 1, 2, NULL), (5, 50, 150, 6);
    SELECT custodian.tag_table(t::regclass, clock => 'at', on_expiry => 'delete') FROM unnest('{s.a,s.b,s.c,s.t}'::text[]) t;
    SELECT custodian.tag_column(t::regclass, 'name', 'user.name', '{p.short}') FROM unnest('{s.a,s.b,s.c,s.t}'::text[]) t;
    SELECT custodian.declare_dependents(t::regclass, '{s.d,s.e,s.v}') FROM unnest('{s.a,s.c}'::text[]) t";

const EXPECTED: &str = "s.a delete row 20, s.b delete row 20, s.c delete row 5, s.d delete row 5, s.e delete row 3, \
                        s.t delete row 4, s.v change row 6";

/// What is told to go, added up by table, whatever partition it is in and whatever takes it along.
fn sums(client: &mut Client, told: &str) -> Result<String> {
    client.text(&format!(
        "SELECT string_agg(concat_ws(' ', name, what, rows), ', ' ORDER BY name, what)
         FROM (SELECT coalesce(pg_partition_root(relation), relation)::regclass::text AS name, split_part(action, ' (', 1) AS what, sum(rows) AS rows
               FROM custodian.{told} WHERE action <> 'keep' GROUP BY 1, 2) AS sums"
    ))
}

fn count(client: &mut Client) -> Result<String> {
    client.text(
        "SELECT (SELECT count(*) FROM s.a), (SELECT count(*) FROM s.b), (SELECT count(*) FROM s.c), (SELECT count(*) FROM s.d),
                (SELECT count(*) FROM s.e), (SELECT count(*) FROM s.t)",
    )
}

#[test]
fn a_preview_of_everything_counts_each_row_once_and_adds_up_to_what_a_sweep_does() -> Result<()> {
    let node = cluster("once")?;
    let mut client = node.client()?;
    client.batch_execute(TABLES)?;
    assert_eq!(count(&mut client)?, "22|22|6|6|4|5");
    for told in ["preview()", "estimate_preview()"] {
        assert_eq!(sums(&mut client, told)?, EXPECTED, "{told}");
    }
    // Rows of a circle are their own table's wherever that is asked for; what is told of one table shows what goes along, apart.
    const ACTIONS: &str = "SELECT relation, action, sum(rows) FROM custodian.preview($) p WHERE action <> 'keep' GROUP BY relation, action ORDER BY relation::text, action";
    assert_eq!(
        client.text(&ACTIONS.replace('$', ""))?,
        "s.a|delete row|20\ns.b|delete row|20\ns.c|delete row|5\ns.d|delete row (cascade)|5\ns.e|delete row (cascade)|3\n\
         s.t|delete row|4\ns.v|change row (cascade)|6"
    );
    assert_eq!(
        client.text(&ACTIONS.replace('$', "'s.a'"))?,
        "s.a|delete row|20\ns.b|delete row (circle)|20\ns.d|delete row (cascade)|3\ns.e|delete row (cascade)|2\ns.v|change row (cascade)|4"
    );
    // What a shorter period would make due at once adds up as well.
    client.batch_execute(
        "SELECT custodian.define_purpose('p.long', 'contract', '100 days');
         SELECT custodian.tag_column(t::regclass, 'name', 'user.name', '{p.long}') FROM unnest('{s.a,s.b,s.c,s.t}'::text[]) t",
    )?;
    const SHORTER: &str = r#"{"purposes": {"p.long": {"period": "10 days"}}}"#;
    let simulated = format!(
        "SELECT string_agg(concat_ws(' ', name, what, rows), ', ' ORDER BY name, what)
         FROM (SELECT coalesce(pg_partition_root(relation), relation)::regclass::text AS name, split_part(action, ' (', 1) AS what, sum(rows_then) AS rows
               FROM custodian.simulate('{SHORTER}') WHERE action <> 'keep' GROUP BY 1, 2) AS sums"
    );
    assert_eq!(client.text(&simulated)?, EXPECTED);
    client.batch_execute("SELECT custodian.define_purpose('p.long', 'contract', '10 days')")?;
    assert_eq!(sums(&mut client, "preview()")?, EXPECTED);
    assert_eq!(sums(&mut client, "sweep_now()")?, EXPECTED);
    assert_eq!(count(&mut client)?, "2|2|1|1|1|1");
    assert_eq!(
        client.text("SELECT count(*) FROM custodian.preview() WHERE action <> 'keep'")?,
        "0"
    );
    Ok(())
}

#[test]
fn the_worker_plans_and_does_what_a_preview_of_everything_adds_up_to() -> Result<()> {
    let node = cluster("once_worker")?;
    let mut client = node.client()?;
    client.batch_execute(TABLES)?;
    assert_eq!(sums(&mut client, "preview()")?, EXPECTED);
    client.batch_execute("CALL custodian.sweep()")?;
    assert_eq!(count(&mut client)?, "2|2|1|1|1|1");
    // Of each run what was planned was done: `d` goes along with rows of both partitions of `a`.
    for column in ["planned", "done"] {
        let told = client.text(&format!(
            "SELECT string_agg(concat_ws(' ', name, what, rows), ', ' ORDER BY name, what)
             FROM (SELECT regexp_replace(leaf, '^s.a[12]$', 's.a') AS name, split_part(action, ' (', 1) AS what, sum({column}) AS rows
                   FROM custodian.run_items WHERE action <> 'keep' GROUP BY 1, 2) AS sums"
        ))?;
        assert_eq!(told, EXPECTED, "{column}");
    }
    Ok(())
}

#[test]
fn an_erasure_and_its_preview_name_each_row_once_under_its_own_table() -> Result<()> {
    let node = cluster("once_erasure")?;
    let mut client = node.client()?;
    client.batch_execute(TABLES)?;
    client.batch_execute(
        "CREATE TABLE s.customer AS SELECT 7 AS id;
         SELECT custodian.tag_table('s.customer', subject_kind => 'customer', subject_key => '{id}');
         SELECT custodian.tag_table(t::regclass, clock => 'at', on_expiry => 'delete', subject_kind => 'customer', subject_via => '{who}'),
                custodian.tag_column(t::regclass, 'name', 'user.name', '{p.wish}') FROM unnest('{s.a,s.b,s.c}'::text[]) t;
         SELECT custodian.declare_dependents(t::regclass, '{s.d,s.e,s.v}') FROM unnest('{s.a,s.c}'::text[]) t",
    )?;
    const LINES: &str = "SELECT relation, column_names, action, reason, rows FROM custodian";
    let told = client.text(&format!(
        "{LINES}.preview_erasure('customer', '{{7}}') ORDER BY relation::text, action, reason"
    ))?;
    assert_eq!(
        told.lines()
            .filter(|line| line.contains("|erasure|"))
            .collect::<Vec<_>>(),
        [
            "s.a|{name}|delete row|erasure|22",
            "s.b|{name}|delete row|erasure|22",
            "s.c|{name}|delete row|erasure|6"
        ]
    );
    const ALL: &str = "s.a delete row 22, s.b delete row 22, s.c delete row 6, s.d delete row 6, s.e delete row 4, s.v change row 10";
    assert_eq!(
        sums(&mut client, "preview_erasure('customer', '{7}')")?,
        ALL
    );
    // Line by line, which of two tables took a row along is told the same.
    let done = client.text(&format!(
        "{LINES}.erase_subject('customer', '{{7}}', 'request 1') ORDER BY relation::text, action, reason"
    ))?;
    assert_eq!(done, told);
    assert_eq!(count(&mut client)?, "0|0|0|0|0|5");
    Ok(())
}

#[test]
fn a_preview_of_a_part_names_rows_of_a_circle_once_that_two_tagged_partitions_share() -> Result<()>
{
    let node = cluster("once_part")?;
    let mut client = node.client()?;
    client.batch_execute(
        "CREATE TABLE s.r (id int, h int, at timestamptz, name text) PARTITION BY RANGE (id);
         CREATE TABLE s.r1 PARTITION OF s.r FOR VALUES FROM (0) TO (10);
         CREATE TABLE s.r2 PARTITION OF s.r FOR VALUES FROM (10) TO (20);
         ALTER TABLE s.r1 ADD PRIMARY KEY (id); ALTER TABLE s.r2 ADD PRIMARY KEY (id);
         CREATE TABLE s.h (id int PRIMARY KEY, one int REFERENCES s.r1, two int REFERENCES s.r2, at timestamptz, name text);
         INSERT INTO s.r SELECT n, n % 10, now() - interval '20 days', 'n' FROM unnest('{1,2,3,11,12,13}'::int[]) n;
         INSERT INTO s.h SELECT n, n, 10 + n, now() - interval '20 days', 'n' FROM generate_series(1, 3) n;
         ALTER TABLE s.r1 ADD FOREIGN KEY (h) REFERENCES s.h; ALTER TABLE s.r2 ADD FOREIGN KEY (h) REFERENCES s.h;
         SELECT custodian.tag_table(t::regclass, clock => 'at', on_expiry => 'delete'),
                custodian.tag_column(t::regclass, 'name', 'user.name', '{p.short}') FROM unnest('{s.r1,s.r2,s.h}'::text[]) t",
    )?;
    const LINES: &str =
        "SELECT relation, action, rows FROM $ WHERE action <> 'keep' ORDER BY relation::text";
    assert_eq!(
        client.text(&LINES.replace('$', "custodian.preview('s.r')"))?,
        "s.h|delete row (circle)|3\ns.r1|delete row|3\ns.r2|delete row|3"
    );
    assert_eq!(
        client.text(&LINES.replace('$', "custodian.preview()"))?,
        "s.h|delete row|3\ns.r1|delete row|3\ns.r2|delete row|3"
    );
    Ok(())
}
