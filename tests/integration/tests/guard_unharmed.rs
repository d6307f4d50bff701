//! What the region guard must not harm: with all gates on, lawful work inside goes on as without it.

use integration::{
    Certs, Cluster, Error, Net, Output, Place, Program, Result, Sql, Stop, needs_net, not_run,
    wait_until,
};

/// Primary, standby or subscriber, pooler, and client, all inside.
const PLACES: [&str; 4] = ["cn-a", "cn-b", "cn-c", "cn-d"];

const RULES: &str = "
region cn
node 10.86.0.1 cn shop
node 10.86.0.2 cn shop
network 10.86.0.0/16 cn shop
pooler 10.86.0.3/32
issuer \"/O=cn/CN=cn authority\" cn shop
local postgres
local app
extension postgres_fdw
";

const TABLES: &str = "
CREATE ROLE app LOGIN;
CREATE TABLE customer (id int PRIMARY KEY, email text, plan text);
INSERT INTO customer SELECT i, 'mail-' || i, 'basic' FROM generate_series(1, 100) i;
GRANT ALL ON customer TO app;
SELECT custodian.define_purpose('shop.orders', 'contract', '1 year');
SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.orders}', residency => '{cn}');
SELECT custodian.clear_column('customer', c) FROM unnest('{id,plan}'::text[]) c;
";

/// Puts the rules into force and switches all gates on.
fn guard(node: &Cluster, rules: &str) -> Result<()> {
    node.write_file("custodian_regions.conf", rules)?;
    node.reload()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.alter_system("custodian.enforce", "on")
}

#[track_caller]
fn assert_no_event(node: &Cluster) {
    let events =
        node.text("SELECT gate, outcome, role, peer, object, reason FROM custodian.guard_events");
    assert_eq!(events.unwrap_or_else(|error| error.to_string()), "");
}

#[test]
fn dumps_restores_and_upgrades_are_unharmed() -> Result<()> {
    let start = |name: &str| {
        let node = Cluster::builder(name)
            .preload("pg_custodian")
            .conf("custodian.region = 'cn'")
            .conf("custodian.enforce = on")
            .file("custodian_regions.conf", "region cn\nlocal postgres\n")
            .start()?;
        Ok::<_, Error>(node)
    };
    let old = start("old")?;
    old.exec("CREATE EXTENSION pg_custodian")?;
    old.exec(TABLES)?;
    let dump = old.dir().join("dump");
    let dump = dump.to_string_lossy();
    old.program("pg_dump")?
        .args(["-Fd", "-j2", "-f", &dump])
        .run()?
        .ok()?;
    old.exec("CREATE DATABASE copy")?;
    old.program("pg_restore")?
        .args(["-d", "copy", "-j2", "--exit-on-error", &dump])
        .run()?
        .ok()?;
    assert_eq!(
        old.client_as("postgres", "copy")?
            .text("SELECT count(email) FROM customer")?,
        "100"
    );
    let all = old.program("pg_dumpall")?.run()?.ok()?;
    assert!(all.contains("mail-100"));
    assert_no_event(&old);
    // From outside the tags would be missing: it is told, and in warn they are not.
    old.exec("CREATE ROLE away LOGIN SUPERUSER")?;
    old.exec("CREATE DATABASE another")?;
    let restore = || {
        let restore = old.program("pg_restore")?.role("away");
        restore
            .args(["-d", "another", "--clean", "--if-exists"])
            .args(["--exit-on-error", &dump])
            .run()
    };
    let refused = restore()?;
    assert!(
        !refused.success() && refused.all().contains("Have it done from inside"),
        "{refused}"
    );
    old.alter_system("custodian.enforce_access", "warn")?;
    restore()?.ok()?;
    let labels = "SELECT count(*) FROM pg_seclabel WHERE provider = 'custodian' AND objsubid > 0";
    let restored = old.client_as("postgres", "another")?.text(labels)?;
    assert_eq!(
        (restored, old.text(labels)?),
        ("3".to_owned(), "3".to_owned())
    );
    old.alter_system("custodian.enforce_access", "on")?;
    for copy in ["copy", "another"] {
        old.exec(&format!("DROP DATABASE {copy}"))?;
    }

    let new = start("new")?;
    old.stop(Stop::Fast)?;
    new.stop(Stop::Fast)?;
    let bin = integration::host::bindir()?;
    let bin = bin.to_string_lossy();
    let upgrade = |how: &str| {
        Program::new("pg_upgrade", new.dir())?
            .args([how, "--no-sync", "-U", "postgres", "-b", &bin, "-B", &bin])
            .args([
                "-d",
                &old.data_dir().to_string_lossy(),
                "-D",
                &new.data_dir().to_string_lossy(),
            ])
            .args(["-p", &old.port().to_string(), "-P", &new.port().to_string()])
            .run()
    };
    // Nobody else is there while it runs: no line has to say that its role is inside.
    for node in [&old, &new] {
        node.write_file("custodian_regions.conf", "region cn\n")?;
    }
    let check = upgrade("--check")?;
    assert!(check.ok()?.contains("*Clusters are compatible*"));
    upgrade("--retain")?.ok()?;
    new.start()?;
    assert_eq!(new.text(labels)?, "3");
    Ok(())
}

