//! Rows that others refer to and keep: a round does not look at them, and each goes in one of the next rounds after what
//! referred to it is gone. The audit pass, which looks at everything, is a year away.

use std::thread;

use integration::{Cluster, Result, wait_for_answer, wait_until_swept};

fn cluster(name: &str) -> Result<Cluster> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.audit_interval = '365d'")
        .conf("autovacuum = off")
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian; CREATE ROLE counsel;
         SELECT custodian.define_purpose('shop.account', 'contract', '100 days');
         SELECT custodian.define_purpose('shop.order', 'contract', '3000 days')",
    )?;
    Ok(node)
}

fn wait_for(node: &Cluster, query: &str, value: &str) {
    wait_for_answer(node, &format!("SET enable_seqscan = off; {query}"), value);
}

/// Which of these customers are there.
fn left(ids: &str) -> String {
    format!("SELECT string_agg(id::text, ' ' ORDER BY id) FROM customer WHERE id IN ({ids})")
}

/// Customers whose time is over, each kept by an order, on more blocks than the fuse counts.
const SHELLS: &str = "
    CREATE TABLE customer (id bigint PRIMARY KEY, seen timestamptz NOT NULL, name text, padding text);
    CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint REFERENCES customer, at timestamptz NOT NULL, bill text);
    INSERT INTO customer SELECT n, now() - interval '200 days' - n * interval '1 hour', NULL, repeat('x', 1800)
    FROM generate_series(1, 20000) n;
    INSERT INTO customer SELECT n, now(), 'name', repeat('x', 1800) FROM generate_series(20001, 22000) n;
    INSERT INTO orders SELECT n, n, now(), 'bill' FROM generate_series(1, 22000) n;
    CREATE INDEX ON customer (seen); CREATE INDEX ON orders (customer); CREATE INDEX ON orders (at);
    SELECT custodian.tag_table('customer', clock => 'seen', subject_kind => 'customer', subject_key => '{id}', on_expiry => 'delete');
    SELECT custodian.tag_column('customer', 'name', 'user.name', '{shop.account}', on_expiry => 'set_null');
    SELECT custodian.tag_table('orders', clock => 'at', subject_kind => 'customer', subject_via => '{customer}', on_expiry => 'delete');
    SELECT custodian.tag_column('orders', 'bill', 'user.financial', '{shop.order}');
    ANALYZE";

