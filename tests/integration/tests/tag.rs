//! Changes of the policy that meet each other: they wait, see what the other did, and keep the epochs in order.

use std::thread;

use integration::{Cluster, Result, Sql, wait_until};

const SCHEMA: &str = "
    CREATE EXTENSION pg_custodian;
    CREATE TABLE a (id int, email text, at timestamptz);
    CREATE TABLE b (id int, email text, at timestamptz);
    SELECT custodian.define_purpose('shop.account', 'contract', '1 year');
    SELECT custodian.tag_column('a', 'email', 'user.contact.email', '{shop.account}', clock => 'at');";

/// Waits until this many sessions wait for a lock.
fn wait_for_waiting(node: &Cluster, sessions: u32) {
    wait_until("a session waits for a lock", 60, || {
        node.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND backend_type = 'client backend'")
            .is_ok_and(|waiting| waiting == sessions.to_string())
    });
}

#[test]
fn a_purpose_that_two_define_at_once_is_defined_once() -> Result<()> {
    let node = Cluster::builder("twice").preload("pg_custodian").start()?;
    node.exec(SCHEMA)?;
    let define = "SELECT custodian.define_purpose('shop.extra', 'contract', '2 years')";
    let mut first = node.client()?;
    first.batch_execute("BEGIN")?;
    first.batch_execute(define)?;
    let mut second = node.client()?;
    let other = thread::spawn(move || second.batch_execute(define));
    wait_for_waiting(&node, 1);
    first.batch_execute("COMMIT")?;
    let outcome = other.join().map_err(|_| "the second session panicked")?;
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(
        node.text("SELECT periods FROM custodian.purposes WHERE name = 'shop.extra'")?,
        "1"
    );
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.epoch WHERE object = 'shop.extra'")?,
        "1"
    );
    Ok(())
}

#[test]
fn a_later_epoch_is_not_seen_before_an_earlier_one() -> Result<()> {
    let node = Cluster::builder("order").preload("pg_custodian").start()?;
    node.exec(SCHEMA)?;
    let before: i64 = node
        .text("SELECT epoch FROM custodian.status")?
        .parse()
        .map_err(|_| "a number")?;
    let mut first = node.client()?;
    first.batch_execute(
        "BEGIN; SELECT custodian.tag_column('a', 'email', 'user.contact.email', '{shop.account}', sensitivity => 'sensitive', clock => 'at')",
    )?;
    let mut second = node.client()?;
    let other = thread::spawn(move || {
        second.batch_execute(
            "SELECT custodian.tag_column('b', 'email', 'user.contact.email', '{shop.account}', clock => 'at')",
        )
    });
    wait_for_waiting(&node, 1);
    assert_eq!(
        node.text("SELECT epoch FROM custodian.status")?,
        before.to_string(),
        "neither is in force"
    );
    first.batch_execute("ROLLBACK")?;
    other.join().map_err(|_| "the second session panicked")??;
    assert_eq!(
        node.text("SELECT change, object FROM custodian.epoch ORDER BY epoch DESC LIMIT 1")?,
        "tag.added|public.b.email"
    );
    assert_eq!(
        node.text("SELECT sensitivity FROM custodian.tags WHERE relation = 'a'::regclass AND kind = 'column'")?,
        "personal"
    );
    Ok(())
}

#[test]
fn a_shorter_period_waits_for_a_table_whose_epoch_is_shared() -> Result<()> {
    let node = Cluster::builder("shared").preload("pg_custodian").start()?;
    node.exec(SCHEMA)?;
    // Another change of the policy of the same table holds its epoch lock.
    let mut first = node.client()?;
    first.batch_execute(
        "BEGIN; SELECT custodian.tag_column('a', 'email', 'user.contact.email', '{shop.account}', sensitivity => 'sensitive', clock => 'at')",
    )?;
    let mut second = node.client()?;
    second.batch_execute("SET lock_timeout = '200ms'")?;
    let error =
        second.refused("SELECT custodian.define_purpose('shop.account', 'contract', '1 month')");
    assert_eq!(error.sqlstate(), "55P03");
    assert_eq!(
        node.text("SELECT period FROM custodian.purposes WHERE name = 'shop.account'")?,
        "1 year",
        "a change that could not be made in time changed nothing"
    );
    first.batch_execute("COMMIT")?;
    second
        .batch_execute("SELECT custodian.define_purpose('shop.account', 'contract', '1 month')")?;
    assert_eq!(
        node.text("SELECT period, periods FROM custodian.purposes WHERE name = 'shop.account'")?,
        "1 mon|2"
    );
    Ok(())
}

