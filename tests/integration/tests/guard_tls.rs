//! A tag that demands TLS: what it tags goes over no connection that is not encrypted, from inside the region either.

use integration::{Certs, Cluster, Output, Program, Result, Sql, wait_for_answer, wait_until};

/// A value of the tagged column.
const CANARY: &str = "canary-4711";

const REASON: &str = "A tag demands TLS, and the connection is not encrypted.";

/// A node that takes `postgres` and `app` for its own, on its socket and over loopback.
fn node(certs: &Certs) -> Result<Cluster> {
    let node = Cluster::builder("tls")
        .preload("pg_custodian")
        .loopback()
        .tls(certs, "cn")?
        .conf("wal_level = logical")
        .conf("custodian.region = 'cn'")
        .file(
            "custodian_regions.conf",
            "region cn\nlocal postgres\nlocal app\n",
        )
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian; CREATE ROLE app LOGIN SUPERUSER; CREATE ROLE shop LOGIN",
    )?;
    node.exec(&format!(
        "SELECT custodian.define_purpose('shop.account', 'contract', '1 year');
         CREATE TABLE customer (id int PRIMARY KEY, email text, plan text);
         INSERT INTO customer SELECT i, '{CANARY}', 'basic' FROM generate_series(1, 20) i;
         CREATE TABLE other (email text);
         ALTER TABLE customer OWNER TO shop;
         ANALYZE customer;
         SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{{shop.account}}', residency => '{{cn}}')"
    ))?;
    node.text("SELECT pg_create_logical_replication_slot('existing', 'test_decoding')")?;
    node.alter_system("custodian.enforce", "on")?;
    Ok(node)
}

fn demand(node: &Cluster) -> Result<()> {
    node.exec(
        "SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.account}', residency => '{cn}', tls => true)",
    )
}

fn over(node: &Cluster, program: &str, mode: &str) -> Result<Program> {
    Ok(node.program(program)?.over_tcp().env("PGSSLMODE", mode))
}

fn psql(node: &Cluster, mode: &str, sql: &str) -> Result<Output> {
    over(node, "psql", mode)?
        .args(["-X", "-At", "-v", "VERBOSITY=verbose", "-c", sql])
        .run()
}

#[track_caller]
fn assert_refused(output: &Output) {
    assert!(!output.success(), "this should have been refused: {output}");
    let all = output.all();
    for part in [REASON, "Connect with sslmode=require or stricter."] {
        assert!(all.contains(part), "{part:?} is not in: {all}");
    }
    assert!(!all.contains(CANARY), "tagged data got out: {all}");
}

/// Statements that would show the tagged column.
const READS: [&str; 6] = [
    "SELECT email FROM customer",
    "COPY customer TO STDOUT",
    "DELETE FROM customer RETURNING *",
    "WITH c AS (SELECT * FROM customer) SELECT lower(email) FROM c",
    "SELECT most_common_vals FROM pg_stats WHERE tablename = 'customer' AND attname = 'email'",
    "SELECT data FROM pg_logical_slot_peek_changes('existing', NULL, NULL)",
];

#[test]
fn plaintext_sessions_and_walsenders_do_not_get_what_a_tag_wants_encrypted() -> Result<()> {
    let certs = Certs::new(&["cn"])?;
    let node = node(&certs)?;
    // Nothing demands it yet.
    for read in READS {
        let output = psql(&node, "disable", &format!("BEGIN; {read}; ROLLBACK"))?;
        assert!(output.success(), "{read}: {output}");
    }
    demand(&node)?;
    node.exec(&format!(
        "UPDATE customer SET email = '{CANARY}' WHERE id = 1"
    ))?;

    for read in READS {
        let refused = psql(&node, "disable", read)?;
        assert_refused(&refused);
        assert!(refused.all().contains("ERROR:  42501"), "{refused}");
        let encrypted = psql(&node, "require", &format!("BEGIN; {read}; ROLLBACK"))?;
        assert!(encrypted.ok()?.contains(CANARY), "{read}");
    }
    // Other columns, a view over them, and the socket, are as before.
    assert_eq!(
        psql(&node, "disable", "SELECT count(plan) FROM customer")?.ok()?,
        "20"
    );
    assert_eq!(node.text("SELECT count(email) FROM customer")?, "20");

    let backup = |mode: &str| {
        over(&node, "pg_basebackup", mode)?
            .args(["-D", "-", "-Ft", "-X", "none", "--checkpoint=fast"])
            .run()
    };
    assert_refused(&backup("disable")?);
    let encrypted = backup("require")?;
    assert!(encrypted.success(), "{encrypted}");
    let decoded = over(&node, "pg_recvlogical", "disable")?
        .args([
            "-d",
            "postgres",
            "--slot",
            "existing",
            "--start",
            "--no-loop",
            "-f",
            "-",
        ])
        .run()?;
    assert_refused(&decoded);

    // A copy of it demands the same.
    node.exec("CREATE TABLE copy AS SELECT upper(email) AS e FROM customer")?;
    assert_refused(&psql(&node, "disable", "SELECT e FROM copy")?);

    // The owner may not lift it; a steward may, and then nothing is left of it.
    let lift = "SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.account}', residency => '{cn}', tls => false)";
    let mut shop = node.client_as("shop", "postgres")?;
    assert_eq!(shop.refused(lift).sqlstate(), "42501");
    node.exec("DROP TABLE copy")?;
    node.exec(lift)?;
    assert_eq!(node.text("SELECT count(*) FROM pg_shseclabel")?, "0");
    let backup = backup("disable")?;
    assert!(backup.success(), "{backup}");
    Ok(())
}

