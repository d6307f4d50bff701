//! What roles with wide rights, and owners of tables and types, cannot do to the extension's own tables, to keys
//! and to holds.

use integration::{Cluster, Result, Sql, quote_literal, wait_until};
use postgres::Client;

fn node(name: &str) -> Result<Cluster> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.naptime = 3600")
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian; CREATE ROLE counsel;
         CREATE ROLE alice LOGIN; CREATE ROLE mallory LOGIN;
         CREATE SCHEMA shop; GRANT USAGE, CREATE ON SCHEMA shop TO alice, mallory;
         SELECT custodian.define_purpose('shop.account', 'contract', '1 year')",
    )?;
    Ok(node)
}

fn hold(node: &Cluster, scope: &str) -> Result<String> {
    node.text(&format!("SELECT {}", place(scope)))
}

fn place(scope: &str) -> String {
    format!("custodian.place_hold('case 7', 'counsel', current_date + 30, 'court order', {scope})")
}

#[track_caller]
fn refused(client: &mut Client, sql: &str, sqlstate: &str) -> String {
    let error = client.refused(sql);
    assert_eq!(error.sqlstate(), sqlstate, "{sql}: {error}");
    error.to_string()
}

const SUBJECTS: &str = "
    SET ROLE alice;
    CREATE TABLE shop.customer (id int PRIMARY KEY, email text, seen timestamptz);
    INSERT INTO shop.customer VALUES (1, 'a@example.org', '2024-01-01'), (2, 'b@example.org', '2024-01-01');
    SELECT custodian.tag_table('shop.customer', clock => 'seen', subject_kind => 'customer', subject_key => '{id}');
    RESET ROLE";

#[test]
fn roles_that_read_or_write_all_data_reach_no_table_of_the_extension() -> Result<()> {
    let node = node("all-data")?;
    node.exec(SUBJECTS)?;
    hold(&node, "subject_kind => 'customer', subject_key => '{1}'")?;
    node.exec("CREATE ROLE reader LOGIN; GRANT pg_read_all_data TO reader; CREATE ROLE writer LOGIN; GRANT pg_read_all_data, pg_write_all_data TO writer")?;
    let tables = node.text(
        "SELECT relname FROM pg_class WHERE relnamespace = 'custodian'::regnamespace AND relkind IN ('r', 'p')",
    )?;
    // The ledger grows and is sealed meanwhile.
    let entries = "SELECT md5(string_agg(body, ';' ORDER BY entry)) FROM custodian.ledger_entry WHERE entry <= 3";
    let ledger = node.text(entries)?;
    let contents = |client: &mut Client| -> Result<Vec<String>> {
        tables
            .lines()
            .filter(|table| !table.starts_with("ledger_"))
            .map(|table| client.text(&format!("SELECT count(*), md5(string_agg(t::text, ';' ORDER BY t::text)) FROM custodian.{table} t")))
            .collect()
    };
    let before = contents(&mut node.client()?)?;
    let mut reader = node.client_as("reader", "postgres")?;
    let mut writer = node.client_as("writer", "postgres")?;
    for table in tables.lines() {
        let count = format!("SELECT count(*) FROM custodian.{table}");
        assert_eq!(reader.text(&count)?, "0", "{table}");
        assert_eq!(writer.text(&count)?, "0", "{table}");
        writer.batch_execute(&format!("DELETE FROM custodian.{table}"))?;
    }
    writer.batch_execute("UPDATE custodian.hold SET released_at = now()")?;
    refused(
        &mut writer,
        "INSERT INTO custodian.ledger_tail VALUES (1000)",
        "42501",
    );
    assert_eq!(contents(&mut node.client()?)?, before);
    assert_eq!(node.text(entries)?, ledger);
    // There is no row security for sequences.
    writer.batch_execute("SELECT setval('custodian.hold_hold_seq', 100)")?;
    assert_eq!(
        hold(&node, "subject_kind => 'customer', subject_key => '{2}'")?,
        "101"
    );
    writer.batch_execute("SELECT setval('custodian.hold_hold_seq', 100)")?;
    refused(
        &mut node.client()?,
        &format!("SELECT {}", place("'shop.customer'")),
        "23505",
    );
    for secret in ["secret", "hold", "ledger_entry", "key_ref"] {
        let rows = node.text(&format!("SELECT count(*) > 0 FROM custodian.{secret}"))?;
        assert_eq!(rows, "t", "{secret} has rows that could have been seen");
    }
    // The owner and the public views go on as before, and a superuser's dump has the policy and the hold.
    assert_eq!(
        reader.text("SELECT name FROM custodian.purposes")?,
        "shop.account"
    );
    assert_eq!(node.text("SELECT count(*) FROM custodian.holds")?, "2");
    assert_eq!(node.text("SELECT custodian.seal_ledger() IS NULL")?, "f");
    let dump = node.program("pg_dump")?.run()?.ok()?;
    assert!(dump.contains("case 7") && dump.contains("shop.account"));
    // One by anybody else, who would miss rows, fails.
    let output = node.program("pg_dump")?.role("reader").run()?;
    assert!(!output.success(), "{output}");
    assert!(output.all().contains("row-level security"), "{output}");
    // A role that is exempt from row security is exempt from this.
    node.exec("CREATE ROLE exempt LOGIN BYPASSRLS; GRANT pg_read_all_data TO exempt")?;
    assert_ne!(
        node.client_as("exempt", "postgres")?
            .text("SELECT count(*) FROM custodian.secret")?,
        "0"
    );
    Ok(())
}