/// Two nodes that went apart: a former primary, stopped, and the standby that took over from it.
fn apart(rules: &str, more: &str, places: Option<(&Place, &Place)>) -> Result<(Cluster, Cluster)> {
    let mut old = Cluster::builder("old")
        .preload("pg_custodian")
        .conf("wal_log_hints = on");
    if let Some((place, _)) = places {
        old = old.place(place);
    } else {
        old = old.conf("custodian.region = 'cn'");
    }
    let old = old.start()?;
    guard(&old, rules)?;
    old.exec(TABLES)?;
    old.exec(more)?;
    let mut new = old.standby("new");
    if let Some((_, place)) = places {
        new = new.place(place);
    }
    let new = new.start()?;
    old.wait_for_catchup(&new, 60)?;
    new.promote()?;
    new.exec("INSERT INTO customer VALUES (200, 'of the new one', 'basic'); CHECKPOINT")?;
    old.exec("INSERT INTO customer VALUES (201, 'lost', 'basic')")?;
    old.stop(Stop::Fast)?;
    Ok((old, new))
}

fn rewind(old: &Cluster, source: &str, place: Option<&Place>) -> Result<Output> {
    Program::new("pg_rewind", old.dir())?
        .inside(place)
        .arg(format!("--target-pgdata={}", old.data_dir().display()))
        .arg(format!("--source-server={source}"))
        .run()
}

/// Rewinds the former primary, and lets it follow the other one.
fn rewound(old: &Cluster, new: &Cluster, role: &str, place: Option<&Place>) -> Result<()> {
    // It takes over the configuration of the source as well, ports and all.
    let files = ["postgresql.conf", "postgresql.auto.conf"];
    let own: Vec<_> = files
        .iter()
        .map(|file| std::fs::read_to_string(old.data_dir().join(file)))
        .collect::<std::io::Result<_>>()?;
    rewind(old, &new.conninfo(role, "postgres"), place)?.ok()?;
    for (file, text) in files.iter().zip(&own) {
        old.write_file(file, text)?;
    }
    let source = new.conninfo("postgres", "postgres");
    old.append_conf(&format!(
        "primary_conninfo = '{source} application_name=old'"
    ))?;
    old.write_file("standby.signal", "")?;
    old.start()?;
    new.wait_for_catchup(old, 60)?;
    assert_eq!(
        old.text("SELECT string_agg(email, ',') FROM customer WHERE id >= 200")?,
        "of the new one"
    );
    Ok(())
}

#[test]
fn a_former_primary_is_rewound_over_the_network() -> Result<()> {
    needs_net!();
    let net = Net::new(&PLACES)?;
    let places = (net.at("cn-a"), net.at("cn-b"));
    let (old, new) = apart(RULES, "", Some(places))?;
    rewound(&old, &new, "postgres", Some(places.0))?;
    assert_no_event(&new);
    Ok(())
}

#[test]
fn a_former_primary_is_rewound_over_a_socket_by_a_role_that_a_rule_names() -> Result<()> {
    // What the manual of pg_rewind says that its role needs.
    let role = "CREATE ROLE rewinder LOGIN;
        GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean),
            pg_read_binary_file(text), pg_read_binary_file(text, bigint, bigint, boolean) TO rewinder";
    let rules = "region cn\nlocal postgres\n";
    let (old, new) = apart(rules, role, None)?;
    let refused = rewind(&old, &new.conninfo("rewinder", "postgres"), None)?;
    assert!(
        !refused.success() && refused.stderr.contains("is not allowed"),
        "{refused}"
    );
    new.write_file(
        "custodian_regions.conf",
        &format!("{rules}local rewinder\n"),
    )?;
    new.reload()?;
    rewound(&old, &new, "rewinder", None)
}

