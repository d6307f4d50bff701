//! The region guard without a network between regions: certificates, the rules file, and attempts to get past.

use integration::{Certs, Cluster, Output, Result, Sql, wait_until};

const CANARY: &str = "canary-4711@example.com";

/// A node in region cn that knows peers by their certificates, all over loopback.
const CERTIFICATES: &str = r#"
region cn
region eu
issuer "/O=cn/CN=cn authority" cn
issuer "/O=eu/CN=eu authority" eu
subject "/O=eu/CN=spy" cn
local postgres
"#;

fn set_rules(node: &Cluster, text: &str) -> Result<()> {
    node.write_file("custodian_regions.conf", text)?;
    node.reload()
}

fn tagged_table(node: &Cluster) -> Result<()> {
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(&format!(
        "CREATE TABLE customer (id int PRIMARY KEY, email text, plan text);
         INSERT INTO customer SELECT i, '{CANARY}', 'basic' FROM generate_series(1, 100) i;
         GRANT SELECT ON customer TO PUBLIC"
    ))?;
    node.exec(
        r#"SECURITY LABEL FOR custodian ON COLUMN customer.email IS
             '{"category":"user.contact.email","sensitivity":"personal","purposes":["shop.account"],"residency":["cn"]}';
           SECURITY LABEL FOR custodian ON COLUMN customer.id IS '{"not_personal":true}';
           SECURITY LABEL FOR custodian ON COLUMN customer.plan IS '{"not_personal":true}'"#,
    )
}

fn events(node: &Cluster) -> Result<String> {
    node.text(
        "SELECT gate, outcome, object, reason FROM custodian.guard_events ORDER BY 1, 2, 3, 4",
    )
}

#[track_caller]
fn assert_refused(output: &Output, parts: &[&str]) {
    assert!(!output.success(), "this should have been refused: {output}");
    let all = output.all();
    for part in parts {
        assert!(all.contains(part), "{part:?} is not in: {all}");
    }
    assert!(!all.contains("canary"), "tagged data got out: {all}");
}

const BACKUP: [&str; 6] = ["-D", "-", "-Ft", "-X", "none", "--checkpoint=fast"];

#[test]
fn certificates_over_loopback_are_an_identity() -> Result<()> {
    let certs = Certs::new(&["cn", "eu"])?;
    let node = Cluster::builder("primary")
        .preload("pg_custodian")
        .loopback()
        .tls(&certs, "cn")?
        .hba("hostssl replication all all cert")
        .hba("hostssl all all all cert")
        .conf("custodian.region = 'cn'")
        .start()?;
    set_rules(&node, CERTIFICATES)?;
    tagged_table(&node)?;
    node.exec("CREATE ROLE app LOGIN; CREATE ROLE spy LOGIN; CREATE ROLE repl LOGIN REPLICATION; CREATE ROLE other LOGIN")?;
    node.alter_system("custodian.enforce", "on")?;

    let backup = |region: &str| {
        let cert = certs.client(region, "repl")?;
        node.program("pg_basebackup")?
            .over_tcp()
            .role("repl")
            .cert(&cert)
            .args(BACKUP)
            .run()
    };
    let inside = backup("cn")?;
    assert!(inside.success(), "{}", inside.stderr);
    assert_refused(
        &backup("eu")?,
        &[
            "with certificate \"/O=eu/CN=repl\" is not allowed by the region rules",
            "Line 5 of the region rules (issuer) puts the peer in region \"eu\", but this node is in \"cn\".",
        ],
    );

    let ask = |region: &str, role: &str| {
        let cert = certs.client(region, role)?;
        node.program("psql")?
            .over_tcp()
            .role(role)
            .cert(&cert)
            .args(["-Atc", "SELECT min(email) FROM customer"])
            .run()
    };
    assert_eq!(ask("cn", "app")?.ok()?, CANARY);
    assert_refused(
        &ask("eu", "app")?,
        &["reading \"public.customer\"", "residency cn"],
    );
    // Two statements about one certificate that contradict each other are worth nothing.
    assert_refused(
        &ask("eu", "spy")?,
        &["Line 6 of the region rules (subject)"],
    );

    // A certificate that does not fit the role ends in the server's own refusal, and the guard stays out of it.
    let cert = certs.client("eu", "app")?;
    let failed = node
        .program("pg_basebackup")?
        .over_tcp()
        .role("repl")
        .cert(&cert)
        .args(BACKUP)
        .run()?;
    assert!(
        failed.stderr.contains("certificate authentication failed"),
        "{failed}"
    );
    assert!(!failed.stderr.contains("region rules"), "{failed}");

    // What is asked beforehand is what happens.
    let asked = "SELECT verdict, line FROM custodian.check_peer(";
    for (argument, expected) in [
        (
            "'127.0.0.1', issuer => '/O=cn/CN=cn authority', role_name => 'app'",
            "inside|4",
        ),
        (
            "'127.0.0.1', issuer => '/O=eu/CN=eu authority', role_name => 'app'",
            "outside|5",
        ),
        (
            "NULL, issuer => '/O=eu/CN=eu authority', subject => '/O=eu/CN=spy'",
            "unknown|6",
        ),
        ("'127.0.0.1', role_name => 'app'", "unknown|"),
        ("'127.0.0.1', role_name => 'postgres'", "inside|7"),
        ("'192.0.2.7'", "unknown|"),
    ] {
        assert_eq!(
            node.text(&format!("{asked}{argument})"))?,
            expected,
            "{argument}"
        );
    }
    assert_eq!(
        node.text("SELECT region, region_rules_state FROM custodian.status")?,
        "cn|current"
    );

    // A network that contradicts the certificate: loopback has none, so a pooler's address serves.
    set_rules(&node, &format!("{CERTIFICATES}network 192.0.2.0/24 eu\n"))?;
    let argument = "'192.0.2.7', issuer => '/O=cn/CN=cn authority'";
    assert_eq!(node.text(&format!("{asked}{argument})"))?, "unknown|4");
    Ok(())
}

