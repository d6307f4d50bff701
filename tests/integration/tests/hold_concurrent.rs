//! Holds that are placed while others work: what began before the hold is refused all the same, or the call that
//! places it waits, and says on whom.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use integration::{Cluster, Error, Result, Sql, wait_until};

const MATTER: &str = "case 42";
const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

fn shop() -> Result<Cluster> {
    shop_with(16)
}

fn shop_with(workers: u32) -> Result<Cluster> {
    let node = Cluster::builder("concurrent")
        .preload("pg_custodian")
        .conf("custodian.naptime = 3600")
        .conf("deadlock_timeout = 200ms")
        .conf("max_prepared_transactions = 4")
        .conf(&format!("max_worker_processes = {workers}"))
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian; CREATE ROLE counsel; CREATE ROLE shop LOGIN; CREATE SCHEMA shop AUTHORIZATION shop;
         SET ROLE shop;
         CREATE TABLE shop.customer (id int PRIMARY KEY, email text, seen timestamptz);
         CREATE TABLE shop.ticket (id int PRIMARY KEY, customer_id int REFERENCES shop.customer ON DELETE CASCADE DEFERRABLE, body text, at timestamptz);
         INSERT INTO shop.customer SELECT n, 'x', '2020-01-01' FROM generate_series(1, 9) n;
         INSERT INTO shop.ticket SELECT n, n, 'help', '2020-01-01' FROM generate_series(1, 9) n;
         RESET ROLE;
         SELECT custodian.define_purpose('shop.short', 'contract', '1 day');
         SELECT custodian.tag_column('shop.customer', 'email', 'user.contact.email', ARRAY['shop.short'], on_expiry => 'set_null', clock => 'seen');
         SELECT custodian.tag_column('shop.ticket', 'body', 'user.behavior', ARRAY['shop.short'], clock => 'at');
         SELECT custodian.tag_table('shop.customer', clock => 'seen', subject_kind => 'customer', subject_key => ARRAY['id']);
         SELECT custodian.tag_table('shop.ticket', clock => 'at', subject_kind => 'customer', subject_via => ARRAY['customer_id'], on_expiry => 'delete')",
    )?;
    Ok(node)
}

fn place(customer: u32, matter: &str) -> String {
    format!(
        "SELECT custodian.place_hold('{matter}', 'counsel', current_date + 30, 'court order',
             subject_kind => 'customer', subject_key => ARRAY['{customer}'])"
    )
}

/// A session of its own, which runs statements while the test goes on.
struct Session {
    pid: String,
    orders: mpsc::Sender<String>,
    answers: mpsc::Receiver<std::result::Result<String, Error>>,
}

impl Session {
    fn new(node: &Cluster) -> Result<Session> {
        let mut client = node.client()?;
        let pid = client.text("SELECT pg_backend_pid()")?;
        let (orders, to_do) = mpsc::channel::<String>();
        let (answer, answers) = mpsc::channel();
        thread::spawn(move || {
            for sql in to_do {
                if answer.send(client.text(&sql)).is_err() {
                    return;
                }
            }
        });
        Ok(Session {
            pid,
            orders,
            answers,
        })
    }

    fn begin(&self, sql: &str) {
        self.orders
            .send(sql.to_owned())
            .expect("the session is there");
    }

    /// What the statement came to.
    fn end(&self) -> std::result::Result<String, Error> {
        self.answers.recv().expect("the session is there")
    }

    fn run(&self, sql: &str) -> std::result::Result<String, Error> {
        self.begin(sql);
        self.end()
    }

    /// Waits until the session waits for a lock.
    #[track_caller]
    fn wait_blocked(&self, node: &Cluster) {
        wait_until("the session waits for a lock", 60, || {
            node.text(&format!(
                "SELECT wait_event_type FROM pg_stat_activity WHERE pid = {}",
                self.pid
            ))
            .is_ok_and(|event| event == "Lock")
        });
    }

