//! Disposal that falls behind, or stands still, says so: in the log, by a finding, and in the metrics.

use integration::{Cluster, Result, Sql, poll, wait_for_answer};

/// 100 rows, 50 of them past their time: since 49.5 days, the oldest of them.
const CUSTOMER: &str = "
    CREATE TABLE customer (id bigint PRIMARY KEY, email text, seen timestamptz NOT NULL);
    INSERT INTO customer SELECT n, n || '@example.com', now() - (n - 0.5) * interval '1 day' FROM generate_series(1, 100) n;
    SELECT custodian.define_purpose('test.account', 'contract', '50 days');
    SELECT custodian.tag_table('customer', clock => 'seen', on_expiry => 'delete');
    SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{test.account}')";

const BEHIND: &str = "SELECT count(*) FROM custodian.check() WHERE code = 'disposal-behind'";
const SAID: &str = "disposal of public.customer has fallen behind";

#[test]
fn rows_that_are_overdue_for_too_long_are_a_warning_and_a_finding_until_they_are_gone() -> Result<()>
{
    let node = Cluster::builder("behind")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.max_overdue = 60d")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(CUSTOMER)?;
    // The oldest row is measured to a thirtieth of its age.
    wait_for_answer(
        &node,
        "SELECT now() - overdue_since BETWEEN interval '47 days' AND interval '50 days' FROM custodian.backlog",
        "t",
    );
    assert_eq!(
        node.text(
            "SELECT labels ->> 'relation', abs(value - extract(epoch FROM clock_timestamp() - overdue_since)) < 60
             FROM custodian.metrics, custodian.backlog WHERE name = 'custodian_oldest_overdue_age_seconds'"
        )?,
        "public.customer|t"
    );
    assert_eq!(node.text(BEHIND)?, "0");
    assert!(!node.log().contains(SAID));

    node.alter_system("custodian.max_overdue", "30d")?;
    node.wait_for_log(SAID, 60);
    wait_for_answer(&node, BEHIND, "1");
    let finding = node.text(
        "SELECT severity, object, problem FROM custodian.check() WHERE code = 'disposal-behind'",
    )?;
    assert!(
        finding.starts_with("error|public.customer|Rows have been due since ")
            && finding.contains("counted only: disposal is observe"),
        "{finding}"
    );
    // It is not said again in each round.
    assert_eq!(node.log().matches(SAID).count(), 1);

    // The oldest go: what is left has been due for a shorter time, and is told so.
    node.exec("DELETE FROM customer WHERE id > 70")?;
    wait_for_answer(&node, BEHIND, "0");
    wait_for_answer(
        &node,
        "SELECT now() - overdue_since BETWEEN interval '18 days' AND interval '20 days' FROM custodian.backlog",
        "t",
    );

    // A row that cannot be disposed of is overdue as others are.
    node.exec(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF OLD.id = 70 THEN RAISE EXCEPTION 'not this one'; END IF; RETURN OLD; END $$;
         CREATE TRIGGER no BEFORE DELETE ON customer FOR EACH ROW EXECUTE FUNCTION no()",
    )?;
    node.alter_system("custodian.max_overdue", "10d")?;
    wait_for_answer(&node, BEHIND, "1");
    node.alter_system("custodian.max_disposal_fraction", "1")?;
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(&node, "SELECT count(*), max(id) FROM customer", "51|70");
    wait_for_answer(
        &node,
        "SELECT count(*) FROM custodian.quarantined_rows",
        "1",
    );
    wait_for_answer(&node, BEHIND, "1");
    node.exec("DROP TRIGGER no ON customer")?;
    wait_for_answer(&node, "SELECT count(*) FROM customer", "50");
    wait_for_answer(&node, "SELECT count(*) FROM custodian.backlog", "0");
    assert_eq!(node.text(BEHIND)?, "0");
    Ok(())
}

/// How many times `begins` is in the log between the first `from` and the next `said` behind it.
fn rounds_until(log: &str, from: &str, begins: &str, said: &str) -> usize {
    let (_, rest) = log.split_once(from).expect("where it begins");
    let (before, _) = rest.split_once(said).expect("what is said");
    before.matches(begins).count()
}

/// When a line of the log was written.
fn second_of_day(line: &str) -> f64 {
    let time = line.split(' ').nth(1).unwrap_or_default();
    let parts = time.split(':').map(|part| part.parse().unwrap_or(f64::NAN));
    parts.fold(0.0, |sum, part| sum * 60.0 + part)
}

