//! What the worker disposes of, and when: exactly what was planned, after the fuse, and never twice.

use std::time::Duration;

use integration::{Cluster, Result, Sql};

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

fn wait_for(node: &Cluster, what: &str, query: &str, value: &str) {
    let mut last = String::new();
    let reached = integration::poll(120, || {
        last = node.text(query).unwrap_or_default();
        (last == value).then_some(())
    })
    .is_some();
    assert!(
        reached,
        "{what}: expected {value:?}, is {last:?}; runs:\n{}",
        node.text("SELECT * FROM custodian.runs ORDER BY run_id")
            .unwrap_or_default()
    );
}

#[test]
fn what_is_due_is_observed_then_waits_then_goes_as_planned() -> Result<()> {
    let node = cluster("story", &[])?;
    node.exec(SCHEMA)?;
    let observed = "SELECT relation, rows_planned, rows_done, table_rows FROM custodian.runs WHERE state = 'observed'";
    wait_for(&node, "observed", observed, "shop.customer|800|0|1000");
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
    wait_for(&node, "waiting", waiting, "shop.customer|800|0");
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
    wait_for(&node, "done", done, "done|800|800|postgres|first backlog");
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
    wait_for(
        &node,
        "unasked",
        "SELECT count(*) FROM shop.customer",
        "197",
    );
    wait_for(
        &node,
        "the second run is done",
        "SELECT state, rows_planned, rows_done FROM custodian.runs ORDER BY run_id DESC LIMIT 1",
        "done|3|3",
    );
    // … but not more than the fuse allows in a day.
    node.alter_system("custodian.clock_offset", "20d")?;
    wait_for(
        &node,
        "waiting again",
        "SELECT rows_planned FROM custodian.runs WHERE state = 'waiting'",
        "17",
    );
    assert_eq!(node.text("SELECT count(*) FROM shop.customer")?, "197");
    // The clock is moved back: the run that waits is of no use any more.
    node.alter_system("custodian.clock_offset", "0")?;
    wait_for(
        &node,
        "superseded",
        "SELECT count(*) FROM custodian.runs WHERE state = 'waiting'",
        "0",
    );
    Ok(())
}
