//! Where the worker and a user wait for each other, the worker is the one that gives way.

use std::thread;

use integration::{Cluster, Error, Result, wait_for_answer};

const TABLES: &str = "
    CREATE EXTENSION pg_custodian;
    CREATE TABLE parent (id int PRIMARY KEY, body text, at timestamptz);
    CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent, body text, at timestamptz);
    INSERT INTO parent VALUES (1, 'x', '2000-01-01'), (2, 'x', '2000-01-01');
    INSERT INTO child VALUES (1, 2, 'x', now());
    SELECT custodian.define_purpose('test.item', 'contract', '50 days');
    SELECT custodian.tag_table(t, clock => 'at', on_expiry => 'delete'), custodian.tag_column(t, 'body', 'user.behavior', '{test.item}')
    FROM unnest('{parent,child}'::regclass[]) t";

/// Has the session, which has locked `child`, wait until somebody with a lock on `parent` waits for that, and then for as
/// long as a worker that waited for `deadlock_timeout` would need to find that it is in no circle.
const CLOSE: &str = "
    DO $$ BEGIN
        WHILE NOT EXISTS (SELECT FROM pg_locks w JOIN pg_locks h USING (pid)
                          WHERE w.relation = 'child'::regclass AND NOT w.granted AND h.relation = 'parent'::regclass AND h.granted) LOOP
            PERFORM pg_sleep(0.005);
        END LOOP;
        PERFORM pg_sleep(0.25);
    END $$";

#[test]
fn nobody_is_ended_by_the_server_for_what_the_worker_has_locked() -> Result<()> {
    // The server looks for circles sooner than the worker is willing to wait.
    let node = Cluster::builder("giving-way")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = observe")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("deadlock_timeout = 200ms")
        .start()?;
    node.exec(TABLES)?;
    wait_for_answer(
        &node,
        "SELECT relation_name, state, rows_planned FROM custodian.runs",
        "public.parent|observed|1",
    );

    // The scheduler waits first, in the middle of a count, and the user closes the circle.
    let mut user = node.client()?;
    user.batch_execute("SET statement_timeout = '120s'; BEGIN; LOCK TABLE child")?;
    user.batch_execute(CLOSE)?;
    user.batch_execute("DROP TABLE child, parent; ROLLBACK")?;

    // The user waits first, for longer than a moment, and the worker closes the circle in the middle of a batch: a trigger
    // of the table asks for the other one, a second after the user began to wait. A worker that waited for as long as it
    // ever does, half a second, would have the server look for the user's circle.
    node.alter_system("deadlock_timeout", "1480ms")?;
    node.exec(
        "CREATE TABLE other (id int);
         CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             FOR n IN 1..12000 LOOP
                 EXIT WHEN EXISTS (SELECT FROM pg_catalog.pg_locks WHERE relation = 'public.parent'::regclass AND NOT granted);
                 PERFORM pg_sleep(0.01);
             END LOOP;
             PERFORM pg_sleep(1);
             PERFORM FROM public.other;
             RETURN old;
         END $$;
         CREATE TRIGGER slow BEFORE DELETE ON parent FOR EACH ROW EXECUTE FUNCTION slow()",
    )?;
    user.batch_execute("BEGIN; LOCK TABLE other")?;
    node.alter_system("custodian.disposal", "on")?;
    // On a machine that is busy for a third of a second the user's look may come first, though hardly each time.
    for left in (0..3).rev() {
        wait_for_answer(
            &node,
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'pg_custodian sweep' AND wait_event = 'PgSleep'",
            "t",
        );
        let waiting = thread::spawn(move || {
            let ended = user.batch_execute("LOCK TABLE parent; COMMIT");
            (user, ended.map_err(Error::from))
        });
        let (back, ended) = waiting.join().expect("the session's thread ended");
        let Err(error) = ended else {
            break;
        };
        assert!(left > 0 && error.sqlstate() == "40P01", "{error}");
        user = back;
        user.batch_execute("ROLLBACK")?;
        wait_for_answer(&node, "SELECT string_agg(id::text, ',') FROM parent", "2");
        user.batch_execute("BEGIN; LOCK TABLE other")?;
        node.exec("INSERT INTO parent VALUES (1, 'x', '2000-01-01')")?;
    }
    // The sweep goes on once nobody is in its way.
    node.exec("DROP TRIGGER slow ON parent")?;
    wait_for_answer(&node, "SELECT string_agg(id::text, ',') FROM parent", "2");
    Ok(())
}
