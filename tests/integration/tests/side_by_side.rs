//! Sweeps of several tables at the same time: one that takes long holds up those that refer to it, and no others.

use integration::{Cluster, Result, Sql, wait_for_answer, wait_for_two_rounds};

fn table(name: &str, more: &str) -> String {
    format!(
        "CREATE TABLE {name} (id bigint PRIMARY KEY, email text, seen timestamptz NOT NULL {more});
         INSERT INTO {name} SELECT n, n || '@example.com', now() - interval '100 days' FROM generate_series(1, 50) n;
         SELECT custodian.tag_table('{name}', clock => 'seen', on_expiry => 'delete');
         SELECT custodian.tag_column('{name}', 'email', 'user.contact.email', '{{test.account}}')"
    )
}

/// Rows of `slow` do not go before there is a row in `gate`.
const GATE: &str = "
    CREATE TABLE gate (open bool);
    CREATE FUNCTION slow_gate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        WHILE NOT EXISTS (SELECT FROM public.gate) LOOP
            PERFORM pg_catalog.pg_sleep(0.05);
        END LOOP;
        RETURN OLD;
    END $$;
    CREATE TRIGGER gate BEFORE DELETE ON slow FOR EACH ROW EXECUTE FUNCTION slow_gate()";

#[test]
fn a_sweep_that_takes_long_holds_up_no_table_but_those_it_refers_to() -> Result<()> {
    let node = Cluster::builder("side-by-side")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("max_worker_processes = 16")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec("SELECT custodian.define_purpose('test.account', 'contract', '50 days')")?;
    node.exec(&table("parent", ""))?;
    // Its rows cannot go before somebody opens the gate.
    node.exec(&table("slow", ", parent bigint REFERENCES parent"))?;
    node.exec("UPDATE slow SET parent = id")?;
    node.exec(GATE)?;
    // Each attempt on it fails.
    node.exec(&table("failing", ""))?;
    node.exec(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE division_by_zero; END $$;
         CREATE TRIGGER refuse BEFORE DELETE ON failing FOR EACH ROW EXECUTE FUNCTION refuse()",
    )?;
    node.exec(&table("quick", ""))?;
    node.alter_system("custodian.disposal", "on")?;
    let state = |table: &str| {
        format!(
            "SELECT state FROM custodian.runs WHERE relation = '{table}'::regclass AND state <> 'observed' ORDER BY run_id LIMIT 1"
        )
    };
    wait_for_answer(&node, &state("quick"), "done");
    wait_for_answer(&node, &state("failing"), "failed");
    // New rows go as well, round after round, while the other sweep is where it was.
    node.exec("INSERT INTO quick SELECT n, n || '@example.com', now() - interval '100 days' FROM generate_series(101, 120) n")?;
    wait_for_answer(&node, "SELECT count(*) FROM quick", "0");
    // Nor does who asks for a sweep wait for it, but for one of a table that it holds up.
    let mut caller = node.client()?;
    caller.batch_execute("SET statement_timeout = '100s'")?;
    caller.batch_execute("CALL custodian.sweep('quick')")?;
    caller.batch_execute("SET statement_timeout = '2s'")?;
    let refused = caller.refused("CALL custodian.sweep('parent')");
    assert_eq!(refused.sqlstate(), "57014");
    assert_eq!(node.text("SELECT count(*) FROM slow")?, "50");
    assert_eq!(node.text("SELECT count(*) FROM parent")?, "50");
    // A parent is counted, and not swept, while rows that refer to it are on their way.
    assert_eq!(
        node.text(
            "SELECT count(*) FROM custodian.runs p, custodian.runs s
             WHERE p.relation = 'parent'::regclass AND p.state <> 'observed'
               AND s.relation = 'slow'::regclass AND s.state = 'running'"
        )?,
        "0"
    );
    wait_for_answer(
        &node,
        "SELECT state, waits_for FROM custodian.progress WHERE relation = 'parent'::regclass",
        "observed|sweeps of tables whose rows refer to its rows",
    );
    node.exec("INSERT INTO gate VALUES (true)")?;
    wait_for_answer(&node, "SELECT count(*) FROM parent", "0");
    wait_for_answer(
        &node,
        "SELECT count(*) FROM custodian.runs WHERE state IN ('running', 'interrupted')",
        "0",
    );
    Ok(())
}

