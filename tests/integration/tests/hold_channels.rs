//! Every way by which a kept row could go or change, against every kind of hold and against a statutory
//! minimum: each is refused by the name of what keeps the row, and leaves the data as it was.

use integration::{Cluster, Error, Result, Sql};
use postgres::Client;

const MATTER: &str = "case 42";
const LAW: &str = "Art. 60";

/// Areas with customers, who have orders by year, tickets, reviews and logins: foreign keys with every action.
const SHOP: &str = "
    CREATE ROLE shop LOGIN; CREATE ROLE counsel; CREATE SCHEMA shop AUTHORIZATION shop;
    SET ROLE shop;
    CREATE TYPE shop.grade AS ENUM ('low', 'high');
    CREATE TYPE shop.place AS (street text, town text);
    CREATE DOMAIN shop.word AS text;
    CREATE TABLE shop.area (id int PRIMARY KEY, name text);
    CREATE TABLE shop.customer (id int PRIMARY KEY, area_id int REFERENCES shop.area ON DELETE CASCADE ON UPDATE CASCADE,
        email text, grade shop.grade, grades shop.grade[], home shop.place, word shop.word, amount int,
        seen timestamptz, doubled int GENERATED ALWAYS AS (amount * 2) STORED);
    CREATE TABLE shop.orders (id int, customer_id int REFERENCES shop.customer ON DELETE CASCADE ON UPDATE CASCADE,
        item text, at date) PARTITION BY RANGE (at);
    CREATE TABLE shop.orders_2024 PARTITION OF shop.orders FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    CREATE TABLE shop.orders_late PARTITION OF shop.orders FOR VALUES FROM ('2025-01-01') TO ('2099-01-01') PARTITION BY LIST (customer_id);
    CREATE TABLE shop.orders_late_1 PARTITION OF shop.orders_late FOR VALUES IN (1, 3);
    CREATE TABLE shop.orders_late_2 PARTITION OF shop.orders_late FOR VALUES IN (2);
    CREATE TABLE shop.ticket (id int PRIMARY KEY, customer_id int REFERENCES shop.customer ON DELETE SET NULL ON UPDATE SET NULL,
        body text, at timestamptz);
    CREATE TABLE shop.review (id int PRIMARY KEY, customer_id int DEFAULT 1 REFERENCES shop.customer ON DELETE SET DEFAULT ON UPDATE SET DEFAULT,
        body text, at timestamptz);
    CREATE TABLE shop.note (id int, customer_id int, body text, at timestamptz);
    CREATE TABLE shop.long_note (pages int) INHERITS (shop.note);
    CREATE VIEW shop.mail AS SELECT id, email FROM shop.customer WHERE id > 0;
    CREATE VIEW shop.desk AS SELECT t.id, t.body, c.email FROM shop.ticket t JOIN shop.customer c ON c.id = t.customer_id;
    CREATE FUNCTION shop.desk_change() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN IF TG_OP = 'DELETE' THEN DELETE FROM shop.ticket WHERE id = OLD.id; RETURN OLD; END IF;
          UPDATE shop.ticket SET body = NULL WHERE id = OLD.id; RETURN NEW; END$$;
    CREATE TRIGGER change INSTEAD OF DELETE OR UPDATE ON shop.desk FOR EACH ROW EXECUTE FUNCTION shop.desk_change();
    CREATE TABLE shop.bell (id int);
    CREATE RULE ring AS ON INSERT TO shop.bell DO ALSO DELETE FROM shop.ticket WHERE id = NEW.id;
    CREATE FUNCTION shop.purge(int) RETURNS void LANGUAGE sql SECURITY DEFINER AS 'DELETE FROM shop.ticket WHERE id = $1';
    INSERT INTO shop.area SELECT n, 'a' FROM generate_series(1, 9) n;
    INSERT INTO shop.customer SELECT n, n, 'c' || n || '@example.org', 'low', ARRAY['low']::shop.grade[],
        ROW('s', 't')::shop.place, 'w', n, now() FROM generate_series(1, 3) n;
    INSERT INTO shop.orders SELECT n, n, 'i', '2024-06-01' FROM generate_series(1, 3) n;
    INSERT INTO shop.orders SELECT 10 + n, n, 'i', '2025-06-01' FROM generate_series(1, 3) n;
    INSERT INTO shop.ticket SELECT n, n, 'help', now() FROM generate_series(1, 3) n;
    INSERT INTO shop.review SELECT n, n, 'fine', now() FROM generate_series(1, 3) n;
    INSERT INTO shop.note SELECT n, n, 'call', now() FROM generate_series(1, 3) n;
    INSERT INTO shop.long_note SELECT n, n, 'call', now(), 2 FROM generate_series(1, 3) n;
    RESET ROLE;
