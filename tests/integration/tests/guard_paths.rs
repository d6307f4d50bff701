//! The region guard: ways to values that are not a SELECT.

use integration::{Cluster, Result, Sql, wait_until};
use postgres::fallible_iterator::FallibleIterator;

/// A value of a tagged column.
const CANARY: &str = "canary-4711@example.com";

fn set_rules(node: &Cluster, text: &str) -> Result<()> {
    node.write_file("custodian_regions.conf", text)?;
    node.reload()
}

/// A node that knows the role `postgres` on its socket, and no other: `away` is from outside, a superuser even.
fn node() -> Result<Cluster> {
    let node = Cluster::builder("paths")
        .preload("pg_custodian")
        .conf("wal_level = logical")
        .conf("custodian.region = 'cn'")
        .start()?;
    set_rules(&node, "region cn\nlocal postgres\n")?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec("CREATE ROLE away LOGIN SUPERUSER; CREATE ROLE app LOGIN")?;
    node.exec("CREATE TABLE customer (id int PRIMARY KEY, email text, plan text)")?;
    node.exec(
        r#"SECURITY LABEL FOR custodian ON COLUMN customer.email IS
             '{"category":"user.contact.email","sensitivity":"personal","purposes":["shop.account"],"residency":["cn"]}';
           SECURITY LABEL FOR custodian ON COLUMN customer.id IS '{"not_personal":true}';
           SECURITY LABEL FOR custodian ON COLUMN customer.plan IS '{"not_personal":true}'"#,
    )?;
    Ok(node)
}

/// Calls that hand out values past the tables, with what is recorded of each.
const CALLS: [(&str, &str); 14] = [
    (
        "SELECT data FROM pg_logical_slot_peek_changes('existing', NULL, NULL)",
        "replication|pg_logical_slot_peek_changes()",
    ),
    (
        "SELECT pg_logical_slot_peek_binary_changes('existing', NULL, NULL)",
        "replication|pg_logical_slot_peek_binary_changes()",
    ),
    (
        "SELECT pg_copy_logical_replication_slot('existing', 'copy', true)",
        "replication|pg_copy_logical_replication_slot()",
    ),
    (
        "SELECT pg_create_logical_replication_slot('new', 'test_decoding', true)",
        "replication|pg_create_logical_replication_slot()",
    ),
    (
        "SELECT pg_create_physical_replication_slot('physical', true, true)",
        "replication|pg_create_physical_replication_slot()",
    ),
    ("SELECT lo_get(4711)", "access|lo_get()"),
    ("SELECT lo_get(4711, 0, 4)", "access|lo_get()"),
    ("SELECT loread(lo_open(4711, 262144), 4)", "access|loread()"),
    ("SELECT lo_export(4711, '/dev/null')", "access|lo_export()"),
    ("SELECT pg_read_file('PG_VERSION')", "access|pg_read_file()"),
    (
        "SELECT pg_read_file('PG_VERSION', 0, 1, true)",
        "access|pg_read_file()",
    ),
    (
        "DO $$ DECLARE b bytea; BEGIN b := pg_read_binary_file('PG_VERSION'); END $$",
        "access|pg_read_binary_file()",
    ),
    (
        "SELECT pg_logical_slot_get_changes('existing', NULL, NULL)",
        "replication|pg_logical_slot_get_changes()",
    ),
    (
        "SELECT pg_logical_slot_get_binary_changes('existing', NULL, NULL)",
        "replication|pg_logical_slot_get_binary_changes()",
    ),
];

