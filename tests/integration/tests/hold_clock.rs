//! The clocks by which the row guard tells whether a statutory minimum still keeps a row.

use integration::{Cluster, Result, Sql};

#[test]
fn a_minimum_keeps_by_clocks_of_every_naming_and_an_infinite_clock_counts_as_none() -> Result<()> {
    let node = Cluster::builder("hold_clock")
        .preload("pg_custodian")
        .conf("custodian.naptime = 3600")
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian;
         CREATE TABLE invoice (id int PRIMARY KEY, issued timestamptz, day date, name text);
         CREATE TABLE line (id int PRIMARY KEY, bill int CONSTRAINT line_of REFERENCES invoice ON DELETE CASCADE,
                            by_key text, by_table text, by_column text, doc jsonb);
         INSERT INTO invoice VALUES (1, now(), '2000-01-01'), (2, '2000-01-01', '2000-01-01'),
                                    (3, '-infinity', 'infinity'), (4, 'infinity', '-infinity'), (5, '2000-01-01', '-infinity');
         INSERT INTO line SELECT n, n FROM generate_series(1, 5) n;
         SELECT custodian.define_purpose('shop.account', 'contract', '50 years');
         SELECT custodian.tag_table('invoice', clock => 'issued');
         SELECT custodian.tag_column('invoice', 'name', 'user.name', '{shop.account}');
         SELECT custodian.require_minimum('law.day', 'invoice', '{name}', '10 years', 'Art. 1', clock => 'day');
         SELECT custodian.tag_table('line', clock => 'line_of.issued');
         SELECT custodian.tag_column('line', c, 'user.note', '{shop.account}')
         FROM unnest('{by_key,by_table,by_column}'::text[]) c",
    )?;
    let mut client = node.client()?;
    // An infinite date is no date.
    for id in [3, 4, 5] {
        let error = client.refused(&format!("DELETE FROM invoice WHERE id = {id}"));
        assert_eq!(error.sqlstate(), "23001", "{id}: {error}");
    }

    for (column, clock) in [
        ("by_key", "line_of.issued"),
        ("by_table", "invoice.issued"),
        ("by_column", "bill.issued"),
    ] {
        client.batch_execute(&format!(
            "SELECT custodian.require_minimum('law.{column}', 'line', '{{{column}}}', '10 years', 'Art. 2', clock => '{clock}')"
        ))?;
        for id in [1, 3, 4] {
            let error = client.refused(&format!("DELETE FROM line WHERE id = {id}"));
            assert_eq!(error.sqlstate(), "23001", "{column} {id}: {error}");
        }
        // The old invoice's line may go.
        client.batch_execute("BEGIN; DELETE FROM line WHERE id = 2; ROLLBACK")?;
        client.batch_execute(&format!(
            "SELECT custodian.untag_column('line', '{column}')"
        ))?;
    }

    client.batch_execute(
        "SELECT custodian.tag_column('line', 'doc', 'user.note', '{shop.account}', path => '{a,b}');
         SELECT custodian.require_minimum('law.path', 'line', '{doc.a.b}', '10 years', 'Art. 3', clock => 'bill.issued');
         DELETE FROM line WHERE id IN (2, 5)",
    )?;
    // A label of paths alone guards the row.
    for sql in [
        "DELETE FROM line WHERE id = 1",
        "DELETE FROM line WHERE id = 3",
        "TRUNCATE line",
    ] {
        let error = client.refused(sql);
        assert_eq!(error.sqlstate(), "23001", "{sql}: {error}");
        assert!(error.to_string().contains("Art. 3"), "{sql}: {error}");
    }
    Ok(())
}

#[test]
fn a_whole_table_is_kept_by_one_row_whose_clock_is_minus_infinity() -> Result<()> {
    let node = Cluster::builder("hold_clock_whole")
        .preload("pg_custodian")
        .conf("custodian.naptime = 3600")
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian;
         CREATE TABLE invoice (id int PRIMARY KEY, issued timestamptz, name text);
         INSERT INTO invoice VALUES (1, '2000-01-01'), (2, '-infinity');
         SELECT custodian.define_purpose('shop.account', 'contract', '50 years');
         SELECT custodian.tag_table('invoice', clock => 'issued');
         SELECT custodian.tag_column('invoice', 'name', 'user.name', '{shop.account}');
         SELECT custodian.require_minimum('law.a', 'invoice', '{name}', '10 years', 'Art. 1')",
    )?;
    let mut client = node.client()?;
    let error = client.refused("TRUNCATE invoice");
    assert_eq!(error.sqlstate(), "23001", "{error}");
    client.batch_execute("UPDATE invoice SET issued = '2000-01-01' WHERE id = 2")?;
    client.batch_execute("TRUNCATE invoice")?;
    Ok(())
}

