//! Legal holds and statutory minimums on a real cluster, with concurrent sessions: what destroys kept rows is
//! refused, whoever tries, and by whatever way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use integration::{Cluster, Error, Result, Sql, wait_until};
use postgres::Client;

const MATTER: &str = "case 42";

/// A shop: customers, their orders by year, tickets. Customers 1 to 3 with two orders and a ticket each.
fn shop() -> Result<Cluster> {
    let node = Cluster::builder("hold")
        .preload("pg_custodian")
        .conf("deadlock_timeout = 200ms")
        .conf("custodian.naptime = 3600")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(SHOP)?;
    node.exec(
        "SELECT custodian.define_purpose('shop.account', 'contract', '50 years');
         SELECT custodian.tag_column('shop.customer', 'email', 'user.contact.email', ARRAY['shop.account'], on_expiry => 'set_null', clock => 'last_seen');
         SELECT custodian.tag_table('shop.customer', clock => 'last_seen', subject_kind => 'customer', subject_key => ARRAY['id']);
         SELECT custodian.tag_table('shop.orders', clock => 'at', subject_kind => 'customer', subject_via => ARRAY['customer_id']);
         SELECT custodian.tag_table('shop.ticket', clock => 'at', subject_kind => 'customer', subject_via => ARRAY['customer_id'])",
    )?;
    Ok(node)
}

const SHOP: &str = "
    CREATE ROLE shop LOGIN; CREATE ROLE counsel; CREATE SCHEMA shop AUTHORIZATION shop;
    SET ROLE shop;
    CREATE TABLE shop.customer (id int PRIMARY KEY, email text, note text, last_seen timestamptz);
    CREATE TABLE shop.orders (id int, customer_id int REFERENCES shop.customer ON DELETE CASCADE,
        invoice_no text, amount int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE shop.orders_2024 PARTITION OF shop.orders FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    CREATE TABLE shop.orders_2025 PARTITION OF shop.orders FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    CREATE TABLE shop.ticket (id int PRIMARY KEY, customer_id int REFERENCES shop.customer ON DELETE SET NULL,
        body text, at timestamptz);
    INSERT INTO shop.customer SELECT n, 'c' || n || '@example.org', 'note', '2024-05-01' FROM generate_series(1, 3) n;
    INSERT INTO shop.orders SELECT n, n, 'A' || n, 10 * n, '2024-06-01' FROM generate_series(1, 3) n;
    INSERT INTO shop.orders SELECT 10 + n, n, 'B' || n, 10 * n, '2025-06-01' FROM generate_series(1, 3) n;
    INSERT INTO shop.ticket SELECT n, n, 'help', '2025-01-01' FROM generate_series(1, 3) n;
    RESET ROLE;
";

fn hold_customer(node: &Cluster, id: u32) -> Result<String> {
    node.text(&format!(
        "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'court order',
             subject_kind => 'customer', subject_key => ARRAY['{id}'])"
    ))
}

/// The statements are refused because of the matter, and the message gives no value away.
#[track_caller]
fn kept(client: &mut Client, sql: &str) -> Error {
    kept_by(client, sql, MATTER)
}

#[track_caller]
fn kept_by(client: &mut Client, sql: &str, by: &str) -> Error {
    let error = client.refused(sql);
    assert_eq!(error.sqlstate(), "23001", "{sql}: {error}");
    let text = error.to_string();
    assert!(text.contains(by), "{sql}: {text}");
    assert!(!text.contains("example.org"), "{text}");
    let _closed = client.batch_execute("ROLLBACK");
    error
}

fn counts(node: &Cluster) -> Result<String> {
    node.text(
        "SELECT (SELECT count(*) FROM shop.customer), (SELECT count(*) FROM shop.orders),
                (SELECT count(*) FROM shop.ticket WHERE customer_id IS NOT NULL)",
    )
}

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
         ALTER TABLE archive.purchase RENAME COLUMN invoice_no TO number",
    )?;
    kept(
        &mut client,
        "DELETE FROM archive.purchase WHERE number = 'B3'",
    );
    assert_eq!(
        node.text("SELECT relation, match FROM custodian.holds")?,
        "archive.purchase|{\"at\": [\"2024-06-01\", \"2025-06-01\"], \"number\": [\"A1\", \"B3\"]}"
    );
    let error = client.refused(
        "SELECT custodian.place_hold('x', 'counsel', current_date + 30, 'r', rel => 'archive.purchase', match => '{\"gone\":[\"1\"]}')",
    );
    assert_eq!(error.sqlstate(), "42704");
    Ok(())
}