#[test]
fn wrong_rules_keep_the_last_good_ones_also_across_a_restart_and_a_crash() -> Result<()> {
    let node = Cluster::builder("rules")
        .preload("pg_custodian")
        .conf("custodian.region = 'cn'")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    let state = "SELECT region_rules_state FROM custodian.status";
    let verdict = "SELECT verdict FROM custodian.check_peer('10.86.0.1')";
    assert_eq!(node.text(state)?, "missing");
    assert_eq!(node.text(verdict)?, "unknown");

    let good = "region cn\nnetwork 10.86.0.0/16 cn\nlocal postgres\n";
    set_rules(&node, good)?;
    assert_eq!(node.text(state)?, "current");
    assert_eq!(node.text(verdict)?, "inside");
    node.wait_for_log("other region rules are in force", 10);

    let bad = "region cn\nnetwork 10.0.0.0/8 cn\nnetwork 10.86.0.0/16 us\n";
    set_rules(&node, bad)?;
    node.wait_for_log(
        "region rules file has errors: the rules read before stay in force",
        60,
    );
    node.wait_for_log("Line 3: there is no region \"us\"", 60);
    let kept = "errors, last good rules kept";
    assert_eq!(node.text(state)?, kept);
    assert_eq!(node.text(verdict)?, "inside");
    assert_eq!(
        node.text("SELECT line_number, loaded FROM custodian.region_rules")?,
        "1|t\n2|f\n3|f"
    );
    assert_eq!(
        node.text("SELECT severity FROM custodian.check() WHERE code = 'region-rules-errors'")?,
        "error"
    );

    node.restart()?;
    assert_eq!(node.text(state)?, kept);
    assert_eq!(node.text(verdict)?, "inside");

    // A backend that dies makes the postmaster set up shared memory anew.
    set_rules(&node, &format!("{good}network 10.87.0.0/16 cn\n"))?;
    assert_eq!(node.text(state)?, "current");
    let mut victim = node.client()?;
    let pid = victim.text("SELECT pg_backend_pid()")?;
    node.kill_backend(pid.parse().map_err(|_| "no pid")?)?;
    node.wait_for_log("all server processes terminated; reinitializing", 30);
    wait_until("it accepts connections again", 60, || node.client().is_ok());
    assert_eq!(
        node.text("SELECT verdict FROM custodian.check_peer('10.87.0.1')")?,
        "inside"
    );

    // Files that are no rules at all keep nothing from starting.
    for text in ["\0\u{1}\n", "region", &"x ".repeat(100_000)] {
        node.write_file("custodian_regions.conf", text)?;
        node.restart()?;
        assert_eq!(node.text(state)?, kept);
        assert_eq!(node.text(verdict)?, "inside");
    }
    std::fs::remove_file(node.data_dir().join("custodian_regions.conf"))?;
    node.reload()?;
    assert_eq!(node.text(state)?, "missing");
    assert_eq!(node.text(verdict)?, "unknown");
    Ok(())
}