    /// Whether the session has come to an end with what it was told to do.
    fn is_busy(&self, node: &Cluster) -> bool {
        node.text(&format!(
            "SELECT state FROM pg_stat_activity WHERE pid = {}",
            self.pid
        ))
        .is_ok_and(|state| state == "active")
    }
}

#[track_caller]
fn kept(outcome: std::result::Result<String, Error>, what: &str) {
    let Err(error) = outcome else {
        panic!("this should have been refused: {what}");
    };
    assert_eq!(error.sqlstate(), "23001", "{what}: {error}");
    assert!(error.to_string().contains(MATTER), "{what}: {error}");
}

/// Statements that delete or change ticket 2 or customer 2, stopped at an advisory lock in their middle.
const STATEMENTS: [&str; 5] = [
    "DELETE FROM shop.ticket WHERE id = 2 AND pg_advisory_xact_lock_shared(1) IS NOT NULL",
    "DELETE FROM shop.customer WHERE id = 2 AND pg_advisory_xact_lock_shared(1) IS NOT NULL",
    "UPDATE shop.customer SET email = 'gone' WHERE id = 2 AND pg_advisory_xact_lock_shared(1) IS NOT NULL",
    "MERGE INTO shop.ticket t USING (SELECT 2 AS id, pg_advisory_xact_lock_shared(1)) v ON t.id = v.id WHEN MATCHED THEN DELETE",
    "WITH slow AS MATERIALIZED (SELECT 2 AS id, pg_advisory_xact_lock_shared(1)::text) DELETE FROM shop.ticket t USING slow WHERE slow.id = t.id",
];

#[test]
fn a_statement_that_began_before_the_hold_is_refused_at_every_level() -> Result<()> {
    let node = shop()?;
    // The guard is there already: a hold waits only for those that have asked it.
    node.exec(&place(9, "another"))?;
    let gate = Session::new(&node)?;
    for level in LEVELS {
        for statement in STATEMENTS {
            gate.run("SELECT pg_advisory_lock(1)")?;
            let writer = Session::new(&node)?;
            writer.run(&format!(
                "BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM shop.ticket"
            ))?;
            writer.begin(statement);
            writer.wait_blocked(&node);
            // It is in force at once: the call waits for nobody.
            let hold = gate.run(&format!("SET lock_timeout = '10s'; {}", place(2, MATTER)))?;
            assert!(writer.is_busy(&node));
            gate.run("SELECT pg_advisory_unlock(1)")?;
            kept(writer.end(), &format!("{level}: {statement}"));
            writer.run("ROLLBACK")?;
            node.exec(&format!(
                "SELECT custodian.release_hold({hold}, 'counsel', 'settled')"
            ))?;
        }
    }
    assert_eq!(
        node.text("SELECT (SELECT count(*) FROM shop.ticket), (SELECT count(*) FROM shop.customer WHERE email = 'x')")?,
        "9|9"
    );
    Ok(())
}

/// Waits until the guard has left all tables. Where somebody used one when the last hold was released, such as the scheduler,
/// its next round takes the triggers off.
fn wait_until_unguarded(node: &Cluster) {
    wait_until("nothing is guarded", 60, || {
        let gone = node
            .text("SELECT count(*) FROM pg_trigger WHERE tgfoid = 'custodian.row_guard'::regproc")
            .is_ok_and(|triggers| triggers == "0");
        // What is reloaded begins a round.
        if !gone {
            let _ = node.reload();
        }
        gone
    });
}