#[test]
fn a_snapshot_older_than_the_hold_does_not_get_round_it() -> Result<()> {
    let node = shop()?;
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let mut old = node.client()?;
        old.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}"))?;
        assert_eq!(old.text("SELECT count(*) FROM shop.customer")?, "3");
        let hold = hold_customer(&node, 2)?;
        kept(&mut old, "DELETE FROM shop.customer WHERE id = 2");

        // The guard is in place already: the next one is found by its fresh snapshot alone.
        let mut old = node.client()?;
        old.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}"))?;
        assert_eq!(old.text("SELECT count(*) FROM shop.customer")?, "3");
        let second = hold_customer(&node, 3)?;
        kept(&mut old, "DELETE FROM shop.customer WHERE id = 3");
        for id in [hold, second] {
            node.exec(&format!(
                "SELECT custodian.release_hold({id}, 'counsel', 'settled')"
            ))?;
        }
    }
    Ok(())
}

#[test]
fn a_rollback_to_a_savepoint_forgets_what_was_read_under_its_locks() -> Result<()> {
    let node = shop()?;
    hold_customer(&node, 3)?;
    let mut client = node.client()?;
    client
        .batch_execute("BEGIN; SAVEPOINT s; DELETE FROM shop.ticket WHERE id = 1; ROLLBACK TO s")?;
    hold_customer(&node, 1)?;
    kept(&mut client, "DELETE FROM shop.ticket WHERE id = 1");
    assert_eq!(counts(&node)?, "3|6|3");
    Ok(())
}

#[test]
fn a_hold_waits_for_open_deletions_and_says_for_whom() -> Result<()> {
    let node = shop()?;
    // Once without any trigger on the tables, once with.
    for round in 0..2 {
        let mut writer = node.client()?;
        let pid = writer.text("SELECT pg_backend_pid()")?;
        writer.batch_execute("BEGIN; DELETE FROM shop.ticket WHERE id = 2")?;
        let mut steward = node.client()?;
        let place = format!(
            "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'court order',
                 subject_kind => 'customer', subject_key => ARRAY['2'])"
        );
        let error = steward.refused(&format!("SET lock_timeout = '300ms'; {place}"));
        assert_eq!(error.sqlstate(), "55P03", "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("process {pid}.")), "{text}");
        steward.batch_execute("SET lock_timeout = 0")?;
        assert_eq!(
            node.text("SELECT count(*) FROM custodian.hold WHERE released_at IS NULL")?,
            round.to_string(),
            "nothing was placed"
        );

        // Without a timeout it waits, and is in force when it returns.
        let waiting = thread::spawn(move || steward.text(&place));
        wait_until("the steward waits", 60, || {
            node.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
                .is_ok_and(|waiting| waiting == "1")
        });
        writer.batch_execute("ROLLBACK")?;
        waiting.join().expect("the steward's thread")?;
        kept(&mut writer, "DELETE FROM shop.ticket WHERE id = 2");

        // From here on the triggers are there.
        node.exec(&format!(
            "SELECT custodian.place_hold('other', 'counsel', current_date + 30, 'r', subject_kind => 'customer', subject_key => ARRAY['3']);
             SELECT custodian.release_hold((SELECT min(hold) FROM custodian.hold WHERE released_at IS NULL), 'counsel', '{MATTER}')"
        ))?;
    }
    Ok(())
}

#[test]
fn a_deletion_that_waits_for_a_hold_is_refused() -> Result<()> {
    let node = shop()?;
    hold_customer(&node, 3)?;
    let mut steward = node.client()?;
    steward.batch_execute(&format!(
        "BEGIN; SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'r', subject_kind => 'customer', subject_key => ARRAY['2'])"
    ))?;
    let mut writer = node.client()?;
    let waiting = thread::spawn(move || {
        let error = writer.refused("DELETE FROM shop.ticket WHERE id = 2");
        (error.sqlstate().to_owned(), error.to_string())
    });
    wait_until("the deletion waits", 60, || {
        node.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            .is_ok_and(|waiting| waiting == "1")
    });
    steward.batch_execute("COMMIT")?;
    let (state, text) = waiting.join().expect("the writer's thread");
    assert_eq!(state, "23001", "{text}");
    assert!(text.contains(MATTER), "{text}");
    Ok(())
}