";

const TABLES: [&str; 5] = ["customer", "orders", "ticket", "review", "note"];

fn shop() -> Result<Cluster> {
    let node = Cluster::builder("channels")
        .preload("pg_custodian")
        .conf("custodian.naptime = 3600")
        .conf("max_prepared_transactions = 2")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(SHOP)?;
    node.exec(
        "SELECT custodian.define_purpose('shop.account', 'contract', '50 years');
         SELECT custodian.tag_table('shop.customer', clock => 'seen', subject_kind => 'customer', subject_key => ARRAY['id']);
         SELECT custodian.tag_table('shop.orders', clock => 'at', subject_kind => 'customer', subject_via => ARRAY['customer_id']);
         SELECT custodian.tag_table('shop.ticket', clock => 'at', subject_kind => 'customer', subject_via => ARRAY['customer_id']);
         SELECT custodian.tag_table('shop.review', clock => 'at', subject_kind => 'customer', subject_via => ARRAY['customer_id']);
         SELECT custodian.tag_table('shop.note', clock => 'at', subject_kind => 'customer', subject_key => ARRAY['customer_id'])",
    )?;
    for (table, column) in [
        ("customer", "email"),
        ("customer", "word"),
        ("customer", "amount"),
        ("customer", "doubled"),
        ("customer", "grade"),
        ("customer", "grades"),
        ("customer", "home"),
        ("orders", "item"),
        ("ticket", "body"),
        ("review", "body"),
        ("note", "body"),
    ] {
        // Set by label: a method for each type is not what these tests are about.
        node.exec(&format!(
            "SECURITY LABEL FOR custodian ON COLUMN shop.{table}.{column} IS
             '{{\"category\":\"user.behavior\",\"sensitivity\":\"personal\",\"purposes\":[\"shop.account\"]}}'"
        ))?;
    }
    Ok(node)
}

/// What keeps the rows of customer 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Subject,
    Table,
    Rows,
    Minimum,
}

impl Scope {
    fn by(self) -> &'static str {
        if self == Scope::Minimum { LAW } else { MATTER }
    }
}

fn keep(node: &Cluster, scope: Scope) -> Result<()> {
    let place = |what: &str| {
        node.exec(&format!(
            "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'court order', {what})"
        ))
    };
    match scope {
        Scope::Subject => place("subject_kind => 'customer', subject_key => ARRAY['2']"),
        Scope::Table => TABLES
            .iter()
            .try_for_each(|table| place(&format!("rel => 'shop.{table}'"))),
        Scope::Rows => TABLES.iter().try_for_each(|table| {
            let column = if *table == "customer" {
                "id"
            } else {
                "customer_id"
            };
            place(&format!(
                "rel => 'shop.{table}', match => '{{\"{column}\":[\"2\"]}}'"
            ))
        }),
        Scope::Minimum => {
            for (table, columns) in [
                (
                    "customer",
                    "'email', 'word', 'amount', 'doubled', 'grade', 'grades', 'home'",
                ),
                ("orders", "'item'"),
                ("ticket", "'body'"),
                ("review", "'body'"),
                ("note", "'body'"),
            ] {
                node.exec(&format!(
                    "SELECT custodian.require_minimum('cn.tax', 'shop.{table}', ARRAY[{columns}], '30 years', '{LAW}')"
                ))?;
            }
            Ok(())
        }
    }
}

/// A digest of all rows, and the tables and columns that there are.
fn state(node: &Cluster) -> Result<String> {
    let mut parts = Vec::new();
    for table in TABLES.iter().chain(&["area", "long_note"]) {
        parts.push(node.text(&format!(
            "SELECT '{table}', count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) FROM shop.{table} t"
        ))?);
    }
    parts.push(node.text(
        "SELECT md5(string_agg(c.oid::regclass || a.attname || a.atttypid::regtype || c.relpersistence::text, ',' ORDER BY c.oid, a.attnum))
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relnamespace = 'shop'::regnamespace",
    )?);
    parts.push(node.text(
        "SELECT count(*), count(*) FILTER (WHERE tgenabled = 'A') FROM pg_trigger WHERE tgfoid = 'custodian.row_guard'::regproc",
    )?);
    parts.push(node.text("SELECT count(*) FROM pg_inherits")?);
    Ok(parts.join("\n"))
}

