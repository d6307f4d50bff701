//! What leads to the subject or the clock of kept rows stays for as long as they do.

use integration::{Cluster, Result, Sql, blocked};

/// Notes lead over files to customers, who are the subjects, and bills over a unique index to days, which are the clock
/// of a minimum. Nothing else is tagged.
const TABLES: &str = "
CREATE EXTENSION pg_custodian;
CREATE ROLE counsel;
CREATE ROLE app LOGIN;
CREATE SCHEMA app AUTHORIZATION app;
SET ROLE app;
SET search_path = app;
CREATE TABLE customer (id int PRIMARY KEY, ref text);
CREATE TABLE file (id int CONSTRAINT file_key UNIQUE, customer int CONSTRAINT file_of REFERENCES customer);
CREATE TABLE note (id int PRIMARY KEY, file int CONSTRAINT note_of REFERENCES file (id), body text) PARTITION BY RANGE (id);
CREATE TABLE note_1 PARTITION OF note FOR VALUES FROM (1) TO (10);
CREATE TABLE day (n int, at timestamptz);
CREATE UNIQUE INDEX day_n ON day (n);
CREATE TABLE sheet (id int PRIMARY KEY, day int CONSTRAINT sheet_day REFERENCES day (n));
CREATE TABLE bill (id int PRIMARY KEY, sheet int CONSTRAINT bill_sheet REFERENCES sheet, name text);
CREATE TABLE other (id int PRIMARY KEY, customer int CONSTRAINT other_of REFERENCES customer);
INSERT INTO customer VALUES (1, 'a'), (2, 'b');
INSERT INTO file VALUES (1, 1), (2, 2);
INSERT INTO note VALUES (1, 1, 'x'), (2, 2, 'x');
INSERT INTO day VALUES (1, now());
INSERT INTO sheet VALUES (1, 1);
INSERT INTO bill VALUES (1, 1, 'x');
RESET ROLE;
SELECT custodian.define_purpose('shop.account', 'contract', '50 years');
SELECT custodian.tag_table('customer', subject_kind => 'customer', subject_key => '{ref}');
SELECT custodian.tag_table('file', subject_kind => 'customer', subject_via => '{customer}');
SELECT custodian.tag_table('note', subject_kind => 'customer', subject_via => '{file}');
SELECT custodian.tag_table('bill', clock => 'bill_sheet.sheet_day.at');
SELECT custodian.tag_column('bill', 'name', 'user.name', '{shop.account}');
SELECT custodian.require_minimum('law.bill', 'bill', '{name}', '10 years', 'Art. 60');
SELECT custodian.place_hold('M-7', 'counsel', current_date + 1, 'r', subject_kind => 'customer', subject_key => '{a}');
RESET search_path";

/// One in which no worker is about.
fn cluster(name: &str) -> Result<Cluster> {
    Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.naptime = 3600")
        .conf("custodian.disposal = off")
        .start()
}

#[test]
fn keys_and_columns_over_which_kept_rows_are_found_are_not_dropped() -> Result<()> {
    let node = cluster("hold_reach")?;
    node.exec(TABLES)?;
    let hold = [
        "ALTER TABLE note DROP CONSTRAINT note_of",
        "ALTER TABLE file DROP CONSTRAINT file_of",
        "ALTER TABLE file DROP CONSTRAINT file_key CASCADE",
        "ALTER TABLE customer DROP CONSTRAINT customer_pkey CASCADE",
        "ALTER TABLE customer DROP COLUMN id CASCADE",
        "ALTER TABLE customer DROP COLUMN ref",
    ];
    let minimum = [
        "ALTER TABLE bill DROP CONSTRAINT bill_sheet",
        "ALTER TABLE sheet DROP CONSTRAINT sheet_day",
        "ALTER TABLE sheet DROP CONSTRAINT sheet_pkey CASCADE",
        "DROP INDEX day_n CASCADE",
        "DROP TABLE day CASCADE",
        "DROP TABLE sheet CASCADE",
        "ALTER TABLE day DROP COLUMN at",
    ];
    for role in ["app", "postgres"] {
        let mut client = node.client_as(role, "postgres")?;
        client.batch_execute("SET search_path = app")?;
        for (list, why) in [
            (hold.as_slice(), "\"M-7\""),
            (minimum.as_slice(), "Art. 60"),
        ] {
            for sql in list {
                let error = client.refused(sql);
                assert_eq!(error.sqlstate(), "23001", "{sql}: {error}");
                assert!(error.to_string().contains(why), "{sql}: {error}");
            }
        }
    }
    // What nothing is found over goes, and the server may make a key anew, and rows that are not kept go.
    let mut app = node.client_as("app", "postgres")?;
    app.batch_execute(
        "SET search_path = app;
         ALTER TABLE other DROP CONSTRAINT other_of;
         ALTER TABLE other ADD CONSTRAINT other_of FOREIGN KEY (customer) REFERENCES customer;
         DROP TABLE other;
         ALTER TABLE day ALTER COLUMN n TYPE bigint;
         DELETE FROM note WHERE id = 2",
    )?;
    assert_eq!(
        app.refused("DELETE FROM note WHERE id = 1").sqlstate(),
        "23001"
    );
    // Once nothing is kept, they go as ever, together or one by one.
    node.exec("SELECT custodian.release_hold(1, 'counsel', 'settled')")?;
    app.batch_execute(
        "ALTER TABLE customer DROP CONSTRAINT customer_pkey CASCADE;
         ALTER TABLE file DROP CONSTRAINT file_key CASCADE",
    )?;
    node.exec("UPDATE app.day SET at = '2000-01-01'")?;
    app.batch_execute("BEGIN; DROP INDEX day_n CASCADE; ROLLBACK; DROP TABLE day CASCADE")?;
    node.exec("SELECT custodian.untag_column('app.bill', 'name'); DROP SCHEMA app CASCADE")?;
    Ok(())
}

