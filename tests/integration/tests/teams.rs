//! Several workers on one table: they share it without doing anything twice, whatever becomes of one of them.

use integration::{Cluster, Result, poll, wait_for_answer};

/// A table of 6,000 blocks with a row each, every second of which is due. A trigger notes which process deleted which
/// row, and takes its time, so that nobody is through before the others have come.
fn table(name: &str, millis: u32) -> String {
    format!(
        "CREATE TABLE {name} (id bigint PRIMARY KEY, email text, pad text, seen timestamptz NOT NULL) WITH (fillfactor = 10);
         INSERT INTO {name} SELECT n, n || '@example.com', repeat('x', 900),
             now() - CASE WHEN n % 2 = 0 THEN interval '100 days' ELSE interval '1 day' END
         FROM generate_series(1, 6000) n;
         CREATE TABLE {name}_gone (id bigint, pid int);
         CREATE FUNCTION {name}_note() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM pg_catalog.pg_sleep({millis} / 1000.0);
             INSERT INTO public.{name}_gone VALUES (OLD.id, pg_catalog.pg_backend_pid());
             RETURN NULL;
         END $$;
         CREATE TRIGGER note AFTER DELETE ON {name} FOR EACH ROW EXECUTE FUNCTION {name}_note();
         SELECT custodian.tag_table('{name}', clock => 'seen', on_expiry => 'delete');
         SELECT custodian.tag_column('{name}', 'email', 'user.contact.email', '{{test.account}}')"
    )
}

const HELPERS: &str = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_custodian sweep helper' ORDER BY pid LIMIT 1";

/// The process of a helper, once one has deleted rows of the table.
fn helper_at_work(node: &Cluster, table: &str) -> Result<String> {
    let pid = poll(120, || {
        let pid = node.text(HELPERS).ok()?;
        let rows = node.text(&format!(
            "SELECT count(*) > 0 FROM {table}_gone WHERE pid::text = '{pid}'"
        ));
        (!pid.is_empty() && rows.ok()? == "t").then_some(pid)
    });
    pid.ok_or_else(|| "no helper disposed of anything".into())
}

/// Every due row went, each once, and the runs of the table counted just those.
fn all_went_once(node: &Cluster, table: &str) -> Result<()> {
    assert_eq!(
        node.text(&format!(
            "SELECT (SELECT count(*) FROM {table}), (SELECT count(*) FROM {table} WHERE id % 2 = 0),
                    (SELECT count(*) FROM {table}_gone), (SELECT count(DISTINCT id) FROM {table}_gone),
                    (SELECT sum(rows_done) FROM custodian.runs WHERE relation = '{table}'::regclass)"
        ))?,
        "3000|0|3000|3000|3000"
    );
    Ok(())
}

fn done(table: &str) -> String {
    format!(
        "SELECT state FROM custodian.runs WHERE relation = '{table}'::regclass ORDER BY run_id DESC LIMIT 1"
    )
}

