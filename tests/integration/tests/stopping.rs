//! What stops disposal: a steward's pause, a clock that jumped, a recovery to a point in time. And what does not: a
//! promotion.

use integration::{Cluster, MovedClock, Result, Sql, Stop, wait_for_answer, wait_for_two_rounds};

/// Rows whose clock lies 1 to 100 days back; they go after 50.
const ITEM: &str = "
    CREATE EXTENSION pg_custodian;
    CREATE TABLE item (id bigint PRIMARY KEY, body text, at timestamptz NOT NULL);
    INSERT INTO item SELECT n, 'x', now() - (n - 0.5) * interval '1 day' FROM generate_series(1, 100) n;
    SELECT custodian.define_purpose('test.item', 'contract', '50 days');
    SELECT custodian.tag_table('item', clock => 'at', on_expiry => 'delete');
    SELECT custodian.tag_column('item', 'body', 'user.behavior', '{test.item}')";

const LATE: &str = "INSERT INTO item VALUES (1000, 'x', now() - interval '1 year')";
const LEFT: &str = "SELECT count(*) FROM item WHERE at < now() - interval '50 days'";

fn cluster(name: &str) -> Result<Cluster> {
    Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 1")
        .start()
}

#[test]
fn a_pause_stops_a_sweep_before_its_next_batch_and_ends_with_resume() -> Result<()> {
    let node = cluster("paused")?;
    node.alter_system("custodian.batch_target", "1ms")?;
    node.exec(
        "CREATE EXTENSION pg_custodian;
         CREATE ROLE app;
         CREATE TABLE log (id bigint PRIMARY KEY, body text, at timestamptz NOT NULL);
         ALTER TABLE log ALTER body SET STORAGE PLAIN;
         CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END';
         CREATE TRIGGER slowly AFTER DELETE ON log FOR EACH STATEMENT EXECUTE FUNCTION slowly();
         INSERT INTO log SELECT n, repeat('x', 3000), now() - interval '1 year' FROM generate_series(1, 300) n;
         CREATE TABLE other (id bigint, body text, at timestamptz NOT NULL);
         SELECT custodian.define_purpose('test.log', 'contract', '100 days');
         SELECT custodian.tag_table(t, clock => 'at', on_expiry => 'delete'),
                custodian.tag_column(t, 'body', 'user.behavior', '{test.log}') FROM unnest('{log,other}'::regclass[]) t",
    )?;
    wait_for_answer(
        &node,
        "SELECT batches > 1 FROM custodian.runs WHERE relation = 'log'::regclass AND state = 'running'",
        "t",
    );
    let mut client = node.client()?;
    client.text("SELECT custodian.pause('an incident', 'log')")?;
    let left = node.text("SELECT count(*) FROM log")?;
    assert_ne!(left, "0", "the sweep was through before the pause");
    wait_for_answer(
        &node,
        "SELECT state, reason FROM custodian.runs WHERE relation = 'log'::regclass",
        "interrupted|disposal is paused",
    );
    // Other tables go on.
    node.exec("INSERT INTO other SELECT n, 'x', '2001-01-01' FROM generate_series(1, 10) n")?;
    wait_for_answer(&node, "SELECT count(*) FROM other", "0");
    wait_for_two_rounds(&node);
    assert_eq!(node.text("SELECT count(*) FROM log")?, left);
    assert_eq!(
        client
            .refused("SELECT * FROM custodian.sweep_now('log')")
            .sqlstate(),
        "55000"
    );
    assert_eq!(
        node.text("SELECT object FROM custodian.check() WHERE code = 'disposal-paused'")?,
        "public.log"
    );
    assert_eq!(
        node.text("SELECT relation, cause, reason, paused_by FROM custodian.pauses")?,
        "log|paused|an incident|postgres"
    );
    for statement in [
        "SELECT custodian.pause(' ')",
        "SELECT custodian.pause(NULL)",
        "SELECT custodian.resume('', 'log')",
    ] {
        assert_eq!(client.refused(statement).sqlstate(), "22023");
    }
    assert_eq!(
        client
            .refused("SELECT custodian.resume('it is not')")
            .sqlstate(),
        "55000"
    );
    client.text("SET ROLE app")?;
    assert_eq!(
        client
            .refused("SELECT custodian.resume('mine', 'log')")
            .sqlstate(),
        "42501"
    );
    client.text("RESET ROLE; SELECT custodian.resume('the incident is over', 'log')")?;
    wait_for_answer(&node, "SELECT count(*) FROM log", "0");
    assert_eq!(
        node.text(
            "SELECT kind, object FROM custodian.ledger WHERE kind LIKE 'disposal.%' ORDER BY entry"
        )?,
        "disposal.paused|public.log\ndisposal.resumed|public.log"
    );

    // Everything at once.
    client.text("SELECT custodian.pause('holidays')")?;
    node.exec("INSERT INTO log VALUES (1, 'x', '2001-01-01'); INSERT INTO other VALUES (1, 'x', '2001-01-01')")?;
    wait_for_two_rounds(&node);
    assert_eq!(
        node.text("SELECT count(*) FROM log, other")?,
        "1",
        "paused as a whole"
    );
    client.text("SELECT custodian.resume('back')")?;
    wait_for_answer(
        &node,
        "SELECT (SELECT count(*) FROM log) + (SELECT count(*) FROM other)",
        "0",
    );
    Ok(())
}