#[test]
fn logical_replication_inside_is_unharmed() -> Result<()> {
    needs_net!();
    let net = Net::new(&PLACES)?;
    let mut nodes = Vec::new();
    for (name, place) in [("publisher", "cn-a"), ("subscriber", "cn-b")] {
        let node = Cluster::builder(name)
            .place(net.at(place))
            .preload("pg_custodian")
            .start()?;
        guard(&node, RULES)?;
        node.exec(TABLES)?;
        nodes.push(node);
    }
    let [publisher, subscriber] = nodes.as_slice() else {
        return Err(Error::new("there are two nodes"));
    };
    subscriber.exec("DELETE FROM customer")?;
    publisher.exec("SELECT custodian.permit_publication('shop', '{cn}', 'the other hall')")?;
    publisher.exec("CREATE PUBLICATION shop FOR TABLE customer")?;
    subscriber.client()?.batch_execute(&format!(
        "CREATE SUBSCRIPTION shop CONNECTION '{}' PUBLICATION shop",
        publisher.conninfo("postgres", "postgres")
    ))?;
    let arrives = |what: &str, sql: &str, expected: &str| {
        wait_until(what, 60, || {
            subscriber.text(sql).is_ok_and(|text| text == expected)
        });
    };
    arrives(
        "the initial copy",
        "SELECT count(email) FROM customer",
        "100",
    );
    publisher.exec(
        "UPDATE customer SET email = 'changed' WHERE id = 1; DELETE FROM customer WHERE id = 2",
    )?;
    arrives(
        "the changes",
        "SELECT count(*), min(email) FROM customer",
        "99|changed",
    );
    publisher.exec("CREATE TABLE more (id int PRIMARY KEY); INSERT INTO more VALUES (7); SELECT custodian.clear_column('more', 'id')")?;
    publisher.exec("ALTER PUBLICATION shop ADD TABLE more")?;
    subscriber.exec("CREATE TABLE more (id int PRIMARY KEY)")?;
    subscriber
        .client()?
        .batch_execute("ALTER SUBSCRIPTION shop REFRESH PUBLICATION")?;
    arrives("a table more", "SELECT id FROM more", "7");
    publisher.exec("TRUNCATE customer")?;
    arrives("the truncation", "SELECT count(*) FROM customer", "0");
    assert_no_event(publisher);
    assert_no_event(subscriber);
    subscriber
        .client()?
        .batch_execute("DROP SUBSCRIPTION shop")?;
    Ok(())
}

#[test]
fn a_pooler_in_transaction_mode_is_unharmed() -> Result<()> {
    needs_net!();
    if !std::path::Path::new("/usr/sbin/pgbouncer").exists() {
        not_run("pgbouncer is not installed");
        return Ok(());
    }
    let net = Net::new(&PLACES)?;
    let certs = Certs::new(&["cn"])?;
    let node = Cluster::builder("node")
        .place(net.at("cn-a"))
        .preload("pg_custodian")
        .tls(&certs, "cn")?
        .start()?;
    guard(&node, RULES)?;
    node.exec(TABLES)?;
    // By the network the pooler shows its certificate; over the unix socket the role's `local` line counts.
    let cert = certs.client("cn", "app")?;
    let address = net.at("cn-c").address();
    node.write_file("../users.txt", "\"app\" \"\"\n")?;
    node.write_file(
        "../pgbouncer.ini",
        &format!(
            "[databases]\nbynet = host={host} port={port} dbname=postgres\nbysocket = host={socket} port={port} dbname=postgres\n\
             [pgbouncer]\nlisten_addr = {address}\nlisten_port = 6432\nunix_socket_dir =\nauth_type = trust\nauth_file = users.txt\n\
             pool_mode = transaction\ndefault_pool_size = 2\nserver_tls_sslmode = prefer\nserver_tls_cert_file = {cert}\n\
             server_tls_key_file = {key}\nserver_tls_ca_file = {authorities}\nlogfile = pgbouncer.log\n",
            host = node.address().unwrap_or_default(),
            port = node.port(),
            socket = node.socket_dir().display(),
            cert = cert.cert.display(),
            key = cert.key.display(),
            authorities = cert.authorities.display(),
        ),
    )?;
    let mut pooler = Program::new("/usr/sbin/pgbouncer", node.dir())?
        .inside(Some(net.at("cn-c")))
        .arg("pgbouncer.ini")
        .start()?;
    let program = |name: &str, database: &str| {
        Ok::<_, Error>(
            Program::new(name, node.dir())?
                .inside(Some(net.at("cn-d")))
                .env("PGHOST", address.to_string())
                .env("PGPORT", "6432")
                .role("app")
                .database(database),
        )
    };
    wait_until("the pooler answers", 60, || {
        assert!(!pooler.has_ended(), "{}", pooler.output_so_far());
        program("psql", "bynet").is_ok_and(|psql| {
            psql.args(["-c", "SELECT 1"])
                .run()
                .is_ok_and(|output| output.success())
        })
    });
    for database in ["bynet", "bysocket"] {
        let load = "\\set id random(1, 100)\nBEGIN;\nSELECT email FROM customer WHERE id = :id;\n\
                    UPDATE customer SET plan = 'other' WHERE id = :id;\nEND;\n";
        // More clients than connections, so that these change hands.
        let output = program("pgbench", database)?
            .args(["-n", "-c", "6", "-t", "30", "-f", "/dev/stdin"])
            .stdin(load)
            .run()?;
        assert!(
            output.ok()?.contains("180/180"),
            "all transactions were done"
        );
    }
    assert_ne!(
        node.text("SELECT count(*) FROM customer WHERE plan = 'other'")?,
        "0"
    );
    assert_no_event(&node);
    Ok(())
}

