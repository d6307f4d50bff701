//! Kept rows on a logical subscriber: a change of the publisher that would destroy them is refused, the
//! subscription is disabled and says why, and goes on where it stopped once the rows are free.

use integration::{Cluster, Result, quote_literal, wait_until};

const MATTER: &str = "case 42";

const TABLES: &str = "
    CREATE ROLE counsel;
    CREATE TABLE customer (id int PRIMARY KEY, email text, seen timestamptz);
    CREATE TABLE ticket (id int PRIMARY KEY, customer_id int REFERENCES customer ON DELETE CASCADE, body text);
    CREATE TABLE beat (n int PRIMARY KEY)";

/// A publisher, and a subscriber with the extension, that have the same customers and tickets 1 to 3.
fn pair() -> Result<(Cluster, Cluster)> {
    let publisher = Cluster::builder("publisher").start()?;
    publisher.exec(TABLES)?;
    publisher.exec(
        "INSERT INTO customer SELECT n, 'c' || n || '@example.org', now() FROM generate_series(1, 3) n;
         INSERT INTO ticket SELECT n, n, 'help' FROM generate_series(1, 3) n;
         CREATE PUBLICATION shop FOR TABLE customer, ticket, beat",
    )?;
    let subscriber = Cluster::builder("subscriber")
        .preload("pg_custodian")
        .conf("custodian.naptime = 3600")
        .start()?;
    subscriber.exec(TABLES)?;
    subscriber.exec(
        "CREATE EXTENSION pg_custodian;
         SELECT custodian.define_purpose('shop.account', 'contract', '50 years');
         SELECT custodian.tag_column('customer', 'email', 'user.contact.email', ARRAY['shop.account'], on_expiry => 'set_null', clock => 'seen');
         SELECT custodian.tag_table('customer', clock => 'seen', subject_kind => 'customer', subject_key => ARRAY['id'])",
    )?;
    let connection = quote_literal(&publisher.conninfo("postgres", "postgres"));
    subscriber.exec(&format!(
        "CREATE SUBSCRIPTION \"from Shop\" CONNECTION {connection} PUBLICATION shop WITH (slot_name = shop)"
    ))?;
    wait_until("the first copy has arrived", 60, || {
        subscriber
            .text("SELECT count(*) FILTER (WHERE srsubstate = 'r'), count(*) FROM pg_subscription_rel")
            .is_ok_and(|states| states == "3|3")
    });
    Ok((publisher, subscriber))
}

fn wait_for_beat(publisher: &Cluster, subscriber: &Cluster, n: u32) -> Result<()> {
    publisher.exec(&format!("INSERT INTO beat VALUES ({n})"))?;
    wait_until("the subscriber has applied everything", 60, || {
        subscriber
            .text(&format!("SELECT count(*) FROM beat WHERE n = {n}"))
            .is_ok_and(|count| count == "1")
    });
    Ok(())
}

const STATE: &str = "SELECT (SELECT count(*) FROM customer), (SELECT count(*) FROM ticket t JOIN customer c ON c.id = t.customer_id),
    (SELECT md5(string_agg(c::text, ',' ORDER BY id)) FROM customer c)";

/// The change is refused on the subscriber: nothing is applied, the subscription stops and the checks say why.
fn stopped(publisher: &Cluster, subscriber: &Cluster, change: &str, by: &str) -> Result<()> {
    let before = subscriber.text(STATE)?;
    publisher.exec(change)?;
    wait_until("the subscription is disabled", 60, || {
        subscriber
            .text("SELECT subenabled FROM pg_subscription")
            .is_ok_and(|enabled| enabled == "f")
    });
    wait_until("its worker has ended", 60, || {
        subscriber
            .text("SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL")
            .is_ok_and(|workers| workers == "0")
    });
    assert_eq!(subscriber.text(STATE)?, before, "{change}");
    let finding = subscriber.text(
        "SELECT severity, object, problem, remedy FROM custodian.check() WHERE code = 'subscription-stopped'",
    )?;
    assert!(
        finding.starts_with("error|from Shop|") && finding.contains(by),
        "{change}: {finding}"
    );
    assert!(!finding.contains("example.org"), "{finding}");
    assert!(finding.contains("ENABLE"), "{finding}");
    Ok(())
}

fn resume(publisher: &Cluster, subscriber: &Cluster, beat: u32) -> Result<()> {
    subscriber.exec("ALTER SUBSCRIPTION \"from Shop\" ENABLE")?;
    assert_eq!(
        subscriber
            .text("SELECT count(*) FROM custodian.check() WHERE code = 'subscription-stopped'")?,
        "0"
    );
    wait_for_beat(publisher, subscriber, beat)?;
    assert_eq!(subscriber.text(STATE)?, publisher.text(STATE)?);
    Ok(())
}

