//! The region guard on channels that need no second region: settings, foreign servers, tablespaces, extensions, files, and
//! publications that grow. One node, known by its unix socket.

use integration::{Cluster, Result, Sql};

const RULES: &str = r#"
region cn
region eu
network 192.0.2.0/24 cn shop
network 198.51.100.0/24 eu shop
local postgres
setting archive_command "true" cn shop
setting archive_command "cp %p /eu/%f" eu shop
setting log_destination "stderr,syslog" cn shop
setting log_directory "/eu-free/log" cn shop
extension plperlu
"#;

fn builder(enforce: &str) -> integration::Builder {
    Cluster::builder("node")
        .preload("pg_custodian")
        .conf("custodian.region = 'cn'")
        .conf(&format!("custodian.enforce = '{enforce}'"))
}

fn start(enforce: &str) -> Result<Cluster> {
    let node = builder(enforce).conf("archive_mode = on").start()?;
    set_rules(&node, RULES)?;
    Ok(node)
}

fn set_rules(node: &Cluster, text: &str) -> Result<()> {
    node.write_file("custodian_regions.conf", text)?;
    node.reload()
}

/// Fails unless the statement is refused by the guard; the text of the error.
#[track_caller]
fn refused(node: &Cluster, sql: &str) -> Result<String> {
    let error = node.client()?.refused(sql);
    assert_eq!(error.sqlstate(), "42501", "{sql}: {error}");
    let text = error.to_string();
    assert!(
        text.contains("region") && text.contains("HINT"),
        "{sql}: {text}"
    );
    Ok(text)
}

#[test]
fn channel_settings_by_alter_system() -> Result<()> {
    let node = start("on")?;
    for set in [
        "archive_command = 'curl -T %p https://eu.example/'",
        "archive_command = 'true '",
        "archive_library = 'other'",
        "restore_command = 'true'",
        "archive_cleanup_command = 'true'",
        "recovery_end_command = 'true'",
        "ssl_passphrase_command = 'true'",
        "primary_conninfo = 'host=198.51.100.7'",
        "primary_conninfo = 'host=db.example.com'",
        "primary_conninfo = 'service=elsewhere'",
        "log_destination = 'syslog'",
        "log_directory = '/mnt/elsewhere'",
        "log_directory = '../elsewhere'",
        "log_filename = '../../elsewhere/%a.log'",
        "log_filename = '.%./.%./mnt/x'",
        "log_filename = 'a/%a.log'",
        "log_filename = '..%D'",
        "log_filename = '%Z.log'",
        "log_filename = '%'",
        "shared_preload_libraries = ''",
        "shared_preload_libraries = 'other'",
    ] {
        let text = refused(&node, &format!("ALTER SYSTEM SET {set}"))?;
        assert!(!text.contains("curl"), "{text}");
    }
    let text = refused(&node, "ALTER SYSTEM SET archive_command = 'cp %p /eu/%f'")?;
    assert!(text.contains("in region \"eu\""), "{text}");
    let mut client = node.client()?;
    for set in [
        "archive_command = 'true'",
        "archive_command = ''",
        "archive_library = ''",
        "restore_command = ''",
        "archive_cleanup_command = ''",
        "recovery_end_command = ''",
        "ssl_passphrase_command = ''",
        "primary_conninfo = ''",
        "primary_conninfo = 'host=192.0.2.7'",
        "log_destination = 'stderr,syslog'",
        "log_destination = 'csvlog'",
        "log_directory = 'logs/today'",
        "log_directory = '/eu-free/log'",
        "log_filename = 'postgresql-%a.log'",
        "shared_preload_libraries = 'other, pg_custodian'",
        "work_mem = '8MB'",
    ] {
        client.batch_execute(&format!("ALTER SYSTEM SET {set}"))?;
    }
    client.batch_execute("ALTER SYSTEM RESET ALL")?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    let events = node.text(
        "SELECT count(*) FROM custodian.guard_events WHERE gate = 'settings' AND outcome = 'refused'",
    )?;
    assert_ne!(events, "0");
    // Where the value in force is one of ALTER SYSTEM's, taking it away may leave one without the library.
    node.alter_system("shared_preload_libraries", "pg_custodian")?;
    node.restart()?;
    for reset in [
        "RESET shared_preload_libraries",
        "SET shared_preload_libraries TO DEFAULT",
        "RESET ALL",
    ] {
        let text = refused(&node, &format!("ALTER SYSTEM {reset}"))?;
        assert!(text.contains("set by ALTER SYSTEM"), "{text}");
    }
    assert_eq!(
        node.text(
            "SELECT DISTINCT object FROM custodian.guard_events WHERE gate = 'settings' AND object ~ 'RESET' ORDER BY 1"
        )?,
        "ALTER SYSTEM RESET ALL\nALTER SYSTEM RESET shared_preload_libraries"
    );
    node.exec("ALTER SYSTEM RESET work_mem")?;
    Ok(())
}

