//! What the worker disposes of, and when: exactly what was planned, after the fuse, and never twice.

use std::time::{Duration, Instant};

use integration::{Cluster, Result, Sql, Stop, wait_for_answer, wait_until};

/// Customers last seen 1, 2, 3, … days ago, their owner an ordinary role; after 200 days they go.
const SCHEMA: &str = "
    CREATE EXTENSION pg_custodian;
    CREATE ROLE app NOLOGIN;
    CREATE SCHEMA shop AUTHORIZATION app;
    CREATE TABLE shop.customer (id bigint PRIMARY KEY, email text, phone text, last_seen_at timestamptz NOT NULL);
    ALTER TABLE shop.customer OWNER TO app;
    INSERT INTO shop.customer
        SELECT n, 'u' || n || '@example.com', '+86 ' || n, now() - (n - 0.5) * interval '1 day' FROM generate_series(1, 1000) n;
    SELECT custodian.define_purpose('shop.account', 'contract', '200 days');
    SELECT custodian.tag_table('shop.customer', clock => 'last_seen_at', on_expiry => 'delete');
    SELECT custodian.tag_column('shop.customer', 'email', 'user.contact.email', '{shop.account}');
    SELECT custodian.tag_column('shop.customer', 'phone', 'user.contact.phone_number', '{shop.account}')";

fn cluster(name: &str, conf: &[&str]) -> Result<Cluster> {
    let mut builder = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s");
    for line in conf {
        builder = builder.conf(line);
    }
    builder.start()
}

#[test]
fn what_is_due_is_observed_then_waits_then_goes_as_planned() -> Result<()> {
    let node = cluster("story", &[])?;
    node.exec(SCHEMA)?;
    let observed = "SELECT relation, rows_planned, rows_done, table_rows FROM custodian.runs WHERE state = 'observed'";
    wait_for_answer(&node, observed, "shop.customer|800|0|1000");
    assert_eq!(
        node.text("SELECT leaf, columns, action, reason, planned, done FROM custodian.run_items")?,
        "shop.customer|{email,phone}|delete row|past: shop.account|800|0"
    );
    // Rounds that find the same do not pile up.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(node.text("SELECT count(*) FROM custodian.runs")?, "1");
    assert_eq!(node.text("SELECT count(*) FROM shop.customer")?, "1000");

    node.alter_system("custodian.disposal", "on")?;
    let waiting =
        "SELECT relation, rows_planned, rows_done FROM custodian.runs WHERE state = 'waiting'";
    wait_for_answer(&node, waiting, "shop.customer|800|0");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(node.text("SELECT state FROM custodian.runs")?, "waiting");
    assert_eq!(node.text("SELECT count(*) FROM shop.customer")?, "1000");
    assert_eq!(
        node.log()
            .matches("disposal of shop.customer waits for approval")
            .count(),
        1
    );
    assert_eq!(
        node.text("SELECT code, object FROM custodian.check() WHERE code LIKE 'run-%'")?,
        "run-waiting|shop.customer"
    );

    let mut client = node.client()?;
    assert_eq!(
        client
            .refused("SELECT custodian.approve_run(0, 'none')")
            .sqlstate(),
        "42704"
    );
    assert_eq!(
        client
            .refused("SELECT custodian.approve_run(run_id, ' ') FROM custodian.runs")
            .sqlstate(),
        "22023"
    );
    client.text("SET ROLE app")?;
    assert_eq!(
        client
            .refused("SELECT custodian.approve_run(run_id, 'mine') FROM custodian.runs")
            .sqlstate(),
        "42501"
    );
    client.text("RESET ROLE")?;
    client.text("SELECT custodian.approve_run(run_id, 'first backlog') FROM custodian.runs")?;
    let done =
        "SELECT state, rows_planned, rows_done, approved_by, approval_reason FROM custodian.runs";
    wait_for_answer(&node, done, "done|800|800|postgres|first backlog");
    assert_eq!(
        node.text("SELECT count(*), min(id), max(id) FROM shop.customer")?,
        "200|1|200"
    );
    assert_eq!(
        client
            .refused("SELECT custodian.approve_run(run_id, 'again') FROM custodian.runs")
            .sqlstate(),
        "55000"
    );
    assert_eq!(
        node.text("SELECT kind FROM custodian.ledger WHERE kind LIKE 'run.%' ORDER BY entry")?,
        "run.waiting\nrun.approved\nrun.done"
    );

    // What becomes due afterwards goes unasked: what a person approved does not count for the fuse.
    node.alter_system("custodian.clock_offset", "3d")?;
    wait_for_answer(&node, "SELECT count(*) FROM shop.customer", "197");
    wait_for_answer(
        &node,
        "SELECT state, rows_planned, rows_done FROM custodian.runs ORDER BY run_id DESC LIMIT 1",
        "done|3|3",
    );
    // … but not more than the fuse allows in a day.
    node.alter_system("custodian.clock_offset", "20d")?;
    wait_for_answer(
        &node,
        "SELECT rows_planned FROM custodian.runs WHERE state = 'waiting'",
        "17",
    );
    assert_eq!(node.text("SELECT count(*) FROM shop.customer")?, "197");
    // The clock is moved back: the run that waits is of no use any more.
    node.alter_system("custodian.clock_offset", "0")?;
    wait_for_answer(
        &node,
        "SELECT count(*) FROM custodian.runs WHERE state = 'waiting'",
        "0",
    );
    Ok(())
}

