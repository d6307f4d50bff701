//! What makes rows due again behind a watermark reopens those rows, and no others: the audit pass, which looks at
//! everything, is a year away, and a large table is not read as a whole.

use integration::{Cluster, Result, Sql, wait_for_answer, wait_until_swept};

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
         SELECT custodian.define_purpose('shop.visit', 'contract', '100 days');
         SELECT custodian.define_purpose('shop.account', 'contract', '100 days')",
    )?;
    Ok(node)
}

fn wait_for(node: &Cluster, query: &str, value: &str) {
    wait_for_answer(node, &format!("SET enable_seqscan = off; {query}"), value);
}

/// Visits of the last 28 days, by clocks of their own and of the customer, on more blocks than the fuse counts.
const VISITS: &str = "
    CREATE TABLE customer (id bigint PRIMARY KEY, seen timestamptz NOT NULL);
    CREATE TABLE visit (id bigint PRIMARY KEY, customer bigint REFERENCES customer, ip text, name text, bill text,
                        at timestamptz NOT NULL, paid date, padding text);
    INSERT INTO customer SELECT n, now() FROM generate_series(1, 2000) n;
    INSERT INTO visit SELECT n, n % 2000 + 1, 'ip', 'name', 'bill', now() - n * interval '1 minute', now(), repeat('x', 1000)
    FROM generate_series(1, 40000) n;
    CREATE INDEX ON visit (at); CREATE INDEX ON visit (paid); CREATE INDEX ON visit (customer); CREATE INDEX ON customer (seen);
    SELECT custodian.tag_table('customer', clock => 'seen', subject_kind => 'customer', subject_key => '{id}');
    SELECT custodian.tag_table('visit', clock => 'at', subject_kind => 'customer', subject_via => '{customer}');
    SELECT custodian.tag_column('visit', 'ip', 'user.device.ip_address', '{shop.visit}', on_expiry => 'set_null');
    SELECT custodian.tag_column('visit', 'name', 'user.name', '{shop.account}', on_expiry => 'set_null', clock => 'customer.seen');
    SELECT custodian.tag_column('visit', 'bill', 'user.financial', '{shop.visit}', on_expiry => 'set_null');
    SELECT custodian.require_minimum('cn.tax', 'visit', '{bill}', '3000 days', 'Law A, article 1', clock => 'paid');
    ANALYZE";

#[test]
fn each_event_reopens_its_rows_and_the_table_is_not_read_as_a_whole() -> Result<()> {
    let node = cluster("exact")?;
    node.exec(VISITS)?;
    wait_until_swept(&node, "visit");
    let audited = node.text("SELECT audited_at FROM custodian.watermarks")?;
    node.exec(
        "SELECT pg_sleep(2.5); SELECT pg_stat_reset_single_table_counters('visit'::regclass)",
    )?;
    let named = "SELECT count(*) FILTER (WHERE name IS NULL) FROM visit WHERE customer = 7";

    // The clock of a row that others refer to.
    node.exec("UPDATE customer SET seen = now() - interval '400 days' WHERE id = 7")?;
    wait_for(&node, named, "20");
    wait_until_swept(&node, "visit");
    // A row that comes to refer to it, new or old.
    node.exec(
        "INSERT INTO visit VALUES (50001, 7, 'ip', 'name', 'bill', now(), now());
         UPDATE visit SET customer = 7 WHERE id = 100",
    )?;
    wait_for(&node, named, "22");
    wait_for(
        &node,
        "SELECT count(*) FROM visit WHERE name IS NULL AND id > 0",
        "22",
    );

    // The clock of a purpose, while a minimum by another clock keeps one of the cells; then that.
    let cells = "SELECT ip IS NULL, bill IS NULL FROM visit WHERE id = 200";
    node.exec("UPDATE visit SET at = '2001-01-01' WHERE id = 200")?;
    wait_for(&node, cells, "t|f");
    wait_until_swept(&node, "visit");
    // A user's statement may move its clock back where a steward says so.
    node.exec("SELECT custodian.enforce_minimum('cn.tax', 'warn')")?;
    node.exec("UPDATE visit SET paid = '2001-01-01' WHERE id = 200")?;
    wait_for(&node, cells, "t|t");

    // A hold on a subject, while its rows become due, and without it.
    let held = "SELECT count(*) FILTER (WHERE ip IS NULL) FROM visit WHERE customer = 9";
    node.exec(
        "SELECT custodian.place_hold('M1', 'counsel', current_date + 30, 'court', subject_kind => 'customer', subject_key => '{9}');
         UPDATE visit SET at = '2002-01-01' WHERE customer = 9",
    )?;
    wait_until_swept(&node, "visit");
    wait_for(&node, held, "0");
    node.exec("SELECT custodian.release_hold(hold, 'counsel', 'closed') FROM custodian.holds")?;
    wait_for(&node, held, "20");
    wait_until_swept(&node, "visit");

    // A shorter period: those between the old one and the new one.
    node.exec("SELECT custodian.define_purpose('shop.visit', 'contract', '27 days')")?;
    wait_for(
        &node,
        "SELECT count(*) FILTER (WHERE ip IS NULL) > 1000,
                count(*) FILTER (WHERE ip IS NOT NULL AND at < now() - interval '27 days 1 minute')
         FROM visit WHERE at < now() - interval '20 days'",
        "t|0",
    );
    wait_until_swept(&node, "visit");
    assert_eq!(
        node.text("SELECT audited_at FROM custodian.watermarks")?,
        audited,
        "none of that was the audit pass"
    );
    node.exec("SELECT pg_sleep(2.5)")?;
    assert_eq!(
        node.text(
            "SELECT seq_scan, idx_scan > 0 FROM pg_stat_user_tables WHERE relid = 'visit'::regclass"
        )?,
        "0|t",
        "no round read the table as a whole"
    );
    Ok(())
}