/// The log since the server was started last, once this is in it.
fn since_the_restart(node: &Cluster, said: &str) -> String {
    let log = poll(60, || {
        let log = node.log();
        let (_, rest) = log.rsplit_once("starting PostgreSQL")?;
        rest.contains(said).then(|| rest.to_owned())
    });
    log.expect("what is said")
}

const ROUND: &str = "a round of the pg_custodian scheduler begins";
const LAUNCHER: &str = "the pg_custodian launcher goes through the databases";
const NOW: &str = "DO $$ BEGIN RAISE LOG 'from here on'; END $$";
const HERE: &str = "LOG:  from here on";

/// Rounds begin a nap apart, or less. So what is said in the second of them, or before, is said within two naps, which is
/// counted rather than timed: a busy machine makes them longer.
#[test]
fn what_has_fallen_behind_is_said_within_two_naps() -> Result<()> {
    let node = Cluster::builder("naps")
        .preload("pg_custodian")
        .conf("log_min_messages = debug1")
        .conf("custodian.naptime = 2s")
        .conf("custodian.max_overdue = 30d")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(&CUSTOMER.replace("generate_series(1, 100)", "generate_series(1, 60)"))?;
    wait_for_answer(&node, "SELECT count(*) FROM custodian.backlog", "1");
    assert!(!node.log().contains(SAID));
    // From one moment to the next a row has been due for too long.
    node.exec(&format!(
        "INSERT INTO customer VALUES (1000, 'x', now() - interval '100 days'); {NOW}"
    ))?;
    node.wait_for_log(SAID, 60);
    let rounds = rounds_until(&node.log(), HERE, ROUND, SAID);
    assert!((1..=2).contains(&rounds), "{rounds} rounds");

    // Nothing comes of sweeps: the two slots are those of the launcher and the scheduler.
    for setting in [
        "max_worker_processes = 2",
        "max_logical_replication_workers = 0",
        "custodian.disposal = 'on'",
        "custodian.max_disposal_fraction = 1",
    ] {
        node.exec(&format!("ALTER SYSTEM SET {setting}"))?;
    }
    node.restart()?;
    let no_sweep = "no worker could be started for a sweep";
    let log = since_the_restart(&node, no_sweep);
    let rounds = rounds_until(&log, "", ROUND, no_sweep);
    assert!((1..=2).contains(&rounds), "{rounds} rounds");

    // Nor of a scheduler: the launcher has the only slot, and looks.
    node.exec("ALTER SYSTEM SET max_worker_processes = 1")?;
    node.restart()?;
    let no_scheduler = "no scheduler could be started in database";
    let log = since_the_restart(&node, no_scheduler);
    // It may look more often: then it says so in the first look that begins a nap behind the first one.
    let (before, _) = log.split_once(no_scheduler).expect("what is said");
    let mut looks: Vec<f64> = before
        .lines()
        .filter(|line| line.contains(LAUNCHER))
        .map(second_of_day)
        .collect();
    looks.pop();
    if let (Some(first), Some(last)) = (looks.first(), looks.last()) {
        let late = (last - first).rem_euclid(86_400.0);
        assert!(late < 3.0, "not said {late} seconds after the first look");
    }
    Ok(())
}

const NO_SLOT: &str = "SELECT count(*) FROM custodian.check() WHERE code = 'no-worker-slot'";

#[test]
fn without_a_slot_for_sweeps_the_scheduler_says_so() -> Result<()> {
    // The launcher and a scheduler take both slots.
    let node = Cluster::builder("nosweep")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.max_overdue = 1h")
        .conf("max_worker_processes = 2")
        .conf("max_logical_replication_workers = 0")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    // In one transaction: a round that saw one of them alone would try that one, and the next round the other.
    let other = CUSTOMER.replace("customer", "other");
    node.exec(&format!("BEGIN; {CUSTOMER}; {other}; COMMIT"))?;
    node.wait_for_log("no worker could be started for a sweep", 60);
    node.wait_for_log(SAID, 60);
    wait_for_answer(&node, NO_SLOT, "1");
    wait_for_answer(&node, BEHIND, "2");
    // One was tried, and the other waits for what it would not get either.
    wait_for_answer(
        &node,
        "SELECT state, coalesce(waits_for, reason) FROM custodian.runs LEFT JOIN custodian.progress USING (run_id, state)
         ORDER BY state",
        "interrupted|no background worker could be started\nobserved|a free slot of max_worker_processes",
    );
    assert_eq!(node.text("SELECT count(*) FROM customer")?, "100");
    Ok(())
}

