//! What would destroy kept rows, by whatever statement.

use integration::{Result, Sql};

use crate::shop::{MATTER, counts, hold_customer, kept, kept_by, shop};

#[test]
fn rows_of_a_held_subject_stay_whoever_deletes_them() -> Result<()> {
    let node = shop()?;
    hold_customer(&node, 2)?;
    for role in ["postgres", "shop"] {
        let mut client = node.client_as(role, "postgres")?;
        let client = &mut client;
        kept(client, "DELETE FROM shop.customer WHERE id = 2");
        kept(client, "DELETE FROM shop.customer");
        kept(client, "DELETE FROM shop.orders WHERE customer_id = 2");
        kept(client, "DELETE FROM shop.orders_2025");
        kept(client, "UPDATE shop.customer SET email = NULL WHERE id = 2");
        kept(client, "UPDATE shop.customer SET id = 20 WHERE id = 2");
        kept(
            client,
            "UPDATE shop.orders SET customer_id = 1 WHERE customer_id = 2",
        );
        kept(client, "UPDATE shop.ticket SET customer_id = NULL");
        kept(client, "TRUNCATE shop.ticket");
        kept(client, "TRUNCATE shop.orders");
        kept(client, "TRUNCATE shop.orders_2024");
        kept(client, "TRUNCATE shop.customer CASCADE");
        kept(
            client,
            "MERGE INTO shop.customer c USING (VALUES (2)) v (id) ON c.id = v.id WHEN MATCHED THEN DELETE",
        );
        kept(
            client,
            "INSERT INTO shop.customer VALUES (2, 'x') ON CONFLICT (id) DO UPDATE SET email = excluded.email",
        );
        kept(
            client,
            "WITH gone AS (DELETE FROM shop.ticket RETURNING id) SELECT count(*) FROM gone",
        );
        // A row that moves to another partition is deleted from the first.
        kept(
            client,
            "UPDATE shop.orders SET at = '2025-03-01' WHERE id = 2",
        );
        // What is not held can go, and what the hold does not protect can change.
        client.batch_execute("BEGIN; DELETE FROM shop.customer WHERE id = 1; ROLLBACK")?;
        client
            .batch_execute("BEGIN; UPDATE shop.customer SET note = 'y' WHERE id = 2; ROLLBACK")?;
        client.batch_execute("BEGIN; UPDATE shop.customer SET email = email; ROLLBACK")?;
    }
    assert_eq!(counts(&node)?, "3|6|3");
    Ok(())
}

#[test]
fn no_ddl_takes_held_rows_away() -> Result<()> {
    let node = shop()?;
    hold_customer(&node, 2)?;
    for role in ["postgres", "shop"] {
        let mut client = node.client_as(role, "postgres")?;
        let client = &mut client;
        for ddl in [
            "DROP TABLE shop.ticket",
            "DROP TABLE shop.orders",
            "DROP TABLE shop.orders_2024",
            "DROP TABLE shop.customer CASCADE",
            "DROP SCHEMA shop CASCADE",
            "ALTER TABLE shop.customer DROP COLUMN email",
            "ALTER TABLE shop.orders DROP COLUMN customer_id",
            "ALTER TABLE shop.ticket DROP CONSTRAINT ticket_customer_id_fkey",
            "ALTER TABLE shop.orders DETACH PARTITION shop.orders_2024",
            "ALTER TABLE shop.orders DETACH PARTITION shop.orders_2024 CONCURRENTLY",
            "ALTER TABLE shop.customer ALTER COLUMN email TYPE varchar(3) USING 'x'",
            "ALTER TABLE shop.customer SET UNLOGGED",
        ] {
            kept(client, ddl);
        }
    }
    let mut client = node.client()?;
    kept(&mut client, "DROP OWNED BY shop CASCADE");
    for sql in [
        "ALTER TABLE shop.customer DISABLE TRIGGER ALL",
        "ALTER TABLE shop.orders DISABLE TRIGGER ALL",
    ] {
        kept_by(&mut client, sql, "row guard");
    }
    let triggers = client.text(
        "SELECT format('%I', tgname) FROM pg_trigger WHERE tgrelid = 'shop.customer'::regclass
         AND tgfoid = 'custodian.row_guard'::regproc",
    )?;
    assert_eq!(triggers.lines().count(), 2);
    for trigger in triggers.lines() {
        for sql in [
            format!("ALTER TABLE shop.customer DISABLE TRIGGER {trigger}"),
            format!("ALTER TABLE shop.customer ENABLE REPLICA TRIGGER {trigger}"),
            format!("DROP TRIGGER {trigger} ON shop.customer"),
        ] {
            kept_by(&mut client, &sql, "row guard");
        }
    }
    // What a restore with --disable-triggers does at its end leaves the guard as it was.
    client.batch_execute("ALTER TABLE shop.customer ENABLE TRIGGER ALL")?;
    kept(
        &mut client,
        "SET session_replication_role = replica; DELETE FROM shop.customer WHERE id = 2",
    );
    // A column that nothing keeps can go, and a partition without held rows.
    client.batch_execute("ALTER TABLE shop.customer DROP COLUMN note")?;
    node.exec(
        "CREATE TABLE shop.orders_2023 PARTITION OF shop.orders FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
         INSERT INTO shop.orders VALUES (100, 1, 'C1', 1, '2023-06-01')",
    )?;
    node.exec("ALTER TABLE shop.orders DETACH PARTITION shop.orders_2023")?;
    node.exec("DROP TABLE shop.orders_2023")?;
    assert_eq!(counts(&node)?, "3|6|3");
    Ok(())
}