#[test]
fn channel_settings_by_file_keep_the_old_value() -> Result<()> {
    let node = start("on")?;
    node.append_conf("archive_command = 'true'")?;
    node.reload()?;
    assert_eq!(node.text("SHOW archive_command")?, "true");
    node.append_conf("archive_command = 'curl -T %p https://eu.example/'")?;
    node.reload()?;
    assert_eq!(node.text("SHOW archive_command")?, "true");
    node.wait_for_log(
        "No \"setting\" line of the region rules has exactly this value.",
        60,
    );
    // Rules and setting may change in one reload.
    set_rules(
        &node,
        &format!("{RULES}setting archive_command \"curl -T %p https://eu.example/\" cn shop\n"),
    )?;
    assert_eq!(
        node.text("SHOW archive_command")?,
        "curl -T %p https://eu.example/"
    );
    Ok(())
}

#[test]
fn channel_settings_at_server_start() -> Result<()> {
    let node = builder("on")
        .conf("archive_mode = on")
        .conf("archive_command = 'cp %p /eu/%f'")
        .conf("restore_command = 'true'")
        .start()?;
    // There are no rules yet.
    assert_eq!(node.text("SHOW archive_command")?, "");
    node.wait_for_log("archive_command is not used", 10);
    node.exec("CREATE EXTENSION pg_custodian")?;
    assert_eq!(
        node.text(
            "SELECT object, severity FROM custodian.check() WHERE code = 'setting-not-allowed'"
        )?,
        "restore_command|error"
    );
    // Once it is allowed, the value of the file comes into force.
    set_rules(
        &node,
        &format!("{RULES}\nsetting archive_command \"cp %p /eu/%f\" cn shop\n")
            .replace("setting archive_command \"cp %p /eu/%f\" eu shop\n", ""),
    )?;
    assert_eq!(node.text("SHOW archive_command")?, "cp %p /eu/%f");
    Ok(())
}

#[test]
fn channel_settings_in_warn_pass_with_a_warning() -> Result<()> {
    let node = start("warn")?;
    node.exec("ALTER SYSTEM SET archive_command = 'false'")?;
    node.reload()?;
    assert_eq!(node.text("SHOW archive_command")?, "false");
    node.exec("CREATE EXTENSION pg_custodian")?;
    assert_eq!(
        node.text("SELECT outcome, object FROM custodian.guard_events WHERE gate = 'settings'")?,
        "warned|ALTER SYSTEM SET archive_command"
    );
    assert_eq!(
        node.text(
            "SELECT object, severity FROM custodian.check() WHERE code = 'setting-not-allowed'"
        )?,
        "archive_command|warning"
    );
    Ok(())
}

/// The files of an extension that needs dblink, while it is there.
struct Wraps(Vec<std::path::PathBuf>);

impl Wraps {
    fn new() -> Result<Wraps> {
        let share = integration::host::pg_config("--sharedir")?;
        let directory = std::path::Path::new(&share).join("extension");
        let file = |name: &str, text: &str| -> Result<std::path::PathBuf> {
            let file = directory.join(name);
            std::fs::write(&file, text)?;
            Ok(file)
        };
        Ok(Wraps(vec![
            file(
                "custodian_test_wraps.control",
                "default_version = '1'\nrequires = 'dblink'\n",
            )?,
            file("custodian_test_wraps--1.sql", "SELECT 1;\n")?,
        ]))
    }
}