#[test]
fn a_clock_in_partitions_goes_once_no_row_is_found_by_it() -> Result<()> {
    let node = Cluster::builder("hold_clock_parts")
        .preload("pg_custodian")
        .conf("custodian.naptime = 3600")
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian;
         CREATE TABLE bill (id int PRIMARY KEY, up int, at timestamptz) PARTITION BY RANGE (id);
         CREATE TABLE bill_one PARTITION OF bill FOR VALUES FROM (0) TO (10);
         CREATE TABLE bill_two PARTITION OF bill FOR VALUES FROM (10) TO (20);
         ALTER TABLE bill ADD CONSTRAINT bill_up FOREIGN KEY (up) REFERENCES bill;
         CREATE TABLE item (id int PRIMARY KEY, bill int CONSTRAINT item_of REFERENCES bill, name text);
         INSERT INTO bill VALUES (1, NULL, now()), (11, 1, '2000-01-01');
         INSERT INTO item VALUES (1, 1, 'a');
         SELECT custodian.define_purpose('shop.account', 'contract', '50 years');
         SELECT custodian.tag_table('item', clock => 'item_of.at');
         SELECT custodian.tag_column('item', 'name', 'user.note', '{shop.account}');
         SELECT custodian.require_minimum('law.item', 'item', '{name}', '10 years', 'Art. 1', clock => 'item_of.bill_up.at')",
    )?;
    let mut client = node.client()?;
    // Of bill 1, which is above none, nobody can say that it is over.
    for sql in [
        "ALTER TABLE bill DROP COLUMN at",
        "ALTER TABLE bill DROP COLUMN at CASCADE",
    ] {
        let error = client.refused(sql);
        assert_eq!(error.sqlstate(), "23001", "{sql}: {error}");
        assert_eq!(client.text("SELECT count(at) FROM bill")?, "2");
    }
    // The partitions lose it one after the other, and the parent last.
    client.batch_execute("UPDATE item SET bill = 11; UPDATE bill SET at = '2000-01-01'; ALTER TABLE bill DROP COLUMN at")?;
    let columns = "SELECT count(*) FROM pg_attribute WHERE attname = 'at' AND attrelid = ANY ('{bill,bill_one,bill_two}'::regclass[])";
    assert_eq!(client.text(columns)?, "0");
    Ok(())
}

#[test]
fn a_clock_four_foreign_keys_away_lists_what_is_meant_where_that_is_not_clear() -> Result<()> {
    let node = Cluster::builder("hold_clock_far")
        .preload("pg_custodian")
        .conf("custodian.naptime = 3600")
        .start()?;
    // From the third table two keys lead on to the fourth.
    node.exec(
        "CREATE EXTENSION pg_custodian;
         CREATE TABLE e (id int PRIMARY KEY, at timestamptz);
         CREATE TABLE d (id int PRIMARY KEY, e int CONSTRAINT d_e REFERENCES e);
         CREATE TABLE c (id int PRIMARY KEY, sold int CONSTRAINT c_sold REFERENCES d, bought int CONSTRAINT c_bought REFERENCES d);
         CREATE TABLE b (id int PRIMARY KEY, c int CONSTRAINT b_c REFERENCES c);
         CREATE TABLE a (id int PRIMARY KEY, b int CONSTRAINT a_b REFERENCES b, name text);
         INSERT INTO e VALUES (1, now()), (2, '2000-01-01');
         INSERT INTO d VALUES (1, 1), (2, 2);
         INSERT INTO c VALUES (1, 1, 2), (2, 2, 1);
         INSERT INTO b VALUES (1, 1), (2, 2);
         INSERT INTO a VALUES (1, 1, 'n'), (2, 2, 'n');
         SELECT custodian.define_purpose('shop.account', 'contract', '50 years');
         SELECT custodian.tag_column('a', 'name', 'user.name', '{shop.account}')",
    )?;
    let mut client = node.client()?;
    let require = |clock: &str| {
        format!(
            "SELECT custodian.require_minimum('law.a', 'a', '{{name}}', '10 years', 'Art. 1', clock => '{clock}')"
        )
    };
    for sql in [
        require("b.c.d.e.at"),
        "SELECT custodian.tag_table('a', clock => 'b.c.d.e.at')".to_owned(),
        "SELECT custodian.tag_column('a', 'name', 'user.name', '{shop.account}', clock => 'a_b.b_c.d.d_e.at')".to_owned(),
    ] {
        let error = client.refused(&sql);
        assert_eq!(error.sqlstate(), "22023", "{sql}: {error}");
        let text = error.to_string();
        assert!(
            text.contains("\"d\" is ambiguous on table \"public.c\"; candidates: c_bought, c_sold"),
            "{sql}: {text}"
        );
    }
    client.batch_execute(&require("b.c.c_sold.e.at"))?;
    let error = client.refused("DELETE FROM a WHERE id = 1");
    assert_eq!(error.sqlstate(), "23001", "{error}");
    client.batch_execute("DELETE FROM a WHERE id = 2")?;
    Ok(())
}