#[test]
fn while_no_other_sweep_may_begin_what_is_due_is_counted_and_said_to_be_behind() -> Result<()> {
    let node = Cluster::builder("no-room")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.max_sweep_workers = 1")
        .conf("custodian.max_overdue = 30d")
        .conf("max_worker_processes = 16")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec("SELECT custodian.define_purpose('test.account', 'contract', '50 days')")?;
    for name in ["slow", "other", "idle"] {
        node.exec(&table(name, ""))?;
    }
    node.exec(GATE)?;
    node.exec("UPDATE other SET seen = now(); UPDATE idle SET seen = now()")?;
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(
        &node,
        "SELECT relation, state FROM custodian.progress",
        "slow|running",
    );
    const BEHIND: &str =
        "SELECT object FROM custodian.check() WHERE code = 'disposal-behind' ORDER BY 1";
    assert!(!node.text(BEHIND)?.contains("public.other"));
    // While the only sweep that may be at work is where it is, another table falls behind.
    node.exec("UPDATE other SET seen = now() - interval '100 days' WHERE id <= 20")?;
    const WAITS: &str = "the end of another sweep: custodian.max_sweep_workers are at work";
    wait_for_answer(
        &node,
        "SELECT relation, state, rows_planned, waits_for FROM custodian.progress WHERE state <> 'running'",
        &format!("other|observed|20|{WAITS}"),
    );
    wait_for_answer(
        &node,
        "SELECT rows, why FROM custodian.overdue WHERE relation = 'other'::regclass",
        &format!("20|waits for {WAITS}"),
    );
    node.wait_for_log("disposal of public.other has fallen behind", 60);
    wait_for_answer(&node, BEHIND, "public.other\npublic.slow");
    assert_eq!(
        node.text("SELECT (SELECT count(*) FROM slow), (SELECT count(*) FROM other), (SELECT count(*) FROM custodian.runs WHERE relation = 'idle'::regclass)")?,
        "50|50|0"
    );
    // It has its turn once there is room.
    node.exec("INSERT INTO gate VALUES (true)")?;
    wait_for_answer(
        &node,
        "SELECT (SELECT count(*) FROM slow), (SELECT count(*) FROM other)",
        "0|30",
    );
    wait_for_answer(&node, BEHIND, "");
    wait_for_answer(
        &node,
        "SELECT state, rows_planned, rows_done FROM custodian.runs WHERE relation = 'other'::regclass",
        "done|20|20",
    );
    Ok(())
}

/// Counting takes a tenth of the time. One whose rows refer to it, and which is swept for some seconds again and again, makes
/// no difference to that.
#[test]
fn a_table_that_takes_long_to_count_is_not_counted_with_each_sweep_of_those_that_refer_to_it()
-> Result<()> {
    let node = Cluster::builder("counts")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("max_worker_processes = 16")
        .start()?;
    // Whatever looks for due rows of it asks the domain, which takes its time.
    node.exec(
        "CREATE EXTENSION pg_custodian;
         SELECT custodian.define_purpose('test.account', 'contract', '50 days');
         CREATE SEQUENCE looks;
         CREATE FUNCTION slowly() RETURNS bool LANGUAGE plpgsql AS
             'BEGIN PERFORM nextval(''public.looks''), pg_sleep(3); RETURN true; END';
         CREATE DOMAIN slow AS text CHECK (slowly());
         CREATE TABLE parent (id bigint PRIMARY KEY, note slow, seen timestamptz NOT NULL);
         INSERT INTO parent VALUES (1, 'x', now() - interval '100 days');
         CREATE TABLE child (id bigint PRIMARY KEY, email text, seen timestamptz NOT NULL, parent bigint REFERENCES parent);
         CREATE FUNCTION seven() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(7); RETURN OLD; END';
         CREATE TRIGGER seven BEFORE DELETE ON child FOR EACH ROW EXECUTE FUNCTION seven();
         SELECT custodian.tag_table('parent', clock => 'seen', disposal => 'observe');
         SELECT custodian.tag_column('parent', 'note', 'user.note', '{test.account}', on_expiry => '{\"constant\":\"gone\"}');
         SELECT custodian.tag_table('child', clock => 'seen', on_expiry => 'delete');
         SELECT custodian.tag_column('child', 'email', 'user.contact.email', '{test.account}')",
    )?;
    node.alter_system("custodian.disposal", "on")?;
    const OBSERVED: &str =
        "SELECT state, rows_planned FROM custodian.runs WHERE relation = 'parent'::regclass";
    wait_for_answer(&node, OBSERVED, "observed|1");
    let sweep = |id: u32| -> Result<()> {
        node.exec(&format!(
            "INSERT INTO child VALUES ({id}, 'x', now() - interval '100 days', 1)"
        ))?;
        wait_for_answer(&node, "SELECT count(*) FROM child", "0");
        wait_for_two_rounds(&node);
        Ok(())
    };
    sweep(1)?;
    let looks = node.text("SELECT last_value FROM looks")?;
    for id in 2..=3 {
        sweep(id)?;
    }
    assert_eq!(node.text("SELECT last_value FROM looks")?, looks);
    Ok(())
}