/// A table whose sweep takes many batches: wide rows, and a trigger that makes each batch slow and notes what
/// went, in the same transaction.
const SLOW: &str = "
    CREATE EXTENSION pg_custodian;
    CREATE ROLE app NOLOGIN;
    CREATE SCHEMA shop AUTHORIZATION app;
    SET ROLE app;
    CREATE TABLE shop.log (id bigint PRIMARY KEY, body text, at timestamptz NOT NULL);
    ALTER TABLE shop.log ALTER body SET STORAGE PLAIN;
    CREATE TABLE shop.gone (id bigint);
    CREATE FUNCTION shop.note() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO shop.gone SELECT id FROM old; PERFORM pg_sleep(0.05); RETURN NULL; END';
    CREATE TRIGGER note AFTER DELETE ON shop.log REFERENCING OLD TABLE AS old
        FOR EACH STATEMENT EXECUTE FUNCTION shop.note();
    RESET ROLE;
    INSERT INTO shop.log SELECT n, repeat('x', 3000), now() - interval '1 year' FROM generate_series(1, 300) n;
    INSERT INTO shop.log SELECT n, repeat('x', 3000), now() FROM generate_series(301, 400) n;
    SELECT custodian.define_purpose('shop.log', 'contract', '100 days');
    SELECT custodian.tag_table('shop.log', clock => 'at', on_expiry => 'delete');
    SELECT custodian.tag_column('shop.log', 'body', 'user.behavior', '{shop.log}')";

const SWEEP: &str = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_custodian sweep' AND state = 'active'";

/// Waits until a sweep has done more batches than `before`; gives its process id and the batches.
fn mid_sweep(node: &Cluster, before: i64) -> (i32, i64) {
    let mut found = (0, 0);
    wait_until("a sweep is at work", 120, || {
        let batches = node
            .text("SELECT batches FROM custodian.runs WHERE state = 'running'")
            .unwrap_or_default()
            .parse()
            .unwrap_or(0);
        let pid = node.text(SWEEP).unwrap_or_default().parse().unwrap_or(0);
        found = (pid, batches);
        pid != 0 && batches > before
    });
    found
}