#[test]
fn a_subject_that_is_renamed_stays_held() -> Result<()> {
    let node = Cluster::builder("renamed")
        .preload("pg_custodian")
        .start()?;
    node.exec(SCHEMA)?;
    node.exec(
        "CREATE ROLE counsel;
         ALTER TABLE a ADD PRIMARY KEY (id);
         INSERT INTO a SELECT n, n || '@example.com', now() FROM generate_series(1, 3) n;
         SELECT custodian.tag_table('a', clock => 'at', subject_kind => 'customer', subject_key => '{id}');
         SELECT custodian.place_hold('matter 1', 'counsel', current_date + 30, 'a suit', subject_kind => 'customer', subject_key => '{2}')",
    )?;
    let mut client = node.client()?;
    assert_eq!(client.refused("DELETE FROM a").sqlstate(), "23001");
    assert_eq!(
        client
            .refused("SELECT custodian.untag_table('a')")
            .sqlstate(),
        "23001"
    );
    client.batch_execute("ALTER TABLE a RENAME COLUMN id TO number")?;
    assert_eq!(
        client.text("SELECT subject_key FROM custodian.tags WHERE kind = 'table'")?,
        "{number}"
    );
    assert_eq!(client.refused("DELETE FROM a").sqlstate(), "23001");
    assert_eq!(
        client.refused("DELETE FROM a WHERE number = 2").sqlstate(),
        "23001"
    );
    client.batch_execute("DELETE FROM a WHERE number = 1")?;
    Ok(())
}

#[test]
fn tags_and_holds_follow_renames_by_whatever_statement_the_server_takes() -> Result<()> {
    let node = Cluster::builder("renames")
        .preload("pg_custodian")
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian; CREATE ROLE counsel;
         CREATE TABLE person (id int PRIMARY KEY, seen timestamptz);
         CREATE TABLE visit (person_id int REFERENCES person, note text);
         INSERT INTO person VALUES (1, now()), (2, now());
         SELECT custodian.tag_table('person', clock => 'seen');
         SELECT custodian.tag_table('visit', clock => 'person.seen');
         SELECT custodian.place_hold('matter 1', 'counsel', current_date + 30, 'a suit', rel => 'person', match => '{\"id\":[\"2\"]}')",
    )?;
    let clocks = "SELECT string_agg(clock, ' ' ORDER BY relation::text) FROM custodian.tags WHERE kind = 'table'";
    let hold = "SELECT relation, match FROM custodian.holds";
    let mut client = node.client()?;
    // The server takes a table in each of these.
    for (statement, expected, held) in [
        (
            "ALTER INDEX person RENAME TO human",
            "seen human.seen",
            "human|{\"id\": [\"2\"]}",
        ),
        (
            "ALTER TYPE human RENAME ATTRIBUTE seen TO last",
            "last human.last",
            "human|{\"id\": [\"2\"]}",
        ),
        (
            "ALTER TYPE human RENAME ATTRIBUTE id TO number",
            "last human.last",
            "human|{\"number\": [\"2\"]}",
        ),
        (
            "ALTER VIEW human RENAME COLUMN last TO seen",
            "seen human.seen",
            "human|{\"number\": [\"2\"]}",
        ),
    ] {
        client.batch_execute(statement)?;
        assert_eq!(client.text(clocks)?, expected, "{statement}");
        assert_eq!(client.text(hold)?, format!("public.{held}"), "{statement}");
        let kept = client.refused("DELETE FROM human");
        assert_eq!(kept.sqlstate(), "23001", "{statement}: {kept}");
    }
    client.batch_execute("DELETE FROM human WHERE number = 1")?;
    Ok(())
}