/// What is wrong with how the statements were answered: they must be refused, and the message must name what
/// keeps the rows and show no value.
fn wrong(client: &mut Client, sql: &str, by: &str) -> Option<String> {
    // What is not refused is rolled back, so that the other channels are tried all the same.
    let alone = sql.contains("CONCURRENTLY") || sql.starts_with("BEGIN");
    let begin = if alone { "" } else { "BEGIN; " };
    let outcome = client.batch_execute(&format!("{begin}{sql}"));
    let verdict = match outcome {
        Ok(()) => Some(format!("not refused: {sql}")),
        Err(error) => {
            let error = Error::from(error);
            let text = error.to_string();
            let good = error.sqlstate() == "23001" && text.contains(by);
            (!good || text.contains("example.org")).then(|| format!("{sql}: {text}"))
        }
    };
    let _closed = client.batch_execute("ROLLBACK");
    let _reset = client.batch_execute("RESET ALL; DEALLOCATE ALL");
    verdict
}

/// Statements that delete a kept row, or empty a kept cell of it.
const DML: &[&str] = &[
    "DELETE FROM shop.customer WHERE id = 2",
    "DELETE FROM ONLY shop.ticket WHERE id = 2",
    "DELETE FROM shop.orders WHERE customer_id = 2",
    "DELETE FROM shop.orders_2024",
    "DELETE FROM shop.orders_late_2",
    "DELETE FROM shop.note WHERE customer_id = 2",
    "DELETE FROM shop.long_note",
    "DELETE FROM shop.ticket t USING shop.customer c WHERE c.id = t.customer_id",
    "UPDATE shop.customer SET email = NULL WHERE id = 2",
    "UPDATE shop.customer SET amount = NULL",
    "UPDATE shop.note SET body = NULL",
    "UPDATE shop.long_note SET body = NULL",
    "UPDATE shop.orders SET item = NULL WHERE customer_id = 2",
    // By cascades from the parent and from its parent.
    "DELETE FROM shop.area WHERE id = 2",
    "DELETE FROM shop.area WHERE id IN (2, 9)",
    // A row that moves to another partition is deleted from the first.
    "UPDATE shop.orders SET at = '2025-03-01' WHERE id = 2",
    "MERGE INTO shop.customer c USING (VALUES (2)) v (id) ON c.id = v.id WHEN MATCHED THEN DELETE",
    "MERGE INTO shop.ticket t USING shop.customer c ON c.id = t.customer_id WHEN MATCHED AND c.id = 2 THEN UPDATE SET body = NULL",
    "INSERT INTO shop.customer (id) VALUES (2) ON CONFLICT (id) DO UPDATE SET email = excluded.email",
    "WITH gone AS (DELETE FROM shop.ticket RETURNING id) SELECT count(*) FROM gone",
    "WITH changed AS (UPDATE shop.ticket SET body = NULL RETURNING id) INSERT INTO shop.area SELECT -id FROM changed",
    "BEGIN; DECLARE c CURSOR FOR SELECT * FROM shop.ticket WHERE id = 2 FOR UPDATE; MOVE NEXT FROM c; DELETE FROM shop.ticket WHERE CURRENT OF c",
    "BEGIN; DECLARE c CURSOR FOR SELECT * FROM shop.customer WHERE id = 2; MOVE NEXT FROM c; UPDATE shop.customer SET email = NULL WHERE CURRENT OF c",
    // Views, rules, functions.
    "DELETE FROM shop.mail WHERE id = 2",
    "UPDATE shop.mail SET email = NULL",
    "MERGE INTO shop.customer c USING shop.mail m ON c.id = m.id WHEN MATCHED THEN UPDATE SET email = NULL",
    "DELETE FROM shop.desk",
    "UPDATE shop.desk SET body = 'x' WHERE id = 2",
    "INSERT INTO shop.bell VALUES (2)",
    "SELECT shop.purge(2)",
    "DO $$ BEGIN DELETE FROM shop.ticket WHERE id = 2; EXCEPTION WHEN unique_violation THEN NULL; END $$",
    "PREPARE gone AS DELETE FROM shop.ticket WHERE id = 2; EXECUTE gone",
    "EXPLAIN ANALYZE DELETE FROM shop.ticket WHERE id = 2",
    // Whole tables.
    "TRUNCATE shop.ticket",
    "TRUNCATE ONLY shop.note",
    "TRUNCATE shop.orders",
    "TRUNCATE shop.orders_2024",
    "TRUNCATE shop.orders_late",
    "TRUNCATE shop.customer CASCADE",
    "TRUNCATE shop.area CASCADE",
    "TRUNCATE shop.review, shop.bell RESTART IDENTITY",
    // COPY FREEZE wants a table that was truncated in the same transaction.
    "BEGIN; TRUNCATE shop.ticket; COPY shop.ticket FROM PROGRAM 'true' (FREEZE)",
    "BEGIN; SAVEPOINT s; DELETE FROM shop.ticket WHERE id = 2; RELEASE s; COMMIT",
    "BEGIN; SET CONSTRAINTS ALL DEFERRED; DELETE FROM shop.area WHERE id = 2; COMMIT",
    "BEGIN; DELETE FROM shop.ticket WHERE id = 2; PREPARE TRANSACTION 'gone'",
];