#[test]
fn a_stranger_learns_nothing_of_holds_from_ddl() -> Result<()> {
    let node = shop()?;
    hold_customer(&node, 2)?;
    node.exec(
        "CREATE ROLE stranger LOGIN; GRANT USAGE ON SCHEMA shop TO stranger;
         CREATE SCHEMA own AUTHORIZATION stranger",
    )?;
    let mut stranger = node.client_as("stranger", "postgres")?;
    stranger.batch_execute("CREATE TABLE own.p (at date) PARTITION BY RANGE (at)")?;
    for (ddl, words) in [
        (
            "ALTER TABLE shop.customer DROP COLUMN email",
            "must be owner of table customer",
        ),
        (
            "ALTER TABLE shop.customer ALTER COLUMN email TYPE varchar(3)",
            "must be owner of table customer",
        ),
        (
            "ALTER TABLE shop.customer SET UNLOGGED",
            "must be owner of table customer",
        ),
        (
            "ALTER TABLE shop.customer DISABLE TRIGGER ALL",
            "must be owner of table customer",
        ),
        (
            "ALTER TABLE shop.ticket DROP CONSTRAINT ticket_customer_id_fkey",
            "must be owner of table ticket",
        ),
        (
            "ALTER TABLE shop.orders DETACH PARTITION shop.orders_2024",
            "must be owner of table orders",
        ),
        // The table altered is the stranger's own; the one named is no partition of it.
        (
            "ALTER TABLE own.p DETACH PARTITION shop.orders_2024",
            "relation \"orders_2024\" is not a partition of relation \"p\"",
        ),
    ] {
        let error = stranger.refused(ddl).to_string();
        assert!(error.contains(words), "{ddl}: {error}");
        assert!(!error.contains(MATTER), "{ddl}: {error}");
    }
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.guard_events WHERE role = 'stranger'")?,
        "0"
    );
    Ok(())
}

#[test]
fn a_partition_that_comes_later_is_guarded() -> Result<()> {
    let node = shop()?;
    hold_customer(&node, 2)?;
    node.exec(
        "CREATE TABLE shop.orders_2026 PARTITION OF shop.orders FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
         INSERT INTO shop.orders VALUES (20, 2, 'D2', 1, '2026-06-01');
         CREATE TABLE shop.orders_2027 (LIKE shop.orders);
         INSERT INTO shop.orders_2027 VALUES (21, 2, 'E2', 1, '2027-06-01');
         ALTER TABLE shop.orders ATTACH PARTITION shop.orders_2027 FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')",
    )?;
    let mut client = node.client()?;
    kept(&mut client, "DELETE FROM shop.orders WHERE id = 20");
    kept(&mut client, "DELETE FROM shop.orders_2027");
    kept(&mut client, "DROP TABLE shop.orders_2026");
    Ok(())
}