#[test]
fn functions_that_read_past_tables_are_refused_from_outside() -> Result<()> {
    let node = node()?;
    node.text("SELECT pg_create_logical_replication_slot('existing', 'test_decoding')")?;
    node.exec(&format!(
        "INSERT INTO customer VALUES (1, '{CANARY}', 'basic')"
    ))?;
    node.text("SELECT lo_from_bytea(4711, 'canary')")?;
    node.alter_system("custodian.enforce", "on")?;
    let mut away = node.client_as("away", "postgres")?;

    for (call, _) in CALLS {
        let refused = away.refused(call);
        let text = refused.to_string();
        assert!(text.contains("is not allowed"), "{call}: {text}");
        assert!(!text.contains("canary"), "{call}: {text}");
    }
    // Others work, and the node itself can do all of it.
    assert_eq!(away.text("SELECT upper(md5('')) <> ''")?, "t");
    let refused = node.text(
        "SELECT DISTINCT gate || '|' || object FROM custodian.guard_events WHERE outcome = 'refused'",
    )?;
    for (_, event) in CALLS {
        assert!(refused.contains(event), "{event} is not in {refused}");
    }
    let mut inside = node.client()?;
    let changes = inside.text(CALLS[0].0)?;
    assert!(changes.contains(CANARY), "{changes}");
    assert_eq!(inside.text(CALLS[5].0)?, "\\x63616e617279");

    // In mode warn they pass and are recorded; with the gate off they only pass.
    node.alter_system("custodian.enforce_access", "off")?;
    node.alter_system("custodian.enforce_replication", "warn")?;
    assert_eq!(away.text(CALLS[5].0)?, "\\x63616e617279");
    assert!(away.text(CALLS[0].0)?.contains(CANARY));
    assert_eq!(
        node.text("SELECT object FROM custodian.guard_events WHERE outcome = 'warned'")?,
        "pg_logical_slot_peek_changes()"
    );
    Ok(())
}

#[test]
fn rows_are_not_shown_by_errors_policies_and_triggers_of_a_change() -> Result<()> {
    let node = node()?;
    node.exec(&format!(
        "INSERT INTO customer VALUES (1, '{CANARY}', 'basic')"
    ))?;
    node.exec(
        "CREATE FUNCTION show() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN RAISE NOTICE '%', old.email; RAISE EXCEPTION '%', old.email; END $$;
         CREATE TRIGGER show BEFORE DELETE ON customer FOR EACH ROW EXECUTE FUNCTION show();
         CREATE FUNCTION tell(email text) RETURNS bool LANGUAGE plpgsql AS
           $$ BEGIN RAISE EXCEPTION '%', email; END $$;
         CREATE POLICY tell ON customer FOR UPDATE USING (plan <> 'told' OR tell(email));
         CREATE POLICY enter ON customer FOR INSERT WITH CHECK (true);
         ALTER TABLE customer ENABLE ROW LEVEL SECURITY;
         GRANT INSERT, UPDATE, DELETE ON customer TO app",
    )?;
    let statements = [
        "UPDATE customer SET id = NULL",
        "UPDATE customer SET plan = 'x'",
        "DELETE FROM customer",
    ];
    // Without the guard the failing row is in the error.
    let mut owner = node.client()?;
    let shown = format!("{:?}", owner.refused(statements[0]));
    assert!(shown.contains(CANARY), "{shown}");

    node.alter_system("custodian.enforce", "on")?;
    let mut app = node.client_as("app", "postgres")?;
    for statement in statements {
        let refused = app.refused(statement);
        let text = format!("{refused:?}");
        assert!(text.contains("is not allowed"), "{statement}: {text}");
        assert!(!text.contains("canary"), "{statement}: {text}");
    }
    // A row of the session's own making may come.
    app.batch_execute("INSERT INTO customer VALUES (2, 'mine', 'basic')")?;
    Ok(())
}

