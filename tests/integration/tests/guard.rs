//! The region guard on real nodes: in-region replication works, everything from outside is refused.

use integration::{Certs, Cluster, Net, Output, Result, Sql, needs_net, wait_until};

/// A value of a tagged column. Not a byte of it may reach the outside.
const CANARY: &str = "canary-4711@example.com";

const RULES: &str = "
region cn
region eu
node 10.86.0.1 cn
node 10.86.0.2 cn
network 10.86.0.0/16 cn
network 10.33.0.0/16 eu
local postgres
";

fn set_rules(node: &Cluster, text: &str) -> Result<()> {
    std::fs::write(node.data_dir().join("custodian_regions.conf"), text)?;
    node.reload()
}

/// A primary in region cn with a tagged table and, of it, a publication and a logical slot.
fn primary(net: &Net, enforce: &str, preload: &[&str]) -> Result<Cluster> {
    let mut builder = Cluster::builder("primary")
        .place(net.at("cn-a"))
        .conf("wal_level = logical")
        .conf("log_replication_commands = off");
    for library in preload {
        builder = builder.preload(library);
    }
    let node = builder.start()?;
    set_rules(&node, RULES)?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(&format!(
        "CREATE TABLE customer (id int PRIMARY KEY, email text, plan text);
         INSERT INTO customer SELECT i, '{CANARY}', 'basic' FROM generate_series(1, 100) i;
         CREATE PUBLICATION everything FOR TABLE customer;"
    ))?;
    node.exec(
        r#"SECURITY LABEL FOR custodian ON COLUMN customer.email IS
             '{"category":"user.contact.email","sensitivity":"personal","purposes":["shop.account"],"residency":["cn"]}';
           SECURITY LABEL FOR custodian ON COLUMN customer.plan IS '{"not_personal":true}'"#,
    )?;
    node.text("SELECT pg_create_logical_replication_slot('existing', 'test_decoding')")?;
    node.alter_system("custodian.enforce", enforce)?;
    Ok(node)
}

/// Fails unless the program failed with reason and remedy, and wrote nothing of a tagged column.
#[track_caller]
fn assert_refused(output: &Output, parts: &[&str]) {
    assert!(!output.success(), "this should have been refused: {output}");
    let all = output.all();
    for part in parts {
        assert!(all.contains(part), "{part:?} is not in: {all}");
    }
    assert!(!all.contains("canary"), "tagged data got out: {all}");
}

const LOGIN: [&str; 3] = [
    "replication connection from 10.33.0.1 is not allowed by the region rules",
    "puts the peer in region \"eu\", but this node is in \"cn\"",
    "Connect from inside",
];

fn events(node: &Cluster) -> Result<String> {
    node.text("SELECT gate, outcome, object, region FROM custodian.guard_events ORDER BY 1, 2, 3")
}