impl Drop for Wraps {
    fn drop(&mut self) {
        for file in &self.0 {
            let _ = std::fs::remove_file(file);
        }
    }
}

#[test]
fn channel_foreign_servers_tablespaces_and_extensions() -> Result<()> {
    let node = start("on")?;
    // Where the extension is not, its own and others come as ever.
    node.exec("CREATE DATABASE other")?;
    node.client_as("postgres", "other")?.batch_execute(
        "CREATE EXTENSION pg_custodian CASCADE; CREATE EXTENSION earthdistance CASCADE",
    )?;
    node.client_as("postgres", "template1")?.batch_execute(
        "CREATE EXTENSION earthdistance CASCADE; DROP EXTENSION earthdistance, cube",
    )?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    for name in ["postgres_fdw", "dblink", "file_fdw"] {
        refused(&node, &format!("CREATE EXTENSION {name}"))?;
    }
    // What it needs comes with it.
    let _wraps = Wraps::new()?;
    let text = refused(&node, "CREATE EXTENSION custodian_test_wraps CASCADE")?;
    assert!(text.contains("extension \"dblink\""), "{text}");
    refused(&node, "CREATE TABLESPACE t LOCATION '/mnt/elsewhere'")?;
    let space = node.data_dir().with_file_name("space");
    std::fs::create_dir(&space)?;
    integration::host::give(&space)?;
    let space = space.display();
    set_rules(
        &node,
        &format!(
            "{RULES}extension postgres_fdw\nextension dblink\nextension file_fdw\ntablespace /mnt/eu eu shop\ntablespace {space} cn shop\n"
        ),
    )?;
    node.exec(&format!("CREATE TABLESPACE kept LOCATION '{space}'"))?;
    let text = refused(&node, "CREATE TABLESPACE t LOCATION '/mnt/eu/'")?;
    assert!(text.contains("in region \"eu\""), "{text}");
    node.exec("CREATE EXTENSION postgres_fdw")?;
    node.exec("CREATE EXTENSION file_fdw")?;
    let mut client = node.client()?;
    for options in [
        "OPTIONS (host '198.51.100.7')",
        "OPTIONS (host '192.0.2.7,198.51.100.7')",
        "OPTIONS (host 'db.example.com')",
        "OPTIONS (host '192.0.2.7', hostaddr '198.51.100.7')",
    ] {
        let text = refused(
            &node,
            &format!("CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw {options}"),
        )?;
        assert!(text.contains("foreign server \"s\""), "{text}");
    }
    node.exec("CREATE EXTENSION dblink")?;
    refused(
        &node,
        "CREATE SERVER s FOREIGN DATA WRAPPER dblink_fdw OPTIONS (hostaddr '198.51.100.7')",
    )?;
    node.exec(
        "CREATE SERVER inside FOREIGN DATA WRAPPER dblink_fdw OPTIONS (hostaddr '192.0.2.7')",
    )?;
    // Another wrapper without a handler leads nowhere, unless dblink_connect() is given its server: that takes any. Nobody knows
    // where one of somebody's own leads.
    node.exec(
        "CREATE FOREIGN DATA WRAPPER own; CREATE SERVER nowhere FOREIGN DATA WRAPPER own;
         CREATE FOREIGN DATA WRAPPER another HANDLER file_fdw_handler",
    )?;
    for statement in [
        "CREATE SERVER s FOREIGN DATA WRAPPER own OPTIONS (hostaddr '198.51.100.7')",
        "ALTER SERVER nowhere OPTIONS (ADD hostaddr '198.51.100.7')",
        "CREATE SERVER s FOREIGN DATA WRAPPER another",
    ] {
        refused(&node, statement)?;
    }
    node.exec("ALTER SERVER nowhere OPTIONS (ADD hostaddr '192.0.2.7')")?;
    let text = refused(
        &node,
        "ALTER FOREIGN DATA WRAPPER own HANDLER file_fdw_handler",
    )?;
    assert!(text.contains("foreign-data wrapper \"own\""), "{text}");
    client.batch_execute(
        "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'db.example.com', hostaddr '192.0.2.7')",
    )?;
    for options in ["SET hostaddr '198.51.100.7'", "DROP hostaddr"] {
        refused(&node, &format!("ALTER SERVER s OPTIONS ({options})"))?;
    }
    client.batch_execute(
        "ALTER SERVER s OPTIONS (ADD dbname 'shop');
         CREATE FOREIGN TABLE there (id int) SERVER s;
         CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
         CREATE FOREIGN TABLE lines (line text) SERVER files OPTIONS (filename '/dev/null')",
    )?;
    for statement in [
        "CREATE FOREIGN TABLE run (line text) SERVER files OPTIONS (program 'cat')",
        "ALTER FOREIGN TABLE lines OPTIONS (DROP filename, ADD program 'cat')",
    ] {
        let text = refused(&node, statement)?;
        assert!(text.contains("runs a program"), "{text}");
    }
    const STANDING: &str = "SELECT code || ' ' || object FROM custodian.check() WHERE code IN ('extension-not-allowed', 'tablespace-not-allowed') ORDER BY 1";
    assert_eq!(node.text(STANDING)?, "");
    // Other rules put the server outside: nothing new may be made on it.
    set_rules(
        &node,
        &format!("{RULES}extension postgres_fdw\nnetwork 192.0.2.7/32 eu shop\n"),
    )?;
    assert_eq!(
        node.text(
            "SELECT object FROM custodian.check() WHERE code = 'foreign-server-not-allowed' ORDER BY object"
        )?,
        "inside\nnowhere\ns"
    );
    assert_eq!(
        node.text(STANDING)?,
        "extension-not-allowed dblink\nextension-not-allowed file_fdw\ntablespace-not-allowed kept"
    );
    refused(&node, "CREATE FOREIGN TABLE there2 (id int) SERVER s")?;
    refused(
        &node,
        "IMPORT FOREIGN SCHEMA public FROM SERVER s INTO public",
    )?;
    Ok(())
}