/// What a hold that finds rows by their columns forbids.
const FOUND_BY: &[&str] = &[
    "UPDATE shop.orders SET customer_id = 3 WHERE id = 2",
    "UPDATE shop.orders SET customer_id = 3 WHERE id = 12",
    "UPDATE shop.note SET customer_id = 3",
    "ALTER TABLE shop.orders DROP COLUMN customer_id",
    "UPDATE shop.ticket SET customer_id = NULL",
    "MERGE INTO shop.ticket t USING (VALUES (2)) v (id) ON t.id = v.id WHEN MATCHED THEN UPDATE SET customer_id = 1",
];

/// What only a hold forbids: other values in held cells, keys that leave, and types that show them otherwise.
const CHANGES: &[&str] = &[
    "UPDATE shop.customer SET email = 'x' WHERE id = 2",
    "UPDATE shop.customer SET word = 'x', home = ROW('a', 'b')",
    "UPDATE shop.customer SET amount = amount + 1",
    "UPDATE shop.customer SET grades[1] = 'high'",
    "UPDATE shop.customer SET home.town = 'x'",
    // By ON UPDATE CASCADE, SET NULL and SET DEFAULT.
    "UPDATE shop.customer SET id = 20 WHERE id = 2",
    "INSERT INTO shop.customer VALUES (2) ON CONFLICT (id) DO UPDATE SET id = 20",
    "UPDATE shop.mail SET email = 'y' WHERE id = 2",
    // What a value of a type looks like.
    "ALTER TYPE shop.grade RENAME VALUE 'low' TO 'lowest'",
];

/// DDL that takes kept rows or cells away, or takes them out of what keeps them.
const DDL: &[&str] = &[
    "DROP TABLE shop.ticket",
    "DROP TABLE shop.orders",
    "DROP TABLE shop.orders_2024",
    "DROP TABLE shop.orders_late",
    "DROP TABLE shop.orders_late_2",
    "DROP TABLE shop.long_note",
    "DROP TABLE shop.note CASCADE",
    "DROP TABLE shop.customer CASCADE",
    "DROP TABLE shop.ticket, shop.bell",
    "DROP SCHEMA shop CASCADE",
    "DROP TYPE shop.grade CASCADE",
    "DROP TYPE shop.place CASCADE",
    "DROP DOMAIN shop.word CASCADE",
    "DROP OWNED BY shop CASCADE",
    "ALTER TABLE shop.customer DROP COLUMN email",
    "ALTER TABLE shop.customer DROP COLUMN amount CASCADE",
    "ALTER TABLE shop.orders DROP COLUMN item",
    "ALTER TABLE shop.note DROP COLUMN body",
    "ALTER TYPE shop.place DROP ATTRIBUTE town",
    "ALTER TABLE shop.orders DETACH PARTITION shop.orders_2024",
    "ALTER TABLE shop.orders DETACH PARTITION shop.orders_2024 CONCURRENTLY",
    "ALTER TABLE shop.orders DETACH PARTITION shop.orders_late",
    "ALTER TABLE shop.orders_late DETACH PARTITION shop.orders_late_2",
    "ALTER TABLE shop.long_note NO INHERIT shop.note",
    "ALTER TABLE shop.customer ALTER COLUMN email TYPE varchar(3) USING 'x'",
    "ALTER TABLE shop.customer ALTER email TYPE char(40), ADD COLUMN more int",
    "ALTER TABLE shop.orders ALTER COLUMN item TYPE varchar(3) USING NULL",
    "ALTER TABLE shop.note ALTER COLUMN body TYPE varchar(3) USING 'x'",
    "ALTER TABLE IF EXISTS shop.ticket ALTER COLUMN body TYPE varchar(3) USING 'x'",
    "ALTER TABLE shop.customer SET UNLOGGED",
    "ALTER TABLE shop.ticket DISABLE TRIGGER ALL",
    "ALTER TABLE shop.orders DISABLE TRIGGER ALL",
];