#[test]
fn nothing_held_goes_while_many_delete() -> Result<()> {
    let node = shop()?;
    node.exec("INSERT INTO shop.customer SELECT n, 'c', 'n', now() FROM generate_series(4, 60) n")?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for level in ["READ COMMITTED", "REPEATABLE READ", "READ COMMITTED"] {
        let mut client = node.client()?;
        let stop = Arc::clone(&stop);
        // Deletes tickets of random customers and writes them again, two in a transaction, now and then with
        // a savepoint; refusals, deadlocks and serialization failures are part of it.
        writers.push(thread::spawn(move || -> (u32, u32) {
            let (mut done, mut refused) = (0, 0);
            let delete = "DELETE FROM shop.ticket WHERE customer_id = 1 + (random() * 59)::int";
            while !stop.load(Ordering::Relaxed) {
                let work = format!(
                    "BEGIN ISOLATION LEVEL {level}; {delete}; SAVEPOINT s; {delete}; ROLLBACK TO s; {delete};
                     INSERT INTO shop.ticket SELECT (random() * 1000000000)::int, 1 + (random() * 59)::int, 'x', now()
                     FROM generate_series(1, 3) ON CONFLICT DO NOTHING; COMMIT"
                );
                match client.batch_execute(&work) {
                    Ok(()) => done += 1,
                    Err(error) => {
                        let error = Error::from(error);
                        assert!(
                            ["23001", "40001", "40P01"].contains(&error.sqlstate()),
                            "{error}"
                        );
                        refused += u32::from(error.sqlstate() == "23001");
                        let _rolled_back = client.batch_execute("ROLLBACK");
                    }
                }
            }
            (done, refused)
        }));
    }
    let mut steward = node.client()?;
    let mut placed = 0;
    while placed < 30 {
        let customer = 1 + placed % 59;
        let place = format!(
            "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'r',
                 subject_kind => 'customer', subject_key => ARRAY['{customer}'])"
        );
        let hold = match steward.text(&place) {
            Ok(hold) => hold,
            Err(error) if error.sqlstate() == "40P01" => continue,
            Err(error) => return Err(error),
        };
        let tickets = format!(
            "SELECT coalesce(array_agg(id ORDER BY id), '{{}}') FROM shop.ticket WHERE customer_id = {customer}"
        );
        let held = steward.text(&tickets)?;
        thread::sleep(Duration::from_millis(30));
        assert_eq!(
            steward.text(&format!("SELECT '{held}'::int[] <@ ({tickets})"))?,
            "t",
            "a ticket of customer {customer} is gone"
        );
        // Every other one stays, so that the guard is in place for some and made anew for others.
        let release = format!("SELECT custodian.release_hold({hold}, 'counsel', 'settled')");
        while let Err(error) = steward.batch_execute(&release) {
            assert_eq!(
                error.code().map(|code| code.code()),
                Some("40P01"),
                "{error}"
            );
        }
        placed += 1;
    }
    stop.store(true, Ordering::Relaxed);
    let (mut done, mut refused) = (0, 0);
    for writer in writers {
        let counts = writer.join().expect("a writer's thread");
        done += counts.0;
        refused += counts.1;
    }
    assert!(done > 0 && refused > 0, "{done} done, {refused} refused");
    Ok(())
}

#[test]
fn a_sweep_passes_over_held_rows_and_is_not_refused() -> Result<()> {
    let node = shop()?;
    hold_customer(&node, 2)?;
    node.exec(
        "SELECT custodian.define_purpose('shop.short', 'contract', '1 day');
         SELECT custodian.tag_column('shop.ticket', 'body', 'user.behavior', ARRAY['shop.short'], clock => 'at');
         SELECT custodian.tag_table('shop.ticket', clock => 'at', subject_kind => 'customer', subject_via => ARRAY['customer_id'], on_expiry => 'delete')",
    )?;
    node.alter_system("custodian.max_disposal_fraction", "1")?;
    node.alter_system("custodian.disposal", "on")?;
    wait_until("the settings are read", 60, || {
        node.text("SELECT current_setting('custodian.disposal') || current_setting('custodian.max_disposal_fraction')")
            .is_ok_and(|mode| mode == "on1")
    });
    let mut client = node.client()?;
    client.batch_execute("SELECT * FROM custodian.sweep_now('shop.ticket')")?;
    assert_eq!(node.text("SELECT id FROM shop.ticket ORDER BY id")?, "2");
    // Once it is released, the sweep reaches back for it.
    node.exec("SELECT custodian.release_hold(hold, 'counsel', 'settled') FROM custodian.holds WHERE released_at IS NULL")?;
    client.batch_execute("SELECT * FROM custodian.sweep_now('shop.ticket')")?;
    assert_eq!(node.text("SELECT id FROM shop.ticket ORDER BY id")?, "");
    Ok(())
}

