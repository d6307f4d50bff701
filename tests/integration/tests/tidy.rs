//! VACUUM and ANALYZE by the worker: where sweeps left dead rows that autovacuum would not come to.

use integration::{Cluster, Result, wait_for_answer};

const SEEN: &str =
    "SELECT relname, vacuum_count, analyze_count, n_dead_tup FROM pg_stat_user_tables
                    WHERE relname NOT LIKE 'pg%' AND schemaname = 'public' ORDER BY relname";

#[test]
fn what_sweeps_touched_is_vacuumed_where_autovacuum_would_not_come() -> Result<()> {
    let node = Cluster::builder("tidy")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.vacuum_interval = 0")
        .conf("autovacuum_naptime = 1h")
        .start()?;
    // Of 2,000 rows 100 go, for which autovacuum would wait; of `big`, more than enough for it. The owner's own code runs
    // as the owner.
    node.exec(
        "CREATE EXTENSION pg_custodian; CREATE ROLE app; GRANT CREATE ON SCHEMA public TO app;
         SELECT custodian.define_purpose('test.log', 'contract', '100 days');
         CREATE TABLE few (id bigint, body text, at timestamptz NOT NULL) PARTITION BY LIST (id);
         CREATE TABLE few_1 PARTITION OF few FOR VALUES IN (1);
         CREATE TABLE quiet (id bigint, body text, at timestamptz NOT NULL);
         CREATE TABLE big (id bigint, body text, at timestamptz NOT NULL);
         INSERT INTO few SELECT 1, n, now() - CASE WHEN n <= 100 THEN 365 ELSE 1 END * interval '1 day' FROM generate_series(1, 2000) n;
         INSERT INTO big SELECT 1, n, now() - CASE WHEN n <= 1000 THEN 365 ELSE 1 END * interval '1 day' FROM generate_series(1, 2000) n;
         INSERT INTO quiet SELECT 1, n, now() FROM generate_series(1, 2000) n;
         DELETE FROM quiet WHERE body::int <= 100;
         ANALYZE;
         CREATE FUNCTION spy(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
             IF current_user <> 'app' THEN RAISE EXCEPTION 'as %', current_user; END IF; RETURN $1; END $$;
         ALTER TABLE few OWNER TO app; ALTER TABLE few_1 OWNER TO app; ALTER TABLE quiet OWNER TO app",
    )?;
    node.exec("SET ROLE app; CREATE INDEX spy ON few_1 (public.spy(body))")?;
    for table in ["few", "big", "quiet"] {
        node.exec(&format!(
            "SELECT custodian.tag_table('{table}', clock => 'at', on_expiry => 'delete');
             SELECT custodian.tag_column('{table}', 'body', 'user.behavior', '{{test.log}}')"
        ))?;
    }
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(&node, "SELECT count(*) FROM few", "1900");
    wait_for_answer(&node, "SELECT count(*) FROM big", "1000");
    wait_for_answer(
        &node,
        SEEN,
        "big|0|1|1000\nfew|0|1|0\nfew_1|0|1|100\nquiet|0|1|100",
    );
    node.alter_system("custodian.vacuum_interval", "1d")?;
    wait_for_answer(
        &node,
        SEEN,
        "big|0|1|1000\nfew|0|1|0\nfew_1|1|2|0\nquiet|0|1|100",
    );
    // Where autovacuum is off for the table, it would never come.
    node.exec("ALTER TABLE big SET (autovacuum_enabled = off)")?;
    wait_for_answer(
        &node,
        SEEN,
        "big|1|2|0\nfew|0|1|0\nfew_1|1|2|0\nquiet|0|1|100",
    );
    // Not again within the interval.
    node.exec(
        "SET ROLE app; INSERT INTO few SELECT 1, 'x', now() - interval '1 year' FROM generate_series(1, 10)",
    )?;
    wait_for_answer(&node, "SELECT count(*) FROM few", "1900");
    for _ in 0..8 {
        let last = node.text("SELECT last_success FROM custodian.status")?;
        wait_for_answer(
            &node,
            &format!("SELECT last_success > '{last}' FROM custodian.status"),
            "t",
        );
    }
    assert_eq!(
        node.text("SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'few_1'")?,
        "1"
    );
    assert!(
        !node.log().contains("could not vacuum"),
        "it went without an error"
    );
    Ok(())
}

#[test]
fn a_vacuum_that_takes_long_is_in_nobodys_way() -> Result<()> {
    let node = Cluster::builder("long")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("vacuum_cost_limit = 1")
        .conf("vacuum_cost_page_hit = 1000")
        .conf("autovacuum = off")
        .start()?;
    let mut app = node.create_database("app")?;
    app.batch_execute(
        "CREATE EXTENSION pg_custodian;
         SELECT custodian.define_purpose('test.log', 'contract', '100 days');
         CREATE TABLE log (id bigint, body text, at timestamptz NOT NULL);
         ALTER TABLE log ALTER body SET STORAGE PLAIN;
         INSERT INTO log SELECT n, repeat('x', 7000), now() - CASE WHEN n <= 10 THEN 365 ELSE 1 END * interval '1 day'
         FROM generate_series(1, 2000) n;
         SELECT custodian.tag_table('log', clock => 'at', on_expiry => 'delete');
         SELECT custodian.tag_column('log', 'body', 'user.behavior', '{test.log}')",
    )?;
    wait_for_answer(
        &node,
        "SELECT datname, relid > 0 FROM pg_stat_progress_vacuum",
        "app|t",
    );
    drop(app);
    // It holds up no round, and leaves a database that is dropped.
    node.exec("DROP DATABASE app")?;
    assert_eq!(
        node.text(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_custodian vacuum'"
        )?,
        "0"
    );
    Ok(())
}