/// What a minimum runs by.
const CLOCKS: &[&str] = &[
    "ALTER TABLE shop.note DROP COLUMN at",
    "ALTER TABLE shop.orders DROP COLUMN at",
    "ALTER TABLE shop.ticket ALTER COLUMN at TYPE date",
];

/// What a superuser could do about it.
const SUPERUSER: &[&str] = &[
    "SET session_replication_role = replica; DELETE FROM shop.ticket WHERE id = 2",
    "SET session_replication_role = replica; UPDATE shop.ticket SET body = NULL WHERE id = 2",
    "SET session_replication_role = replica; DELETE FROM shop.orders_late_2",
    "SET session_replication_role = replica; TRUNCATE shop.orders",
    // Would leave an orphan.
    "SET session_replication_role = replica; DELETE FROM shop.customer WHERE id = 2",
    "SET LOCAL session_replication_role = replica; UPDATE shop.customer SET id = 30 WHERE id = 2",
    "BEGIN; ALTER EXTENSION plpgsql ADD TABLE shop.ticket; DROP EXTENSION plpgsql CASCADE",
    "BEGIN; CREATE EXTENSION citext; ALTER TABLE shop.bell ADD COLUMN c citext; ALTER EXTENSION citext ADD TABLE shop.ticket; DROP EXTENSION citext CASCADE",
    "REASSIGN OWNED BY shop TO counsel; DROP OWNED BY counsel CASCADE",
];

/// The guard itself, which a superuser could take to pieces.
const GUARD: &[&str] = &[
    "BEGIN; ALTER EXTENSION pg_custodian DROP FUNCTION custodian.row_guard(); DROP FUNCTION custodian.row_guard() CASCADE",
    "ALTER EXTENSION pg_custodian DROP FUNCTION custodian.row_guard()",
    "ALTER FUNCTION custodian.row_guard() RENAME TO away",
    "ALTER FUNCTION custodian.row_guard() OWNER TO shop",
    "ALTER FUNCTION custodian.row_guard() SET SCHEMA shop",
    "ALTER ROUTINE custodian.row_guard() SET search_path = shop",
    "ALTER FUNCTION custodian.row_guard() DEPENDS ON EXTENSION plpgsql",
    "CREATE OR REPLACE FUNCTION custodian.row_guard() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "DROP EXTENSION pg_custodian CASCADE",
    "ALTER EXTENSION pg_custodian DROP VIEW custodian.holds",
    "ALTER TABLE custodian.hold RENAME TO away",
    // The server takes a table in these as well.
    "ALTER INDEX custodian.hold RENAME TO away",
    "ALTER TABLE custodian.hold RENAME COLUMN matter TO away",
    "ALTER VIEW custodian.hold RENAME COLUMN matter TO away",
    "ALTER TYPE custodian.hold RENAME ATTRIBUTE matter TO away",
    "ALTER INDEX custodian.relation_oid RENAME TO away",
    "ALTER TABLE custodian.relation_ref SET SCHEMA shop",
    // An event trigger that acts in the script of an extension is none of that extension's.
    "CREATE FUNCTION past() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN ALTER TABLE custodian.hold RENAME TO away; END $$;
     CREATE EVENT TRIGGER past ON ddl_command_end WHEN TAG IN ('CREATE FUNCTION') EXECUTE FUNCTION past(); CREATE EXTENSION hstore",
    "ALTER SCHEMA custodian RENAME TO away",
    "ALTER SCHEMA custodian OWNER TO shop",
    "REASSIGN OWNED BY shop, postgres TO counsel",
    "REASSIGN OWNED BY CURRENT_USER TO counsel",
];