#[test]
fn a_prepared_transaction_holds_a_hold_off() -> Result<()> {
    let node = Cluster::builder("prepared")
        .preload("pg_custodian")
        .conf("max_prepared_transactions = 2")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian; CREATE ROLE counsel; CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2), (3)")?;
    let place = |matching: &str| {
        format!(
            "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'r', rel => 't', match => '{{\"a\":[{matching}]}}')"
        )
    };
    node.exec(&place("9"))?;
    let mut client = node.client()?;
    client.batch_execute("BEGIN; DELETE FROM t WHERE a = 1; PREPARE TRANSACTION 'p'")?;
    assert_eq!(
        client
            .refused(&format!("SET lock_timeout = '200ms'; {}", place("1")))
            .sqlstate(),
        "55P03"
    );
    client.batch_execute("ROLLBACK PREPARED 'p'")?;
    client.batch_execute(&place("1"))?;
    kept(
        &mut client,
        "BEGIN; DELETE FROM t WHERE a = 1; PREPARE TRANSACTION 'p'",
    );
    // A prepared hold is in force as soon as it is prepared: deletions wait for it.
    client.batch_execute(&format!("BEGIN; {}; PREPARE TRANSACTION 'h'", place("2")))?;
    assert_eq!(
        client
            .refused("SET lock_timeout = '200ms'; DELETE FROM t WHERE a = 2")
            .sqlstate(),
        "55P03"
    );
    client.batch_execute("COMMIT PREPARED 'h'")?;
    kept(&mut client, "DELETE FROM t WHERE a = 2");
    client.batch_execute("DELETE FROM t WHERE a = 3")?;
    Ok(())
}

#[test]
fn two_people_place_and_release_a_hold() -> Result<()> {
    let node = shop()?;
    let mut client = node.client()?;
    let place = |approver: &str, date: &str, scope: &str| {
        format!("SELECT custodian.place_hold('m', '{approver}', {date}, 'r', {scope})")
    };
    let customer = "subject_kind => 'customer', subject_key => ARRAY['2']";
    for (sql, state) in [
        (place("postgres", "current_date + 1", customer), "42501"),
        (place("nobody", "current_date + 1", customer), "42704"),
        (place("counsel", "current_date", customer), "22023"),
        (place("counsel", "current_date + 1", "rel => NULL"), "22023"),
        (place("counsel", "current_date + 1", "rel => 0"), "42704"),
        (
            place(
                "counsel",
                "current_date + 1",
                &format!("{customer}, rel => 'shop.ticket'"),
            ),
            "22023",
        ),
        (
            place(
                "counsel",
                "current_date + 1",
                "subject_kind => 'client', subject_key => ARRAY['2']",
            ),
            "42704",
        ),
        (
            place(
                "counsel",
                "current_date + 1",
                "subject_kind => 'customer', subject_key => ARRAY['2', '3']",
            ),
            "22023",
        ),
        (
            place("counsel", "current_date + 1", "rel => 'custodian.hold'"),
            "42809",
        ),
    ] {
        let error = client.refused(&sql);
        assert_eq!(error.sqlstate(), state, "{sql}: {error}");
    }
    let mut owner = node.client_as("shop", "postgres")?;
    let error = owner.refused(&place("counsel", "current_date + 1", customer));
    assert_eq!(error.sqlstate(), "42501");
    assert_eq!(
        owner.refused("SELECT * FROM custodian.holds").sqlstate(),
        "42501"
    );

    // ' 2' is the key 2, as the column's type has it.
    let hold = node.text(&place(
        "counsel",
        "current_date + 1",
        "subject_kind => 'customer', subject_key => ARRAY[' 2']",
    ))?;
    kept_by(&mut owner, "DELETE FROM shop.ticket WHERE id = 2", "\"m\"");
    let release =
        |approver: &str| format!("SELECT custodian.release_hold({hold}, '{approver}', 'settled')");
    assert_eq!(client.refused(&release("postgres")).sqlstate(), "42501");
    assert_eq!(owner.refused(&release("counsel")).sqlstate(), "42501");
    client.batch_execute(&release("counsel"))?;
    assert_eq!(client.refused(&release("counsel")).sqlstate(), "42704");
    assert_eq!(
        node.text(
            "SELECT matter, released_by, release_approver, release_reason FROM custodian.holds"
        )?,
        "m|postgres|counsel|settled"
    );
    owner.batch_execute("DELETE FROM shop.ticket WHERE id = 2")?;
    // Nothing needs the triggers any more.
    assert_eq!(
        node.text("SELECT count(*) FROM pg_trigger WHERE tgfoid = 'custodian.row_guard'::regproc")?,
        "0"
    );
    // The ledger knows the matter, not the key.
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.ledger WHERE kind IN ('hold.placed', 'hold.released') AND object = 'm' AND detail ->> 'subject_kind' = 'customer' AND NOT detail ? 'subject_key'")?,
        "2"
    );
    Ok(())
}