#[test]
fn a_change_of_held_rows_from_a_publisher_stops_its_subscription() -> Result<()> {
    let (publisher, subscriber) = pair()?;
    let mut beat = 0;
    for change in [
        "DELETE FROM customer WHERE id = 2",
        "UPDATE customer SET email = 'x@example.org' WHERE id = 2",
        "UPDATE customer SET id = 20 WHERE id = 2",
        "DELETE FROM ticket; DELETE FROM customer",
        "TRUNCATE customer CASCADE",
        // Half of a transaction is as good as none.
        "BEGIN; INSERT INTO customer VALUES (9, 'new', now()); DELETE FROM customer WHERE id = 2; COMMIT",
    ] {
        publisher.exec(
            "DELETE FROM customer; INSERT INTO customer SELECT n, 'c' || n || '@example.org', now() FROM generate_series(1, 3) n;
             INSERT INTO ticket SELECT n, n, 'help' FROM generate_series(1, 3) n",
        )?;
        beat += 1;
        wait_for_beat(&publisher, &subscriber, beat)?;
        let hold = subscriber.text(&format!(
            "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'r', subject_kind => 'customer', subject_key => ARRAY['2'])"
        ))?;
        if change.contains("SET id") {
            // The foreign key would refuse it on the publisher.
            publisher.exec("DELETE FROM ticket WHERE customer_id = 2")?;
            beat += 1;
            wait_for_beat(&publisher, &subscriber, beat)?;
        }
        stopped(&publisher, &subscriber, change, MATTER)?;
        // What comes later waits behind it.
        beat += 1;
        publisher.exec(&format!("INSERT INTO beat VALUES ({beat})"))?;
        // Enabled too early, it stops again.
        subscriber.exec("ALTER SUBSCRIPTION \"from Shop\" ENABLE")?;
        stopped(&publisher, &subscriber, "SELECT 1", MATTER)?;
        assert_eq!(
            subscriber.text(&format!("SELECT count(*) FROM beat WHERE n = {beat}"))?,
            "0"
        );
        subscriber.exec(&format!(
            "SELECT custodian.release_hold({hold}, 'counsel', 'settled')"
        ))?;
        beat += 1;
        resume(&publisher, &subscriber, beat)?;
    }
    assert_eq!(
        subscriber.text(&format!(
            "SELECT count(*) FROM custodian.ledger WHERE kind = 'subscription.disabled' AND object = 'from Shop'
             AND detail ->> 'matter' = '{MATTER}'"
        ))?,
        "12"
    );
    // Nothing is kept for longer than it is true.
    subscriber.alter_system("custodian.naptime", "1")?;
    wait_until("the scheduler has cleared up", 60, || {
        subscriber
            .text("SELECT count(*) FROM custodian.stopped_subscription")
            .is_ok_and(|left| left == "0")
    });
    Ok(())
}

#[test]
fn no_orphan_comes_from_a_publisher() -> Result<()> {
    let (publisher, subscriber) = pair()?;
    subscriber.exec(&format!(
        "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'r', rel => 'ticket', match => '{{\"id\":[\"2\"]}}')"
    ))?;
    // The publisher has no ticket for the customer any more; the subscriber, where foreign keys do not act
    // while changes are applied, has one.
    publisher.exec("ALTER PUBLICATION shop DROP TABLE ticket")?;
    stopped(
        &publisher,
        &subscriber,
        "DELETE FROM customer WHERE id = 2",
        MATTER,
    )?;
    // The refusal is on record.
    wait_until("the refusal is recorded", 60, || {
        subscriber
            .text("SELECT count(*) > 0 FROM custodian.guard_events WHERE gate = 'row' AND object = 'public.customer'")
            .is_ok_and(|some| some == "t")
    });
    Ok(())
}

#[test]
fn a_change_of_rows_under_a_minimum_stops_the_subscription() -> Result<()> {
    let (publisher, subscriber) = pair()?;
    subscriber.exec(
        "SELECT custodian.require_minimum('cn.tax', 'customer', ARRAY['email'], '10 years', 'Art. 60', clock => 'seen')",
    )?;
    stopped(
        &publisher,
        &subscriber,
        "DELETE FROM customer WHERE id = 2",
        "cn.tax",
    )?;
    // With warnings only, it goes through.
    subscriber.alter_system("custodian.minimum_guard", "warn")?;
    resume(&publisher, &subscriber, 1)
}