#[test]
fn a_first_hold_waits_for_definitions_that_are_being_changed() -> Result<()> {
    let node = shop()?;
    node.exec(
        "SET ROLE shop;
         CREATE TABLE shop.visit (id int, at date, ip text) PARTITION BY RANGE (at);
         CREATE TABLE shop.visit_1 PARTITION OF shop.visit FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
         INSERT INTO shop.visit VALUES (1, '2020-03-01', 'ip')",
    )?;
    for (table, ddl) in [
        ("shop.ticket", "TRUNCATE shop.ticket"),
        (
            "shop.ticket",
            "ALTER TABLE shop.ticket ALTER body TYPE varchar(90)",
        ),
        ("shop.ticket", "ALTER TABLE shop.ticket DROP COLUMN body"),
        (
            "shop.ticket",
            "ALTER TABLE shop.ticket RENAME TO old; DROP TABLE shop.old",
        ),
        (
            "shop.visit",
            "ALTER TABLE shop.visit DETACH PARTITION shop.visit_1",
        ),
        ("shop.visit", "DROP TABLE shop.visit_1"),
        ("shop.visit", "TRUNCATE shop.visit_1"),
    ] {
        wait_until_unguarded(&node);
        let writer = Session::new(&node)?;
        writer.run(&format!("BEGIN; {ddl}"))?;
        let steward = Session::new(&node)?;
        steward.begin(&format!(
            "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'court order', rel => '{table}')"
        ));
        steward.wait_blocked(&node);
        writer.run("ROLLBACK")?;
        let hold = steward.end()?;
        kept(writer.run(&format!("BEGIN; {ddl}")), ddl);
        writer.run("ROLLBACK")?;
        node.exec(&format!(
            "SELECT custodian.release_hold({hold}, 'counsel', 'settled')"
        ))?;
        writer.run(&format!("BEGIN; {ddl}; ROLLBACK"))?;
    }
    // What was done by then is done, and the hold is about what is left.
    wait_until_unguarded(&node);
    let writer = Session::new(&node)?;
    writer
        .run("BEGIN; TRUNCATE shop.ticket; INSERT INTO shop.ticket VALUES (2, 2, 'new', now())")?;
    let steward = Session::new(&node)?;
    steward.begin(&format!(
        "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'court order', rel => 'shop.ticket')"
    ));
    steward.wait_blocked(&node);
    writer.run("COMMIT")?;
    steward.end()?;
    kept(writer.run("TRUNCATE shop.ticket"), "the next one");
    Ok(())
}

#[test]
fn a_first_hold_waits_for_statements_that_began_before_it() -> Result<()> {
    let node = shop()?;
    let gate = Session::new(&node)?;
    for level in LEVELS {
        for statement in STATEMENTS {
            // No trigger of the guard is there yet. The deletion began before there was any hold: the call waits
            // for it, and what is gone then was gone before the hold was in force.
            gate.run("SELECT pg_advisory_lock(1)")?;
            let writer = Session::new(&node)?;
            writer.run(&format!(
                "BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM shop.ticket"
            ))?;
            writer.begin(statement);
            writer.wait_blocked(&node);
            let steward = Session::new(&node)?;
            steward.begin(&place(2, MATTER));
            steward.wait_blocked(&node);
            gate.run("SELECT pg_advisory_unlock(1)")?;
            writer.end()?;
            assert!(steward.is_busy(&node), "{level}: {statement}");
            writer.run("ROLLBACK")?;
            let hold = steward.end()?;
            // The same session, with a snapshot of its own that is older than the hold, has no second chance.
            kept(
                node.client()?.text("DELETE FROM shop.ticket WHERE id = 2"),
                statement,
            );
            node.exec(&format!(
                "SELECT custodian.release_hold({hold}, 'counsel', 'settled')"
            ))?;
            wait_until_unguarded(&node);
        }
    }
    Ok(())
}

#[test]
fn cascades_deferred_to_the_commit_meet_a_hold_placed_before_it() -> Result<()> {
    let node = shop()?;
    node.exec(&place(9, "another"))?;
    for level in LEVELS {
        let mut writer = node.client()?;
        writer.batch_execute(&format!(
            "BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM shop.ticket; SAVEPOINT s; DELETE FROM shop.ticket WHERE id = 2; ROLLBACK TO s"
        ))?;
        let mut steward = node.client()?;
        let hold = steward.text(&format!("SET lock_timeout = '10s'; {}", place(2, MATTER)))?;
        writer.batch_execute(
            "SET CONSTRAINTS ALL DEFERRED; INSERT INTO shop.ticket VALUES (20, 9, 'x', now())",
        )?;
        kept(
            writer.text("DELETE FROM shop.customer WHERE id = 2; COMMIT"),
            level,
        );
        let _ended = writer.batch_execute("ROLLBACK");
        node.exec(&format!(
            "SELECT custodian.release_hold({hold}, 'counsel', 'settled')"
        ))?;
    }
    Ok(())
}