/// A table with a hold, and days by which a minimum runs, both with a partition that is empty.
const PARTED: &str = "
CREATE EXTENSION pg_custodian;
CREATE ROLE counsel;
CREATE ROLE app LOGIN;
CREATE SCHEMA app AUTHORIZATION app;
SET ROLE app;
SET search_path = app;
CREATE DOMAIN word AS text;
CREATE TABLE person_2 (id int, email word, seen timestamptz);
CREATE TABLE person (id int, email word, seen timestamptz) PARTITION BY RANGE (id);
CREATE TABLE person_1 PARTITION OF person FOR VALUES FROM (1) TO (10);
ALTER TABLE person ATTACH PARTITION person_2 FOR VALUES FROM (10) TO (20);
CREATE TABLE day (n int PRIMARY KEY, at timestamptz) PARTITION BY RANGE (n);
CREATE TABLE day_1 PARTITION OF day FOR VALUES FROM (1) TO (10);
CREATE TABLE day_2 PARTITION OF day FOR VALUES FROM (10) TO (20);
CREATE TABLE bill (id int PRIMARY KEY, day int CONSTRAINT bill_day REFERENCES day, name text);
INSERT INTO person VALUES (1, 'a', now());
INSERT INTO day VALUES (1, now());
INSERT INTO bill VALUES (1, 1, 'x');
RESET ROLE;
SELECT custodian.define_purpose('shop.account', 'contract', '50 years');
SELECT custodian.tag_table('person', clock => 'seen', subject_kind => 'customer', subject_key => '{id}');
SELECT custodian.tag_column('person', 'email', 'user.contact.email', '{shop.account}');
SELECT custodian.tag_table('bill', clock => 'bill_day.at');
SELECT custodian.tag_column('bill', 'name', 'user.name', '{shop.account}');
SELECT custodian.require_minimum('law.bill', 'bill', '{name}', '10 years', 'Art. 60');
SELECT custodian.place_hold('M-7', 'counsel', current_date + 1, 'r', subject_kind => 'customer', subject_key => '{1}');
RESET search_path";

/// Begins to detach a partition, and stops in the middle of it: it is pending, and its parent's columns change without it.
fn leave_pending(node: &Cluster, parent: &str, detach: &'static str) -> Result<()> {
    let mut reader = node.client()?;
    reader.batch_execute(&format!("BEGIN; SELECT FROM {parent}"))?;
    let detaching = blocked(node, detach)?;
    node.exec(&format!(
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query = '{detach}'"
    ))?;
    assert!(
        detaching
            .join()
            .expect("the thread that detaches")
            .is_err_and(|error| error.sqlstate() == "57014")
    );
    reader.batch_execute("COMMIT")?;
    let pending = format!(
        "SELECT count(*) FROM pg_inherits WHERE inhparent = '{parent}'::regclass AND inhdetachpending"
    );
    assert_eq!(node.text(&pending)?, "1", "{parent}");
    Ok(())
}

#[test]
fn a_partition_that_is_pending_detach_takes_no_column_of_the_others_past_the_guard() -> Result<()> {
    let node = cluster("hold_pending")?;
    node.exec(PARTED)?;
    leave_pending(
        &node,
        "app.person",
        "ALTER TABLE app.person DETACH PARTITION app.person_2 CONCURRENTLY",
    )?;
    leave_pending(
        &node,
        "app.day",
        "ALTER TABLE app.day DETACH PARTITION app.day_2 CONCURRENTLY",
    )?;
    let mut app = node.client_as("app", "postgres")?;
    app.batch_execute(
        "SET search_path = app;
         ALTER TABLE person RENAME email TO mail; ALTER TABLE day RENAME at TO since;
         ALTER TABLE person ADD COLUMN more word",
    )?;
    for (sql, why) in [
        ("DROP DOMAIN word CASCADE", "\"M-7\""),
        ("ALTER TABLE person DROP COLUMN mail", "\"M-7\""),
        ("ALTER TABLE day DROP COLUMN since", "Art. 60"),
        ("ALTER TABLE day DROP COLUMN since CASCADE", "Art. 60"),
    ] {
        let error = app.refused(sql);
        assert_eq!(error.sqlstate(), "23001", "{sql}: {error}");
        assert!(error.to_string().contains(why), "{sql}: {error}");
    }
    // What keeps nothing goes, from those that have it.
    app.batch_execute("ALTER TABLE person DROP COLUMN more")?;
    node.exec(
        "SELECT custodian.release_hold(1, 'counsel', 'settled'); UPDATE app.day SET since = '2000-01-01'",
    )?;
    app.batch_execute("DROP DOMAIN word CASCADE; ALTER TABLE day DROP COLUMN since")?;
    let left = "SELECT string_agg(attrelid::regclass::text, ' ' ORDER BY attrelid::regclass::text) FROM pg_attribute
                WHERE attname IN ('email', 'mail', 'at', 'since') AND attrelid::regclass::text ~ '^app[.](person|day)'";
    assert_eq!(node.text(left)?, "app.day_2");
    Ok(())
}