#[test]
fn a_plaintext_walsender_that_runs_is_ended_when_a_tag_comes_to_demand_tls() -> Result<()> {
    let certs = Certs::new(&["cn"])?;
    let node = node(&certs)?;
    let receive = |mode: &str, name: &str| {
        let dir = node.dir().join(name);
        std::fs::create_dir(&dir)?;
        integration::host::give(&dir)?;
        over(&node, "pg_receivewal", mode)?
            .env("PGAPPNAME", name)
            .arg("-D")
            .arg(&dir)
            .arg("--no-loop")
            .start()
    };
    let mut plain = receive("disable", "plain")?;
    let _encrypted = receive("require", "encrypted")?;
    let running = |name: &str| {
        node.text(&format!(
            "SELECT count(*) FROM pg_stat_replication WHERE application_name = '{name}'"
        ))
        .is_ok_and(|count| count == "1")
    };
    wait_until("both receive", 60, || {
        running("plain") && running("encrypted")
    });
    demand(&node)?;
    wait_until("the one in the clear has ended", 60, || plain.has_ended());
    assert!(running("encrypted"));
    wait_until("it is on record", 60, || {
        node.text("SELECT DISTINCT reason FROM custodian.guard_events WHERE gate = 'sentinel'")
            .is_ok_and(|reason| reason == REASON)
    });
    Ok(())
}

#[test]
fn a_label_of_a_database_says_only_that() -> Result<()> {
    let certs = Certs::new(&["cn"])?;
    let node = node(&certs)?;
    let mut client = node.client()?;
    let refused = client.refused("SECURITY LABEL FOR custodian ON DATABASE postgres IS '{}'");
    assert_eq!(refused.sqlstate(), "22023");
    client
        .batch_execute(r#"SECURITY LABEL FOR custodian ON DATABASE postgres IS '{"tls":true}'"#)?;
    client.batch_execute("SECURITY LABEL FOR custodian ON DATABASE postgres IS NULL")?;
    Ok(())
}

#[test]
fn a_database_with_a_tag_that_demands_tls_has_its_label_however_it_came_by_the_tag() -> Result<()> {
    let certs = Certs::new(&["cn"])?;
    let node = node(&certs)?;
    demand(&node)?;
    let mut client = node.client()?;
    let refused = client.refused("SECURITY LABEL FOR custodian ON DATABASE postgres IS NULL");
    assert_eq!(refused.sqlstate(), "55000");

    // One takes the last such tag off, while another makes one.
    client.batch_execute(
        "BEGIN; SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.account}', residency => '{cn}', tls => false)",
    )?;
    let mut other = node.client()?;
    let tagging = std::thread::spawn(move || {
        other.batch_execute(
            "SELECT custodian.tag_column('other', 'email', 'user.contact.email', '{shop.account}', residency => '{cn}', tls => true)",
        )
    });
    wait_for_answer(
        &node,
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%''other''%' AND pid <> pg_backend_pid()",
        "1",
    );
    client.batch_execute("COMMIT")?;
    tagging.join().map_err(|_| "tagging panicked")??;
    // Written together, not by the scheduler afterwards.
    assert_eq!(
        node.text(
            "SELECT d.xmin = t.xmin FROM pg_shseclabel d, pg_seclabel t WHERE t.objoid = 'other'::regclass AND t.objsubid = 1"
        )?,
        "t"
    );

    // A copy of a database has its tags.
    let mut source = node.create_database("source")?;
    source.batch_execute(
        "CREATE EXTENSION pg_custodian; CREATE TABLE t (email text);
         SELECT custodian.define_purpose('shop.account', 'contract', '1 year');
         SELECT custodian.tag_column('t', 'email', 'user.contact.email', '{shop.account}', residency => '{cn}', tls => true)",
    )?;
    drop(source);
    let databases = "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_shseclabel JOIN pg_database ON oid = objoid";
    assert_eq!(node.text(databases)?, "postgres source");
    wait_for_answer(
        &node,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'source' AND backend_type = 'client backend'",
        "0",
    );
    node.exec("CREATE DATABASE copy TEMPLATE source")?;
    wait_for_answer(&node, databases, "copy postgres source");
    Ok(())
}
