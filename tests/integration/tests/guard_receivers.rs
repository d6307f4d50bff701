//! The programs that receive WAL, with each output plugin: what passes a lane, what runs and is ended, and what is said
//! before it is.

use integration::{
    Certs, Cluster, Output, Program, Result, Running, Sql, host, wait_for_answer, wait_until,
};

/// A value of a column that no transfer covers. Not a byte of it may reach the outside.
const CANARY: &str = "canary-4711";

const RULES: &str = "
region cn
region eu
issuer \"/O=cn/CN=cn authority\" cn shop
issuer \"/O=eu/CN=eu authority\" eu acme
node 192.0.2.1 cn shop
network 192.0.2.0/24 cn shop
network 198.51.100.0/24 eu acme
local postgres
";

/// A primary in region cn with a lane for a receiver in eu that shows a certificate of eu.
struct World {
    certs: Certs,
    node: Cluster,
}

impl World {
    fn new() -> Result<World> {
        let certs = Certs::new(&["cn", "eu"])?;
        let node = Cluster::builder("primary")
            .preload("pg_custodian")
            .loopback()
            .tls(&certs, "cn")?
            .hba("hostssl replication all all cert")
            .hba("hostssl all all all cert")
            .conf("wal_level = logical")
            .conf("custodian.region = 'cn'")
            .file("custodian_regions.conf", RULES)
            .start()?;
        node.exec(
            "CREATE ROLE steward; CREATE ROLE lawyer LOGIN; CREATE ROLE officer LOGIN; GRANT steward TO lawyer, officer;
             CREATE ROLE eu_sub LOGIN REPLICATION; CREATE ROLE watch LOGIN; GRANT pg_monitor TO watch",
        )?;
        node.alter_system("custodian.steward_role", "steward")?;
        node.exec("CREATE EXTENSION pg_custodian")?;
        node.exec(
            "CREATE TABLE customer (id int PRIMARY KEY, email text, card text, country text NOT NULL DEFAULT 'eu');
             ALTER TABLE customer REPLICA IDENTITY FULL;
             SELECT custodian.define_purpose('shop.orders', 'contract', '1 year');
             SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.orders}', residency => '{cn,eu}');
             SELECT custodian.tag_column('customer', 'card', 'user.financial', '{shop.orders}', residency => '{cn}');
             SELECT custodian.tag_table('customer', residency_column => 'country');
             SELECT custodian.clear_column('customer', c) FROM unnest('{id,country}'::text[]) c;
             CREATE PUBLICATION contacts FOR TABLE customer (id, email, country) WHERE (country IN ('eu'));
             CREATE PUBLICATION everything FOR TABLE customer",
        )?;
        node.client_as("lawyer", "postgres")?.batch_execute(
            "SELECT custodian.register_transfer('shop.eu', receiver => 'Acme GmbH', contact => 'privacy@acme.example',
                organisation => 'acme', region => 'eu', purposes => '{shop.orders}', categories => '{user.contact}',
                method => 'storage', safeguards => 'contract', risks => 'low', rights_channel => 'https://acme.example',
                basis => 'contract', notice => 'policy', valid_until => now() + interval '1 day', residencies => '{eu}')",
        )?;
        node.client_as("officer", "postgres")?
            .batch_execute("SELECT custodian.approve_transfer('shop.eu', 'board')")?;
        let issuer = Certs::issuer_dn("eu");
        node.text(&format!(
            "SELECT custodian.open_lane('shop.eu', 'eu_sub', 'sub', '{{contacts}}', issuer => '{issuer}')"
        ))?;
        // The lane's slot, made inside so that what the test writes is in it.
        node.text("SELECT pg_create_logical_replication_slot('sub', 'pgoutput')")?;
        node.exec(&format!(
            "INSERT INTO customer VALUES (1, 'mail-1', '{CANARY}', 'eu'), (2, '{CANARY}-2', '{CANARY}', 'cn')"
        ))?;
        node.alter_system("custodian.enforce", "on")?;
        Ok(World { certs, node })
    }

    /// A program with a certificate of this region.
    fn program(&self, name: &str, region: &str) -> Result<Program> {
        Ok(self
            .node
            .program(name)?
            .over_tcp()
            .role("eu_sub")
            .cert(&self.certs.client(region, "eu_sub")?))
    }

    /// `pg_recvlogical` on a slot, to its standard output.
    fn decode(&self, region: &str, slot: &str, options: &[&str]) -> Result<Program> {
        let mut program = self
            .program("pg_recvlogical", region)?
            .args([
                "-d",
                "postgres",
                "--slot",
                slot,
                "--start",
                "--no-loop",
                "-f",
                "-",
            ])
            .args(["--status-interval", "1", "--fsync-interval", "0"]);
        for option in options {
            program = program.args(["-o", option]);
        }
        Ok(program)
    }

    fn receive_on_lane(&self) -> Result<Running> {
        let options = ["proto_version=1", "publication_names=contacts"];
        let mut running = self.decode("eu", "sub", &options)?.start()?;
        wait_until("the receiver streams", 60, || {
            self.walsenders() == "1" || running.has_ended()
        });
        assert!(!running.has_ended(), "{}", running.output_so_far());
        Ok(running)
    }

    fn walsenders(&self) -> String {
        self.node
            .text("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
            .unwrap_or_default()
    }
}

