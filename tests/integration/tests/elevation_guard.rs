//! What nobody gains by code on tables over which the row guard finds the subjects of other people's rows.

use integration::{Cluster, Result, Sql};

/// Notes of alice's lead over her own file to mallory's customer, whose `ref` says who the subject is. Code that is
/// evaluated when a statement that reads mallory's table is planned says as whom it ran by a sequence, which a rollback
/// leaves as it is.
const TABLES: &str = r#"
CREATE EXTENSION pg_custodian;
CREATE ROLE counsel;
CREATE ROLE alice LOGIN;
CREATE ROLE mallory LOGIN;
CREATE SCHEMA alice AUTHORIZATION alice;
CREATE SCHEMA mallory AUTHORIZATION mallory;
GRANT USAGE ON SCHEMA alice, mallory TO PUBLIC;
CREATE SEQUENCE public.as_alice;
CREATE SEQUENCE public.as_mallory;
CREATE SEQUENCE public.as_postgres;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO PUBLIC;
SET SESSION AUTHORIZATION mallory;
CREATE FUNCTION mallory.note() RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN PERFORM nextval('public.as_' || current_user); RETURN true; END $$;
CREATE FUNCTION mallory.innocent() RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN mallory.note(); END';
CREATE TYPE mallory.level AS ENUM ('a', 'b');
CREATE FUNCTION mallory.told(mallory.level) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN PERFORM mallory.note(); RETURN 'a'; END $$;
CREATE TABLE mallory.customer (id char(6) PRIMARY KEY, ref text, level mallory.level);
GRANT SELECT, REFERENCES ON mallory.customer TO alice;
INSERT INTO mallory.customer SELECT 'c' || n, 'ref' || n, 'b' FROM generate_series(1, 3) n;
SET SESSION AUTHORIZATION alice;
CREATE TABLE alice.file (id int PRIMARY KEY, customer char(6) REFERENCES mallory.customer);
CREATE TABLE alice.note (id int PRIMARY KEY, file int REFERENCES alice.file, body text);
INSERT INTO alice.file SELECT n, 'c' || n FROM generate_series(1, 3) n;
INSERT INTO alice.note SELECT n, n, 'x' FROM generate_series(1, 3) n;
RESET SESSION AUTHORIZATION;
SELECT custodian.define_purpose('shop.account', 'contract', '50 years');
SELECT custodian.tag_table('mallory.customer', subject_kind => 'customer', subject_key => '{ref}');
SELECT custodian.tag_table('alice.file', subject_kind => 'customer', subject_via => '{customer}');
SELECT custodian.tag_table('alice.note', subject_kind => 'customer', subject_via => '{file}');
SELECT custodian.place_hold('m', 'counsel', current_date + 1, 'r', subject_kind => 'customer', subject_key => '{ref1}')"#;

/// As whom mallory's code ran.
fn ran_as(node: &Cluster) -> Result<String> {
    node.text(
        "SELECT string_agg(role, ' ' ORDER BY role) FROM (VALUES ('alice', (SELECT is_called FROM public.as_alice)),
         ('mallory', (SELECT is_called FROM public.as_mallory)), ('postgres', (SELECT is_called FROM public.as_postgres)))
         AS s (role, called) WHERE called",
    )
}

#[test]
fn code_on_a_table_that_says_the_subject_runs_with_no_rights_but_its_owners() -> Result<()> {
    let node = Cluster::builder("elevation_guard")
        .preload("pg_custodian")
        .conf("custodian.naptime = 3600")
        .conf("custodian.disposal = off")
        .start()?;
    node.exec(TABLES)?;
    let mut alice = node.client_as("alice", "postgres")?;
    // As long as there is no such code, a whole table is looked at.
    let error = alice.refused("TRUNCATE alice.note");
    assert_eq!(error.sqlstate(), "23001", "{error}");

    for (code, no_code) in [
        (
            "CREATE INDEX evil ON mallory.customer (id) WHERE mallory.innocent()",
            "DROP INDEX mallory.evil",
        ),
        (
            "CREATE STATISTICS mallory.evil ON (mallory.innocent()), id FROM mallory.customer",
            "DROP STATISTICS mallory.evil",
        ),
        (
            "CREATE CAST (mallory.level AS text) WITH FUNCTION mallory.told(mallory.level)",
            "DROP CAST (mallory.level AS text)",
        ),
    ] {
        node.client_as("mallory", "postgres")?.batch_execute(code)?;
        node.exec("ALTER SEQUENCE public.as_mallory RESTART")?;
        // Rows one by one: each table is read as its own owner.
        let error = alice.refused("DELETE FROM alice.note WHERE id = 1");
        assert_eq!(error.sqlstate(), "23001", "{code}: {error}");
        alice.batch_execute("BEGIN; DELETE FROM alice.note WHERE id = 2; ROLLBACK")?;
        // As a whole: nobody can tell.
        for sql in ["TRUNCATE alice.note", "DROP TABLE alice.note"] {
            let error = alice.refused(sql);
            assert_eq!(error.sqlstate(), "55000", "{code}: {error}");
            assert!(
                error
                    .to_string()
                    .contains("mallory.customer carries code of another owner"),
                "{error}"
            );
        }
        let ran = ran_as(&node)?;
        assert!(ran.is_empty() || ran == "mallory", "{code}: ran as {ran}");
        node.client_as("mallory", "postgres")?
            .batch_execute(no_code)?;
    }
    // It does run with the rights of whoever reads the table: otherwise this test shows nothing.
    node.client_as("mallory", "postgres")?
        .batch_execute("CREATE INDEX evil ON mallory.customer (id) WHERE mallory.innocent()")?;
    alice.batch_execute("SELECT FROM mallory.customer")?;
    assert!(ran_as(&node)?.contains("alice"));
    Ok(())
}