#[test]
fn a_pending_hold_says_on_whom_it_waits_while_it_waits() -> Result<()> {
    let node = shop()?;
    let (said, notices) = mpsc::channel();
    let mut config: postgres::Config = node.conninfo("postgres", "postgres").parse()?;
    config.notice_callback(move |notice| {
        let text = format!(
            "{} {}: {}",
            notice.severity(),
            notice.message(),
            notice.detail().unwrap_or_default()
        );
        let _nobody_listens = said.send(text);
    });
    let mut steward = config.connect(postgres::NoTls)?;

    let writer = Session::new(&node)?;
    writer.run("BEGIN; DELETE FROM shop.ticket WHERE id = 2")?;
    node.exec("BEGIN; DELETE FROM shop.ticket WHERE id = 1; PREPARE TRANSACTION 'two \"phases\"'")?;
    let waiting = thread::spawn(move || {
        let hold = steward.text(&place(2, MATTER));
        (steward, hold)
    });
    let notice = notices
        .recv_timeout(Duration::from_secs(60))
        .expect("a notice");
    assert!(
        notice.starts_with("NOTICE the legal hold is pending"),
        "{notice}"
    );
    assert!(
        notice.contains(&format!("process {}", writer.pid)),
        "{notice}"
    );
    assert!(
        notice.contains("prepared transaction \"two \"phases\"\""),
        "{notice}"
    );
    // Nobody sees a hold that is not in force.
    assert_eq!(node.text("SELECT count(*) FROM custodian.holds")?, "0");
    node.exec("ROLLBACK PREPARED 'two \"phases\"'")?;
    writer.run("ROLLBACK")?;
    let (mut steward, hold) = waiting.join().expect("the steward's thread");
    let hold = hold?;
    kept(
        writer.run("DELETE FROM shop.ticket WHERE id = 2"),
        "after it",
    );
    assert!(notices.try_recv().is_err(), "one notice is enough");

    // With a lock_timeout the call gives up, changes nothing, and says the same.
    node.exec("BEGIN; DELETE FROM shop.ticket WHERE id = 1; PREPARE TRANSACTION 'p'")?;
    steward.batch_execute("SET lock_timeout = '1200ms'")?;
    let error = steward.refused(&place(1, MATTER));
    assert_eq!(error.sqlstate(), "55P03", "{error}");
    assert!(
        error.to_string().contains("prepared transaction \"p\""),
        "{error}"
    );
    // So does its release.
    let error = steward.refused(&format!(
        "SELECT custodian.release_hold({hold}, 'counsel', 'settled')"
    ));
    assert_eq!(error.sqlstate(), "55P03", "{error}");
    node.exec("COMMIT PREPARED 'p'")?;
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.holds WHERE released_at IS NULL")?,
        "1"
    );
    // The setting is the session's own again.
    assert_eq!(steward.text("SHOW lock_timeout")?, "1200ms");
    Ok(())
}