#[track_caller]
fn assert_refused(output: &Output, part: &str) {
    assert!(!output.success(), "this should have been refused: {output}");
    let all = output.all();
    assert!(all.contains(part), "{part:?} is not in: {all}");
    assert!(!all.contains(CANARY), "tagged data got out: {all}");
}

#[test]
fn only_pgoutput_with_the_publications_of_the_lane_passes_it() -> Result<()> {
    let world = World::new()?;
    let node = &world.node;
    let mut plugins = vec!["test_decoding"];
    if std::path::Path::new(&format!("{}/wal2json.so", host::pg_config("--pkglibdir")?)).exists() {
        plugins.push("wal2json");
        // Newer minor releases know a list of output plugins that anybody may use.
        let listed =
            node.text("SELECT setting FROM pg_settings WHERE name = 'output_plugin_libraries'")?;
        if !listed.is_empty() {
            node.exec(&format!(
                "ALTER SYSTEM SET output_plugin_libraries = {listed}, wal2json"
            ))?;
            node.reload()?;
        }
    } else {
        integration::not_run("wal2json is not installed");
    }

    // What the lane is for arrives, and nothing else.
    let mut lawful = world.receive_on_lane()?;
    wait_until("the row of eu arrives", 60, || {
        lawful.output_so_far().contains("mail-1") || lawful.has_ended()
    });
    let received = lawful.interrupt()?;
    assert!(received.all().contains("mail-1"), "{received}");
    assert!(!received.all().contains(CANARY), "{received}");
    wait_until("the slot is free", 60, || world.walsenders() == "0");

    // Other publications, and other options, do not.
    for options in [
        &["proto_version=1", "publication_names=everything"][..],
        &["proto_version=1", "publication_names=contacts,everything"],
        &[
            "proto_version=1",
            "publication_names=contacts",
            "messages=true",
        ],
    ] {
        assert_refused(
            &world.decode("eu", "sub", options)?.run()?,
            "is not allowed by the region rules",
        );
    }
    // Other plugins send whole tables, whatever publications say.
    for plugin in &plugins {
        let slot = format!("made_{plugin}");
        node.text(&format!(
            "SELECT pg_create_logical_replication_slot('{slot}', '{plugin}')"
        ))?;
    }
    node.exec(&format!(
        "INSERT INTO customer VALUES (3, 'mail-3', '{CANARY}', 'eu')"
    ))?;
    for plugin in &plugins {
        let slot = format!("made_{plugin}");
        assert_refused(&world.decode("eu", &slot, &[])?.run()?, "slot");
        let create = world
            .program("pg_recvlogical", "eu")?
            .args([
                "-d",
                "postgres",
                "--slot",
                "sub2",
                "--create-slot",
                "-P",
                plugin,
            ])
            .run()?;
        assert_refused(&create, "is not allowed by the region rules");
        // Inside the region they work as ever.
        let mut inside = world.decode("cn", &slot, &[])?.start()?;
        wait_until("the changes arrive inside", 60, || {
            inside.output_so_far().contains(CANARY) || inside.has_ended()
        });
        let inside = inside.interrupt()?;
        assert!(inside.all().contains(CANARY), "{plugin}: {inside}");
    }

    // WAL as it is has no lane.
    for (region, refused) in [("eu", true), ("cn", false)] {
        let dir = node.dir().join(format!("wal-{region}"));
        std::fs::create_dir(&dir)?;
        host::give(&dir)?;
        let mut receiver = world
            .program("pg_receivewal", region)?
            .args(["--no-loop", "-D"])
            .arg(&dir)
            .start()?;
        if refused {
            assert_refused(
                &receiver.wait(60)?,
                "replication connection from 127.0.0.1 with certificate",
            );
            assert_eq!(std::fs::read_dir(&dir)?.count(), 0);
        } else {
            wait_until("WAL arrives inside", 60, || {
                receiver.has_ended()
                    || std::fs::read_dir(&dir).is_ok_and(|mut all| all.next().is_some())
            });
            receiver.interrupt()?;
            assert_ne!(std::fs::read_dir(&dir)?.count(), 0);
        }
    }
    Ok(())
}