#[test]
fn what_comes_behind_a_watermark_by_other_ways_goes_in_the_next_rounds() -> Result<()> {
    let node = cluster("ways")?;
    // A defence that was suspended before the rows came, and is resumed after the fact.
    node.exec(
        "CREATE TABLE claim (id int PRIMARY KEY, name text, at timestamptz NOT NULL);
         SELECT custodian.define_purpose('shop.order', 'contract', '1 day');
         SELECT custodian.tag_table('claim', clock => 'at');
         SELECT custodian.tag_column('claim', 'name', 'user.name', '{shop.order}', on_expiry => 'set_null');
         SELECT custodian.declare_defence('cn.claim', 'claim', '{name}', '3 days', 'Civil Code, article 188');
         SELECT custodian.suspend_defence('cn.claim', now() - interval '100 days');
         INSERT INTO claim VALUES (1, 'n', now() - interval '10 days'), (2, 'n', now() - interval '4 days 23 hours'),
                                  (3, 'n', now() - interval '1 day 1 hour')",
    )?;
    wait_until_swept(&node, "claim");
    assert_eq!(node.text("SELECT count(name) FROM claim")?, "3");
    node.exec("SELECT custodian.resume_defence('cn.claim', now() - interval '5 days')")?;
    wait_for(
        &node,
        "SELECT string_agg(id::text, ' ' ORDER BY id) FROM claim WHERE name IS NOT NULL",
        "3",
    );
    // It goes on to lapse by itself.
    node.exec(
        "INSERT INTO claim VALUES (4, 'n', now() - interval '3 days' + interval '40 seconds')",
    )?;
    wait_until_swept(&node, "claim");
    assert_eq!(
        node.text(
            "SELECT string_agg(id::text, ' ' ORDER BY id) FROM claim WHERE name IS NOT NULL"
        )?,
        "3 4",
        "it is kept by the defence still"
    );
    wait_for(&node, "SELECT count(name) FROM claim", "1");

    // A table with old rows becomes a child.
    node.exec(
        "CREATE TABLE log (ip text, at timestamptz NOT NULL);
         SELECT custodian.tag_table('log', clock => 'at');
         SELECT custodian.tag_column('log', 'ip', 'user.device.ip_address', '{shop.visit}', on_expiry => 'set_null');
         CREATE TABLE log_old (ip text, at timestamptz NOT NULL);
         INSERT INTO log_old VALUES ('ip', '2001-01-01'), ('ip', now())",
    )?;
    wait_until_swept(&node, "log");
    node.exec("ALTER TABLE log_old INHERIT log")?;
    wait_for(&node, "SELECT count(ip) FROM log", "1");
    wait_until_swept(&node, "log_old");
    // It leaves, gets more, and comes back.
    node.exec(
        "ALTER TABLE log_old NO INHERIT log; INSERT INTO log_old VALUES ('ip', '2001-01-01');
         ALTER TABLE log_old INHERIT log",
    )?;
    wait_for(&node, "SELECT count(ip) FROM log", "1");

    // A row whose period runs out while its transaction is open, and the watermark waits.
    node.exec(
        "SELECT custodian.define_purpose('shop.code', 'contract', '4 seconds');
         CREATE TABLE code (id int PRIMARY KEY, value text, at timestamptz NOT NULL DEFAULT now());
         SELECT custodian.tag_table('code', clock => 'at');
         SELECT custodian.tag_column('code', 'value', 'user.contact', '{shop.code}', on_expiry => 'set_null')",
    )?;
    wait_until_swept(&node, "code");
    let mut open = node.client()?;
    open.batch_execute("BEGIN; INSERT INTO code VALUES (1, 'x')")?;
    node.exec("INSERT INTO code VALUES (2, 'x')")?;
    wait_for(&node, "SELECT count(value) FROM code", "0");
    assert_eq!(
        open.text("SELECT count(value) FROM code WHERE id = 1")?,
        "1"
    );
    open.batch_execute("COMMIT")?;
    wait_for(&node, "SELECT count(value) FROM code", "0");

    // Of a purpose that has ended every row goes, also one without a clock.
    node.exec(
        "CREATE TABLE lead (id int PRIMARY KEY, name text, at timestamptz);
         SELECT custodian.define_purpose('shop.lead', 'contract', '10 years');
         SELECT custodian.tag_table('lead', clock => 'at', null_clock => 'not_started');
         SELECT custodian.tag_column('lead', 'name', 'user.name', '{shop.lead}', on_expiry => 'set_null');
         INSERT INTO lead VALUES (1, 'n', now()), (2, 'n', NULL)",
    )?;
    wait_until_swept(&node, "lead");
    node.exec("SELECT custodian.end_purpose('shop.lead')")?;
    wait_for(&node, "SELECT count(name) FROM lead", "0");
    wait_until_swept(&node, "lead");
    node.exec("INSERT INTO lead VALUES (3, 'n', now()), (4, 'n', NULL)")?;
    wait_for(&node, "SELECT count(name) FROM lead", "0");

    // Clocks two foreign keys away, and a key that leads elsewhere in between.
    node.exec(
        "CREATE TABLE person (id int PRIMARY KEY, seen date NOT NULL);
         CREATE TABLE contract (id int PRIMARY KEY, person int REFERENCES person);
         CREATE TABLE letter (id int PRIMARY KEY, contract int REFERENCES contract, body text);
         INSERT INTO person VALUES (1, current_date), (2, current_date);
         INSERT INTO contract VALUES (1, 1), (2, 2); INSERT INTO letter VALUES (1, 1, 'b'), (2, 2, 'b');
         SELECT custodian.tag_table('letter', clock => 'contract.person.seen');
         SELECT custodian.tag_column('letter', 'body', 'user.content', '{shop.account}', on_expiry => 'set_null')",
    )?;
    wait_until_swept(&node, "letter");
    node.exec("UPDATE person SET seen = '2001-01-01' WHERE id = 1")?;
    wait_for(&node, "SELECT count(body) FROM letter", "1");
    wait_until_swept(&node, "letter");
    node.exec("UPDATE contract SET person = 1 WHERE id = 2")?;
    wait_for(&node, "SELECT count(body) FROM letter", "0");
    wait_until_swept(&node, "letter");
    node.exec("INSERT INTO letter VALUES (3, 2, 'b')")?;
    wait_for(&node, "SELECT count(body) FROM letter", "0");
    Ok(())
}