#[test]
fn explanations_and_previews_do_not_make_pseudonyms_for_the_owner() -> Result<()> {
    let node = node("oracle")?;
    let mut mallory = node.client_as("mallory", "postgres")?;
    // Code of the owner that runs in an explanation of the owner's row: the cast of a type of its own.
    mallory.batch_execute(
        "CREATE TABLE shop.guess (answer text);
         CREATE TYPE shop.probe AS (n int);
         CREATE FUNCTION shop.ask(shop.probe) RETURNS text LANGUAGE plpgsql AS $$
         BEGIN
             RAISE WARNING 'is %', custodian.sweep_is_pseudonym('x');
             BEGIN
                 RAISE WARNING 'made %', custodian.sweep_pseudonym('victim@example.org');
             EXCEPTION WHEN OTHERS THEN RAISE WARNING 'refused %', SQLSTATE; END;
             RETURN 'k';
         END $$;
         CREATE CAST (shop.probe AS text) WITH FUNCTION shop.ask(shop.probe);
         CREATE TABLE shop.mine (id shop.probe, name text, seen timestamptz);
         INSERT INTO shop.mine VALUES (ROW(1), 'x', '2024-01-01');
         SELECT custodian.tag_table('shop.mine', clock => 'seen');
         SELECT custodian.tag_column('shop.mine', 'name', 'user.name', '{shop.account}', on_expiry => 'hmac')",
    )?;
    let output = node.psql_as(
        "mallory",
        "postgres",
        "SELECT state FROM custodian.explain_row('shop.mine', '{\"id\": \"k\"}')",
    )?;
    let all = output.all();
    assert!(output.success() && all.contains("due"), "{all}");
    assert!(
        all.contains("is f") && all.contains("refused 42501"),
        "{all}"
    );
    assert!(!all.contains("made "), "{all}");
    // A sweep makes them, as it must, and lets a trigger of the owner make others: see docs/limits.md.
    mallory.batch_execute(
        "CREATE FUNCTION shop.try() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO shop.guess VALUES (custodian.sweep_pseudonym('victim@example.org')); RETURN NEW; END $$;
         CREATE TRIGGER try BEFORE UPDATE ON shop.mine FOR EACH ROW EXECUTE FUNCTION shop.try()",
    )?;
    node.alter_system("custodian.max_disposal_fraction", "1")?;
    node.alter_system("custodian.disposal", "on")?;
    node.alter_system("custodian.naptime", "1s")?;
    wait_until("the name is a pseudonym", 60, || {
        node.text("SELECT name <> 'x' FROM shop.mine")
            .is_ok_and(|done| done == "t")
    });
    assert_eq!(node.text("SELECT count(*) FROM shop.guess")?, "1");
    assert_eq!(
        mallory.text("SELECT state FROM custodian.explain_row('shop.mine', '{\"id\": \"k\"}')")?,
        "disposed"
    );
    Ok(())
}

