//! What makes rows due again that sweeps have passed: each goes in one of the next rounds, long before the audit
//! pass that looks at everything.

use integration::{Cluster, Result, Sql, wait_for_answer};

fn cluster(name: &str) -> Result<Cluster> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 1")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    Ok(node)
}

/// Visits of 1, 2, 3, … days ago, whose address goes after 100 days while the rows stay.
const VISIT: &str = "
    CREATE TABLE visit (id bigint PRIMARY KEY, ip text, at timestamptz NOT NULL, customer text);
    CREATE INDEX ON visit (at);
    INSERT INTO visit SELECT n, 'ip ' || n, now() - (n - 0.5) * interval '1 day', 'c' || n % 10 FROM generate_series(1, 200) n;
    SELECT custodian.define_purpose('shop.visit', 'contract', '100 days');
    SELECT custodian.tag_table('visit', clock => 'at', subject_kind => 'customer', subject_key => '{customer}');
    SELECT custodian.tag_column('visit', 'ip', 'user.device.ip_address', '{shop.visit}', on_expiry => 'set_null')";

const KEPT: &str = "SELECT count(ip) FROM visit";

/// Waits until the leaf was swept up to a moment after now, with its triggers in place.
fn passed(node: &Cluster, leaf: &str) {
    wait_for_answer(
        node,
        &format!(
            "SELECT count(*) FROM custodian.watermarks
             WHERE leaf = '{leaf}'::regclass AND watched AND swept_until > now() - interval '1 hour'"
        ),
        "1",
    );
}

#[test]
fn rows_written_behind_the_watermark_go_in_the_next_round() -> Result<()> {
    let node = cluster("late")?;
    node.exec(VISIT)?;
    wait_for_answer(&node, KEPT, "100");
    passed(&node, "visit");
    let audited = node.text("SELECT audited_at FROM custodian.watermarks")?;

    node.exec("INSERT INTO visit SELECT n, 'late', now() - interval '3 years', 'c' FROM generate_series(1001, 1003) n")?;
    wait_for_answer(&node, KEPT, "100");
    // What is new enough is nothing special.
    node.exec("INSERT INTO visit VALUES (2001, 'new', now(), 'c')")?;
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.reopening WHERE cause = 'late-row'")?,
        "0"
    );
    // An older clock, and a value that comes back into an old row.
    passed(&node, "visit");
    node.exec("UPDATE visit SET at = now() - interval '2 years' WHERE id IN (1, 2)")?;
    wait_for_answer(&node, KEPT, "99");
    passed(&node, "visit");
    node.exec("UPDATE visit SET ip = 'again' WHERE id = 150")?;
    wait_for_answer(&node, "SELECT ip IS NULL FROM visit WHERE id = 150", "t");
    passed(&node, "visit");
    // In a subtransaction, while triggers of users do not fire.
    node.exec(
        "SET session_replication_role = replica;
         DO $$ BEGIN
             BEGIN INSERT INTO visit VALUES (3001, 'x', now() - interval '3 years', 'c'); RAISE 'no'; EXCEPTION WHEN raise_exception THEN NULL; END;
             INSERT INTO visit VALUES (3002, 'x', now() - interval '3 years', 'c');
         END $$",
    )?;
    wait_for_answer(&node, "SELECT ip IS NULL FROM visit WHERE id = 3002", "t");
    passed(&node, "visit");
    node.client()?
        .batch_execute("COPY visit FROM PROGRAM 'echo 4001,x,2001-01-01,c' WITH (FORMAT csv)")?;
    wait_for_answer(&node, "SELECT ip IS NULL FROM visit WHERE id = 4001", "t");
    // None of that was the audit pass.
    assert_eq!(
        node.text("SELECT audited_at FROM custodian.watermarks")?,
        audited
    );
    Ok(())
}