#[test]
fn channel_copy_with_files_and_programs_from_outside() -> Result<()> {
    let node = start("on")?;
    node.exec("CREATE ROLE boss LOGIN SUPERUSER; CREATE TABLE t (id int)")?;
    let mut boss = node.client_as("boss", "postgres")?;
    for copy in [
        "COPY t TO PROGRAM 'cat'",
        "COPY t FROM PROGRAM 'echo 1'",
        "COPY t TO '/tmp/custodian-never-written'",
        "COPY t FROM '/etc/hostname'",
        "COPY (SELECT 1) TO PROGRAM 'cat'",
    ] {
        let error = boss.refused(copy);
        assert_eq!(error.sqlstate(), "42501", "{copy}: {error}");
        assert!(
            error
                .to_string()
                .contains("from unix socket is not allowed"),
            "{error}"
        );
    }
    // No less so with just the one right that the server asks for.
    node.exec(
        "CREATE EXTENSION pg_custodian; CREATE TABLE tagged (note text); GRANT ALL ON t TO PUBLIC",
    )?;
    for (group, statement) in [
        ("pg_execute_server_program", "COPY t FROM PROGRAM 'echo 1'"),
        ("pg_execute_server_program", "COPY t TO PROGRAM 'cat'"),
        ("pg_read_server_files", "COPY t FROM '/etc/hostname'"),
        (
            "pg_read_server_files",
            "SELECT pg_read_file('/etc/hostname')",
        ),
        (
            "pg_write_server_files",
            "COPY t TO '/tmp/custodian-never-written'",
        ),
        ("pg_read_all_data", "SELECT note FROM tagged"),
        ("pg_read_all_data", "SELECT stavalues1 FROM pg_statistic"),
        ("pg_monitor", "SELECT query FROM pg_stat_activity"),
        ("pg_read_all_stats", "SELECT query FROM pg_stat_activity"),
    ] {
        node.exec(&format!(
            "CREATE ROLE narrow LOGIN; GRANT {group} TO narrow; GRANT EXECUTE ON FUNCTION pg_read_file(text) TO narrow"
        ))?;
        let error = node.client_as("narrow", "postgres")?.refused(statement);
        assert_eq!(error.sqlstate(), "42501", "{group}: {statement}: {error}");
        let text = error.to_string();
        assert!(
            text.contains("from unix socket is not allowed"),
            "{group}: {statement}: {text}"
        );
        node.exec("DROP OWNED BY narrow; DROP ROLE narrow")?;
    }
    // From inside the server decides alone.
    node.exec("COPY t FROM PROGRAM 'echo 1'")?;
    Ok(())
}

