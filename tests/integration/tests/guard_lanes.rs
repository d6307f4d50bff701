//! Lawful lanes on real nodes: a registered, approved and opened transfer lets one peer through, and nothing else.

use integration::{Cluster, Error, Net, Result, Sql, needs_net, wait_until};

/// A value of a column that no transfer covers. Not a byte of it may reach the outside.
const CANARY: &str = "canary-4711";

const RULES: &str = "
region cn
region eu
node 10.86.0.1 cn shop
network 10.86.0.0/16 cn shop
network 10.33.0.1/32 eu acme
network 10.33.0.2/32 eu other
local postgres
";

const TABLE: &str = "CREATE TABLE customer (id int PRIMARY KEY, email text, card text, plan text,
                         country text NOT NULL DEFAULT 'cn', agreed boolean NOT NULL DEFAULT false)";

/// The arguments of a registration that is complete, but for the name.
const REGISTRATION: &str = "receiver => 'Acme GmbH', contact => 'privacy@acme.example', organisation => 'acme',
    region => 'eu', purposes => '{shop.orders}', categories => '{user.contact}', method => 'storage for support',
    safeguards => 'standard contract no. 7', risks => 'assessed 2026-01, low', rights_channel => 'https://acme.example/rights',
    basis => 'contract', notice => 'privacy policy of 2026-01-01, section 4'";

fn register(node: &Cluster, name: &str, more: &str) -> Result<()> {
    node.client_as("lawyer", "postgres")?
        .batch_execute(&format!(
            "SELECT custodian.register_transfer('{name}', {REGISTRATION}, {more})"
        ))?;
    node.client_as("officer", "postgres")?
        .batch_execute(&format!(
            "SELECT custodian.approve_transfer('{name}', 'board of 2026-02')"
        ))?;
    Ok(())
}

fn open(node: &Cluster, name: &str, publication: &str) -> Result<String> {
    node.client_as("postgres", "postgres")?.text(&format!(
        "SELECT custodian.open_lane('{name}', 'eu_sub', 'sub', '{{{publication}}}', network => '10.33.0.0/16')"
    ))
}

/// A primary in region cn with a tagged table, stewards, and a role for the receiver.
fn primary(net: &Net) -> Result<Cluster> {
    let node = Cluster::builder("primary")
        .place(net.at("cn-a"))
        .conf("wal_level = logical")
        .preload("pg_custodian")
        .start()?;
    node.write_file("custodian_regions.conf", RULES)?;
    node.exec(
        "CREATE ROLE steward; CREATE ROLE lawyer LOGIN; CREATE ROLE officer LOGIN; GRANT steward TO lawyer, officer;
         CREATE ROLE eu_sub LOGIN REPLICATION; CREATE ROLE eu_other LOGIN REPLICATION",
    )?;
    node.alter_system("custodian.steward_role", "steward")?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(&format!(
        "{TABLE}; INSERT INTO customer SELECT i, 'mail-' || i, '{CANARY}', 'basic', CASE i % 2 WHEN 0 THEN 'eu' ELSE 'cn' END,
                                              i % 4 < 2 FROM generate_series(1, 100) i;
         GRANT SELECT ON customer TO PUBLIC"
    ))?;
    node.exec(
        "SELECT custodian.define_purpose('shop.orders', 'contract', '1 year');
         SELECT custodian.define_purpose('shop.other', 'contract', '1 year');
         SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.orders}', residency => '{cn}');
         SELECT custodian.tag_column('customer', 'card', 'user.financial', '{shop.orders}', residency => '{cn}');
         SELECT custodian.clear_column('customer', c) FROM unnest('{id,plan,country,agreed}'::text[]) c",
    )?;
    node.alter_system("custodian.enforce", "on")?;
    Ok(node)
}

fn subscribe(node: &Cluster, at: &Cluster, role: &str, publication: &str) -> Result<()> {
    at.client()?.batch_execute(&format!(
        "CREATE SUBSCRIPTION sub CONNECTION '{}' PUBLICATION {publication}",
        node.conninfo(role, "postgres")
    ))?;
    Ok(())
}

#[track_caller]
fn refusal(result: Result<()>) -> Error {
    match result {
        Ok(()) => panic!("this should have been refused"),
        Err(error) => error,
    }
}

