//! The worker and stewards sweep the same tables at the same time, by runs of their own and by the same approved ones: nobody
//! waits in a circle, and each row that goes is counted in one run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use integration::{Cluster, Error, Result, Sql, blocked, wait_for_answer, wait_until};
use postgres::Client;

/// A table with rows that go along, two in a circle, and a partitioned one whose cells are emptied.
const TABLES: &str = "
    CREATE TABLE s.one (id int PRIMARY KEY, at timestamptz, name text);
    CREATE TABLE s.below (id int PRIMARY KEY, one int REFERENCES s.one ON DELETE CASCADE);
    CREATE TABLE s.a (id int PRIMARY KEY, b int, at timestamptz, name text);
    CREATE TABLE s.b (id int PRIMARY KEY, a int REFERENCES s.a ON DELETE CASCADE, at timestamptz, name text);
    ALTER TABLE s.a ADD FOREIGN KEY (b) REFERENCES s.b ON DELETE CASCADE DEFERRABLE;
    CREATE TABLE s.shell (id int, at timestamptz, name text) PARTITION BY HASH (id);
    CREATE TABLE s.shell_0 PARTITION OF s.shell FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE s.shell_1 PARTITION OF s.shell FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    SELECT custodian.tag_table(t::regclass, clock => 'at', on_expiry => 'delete') FROM unnest('{s.one,s.a,s.b}'::text[]) t;
    SELECT custodian.tag_column(t::regclass, 'name', 'user.name', '{p.short}') FROM unnest('{s.one,s.a,s.b}'::text[]) t;
    SELECT custodian.declare_dependents('s.one', '{s.below}');
    SELECT custodian.tag_table('s.shell', clock => 'at');
    SELECT custodian.tag_column('s.shell', 'name', 'user.name', '{p.short}', on_expiry => 'set_null')";

/// Rows of all tables, those with numbers that can be divided by `past` being past; `n` says which numbers.
fn insert(n: usize, past: usize) -> String {
    let (first, last) = (20 * n + 1, 20 * n + 20);
    let rows = format!(
        "SELECT n, now() - CASE WHEN n % {past} = 0 THEN interval '20 days' ELSE '0' END, 'n' FROM generate_series({first}, {last}) n"
    );
    format!(
        "BEGIN; SET CONSTRAINTS ALL DEFERRED;
         INSERT INTO s.one {rows}; INSERT INTO s.below SELECT id, id FROM s.one WHERE id BETWEEN {first} AND {last};
         INSERT INTO s.a (id, at, name) {rows}; INSERT INTO s.b SELECT id, id, at, name FROM s.a WHERE id BETWEEN {first} AND {last};
         UPDATE s.a SET b = id WHERE id BETWEEN {first} AND {last};
         INSERT INTO s.shell {rows}; COMMIT"
    )
}

/// What went, by table, and what runs counted. Rows of `shell` stay, without a name.
const GONE: &str = "SELECT (SELECT {n} - count(*) FROM s.one), (SELECT {n} - count(*) FROM s.below), (SELECT {n} - count(*) FROM s.a),
                           (SELECT {n} - count(*) FROM s.b), (SELECT count(*) FROM s.shell WHERE name IS NULL)";
const COUNTED: &str = "SELECT sum(done) FILTER (WHERE leaf = 's.one'), sum(done) FILTER (WHERE leaf = 's.below'), sum(done) FILTER (WHERE leaf = 's.a'),
                              sum(done) FILTER (WHERE leaf = 's.b'), sum(done) FILTER (WHERE leaf LIKE 's.shell%') FROM custodian.run_item";

const APPROVE: &str = "SELECT custodian.approve_run(run_id, 'in a test') FROM custodian.run WHERE state = 'waiting' ORDER BY run_id";

