//! Archive lanes: `archive_command` ships WAL outside only while each database has an open lane for exactly that command, and
//! stops when one of them ends.

use integration::{Builder, Cluster, Result, Sql, Stop, wait_until};

const REGISTRATION: &str = "receiver => 'Acme GmbH', contact => 'privacy@acme.example', organisation => 'acme',
    region => 'eu', purposes => '{shop.orders}', method => 'encrypted storage of backups',
    safeguards => 'standard contract no. 7', risks => 'assessed 2026-01, low', rights_channel => 'https://acme.example/rights',
    notice => 'privacy policy of 2026-01-01, section 4'";

/// The place outside, as the server of a storage there would have it.
struct Archive<'a> {
    node: &'a Cluster,
}

impl Archive<'_> {
    fn command(&self) -> String {
        let to = self.node.dir().join("archive");
        format!("cp %p {0}/%f && pwd >> {0}/by", to.display())
    }

    /// Whether a server shipped anything.
    fn is_used_by(&self, node: &Cluster) -> Result<bool> {
        let used = std::fs::read_to_string(self.node.dir().join("archive/by"))?;
        let data = node.data_dir().canonicalize()?;
        Ok(used.lines().any(|line| {
            line == data.display().to_string() || line == node.data_dir().display().to_string()
        }))
    }

    /// Whether anything that was shipped has these bytes.
    fn has(&self, text: &str) -> Result<bool> {
        for file in std::fs::read_dir(self.node.dir().join("archive"))? {
            let bytes = std::fs::read(file?.path())?;
            if bytes
                .windows(text.len())
                .any(|part| part == text.as_bytes())
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn at(node: &Cluster, database: &str, role: &str, sql: &str) -> Result<String> {
    node.client_as(role, database)?.text(sql)
}

fn transfer(node: &Cluster, database: &str, name: &str, more: &str) -> Result<()> {
    at(
        node,
        database,
        "lawyer",
        &format!("SELECT custodian.register_transfer('{name}', {REGISTRATION}, {more})"),
    )?;
    at(
        node,
        database,
        "officer",
        &format!("SELECT custodian.approve_transfer('{name}', 'board of 2026-02')"),
    )?;
    Ok(())
}

const COVERED: &str =
    "categories => '{user.contact}', basis => 'contract', valid_until => now() + interval '1 hour'";

fn open_sql(archive: &Archive, name: &str) -> String {
    format!(
        "SELECT custodian.open_archive_lane('{name}', '{}')",
        archive.command()
    )
}

fn set_rules(node: &Cluster, more: &str) -> Result<()> {
    node.write_file(
        "custodian_regions.conf",
        &format!("region cn\nregion eu\nregion de in eu\nlocal all\n{more}\n"),
    )?;
    node.reload()
}

/// A server in region cn with a table in each of two databases.
fn node() -> Result<Cluster> {
    let node = Cluster::builder("archive")
        .preload("pg_custodian")
        .conf("custodian.region = 'cn'")
        .conf("custodian.enforce = 'on'")
        .conf("custodian.steward_role = 'steward'")
        .conf("archive_mode = on")
        .conf("custodian.naptime = 2")
        .start()?;
    std::fs::create_dir(node.dir().join("archive"))?;
    integration::host::give(&node.dir().join("archive"))?;
    node.exec(
        "CREATE ROLE steward; CREATE ROLE lawyer LOGIN; CREATE ROLE officer LOGIN; GRANT steward TO lawyer, officer",
    )?;
    let mut shop = node.create_database("shop")?;
    for client in [&mut node.client()?, &mut shop] {
        client.batch_execute("CREATE EXTENSION pg_custodian")?;
        client.batch_execute(
            "SELECT custodian.define_purpose('shop.orders', 'contract', '1 year');
             CREATE TABLE customer (id int PRIMARY KEY, email text, country text);
             SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.orders}', residency => '{cn}');
             SELECT custodian.clear_column('customer', c) FROM unnest('{id,country}'::text[]) c",
        )?;
    }
    Ok(node)
}

fn command_becomes(node: &Cluster, wanted: &str) {
    wait_until(&format!("archive_command is '{wanted}'"), 120, || {
        node.text("SHOW archive_command")
            .is_ok_and(|now| now == wanted)
    });
}

/// Writes a value into WAL and has the segment closed.
fn write(node: &Cluster, id: i32, value: &str) -> Result<()> {
    at(
        node,
        "shop",
        "postgres",
        &format!("INSERT INTO customer VALUES ({id}, '{value}', 'cn')"),
    )?;
    node.text("SELECT pg_switch_wal()")?;
    Ok(())
}

fn arrives(archive: &Archive, value: &str) {
    wait_until(&format!("{value} is in the archive"), 120, || {
        archive.has(value).is_ok_and(|there| there)
    });
}

/// A copy of a server that follows it, and archives as well.
fn copy(node: &Cluster, name: &str) -> Builder {
    node.standby(name)
        .preload("pg_custodian")
        .conf("custodian.region = 'cn'")
        .conf("custodian.enforce = 'on'")
        .conf("archive_mode = always")
        .copy_locally()
}

fn has_wal_to_archive(node: &Cluster) -> bool {
    std::fs::read_dir(node.data_dir().join("pg_wal/archive_status")).is_ok_and(|files| {
        files
            .flatten()
            .any(|file| file.path().extension().is_some_and(|kind| kind == "ready"))
    })
}

#[test]
fn wal_is_archived_outside_only_while_each_database_has_an_open_lane() -> Result<()> {
    let node = node()?;
    let archive = Archive { node: &node };
    let command = archive.command();
    let set = format!("ALTER SYSTEM SET archive_command = '{command}'");
    let refusal = |sql: &str| -> Result<(String, String)> {
        let error = node.client()?.refused(sql);
        Ok((error.sqlstate().to_owned(), error.to_string()))
    };
    transfer(&node, "postgres", "shop.backup", COVERED)?;
    transfer(&node, "shop", "shop.backup", COVERED)?;

    // A lane needs a line of the rules that says where the command ships to, and that is where the transfer goes.
    let (code, text) = refusal(&open_sql(&archive, "shop.backup"))?;
    assert_eq!(code, "22023", "{text}");
    set_rules(
        &node,
        &format!("setting archive_command \"{command}\" eu other"),
    )?;
    let (code, text) = refusal(&open_sql(&archive, "shop.backup"))?;
    assert_eq!(code, "22023", "{text}");
    set_rules(
        &node,
        &format!("setting archive_command \"{command}\" de acme"),
    )?;
    let (code, text) = refusal(&set)?;
    assert_eq!(code, "42501", "{text}");
    assert!(text.contains("No archive lane is open for it."), "{text}");

    // WAL has everything: what the transfer does not cover is named, whatever table it is in.
    node.exec(
        "CREATE TABLE other (id int, note text); SELECT custodian.clear_column('other', 'id')",
    )?;
    let (code, text) = refusal(&open_sql(&archive, "shop.backup"))?;
    assert_eq!(code, "55000", "{text}");
    assert!(text.contains("note (unreviewed)"), "{text}");
    node.exec("SELECT custodian.clear_column('other', 'note')")?;
    node.exec("SELECT lo_create(4711)")?;
    let (code, text) = refusal(&open_sql(&archive, "shop.backup"))?;
    assert!(code == "55000" && text.contains("large objects"), "{text}");
    node.exec("SELECT lo_unlink(4711)")?;

    // One database is not enough.
    node.text(&open_sql(&archive, "shop.backup"))?;
    let (code, text) = refusal(&open_sql(&archive, "shop.backup"))?;
    assert_eq!(code, "42710", "{text}");
    wait_until("the other database is named", 60, || {
        refusal(&set).is_ok_and(|(code, text)| {
            code == "42501" && text.contains("No archive lane is open for it in: shop.")
        })
    });
    assert_eq!(
        node.text("SELECT code FROM custodian.check() WHERE code LIKE 'archive-lane%'")?,
        "archive-lane-incomplete"
    );
    let lane = at(
        &node,
        "shop",
        "postgres",
        &open_sql(&archive, "shop.backup"),
    )?;
    wait_until("the command is allowed", 60, || node.exec(&set).is_ok());
    node.reload()?;
    command_becomes(&node, &command);
    write(&node, 1, "canary-first")?;
    arrives(&archive, "canary-first");
    assert_eq!(
        node.text("SELECT transfer, state, region, organisation FROM custodian.archive_lanes")?,
        "shop.backup|open|de|acme"
    );
    // Nothing but exactly this command.
    let (code, text) = refusal(&format!("ALTER SYSTEM SET archive_command = '{command} '"))?;
    assert_eq!(code, "42501", "{text}");

    // What a change would end is shown before, and a tag that the transfer does not cover is refused.
    let mut shop = node.client_as("postgres", "shop")?;
    shop.batch_execute("BEGIN; SELECT custodian.revoke_transfer('shop.backup', 'to see')")?;
    let shown = shop.text("SELECT flow || '|' || peer FROM custodian.would_end()")?;
    assert_eq!(shown, "archiving|region \"de\" of organisation \"acme\"");
    shop.batch_execute("ROLLBACK")?;
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.would_end(E'region cn\\nlocal all')")?,
        "1"
    );
    for change in [
        "SELECT custodian.tag_column('customer', 'email', 'user.financial', '{shop.orders}', residency => '{cn}')",
        "SELECT custodian.tag_table('customer', residency_column => 'country')",
    ] {
        let error = shop.refused(change);
        assert_eq!(error.sqlstate(), "42501", "{error}");
        assert!(
            error.to_string().contains(&format!("lane {lane}")),
            "{error}"
        );
    }

    // It goes on after a restart, and ends when one of the lanes is closed. A server that cannot apply its configuration
    // goes on, which is said, and ends it once it can.
    node.restart()?;
    command_becomes(&node, &command);
    let conf = std::fs::read_to_string(node.data_dir().join("postgresql.conf"))?;
    node.append_conf("this is no setting")?;
    let before = node.log().len();
    at(
        &node,
        "shop",
        "postgres",
        &format!("SELECT custodian.close_lane({lane}, 'contract ended', 'letter')"),
    )?;
    node.wait_for_log(
        "archiving to region de of organisation acme is not allowed any more, and could not be ended",
        120,
    );
    assert_eq!(node.text("SHOW archive_command")?, command);
    assert_eq!(
        node.text("SELECT severity FROM custodian.check() WHERE code = 'archiving-not-ended'")?,
        "error"
    );
    let since = node.log().split_off(before);
    assert!(!since.contains("ended archiving to region de"), "{since}");
    // It is told once in a minute, not over and over.
    let told = since.matches("received SIGHUP").count();
    assert!((1..10).contains(&told), "{told}");
    node.write_file("postgresql.conf", &conf)?;
    node.reload()?;
    command_becomes(&node, "");
    node.wait_for_log("ended archiving to region de of organisation acme", 60);
    node.wait_for_log("archive_command is not used any more", 60);
    let before = node.log().len();
    write(&node, 2, "canary-second")?;
    wait_until("the archiver has nothing to ship with", 120, || {
        node.log()[before..].contains("archiving is not configured")
    });
    assert!(!archive.has("canary-second")?);
    assert_eq!(
        node.text("SELECT object || ': ' || severity FROM custodian.check() WHERE code = 'archiving-stopped'")?,
        "archive_command: error"
    );
    // What belongs to no database is in the ledger of any.
    wait_until("the end is on record", 60, || {
        ["postgres", "shop"].iter().any(|database| {
            at(
                &node,
                database,
                "postgres",
                "SELECT count(*) FROM custodian.guard_events WHERE gate = 'sentinel' AND outcome = 'refused'
                 AND object = 'archiving to region de of organisation acme'
                 AND reason ~ 'The last file that was archived is [0-9A-F]{24}'",
            )
            .is_ok_and(|count| count == "1")
        })
    });
    assert_eq!(
        at(
            &node,
            "shop",
            "postgres",
            "SELECT state, close_reason, recall_notice, archived_until ~ '^[0-9A-F]{24}' FROM custodian.archive_lanes"
        )?,
        "closed|contract ended|letter|t"
    );
    // A restart does not bring it back.
    node.restart()?;
    assert_eq!(node.text("SHOW archive_command")?, "");
    assert!(!archive.has("canary-second")?);

    // With a new lane archiving goes on by itself, with all that was kept meanwhile.
    at(
        &node,
        "shop",
        "postgres",
        &open_sql(&archive, "shop.backup"),
    )?;
    command_becomes(&node, &command);
    arrives(&archive, "canary-second");

    // From the command line it could not be taken away, so it is not used.
    node.stop(Stop::Fast)?;
    node.start_under(&[
        "sh".to_owned(),
        "-c".to_owned(),
        format!("exec \"$@\" -c \"archive_command={command}\""),
        "sh".to_owned(),
    ])?;
    assert_eq!(node.text("SHOW archive_command")?, "");
    assert!(node.log().contains("It was given on the command line"));
    Ok(())
}