#[test]
fn channel_publications_that_grow_without_being_named() -> Result<()> {
    let node = builder("on").conf("wal_level = logical").start()?;
    set_rules(&node, RULES)?;
    node.exec(
        "CREATE TABLE older (id int PRIMARY KEY, b int); CREATE PUBLICATION before FOR TABLE older;
         CREATE SCHEMA past; CREATE TABLE past.parts (id int, b int) PARTITION BY LIST (id); CREATE PUBLICATION past FOR TABLES IN SCHEMA past",
    )?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    const UNLAWFUL: &str = "SELECT object || ' ' || problem FROM custodian.check() WHERE code = 'publication-not-allowed' AND object = 'before'";
    assert_eq!(
        node.text(UNLAWFUL)?,
        "before It carries columns of public.older that may not leave the region. These columns are tagged or unreviewed: public.older.id (unreviewed), public.older.b (unreviewed)."
    );
    node.exec("SELECT custodian.clear_column('older', c) FROM unnest('{id,b}'::text[]) c")?;
    assert_eq!(node.text(UNLAWFUL)?, "");
    node.exec(
        "CREATE SCHEMA open; CREATE SCHEMA aside;
         CREATE TABLE open.a (id int PRIMARY KEY, b int); CREATE TABLE listed (id int PRIMARY KEY, b int);
         CREATE TABLE whole (id int PRIMARY KEY, b int);
         CREATE TABLE parts (id int, b int) PARTITION BY LIST (id); CREATE TABLE part1 (id int, b int);
         CREATE TABLE tree (id int, b int) PARTITION BY LIST (id); CREATE TABLE leaf PARTITION OF tree FOR VALUES IN (1);
         CREATE TABLE more (id int, b int); CREATE TABLE heir (id int, b int); CREATE TABLE plain (id int, b int, g int GENERATED ALWAYS AS (b) STORED);
         CREATE TYPE kind AS (id int, b int); CREATE TABLE typed OF kind;
         CREATE TABLE above (id int, b int); CREATE TABLE root (id int, b int) PARTITION BY LIST (id);
         CREATE TABLE aside.moved (id int); CREATE TABLE aside.clear (id int); CREATE UNLOGGED TABLE open.fast (id int);
         SELECT custodian.define_purpose('shop.p', 'contract', '1 year');
         SELECT custodian.clear_column(t, c) FROM (VALUES ('open.a', 'id'), ('open.a', 'b'), ('listed', 'id'), ('whole', 'id'),
                ('whole', 'b'), ('parts', 'id'), ('parts', 'b'), ('aside.clear', 'id'), ('part1', 'id'),
                ('tree', 'id'), ('tree', 'b'), ('more', 'id'), ('more', 'b'), ('heir', 'id'), ('heir', 'b'), ('plain', 'id'), ('plain', 'b'),
                ('typed', 'id'), ('typed', 'b'), ('above', 'id'), ('root', 'id')) AS v (t, c);
         SELECT custodian.tag_column(t, 'b', 'user.name', '{shop.p}', residency => '{cn}') FROM unnest('{part1,above,root}'::regclass[]) t",
    )?;
    node.exec("CREATE PUBLICATION by_schema FOR TABLES IN SCHEMA open")?;
    node.exec("CREATE PUBLICATION by_list FOR TABLE listed (id), whole, parts, leaf, more, heir, plain, typed")?;
    for sql in [
        "CREATE TABLE open.new (id int)",
        "SET search_path = open; CREATE TABLE new (id int)",
        "CREATE TABLE open.new AS SELECT 1 AS id",
        "SELECT 1 AS id INTO open.new",
        "ALTER TABLE aside.moved SET SCHEMA open",
        "ALTER TABLE open.fast SET LOGGED",
        "ALTER TABLE open.a ADD COLUMN c int",
        "ALTER TABLE whole ADD COLUMN c int",
        "ALTER TABLE parts ADD COLUMN c int",
        "ALTER TABLE parts ATTACH PARTITION part1 FOR VALUES IN (1)",
        // Only a partition is published, or the tables of a type, and what comes under a tagged table.
        "ALTER TABLE tree ADD COLUMN c int",
        "ALTER TYPE kind ADD ATTRIBUTE c int CASCADE",
        "ALTER TABLE root ATTACH PARTITION more FOR VALUES IN (1)",
        "ALTER TABLE heir INHERIT above",
        "CREATE TABLE open.part PARTITION OF root FOR VALUES IN (2)",
        "ALTER TABLE plain ALTER g DROP EXPRESSION",
        "SELECT custodian.tag_column('whole', 'b', 'user.name', '{shop.p}', residency => '{cn}')",
        "SELECT custodian.untag_column('open.a', 'b')",
        "SECURITY LABEL FOR custodian ON COLUMN parts.b IS NULL",
    ] {
        let text = refused(&node, sql)?;
        assert!(text.contains("publication \"by_"), "{sql}: {text}");
    }
    // What somebody published since the transaction began counts.
    let mut early = node.client()?;
    early.batch_execute("CREATE TABLE late (id int PRIMARY KEY)")?;
    early.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")?;
    node.exec(
        "SELECT custodian.clear_column('late', 'id'); CREATE PUBLICATION by_late FOR TABLE late",
    )?;
    let error = early.refused("ALTER TABLE late ADD COLUMN c int");
    assert_eq!(error.sqlstate(), "42501", "{error}");
    early.batch_execute("ROLLBACK")?;
    for sql in [
        "CREATE TABLE new (id int)",
        "CREATE TEMP TABLE new (id int)",
        "CREATE UNLOGGED TABLE open.new (id int)",
        "ALTER TABLE listed ADD COLUMN c int",
        "ALTER TABLE aside.clear SET SCHEMA open",
        "ALTER TABLE whole ADD UNIQUE (b)",
        "SELECT custodian.tag_column('listed', 'b', 'user.name', '{shop.p}', residency => '{cn}')",
        "CREATE TABLE part2 PARTITION OF parts FOR VALUES IN (2)",
        "CREATE TABLE open.leaf2 PARTITION OF tree FOR VALUES IN (2)",
        "CREATE TABLE part3 PARTITION OF root FOR VALUES IN (3)",
        // What carries the parent carries it already.
        "CREATE TABLE past.part PARTITION OF past.parts FOR VALUES IN (1)",
        "ALTER TABLE more ADD COLUMN g int GENERATED ALWAYS AS (b) STORED",
        "ALTER TABLE listed INHERIT above",
        // Within the region a steward permits what nobody has reviewed.
        "SELECT custodian.permit_publication('by_schema', '{cn}', 'standby by logical replication')",
        "CREATE TABLE open.new2 (id int)",
    ] {
        node.exec(sql)?;
    }
    Ok(())
}