#[test]
fn inside_replicates_and_outside_is_refused() -> Result<()> {
    needs_net!();
    let net = Net::new(&["cn-a", "cn-b", "eu"])?;
    let node = primary(&net, "on", &["pg_custodian"])?;

    // A standby inside copies and follows.
    let standby = node.standby("standby").place(net.at("cn-b")).start()?;
    node.exec("INSERT INTO customer (id) VALUES (1000)")?;
    node.wait_for_catchup(&standby, 60)?;
    assert_eq!(standby.text("SELECT count(*) FROM customer")?, "101");

    let eu = net.at("eu");
    let output = node
        .program("pg_basebackup")?
        .from(eu)
        .args(["-D", "-", "-Ft", "-X", "none", "--checkpoint=fast"])
        .run()?;
    assert_refused(&output, &LOGIN);

    for slot in ["existing", "new"] {
        let output = node
            .program("pg_recvlogical")?
            .from(eu)
            .args([
                "-d",
                "postgres",
                "--slot",
                slot,
                "--create-slot",
                "--if-not-exists",
                "--start",
            ])
            .args(["--no-loop", "-f", "-"])
            .run()?;
        assert_refused(&output, &LOGIN);
    }

    // As a whole it stops at the first closed table; of one table, at that table's columns.
    let output = node.program("pg_dump")?.from(eu).run()?;
    assert_refused(&output, &["from 10.33.0.1 is not allowed"]);
    let output = node
        .program("pg_dump")?
        .from(eu)
        .args(["-t", "customer"])
        .run()?;
    assert_refused(
        &output,
        &[
            "reading \"public.customer\" from 10.33.0.1 is not allowed",
            "email (user.contact.email, residency cn)",
            "puts the peer in region \"eu\"",
            "custodian.clear_column()",
        ],
    );
    let copy = "COPY customer (email) TO STDOUT";
    let output = node
        .program("psql")?
        .from(eu)
        .args(["-At", "-c", copy])
        .run()?;
    assert_refused(&output, &["reading \"public.customer\""]);

    // A subscriber outside, which itself has no guard.
    let subscriber = Cluster::builder("subscriber").place(eu).start()?;
    subscriber.exec("CREATE TABLE customer (id int PRIMARY KEY, email text, plan text)")?;
    let create = format!(
        "CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION everything",
        node.conninfo("postgres", "postgres")
    );
    let refused = subscriber.client()?.refused(&create).to_string();
    assert!(refused.contains(LOGIN[0]), "{refused}");

    // A standby outside that already has a copy gets nothing more.
    let away = node.standby("away").place(eu).copy_locally().start()?;
    away.wait_for_log(LOGIN[0], 60);
    away.wait_for_log("HINT:  Connect from inside", 60);

    // A standby inside passes on what it has under the same rules: its own clients are gated too.
    let cascade = standby
        .program("pg_basebackup")?
        .from(eu)
        .args(["-D", "-", "-Ft", "-X", "none"])
        .run()?;
    assert_refused(&cascade, &LOGIN);
    let dump = standby
        .program("pg_dump")?
        .from(eu)
        .args(["-t", "customer"])
        .run()?;
    assert_refused(&dump, &["reading \"public.customer\""]);

    // What a standby refuses is recorded there.
    let there = events(&standby)?;
    assert!(
        there.contains("login|refused|physical replication|eu"),
        "{there}"
    );
    let events = events(&node)?;
    for line in [
        "access|refused|public.customer|eu",
        "login|refused|logical replication|eu",
        "login|refused|physical replication|eu",
    ] {
        assert!(events.contains(line), "{events}");
    }
    // The publication was made in `warn`.
    let warned = events.lines().filter(|line| line.contains("|warned|"));
    assert_eq!(
        warned.collect::<Vec<_>>(),
        ["ddl|warned|publication everything|cn"]
    );
    Ok(())
}

#[test]
fn warn_lets_through_and_records_what_on_would_refuse() -> Result<()> {
    needs_net!();
    let net = Net::new(&["cn-a", "eu"])?;
    let node = primary(&net, "warn", &["pg_custodian"])?;
    let eu = net.at("eu");

    let dump = node.program("pg_dump")?.from(eu).run()?;
    assert!(dump.ok()?.contains(CANARY));
    let backup = node
        .program("pg_basebackup")?
        .from(eu)
        .args(["-D", "-", "-Ft", "-X", "none", "--checkpoint=fast"])
        .run()?;
    assert!(backup.success(), "{}", backup.stderr);
    let away = node.standby("away").place(eu).start()?;
    node.wait_for_catchup(&away, 60)?;
    let subscriber = Cluster::builder("subscriber").place(eu).start()?;
    subscriber.exec("CREATE TABLE customer (id int PRIMARY KEY, email text, plan text)")?;
    let mut client = subscriber.client()?;
    client.batch_execute(&format!(
        "CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION everything",
        node.conninfo("postgres", "postgres")
    ))?;
    wait_until("the subscriber has the rows", 60, || {
        subscriber
            .text("SELECT count(*) FROM customer")
            .is_ok_and(|n| n == "100")
    });

    let events = events(&node)?;
    for line in [
        "access|warned|public.customer|eu",
        "login|warned|logical replication|eu",
        "login|warned|physical replication|eu",
        "replication|warned|BASE_BACKUP|eu",
        "replication|warned|START_REPLICATION|eu",
        "replication|warned|CREATE_REPLICATION_SLOT of logical slot \"s\" with plugin \"pgoutput\"|eu",
        "replication|warned|START_REPLICATION of logical slot \"s\"|eu",
    ] {
        assert!(events.contains(line), "{line} is not in: {events}");
    }
    assert!(!events.contains("refused"), "{events}");
    node.wait_for_log(
        "custodian.enforce = on would refuse this: replication connection",
        10,
    );
    // Announcements are in the log with what is said about them, and only those.
    let log = node.log();
    assert!(log.contains("received replication command: BASE_BACKUP"));
    assert!(!log.contains("received replication command: IDENTIFY_SYSTEM"));
    client.batch_execute("DROP SUBSCRIPTION s")?;
    Ok(())
}

