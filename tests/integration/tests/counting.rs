//! A table that takes long to count stops no other: a worker of its own counts it, and sweeps it then.

use std::thread;

use integration::{Cluster, Result, poll, wait_for_answer};

/// Whatever looks for due rows of `large` asks its domain, which takes its time, and waits while the gate is there. Sessions that
/// are called so are let through.
const LARGE: &str = "
    CREATE TABLE gate (shut int);
    CREATE FUNCTION slowly() RETURNS bool LANGUAGE plpgsql AS
        'BEGIN IF current_setting(''application_name'') = ''free'' THEN RETURN true; END IF;
               PERFORM pg_sleep(0.4); WHILE EXISTS (SELECT FROM public.gate) LOOP PERFORM pg_sleep(0.05); END LOOP; RETURN true; END';
    CREATE DOMAIN slow AS text CHECK (slowly());
    CREATE TABLE large (id int PRIMARY KEY, note slow, seen timestamptz NOT NULL);
    INSERT INTO large SELECT n, 'x', now() - interval '60 days' FROM generate_series(1, 2) n";

/// 60 rows, 10 of them past their time.
const CUSTOMER: &str = "
    CREATE TABLE customer (id bigint PRIMARY KEY, email text, seen timestamptz NOT NULL);
    INSERT INTO customer SELECT n, n || '@example.com', now() - (n - 0.5) * interval '1 day' FROM generate_series(1, 60) n;
    SELECT custodian.define_purpose('test.account', 'contract', '50 days');
    SELECT custodian.tag_table('customer', clock => 'seen', on_expiry => 'delete');
    SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{test.account}')";

const TAG_LARGE: &str = "
    SELECT custodian.tag_table('large', clock => 'seen');
    SELECT custodian.tag_column('large', 'note', 'user.note', '{test.account}', on_expiry => '{\"constant\":\"gone\"}')";

/// Workers that have been at a count for long.
const STUCK: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE backend_type = 'pg_custodian sweep' AND query = 'pg_custodian: counting public.large' AND now() - xact_start > interval '2 s'";

/// A cluster that has counted both tables, so that it knows that one takes long, and then waits in the count of that one.
fn stuck(name: &str, mode: &str, workers: u32) -> Result<Cluster> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.max_overdue = 30d")
        .conf("custodian.max_disposal_fraction = 1")
        .conf(&format!("custodian.max_sweep_workers = {workers}"))
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(LARGE)?;
    node.exec(CUSTOMER)?;
    node.exec(TAG_LARGE)?;
    wait_for_answer(&node, "SELECT count(*) FROM custodian.backlog", "2");
    node.exec("INSERT INTO gate VALUES (1)")?;
    // Everything is counted again.
    node.alter_system("custodian.disposal", mode)?;
    node.alter_system("custodian.max_overdue", "31d")?;
    wait_for_answer(&node, STUCK, "1");
    Ok(node)
}

const BEHIND: &str = "SELECT count(*) FROM custodian.check() WHERE code = 'disposal-behind'";
const SAID: &str = "disposal of public.customer has fallen behind";

#[test]
fn others_are_swept_while_a_table_is_counted_for_long_which_is_swept_by_who_counted_it()
-> Result<()> {
    let node = stuck("counting", "on", 2)?;
    wait_for_answer(&node, "SELECT count(*) FROM customer", "50");
    // Again and again.
    for n in 0..2 {
        node.exec("INSERT INTO customer VALUES (1000, 'x', now() - interval '100 days')")?;
        wait_for_answer(&node, "SELECT count(*) FROM customer", "50");
        assert_eq!(node.text(STUCK)?, "1", "in round {n}");
    }
    assert_eq!(
        node.text("SELECT count(*) FROM large WHERE note::text = 'x'")?,
        "2"
    );
    let counting = node.text("SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_custodian sweep' AND query = 'pg_custodian: counting public.large'")?;
    node.exec("DELETE FROM gate")?;
    // Each look at a row takes its half second: the sweep can be seen at work.
    let swept_by = poll(60, || {
        let pid = node.text(
            "SELECT pid FROM pg_stat_activity WHERE query LIKE 'pg_custodian run %: public.large'",
        );
        pid.ok().filter(|pid| !pid.is_empty())
    });
    assert_eq!(swept_by, Some(counting));
    wait_for_answer(
        &node,
        "SELECT count(*) FROM large WHERE note::text = 'gone'",
        "2",
    );
    wait_for_answer(
        &node,
        "SELECT state, rows_done FROM custodian.runs WHERE relation_name = 'public.large' AND state <> 'observed'",
        "done|2",
    );
    assert_eq!(node.text("SELECT count(*) FROM customer")?, "50");
    Ok(())
}

