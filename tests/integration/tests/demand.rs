//! `CALL custodian.sweep()`: a sweep on demand, in batches that commit.

use integration::{Cluster, Result, Sql, wait_for_answer};

/// 300 rows that are due, on as many blocks, and a trigger that makes each batch take a tenth of a second.
const SLOW: &str = "
    CREATE EXTENSION pg_custodian;
    CREATE ROLE app;
    CREATE TABLE log (id bigint PRIMARY KEY, body text, at timestamptz NOT NULL);
    ALTER TABLE log ALTER body SET STORAGE PLAIN;
    CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END';
    CREATE TRIGGER slowly AFTER DELETE ON log FOR EACH STATEMENT EXECUTE FUNCTION slowly();
    INSERT INTO log SELECT n, repeat('x', 5000), now() - interval '1 year' FROM generate_series(1, 300) n;
    CREATE TABLE other (id bigint PRIMARY KEY, body text, at timestamptz NOT NULL);
    INSERT INTO other SELECT n, 'x', now() - interval '1 year' FROM generate_series(1, 10) n;
    SELECT custodian.define_purpose('test.log', 'contract', '100 days');
    SELECT custodian.tag_table(t, clock => 'at', on_expiry => 'delete'),
           custodian.tag_column(t, 'body', 'user.behavior', '{test.log}') FROM unnest('{log,other}'::regclass[]) t";

fn slow(name: &str) -> Result<Cluster> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.batch_target = 1ms")
        .start()?;
    node.exec(SLOW)?;
    Ok(node)
}

/// A partition with a tag of its own of a table that has none, with a row that is due.
const DAYS: &str = "
    CREATE TABLE days (at timestamptz NOT NULL, body text) PARTITION BY RANGE (at);
    CREATE TABLE day PARTITION OF days FOR VALUES FROM ('2000-01-01') TO ('2000-01-02');
    INSERT INTO days VALUES ('2000-01-01 10:00', 'x');
    SELECT custodian.tag_table('day', clock => 'at', on_expiry => 'delete'),
           custodian.tag_column('day', 'body', 'user.behavior', '{test.log}')";

/// Lets go of what the session has locked once a sweep has waited for it for a while; it waits for no more than a minute.
const LET_GO: &str = "
    DO $$ BEGIN
        FOR n IN 1..12000 LOOP
            PERFORM pg_stat_clear_snapshot();
            EXIT WHEN EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
                              WHERE NOT granted AND backend_type = 'pg_custodian sweep');
            PERFORM pg_sleep(0.005);
        END LOOP;
        PERFORM pg_sleep(0.07);
    END $$;
    COMMIT";

const LEFT: &str = "SELECT (SELECT count(*) FROM log), (SELECT count(*) FROM other)";