#[test]
fn a_round_looks_at_no_row_that_others_keep_but_at_those_that_came_free() -> Result<()> {
    let node = cluster("shells")?;
    // What it reads is counted when it leaves.
    node.client()?.batch_execute(SHELLS)?;
    wait_until_swept(&node, "customer");
    let audited = "SELECT audited_at FROM custodian.watermarks WHERE leaf = 'customer'::regclass";
    let before = node.text(audited)?;
    let generation = "SELECT generation FROM custodian.watermark WHERE leaf = 'customer'::regclass";
    let lowered = node.text(generation)?;
    node.exec("SELECT pg_sleep(2.5)")?;
    // The keys' own checks of the orders that were inserted are counted as well.
    let seqs = "SELECT seq_scan FROM pg_stat_user_tables WHERE relid = 'customer'::regclass";
    let fetched =
        "SELECT idx_tup_fetch FROM pg_stat_user_tables WHERE relid = 'customer'::regclass";
    let (read, looked_at) = (node.text(seqs)?, node.text(fetched)?);
    let fetched_since = || -> Result<i64> {
        Ok(node
            .text(&format!("SELECT ({fetched}) - {looked_at}"))?
            .parse()
            .expect("a number"))
    };

    // Polls read no customer themselves.
    let gone = |customers: i32| {
        wait_for(
            &node,
            "SELECT coalesce(sum(rows_done), 0) FROM custodian.runs WHERE relation = 'customer'::regclass",
            &customers.to_string(),
        );
    };
    node.exec("DELETE FROM orders WHERE id = 100")?;
    gone(1);
    wait_until_swept(&node, "customer");
    // By a sweep of what refers to it.
    node.exec("UPDATE orders SET at = '2001-01-01' WHERE id = 200")?;
    gone(2);
    wait_until_swept(&node, "customer");
    // It refers to another one, or to none.
    node.exec("UPDATE orders SET customer = 1 WHERE id = 300; UPDATE orders SET customer = NULL WHERE id = 400")?;
    gone(4);
    // One of two.
    node.exec("INSERT INTO orders VALUES (30001, 500, now()), (30002, 500, now()); DELETE FROM orders WHERE id = 500")?;
    wait_until_swept(&node, "customer");
    assert_eq!(node.text(&left("500"))?, "500");
    // As logical replication applies it, in a subtransaction.
    node.exec(
        "SET session_replication_role = replica;
         DO $$ BEGIN
             BEGIN DELETE FROM orders WHERE id = 600; RAISE 'no'; EXCEPTION WHEN raise_exception THEN NULL; END;
             DELETE FROM orders WHERE id IN (601, 30001, 30002);
         END $$",
    )?;
    gone(6);
    // By two transactions, of which each sees what the other deletes; one of them is prepared long after.
    node.exec("INSERT INTO orders VALUES (30003, 700, now())")?;
    let mut open = node.client()?;
    open.batch_execute("BEGIN; DELETE FROM orders WHERE id = 700")?;
    node.exec("DELETE FROM orders WHERE id = 30003; SELECT pg_sleep(2.5)")?;
    open.batch_execute("COMMIT")?;
    gone(7);
    wait_until_swept(&node, "customer");
    node.exec("SELECT pg_sleep(2.5)")?;
    let few = fetched_since()?;
    assert!(
        few < 2_000,
        "{few} rows of 22,000 were looked at for a dozen"
    );
    let ids = "100, 101, 200, 201, 300, 301, 400, 401, 500, 600, 601, 700, 701";
    assert_eq!(
        node.text(&format!("SET enable_seqscan = off; {}", left(ids)))?,
        "101 201 301 401 600 701"
    );
    // Many at once, all over the years.
    node.exec("DELETE FROM orders WHERE id % 100 = 50 AND id <= 22000")?;
    gone(207);
    wait_until_swept(&node, "customer");

    assert_eq!(
        node.text(audited)?,
        before,
        "none of that was the audit pass"
    );
    node.exec("SELECT pg_sleep(2.5)")?;
    let more = fetched_since()?;
    assert!(
        more < 11_000,
        "{more} rows were looked at for 200 of 22,000"
    );
    assert_eq!(node.text(seqs)?, read, "no round read the table as a whole");
    assert_eq!(
        node.text(generation)?,
        lowered,
        "what was noted stopped no pass from raising the watermark"
    );
    // A customer whose time is not over is not noted.
    let noted = |id: i32| {
        node.text(&format!(
            "BEGIN; DELETE FROM orders WHERE id = {id}; SELECT count(*) FROM custodian.reopening"
        ))
    };
    assert_eq!(noted(21_000)?, "0");
    assert_eq!(noted(2)?, "1");
    // A pass over all of a large table that finds a few rows goes to where they lie, looks once more, and sets the watermark
    // itself: while rows keep coming free, no count finds nothing.
    node.exec(
        "BEGIN; UPDATE custodian.watermark SET audited_at = '-infinity' WHERE leaf = 'customer'::regclass;
         DELETE FROM orders WHERE id = 800; COMMIT",
    )?;
    gone(208);
    assert_eq!(
        node.text(
            "SELECT regexp_replace(i.way, '\\d+', 'N', 'g') FROM custodian.run_items i
             JOIN custodian.runs r USING (run_id) WHERE r.relation = 'customer'::regclass ORDER BY run_id DESC LIMIT 1"
        )?,
        "Listed Block Ranges on public.customer  (blocks=N of N, ranges=N)\n  Reason: few rows are due in N of N blocks"
    );
    Ok(())
}