#[test]
fn a_dropped_row_filter_is_refused_and_where_it_passes_ends_the_lane() -> Result<()> {
    let world = World::new()?;
    let node = &world.node;
    let mut running = world.receive_on_lane()?;
    let drop = "ALTER PUBLICATION contacts SET TABLE customer (id, email, country)";
    let mut client = node.client()?;
    for change in [
        drop,
        "ALTER PUBLICATION contacts SET TABLE customer (id, email, country) WHERE (country IN ('eu', 'cn'))",
        "ALTER PUBLICATION contacts SET TABLE customer WHERE (country IN ('eu'))",
    ] {
        let refused = client.refused(change);
        assert_eq!(refused.sqlstate(), "42501", "{change}");
        assert!(
            refused.to_string().contains("could not be used any more")
                || refused.to_string().contains("may not leave the region"),
            "{refused}"
        );
    }
    // What does not widen it passes, and the lane goes on.
    client.batch_execute(
        "ALTER PUBLICATION contacts SET TABLE customer (id, country) WHERE (country IN ('eu') AND id > 0)",
    )?;
    client.batch_execute(
        "ALTER PUBLICATION contacts SET TABLE customer (id, email, country) WHERE (country = 'eu')",
    )?;
    client.batch_execute(&format!(
        "INSERT INTO customer VALUES (8, 'mail-8', '', 'eu'), (9, '{CANARY}-9', '', 'cn')"
    ))?;
    wait_until("the row of eu arrives", 60, || {
        running.output_so_far().contains("mail-8") || running.has_ended()
    });
    let received = running.output_so_far();
    assert!(
        received.contains("mail-8") && !received.contains(CANARY),
        "{received}"
    );

    // Where the gate only warns, the lane closes.
    node.alter_system("custodian.enforce_ddl", "warn")?;
    node.exec(drop)?;
    wait_until("the receiver has been ended", 60, || running.has_ended());
    wait_until("the end is recorded", 60, || {
        node.text("SELECT reason FROM custodian.guard_events WHERE gate = 'sentinel'")
            .is_ok_and(|reason| {
                reason.contains("without a row filter that implies: country IN ('eu')")
            })
    });
    let options = ["proto_version=1", "publication_names=contacts"];
    assert_refused(
        &world.decode("eu", "sub", &options)?.run()?,
        "without a row filter",
    );
    Ok(())
}