#[test]
fn a_table_that_is_only_counted_takes_no_place_of_a_sweep() -> Result<()> {
    let node = stuck("onlycounting", "observe", 1)?;
    assert!(!node.log().contains(SAID));
    assert_eq!(node.text(BEHIND)?, "0");
    node.exec("INSERT INTO customer VALUES (1000, 'x', now() - interval '100 days')")?;
    node.wait_for_log(SAID, 60);
    assert_eq!(node.text(BEHIND)?, "1");
    assert_eq!(node.text(STUCK)?, "1");
    // By its own tag the one is only counted; the others have all the room there is.
    node.exec("SELECT custodian.tag_table('large', clock => 'seen', disposal => 'observe')")?;
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(&node, "SELECT count(*) FROM customer", "50");
    wait_for_answer(&node, STUCK, "1");
    node.exec("INSERT INTO customer VALUES (1000, 'x', now() - interval '100 days')")?;
    wait_for_answer(&node, "SELECT count(*) FROM customer", "50");
    node.exec("DELETE FROM large WHERE id = 2; DELETE FROM gate")?;
    // What it finds in the end.
    wait_for_answer(
        &node,
        "SELECT rows_planned FROM custodian.runs WHERE relation_name = 'public.large' AND state = 'observed'",
        "1",
    );
    assert_eq!(
        node.text("SELECT count(*) FROM large WHERE note::text = 'x'")?,
        "1"
    );
    Ok(())
}

#[test]
fn a_row_that_comes_behind_a_first_count_is_noticed() -> Result<()> {
    let node = stuck("countlate", "observe", 2)?;
    node.alter_system("custodian.disposal", "off")?;
    node.exec("DELETE FROM gate")?;
    wait_for_answer(
        &node,
        "SELECT count(*) FROM pg_stat_activity WHERE query = 'pg_custodian: counting public.large'",
        "0",
    );
    // Nothing of it is due when it is counted for the first time that may be followed by a sweep.
    node.exec("SET application_name = 'free'; UPDATE large SET note = 'gone'; INSERT INTO gate VALUES (1)")?;
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(
        &node,
        "SELECT count(*) FROM custodian.watermark WHERE leaf = 'large'::regclass",
        "1",
    );
    wait_for_answer(&node, STUCK, "1");
    node.exec("SET application_name = 'free'; INSERT INTO large VALUES (3, 'x', now() - interval '60 days')")?;
    // A round goes by meanwhile, which takes note of it.
    wait_for_answer(&node, "SELECT count(*) FROM custodian.reopening", "0");
    assert_eq!(node.text(STUCK)?, "1");
    node.exec("DELETE FROM gate")?;
    wait_for_answer(
        &node,
        "SELECT count(*) FROM custodian.watermarks WHERE leaf = 'large'::regclass AND swept_until IS NOT NULL",
        "1",
    );
    // It is counted again, whatever the pace of counts.
    node.alter_system("custodian.max_overdue", "32d")?;
    wait_for_answer(
        &node,
        "SELECT count(*) FROM large WHERE note::text = 'gone'",
        "3",
    );
    Ok(())
}

#[test]
fn a_count_that_turns_out_to_be_long_is_left_to_a_worker_which_may_find_that_a_run_must_wait()
-> Result<()> {
    let node = Cluster::builder("countgivenup")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 0.5")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(LARGE)?;
    node.exec("INSERT INTO gate VALUES (1)")?;
    node.exec(CUSTOMER)?;
    node.exec(TAG_LARGE)?;
    wait_for_answer(&node, STUCK, "1");
    wait_for_answer(&node, "SELECT count(*) FROM customer", "50");
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.runs WHERE relation_name = 'public.large'")?,
        "0"
    );
    node.exec("DELETE FROM gate")?;
    node.wait_for_log("disposal of public.large waits for approval", 60);
    assert_eq!(
        node.text(
            "SELECT state, rows_planned FROM custodian.runs WHERE relation_name = 'public.large'"
        )?,
        "waiting|2"
    );
    Ok(())
}