#[test]
fn no_hold_goes_by_values_whose_text_the_owner_of_a_type_can_change() -> Result<()> {
    let node = node("types")?;
    node.exec(
        "SET ROLE alice;
         CREATE TYPE shop.state AS ENUM ('open', 'closed');
         CREATE DOMAIN shop.code AS text CHECK (VALUE <> '');
         CREATE DOMAIN shop.step AS shop.state;
         CREATE TABLE shop.file (id shop.state PRIMARY KEY, state shop.state, step shop.step, code shop.code, n numeric);
         INSERT INTO shop.file VALUES ('open', 'open', 'open', 'A', 1);
         SELECT custodian.tag_table('shop.file', subject_kind => 'state', subject_key => '{id}');
         CREATE TABLE shop.person (id int PRIMARY KEY);
         SELECT custodian.tag_table('shop.person', subject_kind => 'person', subject_key => '{id}');
         CREATE TABLE shop.note (person shop.state);
         SELECT custodian.tag_table('shop.note', subject_kind => 'person', subject_via => '{person}')",
    )?;
    let mut client = node.client()?;
    for scope in [
        "'shop.file', match => '{\"state\":\"open\"}'",
        "'shop.file', match => '{\"step\":\"open\"}'",
        "subject_kind => 'state', subject_key => '{open}'",
        "subject_kind => 'person', subject_key => '{1}'",
    ] {
        let text = refused(&mut client, &format!("SELECT {}", place(scope)), "42809");
        assert!(text.contains("The owner of its type"), "{scope}: {text}");
        assert!(!text.contains("open"), "{scope}: {text}");
    }
    let text = refused(
        &mut client,
        &format!("SELECT {}", place("'shop.file', match => '{\"n\":1}'")),
        "42809",
    );
    assert!(text.contains("several ways"), "{text}");
    // A domain over a type of the server is as good as that type.
    hold(&node, "'shop.file', match => '{\"code\":\"A\"}'")?;
    refused(&mut client, "DELETE FROM shop.file", "23001");
    Ok(())
}

#[test]
fn the_first_tag_of_a_cleared_column_does_not_free_the_others() -> Result<()> {
    let node = node("cleared")?;
    node.exec(
        "CREATE TABLE shop.file (id int, body text, seen timestamptz);
         ALTER TABLE shop.file OWNER TO alice;
         INSERT INTO shop.file VALUES (1, 'evidence', '2024-01-01');
         SELECT custodian.clear_column('shop.file', 'id')",
    )?;
    hold(&node, "'shop.file'")?;
    let mut alice = node.client_as("alice", "postgres")?;
    refused(&mut alice, "UPDATE shop.file SET body = ''", "23001");
    refused(
        &mut alice,
        "SELECT custodian.tag_column('shop.file', 'id', 'user.id', '{shop.account}')",
        "23001",
    );
    refused(
        &mut alice,
        "SECURITY LABEL FOR custodian ON COLUMN shop.file.id IS '{\"category\":\"user.id\",\"sensitivity\":\"personal\",\"purposes\":[\"shop.account\"]}'",
        "23001",
    );
    refused(&mut alice, "UPDATE shop.file SET body = ''", "23001");
    Ok(())
}

