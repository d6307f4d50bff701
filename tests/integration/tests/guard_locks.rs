//! The region guard: which locks it waits for. None that the statement would not wait for by itself, nor in another order.

use integration::{Cluster, Result, Sql, wait_until};

/// A node that knows the role `postgres` on its socket, and no other; with a partitioned table whose columns are cleared, so
/// that what `away` does passes in every mode.
fn node() -> Result<Cluster> {
    let node = Cluster::builder("locks")
        .preload("pg_custodian")
        .conf("custodian.region = 'cn'")
        .file("custodian_regions.conf", "region cn\nlocal postgres\n")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian; CREATE ROLE away LOGIN SUPERUSER")?;
    node.exec(
        "CREATE TABLE parts (id int NOT NULL) PARTITION BY LIST (id);
         CREATE TABLE part1 PARTITION OF parts FOR VALUES IN (1);
         CREATE TABLE part2 PARTITION OF parts FOR VALUES IN (2);
         CREATE TABLE part3 (id int NOT NULL);
         SELECT custodian.clear_column(t, 'id') FROM unnest('{parts,part3}'::regclass[]) t",
    )?;
    Ok(node)
}

/// Runs a statement from outside, in a session that knows nothing yet; one that waits for a lock fails.
fn passes(node: &Cluster, statement: &str) -> Result<()> {
    let mut away = node.client_as("away", "postgres")?;
    away.batch_execute("SET lock_timeout = '5s'")?;
    away.batch_execute(&format!("BEGIN; {statement}; ROLLBACK"))
        .unwrap_or_else(|error| panic!("{statement}: {error}"));
    Ok(())
}

#[test]
fn nothing_waits_for_a_relative_of_its_table() -> Result<()> {
    let node = node()?;
    let mut other = node.client()?;
    for mode in ["warn", "on"] {
        node.alter_system("custodian.enforce", mode)?;
        for (locked, statements) in [
            (
                "part1",
                &[
                    "ALTER TABLE ONLY parts ADD CONSTRAINT parts_pkey PRIMARY KEY (id)",
                    "CREATE INDEX ON ONLY parts (id)",
                    "ALTER TABLE ONLY parts ATTACH PARTITION part3 FOR VALUES IN (3)",
                    "CREATE TABLE part4 PARTITION OF parts FOR VALUES IN (4)",
                    "ALTER TABLE part2 ADD PRIMARY KEY (id)",
                    "SELECT id FROM parts WHERE id = 2",
                    "SELECT id FROM ONLY parts",
                    "INSERT INTO parts VALUES (2)",
                ][..],
            ),
            (
                "parts",
                &[
                    "ALTER TABLE part1 ADD PRIMARY KEY (id)",
                    "ALTER TABLE part1 ALTER id SET NOT NULL",
                    "CREATE INDEX ON part1 (id)",
                    "SELECT id FROM part1",
                    "CREATE TABLE IF NOT EXISTS part1 PARTITION OF parts FOR VALUES IN (1)",
                ],
            ),
        ] {
            other.batch_execute(&format!("BEGIN; LOCK TABLE ONLY {locked}"))?;
            for statement in statements {
                passes(&node, statement)?;
            }
            other.batch_execute("ROLLBACK")?;
        }
    }
    Ok(())
}

/// While another session holds `mode` on `table`, `role` runs a statement, which waits for it. Locks of that session that are
/// `too_early` then would make a deadlock.
fn waits_first(
    node: &Cluster,
    (table, mode): (&str, &str),
    (role, statement): (&str, &str),
    too_early: &str,
) -> Result<()> {
    let mut other = node.client()?;
    other.batch_execute(&format!("BEGIN; LOCK TABLE ONLY {table} IN {mode} MODE"))?;
    let waiting = node
        .program("psql")?
        .role(role)
        .args(["-X", "-v", "ON_ERROR_STOP=1"])
        .stdin(statement)
        .start()?;
    let waiter =
        format!("SELECT pid FROM pg_locks WHERE relation = '{table}'::regclass AND NOT granted");
    wait_until("the statement waits", 60, || {
        other
            .text(&format!("SELECT ({waiter}) IS NOT NULL"))
            .is_ok_and(|waits| waits == "t")
    });
    let held =
        format!("SELECT count(*) FROM pg_locks WHERE granted AND pid = ({waiter}) AND {too_early}");
    assert_eq!(other.text(&held)?, "0", "{statement}");
    other.batch_execute("COMMIT")?;
    waiting.wait(60)?.ok()?;
    Ok(())
}