#[test]
fn what_a_change_would_end_is_shown_before_it_is_made() -> Result<()> {
    let world = World::new()?;
    let node = &world.node;
    let mut running = world.receive_on_lane()?;
    let mut client = node.client()?;
    let shown = "SELECT flow, role, peer, reason FROM custodian.would_end()";
    assert_eq!(client.text(shown)?, "");

    // In a transaction, which is rolled back.
    client.batch_execute("BEGIN; SELECT custodian.revoke_transfer('shop.eu', 'over')")?;
    assert_eq!(
        client.text(shown)?,
        "replication on lane 1|eu_sub|127.0.0.1 with certificate \"/O=eu/CN=eu_sub\"|Lane 1 was closed, or its transfer has ended."
    );
    client.batch_execute("ROLLBACK")?;
    assert_eq!(client.text(shown)?, "");
    // Other rules, before they are put into place.
    let moved = RULES.replace("eu authority\" eu acme", "eu authority\" eu other");
    let under =
        |rules: &str| format!("SELECT reason FROM custodian.would_end($rules${rules}$rules$)");
    assert_eq!(
        client.text(&under(&moved))?,
        "Lane 1 is for another organisation."
    );
    assert_eq!(client.text(&under(RULES))?, "");
    // From another database the lane cannot be read, but that the peer would be in another place is known.
    let mut other = node.create_database("other")?;
    other.batch_execute("CREATE EXTENSION pg_custodian")?;
    assert_eq!(
        other.text(&under(&moved))?,
        "The rules would put its peer into another place, for which its lane may not be: look in database \"postgres\"."
    );
    assert_eq!(other.text(&under(RULES))?, "");
    drop(other);
    // Sessions that would be outside.
    let strange = RULES.replace("local postgres", "local somebody");
    assert_eq!(
        client.text(&format!(
            "SELECT flow, role, peer FROM custodian.would_end($rules${strange}$rules$) WHERE pid = pg_backend_pid()"
        ))?,
        "session|postgres|unix socket"
    );
    let wrong = client.refused(&under("region cn\nnetwork 10.0.0.0/8 eu\n"));
    assert_eq!(wrong.sqlstate(), "22023");
    assert!(format!("{wrong:?}").contains("Line 2"), "{wrong:?}");
    // The file as it is now, before the server reads it.
    let file = "custodian_regions.conf";
    node.write_file(file, &moved)?;
    assert_eq!(
        client.text("SELECT count(*) FROM custodian.would_end()")?,
        "1"
    );
    node.write_file(file, RULES)?;

    // For stewards and monitors.
    node.client_as("watch", "postgres")?.text(shown)?;
    let stranger = node.client_as("eu_sub", "postgres")?.refused(shown);
    assert_eq!(stranger.sqlstate(), "42501");

    // Whoever changes something is told, too.
    assert!(!running.has_ended());
    let said = node.psql("SELECT custodian.close_lane(1, 'over')")?;
    assert!(
        said.all()
            .contains("NOTICE:  the replication on lane 1 of 127.0.0.1"),
        "{said}"
    );
    wait_until("the receiver has been ended", 60, || running.has_ended());
    // The slot that is left is a finding.
    assert_eq!(
        node.text("SELECT object FROM custodian.check() WHERE code = 'slot-of-closed-lane'")?,
        "sub"
    );
    Ok(())
}