#[test]
fn break_glass_is_for_a_superuser_on_the_machine_and_on_record() -> Result<()> {
    let node = builder("on").loopback().start()?;
    set_rules(&node, RULES)?;
    node.exec("CREATE EXTENSION pg_custodian; CREATE ROLE colleague; CREATE ROLE app LOGIN; CREATE TABLE t (id int); GRANT SELECT ON t TO app")?;
    let begin = |reason: &str, second: &str, duration: &str| {
        format!("SELECT custodian.break_glass('{reason}', '{second}', '{duration}')")
    };
    let mut app = node.client_as("app", "postgres")?;
    let read = "SELECT id FROM t";
    assert_eq!(app.refused(read).sqlstate(), "42501");
    assert_eq!(
        app.refused(&begin("x", "colleague", "1 hour")).sqlstate(),
        "42501"
    );
    let mut client = node.client()?;
    for (arguments, sqlstate) in [
        (begin("", "colleague", "1 hour"), "22023"),
        (begin("x", "postgres", "1 hour"), "22023"),
        (begin("x", "nobody", "1 hour"), "42704"),
        (begin("x", "colleague", "9 hours"), "22023"),
        (begin("x", "colleague", "1 month"), "22023"),
        (begin("x", "colleague", "0"), "22023"),
    ] {
        assert_eq!(
            client.refused(&arguments).sqlstate(),
            sqlstate,
            "{arguments}"
        );
    }
    // Loopback is not the machine: a tunnel may end there. The rules take the role for local on both.
    let arguments = begin("x", "colleague", "1 hour");
    let output = node
        .program("psql")?
        .over_tcp()
        .args(["-X", "-v", "VERBOSITY=verbose", "-c", &arguments])
        .run()?;
    let all = output.all();
    assert!(
        !output.success() && all.contains("42501") && all.contains("over the unix socket"),
        "{all}"
    );
    assert_eq!(app.refused(read).sqlstate(), "42501");

    // It counts from this moment, also when the transaction is rolled back, and is on record then.
    client.batch_execute(&format!(
        "BEGIN; {}; ROLLBACK",
        begin("disk full", "colleague", "1 hour")
    ))?;
    app.batch_execute(read)?;
    let events =
        "SELECT object, reason FROM custodian.guard_events WHERE gate = 'break-glass' ORDER BY 1";
    assert_eq!(
        node.text(events)?,
        "begun for 3600 s|disk full Second person: colleague."
    );
    assert_eq!(
        node.text("SELECT outcome FROM custodian.guard_events WHERE gate = 'access' AND role = 'app' AND outcome = 'warned'")?,
        "warned"
    );
    assert_eq!(
        node.text("SELECT severity FROM custodian.check() WHERE code = 'break-glass'")?,
        "error"
    );
    client.batch_execute("SELECT custodian.end_break_glass()")?;
    assert_eq!(
        client
            .refused("SELECT custodian.end_break_glass()")
            .sqlstate(),
        "55000"
    );
    assert_eq!(app.refused(read).sqlstate(), "42501");

    // It ends by itself.
    client.batch_execute(&begin("short", "colleague", "2 seconds"))?;
    app.batch_execute(read)?;
    integration::wait_until("it has ended", 60, || app.batch_execute(read).is_err());
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.ledger WHERE kind = 'break_glass.begun'")?,
        "1"
    );
    Ok(())
}