/// Runs a statement until all are done; what else was in the way, or asked for an approval, is tried again. Gives how often it
/// went through.
fn again(mut client: Client, sql: &str, done: &AtomicBool) -> Result<usize> {
    let mut went = 0;
    while !done.load(Ordering::Relaxed) {
        match client.simple_query(sql).map_err(Error::from) {
            Ok(_) => went += 1,
            Err(error) if ["55P03", "55000"].contains(&error.sqlstate()) => {}
            Err(error) => return Err(Error::new(format!("{sql}: {error}"))),
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(went)
}

/// Sweeps of all kinds while rows come, with a fuse that lets this part of a table go.
fn beside(name: &str, fraction: &str, past: usize) -> Result<()> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = observe")
        .conf("max_worker_processes = 24")
        .conf("deadlock_timeout = 300ms")
        .conf(&format!("custodian.max_disposal_fraction = {fraction}"))
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian; CREATE SCHEMA s;
         SELECT custodian.define_purpose('p.short', 'contract', '10 days')",
    )?;
    node.exec(TABLES)?;
    node.alter_system("custodian.disposal", "on")?;
    const SWEEPS: [&str; 7] = [
        "SELECT * FROM custodian.sweep_now()",
        "SELECT * FROM custodian.sweep_now('s.a')",
        "SELECT * FROM custodian.sweep_now('s.b')",
        "SELECT * FROM custodian.sweep_now('s.shell_1')",
        "CALL custodian.sweep('s.one')",
        APPROVE,
        // In one transaction, so that the run is this session's.
        "SELECT custodian.approve_run(run_id, 'in a test') FROM custodian.run WHERE state = 'waiting' AND relation_name = 's.one';
         SELECT * FROM custodian.sweep_now('s.one')",
    ];
    let done = AtomicBool::new(false);
    let mut client = node.client()?;
    let (inserted, went) = thread::scope(|scope| {
        let sweeping: Vec<_> = SWEEPS
            .iter()
            .map(|sql| scope.spawn(|| again(node.client()?, sql, &done)))
            .collect();
        let inserted = (0..100).try_for_each(|n| {
            thread::sleep(Duration::from_millis(100));
            client.batch_execute(&insert(n, past))
        });
        done.store(true, Ordering::Relaxed);
        let went: Vec<Result<usize>> = sweeping
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(Error::new("it panicked")))
            })
            .collect();
        (inserted, went)
    });
    inserted?;
    for (went, sql) in went.into_iter().zip(SWEEPS) {
        // Where much needs an approval, what sweeps everything gets through once all was approved.
        let went = went?;
        assert!(went > 0 || fraction != "1", "{sql}");
    }
    assert!(!node.log().contains("deadlock detected"));
    // The worker takes the rest, where somebody approves it.
    wait_until("nothing is due", 120, || {
        let _ = client.simple_query(APPROVE);
        let due = "SELECT count(*) FROM custodian.preview() WHERE action <> 'keep'";
        client.text(due).is_ok_and(|due| due == "0")
    });
    wait_for_answer(
        &node,
        "SELECT count(*) FROM custodian.run WHERE state IN ('running', 'approved', 'waiting')",
        "0",
    );
    let gone = client.text(&GONE.replace("{n}", "2000"))?;
    let expected = 2000 / past;
    assert_eq!(gone, [expected; 5].map(|rows| rows.to_string()).join("|"));
    assert_eq!(client.text(COUNTED)?, gone);
    // By run as by item, and several of either kind had a part in it.
    assert_eq!(
        client.text("SELECT count(*) FROM custodian.run r WHERE rows_done <> (SELECT coalesce(sum(done), 0) FROM custodian.run_item i WHERE i.run_id = r.run_id)")?,
        "0"
    );
    Ok(())
}

#[test]
fn sweeps_of_the_worker_and_of_stewards_count_each_row_once_and_do_not_wait_in_a_circle()
-> Result<()> {
    beside("both_sweep", "1", 1)
}

#[test]
fn runs_that_a_steward_approved_are_taken_up_once() -> Result<()> {
    beside("both_approved", "0.01", 4)
}

/// Two tables of a customer's data, and a purpose that has ended for half of their rows; nothing sweeps by itself.
fn by_hand(name: &str) -> Result<Cluster> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.disposal = off")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("deadlock_timeout = 300ms")
        .start()?;
    node.exec(
        "CREATE ROLE counsel;
         CREATE EXTENSION pg_custodian; CREATE SCHEMA s;
         SELECT custodian.define_purpose('p.short', 'contract', '10 days', required => false);
         CREATE TABLE s.one (id int PRIMARY KEY, at timestamptz, name text);
         CREATE TABLE s.two (id int PRIMARY KEY, at timestamptz, name text);
         INSERT INTO s.one SELECT n, now() - n * interval '1 day', 'n' FROM generate_series(1, 20) n;
         INSERT INTO s.two TABLE s.one;
         SELECT custodian.tag_table(t::regclass, clock => 'at', on_expiry => 'delete', subject_kind => 'customer', subject_key => '{id}'),
                custodian.tag_column(t::regclass, 'name', 'user.name', '{p.short}') FROM unnest('{s.one,s.two}'::text[]) t",
    )?;
    Ok(node)
}

