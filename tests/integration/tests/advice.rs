//! `custodian.advice`: what would make sweeps cheaper, with a statement that does it and what was measured.

use integration::{Cluster, Result, poll, wait_for_answer};

const ADVICE: &str =
    "SELECT relation::text, advice, coalesce(ddl, '-') FROM custodian.advice ORDER BY 1, 2, 3";

#[test]
fn advice_is_given_with_its_statement_and_gone_once_that_was_followed() -> Result<()> {
    let node = Cluster::builder("advice").preload("pg_custodian").start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian;
         SELECT custodian.define_purpose('test.log', 'contract', '100 days');
         CREATE TABLE note (id bigint PRIMARY KEY, \"E mail\" text UNIQUE, body text, seen timestamptz NOT NULL);
         CREATE INDEX note_body ON note (body text_pattern_ops) WHERE id > 0;
         CREATE TABLE log (id bigint, body text, at timestamptz NOT NULL) PARTITION BY RANGE (at);
         CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
         CREATE TABLE small (id bigint, body text, at timestamptz NOT NULL);
         INSERT INTO note SELECT n, n || repeat('x', 100), n || repeat('y', 100), now() - random() * interval '99 days'
         FROM generate_series(1, 40000) n;
         INSERT INTO log SELECT n, repeat('z', 200), now() - interval '90 days' + n * interval '1 minute' FROM generate_series(1, 40000) n;
         ANALYZE;
         SELECT custodian.tag_table('note', clock => 'seen');
         SELECT custodian.tag_column('note', 'E mail', 'user.contact.email', '{test.log}', on_expiry => 'set_null');
         SELECT custodian.tag_column('note', 'body', 'user.behavior', '{test.log}', on_expiry => 'set_null');
         SELECT custodian.tag_table('log', clock => 'at', on_expiry => 'delete');
         SELECT custodian.tag_column('log', 'body', 'user.behavior', '{test.log}');
         SELECT custodian.tag_table('small', clock => 'at', on_expiry => 'delete');
         SELECT custodian.tag_column('small', 'body', 'user.behavior', '{test.log}');
         UPDATE note SET body = NULL WHERE id <= 1000",
    )?;
    // Rows of the log lie in the order of their clock, those of the other table do not. An index that keeps a promise of
    // its own is named, and no statement drops it. What is updated is known once the session has told it.
    let told = [
        "log_1|clock-index|CREATE INDEX CONCURRENTLY ON log_1 USING brin (at)",
        "note|clock-index|CREATE INDEX CONCURRENTLY ON note USING btree (seen)",
        "note|fillfactor|ALTER TABLE note SET (fillfactor = 90)",
        "note|index-on-rewritten-column|-",
        "note|index-on-rewritten-column|DROP INDEX CONCURRENTLY note_body",
    ]
    .join("\n");
    let mut last = String::new();
    let reached = poll(60, || {
        last = node.text(ADVICE).unwrap_or_default();
        (last == told).then_some(())
    });
    assert!(reached.is_some(), "{last}");
    assert_eq!(
        node.text(
            "SELECT measured ->> 'updated', measured ->> 'hot', measured ->> 'hot_share' FROM custodian.advice
             WHERE advice = 'fillfactor'"
        )?,
        "1000|0|0.000",
        "what was measured"
    );
    assert_eq!(
        node.text(
            "SELECT bool_and((measured ->> 'table_bytes')::bigint = pg_relation_size(relation)) FROM custodian.advice
             WHERE advice = 'clock-index'"
        )?,
        "t"
    );
    for ddl in node
        .text("SELECT ddl FROM custodian.advice WHERE ddl IS NOT NULL")?
        .lines()
    {
        node.exec(ddl)?;
    }
    assert_eq!(
        node.text(ADVICE)?,
        "note|index-on-rewritten-column|-",
        "each statement helps"
    );
    Ok(())
}

#[test]
fn rows_are_rewritten_within_their_pages_where_there_is_room() -> Result<()> {
    let node = Cluster::builder("hot")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("autovacuum = off")
        .start()?;
    // Every row of each page is rewritten, and no index is on what changes.
    node.exec(
        "CREATE EXTENSION pg_custodian;
         CREATE TABLE note (id bigint PRIMARY KEY, body text, at timestamptz NOT NULL) WITH (fillfactor = 50);
         CREATE INDEX ON note (at);
         INSERT INTO note SELECT n, repeat('x', 100), now() - interval '1 year' FROM generate_series(1, 2000) n;
         SELECT custodian.define_purpose('test.note', 'contract', '100 days');
         SELECT custodian.tag_table('note', clock => 'at');
         SELECT custodian.tag_column('note', 'body', 'user.behavior', '{test.note}', on_expiry => 'set_null')",
    )?;
    wait_for_answer(
        &node,
        "SELECT n_tup_upd, n_tup_hot_upd, (SELECT count(body) FROM note) FROM pg_stat_user_tables WHERE relname = 'note'",
        "2000|2000|0",
    );
    Ok(())
}