#[test]
fn a_sweep_that_is_interrupted_goes_on_and_nothing_goes_twice() -> Result<()> {
    let node = cluster(
        "interrupted",
        &[
            "custodian.disposal = on",
            "custodian.max_disposal_fraction = 1",
            "custodian.batch_target = 1ms",
        ],
    )?;
    // More of them, so that some are left for each of the interruptions.
    let rows = SLOW.replace("generate_series(1, 300)", "generate_series(-299, 300)");
    node.exec(&rows)?;

    let (pid, batches) = mid_sweep(&node, 0);
    assert_eq!(
        node.text(&format!(
            "SELECT query FROM pg_stat_activity WHERE pid = {pid}"
        ))?,
        format!(
            "pg_custodian run {}: shop.log",
            node.text("SELECT run_id FROM custodian.runs")?
        )
    );
    node.exec(&format!("SELECT pg_terminate_backend({pid})"))?;
    wait_until("the terminated worker has left", 60, || {
        node.text(SWEEP)
            .is_ok_and(|at_work| at_work != pid.to_string())
    });
    let (other, batches) = mid_sweep(&node, batches);
    assert_ne!(pid, other);

    // The sweep outlives its scheduler; the next one waits for it.
    node.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_custodian scheduler'")?;
    let (_, batches) = mid_sweep(&node, batches);

    // A worker that ends while a scheduler begins its first round: neither of the two begins another run.
    let scheduler =
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_custodian scheduler'";
    let mut batches = batches;
    for _ in 0..4 {
        let (worker, _) = mid_sweep(&node, batches);
        let before = node.text(scheduler)?;
        node.exec(&format!("SELECT pg_terminate_backend({before})"))?;
        wait_until("another scheduler is there", 60, || {
            node.text(scheduler)
                .is_ok_and(|pid| !pid.is_empty() && pid != before)
        });
        node.exec(&format!("SELECT pg_terminate_backend({worker})"))?;
        (_, batches) = mid_sweep(&node, batches);
    }

    let start = Instant::now();
    node.stop(Stop::Fast)?;
    assert!(start.elapsed() < Duration::from_secs(15));
    node.start()?;
    let (_, batches) = mid_sweep(&node, batches);
    node.stop(Stop::Immediate)?;
    node.start()?;
    let (pid, batches) = mid_sweep(&node, batches);

    // SAFETY: kills a process that this test's own cluster started.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    wait_until("the server has recovered", 60, || {
        node.log().contains("was terminated by signal 9") && node.text("SELECT 1").is_ok()
    });
    mid_sweep(&node, batches);

    wait_for_answer(
        &node,
        "SELECT state, rows_planned, rows_done FROM custodian.runs",
        "done|600|600",
    );
    assert_eq!(
        node.text("SELECT count(*), count(DISTINCT id), max(id) FROM shop.gone")?,
        "600|600|300"
    );
    assert_eq!(node.text("SELECT count(*) FROM shop.log")?, "100");
    assert_eq!(
        node.text("SELECT planned, done FROM custodian.run_items")?,
        "600|600"
    );
    Ok(())
}

#[test]
fn a_hold_placed_during_a_sweep_is_in_force_when_its_call_returns() -> Result<()> {
    for (name, before) in [
        ("first-hold", ""),
        // The table is guarded already: no trigger has to be made, which would wait for the batch by itself.
        (
            "second-hold",
            "; SELECT custodian.place_hold('2026-civ-0', 'counsel', current_date + 30, 'lawsuit',
                rel => 'shop.log', match => '{\"id\":[\"400\"]}')",
        ),
    ] {
        let node = cluster(
            name,
            &[
                "custodian.disposal = on",
                "custodian.max_disposal_fraction = 1",
                "custodian.batch_target = 1ms",
            ],
        )?;
        node.exec(&format!("CREATE ROLE counsel; {SLOW}{before}"))?;
        mid_sweep(&node, 0);
        node.exec(
            "SELECT custodian.place_hold('2026-civ-1', 'counsel', current_date + 30, 'lawsuit', rel => 'shop.log')",
        )?;
        let left = node.text("SELECT count(*) FROM shop.log")?;
        let there: i64 = left.parse().expect("a count");
        assert!(there > 100, "{name}: the sweep was through before the hold");
        std::thread::sleep(Duration::from_secs(5));
        assert_eq!(node.text("SELECT count(*) FROM shop.log")?, left, "{name}");
    }
    Ok(())
}