#[test]
fn the_extension_goes_only_without_holds() -> Result<()> {
    let node = shop()?;
    let hold = hold_customer(&node, 2)?;
    let mut client = node.client()?;
    for sql in [
        "DROP EXTENSION pg_custodian",
        "DROP EXTENSION pg_custodian CASCADE",
    ] {
        kept(&mut client, sql);
    }
    kept(
        &mut client,
        "ALTER EXTENSION pg_custodian DROP TABLE custodian.hold; DROP TABLE custodian.hold CASCADE",
    );
    node.exec(
        "SELECT custodian.require_minimum('cn.tax.invoice', 'shop.orders', ARRAY['amount'], '10 years', 'Art. 60')",
    )
    .or_else(|_needs_tag| {
        node.exec(
            "SELECT custodian.tag_column('shop.orders', 'amount', 'user.financial', ARRAY['shop.account'], clock => 'at');
             SELECT custodian.require_minimum('cn.tax.invoice', 'shop.orders', ARRAY['amount'], '10 years', 'Art. 60')",
        )
    })?;
    node.exec(&format!(
        "SELECT custodian.release_hold({hold}, 'counsel', 'settled')"
    ))?;
    assert_ne!(
        node.text("SELECT count(*) FROM pg_trigger WHERE tgfoid = 'custodian.row_guard'::regproc")?,
        "0",
        "the minimum still needs the guard"
    );
    node.exec("DROP EXTENSION pg_custodian")?;
    node.exec("DELETE FROM shop.orders; DROP TABLE shop.ticket")?;
    Ok(())
}

#[test]
fn a_restored_database_keeps_its_holds() -> Result<()> {
    let node = shop()?;
    hold_customer(&node, 2)?;
    node.exec(&format!(
        "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'r', rel => 'shop.orders', match => '{{\"invoice_no\":[\"A1\"]}}')"
    ))?;
    let dump = node.dir().join("dump");
    node.program("pg_dump")?
        .args(["-Fc", "-f"])
        .arg(dump.to_str().expect("a UTF-8 path"))
        .run()?
        .ok()?;
    // With several jobs the tables come in any order that their foreign keys leave open.
    for (database, jobs) in [
        ("copy", "1"),
        ("copy2", "2"),
        ("copy4", "4"),
        ("copy8", "8"),
    ] {
        restored(&node, dump.to_str().expect("a UTF-8 path"), database, jobs)?;
    }
    Ok(())
}

fn restored(node: &Cluster, dump: &str, database: &str, jobs: &str) -> Result<()> {
    node.exec(&format!("CREATE DATABASE {database}"))?;
    // OIDs differ from those of the first database.
    let mut copy = node.client_as("postgres", database)?;
    copy.batch_execute("CREATE TABLE filler (); DROP TABLE filler")?;
    node.program("pg_restore")?
        .args(["-d", database, "--jobs", jobs, "--exit-on-error", dump])
        .run()?
        .ok()?;
    // A table that another job was using gets its guard from the scheduler, which has been told.
    wait_until("the guard is in place", 60, || {
        copy.text("SELECT count(*) FROM custodian.check() WHERE code = 'row-guard-missing'")
            .is_ok_and(|missing| missing == "0")
    });
    kept(&mut copy, "DELETE FROM shop.customer WHERE id = 2");
    kept(&mut copy, "DELETE FROM shop.orders WHERE invoice_no = 'A1'");
    kept(
        &mut copy,
        "SET session_replication_role = replica; DELETE FROM shop.customer WHERE id = 1",
    );
    // The name is followed from here on.
    copy.batch_execute("ALTER TABLE shop.orders RENAME TO purchase")?;
    kept(
        &mut copy,
        "DELETE FROM shop.purchase WHERE invoice_no = 'A1'",
    );
    assert_eq!(
        copy.text("SELECT count(*) FROM custodian.check() WHERE code IN ('row-guard-missing', 'hold-without-table')")?,
        "0"
    );
    Ok(())
}