#[test]
fn archiving_stops_with_the_transfer_and_for_what_nobody_has_reviewed() -> Result<()> {
    let node = node()?;
    let archive = Archive { node: &node };
    let command = archive.command();
    set_rules(
        &node,
        &format!(
            "setting archive_command \"{command}\" eu acme\nsetting archive_command \"other %p\" eu acme"
        ),
    )?;
    transfer(&node, "postgres", "shop.backup", COVERED)?;
    transfer(&node, "shop", "shop.backup", COVERED)?;
    // Consent and residencies are questions to a row, which an archive does not ask.
    transfer(
        &node,
        "shop",
        "shop.asked",
        "categories => '{user.contact}', basis => 'consent', consent_column => 'agreed', valid_until => now() + interval '1 hour'",
    )?;
    let error = node
        .client_as("postgres", "shop")?
        .refused(&open_sql(&archive, "shop.asked"));
    assert!(
        error.sqlstate() == "55000" && error.to_string().contains("all rows"),
        "{error}"
    );
    for database in ["postgres", "shop"] {
        at(
            &node,
            database,
            "postgres",
            &open_sql(&archive, "shop.backup"),
        )?;
    }
    let set = format!("ALTER SYSTEM SET archive_command = '{command}'");
    wait_until("the command is allowed", 60, || node.exec(&set).is_ok());
    node.reload()?;
    command_becomes(&node, &command);

    // A standby has no lanes, whatever its copy of the primary says, until it is promoted.
    let standby = copy(&node, "standby").start()?;
    assert_eq!(standby.text("SHOW archive_command")?, "");
    assert!(
        standby.log().contains("archive_command is not used"),
        "{}",
        standby.log()
    );
    // One that accepts no connections has no worker that could say so.
    let cold = copy(&node, "cold").conf("hot_standby = off").start()?;
    // A segment in which nothing was written yet is not switched.
    node.exec("SELECT pg_logical_emit_message(true, 'test', 'a record'); SELECT pg_switch_wal()")?;
    for copy in [&standby, &cold] {
        wait_until("it has WAL to archive", 120, || has_wal_to_archive(copy));
        copy.wait_for_log("archiving is not configured", 120);
        assert!(!archive.is_used_by(copy)?);
    }
    assert!(archive.is_used_by(&node)?);
    standby.promote()?;
    command_becomes(&standby, &command);
    wait_until("the promoted one ships", 120, || {
        archive.is_used_by(&standby).is_ok_and(|used| used)
    });
    assert!(!archive.is_used_by(&cold)?);
    drop((standby, cold));

    // A table that is tagged in the transaction that makes it changes nothing; one that is not stops the archive. That waits
    // neither for who has locked a table, nor for a database that nobody can look into.
    node.exec("ALTER DATABASE template1 ALLOW_CONNECTIONS false")?;
    let mut locks = node.client_as("postgres", "shop")?;
    locks.batch_execute("BEGIN; LOCK TABLE customer")?;
    let mut shop = node.client_as("postgres", "shop")?;
    let warned = |sql: &str| -> Result<bool> {
        let output = node.psql_as("postgres", "shop", sql)?;
        output.ok()?;
        Ok(output
            .all()
            .contains("archiving WAL to a place outside will stop"))
    };
    for harmless in [
        "BEGIN; CREATE TABLE reviewed (id int); SELECT custodian.clear_column('reviewed', 'id'); COMMIT",
        "CREATE TEMP TABLE passing (id int); CREATE UNLOGGED TABLE light (id int); CREATE SEQUENCE numbers",
        "BEGIN; CREATE TABLE undone (id int); ROLLBACK",
        "BEGIN; CREATE TABLE gone (id int); DROP TABLE gone; COMMIT",
        "CREATE INDEX ON reviewed (id)",
    ] {
        assert!(!warned(harmless)?, "{harmless}");
    }
    // A lane that does not cover it changes nothing either, where it is for another command, or beside one that does.
    transfer(
        &node,
        "shop",
        "shop.narrow",
        "categories => '{user.contact.email}', basis => 'contract', valid_until => now() + interval '1 hour'",
    )?;
    for (table, narrow) in [("phone", "other %p"), ("fax", command.as_str())] {
        shop.batch_execute(&format!(
            "SELECT custodian.open_archive_lane('shop.narrow', '{narrow}')"
        ))?;
        let covered = format!(
            "BEGIN; CREATE TABLE {table} (number text);
             SELECT custodian.tag_column('{table}', 'number', 'user.contact.phone_number', '{{shop.orders}}', residency => '{{cn}}');
             COMMIT"
        );
        assert!(!warned(&covered)?, "{narrow}");
        shop.batch_execute(&format!("DROP TABLE {table}"))?;
    }
    shop.batch_execute("SELECT custodian.revoke_transfer('shop.narrow', 'only to see')")?;
    assert_eq!(node.text("SHOW archive_command")?, command);
    // What cannot be looked at is not told, and commits. A transaction with nothing that is in the WAL asks nothing.
    locks.batch_execute("LOCK TABLE custodian.archive_lane")?;
    assert!(!warned(
        "SET lock_timeout = '100ms'; CREATE TABLE unseen ()"
    )?);
    assert_eq!(shop.text("SELECT 'unseen'::regclass")?, "unseen");
    node.wait_for_log("could not see whether", 60);
    let before = node.log().len();
    shop.batch_execute("SET lock_timeout = '100ms'; CREATE TEMP TABLE passing (id int)")?;
    shop.batch_execute("RESET lock_timeout")?;
    assert!(!node.log()[before..].contains("could not see whether"));
    locks.batch_execute("ROLLBACK; BEGIN; LOCK TABLE customer")?;
    // Who makes it is told at once, which is before archiving stops.
    assert!(warned("CREATE TABLE unreviewed (id int, note text)")?);
    command_becomes(&node, "");
    locks.batch_execute("ROLLBACK")?;
    node.exec("ALTER DATABASE template1 ALLOW_CONNECTIONS true")?;
    assert!(
        shop.text("SELECT problem FROM custodian.check() WHERE code = 'lane-unusable'")?
            .contains("unreviewed.id (unreviewed)")
    );
    shop.batch_execute(
        "SELECT custodian.clear_column('unreviewed', c) FROM unnest('{id,note}'::text[]) c",
    )?;
    command_becomes(&node, &command);
    assert!(!warned("BEGIN; SELECT lo_unlink(lo_create(4712)); COMMIT")?);
    assert!(warned("SELECT lo_create(4712)")?);
    command_becomes(&node, "");
    shop.batch_execute("SELECT lo_unlink(4712)")?;
    command_becomes(&node, &command);

    // So does a database without the extension, where nobody reviews anything; also where that cannot be written down.
    let in_the_way = node
        .data_dir()
        .join("pg_custodian/archive_lanes/standing.new");
    std::fs::create_dir(&in_the_way)?;
    assert!(warned("CREATE DATABASE bare")?);
    command_becomes(&node, "");
    std::fs::remove_dir(&in_the_way)?;
    wait_until("the database is named", 60, || {
        node.text("SELECT problem FROM custodian.check() WHERE code = 'archive-lane-incomplete'")
            .is_ok_and(|problem| problem.contains("bare"))
    });
    node.exec("DROP DATABASE bare")?;
    command_becomes(&node, &command);

    // In warn the command stays, and what would end is on record.
    node.alter_system("custodian.enforce_settings", "warn")?;
    at(
        &node,
        "shop",
        "lawyer",
        "SELECT custodian.revoke_transfer('shop.backup', 'contract ended')",
    )?;
    node.wait_for_log(
        "custodian.enforce = on would end archiving to region eu",
        120,
    );
    assert_eq!(node.text("SHOW archive_command")?, command);
    // Once the gate is on, it ends; and a transfer that ends by itself ends it as well.
    node.alter_system("custodian.enforce_settings", "on")?;
    command_becomes(&node, "");
    transfer(
        &node,
        "shop",
        "shop.short",
        "categories => '{user.contact}', basis => 'contract', valid_until => now() + interval '1 hour'",
    )?;
    at(&node, "shop", "postgres", &open_sql(&archive, "shop.short"))?;
    command_becomes(&node, &command);
    at(
        &node,
        "shop",
        "postgres",
        "UPDATE custodian.transfer SET valid_until = now() + interval '5 seconds' WHERE transfer = 'shop.short'",
    )?;
    command_becomes(&node, "");
    Ok(())
}