#[test]
fn who_changes_the_policy_and_sweeps_in_one_transaction_waits_for_no_other_sweep() -> Result<()> {
    let node = by_hand("policy_and_sweep")?;
    let mut steward = node.client()?;
    steward.batch_execute(
        "BEGIN; SELECT custodian.place_hold('s-1', 'counsel', current_date + 30, 'order of the court', 's.two')",
    )?;
    let sweep = "SELECT sum(rows) FROM custodian.sweep_now('s.one')";
    let other = blocked(&node, sweep)?;
    assert_eq!(steward.text(sweep)?, "11");
    steward.batch_execute("COMMIT")?;
    let nothing = other
        .join()
        .unwrap_or_else(|_| Err(Error::new("it panicked")))?;
    assert_eq!(nothing, "");
    assert!(!node.log().contains("deadlock detected"));
    Ok(())
}

#[test]
fn erasures_of_several_subjects_go_beside_each_other_and_one_after_sweeps() -> Result<()> {
    let node = by_hand("erase_and_sweep")?;
    let mut first = node.client()?;
    first.batch_execute("BEGIN; SELECT custodian.erase_subject('customer', '{1}', 'request 1')")?;
    let mut second = node.client()?;
    second.batch_execute(
        "SET lock_timeout = '5s'; SELECT custodian.erase_subject('customer', '{2}', 'request 2');
         SET lock_timeout = '200ms'",
    )?;
    // None of its rows is one of theirs, but another erasure could come to wait for it in the middle.
    let waited = second.refused("SELECT custodian.sweep_now('s.two')");
    assert_eq!(waited.sqlstate(), "55P03", "{waited}");
    first.batch_execute("COMMIT")?;
    assert_eq!(
        second.text("SELECT sum(rows) FROM custodian.sweep_now('s.two')")?,
        "11"
    );
    assert_eq!(
        second.text("SELECT string_agg(id::text, ' ' ORDER BY id) FROM s.one WHERE id < 5")?,
        "3 4"
    );
    Ok(())
}

#[test]
fn the_worker_waits_for_no_transaction_that_sweeps_and_sweeps_other_tables_meanwhile() -> Result<()>
{
    let node = by_hand("worker_beside_sweep")?;
    node.alter_system("custodian.naptime", "1s")?;
    node.alter_system("custodian.disposal", "on")?;
    const LEFT: &str = "SELECT (SELECT count(*) FROM s.one), (SELECT count(*) FROM s.two)";
    wait_for_answer(&node, LEFT, "9|9");
    // Both have watermarks, behind which rows come.
    const PASSED: &str =
        "SELECT count(*) FROM custodian.watermarks WHERE swept_until > now() - interval '1 hour'";
    wait_for_answer(&node, PASSED, "2");
    let mut steward = node.client()?;
    steward
        .batch_execute("BEGIN; INSERT INTO s.one VALUES (99, now() - interval '20 days', 'n')")?;
    assert_eq!(
        steward.text("SELECT rows FROM custodian.sweep_now('s.one')")?,
        "1"
    );
    const LATE: &str = "INSERT INTO s.one VALUES (100, now() - interval '20 days', 'n');
                        INSERT INTO s.two VALUES (100, now() - interval '20 days', 'n')";
    node.exec(LATE)?;
    wait_for_answer(&node, LEFT, "10|9");
    // Again, in rounds that found what is queued for the other table.
    node.exec("INSERT INTO s.two VALUES (101, now() - interval '20 days', 'n')")?;
    wait_for_answer(&node, LEFT, "10|9");
    assert_ne!(
        node.text("SELECT count(*) FROM custodian.reopening WHERE relation = 's.one'::regclass")?,
        "0"
    );
    steward.batch_execute("COMMIT")?;
    wait_for_answer(&node, LEFT, "9|9");
    assert!(!node.log().contains("deadlock detected"));
    Ok(())
}

#[test]
fn who_waits_to_sweep_does_not_stop_the_worker() -> Result<()> {
    let node = by_hand("waits_to_sweep")?;
    node.exec(
        "SELECT custodian.tag_table('s.one', clock => 'at', on_expiry => 'delete', subject_kind => 'other', subject_key => '{id}')",
    )?;
    let mut application = node.client()?;
    application
        .batch_execute("BEGIN; SELECT custodian.erase_subject('customer', '{1}', 'request 1')")?;
    // Of all tables: that of the subject is waited for, when the other is had already.
    let sweep = "SELECT sum(rows) FROM custodian.sweep_now()";
    let waiting = blocked(&node, sweep)?;
    node.alter_system("custodian.naptime", "1s")?;
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(&node, "SELECT count(*) FROM s.one", "9");
    application.batch_execute("COMMIT")?;
    waiting
        .join()
        .unwrap_or_else(|_| Err(Error::new("it panicked")))?;
    wait_for_answer(
        &node,
        "SELECT (SELECT count(*) FROM s.one), (SELECT count(*) FROM s.two)",
        "9|8",
    );
    assert!(!node.log().contains("deadlock detected"));
    Ok(())
}