#[test]
fn tags_by_which_holds_work_cannot_be_taken_away() -> Result<()> {
    let node = shop()?;
    let hold = hold_customer(&node, 2)?;
    let mut client = node.client()?;
    kept(
        &mut client,
        "SELECT custodian.untag_column('shop.customer', 'email')",
    );
    kept(
        &mut client,
        "SELECT custodian.clear_column('shop.customer', 'email')",
    );
    kept(
        &mut client,
        "SECURITY LABEL FOR custodian ON COLUMN shop.customer.email IS NULL",
    );
    for sql in [
        "SELECT custodian.untag_table('shop.ticket')",
        "SELECT custodian.tag_table('shop.ticket', clock => 'at', subject_kind => 'customer', subject_via => ARRAY['id'])",
        "SECURITY LABEL FOR custodian ON TABLE shop.customer IS NULL",
    ] {
        kept_by(&mut client, sql, "legal holds on subjects of kind");
    }
    // A table that is tagged while the hold is in force is guarded from then on.
    client.batch_execute(
        "CREATE TABLE shop.visit (customer_id int REFERENCES shop.customer, page text, at timestamptz);
         INSERT INTO shop.visit VALUES (1, 'a', now()), (2, 'b', now());
         SELECT custodian.tag_table('shop.visit', clock => 'at', subject_kind => 'customer', subject_via => ARRAY['customer_id'])",
    )?;
    client.batch_execute("DELETE FROM shop.visit WHERE customer_id = 1")?;
    kept(&mut client, "DELETE FROM shop.visit");
    // An owner's first column tag would free the rest of held rows.
    let mut owner = node.client_as("shop", "postgres")?;
    kept(
        &mut owner,
        "SELECT custodian.tag_column('shop.ticket', 'at', 'user.behavior', ARRAY['shop.account'], clock => 'at')",
    );
    node.exec(&format!(
        "SELECT custodian.release_hold({hold}, 'counsel', 'settled')"
    ))?;
    client.batch_execute("SELECT custodian.untag_column('shop.customer', 'email'); SELECT custodian.untag_table('shop.ticket')")?;
    Ok(())
}