fn channels(scope: Scope) -> Result<()> {
    let node = shop()?;
    keep(&node, scope)?;
    let before = state(&node)?;
    let by = scope.by();
    let mut all_wrong = Vec::new();
    for role in ["postgres", "shop"] {
        let mut client = node.client_as(role, "postgres")?;
        let changes = if scope == Scope::Minimum {
            CLOCKS
        } else {
            CHANGES
        };
        for sql in DML.iter().chain(DDL).chain(changes) {
            // Only a superuser copies from a program.
            if role == "postgres" || !sql.contains("PROGRAM") {
                all_wrong.extend(wrong(&mut client, sql, by));
            }
        }
        if matches!(scope, Scope::Subject | Scope::Rows) {
            for sql in FOUND_BY {
                all_wrong.extend(wrong(&mut client, sql, by));
            }
        }
    }
    let mut client = node.client()?;
    // Whoever may drop the extension may drop its minimums; holds take two people.
    let guard = if scope == Scope::Minimum { &[] } else { GUARD };
    for sql in SUPERUSER.iter().chain(guard) {
        all_wrong.extend(wrong(&mut client, sql, by));
    }
    let triggers = client.text(
        "SELECT format('%I ON %s', tgname, tgrelid::regclass) FROM pg_trigger WHERE tgfoid = 'custodian.row_guard'::regproc
         AND tgrelid IN ('shop.ticket'::regclass, 'shop.orders_late_2'::regclass, 'shop.customer'::regclass)",
    )?;
    assert_eq!(triggers.lines().count(), 6);
    for trigger in triggers.lines() {
        let (name, table) = trigger.split_once(" ON ").expect("a trigger on a table");
        for sql in [
            format!("ALTER TABLE {table} DISABLE TRIGGER {name}"),
            format!("ALTER TABLE {table} ENABLE TRIGGER {name}"),
            format!("ALTER TABLE {table} ENABLE REPLICA TRIGGER {name}"),
            format!("ALTER TRIGGER {name} ON {table} RENAME TO zzz"),
            format!("ALTER TRIGGER {name} ON {table} DEPENDS ON EXTENSION plpgsql"),
            format!("DROP TRIGGER {name} ON {table}"),
            format!("BEGIN; SAVEPOINT s; DROP TRIGGER IF EXISTS {name} ON {table} CASCADE"),
        ] {
            all_wrong.extend(wrong(&mut client, &sql, by));
        }
    }
    assert!(all_wrong.is_empty(), "{}", all_wrong.join("\n"));
    assert_eq!(state(&node)?, before);
    Ok(())
}

#[test]
fn no_channel_takes_rows_of_a_held_subject() -> Result<()> {
    channels(Scope::Subject)
}

#[test]
fn no_channel_takes_rows_of_a_held_table() -> Result<()> {
    channels(Scope::Table)
}

#[test]
fn no_channel_takes_rows_held_by_their_values() -> Result<()> {
    channels(Scope::Rows)
}

#[test]
fn no_channel_takes_rows_under_a_statutory_minimum() -> Result<()> {
    channels(Scope::Minimum)
}

#[test]
fn a_held_row_keeps_what_it_refers_to() -> Result<()> {
    let node = shop()?;
    // Holds on the children alone. Their keys are not tagged, and a direct change of one is allowed; what a
    // deletion of the parent would do to them is not.
    for table in ["ticket", "review"] {
        node.exec(&format!(
            "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'r', rel => 'shop.{table}')"
        ))?;
    }
    let before = state(&node)?;
    let mut client = node.client()?;
    let mut all_wrong = Vec::new();
    for sql in [
        "DELETE FROM shop.customer WHERE id = 2",
        "DELETE FROM shop.area WHERE id = 2",
        "UPDATE shop.customer SET id = 20 WHERE id = 2",
        "TRUNCATE shop.customer CASCADE",
        "SET session_replication_role = replica; DELETE FROM shop.customer WHERE id = 2",
        "SET session_replication_role = replica; UPDATE shop.customer SET id = 20 WHERE id = 2",
    ] {
        all_wrong.extend(wrong(&mut client, sql, MATTER));
    }
    assert!(all_wrong.is_empty(), "{}", all_wrong.join("\n"));
    assert_eq!(state(&node)?, before);
    Ok(())
}