#[test]
fn holds_are_kept_from_outside_too_and_other_rows_can_be_deleted() -> Result<()> {
    let node = Cluster::builder("held")
        .preload("pg_custodian")
        .conf("custodian.region = 'cn'")
        .start()?;
    set_rules(&node, "region cn\nlocal postgres\n")?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(
        r#"CREATE ROLE app LOGIN; CREATE ROLE counsel;
           CREATE TABLE customer (id int PRIMARY KEY, plan text);
           INSERT INTO customer SELECT i, 'basic' FROM generate_series(1, 10) i;
           GRANT ALL ON customer TO app;
           SECURITY LABEL FOR custodian ON COLUMN customer.id IS '{"not_personal":true}';
           SECURITY LABEL FOR custodian ON COLUMN customer.plan IS '{"not_personal":true}'"#,
    )?;
    node.exec(
        "SELECT custodian.place_hold('M-1', 'counsel', (now() + interval '1 year')::date, 'a lawsuit',
                                     rel => 'customer', match => '{\"id\":[7]}')",
    )?;
    node.alter_system("custodian.enforce", "on")?;
    let mut app = node.client_as("app", "postgres")?;
    assert_eq!(
        app.refused("DELETE FROM customer WHERE id = 7").sqlstate(),
        "23001"
    );
    app.batch_execute("DELETE FROM customer WHERE id = 8")?;
    assert_eq!(app.text("SELECT count(id) FROM customer")?, "9");
    Ok(())
}

#[test]
fn a_certificate_of_the_region_does_not_help_from_outside_it() -> Result<()> {
    needs_net!();
    let net = Net::new(&["cn-a", "cn-b", "eu"])?;
    let certs = Certs::new(&["cn", "eu"])?;
    let node = Cluster::builder("primary")
        .preload("pg_custodian")
        .place(net.at("cn-a"))
        .tls(&certs, "cn")?
        .start()?;
    let issuers = "issuer \"/O=cn/CN=cn authority\" cn\nissuer \"/O=eu/CN=eu authority\" eu\n";
    set_rules(&node, &format!("{RULES}{issuers}"))?;
    node.alter_system("custodian.enforce", "on")?;
    let backup = |place: &str, region: &str| {
        node.program("pg_basebackup")?
            .from(net.at(place))
            .cert(&certs.client(region, "postgres")?)
            .args(["-D", "-", "-Ft", "-X", "none", "--checkpoint=fast"])
            .run()
    };
    let inside = backup("cn-b", "cn")?;
    assert!(inside.success(), "{}", inside.stderr);
    assert_refused(
        &backup("eu", "cn")?,
        &[
            "Line 9 of the region rules (issuer) puts the peer in \"cn\", line 7 (network) in \"eu\".",
            "Connect from the region that the certificate is for",
        ],
    );
    assert_refused(
        &backup("cn-b", "eu")?,
        &["puts the peer in \"eu\", line 6 (network) in \"cn\"."],
    );
    assert_refused(&backup("eu", "eu")?, &["puts the peer in region \"eu\""]);
    Ok(())
}