#[test]
fn the_type_of_a_typed_table_does_not_change_held_columns() -> Result<()> {
    let node = node("typed")?;
    node.exec(
        "SET ROLE alice;
         CREATE TYPE shop.form AS (id int, body text);
         CREATE TABLE shop.file OF shop.form;
         INSERT INTO shop.file VALUES (1, '17');
         CREATE TYPE shop.free AS (id int, body text);
         CREATE TABLE shop.other OF shop.free;
         INSERT INTO shop.other VALUES (1, '17')",
    )?;
    hold(&node, "'shop.file'")?;
    let mut alice = node.client_as("alice", "postgres")?;
    for change in [
        "ALTER ATTRIBUTE body TYPE varchar(2) CASCADE",
        "DROP ATTRIBUTE body CASCADE",
    ] {
        let sql = format!("ALTER TYPE shop.form {change}");
        let text = refused(&mut alice, &sql, "23001");
        assert!(text.contains("case 7"), "{text}");
        alice.batch_execute(&sql.replace("form", "free"))?;
    }
    assert_eq!(alice.text("SELECT body FROM shop.file")?, "17");
    Ok(())
}

#[test]
fn a_failed_import_leaves_no_keys_in_the_log() -> Result<()> {
    let node = node("import")?;
    let keys = node.text("SELECT custodian.export_keys()")?;
    let secret = keys
        .lines()
        .find_map(|line| line.strip_prefix("key ")?.rsplit(' ').next())
        .ok_or("no key in the export")?;
    // Of another database: not known here.
    let mut other = node.create_database("other")?;
    other.batch_execute("CREATE EXTENSION pg_custodian")?;
    let import = format!("SELECT custodian.import_keys({})", quote_literal(&keys));
    refused(&mut other, &import, "42704");
    refused(
        &mut other,
        &format!(
            "DO $do$ BEGIN PERFORM custodian.import_keys({}); END $do$",
            quote_literal(&keys)
        ),
        "42704",
    );
    let damaged = import.replace("key ", "kee ");
    let _error = other.refused(&damaged);
    // Statements that fail are logged, also after an import.
    assert_eq!(node.text(&format!("{import}; SELECT 1"))?, "0\n1");
    refused(&mut other, "SELECT 'seen in the log'::int", "22P02");
    node.wait_for_log("STATEMENT:  SELECT 'seen in the log'", 30);
    let log = node.log();
    assert!(log.contains("is not known to this database"), "{log}");
    assert!(!log.contains(secret), "{log}");
    Ok(())
}

#[test]
fn a_kind_of_subject_is_shared_between_owners_by_stewards_only() -> Result<()> {
    let node = node("kinds")?;
    node.exec(SUBJECTS)?;
    hold(&node, "subject_kind => 'customer', subject_key => '{1}'")?;
    let mut mallory = node.client_as("mallory", "postgres")?;
    mallory.batch_execute("CREATE TABLE shop.guess (id int PRIMARY KEY, customer int)")?;
    for subject in ["subject_key => '{id}'", "subject_via => '{customer}'"] {
        let text = refused(
            &mut mallory,
            &format!(
                "SELECT custodian.tag_table('shop.guess', subject_kind => 'customer', {subject})"
            ),
            "42501",
        );
        assert!(text.contains("another owner"), "{text}");
    }
    refused(
        &mut mallory,
        "SECURITY LABEL FOR custodian ON TABLE shop.guess IS '{\"subject\":{\"kind\":\"customer\",\"key\":[\"id\"]}}'",
        "42501",
    );
    // A kind of its own, further tables of the same owner, and a steward's decision.
    mallory.batch_execute(
        "SELECT custodian.tag_table('shop.guess', subject_kind => 'guess', subject_key => '{id}')",
    )?;
    let mut alice = node.client_as("alice", "postgres")?;
    alice.batch_execute(
        "CREATE TABLE shop.orders (id int, customer int REFERENCES shop.customer);
         SELECT custodian.tag_table('shop.orders', subject_kind => 'customer', subject_via => '{customer}')",
    )?;
    mallory.batch_execute("CREATE TABLE shop.partner (id int PRIMARY KEY)")?;
    node.exec("SELECT custodian.tag_table('shop.partner', subject_kind => 'customer', subject_key => '{id}')")?;
    Ok(())
}