#[test]
fn a_lane_lets_the_initial_copy_and_changes_through_and_only_to_the_receiver() -> Result<()> {
    needs_net!();
    let net = Net::new(&["cn-a", "eu-a", "eu-b"])?;
    let node = primary(&net)?;
    let columns = "id, email, plan, country, agreed";
    let publish = format!("CREATE PUBLICATION contacts FOR TABLE customer ({columns})");
    let early = node.client()?.refused(&publish);
    assert!(
        early.to_string().contains("email (user.contact.email"),
        "{early}"
    );

    register(&node, "shop.eu", "valid_until => now() + interval '1 hour'")?;
    node.exec(&publish)?;

    let receiver = Cluster::builder("receiver").place(net.at("eu-a")).start()?;
    receiver.exec(TABLE)?;
    // Approved, but without a lane.
    let refused = refusal(subscribe(&node, &receiver, "eu_sub", "contacts")).to_string();
    assert!(refused.contains("No lane is open for it."), "{refused}");

    let lane = open(&node, "shop.eu", "contacts")?;
    subscribe(&node, &receiver, "eu_sub", "contacts")?;
    wait_until("the receiver has the rows", 60, || {
        receiver
            .text("SELECT count(email) FROM customer")
            .is_ok_and(|n| n == "100")
    });
    node.exec("INSERT INTO customer VALUES (101, 'mail-101', 'canary-4711', 'basic')")?;
    wait_until("the receiver has the change", 60, || {
        receiver
            .text("SELECT email FROM customer WHERE id = 101")
            .is_ok_and(|n| n == "mail-101")
    });
    assert_eq!(receiver.text("SELECT count(card) FROM customer")?, "0");

    // Another role, another host of another organisation, another kind: each differs in one field.
    let other = Cluster::builder("other").place(net.at("eu-b")).start()?;
    other.exec(TABLE)?;
    for (at, role, reason) in [
        (&receiver, "eu_other", "No lane is open for it.".to_owned()),
        (
            &other,
            "eu_sub",
            format!("Lane {lane} is for another organisation."),
        ),
    ] {
        let sql = format!(
            "CREATE SUBSCRIPTION second CONNECTION '{}' PUBLICATION contacts WITH (copy_data = false)",
            node.conninfo(role, "postgres")
        );
        let refused = at.client()?.refused(&sql).to_string();
        assert!(refused.contains(&reason), "{refused}");
    }
    for (slot, plugin, reason) in [
        ("sub2", "pgoutput", "slot"),
        ("sub2", "test_decoding", "slot"),
        ("sub", "test_decoding", "plugin"),
    ] {
        let output = node
            .program("pg_recvlogical")?
            .from(net.at("eu-a"))
            .role("eu_sub")
            .args([
                "-d",
                "postgres",
                "--slot",
                slot,
                "-P",
                plugin,
                "--create-slot",
            ])
            .run()?;
        let expected = format!("Lane {lane} does not allow it: {reason}.");
        assert!(
            !output.success() && output.stderr.contains(&expected),
            "{output}"
        );
    }
    for (option, reason) in [
        ("publication_names=everything", "publications"),
        ("messages=true", "logical messages"),
    ] {
        let output = node
            .program("pg_recvlogical")?
            .from(net.at("eu-a"))
            .role("eu_sub")
            .args([
                "-d",
                "postgres",
                "--slot",
                "sub",
                "--start",
                "--no-loop",
                "-f",
                "-",
            ])
            .args([
                "-o",
                "proto_version=1",
                "-o",
                option,
                "-o",
                "publication_names=contacts",
            ])
            .run()?;
        assert!(
            !output.success() && output.stderr.contains(reason),
            "{output}"
        );
        assert!(!output.all().contains(CANARY));
    }
    let backup = node
        .program("pg_basebackup")?
        .from(net.at("eu-a"))
        .role("eu_sub")
        .args(["-D", "-", "-Ft", "-X", "none"])
        .run()?;
    assert!(
        !backup.success() && !backup.all().contains(CANARY),
        "{backup}"
    );
    // The lane is for replication: an ordinary session of the same role reads nothing by it.
    let select = node
        .program("psql")?
        .from(net.at("eu-a"))
        .role("eu_sub")
        .args(["-Atc", "SELECT email FROM customer"])
        .run()?;
    assert!(
        !select.success() && !select.all().contains("mail-"),
        "{select}"
    );
    Ok(())
}