#[test]
fn batches_commit_while_it_runs_and_a_cancel_keeps_them() -> Result<()> {
    let node = slow("cancel")?;
    let mut caller = node.client()?;
    let cancel = caller.cancel_token();
    let called = std::thread::spawn(move || {
        let error = caller.refused("CALL custodian.sweep()");
        (caller, error)
    });
    // Others see what it did while the call has not returned.
    wait_for_answer(&node, "SELECT count(*) BETWEEN 1 AND 250 FROM log", "t");
    assert_eq!(
        node.text(
            "SELECT backend_xmin IS NULL FROM pg_stat_activity WHERE query = 'CALL custodian.sweep()'"
        )?,
        "t",
        "a call that waits keeps VACUUM from nothing"
    );
    cancel.cancel_query(postgres::NoTls)?;
    let (mut caller, error) = called.join().expect("the thread of the call");
    assert_eq!(error.sqlstate(), "57014");
    wait_for_answer(
        &node,
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_custodian sweep'",
        "0",
    );
    let left = node.text("SELECT count(*) FROM log")?;
    assert!(left != "0" && left != "300", "{left} rows are left");
    // What was committed is on record, and nothing goes on by itself under observe.
    assert_eq!(
        node.text("SELECT 300 - rows_done FROM custodian.runs WHERE relation = 'log'::regclass AND rows_done > 0")?,
        left
    );
    // Called again, it goes on; the setting is still observe.
    node.exec("ALTER TABLE log DISABLE TRIGGER slowly")?;
    caller.batch_execute("CALL custodian.sweep()")?;
    assert_eq!(node.text(LEFT)?, "0|0");
    assert_eq!(node.text("SHOW custodian.disposal")?, "observe");
    assert_eq!(
        node.text("SELECT relation, rows_done FROM custodian.runs WHERE state = 'done' ORDER BY relation_name")?,
        "log|300\nother|10"
    );
    // The scheduler forgets in its next round what it only counted.
    wait_for_answer(
        &node,
        "SELECT count(*) FROM custodian.runs WHERE state <> 'done'",
        "0",
    );

    // What lies below the table is swept with it, where it has a tag of its own, and also where the table has none.
    caller.batch_execute(DAYS)?;
    caller.batch_execute(
        "CREATE TABLE own (LIKE log); ALTER TABLE own INHERIT log;
         SELECT custodian.tag_table('own', clock => 'at', on_expiry => 'delete'),
                custodian.tag_column('own', 'body', 'user.behavior', '{test.log}');
         INSERT INTO own VALUES (1, 'x', '2000-01-01')",
    )?;
    for table in ["days", "log"] {
        caller.batch_execute(&format!("CALL custodian.sweep('{table}')"))?;
        assert_eq!(node.text(&format!("SELECT count(*) FROM {table}"))?, "0");
    }

    // It is as patient as any sweep: a lock that is gone in a moment does not stop it. On a machine that is busy the moment may
    // be too long, though hardly each time.
    let mut locker = node.client()?;
    locker.batch_execute("INSERT INTO other VALUES (1, 'x', '2000-01-01')")?;
    for left in (0..3).rev() {
        locker.batch_execute("BEGIN; LOCK TABLE other")?;
        let called = std::thread::spawn(move || {
            let ended = caller.batch_execute("CALL custodian.sweep('other')");
            (caller, ended)
        });
        locker.batch_execute(LET_GO)?;
        let (back, ended) = called.join().expect("the thread of the call");
        if ended.is_ok() {
            break;
        }
        assert!(left > 0, "{ended:?}");
        caller = back;
    }
    assert_eq!(node.text(LEFT)?, "0|0");

    // What it waited for there has another column since: it plans again, and nothing has failed.
    let mut caller = node.client()?;
    locker.batch_execute("INSERT INTO other VALUES (1, 'x', '2000-01-01')")?;
    locker.batch_execute("BEGIN; ALTER TABLE other RENAME at TO happened")?;
    let called = std::thread::spawn(move || caller.batch_execute("CALL custodian.sweep('other')"));
    locker.batch_execute(LET_GO)?;
    let ended = called.join().expect("the thread of the call");
    assert!(ended.is_ok(), "{ended:?}");
    assert_eq!(node.text(LEFT)?, "0|0");
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.runs WHERE state = 'failed'")?,
        "0"
    );
    Ok(())
}