#[test]
fn a_minimum_required_or_raised_during_a_sweep_is_in_force_when_its_call_returns() -> Result<()> {
    for (name, before) in [
        ("required", ""),
        (
            "raised",
            "; SELECT custodian.require_minimum('k.log', 'shop.log', '{body}', '10 days', 'Act A')",
        ),
    ] {
        let node = cluster(
            name,
            &[
                "custodian.disposal = on",
                "custodian.max_disposal_fraction = 1",
                "custodian.batch_target = 1ms",
            ],
        )?;
        node.exec(&format!("{SLOW}{before}"))?;
        mid_sweep(&node, 0);
        node.exec(
            "SELECT custodian.require_minimum('k.log', 'shop.log', '{body}', '10 years', 'Act A')",
        )?;
        let left = node.text("SELECT count(*) FROM shop.log")?;
        let there: i64 = left.parse().expect("a count");
        assert!(
            there > 100,
            "{name}: the sweep was through before the minimum"
        );
        std::thread::sleep(Duration::from_secs(5));
        assert_eq!(node.text("SELECT count(*) FROM shop.log")?, left, "{name}");
        // Users' statements meet it, too.
        let error = node.client()?.refused("DELETE FROM shop.log");
        assert_eq!(error.sqlstate(), "23001", "{name}: {error}");
    }
    Ok(())
}

#[test]
fn rows_that_cannot_go_are_left_and_the_rest_goes() -> Result<()> {
    let node = cluster(
        "obstacles",
        &[
            "custodian.disposal = on",
            "custodian.max_disposal_fraction = 1",
        ],
    )?;
    node.exec(
        "CREATE EXTENSION pg_custodian;
         CREATE TABLE item (id bigint PRIMARY KEY, body text, at timestamptz NOT NULL);
         ALTER TABLE item ALTER body SET STORAGE PLAIN;
         INSERT INTO item SELECT n, repeat('x', 7000), now() - interval '1 year' FROM generate_series(1, 100) n;
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN IF OLD.id IN (17, 63) THEN RAISE EXCEPTION ''no''; END IF; RETURN OLD; END';
         CREATE TRIGGER refuse BEFORE DELETE ON item FOR EACH ROW EXECUTE FUNCTION refuse();
         SELECT custodian.define_purpose('test.item', 'contract', '100 days');
         SELECT custodian.tag_table('item', clock => 'at', on_expiry => 'delete');
         SELECT custodian.tag_column('item', 'body', 'user.behavior', '{test.item}')",
    )?;
    wait_for_answer(
        &node,
        "SELECT string_agg(id::text, ',' ORDER BY id) FROM item",
        "17,63",
    );
    wait_for_answer(
        &node,
        "SELECT state, rows_planned, rows_done, obstacles, sqlstate FROM custodian.runs ORDER BY run_id LIMIT 1",
        "failed|100|98|2|P0001",
    );
    // Exporters see it grow.
    wait_for_answer(
        &node,
        "SELECT value >= 1 AND value <= (SELECT count(*) FROM custodian.runs WHERE state = 'failed') FROM custodian.metrics
         WHERE name = 'custodian_runs_total' AND labels = '{\"relation\": \"public.item\", \"state\": \"failed\"}'",
        "t",
    );
    wait_for_answer(
        &node,
        "SELECT leaf, columns, action, sqlstate, count(DISTINCT tid) FROM custodian.quarantined_rows GROUP BY 1, 2, 3, 4",
        "item|{body}|delete row|P0001|2",
    );
    // They hold up nothing that becomes due meanwhile.
    node.exec("INSERT INTO item SELECT n, 'x', now() - interval '1 year' FROM generate_series(101, 110) n")?;
    wait_for_answer(
        &node,
        "SELECT string_agg(id::text, ',' ORDER BY id) FROM item",
        "17,63",
    );
    // It is tried again, and goes once nothing stands in the way.
    node.exec("DROP TRIGGER refuse ON item")?;
    wait_for_answer(&node, "SELECT count(*) FROM item", "0");
    wait_for_answer(
        &node,
        "SELECT count(*) FROM custodian.check() WHERE code IN ('undisposable-rows', 'run-failed')",
        "0",
    );
    Ok(())
}