#[test]
fn a_clock_that_jumped_stops_disposal_until_a_steward_has_looked() -> Result<()> {
    let node = cluster("jumped")?;
    node.exec(ITEM)?;
    wait_for_answer(&node, LEFT, "0");
    // As if the clock had been moved forward by two and a half hours since the last round.
    node.exec("UPDATE custodian.heartbeat SET round_at = round_at - interval '150 minutes'")?;
    wait_for_answer(&node, "SELECT cause FROM custodian.pauses", "clock-jumped");
    node.exec(LATE)?;
    wait_for_two_rounds(&node);
    assert_eq!(node.text(LEFT)?, "1");
    assert!(
        node.log()
            .contains("disposal stops until a steward resumes it")
    );
    assert_eq!(
        node.text(
            "SELECT severity, problem FROM custodian.check() WHERE code = 'disposal-paused'"
        )?,
        "error|Nothing is disposed of: the server's clock was moved forward by 2 hours."
    );
    node.exec("SELECT custodian.resume('a leap of the hypervisor, the clock is right now')")?;
    wait_for_answer(&node, LEFT, "0");
    // And back: what was noted lies ahead.
    node.exec("UPDATE custodian.heartbeat SET round_at = round_at + interval '20 minutes'")?;
    wait_for_answer(
        &node,
        "SELECT cause, reason LIKE '%was moved back by%' FROM custodian.pauses",
        "clock-jumped|t",
    );
    Ok(())
}

#[test]
fn a_clock_that_somebody_sets_makes_nothing_due() -> Result<()> {
    let clock = MovedClock::new()?;
    let mut builder = Cluster::builder("moved_clock")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 1");
    for (name, value) in clock.env() {
        builder = builder.env(name, &value);
    }
    let node = builder.start()?;
    node.exec(ITEM)?;
    wait_for_answer(&node, LEFT, "0");
    wait_for_two_rounds(&node);
    assert_eq!(node.text("SELECT count(*) FROM custodian.pauses")?, "0");

    let before = node.text("SELECT now()")?;
    clock.set(3 * 86_400)?;
    wait_for_answer(
        &node,
        &format!("SELECT now() - '{before}' > interval '71 hours'"),
        "t",
    );
    // Three rows are past by this clock.
    wait_for_answer(&node, "SELECT cause FROM custodian.pauses", "clock-jumped");
    wait_for_two_rounds(&node);
    assert_eq!(node.text(LEFT)?, "3");
    // It is set right: that is another jump, and a steward says that it is over.
    clock.set(0)?;
    wait_for_answer(
        &node,
        &format!("SELECT now() - '{before}' < interval '1 hour'"),
        "t",
    );
    wait_for_two_rounds(&node);
    node.exec("SELECT custodian.resume('the clock is right again')")?;
    node.exec(LATE)?;
    wait_for_answer(&node, LEFT, "0");
    assert_eq!(node.text("SELECT count(*) FROM item")?, "50");
    Ok(())
}

#[test]
fn a_copy_of_the_files_waits_for_a_steward_and_a_restart_does_not() -> Result<()> {
    let node = cluster("cold")?;
    node.exec(ITEM)?;
    wait_for_answer(&node, LEFT, "0");
    node.restart()?;
    node.exec(LATE)?;
    wait_for_answer(&node, LEFT, "0");
    node.stop(Stop::Fast)?;
    // As when a backup that was taken a moment ago is put in place.
    let data = node.data_dir();
    let aside = data.with_extension("aside");
    std::fs::rename(&data, &aside)?;
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([&aside, &data])
        .status()?;
    assert!(copied.success());
    node.start()?;
    wait_for_answer(&node, "SELECT cause FROM custodian.pauses", "restored");
    node.exec("UPDATE item SET at = at - interval '1 year'")?;
    wait_for_two_rounds(&node);
    assert_eq!(node.text("SELECT count(*) FROM item")?, "50");
    node.exec("SELECT custodian.resume('it is the copy that serves now')")?;
    wait_for_answer(&node, "SELECT count(*) FROM item", "0");
    Ok(())
}

#[test]
fn a_promotion_goes_on_by_itself() -> Result<()> {
    let node = cluster("primary")?;
    node.exec(ITEM)?;
    wait_for_answer(&node, LEFT, "0");
    let standby = node.standby("promoted").start()?;
    node.wait_for_catchup(&standby, 60)?;
    standby.promote()?;
    wait_for_answer(&standby, "SELECT timeline FROM custodian.heartbeat", "2");
    standby.exec(LATE)?;
    wait_for_answer(&standby, LEFT, "0");
    assert_eq!(standby.text("SELECT count(*) FROM custodian.pauses")?, "0");
    Ok(())
}

#[test]
fn a_recovery_to_a_point_in_time_waits_for_a_steward() -> Result<()> {
    let node = cluster("recovered")?;
    node.exec(ITEM)?;
    wait_for_answer(&node, LEFT, "0");
    let copy = node
        .standby("copy")
        .conf("recovery_target_name = 'here'")
        .conf("recovery_target_action = 'promote'")
        .start()?;
    node.exec("SELECT pg_create_restore_point('here')")?;
    wait_for_answer(&copy, "SELECT pg_is_in_recovery()", "f");
    wait_for_answer(&copy, "SELECT cause FROM custodian.pauses", "restored");
    copy.exec(LATE)?;
    wait_for_two_rounds(&copy);
    assert_eq!(copy.text(LEFT)?, "1");
    assert_eq!(
        copy.text("SELECT reason FROM custodian.pauses")?,
        "the cluster was recovered to a point in time: timeline 1 ended at restore point \"here\""
    );
    copy.exec("SELECT custodian.resume('it is the cluster that serves now')")?;
    wait_for_answer(&copy, LEFT, "0");
    Ok(())
}