#[test]
fn a_walsender_cannot_blind_the_command_gate() -> Result<()> {
    let node = Cluster::builder("blind")
        .preload("pg_custodian")
        .loopback()
        .conf("wal_level = logical")
        .conf("custodian.region = 'cn'")
        .conf("custodian.enforce_login = warn")
        .conf("custodian.enforce_replication = on")
        .start()?;
    set_rules(&node, "region cn\nregion eu\nlocal repl\n")?;
    tagged_table(&node)?;
    node.exec("ALTER ROLE postgres SET log_replication_commands = off")?;

    let walsender = |options: &str, commands: &[&str]| {
        let mut program = node.program("psql")?.over_tcp();
        program = program.env("PGOPTIONS", options).args(["-X", "-At", "-d"]);
        program = program.arg("dbname=postgres replication=database");
        for command in commands {
            program = program.args(["-c", command]);
        }
        program.run()
    };
    let create = "CREATE_REPLICATION_SLOT s LOGICAL test_decoding";
    let refused = "CREATE_REPLICATION_SLOT of logical slot \"s\" with plugin \"test_decoding\" is not allowed";
    let reason = "Unix sockets and loopback have no region";

    let output = walsender("", &["IDENTIFY_SYSTEM", create, "SELECT 'usable'"])?;
    assert!(
        output.all().contains(refused) && output.all().contains(reason),
        "{output}"
    );
    assert!(output.stdout.contains("usable"), "{output}");
    for setting in [
        "log_replication_commands = off",
        "log_min_messages = panic",
        "log_min_messages = fatal",
    ] {
        let output = walsender("", &[&format!("SET {setting}"), create])?;
        assert!(
            output.all().contains("invalid value for parameter"),
            "{output}"
        );
        assert!(output.all().contains("may not turn them off"), "{output}");
        assert!(output.all().contains(refused), "{output}");
    }
    let output = walsender("-c log_replication_commands=off", &[create])?;
    assert!(output.all().contains("may not turn them off"), "{output}");
    let output = walsender(
        "-c log_min_messages=debug1",
        &["RESET ALL", "DISCARD ALL", create],
    )?;
    assert!(output.all().contains(refused), "{output}");
    // A session that may set what it likes elsewhere does so still.
    node.exec("SET log_replication_commands = off; SET log_min_messages = panic")?;

    // The administrator does not want LOG messages: they stay away, and the gate still sees the commands.
    node.alter_system("log_min_messages", "panic")?;
    node.exec("ALTER ROLE postgres SET log_min_messages = panic")?;
    let before = node.log().len();
    let output = walsender("", &[create])?;
    assert!(output.all().contains(refused), "{output}");
    assert_eq!(&node.log()[before..], "");
    assert_eq!(node.text("SELECT count(*) FROM pg_replication_slots")?, "0");

    // Physical replication likewise; and with rules that vouch for the role, all of it passes.
    let output = node
        .program("pg_basebackup")?
        .over_tcp()
        .args(BACKUP)
        .run()?;
    assert_refused(&output, &["BASE_BACKUP is not allowed by the region rules"]);
    set_rules(&node, "region cn\nlocal postgres\n")?;
    let output = walsender("", &[create])?;
    assert!(
        output.success() && output.stdout.contains("test_decoding"),
        "{output}"
    );
    Ok(())
}