#[test]
fn no_other_publication_takes_the_name_of_that_of_a_lane_and_what_ends_a_lane_is_said() -> Result<()>
{
    let world = World::new()?;
    let node = &world.node;
    // The lanes are looked at between rounds.
    node.alter_system("custodian.naptime", "1h")?;
    let mut running = world.receive_on_lane()?;
    let mut client = node.client()?;
    client.batch_execute("SELECT custodian.permit_publication('contacts', '{cn}', 'inside')")?;
    for sql in [
        "ALTER PUBLICATION contacts RENAME TO old; ALTER PUBLICATION everything RENAME TO contacts",
        "DROP PUBLICATION contacts; ALTER PUBLICATION everything RENAME TO contacts",
        "DROP PUBLICATION contacts; CREATE PUBLICATION contacts FOR TABLE customer",
    ] {
        let error = client.refused(&format!("BEGIN; {sql}"));
        assert_eq!(error.sqlstate(), "42501", "{sql}: {error}");
        let text = error.to_string();
        assert!(
            text.contains("publication \"contacts\" does not fit lane 1") && text.contains("HINT"),
            "{text}"
        );
        client.batch_execute("ROLLBACK")?;
    }
    // One that fits does, and the name of none that a lane names is free.
    client.batch_execute(
        "BEGIN; ALTER PUBLICATION contacts RENAME TO old;
         CREATE PUBLICATION contacts FOR TABLE customer (id, email, country) WHERE (country IN ('eu')); COMMIT;
         ALTER PUBLICATION everything RENAME TO all_of_it; ALTER PUBLICATION all_of_it RENAME TO everything",
    )?;
    // Nor does one grow on a lane that another of its publications has made unusable in the same transaction.
    client.batch_execute(
        "CREATE PUBLICATION second FOR TABLE customer (id, country) WHERE (country IN ('eu'));
         CREATE PUBLICATION third FOR TABLE customer (id, email, country) WHERE (country IN ('eu'));
         SELECT custodian.permit_publication('third', '{cn}', 'inside')",
    )?;
    client.text(&format!(
        "SELECT custodian.open_lane('shop.eu', 'eu_sub', 'sub2', '{{second,third}}', issuer => '{}')",
        Certs::issuer_dn("eu")
    ))?;
    client.batch_execute("BEGIN; DROP PUBLICATION second")?;
    let error = client
        .refused("ALTER PUBLICATION third SET TABLE customer")
        .to_string();
    assert!(
        error.contains("lane 2 could not be used any more"),
        "{error}"
    );
    client.batch_execute("ROLLBACK; SELECT custodian.close_lane(2, 'tried')")?;
    client.batch_execute(&format!(
        "INSERT INTO customer VALUES (5, 'mail-5', '{CANARY}', 'eu')"
    ))?;
    wait_until("the row of eu arrives", 60, || {
        running.output_so_far().contains("mail-5") || running.has_ended()
    });
    let so_far = running.output_so_far();
    assert!(
        so_far.contains("mail-5") && !so_far.contains(CANARY),
        "{so_far}"
    );

    // A tag that the transfer does not cover. In warn the gate on statements lets it pass, and says what will end.
    node.alter_system("custodian.enforce_ddl", "warn")?;
    let notice = "NOTICE:  the replication on lane 1 of 127.0.0.1";
    let tag = |category: &str| {
        format!(
            "SELECT custodian.tag_column('customer', 'email', '{category}', '{{shop.orders}}', residency => '{{cn,eu}}')"
        )
    };
    let ended = |running: &mut integration::Running| {
        wait_until("the receiver has been ended", 60, || running.has_ended());
        wait_until("the slot is free", 60, || world.walsenders() == "0");
    };
    let said = node.psql(&tag("user.financial"))?;
    assert!(
        said.success()
            && said.all().contains(notice)
            && said.all().contains("Lane 1 cannot be used."),
        "{said}"
    );
    ended(&mut running);
    node.exec(&tag("user.contact.email"))?;

    // The transfer's end is said, ends what runs, and lets nothing begin.
    let mut running = world.receive_on_lane()?;
    let said = node.psql("SELECT custodian.revoke_transfer('shop.eu', 'over')")?;
    assert!(said.success() && said.all().contains(notice), "{said}");
    ended(&mut running);
    assert_eq!(
        node.text(
            "SELECT count(DISTINCT reason) FROM custodian.guard_events WHERE gate = 'sentinel' AND object = 'replication on lane 1'
             AND (reason LIKE 'Lane 1 cannot be used.%' OR reason = 'Lane 1 was closed, or its transfer has ended.')"
        )?,
        "2"
    );
    let options = ["proto_version=1", "publication_names=contacts"];
    assert_refused(
        &world.decode("eu", "sub", &options)?.run()?,
        "No lane is open for it.",
    );
    Ok(())
}