#[test]
fn a_batch_under_way_ends_before_the_hold_is_in_force_and_the_next_one_spares_its_rows()
-> Result<()> {
    // Launchers alone: no scheduler sweeps beside.
    let node = shop_with(2)?;
    node.alter_system("custodian.max_disposal_fraction", "1")?;
    node.alter_system("custodian.disposal", "on")?;
    wait_until("the settings are read", 60, || {
        node.text("SELECT current_setting('custodian.disposal') || current_setting('custodian.max_disposal_fraction')")
            .is_ok_and(|mode| mode == "on1")
    });
    for (customer, level) in (2..).zip(LEVELS) {
        node.exec(&format!(
            "DELETE FROM custodian.watermark; -- as before the first sweep
             UPDATE shop.customer SET email = 'x' WHERE email IS NULL AND (id = 1 OR id >= {customer});
             INSERT INTO shop.ticket SELECT n, n, 'help', '2020-01-01' FROM generate_series(1, 9) n ON CONFLICT DO NOTHING"
        ))?;
        // A trigger of the owner's holds the batch up.
        node.exec(
            "SET ROLE shop;
             CREATE OR REPLACE FUNCTION shop.slow() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN IF OLD.id = 1 THEN PERFORM pg_advisory_xact_lock_shared(1); END IF; RETURN NEW; END';
             CREATE OR REPLACE TRIGGER slow BEFORE UPDATE ON shop.customer FOR EACH ROW EXECUTE FUNCTION shop.slow()",
        )?;
        let gate = Session::new(&node)?;
        gate.run("SELECT pg_advisory_lock(1)")?;
        let worker = Session::new(&node)?;
        worker.begin("SELECT * FROM custodian.sweep_now('shop.customer')");
        worker.wait_blocked(&node);
        let steward = Session::new(&node)?;
        steward.begin(&format!(
            "BEGIN ISOLATION LEVEL {level}; {}; COMMIT",
            place(customer, MATTER)
        ));
        steward.wait_blocked(&node);
        gate.run("SELECT pg_advisory_unlock(1)")?;
        worker.end()?;
        steward.end()?;
        // What the batch had done by then is done; from the return of the call on nothing more goes.
        node.exec("ALTER TABLE shop.customer DISABLE TRIGGER slow")?;
        let held = format!(
            "SELECT c.email, count(t.id) FROM shop.customer c LEFT JOIN shop.ticket t ON t.customer_id = c.id
             WHERE c.id = {customer} GROUP BY 1"
        );
        let at_return = node.text(&held)?;
        assert!(at_return.ends_with("|1"), "{at_return}");
        node.exec("SELECT * FROM custodian.sweep_now('shop.customer'); SELECT * FROM custodian.sweep_now('shop.ticket')")?;
        assert_eq!(node.text(&held)?, at_return);
        assert_eq!(
            node.text("SELECT count(*) FROM shop.ticket WHERE customer_id > 4")?,
            "0",
            "what is not held goes"
        );
        node.exec("ALTER TABLE shop.customer ENABLE TRIGGER slow")?;
    }
    Ok(())
}

#[test]
fn a_minimum_that_is_required_while_others_delete_is_in_force_when_the_call_returns() -> Result<()>
{
    let node = shop()?;
    let minimum = "SELECT custodian.require_minimum('cn.tax', 'shop.ticket', ARRAY['body'], '90 years', 'case 42 of the tax code')";
    let gate = Session::new(&node)?;
    for level in LEVELS {
        gate.run("SELECT pg_advisory_lock(1)")?;
        let writer = Session::new(&node)?;
        writer.run(&format!(
            "BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM shop.ticket"
        ))?;
        writer.begin(STATEMENTS[0]);
        writer.wait_blocked(&node);
        let steward = Session::new(&node)?;
        steward.begin(minimum);
        let guarded = node.text(
            "SELECT count(*) > 0 FROM pg_trigger WHERE tgfoid = 'custodian.row_guard'::regproc",
        )?;
        if guarded == "f" {
            // The first time it waits for the writer.
            steward.wait_blocked(&node);
            gate.run("SELECT pg_advisory_unlock(1)")?;
            writer.end()?;
            writer.run("ROLLBACK")?;
            steward.end()?;
        } else {
            steward.end()?;
            gate.run("SELECT pg_advisory_unlock(1)")?;
            kept(writer.end(), level);
            writer.run("ROLLBACK")?;
        }
        kept(
            node.client()?.text("DELETE FROM shop.ticket WHERE id = 2"),
            level,
        );
    }
    Ok(())
}
