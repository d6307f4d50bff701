//! Partitions that leave their table while holds are placed: DETACH CONCURRENTLY works in two transactions, and what is kept
//! when the second one comes is kept.

use std::sync::mpsc;

use integration::{Cluster, Result, Sql, blocked, wait_for_answer};
use postgres::Client;

use crate::shop::{MATTER, kept, kept_by, shop};

const DETACH: &str = "ALTER TABLE shop.orders DETACH PARTITION shop.orders_2024 CONCURRENTLY";
const FINALIZE: &str = "ALTER TABLE shop.orders DETACH PARTITION shop.orders_2024 FINALIZE";
const PENDING: &str =
    "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = 'shop.orders_2024'::regclass";

fn place(scope: &str) -> String {
    format!(
        "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'court order', {scope})"
    )
}

/// A reader that keeps a transaction open in which it has read the table.
fn reader(node: &Cluster) -> Result<Client> {
    let mut reader = node.client()?;
    reader.batch_execute("BEGIN; SELECT count(*) FROM shop.orders")?;
    Ok(reader)
}

/// What keeps rows of the table: how it begins and ends, and what refusals name.
fn keepers() -> [(String, &'static str, &'static str); 4] {
    let release =
        "SELECT custodian.release_hold(max(hold), 'counsel', 'settled') FROM custodian.hold";
    [
        (place("rel => 'shop.orders'"), release, MATTER),
        (
            place("rel => 'shop.orders', match => '{\"invoice_no\":[\"A2\"]}'"),
            release,
            MATTER,
        ),
        (
            place("subject_kind => 'customer', subject_key => '{2}'"),
            release,
            MATTER,
        ),
        (
            "SELECT custodian.tag_column('shop.orders', 'amount', 'user.financial', '{shop.account}');
             SELECT custodian.require_minimum('k.tax', 'shop.orders', '{amount}', '90 years', 'Act A')"
                .to_owned(),
            "SELECT custodian.untag_column('shop.orders', 'amount'), custodian.untag_column('shop.orders_2024', 'amount')",
            "k.tax",
        ),
    ]
}

fn stays(client: &mut Client, by: &str) {
    for sql in [
        FINALIZE,
        "DELETE FROM shop.orders_2024 WHERE id = 2",
        "TRUNCATE shop.orders_2024",
        "DROP TABLE shop.orders_2024",
        "DROP TABLE shop.orders",
    ] {
        kept_by(client, sql, by);
    }
}

#[test]
fn what_is_kept_when_a_concurrent_detachment_comes_to_its_end_stays() -> Result<()> {
    let node = shop()?;
    let mut client = node.client()?;
    for (keep, release, by) in keepers() {
        for cancelled in [false, true] {
            let mut reader = reader(&node)?;
            let detaching = blocked(&node, DETACH)?;
            wait_for_answer(&node, PENDING, "t");
            if cancelled {
                node.exec(&format!(
                    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query = '{DETACH}'"
                ))?;
            } else {
                // In force when the call returns, though the detachment is still under way.
                client.batch_execute(&keep)?;
            }
            reader.batch_execute("COMMIT")?;
            let ended = detaching.join().expect("the thread that detaches");
            let error = ended.expect_err("it does not come to its end");
            if cancelled {
                assert_eq!(error.sqlstate(), "57014", "{keep}: {error}");
                client.batch_execute(&keep)?;
            } else {
                assert_eq!(error.sqlstate(), "23001", "{keep}: {error}");
                assert!(error.to_string().contains(by), "{keep}: {error}");
            }
            assert_eq!(node.text(PENDING)?, "t", "{keep}");
            stays(&mut client, by);
            assert_eq!(node.text("SELECT count(*) FROM shop.orders_2024")?, "3");
            // Once nothing keeps it, it goes as ever.
            client.batch_execute(release)?;
            client.batch_execute(FINALIZE)?;
            client.batch_execute(
                "BEGIN; DELETE FROM shop.orders_2024; ROLLBACK;
                 ALTER TABLE shop.orders ATTACH PARTITION shop.orders_2024 FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')",
            )?;
        }
    }
    // And all along where nothing is kept, or only rows of other partitions.
    client.batch_execute(&place(
        "rel => 'shop.orders', match => '{\"invoice_no\":[\"B2\"]}'",
    ))?;
    client.batch_execute(DETACH)?;
    kept(
        &mut client,
        "ALTER TABLE shop.orders DETACH PARTITION shop.orders_2025 CONCURRENTLY",
    );
    Ok(())
}