#[test]
fn subjects_are_found_over_foreign_keys_and_among_many() -> Result<()> {
    let node = shop()?;
    // The subject's key is not what the foreign key refers to.
    node.exec(
        "CREATE TABLE shop.person (id int PRIMARY KEY, number text UNIQUE, born date);
         CREATE TABLE shop.visit (id int PRIMARY KEY, person_id int REFERENCES shop.person, at timestamptz);
         CREATE TABLE shop.click (visit_id int REFERENCES shop.visit ON DELETE CASCADE, at timestamptz);
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
    let check = || -> Result<()> {
        let mut client = node.client()?;
        kept(&mut client, "DELETE FROM shop.click WHERE visit_id = 2");
        kept(&mut client, "TRUNCATE shop.click");
        kept(&mut client, "DELETE FROM shop.visit WHERE id = 2");
        kept(
            &mut client,
            "SET session_replication_role = replica; DELETE FROM shop.visit WHERE id = 2",
        );
        kept(
            &mut client,
            "UPDATE shop.person SET number = 'P-9' WHERE id = 2",
        );
        kept(&mut client, "DROP TABLE shop.click");
        client.batch_execute("BEGIN; DELETE FROM shop.visit WHERE id = 1; ROLLBACK")?;
        Ok(())
    };
    check()?;
    // More holds than are kept in memory.
    node.exec(
        "INSERT INTO custodian.hold (matter, scope, subject_kind, subject_key, reason, approver, review_on)
         SELECT 'another', 'subject', 'person', ARRAY['Q-' || n], 'r', 'counsel', current_date + 30 FROM generate_series(1, 1100) n",
    )?;
    check()
}

#[test]
fn a_child_of_several_parents_obeys_holds_on_each() -> Result<()> {
    let node = shop()?;
    node.exec(
        "CREATE TABLE shop.one (a int); CREATE TABLE shop.two (b int);
         CREATE TABLE shop.both () INHERITS (shop.one, shop.two);
         INSERT INTO shop.both VALUES (1, 1), (2, 2)",
    )?;
    node.exec("SELECT custodian.place_hold('first', 'counsel', current_date + 30, 'r', rel => 'shop.two', match => '{\"b\":[7]}')")?;
    let mut writer = node.client()?;
    writer.batch_execute("BEGIN; DELETE FROM shop.both WHERE a = 1")?;
    let mut steward = node.client()?;
    let place = format!(
        "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'r', rel => 'shop.two')"
    );
    let error = steward.refused(&format!("SET lock_timeout = '300ms'; {place}"));
    assert_eq!(error.sqlstate(), "55P03", "{error}");
    writer.batch_execute("ROLLBACK")?;
    steward.batch_execute(&place)?;
    kept(&mut writer, "DELETE FROM shop.both WHERE a = 2");
    kept(&mut writer, "DELETE FROM shop.one");
    Ok(())
}

#[test]
fn tables_whose_minimums_have_passed_can_be_dropped_together() -> Result<()> {
    let node = shop()?;
    let make = "
        CREATE SCHEMA books AUTHORIZATION shop; SET ROLE shop;
        CREATE TABLE books.invoice (id int PRIMARY KEY, name text, issued_at date);
        CREATE TABLE books.line (invoice_id int CONSTRAINT line_invoice REFERENCES books.invoice, text text);
        INSERT INTO books.invoice VALUES (1, repeat('long', 10000), '1990-01-01');
        INSERT INTO books.line VALUES (1, 'line');
        RESET ROLE;
        SELECT custodian.tag_column('books.invoice', 'name', 'user.name', ARRAY['shop.account'], clock => 'issued_at', on_expiry => 'set_null');
        SELECT custodian.tag_column('books.line', 'text', 'user.behavior.purchase', ARRAY['shop.account'], clock => 'line_invoice.issued_at', on_expiry => 'set_null');
        SELECT custodian.require_minimum('cn.tax.invoice', 'books.invoice', ARRAY['name'], '10 years', 'Art. 60', clock => 'issued_at');
        SELECT custodian.require_minimum('cn.tax.invoice', 'books.line', ARRAY['text'], '10 years', 'Art. 60', clock => 'line_invoice.issued_at')";
    let mut owner = node.client_as("shop", "postgres")?;
    for drop in [
        "DROP TABLE books.invoice, books.line; DROP SCHEMA books",
        "DROP TABLE books.line, books.invoice; DROP SCHEMA books",
        "DROP SCHEMA books CASCADE",
    ] {
        node.exec(make)?;
        node.exec("UPDATE books.invoice SET issued_at = current_date")?;
        kept_by(&mut owner, drop, "Art. 60");
        // A statement that failed clears nothing for the next one.
        kept_by(
            &mut owner,
            &format!(
                "DO $$ BEGIN EXECUTE 'DROP TABLE books.line, missing'; EXCEPTION WHEN OTHERS THEN NULL; END $$; {drop}"
            ),
            "Art. 60",
        );
        node.exec("UPDATE books.invoice SET issued_at = '1990-01-01'")?;
        owner.batch_execute(drop)?;
        node.exec("SELECT custodian.install_row_guard()")?;
    }
    Ok(())
}

#[test]
fn the_scheduler_puts_a_missing_guard_back() -> Result<()> {
    let node = shop()?;
    hold_customer(&node, 2)?;
    let mut client = node.client()?;
    // As after a restore that no hook of ours saw.
    client.batch_execute(
        "SET allow_system_table_mods = on;
         DELETE FROM pg_depend WHERE classid = 'pg_trigger'::regclass AND objid IN
             (SELECT oid FROM pg_trigger WHERE tgrelid = 'shop.ticket'::regclass AND tgfoid = 'custodian.row_guard'::regproc);
         DELETE FROM pg_trigger WHERE tgrelid = 'shop.ticket'::regclass AND tgfoid = 'custodian.row_guard'::regproc",
    )?;
    assert_eq!(
        client.text("SELECT object FROM custodian.check() WHERE code = 'row-guard-missing'")?,
        "shop.ticket"
    );
    node.alter_system("custodian.naptime", "1")?;
    wait_until("the guard is back", 60, || {
        node.text("SELECT count(*) FROM custodian.check() WHERE code = 'row-guard-missing'")
            .is_ok_and(|missing| missing == "0")
    });
    kept(&mut node.client()?, "DELETE FROM shop.ticket WHERE id = 2");
    Ok(())
}

#[test]
fn a_statutory_minimum_keeps_rows_until_its_period_has_passed() -> Result<()> {
    let node = shop()?;
    node.exec(
        "CREATE TABLE shop.invoice (id int PRIMARY KEY, name text, issued_at timestamptz);
         CREATE TABLE shop.line (id int PRIMARY KEY, invoice_id int CONSTRAINT line_invoice REFERENCES shop.invoice ON DELETE CASCADE, text text, price int);
         INSERT INTO shop.invoice VALUES (1, 'new', now() - interval '1 year'), (2, 'old', now() - interval '20 years'), (3, 'undated', NULL);
         INSERT INTO shop.line SELECT 10 * i + n, i, 'line', 1 FROM generate_series(1, 3) i, generate_series(1, 2) n;
         ALTER TABLE shop.invoice OWNER TO shop; ALTER TABLE shop.line OWNER TO shop;
         SELECT custodian.tag_column('shop.invoice', 'name', 'user.name', ARRAY['shop.account'], clock => 'issued_at', on_expiry => 'set_null');
         SELECT custodian.tag_column('shop.line', 'text', 'user.behavior.purchase', ARRAY['shop.account'], clock => 'line_invoice.issued_at', on_expiry => 'set_null');
         SELECT custodian.require_minimum('cn.tax.invoice', 'shop.invoice', ARRAY['name'], '10 years', 'Art. 60', clock => 'issued_at');
         SELECT custodian.require_minimum('cn.tax.invoice', 'shop.line', ARRAY['text'], '10 years', 'Art. 60', clock => 'line_invoice.issued_at')",
    )?;
    let mut owner = node.client_as("shop", "postgres")?;
    for sql in [
        "DELETE FROM shop.invoice WHERE id = 1",
        "DELETE FROM shop.invoice WHERE id = 3",
        "DELETE FROM shop.line WHERE invoice_id = 1",
        "UPDATE shop.invoice SET name = NULL WHERE id = 1",
        "UPDATE shop.line SET text = NULL WHERE id = 11",
        "TRUNCATE shop.line",
        "TRUNCATE shop.invoice CASCADE",
        "DROP TABLE shop.line",
        "ALTER TABLE shop.line DROP COLUMN text",
        "ALTER TABLE shop.invoice DROP COLUMN issued_at",
        "ALTER TABLE shop.line DROP COLUMN invoice_id",
        "ALTER TABLE shop.line DROP CONSTRAINT line_invoice",
        "ALTER TABLE shop.invoice DROP CONSTRAINT invoice_pkey CASCADE",
    ] {
        kept_by(&mut owner, sql, "Art. 60");
    }
    // A column that the minimum does not keep can change, and a kept one can be corrected.
    owner.batch_execute(
        "UPDATE shop.line SET price = 2; UPDATE shop.line SET text = 'corrected' WHERE id = 11",
    )?;
    // The old invoice may go, and takes its lines along: their clock went with it in the same statement.
    owner.batch_execute("DELETE FROM shop.invoice WHERE id = 2")?;
    assert_eq!(
        node.text("SELECT count(*) FROM shop.line WHERE invoice_id = 2")?,
        "0"
    );
    kept_by(
        &mut node.client()?,
        "SET session_replication_role = replica; DELETE FROM shop.invoice WHERE id = 1",
        "Art. 60",
    );
    // Without its clock a row is kept, and the rest of it can change as before.
    node.alter_system("custodian.minimum_guard", "warn")?;
    node.exec("ALTER TABLE shop.invoice DROP CONSTRAINT invoice_pkey CASCADE")?;
    node.alter_system("custodian.minimum_guard", "on")?;
    let mut owner = node.client_as("shop", "postgres")?;
    kept_by(
        &mut owner,
        "DELETE FROM shop.line WHERE id = 11",
        "cannot be told",
    );
    owner.batch_execute("UPDATE shop.line SET price = 3")?;
    node.exec(
        "ALTER TABLE shop.invoice ADD PRIMARY KEY (id);
         ALTER TABLE shop.line ADD CONSTRAINT line_invoice FOREIGN KEY (invoice_id) REFERENCES shop.invoice ON DELETE CASCADE",
    )?;
    kept_by(&mut owner, "DELETE FROM shop.line WHERE id = 11", "Art. 60");
    node.alter_system("custodian.minimum_guard", "warn")?;
    wait_until("the setting is read", 60, || {
        node.text("SHOW custodian.minimum_guard")
            .is_ok_and(|mode| mode == "warn")
    });
    node.exec("DELETE FROM shop.invoice WHERE id = 1")?;
    node.exec("DELETE FROM shop.invoice")?;
    wait_until("the warnings are recorded", 60, || {
        node.text("SELECT count(*) > 0 FROM custodian.guard_events WHERE gate = 'row' AND outcome = 'warned'")
            .is_ok_and(|some| some == "t")
    });
    assert_eq!(
        node.text("SELECT count(*) > 0 FROM custodian.guard_events WHERE gate = 'row' AND outcome = 'refused' AND reason LIKE '%Art. 60%'")?,
        "t"
    );
    Ok(())
}