/// Statements that fail in code that is not the guard's, each in another way.
const FAILING: [&str; 22] = [
    "SELEC 1",
    "SELECT id, missing FROM customer",
    "SELECT missing()",
    "SELECT * FROM nowhere",
    "SELECT 1 / 0",
    "SELECT email::int FROM customer",
    "SELECT id FROM customer WHERE id = 'x'",
    "INSERT INTO customer VALUES (1, 'again', 'basic')",
    "INSERT INTO customer VALUES (NULL, 'no key', 'basic')",
    "INSERT INTO orders VALUES (1, -1, 1)",
    "INSERT INTO orders VALUES (1, 1, 9999)",
    "INSERT INTO orders VALUES (1, 1, 1, 2)",
    "DELETE FROM customer WHERE id = 1",
    "CREATE TABLE customer (id int)",
    "ALTER TABLE customer ADD COLUMN id int",
    "ALTER TABLE orders ADD CHECK (amount > 1000)",
    "CREATE INDEX ON customer (missing)",
    "DROP TABLE customer",
    "SELECT outer_function(0)",
    "DO $$ BEGIN EXECUTE 'CREATE TABLE customer (id int)'; END $$",
    "UPDATE orders SET amount = 13",
    "SECURITY LABEL FOR nobody ON TABLE customer IS 'x'",
];

/// Every field of the server's report.
fn report(error: &Error) -> String {
    error
        .db()
        .map_or_else(|| error.to_string(), |report| format!("{report:#?}"))
}