#[test]
fn a_hold_names_the_partitions_that_are_half_detached() -> Result<()> {
    let node = shop()?;
    let mut reader = reader(&node)?;
    let detaching = blocked(&node, DETACH)?;
    let (said, notices) = mpsc::channel();
    let mut config: postgres::Config = node.conninfo("postgres", "postgres").parse()?;
    config.notice_callback(move |notice| {
        let _nobody_listens = said.send(notice.message().to_owned());
    });
    let mut steward = config.connect(postgres::NoTls)?;
    steward.batch_execute(&place("rel => 'shop.orders'"))?;
    let notice = notices.recv().expect("a notice");
    assert_eq!(
        notice,
        "partition \"shop.orders_2024\" is being detached from table \"shop.orders\" concurrently"
    );
    reader.batch_execute("COMMIT")?;
    assert!(detaching.join().expect("the thread that detaches").is_err());
    Ok(())
}

#[test]
fn a_partition_without_rows_that_are_kept_takes_the_tags_along_that_came_meanwhile() -> Result<()> {
    let node = shop()?;
    let mut reader = reader(&node)?;
    let detaching = blocked(&node, DETACH)?;
    node.exec(&format!(
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query = '{DETACH}'"
    ))?;
    reader.batch_execute("COMMIT")?;
    assert!(detaching.join().expect("the thread that detaches").is_err());
    node.exec(
        "SELECT custodian.tag_column('shop.orders', 'amount', 'user.financial', '{shop.account}')",
    )?;
    node.exec(FINALIZE)?;
    assert_eq!(
        node.text(
            "SELECT column_name FROM custodian.tags WHERE relation = 'shop.orders_2024'::regclass AND column_name <> ''"
        )?,
        "amount"
    );
    Ok(())
}

#[test]
fn what_the_worker_has_detached_is_held_where_it_was() -> Result<()> {
    let node = shop()?;
    // As the worker leaves it between its two steps; with a bound by which it cannot be put back.
    node.exec(
        "INSERT INTO custodian.partition_drop (leaf, leaf_name, parent, above, bound, labels, run_id, item, planned)
         SELECT 'shop.orders_2024'::regclass, 'shop.orders_2024', 'shop.orders'::regclass, ARRAY['shop.orders'::regclass::oid],
                'FOR VALUES NOWHERE', '{}', 0, 0, 3;
         ALTER TABLE shop.orders DETACH PARTITION shop.orders_2024",
    )?;
    let mut client = node.client()?;
    for (keep, release, by) in keepers() {
        if by != MATTER {
            continue;
        }
        let mut old = node.client()?;
        old.batch_execute("BEGIN; DELETE FROM shop.orders_2024 WHERE id = 2")?;
        let error = client.refused(&format!("SET lock_timeout = '300ms'; {keep}"));
        assert_eq!(error.sqlstate(), "55P03", "{keep}: {error}");
        client.batch_execute("SET lock_timeout = 0")?;
        old.batch_execute("ROLLBACK")?;
        client.batch_execute(&keep)?;
        for sql in [
            "DELETE FROM shop.orders_2024 WHERE id = 2",
            "TRUNCATE shop.orders_2024",
            "DROP TABLE shop.orders_2024",
        ] {
            kept(&mut client, sql);
        }
        client.batch_execute(release)?;
        client.batch_execute("BEGIN; DELETE FROM shop.orders_2024 WHERE id = 2; ROLLBACK")?;
    }
    Ok(())
}
