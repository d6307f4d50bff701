//! What nobody gains by making objects that statements of the extension could mistake for the server's own: neither
//! the rights of whoever runs DDL, deletes or calls a function, nor a table without its guard.

use integration::{Cluster, Result, Sql};

fn start(name: &str) -> Result<Cluster> {
    Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.naptime = 3600")
        .start()
}

/// Tables with a guarded parent and its child, and a role that may create in schema public and nothing else.
const BEFORE: &str = "
CREATE TABLE public.canary (who text, what text);
CREATE ROLE counsel;
CREATE ROLE mallory LOGIN;
GRANT CREATE ON SCHEMA public TO mallory;
CREATE SCHEMA shop;
CREATE TABLE shop.customer (id int PRIMARY KEY, email text, seen timestamptz);
CREATE TABLE shop.orders (id int PRIMARY KEY, customer int REFERENCES shop.customer ON DELETE CASCADE, at timestamptz, note text);
INSERT INTO shop.customer SELECT n, n || '@example.com', now() FROM generate_series(1, 3) n;
INSERT INTO shop.orders SELECT n, n, now() FROM generate_series(1, 3) n";

/// Operators on types that no operator of the server takes exactly, which a statement that relies on conversions would
/// find wherever they are in search_path, and others that it would find only in front of the server's own.
const OPERATORS: &str = r#"
CREATE FUNCTION public.attack(what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.trace VALUES (current_user, what);
    BEGIN INSERT INTO public.canary VALUES (current_user, what); EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN ALTER ROLE mallory SUPERUSER; EXCEPTION WHEN OTHERS THEN NULL; END;
END $$;
CREATE TABLE public.trace (who name, what text);
DO $$
DECLARE pair text[];
BEGIN
    FOREACH pair SLICE 1 IN ARRAY ARRAY[['oid', 'regclass'], ['regclass', 'oid'], ['name', 'varchar'],
        ['oid', 'regproc'], ['varchar', 'varchar'], ['varchar', 'text'], ['text', 'varchar'], ['int2', 'oid'],
        ['oid', 'oid'], ['"char"', '"char"'], ['name', 'name'], ['text', 'text']] LOOP
        EXECUTE format('CREATE FUNCTION public.same(a %s, b %s) RETURNS boolean LANGUAGE plpgsql AS %L',
            pair[1], pair[2], format('BEGIN PERFORM public.attack(%L); RETURN a::text OPERATOR(pg_catalog.=) b::text; END', pair::text));
        EXECUTE format('CREATE OPERATOR public.= (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.same)', pair[1], pair[2]);
    END LOOP;
    FOREACH pair SLICE 1 IN ARRAY ARRAY[['text', 'name'], ['name', 'text'], ['name', 'name'], ['text', 'varchar'],
        ['varchar', 'text']] LOOP
        EXECUTE format('CREATE FUNCTION public.joined(a %s, b %s) RETURNS text LANGUAGE plpgsql AS %L',
            pair[1], pair[2], format('BEGIN PERFORM public.attack(%L); RETURN concat(a, b); END', pair::text));
        EXECUTE format('CREATE OPERATOR public.|| (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.joined)', pair[1], pair[2]);
    END LOOP;
END $$"#;

/// Nothing that mallory made has run.
fn gained_nothing(node: &Cluster) -> Result<()> {
    assert_eq!(node.text("SELECT * FROM public.trace")?, "");
    assert_eq!(node.text("SELECT * FROM public.canary")?, "");
    assert_eq!(
        node.text("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'")?,
        "f"
    );
    Ok(())
}

#[test]
fn operators_in_a_superusers_search_path_do_not_run() -> Result<()> {
    let node = start("operators")?;
    node.exec(BEFORE)?;
    node.client_as("mallory", "postgres")?.text(OPERATORS)?;
    let mut root = node.client()?;
    // Even as the first schema of the path.
    root.batch_execute("SET search_path = public, pg_catalog")?;
    for sql in [
        "CREATE EXTENSION pg_custodian",
        "SELECT custodian.define_purpose('shop.account', 'contract', '50 years')",
        "SELECT custodian.tag_table('shop.customer', clock => 'seen', subject_kind => 'customer', subject_key => '{id}')",
        "SELECT custodian.tag_table('shop.orders', clock => 'at', subject_kind => 'customer', subject_via => '{customer}')",
        "SELECT custodian.tag_column('shop.customer', 'email', 'user.contact.email', '{shop.account}', on_expiry => 'set_null')",
        "SELECT custodian.tag_column('shop.orders', 'note', 'user.content.private', '{shop.account}', on_expiry => 'set_null')",
        "SELECT custodian.require_minimum('shop.law', 'shop.orders', '{note}', '1 year', 'the law', 'at')",
        "SELECT custodian.place_hold('m', 'counsel', current_date + 1, 'r', rel => 'shop.orders', match => '{\"id\":[\"1\"]}')",
        "SELECT custodian.place_hold('m', 'counsel', current_date + 1, 'r', subject_kind => 'customer', subject_key => '{2}')",
        "ALTER TABLE public.canary ADD COLUMN more int",
        "ALTER TABLE shop.orders ADD COLUMN more int",
        "ALTER TABLE shop.orders RENAME COLUMN more TO less",
        "CREATE TABLE shop.more () INHERITS (shop.orders)",
        "DROP TABLE shop.more",
        "SELECT * FROM custodian.check()",
        "SELECT * FROM custodian.preview()",
        "SELECT * FROM custodian.holds",
        "SELECT custodian.install_row_guard()",
        "SELECT custodian.release_hold(1, 'counsel', 'settled')",
    ] {
        root.batch_execute(sql)?;
        gained_nothing(&node)?;
    }
    // No view or function of the extension was made with one of them.
    assert_eq!(
        node.text("SELECT count(*) FROM pg_depend WHERE refclassid = 2617::oid AND refobjid >= 16384::oid AND deptype = 'n' AND classid <> 2617::oid")?,
        "0"
    );
    assert_eq!(
        root.refused("DELETE FROM shop.customer WHERE id = 2")
            .sqlstate(),
        "23001"
    );
    assert_eq!(
        root.refused("DELETE FROM shop.customer WHERE id = 3")
            .sqlstate(),
        "23001"
    );
    // By the minimum.
    assert_eq!(
        root.refused("DELETE FROM shop.orders WHERE id = 1")
            .sqlstate(),
        "23001"
    );
    gained_nothing(&node)?;
    // The operators do run where a statement of the superuser's own finds them: otherwise this test shows nothing.
    root.batch_execute("SELECT oid = 'pg_class'::regclass FROM pg_class LIMIT 1")?;
    assert_ne!(node.text("SELECT who FROM public.trace")?, "");
    Ok(())
}

#[test]
fn a_tables_owner_cannot_take_the_guard_off() -> Result<()> {
    let node = start("guardoff")?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(BEFORE)?;
    node.exec(
        "GRANT CREATE, USAGE ON SCHEMA shop TO mallory;
         ALTER TABLE shop.customer OWNER TO mallory;
         ALTER TABLE shop.orders OWNER TO mallory;
         SELECT custodian.place_hold('m', 'counsel', current_date + 1, 'r', rel => 'shop.customer')",
    )?;
    let guards = "SELECT count(*) FROM pg_trigger WHERE tgfoid = 'custodian.row_guard'::regproc";
    assert_eq!(node.text(guards)?, "2");
    let mut mallory = node.client_as("mallory", "postgres")?;
    mallory.batch_execute(
        "CREATE FUNCTION shop.no(oid, oid) RETURNS boolean LANGUAGE sql AS 'SELECT false';
         CREATE OPERATOR shop.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = shop.no);
         CREATE FUNCTION shop.no(\"char\", \"char\") RETURNS boolean LANGUAGE sql AS 'SELECT false';
         CREATE OPERATOR shop.= (LEFTARG = \"char\", RIGHTARG = \"char\", FUNCTION = shop.no);
         BEGIN;
         SET LOCAL search_path = shop, pg_catalog;
         ALTER TABLE customer ADD COLUMN more int;
         ALTER TABLE orders ADD COLUMN more int;
         COMMIT",
    )?;
    assert_eq!(node.text(guards)?, "2");
    for sql in [
        "DELETE FROM shop.customer",
        "SET search_path = shop, pg_catalog; DELETE FROM customer; RESET search_path",
        "SET search_path = shop, pg_catalog; DROP TABLE customer CASCADE; RESET search_path",
        "SET search_path = shop, pg_catalog; TRUNCATE customer CASCADE; RESET search_path",
    ] {
        assert_eq!(mallory.refused(sql).sqlstate(), "23001", "{sql}");
    }
    assert_eq!(node.text("SELECT count(*) FROM shop.customer")?, "3");
    Ok(())
}

#[test]
fn a_guard_that_nothing_needs_goes_with_the_release_not_with_ddl() -> Result<()> {
    let node = start("retire")?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(BEFORE)?;
    node.exec(
        "SELECT custodian.define_purpose('shop.account', 'contract', '50 years');
         SELECT custodian.tag_column('shop.orders', 'note', 'user.content.private', '{shop.account}', on_expiry => 'set_null', clock => 'at');
         SELECT custodian.require_minimum('shop.law', 'shop.orders', '{note}', '1 year', 'the law')",
    )?;
    let guards = "SELECT count(*) FROM pg_trigger WHERE tgfoid = 'custodian.row_guard'::regproc";
    assert_eq!(node.text(guards)?, "4");
    // What the orders refer to needs no guard any more, and keeps it for now.
    node.exec("ALTER TABLE shop.orders DROP CONSTRAINT orders_customer_fkey; ALTER TABLE shop.orders ADD COLUMN more int")?;
    assert_eq!(node.text(guards)?, "4");
    node.exec("SELECT custodian.place_hold('m', 'counsel', current_date + 1, 'r', rel => 'shop.customer')")?;
    node.exec("SELECT custodian.release_hold(1, 'counsel', 'settled')")?;
    assert_eq!(node.text(guards)?, "2");
    Ok(())
}

#[test]
fn a_schema_with_the_extensions_name_is_not_taken_for_it() -> Result<()> {
    let node = start("namesake")?;
    node.exec("CREATE ROLE mallory LOGIN; CREATE ROLE alice LOGIN")?;
    node.exec(
        "GRANT CREATE ON DATABASE postgres TO mallory, alice;
         SET SESSION AUTHORIZATION mallory;
         CREATE SCHEMA custodian;
         CREATE TABLE custodian.hold (hold bigint, released_at timestamptz, scope text, subject_kind text);
         CREATE TABLE custodian.epoch ();
         CREATE FUNCTION custodian.row_guard() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    )?;
    let mut alice = node.client_as("alice", "postgres")?;
    alice.batch_execute(
        "CREATE SCHEMA alice;
         CREATE TABLE alice.base (id int PRIMARY KEY);
         CREATE TABLE alice.child () INHERITS (alice.base);
         ALTER TABLE alice.base ADD COLUMN more int;
         ALTER TABLE alice.base RENAME COLUMN more TO less;
         ALTER TABLE alice.base DROP COLUMN less;
         TRUNCATE alice.base;
         DROP TABLE alice.child;
         DROP SCHEMA alice CASCADE",
    )?;
    // The same session sees the extension once it is there.
    node.exec("DROP SCHEMA custodian CASCADE; CREATE EXTENSION pg_custodian; CREATE TABLE public.t (id int PRIMARY KEY); ALTER TABLE public.t OWNER TO alice; CREATE ROLE counsel")?;
    node.exec(
        "SELECT custodian.place_hold('m', 'counsel', current_date + 1, 'r', rel => 'public.t')",
    )?;
    node.exec("INSERT INTO public.t VALUES (1)")?;
    assert_eq!(alice.refused("DROP TABLE public.t").sqlstate(), "23001");
    Ok(())
}

#[test]
fn a_member_that_does_not_inherit_is_no_steward_before_set_role() -> Result<()> {
    let node = start("noinherit")?;
    node.exec("CREATE EXTENSION pg_custodian; CREATE ROLE steward; CREATE ROLE bob LOGIN NOINHERIT IN ROLE steward")?;
    node.alter_system("custodian.steward_role", "steward")?;
    let mut bob = node.client_as("bob", "postgres")?;
    let define = "SELECT custodian.define_purpose('shop.account', 'contract', '50 years')";
    assert_eq!(bob.refused(define).sqlstate(), "42501");
    bob.batch_execute(&format!("SET ROLE steward; {define}"))?;
    Ok(())
}

/// Code on a table that refers to a tagged one: it is evaluated when a statement that reads the table is planned.
const CODE_OF_ANOTHER: &str = "
CREATE FUNCTION public.note() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.trace VALUES (current_user, 'index predicate');
    RETURN true;
END $$;
CREATE FUNCTION public.innocent() RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN public.note(); END';
CREATE TABLE public.child (id int, customer int REFERENCES shop.customer);
GRANT SELECT ON public.child TO PUBLIC;
CREATE INDEX child_index ON public.child (id) WHERE public.innocent()";

#[test]
fn code_on_a_table_that_refers_to_another_owners_does_not_run_with_that_owners_rights() -> Result<()>
{
    let node = start("foreign")?;
    node.exec(BEFORE)?;
    node.exec(
        "CREATE TABLE public.trace (who name, what text);
         GRANT INSERT ON public.trace TO PUBLIC;
         CREATE EXTENSION pg_custodian;
         GRANT USAGE ON SCHEMA shop TO mallory;
         GRANT REFERENCES ON shop.customer TO mallory;
         UPDATE shop.customer SET seen = now() - interval '60 years';
         DROP TABLE shop.orders",
    )?;
    node.alter_system("custodian.max_disposal_fraction", "1")?;
    node.exec(
        "SELECT custodian.define_purpose('shop.account', 'contract', '50 years');
         SELECT custodian.tag_table('shop.customer', clock => 'seen', subject_kind => 'customer', subject_key => '{id}', on_expiry => 'delete');
         SELECT custodian.tag_column('shop.customer', 'email', 'user.contact.email', '{shop.account}')",
    )?;
    node.client_as("mallory", "postgres")?
        .batch_execute(CODE_OF_ANOTHER)?;
    node.exec("DELETE FROM public.trace")?;

    let mut root = node.client()?;
    for sql in [
        "SELECT * FROM custodian.preview()",
        "SELECT * FROM custodian.estimate_preview()",
        "SELECT * FROM custodian.overdue_now()",
    ] {
        let told = root.text(sql)?;
        assert!(
            told.contains("public.child carries code of another owner"),
            "{sql}: {told}"
        );
    }
    assert_eq!(
        root.text(
            "SELECT object, remedy FROM custodian.check() WHERE code = 'clocks-not-looked-at'"
        )?,
        "shop.customer|Give both tables one owner, or take that code off the other one."
    );
    for sql in [
        "SELECT * FROM custodian.sweep_now()",
        "SELECT * FROM custodian.explain_row('shop.customer', '{\"id\": 1}')",
    ] {
        root.refused(sql);
    }
    gained_nothing(&node)?;
    assert_eq!(node.text("SELECT count(*) FROM shop.customer")?, "3");

    // It does run where a statement of the superuser's own reads the table: otherwise this test shows nothing.
    root.batch_execute("SELECT FROM public.child")?;
    assert_ne!(node.text("SELECT who FROM public.trace")?, "");
    // Without that code the table is read, and rows go.
    root.batch_execute("DROP INDEX public.child_index")?;
    assert_eq!(
        root.text("SELECT rows FROM custodian.sweep_now() WHERE action = 'delete row'")?,
        "3"
    );
    Ok(())
}