#[test]
fn an_exclusion_constraint_shows_no_row_that_is_there() -> Result<()> {
    let node = node()?;
    node.exec(
        "CREATE TABLE stay (guest text, during daterange, room int, nr int UNIQUE,
                            EXCLUDE USING gist (during WITH &&));
         CREATE TABLE stay_part (guest text, during daterange, room int) PARTITION BY LIST (room);
         CREATE TABLE stay_part_1 PARTITION OF stay_part FOR VALUES IN (1);
         ALTER TABLE stay_part_1 ADD EXCLUDE USING gist (during WITH &&);
         CREATE TABLE open (during daterange, room int, EXCLUDE USING gist (during WITH &&));
         INSERT INTO stay VALUES ('x', '[2001-02-03,2001-02-05)', 1, 1);
         INSERT INTO stay_part VALUES ('x', '[2001-02-03,2001-02-05)', 1);
         GRANT INSERT, SELECT ON stay, stay_part, stay_part_1, open TO app",
    )?;
    node.exec(
        r#"DO $$ DECLARE t text; BEGIN
             FOREACH t IN ARRAY '{stay,stay_part,stay_part_1}'::text[] LOOP
               EXECUTE format('SECURITY LABEL FOR custodian ON COLUMN %I.during IS %L', t,
                 '{"category":"user.behavior","sensitivity":"personal","purposes":["a.b"],"residency":["cn"]}');
             END LOOP; END $$;
           SECURITY LABEL FOR custodian ON COLUMN open.during IS '{"not_personal":true}'"#,
    )?;
    let insert = |table: &str, from: &str| {
        format!("INSERT INTO {table} (during, room) VALUES ('[{from},2001-03-01)', 1)")
    };
    let mut app = node.client_as("app", "postgres")?;
    // Without the guard the row that is in the way is in the error.
    let shown = format!("{:?}", app.refused(&insert("stay", "2001-02-01")));
    assert!(shown.contains("2001-02-05"), "{shown}");

    node.alter_system("custodian.enforce", "on")?;
    for table in ["stay", "stay_part", "stay_part_1"] {
        // Whether or not a row is in the way.
        for from in ["2001-02-01", "2001-02-20"] {
            let refused = app.refused(&insert(table, from));
            let text = format!("{refused:?}");
            assert!(
                text.contains(&format!("inserting into \"public.{table}\"")),
                "{text}"
            );
            assert!(!text.contains("2001-02-05"), "{text}");
        }
    }
    // Nor where the statement also reads what may be read.
    node.exec("SELECT custodian.clear_column('stay', c) FROM unnest('{room,nr}'::text[]) c")?;
    for more in [
        format!("{} RETURNING room", insert("stay", "2001-02-01")),
        format!(
            "{} ON CONFLICT (nr) DO NOTHING",
            insert("stay", "2001-02-01")
        ),
        "MERGE INTO stay s USING (VALUES (7)) v(room) ON s.room = v.room
           WHEN NOT MATCHED THEN INSERT (during, room) VALUES ('[2001-02-01,2001-03-01)', 7)"
            .to_owned(),
        "INSERT INTO stay (during, room) SELECT '[2001-02-01,2001-03-01)', room FROM stay"
            .to_owned(),
        "COPY stay (during, room) FROM STDIN".to_owned(),
    ] {
        let refused = app.refused(&more);
        assert_eq!(refused.sqlstate(), "42501", "{more}: {refused}");
        let text = format!("{refused:?}");
        assert!(text.contains("is not allowed"), "{more}: {text}");
        assert!(!text.contains("2001-02-05"), "{more}: {text}");
    }
    app.batch_execute(&insert("open", "2001-02-01"))?;
    app.batch_execute(
        "INSERT INTO open (during, room) VALUES ('[2002-01-01,2002-01-02)', 1) RETURNING during",
    )?;
    Ok(())
}

#[test]
fn a_cursor_opened_inside_gives_its_rows_also_later() -> Result<()> {
    let node = node()?;
    node.exec(&format!(
        "INSERT INTO customer SELECT i, '{CANARY}', 'basic' FROM generate_series(1, 3) i"
    ))?;
    set_rules(&node, "region cn\nlocal all\n")?;
    node.alter_system("custodian.enforce", "on")?;
    let mut away = node.client_as("away", "postgres")?;
    let mut other = node.client_as("away", "postgres")?;
    let read = "SELECT email FROM customer LIMIT 1";
    wait_until("the rules are in force", 60, || other.text(read).is_ok());
    wait_until("the rules are in force", 60, || away.text(read).is_ok());
    away.batch_execute("BEGIN; DECLARE c CURSOR FOR SELECT email FROM customer")?;
    assert_eq!(away.text("FETCH c")?, CANARY);
    set_rules(&node, "region cn\nlocal postgres\n")?;
    wait_until("the rules have changed", 60, || other.text(read).is_err());
    // A limit that docs/limits.md names. What is opened now is refused.
    assert_eq!(away.text("FETCH c")?, CANARY);
    assert_eq!(away.refused(read).sqlstate(), "42501");
    Ok(())
}