#[test]
fn parallel_and_background_workers_and_errors_of_other_code_are_unharmed() -> Result<()> {
    let plain = Cluster::builder("plain").start()?;
    let guarded = Cluster::builder("guarded")
        .preload("pg_prewarm")
        .preload("pg_custodian")
        .conf("custodian.region = 'cn'")
        .conf("max_parallel_workers = 4")
        .start()?;
    guard(&guarded, "region cn\nlocal postgres\nlocal app\n")?;
    let tables = "
        CREATE TABLE orders (id int, amount int CONSTRAINT positive CHECK (amount > 0),
                             customer int CONSTRAINT of_customer REFERENCES customer);
        INSERT INTO orders VALUES (1, 10, 1);
        CREATE FUNCTION inner_function(i int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1 / i; END $$;
        CREATE FUNCTION outer_function(i int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN inner_function(i); END $$;
        CREATE FUNCTION superstitious() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF new.amount = 13 THEN
            RAISE EXCEPTION 'no' USING ERRCODE = 'P0013', DETAIL = 'thirteen', HINT = 'take another', CONSTRAINT = 'luck', TABLE = 'orders';
          END IF; RETURN new; END $$;
        CREATE TRIGGER superstitious BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION superstitious()";
    guarded.exec(TABLES)?;
    plain.exec(TABLES.split("SELECT custodian").next().unwrap_or_default())?;
    for node in [&plain, &guarded] {
        node.exec(tables)?;
    }
    let (mut with, mut without) = (guarded.client()?, plain.client()?);
    for statement in FAILING {
        assert_eq!(
            report(&with.refused(statement)),
            report(&without.refused(statement)),
            "{statement}"
        );
    }
    // What the server refuses to somebody is the server's own answer.
    let denied = "SELECT * FROM orders";
    assert_eq!(
        report(&guarded.client_as("app", "postgres")?.refused(denied)),
        report(&plain.client_as("app", "postgres")?.refused(denied))
    );

    // Parallel workers read what their leader may read: everything inside, what is cleared outside.
    guarded.exec(
        "INSERT INTO customer SELECT i, 'mail-' || i, 'basic' FROM generate_series(101, 20000) i",
    )?;
    guarded.exec("ANALYZE customer; CREATE ROLE away LOGIN; GRANT SELECT ON customer TO away")?;
    let parallel = "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
                    SET max_parallel_workers_per_gather = 2;";
    for (role, column) in [("postgres", "email"), ("away", "plan")] {
        let mut client = guarded.client_as(role, "postgres")?;
        client.batch_execute(parallel)?;
        let query = format!("SELECT count({column}) FROM customer");
        let plan = client.text(&format!("EXPLAIN (ANALYZE, COSTS off, TIMING off) {query}"))?;
        assert!(plan.contains("Workers Launched: 2"), "{plan}");
        assert_eq!(client.text(&query)?, "20000");
    }
    let mut builder = guarded.client()?;
    builder.batch_execute(
        "SET min_parallel_table_scan_size = 0; SET max_parallel_maintenance_workers = 2",
    )?;
    builder.batch_execute("CREATE INDEX ON customer (email)")?;

    // A worker of another extension connects to no database, or to any, without being somebody's session.
    guarded.exec("CREATE EXTENSION pg_prewarm")?;
    assert_ne!(guarded.text("SELECT autoprewarm_dump_now()")?, "0");
    guarded.restart()?;
    guarded.wait_for_log("autoprewarm successfully prewarmed", 60);
    assert_no_event(&guarded);
    Ok(())
}

/// What those who manage and watch a server ask it, over the unix socket and over loopback: as which role, and what.
const AGENTS: [(&str, &str); 10] = [
    (
        "manager",
        "SELECT pg_is_in_recovery(), pg_current_wal_flush_lsn(), pg_postmaster_start_time()",
    ),
    (
        "manager",
        "SELECT application_name, state, sync_state, flush_lsn FROM pg_stat_replication",
    ),
    (
        "manager",
        "SELECT pg_create_physical_replication_slot('member')",
    ),
    ("manager", "SELECT pg_drop_replication_slot('member')"),
    (
        "manager",
        "ALTER SYSTEM SET max_standby_streaming_delay = '20s'",
    ),
    ("manager", "CHECKPOINT"),
    (
        "exporter",
        "SELECT state, count(*) FROM pg_stat_activity GROUP BY 1",
    ),
    (
        "exporter",
        "SELECT datname, xact_commit FROM pg_stat_database",
    ),
    (
        "exporter",
        "SELECT relname, n_dead_tup FROM pg_stat_user_tables",
    ),
    ("exporter", "SELECT count(*) FROM custodian.metrics"),
];

#[test]
fn a_cluster_manager_and_an_exporter_work_once_their_roles_are_named() -> Result<()> {
    let node = Cluster::builder("agents")
        .preload("pg_custodian")
        .conf("custodian.region = 'cn'")
        .loopback()
        .start()?;
    let rules = "region cn\nlocal postgres\n";
    guard(&node, &format!("{rules}local manager\nlocal exporter\n"))?;
    node.exec(TABLES)?;
    node.exec(
        "CREATE ROLE manager LOGIN SUPERUSER REPLICATION; CREATE ROLE exporter LOGIN; GRANT pg_monitor TO exporter",
    )?;
    let ask = |over_tcp: bool, role: &str, sql: &str| {
        let program = node.program("psql")?;
        let program = if over_tcp {
            program.over_tcp()
        } else {
            program
        };
        program.role(role).args(["-X", "-At", "-c", sql]).run()
    };
    for over_tcp in [false, true] {
        for (role, sql) in AGENTS {
            ask(over_tcp, role, sql)?.ok()?;
        }
    }
    assert_no_event(&node);
    // Without their lines they are whoever may stand behind a tunnel.
    node.write_file("custodian_regions.conf", rules)?;
    node.reload()?;
    for over_tcp in [false, true] {
        for (role, sql) in [AGENTS[1], AGENTS[2], AGENTS[6]] {
            let output = ask(over_tcp, role, sql)?;
            assert!(
                !output.success() && output.stderr.contains("is not allowed"),
                "{role}: {sql}: {output}"
            );
        }
    }
    Ok(())
}