#[test]
fn a_row_that_stands_in_the_way_is_told_from_its_block_by_constraint_and_never_by_value()
-> Result<()> {
    let node = cluster(
        "isolated",
        &[
            "custodian.disposal = on",
            "custodian.max_disposal_fraction = 1",
        ],
    )?;
    node.exec(
        "CREATE EXTENSION pg_custodian;
         CREATE TABLE item (id bigint PRIMARY KEY, body text, note int, at timestamptz NOT NULL);
         INSERT INTO item SELECT n, 'secret' || n, 0, now() - interval '1 year' FROM generate_series(1, 500) n;
         INSERT INTO item SELECT n, 'secret' || n, 0, now() FROM generate_series(501, 600) n;
         SELECT custodian.define_purpose('test.item', 'contract', '100 days');
         SELECT custodian.tag_table('item', clock => 'at', disposal => 'observe');
         SELECT custodian.tag_column('item', 'body', 'user.behavior', '{test.item}', on_expiry => 'set_null');
         -- It comes after the tag: the cells of two rows cannot be emptied.
         CREATE FUNCTION keeps() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN IF NEW.id IN (17, 400) THEN
                  RAISE ''%'', OLD.body USING ERRCODE = ''check_violation'', TABLE = TG_TABLE_NAME,
                      SCHEMA = TG_TABLE_SCHEMA,
                      CONSTRAINT = CASE NEW.id WHEN 17 THEN ''item_pkey'' ELSE OLD.body END;
              END IF; RETURN NEW; END';
         CREATE TRIGGER keeps BEFORE UPDATE OF body ON item FOR EACH ROW EXECUTE FUNCTION keeps();
         SELECT custodian.tag_table('item', clock => 'at')",
    )?;
    wait_for_answer(
        &node,
        "SELECT string_agg(id::text, ',' ORDER BY id) FROM item WHERE body IS NOT NULL AND id <= 500",
        "17,400",
    );
    // What no catalog has as a name is not kept: it may be anything, here a value.
    wait_for_answer(&node, "SELECT i.id, q.sqlstate, q.relation_name, q.constraint_name FROM custodian.quarantined_rows q
         JOIN item i ON i.ctid = q.tid ORDER BY i.id",
        "17|23514|public.item|item_pkey\n400|23514|public.item|",
    );
    wait_for_answer(
        &node,
        "SELECT min(failures) >= 3 AND min(retry_at - last_tried_at) > interval '2 seconds' FROM custodian.quarantined_rows",
        "t",
    );
    assert_eq!(
        node.text(
            "SELECT DISTINCT object FROM custodian.check() WHERE code = 'undisposable-rows'"
        )?,
        "public.item"
    );
    assert!(!node.log().contains("secret17"));
    // A row that moves meanwhile is found again, although the sweeps have passed it.
    node.exec("DROP TRIGGER keeps ON item; UPDATE item SET note = 1 WHERE id = 400")?;
    node.exec("VACUUM FULL item")?;
    wait_for_answer(&node, "SELECT count(body) FROM item WHERE id <= 500", "0");
    wait_for_answer(
        &node,
        "SELECT count(*) FROM custodian.quarantined_rows",
        "0",
    );
    Ok(())
}

#[test]
fn a_locked_table_is_tried_again_and_does_not_stop_the_others() -> Result<()> {
    let node = cluster(
        "locked",
        &[
            "custodian.disposal = on",
            "custodian.max_disposal_fraction = 1",
        ],
    )?;
    node.exec("CREATE TABLE other (id bigint, email text, at timestamptz)")?;
    node.exec(SCHEMA)?;
    wait_for_answer(&node, "SELECT count(*) FROM shop.customer", "200");
    let mut client = node.client()?;
    client.text("BEGIN; LOCK TABLE shop.customer IN SHARE MODE")?;
    node.alter_system("custodian.clock_offset", "5d")?;
    node.exec(
        "INSERT INTO other SELECT n, 'e', now() - interval '1 year' FROM generate_series(1, 10) n;
         SELECT custodian.tag_table('other', clock => 'at', on_expiry => 'delete');
         SELECT custodian.tag_column('other', 'email', 'user.contact.email', '{shop.account}')",
    )?;
    wait_for_answer(&node, "SELECT count(*) FROM other", "0");
    assert_eq!(node.text("SELECT count(*) FROM shop.customer")?, "200");
    client.text("ROLLBACK")?;
    wait_for_answer(&node, "SELECT count(*) FROM shop.customer", "195");
    Ok(())
}