#[test]
fn what_is_computed_over_rows_from_outside_is_refused_and_tables_of_ones_own_can_be_made()
-> Result<()> {
    let node = node()?;
    node.exec(
        "CREATE TABLE parts (id int, email text) PARTITION BY LIST (id);
         CREATE TABLE part1 PARTITION OF parts FOR VALUES IN (1); CREATE TABLE part2 (id int, email text);
         CREATE TABLE spread (id int, email text) PARTITION BY LIST (email);
         CREATE TABLE spread_rest PARTITION OF spread DEFAULT; INSERT INTO spread VALUES (1, 'canary');
         CREATE TABLE above (email text); CREATE UNLOGGED TABLE fast (email text);
         CREATE TABLE base (id int); CREATE TABLE derived (email text) INHERITS (base);
         SELECT custodian.clear_column('base', 'id');
         CREATE SCHEMA more; CREATE TABLE more.spread_a PARTITION OF spread FOR VALUES IN ('a');
         CREATE DOMAIN kind AS text; CREATE TABLE clear (id int);
         SELECT custodian.clear_column('clear', 'id');
         -- What runs on rows: a trigger, an index, a default of a generated column, and something that runs on none.
         CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER fires BEFORE INSERT ON customer FOR EACH ROW EXECUTE FUNCTION fires();
         CREATE FUNCTION more.folded(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT lower($1)';
         CREATE INDEX ON customer (more.folded(email));
         CREATE FUNCTION checked(text) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT true';
         ALTER TABLE parts ADD CHECK (checked(email));
         CREATE POLICY own ON customer USING (true);
         CREATE FUNCTION idle() RETURNS int LANGUAGE sql AS 'SELECT 1';
         -- And by an operator, a domain, and the key of a partitioned table.
         CREATE FUNCTION alike(text, text) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1 = $2';
         CREATE OPERATOR ==== (LEFTARG = text, RIGHTARG = text, FUNCTION = alike); ALTER TABLE parts ADD CHECK (email ==== email);
         CREATE FUNCTION valid(text) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT true';
         CREATE DOMAIN mail AS text CHECK (valid(VALUE)); CREATE TABLE mails (address mail);
         CREATE FUNCTION part_of(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1';
         CREATE TABLE keyed (email text) PARTITION BY LIST (part_of(email));
         CREATE VIEW seen AS SELECT * FROM customer;
         CREATE FUNCTION counted(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1'; CREATE STATISTICS st ON (counted(email)), plan FROM customer;
         CREATE FUNCTION let_in() RETURNS bool LANGUAGE sql AS 'SELECT true'; CREATE POLICY lets ON customer USING (let_in());
         CREATE FUNCTION compared(text, text) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT bttextcmp($1, $2)';
         CREATE OPERATOR CLASS by_own FOR TYPE text USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 compared(text, text);
         CREATE INDEX ON parts (email by_own); CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    )?;
    node.alter_system("custodian.enforce", "on")?;
    let mut away = node.client_as("away", "postgres")?;
    away.batch_execute("SET search_path = public, more")?;
    for statement in [
        "CREATE INDEX ON customer (email)",
        "CREATE UNIQUE INDEX CONCURRENTLY ON customer (email)",
        "CREATE STATISTICS s ON (upper(email)), plan FROM customer",
        "ALTER TABLE customer ALTER email TYPE varchar",
        "ALTER TABLE customer ADD CHECK (email <> '')",
        "ALTER TABLE customer ADD CHECK (email <> '') NOT VALID",
        "ALTER TABLE customer ADD UNIQUE (email)",
        "ALTER TABLE customer ADD more text GENERATED ALWAYS AS (email) STORED",
        "ALTER TABLE customer ADD more text, ADD CHECK (email <> '')",
        "ALTER TABLE parts ADD CHECK (email <> '')",
        "ALTER TABLE parts ATTACH PARTITION part2 FOR VALUES IN (2)",
        "ALTER TABLE base ADD CHECK (id > 0)",
        "ALTER DOMAIN kind ADD CHECK (VALUE <> '')",
        "ALTER DOMAIN kind SET NOT NULL",
        "ALTER TABLE customer ALTER email SET NOT NULL",
        "ALTER TABLE customer INHERIT above",
        "ALTER TABLE customer SET UNLOGGED",
        "ALTER TABLE fast SET LOGGED",
        "ALTER TABLE customer SET ACCESS METHOD heap",
        "CLUSTER customer USING customer_pkey",
        "CLUSTER",
        "CREATE TABLE spread_canary PARTITION OF spread FOR VALUES IN ('canary')",
        // What is there under that name is elsewhere, or no partition of it.
        "CREATE TABLE IF NOT EXISTS spread_a PARTITION OF spread FOR VALUES IN ('canary')",
        "CREATE TABLE IF NOT EXISTS clear PARTITION OF spread FOR VALUES IN ('canary')",
        // What sessions inside run later.
        "CREATE TRIGGER tells BEFORE INSERT ON customer FOR EACH ROW EXECUTE FUNCTION fires()",
        "CREATE RULE tells AS ON INSERT TO customer DO ALSO SELECT 1",
        "CREATE POLICY tells ON customer USING (idle() = 1)",
        "ALTER POLICY own ON customer USING (idle() = 1)",
        "CREATE TRIGGER tells BEFORE INSERT ON parts FOR EACH STATEMENT EXECUTE FUNCTION fires()",
        "CREATE OR REPLACE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE LOG ''%'', NEW; RETURN NEW; END'",
        "CREATE OR REPLACE FUNCTION more.folded(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT upper($1)'",
        "CREATE OR REPLACE FUNCTION checked(text) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT false'",
        "CREATE OR REPLACE FUNCTION alike(text, text) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT false'",
        "CREATE OR REPLACE FUNCTION valid(text) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT false'",
        "CREATE OR REPLACE FUNCTION part_of(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT upper($1)'",
        "CREATE OR REPLACE FUNCTION counted(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT upper($1)'",
        "CREATE OR REPLACE FUNCTION let_in() RETURNS bool LANGUAGE sql AS 'SELECT false'",
        "CREATE OR REPLACE FUNCTION compared(text, text) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 0'",
        "CREATE TRIGGER tells INSTEAD OF INSERT ON seen FOR EACH ROW EXECUTE FUNCTION fires()",
        "CREATE RULE tells AS ON UPDATE TO seen DO INSTEAD SELECT NEW.email",
        "CREATE TABLE parts_7 PARTITION OF parts (CHECK (checked(email))) FOR VALUES IN (7)",
        "ALTER FUNCTION fires() SET search_path = more",
        "ALTER FUNCTION folded(text) SECURITY DEFINER",
    ] {
        let refused = away.refused(statement);
        assert_eq!(refused.sqlstate(), "42501", "{statement}: {refused}");
        assert!(
            refused.to_string().contains("is not allowed"),
            "{statement}: {refused}"
        );
    }
    // What came since the transaction began counts.
    away.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")?;
    node.exec(
        "CREATE TRIGGER later BEFORE INSERT ON customer FOR EACH ROW EXECUTE FUNCTION later()",
    )?;
    let replaced = away.refused("CREATE OR REPLACE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'");
    assert_eq!(replaced.sqlstate(), "42501", "{replaced}");
    away.batch_execute("ROLLBACK")?;
    // A partition that is new gets rows of others later.
    away.batch_execute("BEGIN; CREATE TABLE parts_9 PARTITION OF parts FOR VALUES IN (9)")?;
    let planted = away.refused(
        "CREATE TRIGGER tells BEFORE INSERT ON parts_9 FOR EACH ROW EXECUTE FUNCTION fires()",
    );
    assert_eq!(planted.sqlstate(), "42501", "{planted}");
    away.batch_execute("ROLLBACK")?;
    // Triggers may be put on tables of others by who was let.
    node.exec("CREATE ROLE lent LOGIN; GRANT TRIGGER ON customer TO lent; GRANT CREATE ON SCHEMA public TO lent")?;
    let mut lent = node.client_as("lent", "postgres")?;
    let planted = lent.refused(
        "CREATE TRIGGER tells BEFORE INSERT ON customer FOR EACH ROW EXECUTE FUNCTION fires()",
    );
    assert_eq!(planted.sqlstate(), "42501", "{planted}");
    assert!(
        planted.to_string().contains("computing over rows"),
        "{planted}"
    );
    // The table that is attached has the rows, and one that is new has the expression.
    away.batch_execute(
        "CREATE FUNCTION tell(x text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
           $$ BEGIN RAISE NOTICE '%', x; RETURN x; END $$;
         BEGIN; CREATE TABLE told (id int NOT NULL, email text, plan text) PARTITION BY LIST ((tell(email)))",
    )?;
    let attach = away.refused("ALTER TABLE told ATTACH PARTITION customer FOR VALUES IN ('x')");
    assert_eq!(attach.sqlstate(), "42501", "{attach}");
    away.batch_execute("ROLLBACK")?;
    for statement in [
        "BEGIN; CREATE TABLE own (id int) PARTITION BY LIST (id); CREATE TABLE own1 (id int); \
         ALTER TABLE own ATTACH PARTITION own1 FOR VALUES IN (1); COMMIT",
        "CREATE TABLE mine (id int PRIMARY KEY, note text UNIQUE CHECK (note <> ''))",
        "BEGIN; CREATE TABLE other (id int); CREATE INDEX ON other (id); ALTER TABLE other ADD UNIQUE (id); COMMIT",
        "CREATE OR REPLACE FUNCTION idle() RETURNS int LANGUAGE sql AS 'SELECT 2'",
        "ALTER FUNCTION idle() SET search_path = more",
        "CREATE FUNCTION more.fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER fires BEFORE INSERT ON clear FOR EACH ROW EXECUTE FUNCTION more.fires()",
        "CREATE INDEX clear_id ON clear (id)",
        "ALTER TABLE clear ALTER id SET NOT NULL",
        "CLUSTER clear USING clear_id",
        "ALTER TABLE clear SET UNLOGGED",
        "ALTER TABLE clear SET LOGGED",
        "CREATE TABLE part3 PARTITION OF parts FOR VALUES IN (3)",
        // It is there, so nothing is compared.
        "CREATE TABLE IF NOT EXISTS more.spread_a PARTITION OF spread FOR VALUES IN ('canary')",
        "CREATE TABLE IF NOT EXISTS spread_rest PARTITION OF spread DEFAULT",
        "ALTER TABLE clear ADD CHECK (id > 0)",
        "ALTER TABLE ONLY base ADD CHECK (id > 0) NO INHERIT",
        "ALTER TABLE customer ADD more text DEFAULT 'none' NOT NULL",
        "ALTER TABLE customer ALTER email SET STATISTICS 10",
        "ALTER DOMAIN kind SET DEFAULT 'none'",
    ] {
        away.batch_execute(statement)
            .map_err(|error| integration::Error::new(format!("{statement}: {error}")))?;
    }
    Ok(())
}

#[test]
fn a_function_in_a_parallel_worker_reads_what_its_leader_may_read() -> Result<()> {
    let node = node()?;
    node.exec(&format!(
        "INSERT INTO customer SELECT i, '{CANARY}', 'basic' FROM generate_series(1, 1000) i;
         ANALYZE customer;
         CREATE FUNCTION mails() RETURNS text STABLE PARALLEL SAFE LANGUAGE plpgsql AS
           $$ BEGIN RETURN (SELECT count(email) FROM customer); END $$;
         CREATE FUNCTION plans() RETURNS text STABLE PARALLEL SAFE LANGUAGE plpgsql AS
           $$ BEGIN RETURN (SELECT count(plan) FROM customer); END $$;
         CREATE FUNCTION file() RETURNS text STABLE PARALLEL SAFE LANGUAGE plpgsql AS
           $$ BEGIN RETURN pg_read_file('PG_VERSION'); END $$;
         ALTER FUNCTION pg_read_file(text) PARALLEL SAFE;
         GRANT SELECT ON customer TO app"
    ))?;
    let forced = node.text(
        "SELECT 'SET ' || name || ' = on' FROM pg_settings
         WHERE name IN ('force_parallel_mode', 'debug_parallel_query')",
    )?;
    let forced = forced.as_str();
    let spread = "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
                  SET parallel_leader_participation = off";
    node.alter_system("custodian.enforce", "on")?;
    let mut inside = node.client()?;
    let mut app = node.client_as("app", "postgres")?;
    let mut away = node.client_as("away", "postgres")?;
    for client in [&mut inside, &mut app, &mut away] {
        client.batch_execute(forced)?;
        // It is a worker that calls the function.
        assert!(client.text("EXPLAIN SELECT plans()")?.contains("Gather"));
    }
    assert_eq!(inside.text("SELECT mails()")?, "1000");
    for client in [&mut app, &mut away] {
        assert_eq!(client.text("SELECT plans()")?, "1000");
        let refused = client.refused("SELECT mails()");
        assert!(
            refused
                .to_string()
                .contains("reading \"public.customer\" from unix socket is not allowed"),
            "{refused}"
        );
    }
    assert_eq!(away.refused("SELECT file()").sqlstate(), "42501");
    assert!(!inside.text("SELECT file()")?.is_empty());

    // The same where several workers share a scan that the leader was let through.
    for client in [&mut inside, &mut app] {
        client.batch_execute(spread)?;
    }
    let calls = |function: &str| format!("SELECT count({function}()) FROM customer WHERE id < 20");
    assert_eq!(inside.text(&calls("mails"))?, "19");
    assert_eq!(app.text(&calls("plans"))?, "19");
    assert_eq!(app.refused(&calls("mails")).sqlstate(), "42501");
    assert_eq!(
        node.text("SELECT DISTINCT role FROM custodian.guard_events WHERE object = 'public.customer' ORDER BY 1")?,
        "app\naway"
    );

    // Nobody says who the client is but the server.
    let claim = r#"{"remote":"Socket","role":"postgres","database":"postgres","issuer":null,"subject":null,"plaintext":false}"#;
    for statement in [
        format!("SET custodian.client = '{claim}'"),
        format!("SELECT set_config('custodian.client', '{claim}', false)"),
        format!("ALTER ROLE away SET custodian.client = '{claim}'"),
        format!("ALTER FUNCTION mails() SET custodian.client = '{claim}'"),
        format!("ALTER SYSTEM SET custodian.client = '{claim}'"),
    ] {
        away.refused(&statement);
    }
    away.batch_execute("RESET custodian.client; SET custodian.client TO DEFAULT; RESET ALL")?;
    away.batch_execute("DISCARD ALL")?;
    away.batch_execute(forced)?;
    assert_eq!(away.refused("SELECT mails()").sqlstate(), "42501");
    Ok(())
}

/// A function that tells what it is called with, and a cast to a type that calls it.
const TELLING: &str = "
CREATE TYPE told AS ENUM ('x');
CREATE FUNCTION tell(x text) RETURNS told IMMUTABLE LANGUAGE plpgsql AS
  $$ BEGIN RAISE NOTICE '%', x; RETURN 'x'; END $$;
CREATE CAST (text AS told) WITH FUNCTION tell(text) AS ASSIGNMENT;
CREATE FUNCTION is_told(x text) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS
  $$ BEGIN RAISE NOTICE '%', x; RETURN true; END $$;
";

#[test]
fn a_type_or_a_name_that_comes_to_mean_another_table_computes_over_no_rows_of_it() -> Result<()> {
    let node = node()?;
    node.exec(&format!(
        "INSERT INTO customer VALUES (1, '{CANARY}', 'basic');
         CREATE TABLE decoy (email text); SELECT custodian.clear_column('decoy', 'email')"
    ))?;
    node.exec(TELLING)?;
    node.alter_system("custodian.enforce", "on")?;
    let away = |statements: &str| {
        node.program("psql")?
            .role("away")
            .args(["-X", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"])
            .stdin(statements)
            .start()
    };
    // The type is new, and the table that comes to be of it is not.
    let output = away(
        "BEGIN; CREATE TYPE kind AS (id int, email text, plan text);
         ALTER TABLE customer OF kind; ALTER TYPE kind ALTER ATTRIBUTE email TYPE told CASCADE",
    )?
    .wait(60)?;
    let text = output.all();
    assert!(
        !output.success() && text.contains("computing over rows of \"public.customer\""),
        "{text}"
    );
    assert!(!text.contains(CANARY), "{text}");

    // While the statement waits for the table of that name, another one gets the name.
    let mut other = node.client()?;
    let swap = "BEGIN; ALTER TABLE decoy RENAME TO gone; ALTER TABLE customer RENAME TO decoy";
    other.batch_execute(swap)?;
    let waiting = away("ALTER TABLE decoy ADD CHECK (is_told(email))")?;
    let waits = "SELECT count(*) FROM pg_locks WHERE relation = 'gone'::regclass AND NOT granted";
    wait_until("the statement waits", 60, || {
        other.text(waits).is_ok_and(|count| count == "1")
    });
    other.batch_execute("COMMIT")?;
    let output = waiting.wait(60)?;
    let text = output.all();
    assert!(
        !output.success() && text.contains("computing over rows of \"public.decoy\""),
        "{text}"
    );
    assert!(!text.contains(CANARY), "{text}");
    Ok(())
}

#[test]
fn notifications_reach_nobody_outside() -> Result<()> {
    let node = node()?;
    node.exec(
        "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_notify('news', NEW.email); RETURN NEW; END $$;
         CREATE TRIGGER tell AFTER INSERT ON customer FOR EACH ROW EXECUTE FUNCTION tell()",
    )?;
    node.alter_system("custodian.enforce", "on")?;
    let heard = |role: &str| -> Result<Vec<String>> {
        let mut client = node.client_as(role, "postgres")?;
        if role == "away" {
            let refused = client.refused("LISTEN news").to_string();
            assert!(
                refused.contains("listening for notifications from") && !refused.contains("canary"),
                "{refused}"
            );
        } else {
            client.batch_execute("LISTEN news")?;
        }
        node.exec("DELETE FROM customer")?;
        node.exec(&format!(
            "INSERT INTO customer VALUES (1, '{CANARY}', 'basic')"
        ))?;
        // A round trip: what was sent before it has arrived.
        client.batch_execute("SELECT 1")?;
        let mut payloads = Vec::new();
        let mut notifications = client.notifications();
        let mut iterator = notifications.iter();
        while let Some(notification) = iterator.next()? {
            payloads.push(notification.payload().to_owned());
        }
        Ok(payloads)
    };
    assert_eq!(heard("away")?, Vec::<String>::new());
    assert_eq!(heard("postgres")?, [CANARY]);
    assert_eq!(
        node.text("SELECT DISTINCT gate || '|' || object FROM custodian.guard_events WHERE object = 'LISTEN'")?,
        "access|LISTEN"
    );
    // To send is no way out by itself.
    node.client_as("away", "postgres")?
        .batch_execute("NOTIFY news, 'from outside'; UNLISTEN *")?;
    Ok(())
}