#[test]
fn a_stranger_learns_no_matter_from_channels() -> Result<()> {
    let node = shop()?;
    keep(&node, Scope::Table)?;
    // A stranger who may create in the schema, and owns a schema and a type of the same names elsewhere.
    node.exec(
        "CREATE ROLE stranger LOGIN; GRANT USAGE, CREATE ON SCHEMA shop TO stranger;
         GRANT USAGE ON SCHEMA custodian TO stranger",
    )?;
    let trigger = node.text(
        "SELECT format('%I', tgname) FROM pg_trigger WHERE tgfoid = 'custodian.row_guard'::regproc
         AND tgrelid = 'shop.ticket'::regclass AND tgname LIKE '%row%'",
    )?;
    let mut stranger = node.client_as("stranger", "postgres")?;
    for sql in [
        "DROP SCHEMA shop CASCADE".to_owned(),
        "DROP OWNED BY shop CASCADE".to_owned(),
        "DROP TYPE shop.grade CASCADE".to_owned(),
        "ALTER TYPE shop.grade RENAME VALUE 'low' TO 'lowest'".to_owned(),
        "ALTER TYPE shop.place DROP ATTRIBUTE town".to_owned(),
        "DROP TABLE shop.ticket".to_owned(),
        "TRUNCATE shop.ticket".to_owned(),
        "DELETE FROM shop.ticket".to_owned(),
        format!("ALTER TRIGGER {trigger} ON shop.ticket RENAME TO zzz"),
        format!("DROP TRIGGER {trigger} ON shop.ticket"),
        format!("ALTER TABLE shop.ticket DISABLE TRIGGER {trigger}"),
        "ALTER FUNCTION custodian.row_guard() RENAME TO away".to_owned(),
        "ALTER SCHEMA custodian RENAME TO away".to_owned(),
        "ALTER EXTENSION pg_custodian DROP FUNCTION custodian.row_guard()".to_owned(),
        "DROP EXTENSION pg_custodian".to_owned(),
    ] {
        let error = stranger.refused(&sql);
        let text = error.to_string();
        assert_eq!(error.sqlstate(), "42501", "{sql}: {text}");
        assert!(!text.contains(MATTER), "{sql}: {text}");
    }
    Ok(())
}

#[test]
fn what_the_guard_keeps_planned_follows_changes_of_the_tables() -> Result<()> {
    let node = shop()?;
    // The subject is two foreign keys away, and its key is not what they refer to.
    node.exec(
        "CREATE TABLE shop.person (id int PRIMARY KEY, number text UNIQUE, born date);
         CREATE TABLE shop.visit (id int PRIMARY KEY, person_id int REFERENCES shop.person, at timestamptz);
         CREATE TABLE shop.click (visit_id int REFERENCES shop.visit, at timestamptz);
         INSERT INTO shop.person SELECT n, 'P-' || n, '1990-01-01' FROM generate_series(1, 3) n;
         INSERT INTO shop.visit SELECT n, n, now() FROM generate_series(1, 3) n;
         INSERT INTO shop.click SELECT n, now() FROM generate_series(1, 3) n;
         SELECT custodian.tag_table('shop.person', clock => 'born', subject_kind => 'person', subject_key => ARRAY['number']);
         SELECT custodian.tag_table('shop.visit', clock => 'at', subject_kind => 'person', subject_via => ARRAY['person_id']);
         SELECT custodian.tag_table('shop.click', clock => 'at', subject_kind => 'person', subject_via => ARRAY['visit_id'])",
    )?;
    node.exec(&format!(
        "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'r', subject_kind => 'person', subject_key => ARRAY['P-2'])"
    ))?;
    // One session, whose plans are kept from one step to the next.
    let mut client = node.client()?;
    let mut all_wrong = Vec::new();
    for change in [
        "SELECT 1",
        "ALTER TABLE shop.visit RENAME TO stay",
        "GRANT USAGE ON SCHEMA shop TO counsel; ALTER TABLE shop.stay OWNER TO counsel; ALTER TABLE shop.person OWNER TO counsel",
        "CREATE SCHEMA moved; GRANT USAGE ON SCHEMA moved TO counsel; ALTER TABLE shop.person SET SCHEMA moved",
        "CREATE INDEX ON moved.person (id, number)",
    ] {
        node.exec(change)?;
        let held = "DELETE FROM shop.click WHERE visit_id = 2";
        all_wrong.extend(wrong(&mut client, held, MATTER));
        client.batch_execute("BEGIN; DELETE FROM shop.click WHERE visit_id <> 2; ROLLBACK")?;
    }
    assert!(all_wrong.is_empty(), "{}", all_wrong.join("\n"));
    Ok(())
}