#[test]
fn the_replica_role_orphans_no_held_row() -> Result<()> {
    let node = shop()?;
    let mut client = node.client()?;
    // A table hold on the child alone: the parent itself is not held.
    node.exec(&format!(
        "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'court order', rel => 'shop.ticket')"
    ))?;
    let replica = "SET session_replication_role = replica; ";
    kept(
        &mut client,
        &format!("{replica}DELETE FROM shop.ticket WHERE id = 1"),
    );
    kept(
        &mut client,
        &format!("{replica}DELETE FROM shop.customer WHERE id = 1"),
    );
    kept(
        &mut client,
        &format!("{replica}UPDATE shop.customer SET id = 9 WHERE id = 1"),
    );
    kept(&mut client, &format!("{replica}TRUNCATE shop.ticket"));
    // By SET NULL, as foreign keys do it.
    kept(
        &mut client,
        "SET session_replication_role = origin; DELETE FROM shop.customer WHERE id = 1",
    );
    assert_eq!(
        node.text(
            "SELECT count(*) FROM shop.ticket t JOIN shop.customer c ON c.id = t.customer_id"
        )?,
        "3"
    );
    Ok(())
}

#[test]
fn triggers_and_rules_that_swallow_a_cascade_orphan_no_held_row() -> Result<()> {
    let node = shop()?;
    node.exec(&format!(
        "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'r', rel => 'shop.orders', match => '{{\"invoice_no\":[\"A2\"]}}')"
    ))?;
    let mut owner = node.client_as("shop", "postgres")?;
    kept(&mut owner, "DELETE FROM shop.customer WHERE id = 2");
    owner.batch_execute(
        "CREATE FUNCTION shop.skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER skip BEFORE DELETE ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.skip()",
    )?;
    kept(&mut owner, "DELETE FROM shop.customer WHERE id = 2");
    owner.batch_execute(
        "DROP TRIGGER skip ON shop.orders;
         CREATE RULE skip AS ON DELETE TO shop.orders DO INSTEAD NOTHING",
    )?;
    kept(&mut owner, "DELETE FROM shop.customer WHERE id = 2");
    // A trigger that undoes or makes changes after all others saw them does not get round the guard.
    owner.batch_execute(
        "DROP RULE skip ON shop.orders;
         CREATE FUNCTION shop.change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.invoice_no := ''Z''; RETURN NEW; END';
         CREATE TRIGGER \"~~~~\" BEFORE UPDATE ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.change()",
    )?;
    kept(
        &mut owner,
        "UPDATE shop.orders SET id = id WHERE invoice_no = 'A2'",
    );
    assert_eq!(counts(&node)?, "3|6|3");
    Ok(())
}

#[test]
fn rows_are_held_by_the_values_of_their_columns() -> Result<()> {
    let node = shop()?;
    node.exec(&format!(
        "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'tax audit',
             rel => 'shop.orders', match => '{{\"invoice_no\":[\"A1\",\"B3\"],\"at\":[\"1 June 2024\",\"2025-06-01\"]}}')"
    ))?;
    let mut client = node.client()?;
    // The session's own date style does not matter.
    client.batch_execute("SET DateStyle = 'German, DMY'")?;
    kept(
        &mut client,
        "DELETE FROM shop.orders WHERE invoice_no = 'A1'",
    );
    kept(
        &mut client,
        "UPDATE shop.orders SET invoice_no = 'Z' WHERE id = 13",
    );
    kept(&mut client, "DELETE FROM shop.customer WHERE id = 3");
    client.batch_execute("DELETE FROM shop.orders WHERE invoice_no = 'B1'")?;
    // Renamed, moved and renamed columns: still held.
    node.exec(
        "ALTER TABLE shop.orders RENAME TO purchase; CREATE SCHEMA archive;
         ALTER TABLE shop.purchase SET SCHEMA archive;
         ALTER TABLE archive.purchase RENAME COLUMN invoice_no TO number;
         ALTER INDEX archive.purchase RENAME TO bought; ALTER VIEW archive.bought RENAME COLUMN at TO day",
    )?;
    kept(
        &mut client,
        "DELETE FROM archive.bought WHERE number = 'B3'",
    );
    assert_eq!(
        node.text("SELECT relation, match FROM custodian.holds")?,
        "archive.bought|{\"day\": [\"2024-06-01\", \"2025-06-01\"], \"number\": [\"A1\", \"B3\"]}"
    );
    let error = client.refused(
        "SELECT custodian.place_hold('x', 'counsel', current_date + 30, 'r', rel => 'archive.bought', match => '{\"gone\":[\"1\"]}')",
    );
    assert_eq!(error.sqlstate(), "42704");
    Ok(())
}