#[test]
fn reads_from_outside_are_refused_by_column() -> Result<()> {
    let node = Cluster::builder("access")
        .preload("pg_custodian")
        .conf("custodian.region = 'cn'")
        .start()?;
    set_rules(&node, "region cn\nlocal postgres\n")?;
    tagged_table(&node)?;
    node.exec(
        r#"CREATE ROLE app LOGIN;
           CREATE VIEW emails AS SELECT email, plan FROM customer;
           CREATE VIEW plans AS SELECT id, plan FROM customer;
           CREATE TABLE visit (id int, ip text) PARTITION BY RANGE (id);
           CREATE TABLE visit_1 PARTITION OF visit FOR VALUES FROM (0) TO (10);
           CREATE TABLE parent (id int); CREATE TABLE child () INHERITS (parent);
           CREATE TABLE empty (); CREATE SEQUENCE numbers; CREATE TABLE unreviewed (a int);
           INSERT INTO visit VALUES (1, '192.0.2.1'); INSERT INTO child VALUES (1);
           CREATE FUNCTION peek() RETURNS text SECURITY DEFINER LANGUAGE sql AS 'SELECT min(email) FROM public.customer';
           GRANT ALL ON ALL TABLES IN SCHEMA public TO app; GRANT SELECT ON SEQUENCE numbers TO app;
           SECURITY LABEL FOR custodian ON COLUMN visit.id IS '{"not_personal":true}';
           SECURITY LABEL FOR custodian ON COLUMN visit.ip IS
             '{"category":"user.device.ip_address","sensitivity":"personal","purposes":["shop.log"],"residency":["cn"]}';
           SECURITY LABEL FOR custodian ON COLUMN visit_1.ip IS '{"not_personal":true}';
           SECURITY LABEL FOR custodian ON COLUMN parent.id IS '{"not_personal":true}';
           ANALYZE customer"#,
    )?;
    node.alter_system("custodian.enforce_access", "on")?;

    let mut app = node.client_as("app", "postgres")?;
    for allowed in [
        "SELECT id, plan FROM customer LIMIT 1",
        "SELECT * FROM plans LIMIT 1",
        "SELECT ctid, id FROM customer LIMIT 1",
        "SELECT id FROM visit",
        "SELECT id FROM parent",
        "INSERT INTO customer VALUES (-1, 'x', 'y')",
        "SELECT id FROM customer WHERE id = 1 FOR UPDATE",
        "UPDATE parent SET id = 1",
        "SELECT * FROM empty",
        "SELECT last_value FROM numbers",
        "SELECT count(*) FROM pg_class",
        "SELECT count(*) FROM information_schema.columns",
        "SELECT count(*) FROM custodian.purposes",
        "SELECT count(*) FROM custodian.tags",
        "SELECT enforce_access FROM custodian.status",
    ] {
        app.batch_execute(allowed)
            .map_err(|e| format!("{allowed}: {e}"))?;
    }
    let copied = node.psql_as("app", "postgres", "COPY customer (id, plan) TO STDOUT")?;
    assert_eq!(copied.ok()?.lines().count(), 101);
    for refused in [
        "SELECT email FROM customer",
        "SELECT * FROM customer",
        "SELECT customer FROM customer",
        "SELECT count(*) FROM customer",
        "SELECT ctid FROM customer",
        "SELECT 1 FROM customer WHERE email LIKE 'a%'",
        "SELECT id FROM customer ORDER BY email",
        "TABLE emails",
        "SELECT plan FROM emails WHERE email > ''",
        "SELECT peek()",
        "COPY customer TO STDOUT",
        "COPY (SELECT email FROM customer) TO STDOUT",
        "CREATE TEMP TABLE mine AS SELECT email FROM customer",
        "UPDATE customer SET plan = email",
        "UPDATE customer SET id = NULL",
        "UPDATE plans SET plan = NULL",
        "DELETE FROM customer WHERE id = -1",
        "DELETE FROM customer",
        "INSERT INTO customer VALUES (1) ON CONFLICT (id) DO UPDATE SET id = NULL",
        "MERGE INTO customer USING (SELECT 1) s ON id = 1 WHEN MATCHED THEN DELETE",
        "DELETE FROM customer RETURNING *",
        "INSERT INTO customer VALUES (-2) RETURNING email",
        "DECLARE c CURSOR WITH HOLD FOR SELECT email FROM customer",
        "PREPARE p AS SELECT email FROM customer; EXECUTE p",
        "SELECT ip FROM visit",
        "SELECT ip FROM visit_1",
        "SELECT a FROM unreviewed",
        "SELECT count(*) FROM pg_stats",
        "SELECT count(*) FROM pg_stats_ext",
        "SELECT count(*) FROM pg_stats_ext_exprs",
    ] {
        let error = app.refused(refused);
        assert_eq!(error.sqlstate(), "42501", "{refused}: {error}");
        let text = error.to_string();
        assert!(
            text.contains("from unix socket is not allowed"),
            "{refused}: {text}"
        );
        assert!(!text.contains("canary"), "{text}");
        app.batch_execute("ROLLBACK")?;
    }

    // A child that is tagged later counts through its parent at once, in the same session.
    app.batch_execute("SELECT id FROM parent")?;
    node.exec(
        r#"SECURITY LABEL FOR custodian ON COLUMN child.id IS
             '{"category":"user.unique_id","sensitivity":"personal","purposes":["shop.log"],"residency":["cn"]}'"#,
    )?;
    app.refused("SELECT id FROM parent");
    app.batch_execute("SELECT id FROM ONLY parent").unwrap_err();
    // What a steward clears can be read, at once.
    node.exec(r#"SECURITY LABEL FOR custodian ON COLUMN unreviewed.a IS '{"not_personal":true}'"#)?;
    app.batch_execute("SELECT a FROM unreviewed")?;

    // The session is judged anew when the rules change.
    set_rules(&node, "region cn\nlocal all\n")?;
    wait_until("the session has seen the reload", 60, || {
        app.text("SELECT count(email) FROM customer")
            .is_ok_and(|n| n == "101")
    });
    set_rules(&node, "region cn\nlocal postgres\n")?;
    wait_until("the session has seen the reload", 60, || {
        app.text("SELECT count(email) FROM customer").is_err()
    });
    // The table of secrets is closed to a superuser from outside, too; the functions that use it are not.
    node.exec("CREATE ROLE boss SUPERUSER LOGIN")?;
    let mut boss = node.client_as("boss", "postgres")?;
    for table in [
        "custodian.secret",
        "custodian.hold",
        "pg_largeobject",
        "pg_statistic",
        "pg_toast.pg_toast_2619",
    ] {
        assert_eq!(boss.refused(&format!("TABLE {table}")).sqlstate(), "42501");
    }
    boss.batch_execute("SELECT custodian.ledger_head()")?;
    // A foreign key asks a table of its own: refused while its key is unreviewed, and an answer once it is cleared.
    node.exec(
        "CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1);
         CREATE TABLE line (item int REFERENCES item); GRANT ALL ON line TO app",
    )?;
    assert_eq!(
        app.refused("INSERT INTO line VALUES (1)").sqlstate(),
        "42501"
    );
    node.exec(r#"SECURITY LABEL FOR custodian ON COLUMN item.id IS '{"not_personal":true}'"#)?;
    app.batch_execute("INSERT INTO line VALUES (1)")?;

    // In warn a read is recorded once, and again when the tags have changed.
    node.alter_system("custodian.enforce_access", "warn")?;
    let warned = "SELECT coalesce(sum(count), 0) FROM custodian.guard_events WHERE outcome = 'warned' AND gate = 'access'";
    let before: i64 = node.text(warned)?.parse().map_err(|_| "no number")?;
    let more = |n: i64| -> Result<()> {
        assert_eq!(node.text(warned)?, (before + n).to_string());
        Ok(())
    };
    let mut app = node.client_as("app", "postgres")?;
    app.batch_execute("SELECT email FROM customer LIMIT 1")?;
    app.batch_execute("SELECT email FROM customer LIMIT 1")?;
    more(1)?;
    node.exec("SECURITY LABEL FOR custodian ON COLUMN customer.plan IS NULL")?;
    app.batch_execute("SELECT email FROM customer LIMIT 1")?;
    more(2)?;

    let events = events(&node)?;
    assert!(
        events.contains("access|refused|public.customer|"),
        "{events}"
    );
    assert!(!events.contains("canary"), "{events}");
    Ok(())
}

#[test]
fn publications_and_subscriptions_are_refused() -> Result<()> {
    let node = Cluster::builder("ddl")
        .preload("pg_custodian")
        .conf("custodian.region = 'cn'")
        .start()?;
    set_rules(
        &node,
        "region cn\nregion eu\nnetwork 10.86.0.0/16 cn\nnetwork 10.33.0.0/16 eu\nlocal postgres\n",
    )?;
    tagged_table(&node)?;
    node.alter_system("custodian.enforce_ddl", "on")?;
    let mut client = node.client()?;
    let error = client.refused("CREATE PUBLICATION p FOR TABLE customer");
    assert_eq!(error.sqlstate(), "42501");
    assert!(
        error
            .to_string()
            .contains("customer.email (user.contact.email, residency cn)"),
        "{error}"
    );
    for refused in [
        "CREATE PUBLICATION p FOR ALL TABLES",
        "CREATE PUBLICATION p FOR TABLES IN SCHEMA public",
        "CREATE SUBSCRIPTION s CONNECTION 'host=10.33.0.1' PUBLICATION p WITH (connect = false)",
        "CREATE SUBSCRIPTION s CONNECTION 'host=10.86.0.1,10.33.0.1' PUBLICATION p WITH (connect = false)",
        "CREATE SUBSCRIPTION s CONNECTION 'host=db.example' PUBLICATION p WITH (connect = false)",
    ] {
        assert_eq!(client.refused(refused).sqlstate(), "42501", "{refused}");
    }
    client.batch_execute("CREATE PUBLICATION p FOR TABLE customer (id, plan)")?;
    assert_eq!(
        client
            .refused("ALTER PUBLICATION p SET TABLE customer")
            .sqlstate(),
        "42501"
    );
    client.batch_execute(
        "SELECT custodian.permit_publication('p', ARRAY['cn'], 'replicas in the region')",
    )?;
    client.batch_execute("ALTER PUBLICATION p SET TABLE customer")?;
    client.batch_execute(
        "CREATE SUBSCRIPTION s CONNECTION 'host=10.86.0.1' PUBLICATION p WITH (connect = false)",
    )?;
    assert_eq!(
        client
            .refused("ALTER SUBSCRIPTION s CONNECTION 'host=10.33.0.1'")
            .sqlstate(),
        "42501"
    );
    let events = events(&node)?;
    assert!(events.contains("ddl|refused|publication p|"), "{events}");
    assert!(events.contains("ddl|refused|subscription s|"), "{events}");
    Ok(())
}

#[test]
fn pgaudit_beside_it_in_either_order() -> Result<()> {
    for order in [["pg_custodian", "pgaudit"], ["pgaudit", "pg_custodian"]] {
        let mut builder = Cluster::builder("audited")
            .loopback()
            .conf("custodian.region = 'cn'")
            .conf("pgaudit.log = 'read, ddl'");
        for library in order {
            builder = builder.preload(library);
        }
        let node = builder.start()?;
        set_rules(&node, "region cn\nlocal postgres\n")?;
        tagged_table(&node)?;
        node.exec("CREATE ROLE app LOGIN")?;
        node.alter_system("custodian.enforce", "on")?;
        node.exec("SELECT count(*) FROM customer")?;
        node.wait_for_log("AUDIT: SESSION", 10);
        let mut app = node.client_as("app", "postgres")?;
        assert_eq!(
            app.refused("SELECT email FROM customer").sqlstate(),
            "42501"
        );
        let mut client = node.client()?;
        assert_eq!(
            client
                .refused("CREATE PUBLICATION p FOR TABLE customer")
                .sqlstate(),
            "42501"
        );
        // The server's errors keep their position.
        let output = node.psql("SELECT * FORM customer")?;
        assert!(output.stderr.contains("LINE 1"), "{output}");
        let backup = node
            .program("pg_basebackup")?
            .over_tcp()
            .role("app")
            .args(BACKUP);
        assert_refused(&backup.run()?, &["is not allowed by the region rules"]);
    }
    Ok(())
}