#[test]
fn rows_that_move_new_columns_and_what_leaves_a_table_are_seen_behind_its_watermarks() -> Result<()>
{
    let node = cluster("moves")?;
    node.exec(
        "CREATE TABLE trip (id int, ip text, at timestamptz NOT NULL) PARTITION BY RANGE (at);
         CREATE TABLE trip_old PARTITION OF trip FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
         CREATE TABLE trip_new PARTITION OF trip FOR VALUES FROM ('2020-01-01') TO (MAXVALUE);
         SELECT custodian.tag_table('trip', clock => 'at');
         SELECT custodian.tag_column('trip', 'ip', 'user.device.ip_address', '{shop.visit}', on_expiry => 'set_null');
         INSERT INTO trip VALUES (1, 'ip', '2001-01-01'), (2, 'ip', now()), (3, 'ip', now())",
    )?;
    let swept = |leaves: &[&str]| {
        for leaf in leaves {
            wait_until_swept(&node, leaf);
        }
    };
    swept(&["trip_old", "trip_new"]);
    let left = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM trip WHERE ip IS NOT NULL";
    assert_eq!(node.text(left)?, "2 3");
    let audited = "SELECT min(audited_at), max(audited_at) FROM custodian.watermarks";
    let before = node.text(audited)?;

    // A row moves into a partition that was passed.
    node.exec("UPDATE trip SET at = '2002-02-02' WHERE id = 2")?;
    assert_eq!(
        node.text("SELECT tableoid::regclass FROM trip WHERE id = 2")?,
        "trip_old"
    );
    wait_for(&node, left, "3");
    swept(&["trip_old", "trip_new"]);
    assert_eq!(node.text(audited)?, before, "it was not the audit pass");

    // A column comes with values, and its tag: of what was passed, what is due goes, and no more.
    node.exec(
        "ALTER TABLE trip ADD name text DEFAULT 'x';
         SELECT custodian.tag_column('trip', 'name', 'user.name', '{shop.visit}', on_expiry => 'set_null')",
    )?;
    let named = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM trip WHERE name IS NOT NULL";
    wait_for(&node, named, "3");
    swept(&["trip_old", "trip_new"]);

    // What leaves keeps its tags, and is watched as before: also behind the watermark that it then gets for itself.
    node.exec(
        "CREATE TABLE log (id int, ip text, at timestamptz NOT NULL);
         SELECT custodian.tag_table('log', clock => 'at');
         SELECT custodian.tag_column('log', 'ip', 'user.device.ip_address', '{shop.visit}', on_expiry => 'set_null');
         CREATE TABLE log_child () INHERITS (log);
         INSERT INTO log_child VALUES (1, 'ip', '2001-01-01'), (2, 'ip', now())",
    )?;
    swept(&["log", "log_child"]);
    let plans = |leaf: &str| {
        node.text(&format!(
            "SELECT string_agg(quote_literal(plan), ',') FROM custodian.watermark WHERE leaf = '{leaf}'::regclass"
        ))
    };
    let before = [plans("trip_old")?, plans("log_child")?];
    node.exec(
        "ALTER TABLE trip DETACH PARTITION trip_old; INSERT INTO trip_old VALUES (4, 'ip', '2001-01-01', 'x');
         ALTER TABLE log_child NO INHERIT log",
    )?;
    for (leaf, before) in ["trip_old", "log_child"].into_iter().zip(before) {
        let by_itself = format!(
            "SELECT count(*) FROM custodian.watermark WHERE leaf = '{leaf}'::regclass AND plan NOT IN ({before})"
        );
        wait_for(&node, &by_itself, "1");
    }
    swept(&["trip_old", "log_child"]);
    node.exec("INSERT INTO trip_old VALUES (5, 'ip', '2001-01-01', 'x'); UPDATE log_child SET at = '2001-01-01' WHERE id = 2")?;
    wait_for(
        &node,
        "SELECT count(*), count(ip), count(name) FROM trip_old",
        "4|0|0",
    );
    wait_for(&node, "SELECT count(*), count(ip) FROM log_child", "2|0");
    Ok(())
}