#[test]
fn rows_with_a_condition_cross_only_through_a_filter_that_is_proved() -> Result<()> {
    needs_net!();
    let net = Net::new(&["cn-a", "eu-a"])?;
    let node = primary(&net)?;
    node.exec("SELECT custodian.tag_table('customer', residency_column => 'country')")?;
    let error = node.client_as("lawyer", "postgres")?.refused(&format!(
        "SELECT custodian.register_transfer('shop.eu', {}, valid_until => now() + interval '1 hour')",
        REGISTRATION.replace("'contract'", "'consent'")
    ));
    assert!(
        error.to_string().contains("names no consent column"),
        "{error}"
    );
    register(
        &node,
        "shop.eu",
        "valid_until => now() + interval '1 hour', consent_column => 'agreed'",
    )?;
    let filter = node.text("SELECT custodian.publication_filter('customer', 'shop.eu')")?;
    assert_eq!(filter, "agreed AND country IN ('eu')");
    node.exec("ALTER TABLE customer REPLICA IDENTITY FULL")?;
    let mut client = node.client()?;
    for (name, filter) in [
        ("none", String::new()),
        ("half", "WHERE (agreed)".to_owned()),
        ("either", "WHERE (agreed OR country = 'eu')".to_owned()),
        ("other", "WHERE (agreed AND country = 'cn')".to_owned()),
        (
            "wider",
            "WHERE (agreed AND country IN ('eu', 'cn'))".to_owned(),
        ),
        (
            "negated",
            "WHERE (NOT agreed AND country = 'eu')".to_owned(),
        ),
    ] {
        client.batch_execute(&format!(
            "CREATE PUBLICATION {name} FOR TABLE customer (id, email, country, agreed) {filter}"
        ))?;
        let refused = client.refused(&format!(
            "SELECT custodian.open_lane('shop.eu', 'eu_sub', 'sub', '{{{name}}}', network => '10.33.0.0/16')"
        ));
        assert_eq!(refused.sqlstate(), "55000");
        assert!(
            refused
                .to_string()
                .contains("without a row filter that implies"),
            "{name}: {refused}"
        );
    }
    for (name, filter) in [
        ("written", filter.as_str()),
        ("narrower", "id > 10 AND country = 'eu' AND agreed = true"),
    ] {
        client.batch_execute(&format!(
            "CREATE PUBLICATION {name} FOR TABLE customer (id, email, country, agreed) WHERE ({filter})"
        ))?;
        open(&node, "shop.eu", name)?;
    }
    // Changes go through the filter; the initial copy of conditional rows is not offered.
    let receiver = Cluster::builder("receiver").place(net.at("eu-a")).start()?;
    receiver.exec("CREATE TABLE customer (id int, email text, country text, agreed boolean)")?;
    receiver.client()?.batch_execute(&format!(
        "CREATE SUBSCRIPTION sub CONNECTION '{}' PUBLICATION written WITH (copy_data = false)",
        node.conninfo("eu_sub", "postgres")
    ))?;
    node.exec(
        "INSERT INTO customer VALUES (201, 'no', '', '', 'eu', false), (202, 'no', '', '', 'cn', true),
                                     (203, 'yes', '', '', 'eu', true)",
    )?;
    wait_until("the receiver has the change", 60, || {
        receiver
            .text("SELECT count(*) FROM customer")
            .is_ok_and(|n| n != "0")
    });
    assert_eq!(receiver.text("SELECT id, email FROM customer")?, "203|yes");
    Ok(())
}

/// What the sentinel has ended, and why.
fn ended(node: &Cluster) -> Result<String> {
    node.text(
        "SELECT object || ': ' || reason FROM custodian.guard_events WHERE gate = 'sentinel' ORDER BY 1",
    )
}