#[test]
fn it_is_refused_where_it_cannot_commit_or_may_not_dispose() -> Result<()> {
    let node = slow("refused")?;
    node.alter_system("custodian.max_disposal_fraction", "0.5")?;
    let mut client = node.client()?;
    for statement in [
        "BEGIN; CALL custodian.sweep()",
        "DO $$ BEGIN BEGIN CALL custodian.sweep(); EXCEPTION WHEN division_by_zero THEN END; END $$",
    ] {
        assert_eq!(client.refused(statement).sqlstate(), "25001", "{statement}");
        client.batch_execute("ROLLBACK")?;
    }
    client.batch_execute("SET ROLE app")?;
    assert_eq!(client.refused("CALL custodian.sweep()").sqlstate(), "42501");
    client.batch_execute("RESET ROLE")?;
    client.batch_execute("CREATE TABLE untagged (id int)")?;
    assert_eq!(
        client
            .refused("CALL custodian.sweep('untagged')")
            .sqlstate(),
        "42704"
    );
    // The worker goes over whole tables.
    client
        .batch_execute("CREATE TABLE log_of_may (LIKE log); ALTER TABLE log_of_may INHERIT log")?;
    let part = client.refused("CALL custodian.sweep('log_of_may')");
    assert_eq!(part.sqlstate(), "42809");
    assert!(
        part.to_string().contains("is a part of public.log"),
        "{part}"
    );
    client.batch_execute("DROP TABLE log_of_may")?;
    client.batch_execute(DAYS)?;
    client.batch_execute("SELECT custodian.pause('an incident', 'log')")?;
    assert_eq!(
        client.refused("CALL custodian.sweep('log')").sqlstate(),
        "55000"
    );
    client.batch_execute("SELECT custodian.resume('over', 'log')")?;

    // The fuse: it waits for an approval, and then goes.
    assert_eq!(
        client.refused("CALL custodian.sweep('other')").sqlstate(),
        "55000"
    );
    client.batch_execute("CALL custodian.sweep()")?;
    assert_eq!(node.text(LEFT)?, "300|10");
    assert_eq!(
        node.text(
            "SELECT relation, state FROM custodian.runs WHERE state <> 'observed' ORDER BY relation_name"
        )?,
        "day|waiting\nlog|waiting\nother|waiting"
    );
    client.batch_execute(
        "SELECT custodian.approve_run(run_id, 'expected') FROM custodian.runs
         WHERE relation IN ('other'::regclass, 'day') AND state = 'waiting'",
    )?;
    // That of a table with a tag of its own is executed also where the one above it was asked for.
    client.batch_execute("SELECT custodian.sweep_now('days')")?;
    assert_eq!(node.text("SELECT count(*) FROM days")?, "0");
    client.batch_execute("CALL custodian.sweep('other')")?;
    assert_eq!(node.text(LEFT)?, "300|0");

    // Of several tables below the one that was asked for, those go that may.
    client.batch_execute(
        "CREATE TABLE next_day PARTITION OF days FOR VALUES FROM ('2000-01-02') TO ('2000-01-03');
         SELECT custodian.tag_table('next_day', clock => 'at', on_expiry => 'delete'),
                custodian.tag_column('next_day', 'body', 'user.behavior', '{test.log}')",
    )?;
    node.alter_system("custodian.max_disposal_fraction", "1")?;
    wait_for_answer(&node, "SHOW custodian.max_disposal_fraction", "1");
    const DAYS_LEFT: &str = "SELECT (SELECT count(*) FROM day), (SELECT count(*) FROM next_day)";
    const REFILL: &str =
        "INSERT INTO days VALUES ('2000-01-01 10:00', 'x'), ('2000-01-02 10:00', 'x')";
    for paused in ["day", "next_day"] {
        client.batch_execute(&format!(
            "TRUNCATE days; {REFILL}; SELECT custodian.pause('an incident', '{paused}')"
        ))?;
        client.batch_execute("CALL custodian.sweep('days')")?;
        let left = ["1|0", "0|1"][usize::from(paused != "day")];
        assert_eq!(node.text(DAYS_LEFT)?, left, "{paused}");
        client.batch_execute(&format!("SELECT custodian.resume('over', '{paused}')"))?;
    }
    for (way, tagged, left) in [
        ("CALL custodian.sweep('days')", "day", Some("1|0")),
        ("SELECT custodian.sweep_now('days')", "day", Some("1|0")),
        ("CALL custodian.sweep('day')", "day", None),
        ("SELECT custodian.sweep_now('day')", "day", None),
        ("SELECT custodian.sweep_now('days')", "next_day", None),
    ] {
        client.batch_execute(&format!(
            "TRUNCATE days; {REFILL};
             SELECT custodian.tag_table('{tagged}', clock => 'at', on_expiry => 'delete', disposal => 'observe')"
        ))?;
        match left {
            Some(left) => {
                client.batch_execute(way)?;
                assert_eq!(node.text(DAYS_LEFT)?, left, "{way}");
            }
            // It was asked for by itself, or nothing else is there.
            None => {
                let refused = client.refused(way).to_string();
                assert!(
                    refused.contains("disposal is switched off for"),
                    "{way}: {refused}"
                );
                assert_eq!(node.text(DAYS_LEFT)?, "1|1", "{way}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_table_that_cannot_be_counted_keeps_no_other_from_going() -> Result<()> {
    let node = slow("uncounted")?;
    // The owner of the table may not see what refers to its rows.
    node.exec(
        "ALTER TABLE log DISABLE TRIGGER slowly;
         CREATE TABLE a_closed (id bigint PRIMARY KEY, body text, at timestamptz NOT NULL);
         INSERT INTO a_closed VALUES (1, 'x', now() - interval '1 year');
         ALTER TABLE a_closed OWNER TO app;
         CREATE TABLE a_reference (closed bigint REFERENCES a_closed);
         SELECT custodian.tag_table('a_closed', clock => 'at', on_expiry => 'delete'),
                custodian.tag_column('a_closed', 'body', 'user.behavior', '{test.log}')",
    )?;
    let mut client = node.client()?;
    client.batch_execute("CALL custodian.sweep()")?;
    assert_eq!(node.text(LEFT)?, "0|0");
    assert_eq!(node.text("SELECT count(*) FROM a_closed")?, "1");
    assert_eq!(
        node.text("SELECT DISTINCT sqlstate FROM custodian.runs WHERE relation = 'a_closed'::regclass AND state = 'failed'")?,
        "42501"
    );
    let log = node.log();
    let warning = "WARNING:  what is due in public.a_closed could not be counted\n";
    let at = log.find(warning).expect("a warning that names the table");
    let detail: String = log[at + warning.len()..].lines().take(1).collect();
    assert!(detail.ends_with("DETAIL:  SQLSTATE 42501."), "{detail}");

    // Asked for alone, it is an error.
    let alone = client.refused("CALL custodian.sweep('a_closed')");
    assert_eq!(alone.sqlstate(), "55000");
    node.exec("GRANT SELECT ON a_reference TO app")?;
    client.batch_execute("CALL custodian.sweep('a_closed')")?;
    assert_eq!(node.text("SELECT count(*) FROM a_closed")?, "0");
    Ok(())
}