#[test]
fn the_audit_pass_finds_what_nothing_noticed_within_its_time() -> Result<()> {
    let node = cluster("audit")?;
    node.exec(
        "CREATE TABLE visit (id bigint PRIMARY KEY, ip text, at timestamptz NOT NULL);
         SELECT custodian.tag_table('visit', clock => 'at');
         SELECT custodian.tag_column('visit', 'ip', 'user.device.ip_address', '{shop.visit}', on_expiry => 'set_null');
         INSERT INTO visit VALUES (1, 'ip', now())",
    )?;
    wait_until_swept(&node, "visit");
    let audited = node.text("SELECT audited_at FROM custodian.watermarks")?;
    node.exec(
        "ALTER TABLE visit DISABLE TRIGGER ALL; INSERT INTO visit VALUES (2, 'ip', '2001-01-01');
         DO $$ DECLARE name text; BEGIN
             FOR name IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'visit'::regclass LOOP
                 EXECUTE format('ALTER TABLE visit ENABLE ALWAYS TRIGGER %I', name);
             END LOOP;
         END $$",
    )?;
    // Something else goes, and it stays.
    node.exec("INSERT INTO visit VALUES (3, 'ip', '2002-01-01')")?;
    wait_for(
        &node,
        "SELECT string_agg(id::text, ' ' ORDER BY id) FROM visit WHERE ip IS NOT NULL",
        "1 2",
    );
    assert_eq!(
        node.text("SELECT audited_at FROM custodian.watermarks")?,
        audited
    );
    node.alter_system("custodian.audit_interval", "5s")?;
    node.reload()?;
    wait_for(
        &node,
        "SELECT string_agg(id::text, ' ' ORDER BY id) FROM visit WHERE ip IS NOT NULL",
        "1",
    );
    assert_eq!(
        node.text(&format!(
            "SELECT audited_at > '{audited}' FROM custodian.watermarks"
        ))?,
        "t"
    );
    // One that does not come round in its time is a finding, until it has.
    let late = "SELECT count(*), bool_and(severity = 'warning' AND object = 'public.visit' AND remedy LIKE '%custodian.pauses%')
                FROM custodian.check() WHERE code = 'audit-late'";
    node.alter_system("custodian.audit_interval", "1d")?;
    node.reload()?;
    node.exec("SELECT custodian.pause('stocktaking', 'visit')")?;
    assert_eq!(node.text(late)?, "0|");
    node.alter_system("custodian.audit_interval", "1s")?;
    node.reload()?;
    wait_for(&node, late, "1|t");
    node.exec("SELECT custodian.resume('done', 'visit')")?;
    node.alter_system("custodian.audit_interval", "5s")?;
    node.reload()?;
    wait_for(&node, late, "0|");
    Ok(())
}
