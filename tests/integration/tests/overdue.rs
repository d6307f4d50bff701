//! What should be gone and is still there: since when, and why.

use integration::{Cluster, Result, Sql, wait_for_answer};

const SHOP: &str = "
    CREATE EXTENSION pg_custodian;
    CREATE ROLE counsel;
    CREATE ROLE shopkeeper;
    CREATE SCHEMA shop AUTHORIZATION shopkeeper;
    SET ROLE shopkeeper;
    CREATE TABLE shop.customer (id bigint PRIMARY KEY, email text, seen timestamptz NOT NULL);
    INSERT INTO shop.customer SELECT n, 'u' || n, now() - n * interval '1 day' FROM generate_series(1, 400) n;
    RESET ROLE;
    SELECT custodian.define_purpose('shop.account', 'contract', '100 days');
    SELECT custodian.tag_table('shop.customer', clock => 'seen', subject_kind => 'customer', subject_key => '{id}');
    SELECT custodian.tag_column('shop.customer', 'email', 'user.contact.email', '{shop.account}', on_expiry => 'set_null');
    SELECT custodian.place_hold('2026-1', approver => 'counsel', review_on => '2099-01-01', reason => 'court',
                                subject_kind => 'customer', subject_key => '{400}');";

/// The due rows, and whether the oldest of them (due for 299 days, customer 399) is dated as exactly as is promised.
const NOW: &str = "
    SELECT action, rows, overdue_since BETWEEN now() - interval '299 days 1 hour' AND now() - interval '289 days', why
    FROM custodian.overdue_now('shop.customer') ORDER BY action";

/// Measures of the backlog: how many there are, the rows, and whether its age is within that of the server.
const BACKLOG: &str = r#"
    SELECT count(*), max(value) FILTER (WHERE name = 'custodian_overdue_rows'),
           bool_and(value BETWEEN 0 AND extract(epoch FROM now() - pg_postmaster_start_time()))
               FILTER (WHERE name = 'custodian_backlog_age_seconds')
    FROM custodian.metrics
    WHERE name IN ('custodian_overdue_rows', 'custodian_backlog_age_seconds')
      AND labels = '{"relation": "shop.customer"}'"#;

#[test]
fn what_is_overdue_is_told_with_its_age_and_what_it_waits_for() -> Result<()> {
    let node = Cluster::builder("overdue")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .start()?;
    let mut client = node.client()?;
    client.batch_execute(SHOP)?;

    // Observing: the worker counts, and touches nothing.
    assert_eq!(
        client.text(NOW)?,
        "keep|1||hold: 2026-1;set null|300|t|disposal is observe: nothing is touched"
            .replace(';', "\n")
    );
    wait_for_answer(
        &node,
        "SELECT rows || ' ' || why FROM custodian.overdue",
        "300 counted only: disposal is observe, or keys are missing",
    );
    assert_eq!(
        client.text(
            "SELECT relation, rows, due_at <= now(), found_at <= now() FROM custodian.overdue"
        )?,
        "shop.customer|300|t|t"
    );

    assert_eq!(node.text(BACKLOG)?, "2|300|t");

    // On: more than the fuse allows waits for somebody.
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(
        &node,
        "SELECT state || ' ' || rows FROM custodian.overdue",
        "waiting 300",
    );
    let why = client.text("SELECT why FROM custodian.overdue_now() WHERE action = 'set null'")?;
    assert!(
        why.starts_with("waits for an approval: 300 of 400 rows"),
        "{why}"
    );

    // Done: what the hold keeps is all that is left.
    node.exec("SELECT custodian.approve_run(run_id, 'expected') FROM custodian.overdue")?;
    wait_for_answer(&node, "SELECT count(*) FROM custodian.overdue", "0");
    assert_eq!(client.text(NOW)?, "keep|1||hold: 2026-1");
    assert_eq!(node.text(BACKLOG)?, "0||", "nothing is overdue any more");

    node.alter_system("custodian.max_disposal_fraction", "1")?;
    // A trigger that refuses is told by its SQLSTATE, and no value is.
    client.batch_execute(
        "SET ROLE shopkeeper;
         CREATE FUNCTION shop.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not %', OLD.email; END $$;
         INSERT INTO shop.customer VALUES (500, 'secret', now() - interval '150 days');
         CREATE TRIGGER no BEFORE UPDATE ON shop.customer FOR EACH ROW EXECUTE FUNCTION shop.no();
         RESET ROLE;
         DELETE FROM custodian.watermark",
    )?;
    wait_for_answer(&node, "SELECT quarantined FROM custodian.overdue", "1");
    let told = client.text("SELECT o::text || n::text FROM custodian.overdue o, custodian.overdue_now() n WHERE n.action <> 'keep'")?;
    assert!(told.contains("shop.customer"), "{told}");
    assert!(!told.contains("secret"), "{told}");

    // A steward's pause is what it waits for now.
    client.text("SELECT custodian.pause('audit', 'shop.customer')")?;
    assert_eq!(
        client.text("SELECT why FROM custodian.overdue")?,
        "paused: audit"
    );

    // Others see nothing of tables they do not own.
    client.batch_execute("CREATE ROLE stranger; SET ROLE stranger")?;
    assert_eq!(
        client.text("SELECT count(*) FROM custodian.overdue_now()")?,
        "0"
    );
    assert_eq!(
        client
            .refused("SELECT * FROM custodian.overdue_now('shop.customer')")
            .sqlstate(),
        "42501"
    );
    Ok(())
}