#[test]
fn what_leaves_without_a_trigger_for_each_row_has_the_table_looked_at() -> Result<()> {
    let node = cluster("referring")?;
    node.exec(
        "CREATE TABLE customer (id int PRIMARY KEY, seen date, name text);
         CREATE TABLE visit (customer int REFERENCES customer, at date NOT NULL) PARTITION BY RANGE (at);
         CREATE TABLE visit_1 PARTITION OF visit FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
         CREATE TABLE visit_2 PARTITION OF visit FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
         CREATE TABLE visit_3 PARTITION OF visit FOR VALUES FROM ('2022-01-01') TO ('2023-01-01');
         CREATE TABLE letter (customer int CONSTRAINT letter_key REFERENCES customer);
         INSERT INTO customer SELECT n, '2001-01-01' FROM generate_series(1, 12) n;
         INSERT INTO visit VALUES (1, '2020-02-01'), (2, '2021-02-01'), (3, '2022-02-01'), (4, '2022-03-01'), (5, '2022-04-01');
         INSERT INTO letter SELECT n FROM generate_series(6, 12) n;
         SELECT custodian.tag_table('customer', clock => 'seen', on_expiry => 'delete');
         SELECT custodian.tag_column('customer', 'name', 'user.name', '{shop.account}')",
    )?;
    let all = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM customer";
    let swept = || wait_until_swept(&node, "customer");
    swept();
    let audited = "SELECT audited_at FROM custodian.watermarks WHERE leaf = 'customer'::regclass";
    let looked_at = |before: &str| -> Result<()> {
        assert_ne!(node.text(audited)?, before);
        Ok(())
    };
    let before = node.text(audited)?;
    node.exec("DELETE FROM visit WHERE customer = 4")?;
    wait_for(&node, all, "1 2 3 5 6 7 8 9 10 11 12");
    swept();
    assert_eq!(node.text(audited)?, before);
    node.exec("TRUNCATE visit_1")?;
    wait_for(&node, all, "2 3 5 6 7 8 9 10 11 12");
    swept();
    looked_at(&before)?;
    node.exec("DROP TABLE visit_2")?;
    wait_for(&node, all, "3 5 6 7 8 9 10 11 12");
    swept();
    // A partition that comes is watched, and nothing is read for it.
    let before = node.text(audited)?;
    node.exec(
        "CREATE TABLE visit_4 PARTITION OF visit FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
         INSERT INTO visit VALUES (3, '2024-01-01')",
    )?;
    wait_for(
        &node,
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'visit_4'::regclass AND tgfoid = 'custodian.late_row()'::regprocedure",
        "3",
    );
    node.exec("DELETE FROM visit WHERE customer = 3")?;
    wait_for(&node, all, "5 6 7 8 9 10 11 12");
    swept();
    assert_eq!(node.text(audited)?, before);
    // One that leaves keeps its key, and is dropped later.
    node.exec("ALTER TABLE visit DETACH PARTITION visit_3")?;
    swept();
    node.exec("DROP TABLE visit_3")?;
    wait_for(&node, all, "6 7 8 9 10 11 12");
    swept();
    // Triggers that did not fire for a while.
    node.exec("ALTER TABLE letter DISABLE TRIGGER ALL; DELETE FROM letter WHERE customer = 6")?;
    wait_for(&node, all, "7 8 9 10 11 12");
    swept();
    // A column that a trigger reads changes its type.
    node.exec("BEGIN; ALTER TABLE letter ALTER customer TYPE bigint; DELETE FROM letter WHERE customer = 7; COMMIT")?;
    wait_for(&node, all, "8 9 10 11 12");
    swept();
    // By the purpose's end all go whatever their clocks, also those that wait by then.
    node.exec(
        "UPDATE customer SET seen = CASE id WHEN 8 THEN NULL ELSE now() END WHERE id IN (8, 9)",
    )?;
    node.exec("SELECT custodian.end_purpose('shop.account')")?;
    swept();
    node.exec("SELECT pg_sleep(2.5); DELETE FROM letter WHERE customer IN (8, 9)")?;
    wait_for(&node, all, "10 11 12");
    swept();
    // Nobody who deletes waits for who has locked what the row refers to.
    let mut locks = node.client()?;
    locks.batch_execute("BEGIN; LOCK TABLE customer")?;
    node.exec("SET lock_timeout = '5s'; DELETE FROM letter WHERE customer = 10")?;
    locks.batch_execute("ROLLBACK")?;
    wait_for(&node, all, "11 12");
    swept();
    // What is noted while disposal is off is kept beside the watermarks.
    node.alter_system("custodian.disposal", "off")?;
    node.exec("SELECT pg_sleep(2)")?;
    node.exec("DELETE FROM letter WHERE customer = 11")?;
    wait_for(
        &node,
        "SELECT (SELECT count(*) FROM custodian.reopening),
                (SELECT count(*) FROM custodian.watermark WHERE again <> '{}')",
        "0|1",
    );
    assert_eq!(node.text(all)?, "11 12");
    node.alter_system("custodian.disposal", "on")?;
    wait_for(&node, all, "12");
    // Without the key nothing waits.
    node.exec("ALTER TABLE letter DROP CONSTRAINT letter_key")?;
    wait_for(&node, "SELECT count(*) FROM customer", "0");
    wait_for(
        &node,
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'letter'::regclass AND tgfoid = 'custodian.late_row()'::regprocedure",
        "0",
    );
    // A crash empties an unlogged table.
    node.exec(
        "CREATE UNLOGGED TABLE mark (customer int REFERENCES customer);
         INSERT INTO customer VALUES (13, '2001-01-01'), (14, '2001-01-01'); INSERT INTO mark VALUES (13), (14)",
    )?;
    swept();
    node.exec("DELETE FROM mark WHERE customer = 13")?;
    wait_for(&node, all, "14");
    swept();
    node.crash()?;
    node.start()?;
    wait_for(&node, "SELECT count(*) FROM customer", "0");
    Ok(())
}