#[test]
fn workers_share_a_table_and_nothing_goes_twice_whoever_is_lost() -> Result<()> {
    let node = Cluster::builder("teams")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.batch_target = 20ms")
        .conf("custodian.max_disposal_fraction = 0.6")
        .conf("custodian.max_sweep_workers_per_table = 3")
        .conf("custodian.disposal = on")
        .conf("max_worker_processes = 16")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec("SELECT custodian.define_purpose('test.account', 'contract', '50 days')")?;

    // All of them together stay below the rate of WAL that is for the table.
    node.alter_system("custodian.max_wal_rate", "100kB")?;
    node.exec(&table("shared", 1))?;
    wait_for_answer(&node, &done("shared"), "done");
    all_went_once(&node, "shared")?;
    assert_eq!(
        node.text(
            "SELECT finished_at - started_at >= make_interval(secs => wal_bytes / 102400.0 * 0.7) FROM custodian.runs"
        )?,
        "t"
    );
    node.alter_system("custodian.max_wal_rate", "0")?;
    let pids = node.text("SELECT count(DISTINCT pid) FROM shared_gone")?;
    assert!(pids == "2" || pids == "3", "{pids} processes deleted");

    // What a helper had taken when it was ended goes all the same, in the same run.
    node.exec(&table("ended", 4))?;
    let helper = helper_at_work(&node, "ended")?;
    node.exec(&format!("SELECT pg_terminate_backend({helper})"))?;
    wait_for_answer(&node, &done("ended"), "done");
    all_went_once(&node, "ended")?;
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.runs WHERE relation = 'ended'::regclass")?,
        "1"
    );

    // The server restarts, and the run goes on where it was.
    node.exec(&table("killed", 4))?;
    let helper = helper_at_work(&node, "killed")?;
    node.kill_backend(helper.parse().map_err(|_| "no process id")?)?;
    wait_for_answer(&node, &done("killed"), "done");
    all_went_once(&node, "killed")?;

    // All workers together may dispose of no more than the run was let through with: 0.6 of the table.
    node.exec(&table("tripped", 4))?;
    helper_at_work(&node, "tripped")?;
    node.exec("UPDATE tripped SET seen = now() - interval '100 days' WHERE id % 2 = 1")?;
    wait_for_answer(
        &node,
        "SELECT state, reason FROM custodian.runs WHERE relation = 'tripped'::regclass ORDER BY run_id LIMIT 1",
        "superseded|more rows are due than the run may dispose",
    );
    wait_for_answer(&node, &done("tripped"), "waiting");
    assert_eq!(
        node.text(
            "SELECT gone <= 3600, gone = counted, gone = once
             FROM (SELECT count(*) AS gone, count(DISTINCT id) AS once FROM tripped_gone) g,
                  (SELECT sum(rows_done) AS counted FROM custodian.runs WHERE relation = 'tripped'::regclass) r"
        )?,
        "t|t|t"
    );
    Ok(())
}

#[test]
fn what_a_run_says_of_its_way_is_the_leaders_and_helpers_go_the_same() -> Result<()> {
    let node = Cluster::builder("teams-way")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.batch_target = 5ms")
        .conf("custodian.max_disposal_fraction = 0.6")
        .conf("custodian.max_sweep_workers_per_table = 2")
        .conf("custodian.max_wal_rate = '200kB'")
        .conf("custodian.disposal = off")
        .conf("max_worker_processes = 16")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec("SELECT custodian.define_purpose('test.account', 'contract', '50 days')")?;
    // Every block has a row that is due and one that is not; no code is in the way of going to rows.
    node.exec(
        "CREATE TABLE named (id bigint PRIMARY KEY, email text, pad text, seen timestamptz NOT NULL);
         ALTER TABLE named ALTER pad SET STORAGE PLAIN;
         INSERT INTO named SELECT n, n || '@example.com', repeat('x', 3500),
             now() - CASE WHEN n % 2 = 0 THEN interval '100 days' ELSE interval '1 day' END
         FROM generate_series(1, 10000) n;
         CREATE INDEX named_seen ON named (seen);
         ANALYZE named;
         SELECT custodian.tag_table('named', clock => 'seen', on_expiry => 'delete');
         SELECT custodian.tag_column('named', 'email', 'user.contact.email', '{test.account}')",
    )?;
    node.alter_system("custodian.disposal", "on")?;
    // The helper works: it has a batch of its own.
    let at_work = poll(120, || {
        let helper = node.text(HELPERS).ok()?;
        let both = node.text("SELECT state, batches > 4 FROM custodian.runs");
        (!helper.is_empty() && both.ok()? == "running|t").then_some(())
    });
    assert!(at_work.is_some(), "no helper came");
    const WAY: &str = "SELECT way FROM custodian.run_items";
    let way = node.text(WAY)?;
    assert!(
        way.starts_with(
            "Index Places using named_seen on public.named  (rows=5000, blocks=5000 of 5"
        ),
        "{way}"
    );
    node.alter_system("custodian.max_wal_rate", "0")?;
    wait_for_answer(&node, &done("named"), "done");
    assert_eq!(
        node.text("SELECT count(*), count(*) FILTER (WHERE id % 2 = 0) FROM named")?,
        "5000|0"
    );
    assert_eq!(node.text(WAY)?, way);
    assert_eq!(node.text("SELECT rows_done FROM custodian.runs")?, "5000");
    Ok(())
}