#[test]
fn subscriptions_servers_and_settings_that_other_rules_do_not_allow_are_found() -> Result<()> {
    let world = World::new()?;
    let node = &world.node;
    let file = "custodian_regions.conf";
    node.write_file(
        file,
        &format!(
            "{RULES}local courier\nextension postgres_fdw\nsetting archive_command /bin/true cn shop\n"
        ),
    )?;
    node.reload()?;
    wait_until("the new rules are in force", 60, || {
        node.exec("CREATE EXTENSION IF NOT EXISTS postgres_fdw")
            .is_ok()
    });
    node.alter_system("archive_command", "/bin/true")?;
    node.exec(
        "CREATE SERVER near FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '192.0.2.9');
         CREATE SUBSCRIPTION s CONNECTION 'host=192.0.2.9 dbname=x connect_timeout=2' PUBLICATION p
           WITH (connect = false, slot_name = NONE);
         ALTER SUBSCRIPTION s SET (slot_name = 's');
         ALTER SUBSCRIPTION s ENABLE;
         CREATE ROLE courier SUPERUSER",
    )?;
    // By a socket, which is inside for some roles: the owner's counts, not that of whoever looks.
    for (role, name) in [("postgres", "mine"), ("courier", "theirs")] {
        node.exec(&format!(
            "SET SESSION AUTHORIZATION {role};
             CREATE SERVER {name} FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '/nowhere');
             CREATE SUBSCRIPTION {name} CONNECTION 'host=/nowhere dbname=x' PUBLICATION p
               WITH (connect = false, slot_name = NONE);
             ALTER SUBSCRIPTION {name} SET (slot_name = '{name}');
             ALTER SUBSCRIPTION {name} ENABLE"
        ))?;
    }
    let rules = RULES.replace(
        "network 192.0.2.0/24 cn shop",
        "network 192.0.2.0/24 eu acme\nextension postgres_fdw",
    );
    let ending = |rules: &str| {
        node.text(&format!(
            "SELECT flow, peer, role FROM custodian.would_end($rules${rules}$rules$) WHERE flow IN ('subscription', 'foreign server') ORDER BY 1, 2"
        ))
    };
    assert_eq!(
        ending(&rules)?,
        "foreign server|near|\nforeign server|theirs|\nsubscription|s|postgres\nsubscription|theirs|courier"
    );
    assert_eq!(
        ending(&format!("{RULES}local courier\nextension postgres_fdw\n"))?,
        ""
    );
    node.write_file(file, &rules)?;
    node.reload()?;
    wait_until("the subscription is disabled", 90, || {
        node.text("SELECT subenabled FROM pg_subscription WHERE subname = 's'")
            .is_ok_and(|enabled| enabled == "f")
    });
    wait_for_answer(
        node,
        "SELECT object, outcome FROM custodian.guard_events WHERE gate = 'sentinel' ORDER BY object COLLATE \"C\"",
        "foreign server near|warned\nforeign server theirs|warned\nsetting archive_command|warned\n\
         subscription s|refused\nsubscription theirs|refused",
    );
    let found = "SELECT object, problem LIKE '%it is disabled%' FROM custodian.check()
         WHERE code IN ('subscription-not-allowed', 'foreign-server-not-allowed') ORDER BY code, object";
    for role in ["postgres", "courier"] {
        assert_eq!(
            node.text(&format!("SET SESSION AUTHORIZATION {role}; {found}"))?,
            "near|f\ntheirs|f\ns|t\ntheirs|t",
            "{role}"
        );
    }
    assert_eq!(
        node.text("SELECT subenabled FROM pg_subscription WHERE subname = 'mine'")?,
        "t"
    );
    Ok(())
}

#[test]
fn a_standby_ends_what_its_own_rules_do_not_allow() -> Result<()> {
    let world = World::new()?;
    let standby = world
        .node
        .standby("standby")
        .loopback()
        .copy_locally()
        .tls(&world.certs, "cn")?
        .hba("hostssl replication all all cert")
        .conf("custodian.region = 'cn'")
        .start()?;
    world.node.wait_for_catchup(&standby, 60)?;
    let dir = standby.dir().join("wal");
    std::fs::create_dir(&dir)?;
    host::give(&dir)?;
    let mut receiver = standby
        .program("pg_receivewal")?
        .over_tcp()
        .role("eu_sub")
        .cert(&world.certs.client("cn", "eu_sub")?)
        .args(["--no-loop", "-D"])
        .arg(&dir)
        .start()?;
    wait_until("the standby passes WAL on", 60, || {
        standby
            .text("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
            .is_ok_and(|count| count == "1")
    });
    let rules = RULES.replace("cn authority\" cn shop", "cn authority\" eu acme");
    standby.write_file("custodian_regions.conf", &rules)?;
    standby.reload()?;
    wait_until("the receiver has been ended", 60, || receiver.has_ended());
    standby.wait_for_log("which is not allowed any more", 30);
    assert!(
        standby
            .text("SELECT object, outcome FROM custodian.guard_events WHERE gate = 'sentinel'")?
            .contains("replication|refused")
    );
    // Promoted, it goes on as a primary.
    standby.promote()?;
    wait_until("the worker of standbys has ended", 60, || {
        standby
            .text("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_custodian sentinel'")
            .is_ok_and(|count| count == "0")
    });
    Ok(())
}
