//! What the owner of a table gains from being disposed of: nothing. Each table carries one kind of code that
//! the sweep runs into; it tries to become superuser and to write where it may not.

use integration::{Cluster, Result, Sql, poll};

/// What the superuser prepares.
const BEFORE: &str = "
CREATE EXTENSION pg_custodian;
CREATE TABLE public.canary (who text, what text);
CREATE ROLE mallory LOGIN;
CREATE ROLE alice NOLOGIN;
CREATE SCHEMA evil AUTHORIZATION mallory;
CREATE SCHEMA good AUTHORIZATION alice;
SELECT custodian.define_purpose('test.account', 'contract', '100 days');
CREATE TABLE good.customer (id bigint PRIMARY KEY, email text, seen timestamptz);
ALTER TABLE good.customer OWNER TO alice;
INSERT INTO good.customer SELECT n, n || '@example.com', now() - interval '1 year' FROM generate_series(1, 10) n;
SELECT custodian.tag_table('good.customer', clock => 'seen', on_expiry => 'delete');
SELECT custodian.tag_column('good.customer', 'email', 'user.contact.email', '{test.account}')";

/// What mallory makes, in a session of her own.
const TABLES: &str = r"
CREATE TABLE evil.trace (who name, what text);
CREATE FUNCTION evil.attack(what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO evil.trace VALUES (current_user, what);
    BEGIN ALTER ROLE mallory SUPERUSER; EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN RESET ROLE; ALTER ROLE mallory SUPERUSER; EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN SET ROLE postgres; ALTER ROLE mallory SUPERUSER; EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN RESET SESSION AUTHORIZATION; ALTER ROLE mallory SUPERUSER; EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN PERFORM set_config('role', 'none', false); ALTER ROLE mallory SUPERUSER; EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN INSERT INTO public.canary VALUES (current_user, what); EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN DELETE FROM custodian.run; EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN PERFORM pg_advisory_lock(4711); EXCEPTION WHEN OTHERS THEN NULL; END;
    PERFORM set_config('search_path', 'evil, pg_catalog', false);
END $$;
CREATE FUNCTION evil.fire() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM evil.attack(TG_NAME);
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE FUNCTION evil.expression(value text, what text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM evil.attack(what);
    RETURN value;
END $$;
-- A shadow of an operator that statements of the extension use.
CREATE FUNCTION evil.never(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS 'SELECT evil.attack(''operator''); SELECT true';
CREATE OPERATOR evil.<= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.never);

CREATE TABLE evil.plain_trigger (id bigint PRIMARY KEY, email text, seen timestamptz);
INSERT INTO evil.plain_trigger SELECT n, n || '@example.com', now() - interval '1 year' FROM generate_series(1, 10) n;
CREATE TABLE evil.deferred_trigger (LIKE evil.plain_trigger INCLUDING ALL);
CREATE TABLE evil.generated_column (LIKE evil.plain_trigger INCLUDING ALL);
CREATE TABLE evil.index_expression (LIKE evil.plain_trigger INCLUDING ALL);
CREATE TABLE evil.index_predicate (LIKE evil.plain_trigger INCLUDING ALL);
CREATE TABLE evil.check_constraint (LIKE evil.plain_trigger INCLUDING ALL);
CREATE TABLE evil.row_security (LIKE evil.plain_trigger INCLUDING ALL);
CREATE TABLE evil.rule_nothing (LIKE evil.plain_trigger INCLUDING ALL);
CREATE TABLE evil.trigger_null (LIKE evil.plain_trigger INCLUDING ALL);
CREATE TABLE evil.raises (LIKE evil.plain_trigger INCLUDING ALL);
DO $$
DECLARE tab text;
BEGIN
    FOREACH tab IN ARRAY ARRAY['deferred_trigger', 'generated_column', 'index_expression', 'index_predicate',
        'check_constraint', 'row_security', 'rule_nothing', 'trigger_null', 'raises'] LOOP
        EXECUTE format('INSERT INTO evil.%I SELECT * FROM evil.plain_trigger', tab);
    END LOOP;
END $$;
ALTER TABLE evil.generated_column ADD copy text GENERATED ALWAYS AS (evil.expression(email, 'generated')) STORED;
ALTER TABLE evil.index_expression ADD other text;";

/// The tags, set while the tables carry no code yet.
const TAGS: &str = "
DO $$
DECLARE tab text;
BEGIN
    FOREACH tab IN ARRAY ARRAY['plain_trigger', 'deferred_trigger', 'generated_column', 'index_expression',
        'index_predicate', 'check_constraint', 'row_security', 'rule_nothing', 'trigger_null', 'raises'] LOOP
        EXECUTE format('SELECT custodian.tag_table(''evil.%I'', clock => ''seen'', on_expiry => %L)', tab,
            CASE WHEN tab IN ('plain_trigger', 'deferred_trigger', 'row_security', 'rule_nothing', 'trigger_null', 'raises')
                 THEN 'delete' ELSE 'keep' END);
        EXECUTE format('SELECT custodian.tag_column(''evil.%I'', ''email'', ''user.contact.email'', ''{test.account}'',
            on_expiry => ''set_null'')', tab);
    END LOOP;
END $$";

/// The code that waits for the sweep. The last statement forgets what ran while it was set up.
const CODE: &str = r"
CREATE TRIGGER plain BEFORE DELETE ON evil.plain_trigger FOR EACH ROW EXECUTE FUNCTION evil.fire();
CREATE CONSTRAINT TRIGGER deferred AFTER DELETE ON evil.deferred_trigger DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION evil.fire();
CREATE INDEX ON evil.index_expression (evil.expression(email, 'index expression'));
CREATE INDEX ON evil.index_predicate (id) WHERE evil.expression(email, 'index predicate') IS NULL;
ALTER TABLE evil.check_constraint ADD CHECK (evil.expression(email, 'check') IS DISTINCT FROM 'x');
ALTER TABLE evil.row_security ENABLE ROW LEVEL SECURITY;
ALTER TABLE evil.row_security FORCE ROW LEVEL SECURITY;
CREATE POLICY nobody ON evil.row_security USING (evil.expression('x', 'policy') IS NULL);
CREATE RULE nothing AS ON DELETE TO evil.rule_nothing DO INSTEAD NOTHING;
CREATE FUNCTION evil.swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM evil.attack(TG_NAME); RETURN NULL; END';
CREATE TRIGGER swallow BEFORE DELETE ON evil.trigger_null FOR EACH ROW EXECUTE FUNCTION evil.swallow();
CREATE FUNCTION evil.fail() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''the e-mail address is %'', OLD.email; END';
CREATE TRIGGER fail BEFORE DELETE ON evil.raises FOR EACH ROW EXECUTE FUNCTION evil.fail();
DELETE FROM evil.trace";

fn prepare(node: &Cluster) -> Result<()> {
    node.exec(BEFORE)?;
    let mut mallory = node.client_as("mallory", "postgres")?;
    mallory.text(TABLES)?;
    node.exec(TAGS)?;
    mallory.text(CODE)?;
    Ok(())
}

fn sweep(conf: &[&str]) -> Result<Cluster> {
    let mut builder = Cluster::builder("sandbox")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.max_disposal_fraction = 1");
    for line in conf {
        builder = builder.conf(line);
    }
    let node = builder.start()?;
    prepare(&node)?;
    node.alter_system("custodian.disposal", "on")?;
    // Tables come in no particular order: all had their turn when each has a run that is over.
    let over =
        "SELECT count(DISTINCT relation) FROM custodian.runs WHERE state IN ('done', 'failed')";
    let reached = poll(120, || {
        (node.text(over).unwrap_or_default() == "11").then_some(())
    });
    assert!(
        reached.is_some(),
        "runs:\n{}\n{}",
        node.text("SELECT * FROM custodian.runs ORDER BY run_id")?,
        node.text("SELECT * FROM custodian.check()")?
    );
    Ok(node)
}

#[test]
fn code_of_a_tables_owner_gains_nothing_and_stops_nobody() -> Result<()> {
    let node = sweep(&[])?;

    assert_eq!(node.text("SELECT * FROM public.canary")?, "");
    assert_eq!(
        node.text("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'")?,
        "f"
    );
    assert_eq!(
        node.text("SELECT DISTINCT who FROM evil.trace")?,
        "mallory",
        "some code did run, and only ever as its owner"
    );
    // Every kind of code ran: otherwise this test shows nothing.
    assert_eq!(
        node.text("SELECT DISTINCT what FROM evil.trace WHERE what IN ('plain', 'deferred', 'generated', 'index expression') ORDER BY 1")?,
        "deferred\ngenerated\nindex expression\nplain"
    );
    assert_eq!(
        node.text("SELECT count(*) FROM evil.trace WHERE what IN ('operator', 'policy')")?,
        "0"
    );
    assert_eq!(
        node.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")?,
        "0"
    );

    // Everybody else's rows went, and so did those that hide behind row security.
    for table in [
        "good.customer",
        "evil.plain_trigger",
        "evil.deferred_trigger",
        "evil.row_security",
    ] {
        assert_eq!(
            node.text(&format!("SELECT count(*) FROM {table}"))?,
            "0",
            "{table}"
        );
    }
    for table in [
        "evil.generated_column",
        "evil.index_expression",
        "evil.index_predicate",
        "evil.check_constraint",
    ] {
        assert_eq!(
            node.text(&format!("SELECT count(*), count(email) FROM {table}"))?,
            "10|0",
            "{table}"
        );
    }

    // What cannot be disposed is said.
    assert_eq!(
        node.text(
            "SELECT object, (regexp_match(problem, 'SQLSTATE (.....)'))[1] FROM custodian.check()
             WHERE code = 'undisposable-rows' ORDER BY object"
        )?,
        "evil.raises|P0001\nevil.rule_nothing|09000\nevil.trigger_null|09000"
    );
    assert_eq!(
        node.text("SELECT relation, sqlstate FROM custodian.runs WHERE state = 'failed' ORDER BY relation::text, run_id DESC")?
            .lines()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>(),
        [
            "evil.raises|P0001",
            "evil.rule_nothing|09000",
            "evil.trigger_null|09000"
        ]
    );
    // No value of a row reached the log, nor the ledger.
    assert!(!node.log().contains("@example.com"));
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.ledger_entry WHERE body LIKE '%@example.com%'")?,
        "0"
    );
    Ok(())
}

#[test]
fn settings_of_a_databases_owner_reach_no_worker() -> Result<()> {
    let node = Cluster::builder("settings")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.max_disposal_fraction = 1")
        .start()?;
    prepare(&node)?;
    let mut owner = node.client()?;
    owner.text("CREATE ROLE trudy LOGIN; ALTER DATABASE postgres OWNER TO trudy")?;
    node.client_as("trudy", "template1")?.text(
        "ALTER DATABASE postgres SET search_path = evil, public, pg_catalog;
         ALTER DATABASE postgres SET default_transaction_read_only = on;
         ALTER DATABASE postgres SET default_transaction_isolation = 'serializable'",
    )?;
    // Workers of before have the settings of before.
    node.stop(integration::Stop::Fast)?;
    node.start()?;
    node.alter_system("custodian.disposal", "on")?;
    let reached = poll(120, || {
        (node
            .text("SELECT count(*) FROM good.customer")
            .unwrap_or_default()
            == "0")
            .then_some(())
    });
    assert!(reached.is_some(), "the rows of good.customer did not go");
    assert_eq!(
        node.text("SELECT count(*) FROM evil.trace WHERE what = 'operator'")?,
        "0"
    );
    assert_eq!(node.text("SELECT * FROM public.canary")?, "");
    Ok(())
}

#[test]
fn a_timeout_ends_the_statement_and_is_no_finding() -> Result<()> {
    let node = Cluster::builder("timeout")
        .preload("pg_custodian")
        .start()?;
    node.exec(BEFORE)?;
    let mut holder = node.client()?;
    holder.batch_execute("BEGIN; LOCK TABLE good.customer IN ACCESS EXCLUSIVE MODE")?;
    let mut client = node.client()?;
    client.batch_execute("SET statement_timeout = '1s'")?;
    for statement in [
        "SELECT count(*) FROM custodian.explain_row('good.customer', '{\"id\": 1}')",
        "SELECT count(*) FROM custodian.preview('good.customer')",
    ] {
        let error = client.refused(statement);
        assert_eq!(error.sqlstate(), "57014", "{statement}: {error}");
        assert!(
            error.to_string().contains("due to statement timeout"),
            "{statement}: {error}"
        );
    }
    // The session goes on as it was.
    holder.batch_execute("COMMIT")?;
    assert_eq!(
        client.text("SHOW search_path; SELECT current_user")?,
        "\"$user\", public\npostgres"
    );
    assert_eq!(
        client.text("SELECT state FROM custodian.explain_row('good.customer', '{\"id\": 1}')")?,
        "due"
    );
    Ok(())
}