#[test]
fn channel_functions_of_extensions_from_outside() -> Result<()> {
    let node = start("on")?;
    set_rules(&node, &format!("{RULES}extension dblink\n"))?;
    node.exec(
        "CREATE ROLE boss LOGIN SUPERUSER; CREATE EXTENSION pageinspect; CREATE EXTENSION dblink; CREATE TABLE t (id int);
         INSERT INTO t VALUES (1); CREATE FUNCTION own() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    )?;
    let mut boss = node.client_as("boss", "postgres")?;
    for sql in [
        "SELECT get_raw_page('t', 0)",
        "SELECT * FROM heap_page_items(NULL)",
        "SELECT dblink_connect('host=/tmp')",
        "SELECT * FROM dblink('x', 'SELECT 1') AS (i int)",
    ] {
        let error = boss.refused(sql);
        assert_eq!(error.sqlstate(), "42501", "{sql}: {error}");
        assert!(
            error.to_string().contains("calling a function of "),
            "{sql}: {error}"
        );
    }
    boss.batch_execute("SELECT own()")?;
    node.exec("SELECT get_raw_page('t', 0)")?;
    Ok(())
}

#[test]
fn lines_are_suggested_for_what_was_seen_and_a_file_is_checked_before_it_is_used() -> Result<()> {
    let node = start("warn")?;
    node.exec("CREATE EXTENSION pg_custodian; CREATE ROLE app LOGIN; CREATE TABLE t (id int); GRANT SELECT ON t TO app")?;
    node.client_as("app", "postgres")?
        .batch_execute("SELECT id FROM t")?;
    assert_eq!(
        node.text("SELECT line, events FROM custodian.suggest_rules()")?,
        "local \"app\"|1"
    );
    assert_eq!(
        node.client_as("app", "postgres")?
            .refused("SELECT custodian.suggest_rules()")
            .sqlstate(),
        "42501"
    );
    assert_eq!(
        node.text("SELECT line_number FROM custodian.check_rules(E'region cn\\nnetwork 10.0.0.1/8 cn\\nlocal app\\nnode x')")?,
        "2\n4"
    );
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.check_rules('region cn')")?,
        "0"
    );
    Ok(())
}