#[test]
fn without_a_slot_for_schedulers_the_launcher_says_so_until_there_is_one() -> Result<()> {
    let node = Cluster::builder("noscheduler")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("max_worker_processes = 2")
        .start()?;
    // The launcher of logical replication has the other one.
    node.wait_for_log("no scheduler could be started in database postgres", 60);
    node.exec("CREATE EXTENSION pg_custodian")?;
    wait_for_answer(&node, NO_SLOT, "1");
    wait_for_answer(
        &node,
        "SELECT count(*) FROM custodian.check() WHERE code = 'worker-absent'",
        "1",
    );
    node.exec("ALTER SYSTEM SET max_worker_processes = 8")?;
    node.restart()?;
    wait_for_answer(&node, "SELECT worker_alive FROM custodian.status", "t");
    wait_for_answer(&node, NO_SLOT, "0");
    Ok(())
}

#[test]
fn without_a_slot_for_the_launcher_the_postmaster_and_sessions_say_so() -> Result<()> {
    let node = Cluster::builder("nolauncher")
        .preload("pg_custodian")
        .conf("max_worker_processes = 1")
        .start()?;
    let said = || {
        node.log()
            .matches("the pg_custodian launcher does not run")
            .count()
    };
    assert_eq!(said(), 1, "at the start");
    let mut client = node.client()?;
    client.batch_execute("CREATE EXTENSION pg_custodian")?;
    // A session that begins later says it, once.
    let repeated = poll(60, || {
        node.client().ok()?;
        (said() == 2).then_some(())
    });
    assert!(repeated.is_some(), "said {} times", said());
    for _ in 0..3 {
        node.client()?;
    }
    assert_eq!(said(), 2);
    assert_eq!(
        client.text("SELECT count(*) FROM custodian.check() WHERE code = 'worker-absent'")?,
        "1"
    );
    Ok(())
}

#[test]
fn databases_beyond_those_that_can_have_a_scheduler_are_named_and_take_what_becomes_free()
-> Result<()> {
    let node = Cluster::builder("sixtyfour")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1h")
        .conf("custodian.disposal = off")
        .conf("max_worker_processes = 80")
        .start()?;
    node.create_database("origin")?
        .batch_execute("CREATE EXTENSION pg_custodian")?;
    // Nobody connects there, no scheduler either, so that copies need not wait for one to leave.
    node.exec("ALTER DATABASE origin ALLOW_CONNECTIONS false")?;
    let mut client = node.client()?;
    for n in 1..=66 {
        client.batch_execute(&format!(
            "CREATE DATABASE copy_{n} TEMPLATE origin STRATEGY file_copy"
        ))?;
    }
    // The launcher looks now, rather than within its minute.
    node.reload()?;
    const SCHEDULERS: &str = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_custodian scheduler' AND datname LIKE 'copy%'";
    wait_for_answer(&node, SCHEDULERS, "64");
    let without = node.text(
        "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database d
         WHERE datname LIKE 'copy%' AND NOT EXISTS (SELECT FROM pg_stat_activity a
                                                    WHERE a.datname = d.datname AND backend_type = 'pg_custodian scheduler')",
    )?;
    let without: Vec<&str> = without.split(' ').collect();
    assert_eq!(without.len(), 2, "{without:?}");
    for database in &without {
        node.wait_for_log(
            &format!("no scheduler could be started in database {database}\n"),
            60,
        );
    }
    // Where a database is closed, or the extension goes, the next one has its place.
    let with = node.text(
        "SELECT string_agg(datname, ' ') FROM (SELECT datname FROM pg_stat_activity
                                               WHERE backend_type = 'pg_custodian scheduler' AND datname LIKE 'copy%' LIMIT 2) a",
    )?;
    let (first, second) = with.split_once(' ').expect("two databases");
    let those = format!(
        "{SCHEDULERS} AND datname IN ('{}', '{}')",
        without[0], without[1]
    );
    node.exec(&format!("ALTER DATABASE {first} ALLOW_CONNECTIONS false"))?;
    node.exec(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{first}'"
    ))?;
    wait_for_answer(&node, &those, "1");
    node.client_as("postgres", second)?
        .batch_execute("DROP EXTENSION pg_custodian")?;
    wait_for_answer(&node, &those, "2");
    Ok(())
}