#[test]
fn what_is_looked_at_is_locked_as_the_server_locks_it_a_moment_later() -> Result<()> {
    let node = node()?;
    node.exec(
        "CREATE TABLE rest PARTITION OF parts DEFAULT; CREATE TABLE part5 (id int NOT NULL);
         SELECT custodian.clear_column('part5', 'id')",
    )?;
    node.alter_system("custodian.enforce", "on")?;
    // A weaker lock that is raised is a deadlock with who does the same.
    waits_first(
        &node,
        ("parts", "ACCESS SHARE"),
        (
            "away",
            "CREATE TABLE part4 PARTITION OF parts FOR VALUES IN (4)",
        ),
        "relation = 'parts'::regclass AND mode = 'ShareUpdateExclusiveLock'",
    )?;
    // And so are two locks in another order.
    waits_first(
        &node,
        ("parts", "SHARE UPDATE EXCLUSIVE"),
        (
            "away",
            "ALTER TABLE parts ATTACH PARTITION part5 FOR VALUES IN (5)",
        ),
        "relation = 'part5'::regclass AND mode = 'AccessExclusiveLock'",
    )
}

#[test]
fn rows_that_may_be_kept_are_looked_at_under_locks_in_the_order_of_the_server() -> Result<()> {
    let node = node()?;
    node.exec(
        "CREATE ROLE counsel SUPERUSER;
         SELECT custodian.place_hold('m', 'counsel', current_date + 30, 'r', rel => 'parts', match => '{\"id\":[\"7\"]}')",
    )?;
    // A partition after its parent.
    for statement in [
        "ALTER TABLE parts DETACH PARTITION part1",
        "DROP TABLE part2",
    ] {
        let partition = &statement[statement.len() - 5..];
        waits_first(
            &node,
            ("parts", "ACCESS SHARE"),
            ("postgres", statement),
            &format!("relation = '{partition}'::regclass"),
        )?;
    }
    // Who reads first can raise the lock only while nobody else has read.
    waits_first(
        &node,
        ("part3", "ACCESS SHARE"),
        (
            "postgres",
            "SELECT custodian.place_hold('n', 'counsel', current_date + 30, 'r', rel => 'part3', match => '{\"id\":[\"7\"]}');
             ALTER TABLE part3 DROP COLUMN id",
        ),
        "relation = 'part3'::regclass AND mode = 'AccessShareLock'",
    )
}

#[test]
fn what_may_not_write_is_refused_by_the_server_before_it_waits() -> Result<()> {
    let node = node()?;
    node.exec(
        "CREATE ROLE counsel SUPERUSER; CREATE TABLE rest PARTITION OF parts DEFAULT;
         SELECT custodian.place_hold('m', 'counsel', current_date + 30, 'r', rel => 'parts')",
    )?;
    node.alter_system("custodian.enforce", "on")?;
    let mut other = node.client()?;
    other.batch_execute("BEGIN; LOCK TABLE parts IN ACCESS SHARE MODE")?;
    for role in ["postgres", "away"] {
        let mut reader = node.client_as(role, "postgres")?;
        reader.batch_execute("SET lock_timeout = '5s'; SET default_transaction_read_only = on")?;
        for statement in [
            "ALTER TABLE parts DROP COLUMN id",
            "ALTER TABLE parts DETACH PARTITION part1",
            "ALTER TABLE parts ADD CHECK (id > 0)",
            "DROP TABLE part1",
            "CREATE TABLE part4 PARTITION OF parts FOR VALUES IN (4)",
            "CREATE INDEX ON parts (id)",
        ] {
            let error = reader.refused(statement);
            assert_eq!(error.sqlstate(), "25006", "{role}: {statement}: {error}");
        }
    }
    Ok(())
}
