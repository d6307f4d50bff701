//! Holds beside other sessions, snapshots and sweeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use integration::{Cluster, Error, Result, Sql, wait_until};

use crate::shop::{MATTER, counts, hold_customer, kept, shop};

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