#[test]
fn what_goes_along_and_what_waits_for_it_is_watched_over_all_keys() -> Result<()> {
    let node = cluster("along")?;
    node.exec(
        "CREATE TABLE customer (id int PRIMARY KEY, seen timestamp, name text);
         CREATE TABLE session (id int PRIMARY KEY, customer int REFERENCES customer ON DELETE CASCADE);
         CREATE TABLE payment (session int REFERENCES session ON UPDATE SET NULL);
         INSERT INTO customer SELECT n, '2001-01-01' FROM generate_series(1, 6) n;
         INSERT INTO session SELECT n, n FROM generate_series(1, 6) n;
         INSERT INTO payment VALUES (2), (3), (4), (6);
         SELECT custodian.clear_column('session', 'id');
         SELECT custodian.tag_table('customer', clock => 'seen', on_expiry => 'delete');
         SELECT custodian.tag_column('customer', 'name', 'user.name', '{shop.account}');
         SELECT custodian.place_hold('M1', 'counsel', current_date + 30, 'court', rel => 'session', match => '{\"id\":[5]}');
         SELECT custodian.declare_dependents('customer', '{public.session}')",
    )?;
    let all = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM customer";
    wait_for(&node, all, "2 3 4 5 6");
    wait_until_swept(&node, "customer");
    let audited = "SELECT audited_at FROM custodian.watermarks WHERE leaf = 'customer'::regclass";
    let before = node.text(audited)?;
    node.exec("DELETE FROM payment WHERE session = 2")?;
    wait_for(&node, all, "3 4 5 6");
    wait_until_swept(&node, "customer");
    node.exec("UPDATE payment SET session = 4 WHERE session = 3")?;
    wait_for(&node, all, "4 5 6");
    wait_until_swept(&node, "customer");
    // The key of what goes along changes.
    node.exec("UPDATE session SET id = 60 WHERE id = 6")?;
    wait_for(&node, all, "4 5");
    wait_until_swept(&node, "customer");
    assert_eq!(node.text(audited)?, before);
    assert_eq!(node.text("SELECT count(*) FROM session")?, "2");
    node.exec("SELECT custodian.release_hold(hold, 'counsel', 'closed') FROM custodian.holds")?;
    wait_for(&node, all, "4");
    wait_until_swept(&node, "customer");
    node.exec("TRUNCATE payment")?;
    wait_for(&node, "SELECT count(*) FROM customer", "0");
    Ok(())
}