#[test]
fn the_triggers_are_in_nobodys_way() -> Result<()> {
    let node = cluster("way")?;
    node.exec("CREATE ROLE app; CREATE ROLE mallory")?;
    node.exec(VISIT)?;
    node.exec(
        "CREATE TABLE event (id bigint, \"Body \"\"x\" text, note text, day date) PARTITION BY LIST (id);
         CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1);
         CREATE TABLE event_2 (day date, note text, id bigint, \"Body \"\"x\" text);
         ALTER TABLE event ATTACH PARTITION event_2 FOR VALUES IN (2);
         ALTER TABLE event OWNER TO app; ALTER TABLE event_1 OWNER TO app; ALTER TABLE event_2 OWNER TO app;
         SELECT custodian.tag_table('event', clock => 'day');
         SELECT custodian.tag_column('event', 'Body \"x', 'user.behavior', '{shop.visit}', on_expiry => 'set_null');
         SELECT custodian.tag_column('event', 'note', 'user.behavior', '{shop.visit}', on_expiry => 'hmac')",
    )?;
    for leaf in ["visit", "event_1", "event_2"] {
        passed(&node, leaf);
    }
    node.exec(
        "SET ROLE app;
         INSERT INTO event SELECT n, 'b', 'n', '2001-01-01' FROM generate_series(1, 2) n",
    )?;
    wait_for_answer(
        &node,
        "SELECT count(*) FROM event WHERE \"Body \"\"x\" IS NULL AND note <> 'n'",
        "2",
    );
    // Nobody but the extension can use their function.
    let mut client = node.client()?;
    client
        .text("CREATE TABLE mine (id int); ALTER TABLE mine OWNER TO mallory; SET ROLE mallory")?;
    assert_eq!(
        client
            .refused("CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION custodian.late_row()")
            .sqlstate(),
        "42501"
    );
    // A stranger who tries to change a column takes no trigger off.
    assert_eq!(
        client
            .refused("ALTER TABLE event ALTER day TYPE timestamp")
            .sqlstate(),
        "42501"
    );
    client.text("RESET ROLE")?;
    passed(&node, "event_1");
    // The owner changes and drops watched columns as if they were not there.
    client.text(
        "SET ROLE app; ALTER TABLE event ALTER day TYPE timestamp USING day - interval '1 day'",
    )?;
    client.text("ALTER TABLE event DROP COLUMN note; RESET ROLE")?;
    client.text("ALTER TABLE visit RENAME at TO seen; ALTER TABLE visit RENAME seen TO at")?;
    passed(&node, "event_2");
    client.text(
        "SELECT custodian.untag_column('visit', 'ip'); SELECT custodian.untag_table('visit')",
    )?;
    wait_for_answer(
        &node,
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'visit'::regclass",
        "0",
    );
    client.text("DROP EXTENSION pg_custodian")?;
    assert_eq!(
        client.text("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'Custodian%'")?,
        "0"
    );
    Ok(())
}

#[test]
fn rows_that_logical_replication_brings_go_in_the_next_round() -> Result<()> {
    let publisher = Cluster::builder("publisher").start()?;
    let node = cluster("subscriber")?;
    publisher.exec(
        "CREATE TABLE visit (id bigint PRIMARY KEY, ip text, at timestamptz NOT NULL, customer text);
         CREATE PUBLICATION visits FOR TABLE visit",
    )?;
    node.exec(VISIT)?;
    node.client()?.batch_execute(&format!(
        "CREATE SUBSCRIPTION visits CONNECTION 'host={} port={} user=postgres dbname=postgres' PUBLICATION visits",
        publisher.socket_dir().display(),
        publisher.port()
    ))?;
    passed(&node, "visit");
    wait_for_answer(
        &node,
        "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel",
        "t",
    );
    publisher.exec("INSERT INTO visit VALUES (5001, 'x', '2001-01-01', 'c')")?;
    wait_for_answer(&node, "SELECT ip IS NULL FROM visit WHERE id = 5001", "t");
    node.exec("ALTER SUBSCRIPTION visits DISABLE")?;
    Ok(())
}

#[test]
fn what_changes_around_passed_rows_reopens_them() -> Result<()> {
    let node = cluster("around")?;
    node.exec("CREATE ROLE counsel")?;
    node.exec(VISIT)?;
    node.exec(
        "SELECT custodian.place_hold('2026-1', approver => 'counsel', review_on => current_date + 30,
             reason => 'court', subject_kind => 'customer', subject_key => '{suspect}');
         INSERT INTO visit SELECT n, 'held', '2001-01-01', 'suspect' FROM generate_series(301, 310) n",
    )?;
    wait_for_answer(&node, KEPT, "110");
    passed(&node, "visit");
    node.exec("SELECT custodian.release_hold(hold, 'counsel', 'closed') FROM custodian.holds")?;
    wait_for_answer(&node, KEPT, "100");

    passed(&node, "visit");
    node.exec("SELECT custodian.define_purpose('shop.visit', 'contract', '90 days')")?;
    wait_for_answer(&node, KEPT, "90");

    // A partition that comes with old rows, and leaves and comes back with more of them.
    node.exec(
        "CREATE TABLE log (id bigint, ip text, at timestamptz) PARTITION BY LIST (id);
         CREATE TABLE log_1 PARTITION OF log FOR VALUES IN (1);
         SELECT custodian.tag_table('log', clock => 'at');
         SELECT custodian.tag_column('log', 'ip', 'user.device.ip_address', '{shop.visit}', on_expiry => 'set_null');
         INSERT INTO log VALUES (1, 'x', now())",
    )?;
    passed(&node, "log_1");
    node.exec(
        "CREATE TABLE log_2 AS SELECT 2::bigint AS id, 'x' AS ip, '2001-01-01'::timestamptz AS at;
         ALTER TABLE log ATTACH PARTITION log_2 FOR VALUES IN (2)",
    )?;
    wait_for_answer(&node, "SELECT count(ip) FROM log", "1");
    passed(&node, "log_2");
    node.exec(
        "ALTER TABLE log DETACH PARTITION log_2;
         INSERT INTO log_2 VALUES (2, 'y', '2001-01-01');
         ALTER TABLE log ATTACH PARTITION log_2 FOR VALUES IN (2)",
    )?;
    wait_for_answer(&node, "SELECT count(ip) FROM log", "1");

    node.exec("SELECT custodian.end_purpose('shop.visit')")?;
    wait_for_answer(&node, KEPT, "0");
    Ok(())
}