#[test]
fn the_extension_goes_while_a_table_is_counted() -> Result<()> {
    let node = stuck("countdropped", "on", 2)?;
    node.exec("DROP EXTENSION pg_custodian CASCADE")?;
    wait_for_answer(
        &node,
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_custodian sweep'",
        "0",
    );
    Ok(())
}

#[test]
fn without_a_slot_the_scheduler_counts_by_itself() -> Result<()> {
    // The launcher and a scheduler take both slots.
    let node = Cluster::builder("countalone")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.max_overdue = 30d")
        .conf("max_worker_processes = 2")
        .conf("max_logical_replication_workers = 0")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(LARGE)?;
    node.exec(CUSTOMER)?;
    node.exec(TAG_LARGE)?;
    wait_for_answer(&node, "SELECT count(*) FROM custodian.backlog", "2");
    node.exec("DELETE FROM large WHERE id = 2")?;
    node.alter_system("custodian.max_overdue", "31d")?;
    wait_for_answer(
        &node,
        "SELECT rows_planned FROM custodian.runs WHERE relation_name = 'public.large' AND state = 'observed'",
        "1",
    );
    node.exec("INSERT INTO customer VALUES (1000, 'x', now() - interval '100 days')")?;
    node.wait_for_log(SAID, 60);
    Ok(())
}

#[test]
fn a_count_that_is_killed_begins_anew_and_who_asks_for_a_sweep_does_not_wait_for_it() -> Result<()>
{
    let node = stuck("countkilled", "on", 2)?;
    let pid = node.text(
        "SELECT pid FROM pg_stat_activity WHERE query = 'pg_custodian: counting public.large'",
    )?;
    node.exec(&format!("SELECT pg_terminate_backend({pid})"))?;
    wait_for_answer(
        &node,
        &format!(
            "SELECT count(*) FROM pg_stat_activity WHERE query = 'pg_custodian: counting public.large' AND pid <> {pid}"
        ),
        "1",
    );
    let counting = node.text(
        "SELECT pid FROM pg_stat_activity WHERE query = 'pg_custodian: counting public.large'",
    )?;
    let mut session = node.client()?;
    let caller = thread::spawn(move || session.batch_execute("CALL custodian.sweep('large')"));
    // The worker that was asked for has its place.
    wait_for_answer(
        &node,
        &format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {counting}"),
        "0",
    );
    node.exec("DELETE FROM gate")?;
    caller.join().expect("the caller")?;
    assert_eq!(
        node.text("SELECT count(*) FROM large WHERE note::text = 'gone'")?,
        "2"
    );
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.runs WHERE relation_name = 'public.large' AND state IN ('running', 'failed')")?,
        "0"
    );
    Ok(())
}

/// What a round goes by is as old as the round.
#[test]
fn a_hold_that_is_released_while_a_round_goes_on_keeps_nothing_from_the_next_one() -> Result<()> {
    let node = Cluster::builder("countreleased")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = off")
        .conf("custodian.max_disposal_fraction = 1")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(LARGE)?;
    node.exec(CUSTOMER)?;
    node.exec(TAG_LARGE)?;
    node.exec("CREATE ROLE counsel")?;
    let hold = node.text("SELECT custodian.place_hold('2026-1', 'counsel', current_date + 30, 'lawsuit', rel => 'customer')")?;
    node.exec("INSERT INTO gate VALUES (1)")?;
    node.alter_system("custodian.disposal", "on")?;
    // Before the others the round counts the one, until it gives that up.
    wait_for_answer(
        &node,
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_custodian scheduler' AND wait_event = 'PgSleep'",
        "1",
    );
    assert_eq!(node.text("SELECT count(*) FROM custodian.watermark")?, "1");
    node.exec(&format!(
        "SELECT custodian.release_hold({hold}, 'counsel', 'settled')"
    ))?;
    wait_for_answer(&node, "SELECT count(*) FROM customer", "50");
    Ok(())
}