#[test]
fn a_row_comes_free_when_its_own_key_changes_and_when_triggers_of_what_refers_to_it_are_missing()
-> Result<()> {
    let node = cluster("keys")?;
    node.exec(
        "CREATE TABLE customer (id int PRIMARY KEY, seen date, name text);
         CREATE TABLE supplier (id int PRIMARY KEY, seen date, name text) PARTITION BY RANGE (id);
         CREATE TABLE supplier_1 PARTITION OF supplier FOR VALUES FROM (0) TO (6);
         CREATE TABLE supplier_2 PARTITION OF supplier FOR VALUES FROM (6) TO (100);
         CREATE TABLE letter (customer int REFERENCES customer ON UPDATE SET NULL, supplier int REFERENCES supplier);
         CREATE TABLE visit (customer int REFERENCES customer DEFERRABLE INITIALLY DEFERRED);
         INSERT INTO customer SELECT n, '2001-01-01' FROM generate_series(1, 6) n;
         INSERT INTO supplier SELECT n, '2001-01-01' FROM generate_series(4, 7) n;
         INSERT INTO letter VALUES (1, NULL), (4, 4), (5, 5), (6, 6), (NULL, 7); INSERT INTO visit VALUES (2), (3);
         SELECT custodian.tag_table(t, clock => 'seen', on_expiry => 'delete') FROM unnest('{customer,supplier}'::text[]) t;
         SELECT custodian.tag_column(t, 'name', 'user.name', '{shop.account}') FROM unnest('{customer,supplier}'::text[]) t",
    )?;
    let customers = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM customer";
    let suppliers = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM supplier";
    let swept = || {
        for leaf in ["customer", "supplier_1", "supplier_2"] {
            wait_until_swept(&node, leaf);
        }
    };
    swept();
    let audited = "SELECT audited_at FROM custodian.watermarks WHERE leaf = 'customer'::regclass";
    let before = node.text(audited)?;
    // The foreign key's own statement clears the reference.
    node.exec("UPDATE customer SET id = 11 WHERE id = 1")?;
    wait_for(&node, customers, "2 3 4 5 6");
    swept();
    // What refers to it goes before the key is checked.
    node.exec("BEGIN; UPDATE customer SET id = 12 WHERE id = 2; DELETE FROM visit WHERE customer = 2; COMMIT")?;
    wait_for(&node, customers, "3 4 5 6");
    swept();
    // No key is checked.
    node.exec("SET session_replication_role = replica; UPDATE customer SET id = 13 WHERE id = 3")?;
    wait_for(&node, customers, "4 5 6");
    swept();
    assert_eq!(node.text(audited)?, before);
    // Only the partition in which the row lies is looked at.
    assert_eq!(
        node.text(
            "BEGIN; DELETE FROM letter WHERE supplier = 7; SELECT relation::regclass FROM custodian.reopening"
        )?,
        "supplier_2"
    );
    // All tables whose rows waited are looked at again, not only the first one for which the trigger is put back.
    node.exec(
        "DO $$ BEGIN
             EXECUTE (SELECT format('ALTER TABLE letter DISABLE TRIGGER %I', tgname) FROM pg_trigger
                      WHERE tgrelid = 'letter'::regclass AND tgname LIKE 'Custodian_freed_delete%');
             DELETE FROM letter WHERE customer = 4;
         END $$",
    )?;
    wait_for(&node, customers, "5 6");
    wait_for(&node, suppliers, "5 6 7");
    swept();
    // Nobody who deletes waits for who has locked a partition of what the row refers to, after a row that refers to nothing either.
    let mut locks = node.client()?;
    locks.batch_execute("BEGIN; LOCK TABLE supplier_1")?;
    let mut session = node.client()?;
    let delete = thread::spawn(move || {
        session.batch_execute(
            "DO $$ BEGIN
                 DELETE FROM letter WHERE supplier IS NULL;
                 DELETE FROM letter WHERE supplier = 5;
             END $$",
        )
    });
    let waits = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
                 WHERE relation = 'supplier_1'::regclass AND NOT granted AND query LIKE 'DO %DELETE FROM letter%'";
    let ends = integration::wait_for("the row is deleted, or waits", 60, || {
        match delete.is_finished() {
            true => Some(true),
            false => (node.text(waits).ok()? == "1").then_some(false),
        }
    });
    locks.batch_execute("ROLLBACK")?;
    assert!(ends, "it waits");
    delete.join().expect("the session ends")?;
    wait_for(&node, suppliers, "6 7");
    swept();
    // Nor are the partitions looked for with each row.
    assert_eq!(
        node.text(
            "BEGIN; INSERT INTO letter SELECT NULL, 6 FROM generate_series(1, 200); DELETE FROM letter WHERE supplier = 6;
             SELECT pg_stat_get_xact_numscans('pg_inherits_parent_index'::regclass) < 200"
        )?,
        "t"
    );
    node.exec("DELETE FROM letter")?;
    wait_for(
        &node,
        "SELECT (SELECT count(*) FROM customer), (SELECT count(*) FROM supplier)",
        "0|0",
    );
    Ok(())
}