#[test]
fn parents_and_dependents_that_change_reopen_the_rows_they_decide() -> Result<()> {
    let node = cluster("parents")?;
    node.exec(
        "SELECT custodian.define_purpose('shop.account', 'contract', '100 days');
         CREATE TABLE customer (id bigint PRIMARY KEY, email text, seen timestamptz NOT NULL);
         CREATE TABLE address (customer bigint REFERENCES customer, line text);
         CREATE TABLE note (customer bigint REFERENCES customer);
         INSERT INTO customer SELECT n, 'e', now() - CASE WHEN n = 1 THEN 1 ELSE 400 END * interval '1 day'
         FROM generate_series(1, 2) n;
         INSERT INTO address VALUES (1, 'street'); INSERT INTO note VALUES (2);
         SELECT custodian.tag_table('customer', clock => 'seen', subject_kind => 'customer', subject_key => '{id}', on_expiry => 'delete');
         SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.account}', on_expiry => 'set_null');
         SELECT custodian.tag_table('address', clock => 'address_customer_fkey.seen', subject_kind => 'customer', subject_via => '{customer}');
         SELECT custodian.tag_column('address', 'line', 'user.contact', '{shop.account}', on_expiry => 'set_null')",
    )?;
    // What refers to an old row keeps it as a shell.
    wait_for_answer(
        &node,
        "SELECT id, email IS NULL FROM customer ORDER BY id",
        "1|f\n2|t",
    );
    passed(&node, "customer");
    node.exec("DELETE FROM note")?;
    wait_for_answer(&node, "SELECT id FROM customer", "1");
    assert_eq!(node.text("SELECT line FROM address")?, "street");
    node.exec("UPDATE customer SET seen = now() - interval '400 days'")?;
    wait_for_answer(&node, "SELECT line IS NULL FROM address", "t");

    // A minimum that outlasts the purpose, and lapses.
    node.exec(
        "CREATE TABLE invoice (id bigint, name text, at timestamptz);
         SELECT custodian.tag_table('invoice', clock => 'at');
         SELECT custodian.tag_column('invoice', 'name', 'user.name', '{shop.account}', on_expiry => 'set_null');
         SELECT custodian.require_minimum('cn.tax', 'invoice', '{name}', '3000 days', 'Law A, article 1');
         INSERT INTO invoice VALUES (1, 'n', now() - interval '2999 days 23 hours 59 minutes 20 seconds')",
    )?;
    passed(&node, "invoice");
    assert_eq!(
        node.text("SELECT name IS NULL, now() - interval '3000 days' < at FROM invoice")?,
        "f|t",
        "what was passed is kept by the minimum still"
    );
    wait_for_answer(&node, "SELECT name IS NULL FROM invoice", "t");
    assert_eq!(
        node.text("SELECT now() - interval '3000 days' > at FROM invoice")?,
        "t",
        "not before it lapsed"
    );

    // A maximum passes while the purpose goes on.
    node.exec(
        "CREATE TABLE traffic (id bigint, ip text, at timestamptz);
         SELECT custodian.define_purpose('shop.traffic', 'contract', '9000 days');
         SELECT custodian.tag_table('traffic', clock => 'at');
         SELECT custodian.tag_column('traffic', 'ip', 'user.device.ip_address', '{shop.traffic}', on_expiry => 'set_null');
         SELECT custodian.require_maximum('de.traffic', 'traffic', '{ip}', '100 days', 'Law T, article 9');
         INSERT INTO traffic VALUES (1, 'ip', now() - interval '99 days 23 hours 59 minutes 20 seconds'), (2, 'ip', now()), (3, 'ip', now() - interval '101 days')",
    )?;
    wait_for_answer(&node, "SELECT count(ip) FROM traffic WHERE id = 3", "0");
    passed(&node, "traffic");
    assert_eq!(
        node.text(
            "SELECT count(ip), bool_or(now() - interval '100 days' < at) FROM traffic WHERE id = 1"
        )?,
        "1|t",
        "the sweep came before the maximum"
    );
    let audited =
        node.text("SELECT audited_at FROM custodian.watermarks WHERE leaf = 'traffic'::regclass")?;
    wait_for_answer(
        &node,
        "SELECT string_agg(id::text, ' ') FROM traffic WHERE ip IS NOT NULL",
        "2",
    );
    assert_eq!(
        node.text("SELECT audited_at FROM custodian.watermarks WHERE leaf = 'traffic'::regclass")?,
        audited,
        "that was not the audit pass"
    );
    Ok(())
}