#[test]
fn what_runs_on_a_lane_is_ended_when_the_lane_does_not_fit_any_more() -> Result<()> {
    needs_net!();
    let net = Net::new(&["cn-a", "eu-a"])?;
    let node = primary(&net)?;
    let receiver = Cluster::builder("receiver").place(net.at("eu-a")).start()?;
    receiver.exec(TABLE)?;
    let walsenders = "SELECT count(*) FROM pg_stat_replication";
    let streaming = || {
        wait_until("the receiver streams", 60, || {
            node.text(&format!("{walsenders} WHERE state = 'streaming'"))
                .is_ok_and(|n| n == "1")
        });
    };
    let gone = || {
        wait_until("the walsender has ended", 60, || {
            node.text(walsenders).is_ok_and(|n| n == "0")
        });
    };
    let again = |transfer: &str, until: &str| -> Result<String> {
        register(&node, transfer, &format!("valid_until => {until}"))?;
        open(&node, transfer, "contacts")
    };

    register(&node, "shop.eu", "valid_until => now() + interval '1 hour'")?;
    node.exec("CREATE PUBLICATION contacts FOR TABLE customer (id, email, plan, country, agreed)")?;
    let lane = open(&node, "shop.eu", "contacts")?;
    subscribe(&node, &receiver, "eu_sub", "contacts")?;
    streaming();
    // No round of the worker comes meanwhile: it looks at lanes in between.
    node.alter_system("custodian.naptime", "1h")?;

    // Closed: nothing that comes after it arrives, and the position is on record.
    node.text(&format!(
        "SELECT custodian.close_lane({lane}, 'test', 'letter')"
    ))?;
    gone();
    wait_until("the end is recorded", 60, || {
        ended(&node).is_ok_and(|all| {
            all.contains(&format!(
                "replication on lane {lane}: Lane {lane} was closed, or its transfer has ended."
            ))
        })
    });
    assert_eq!(
        node.text("SELECT sent_until IS NOT NULL FROM custodian.lanes")?,
        "t"
    );
    node.exec("INSERT INTO customer VALUES (300, 'after', '', '')")?;

    // A new lane for the same peer takes up where it was.
    let lane = again("shop.eu2", "now() + interval '1 hour'")?;
    streaming();
    wait_until("the receiver has what was inserted meanwhile", 60, || {
        receiver
            .text("SELECT count(*) FROM customer WHERE id = 300")
            .is_ok_and(|n| n == "1")
    });
    // A tag under which the lane could not be used is refused, by which way it is ever set.
    for change in [
        "SELECT custodian.tag_table('customer', residency_column => 'country')",
        "SECURITY LABEL FOR custodian ON TABLE customer IS '{\"residency_column\":\"country\"}'",
        "SELECT custodian.tag_column('customer', 'email', 'user.financial', '{shop.orders}', residency => '{cn}')",
    ] {
        let error = node.client()?.refused(change);
        assert_eq!(error.sqlstate(), "42501", "{change}: {error}");
        assert!(error.to_string().contains("HINT"), "{change}: {error}");
    }
    assert_eq!(node.text(walsenders)?, "1");
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.tags WHERE residency_column IS NOT NULL")?,
        "0"
    );
    // In warn it passes, and a tag that the transfer does not cover ends the lane.
    node.alter_system("custodian.enforce_ddl", "warn")?;
    node.exec("SELECT custodian.tag_column('customer', 'plan', 'user.financial', '{shop.orders}', residency => '{cn}')")?;
    gone();
    wait_until("the end is recorded", 60, || {
        ended(&node).is_ok_and(|all| all.contains(&format!("Lane {lane} cannot be used.")))
    });
    assert_eq!(
        node.text("SELECT object FROM custodian.check() WHERE code = 'lane-unusable'")?,
        format!("lane {lane}")
    );
    node.exec("SELECT custodian.clear_column('customer', 'plan')")?;
    streaming();
    node.text(&format!("SELECT custodian.close_lane({lane}, 'test')"))?;
    gone();

    // It ends by itself with the transfer.
    again("shop.eu3", "now() + interval '20 seconds'")?;
    streaming();
    gone();
    assert_eq!(
        node.text("SELECT state FROM custodian.lanes ORDER BY lane DESC LIMIT 1")?,
        "suspended"
    );
    Ok(())
}

#[test]
fn a_standby_that_other_rules_put_outside_is_ended() -> Result<()> {
    needs_net!();
    let net = Net::new(&["cn-a", "cn-b"])?;
    let node = primary(&net)?;
    let standby = node.standby("standby").place(net.at("cn-b")).start()?;
    node.wait_for_catchup(&standby, 60)?;
    let rules = RULES.replace(
        "node 10.86.0.1 cn shop",
        "node 10.86.0.1 cn shop\nnetwork 10.86.0.2/32 eu shop",
    );
    node.write_file("custodian_regions.conf", &rules)?;
    node.reload()?;
    wait_until("the standby is refused", 60, || {
        node.text("SELECT count(*) FROM pg_stat_replication")
            .is_ok_and(|n| n == "0")
            && ended(&node).is_ok_and(|all| all.contains("puts the peer in region \"eu\""))
    });
    standby.wait_for_log(
        "replication connection from 10.86.0.2 is not allowed by the region rules",
        60,
    );
    Ok(())
}

#[test]
fn a_standby_outside_the_residency_serves_no_tagged_data_even_to_its_own() -> Result<()> {
    needs_net!();
    let net = Net::new(&["cn-a", "cn-b", "eu-a"])?;
    let node = primary(&net)?;
    node.exec("CREATE ROLE app LOGIN; CREATE TABLE unreviewed (a int)")?;
    let inside = node.standby("inside").place(net.at("cn-b")).start()?;
    let away = node
        .standby("away")
        .place(net.at("eu-a"))
        .copy_locally()
        .start()?;
    let local = format!("{RULES}node 10.86.0.2 cn shop\nnode 10.33.0.1 eu shop\nlocal app\n");
    for standby in [&inside, &away] {
        standby.write_file("custodian_regions.conf", &local)?;
        standby.reload()?;
        standby.exec("SELECT a FROM unreviewed; SELECT plan FROM customer")?;
    }
    let read = "SELECT count(email) FROM customer";
    assert_eq!(inside.client_as("app", "postgres")?.text(read)?, "100");
    let error = away.client_as("app", "postgres")?.refused(read);
    assert_eq!(error.sqlstate(), "42501");
    assert!(
        error
            .to_string()
            .contains("This standby is in region \"eu\"."),
        "{error}"
    );
    let dump = away.program("pg_dump")?.args(["-t", "customer"]).run()?;
    assert!(!dump.success() && !dump.all().contains(CANARY), "{dump}");
    Ok(())
}
