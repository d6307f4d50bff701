//! What the region guard tells: nothing of tagged values in errors, one record of a standby that keeps coming back, and a
//! finding where a node does not know where it is. One machine; the role `postgres` is local, others are from outside.

use integration::{Cluster, Result, Sql, wait_until};

/// A value of a tagged column.
const CANARY: &str = "canary-4711@example.com";

fn node(conf: &str) -> Result<Cluster> {
    let node = Cluster::builder("told")
        .preload("pg_custodian")
        .conf(conf)
        .start()?;
    node.write_file(
        "custodian_regions.conf",
        "region cn\nregion eu\nlocal postgres\n",
    )?;
    node.reload()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    Ok(node)
}

#[test]
fn details_of_errors_show_a_session_outside_only_what_it_sent() -> Result<()> {
    let node = node("custodian.region = 'cn'")?;
    node.exec(&format!(
        "CREATE ROLE away LOGIN SUPERUSER;
         CREATE TABLE customer (id int PRIMARY KEY, email text);
         INSERT INTO customer VALUES (1, '{CANARY}');
         SELECT custodian.define_purpose('shop.orders', 'contract', '1 year');
         SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{{shop.orders}}', residency => '{{cn}}');
         SELECT custodian.clear_column('customer', 'id');
         CREATE TABLE entry (id int PRIMARY KEY, email text, CHECK (email IS NULL));
         CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
             BEGIN NEW.email := (SELECT email FROM customer LIMIT 1); RETURN NEW; END $$;
         CREATE TRIGGER fill BEFORE INSERT ON entry FOR EACH ROW WHEN (NEW.id > 9) EXECUTE FUNCTION fill()",
    ))?;
    // The error that would show it: the detail has the row that the trigger filled.
    let insert = "INSERT INTO entry VALUES (10)";
    assert!(node.client()?.refused(insert).to_string().contains(CANARY));
    let caught = format!(
        "DO $$ DECLARE d text; BEGIN {insert}; EXCEPTION WHEN OTHERS THEN
             GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL; RAISE NOTICE 'caught: %', d; END $$"
    );
    let said = |role: &str, sql: &str| -> Result<String> {
        let output = node.psql_as(role, "postgres", sql)?;
        Ok(format!("{output:?}"))
    };
    assert!(said("postgres", &caught)?.contains(CANARY));

    node.alter_system("custodian.enforce", "on")?;
    let text = said("away", insert)?;
    assert!(text.contains("reading") && !text.contains(CANARY), "{text}");
    let text = said("away", &caught)?;
    assert!(
        text.contains("caught: ") && !text.contains(CANARY),
        "{text}"
    );
    // Its own values come back to it.
    node.exec("INSERT INTO entry VALUES (2)")?;
    let text = said("away", "INSERT INTO entry VALUES (2)")?;
    assert!(text.contains("Key (id)=(2) already exists"), "{text}");
    let text = said("away", "INSERT INTO entry VALUES (3, 'mine')")?;
    assert!(text.contains("Failing row contains (3, mine)"), "{text}");
    // What is refused is on record without values.
    assert!(
        !node
            .text("SELECT string_agg(e::text, ' ') FROM custodian.guard_events e")?
            .contains(CANARY)
    );
    Ok(())
}

#[test]
fn a_standby_that_keeps_coming_back_is_recorded_once_with_a_count() -> Result<()> {
    let node = node("custodian.region = 'cn'")?;
    node.exec("CREATE ROLE copy LOGIN REPLICATION")?;
    // It follows while the guard only warns.
    let standby = node
        .standby("standby")
        .copy_locally()
        .replication_role("copy")
        .start()?;
    node.alter_system("custodian.enforce", "on")?;
    wait_until("the standby has come back several times", 120, || {
        node.text(
            "SELECT coalesce(sum(count), 0) >= 6 FROM custodian.guard_events
             WHERE gate = 'login' AND role = 'copy' AND outcome = 'refused'",
        )
        .is_ok_and(|enough| enough == "t")
    });
    // The first one is handed to the ledger at once, the next ones within an hour.
    assert_eq!(
        node.text(
            "SELECT count(*) <= 2, count(DISTINCT (outcome, role, peer, object, reason))
             FROM custodian.guard_events WHERE gate = 'login' AND role = 'copy' AND outcome = 'refused'"
        )?,
        "t|1"
    );
    assert!(standby.log().contains("is not allowed"));
    Ok(())
}

#[test]
fn a_node_that_does_not_know_its_region_is_a_finding() -> Result<()> {
    let node = node("custodian.enforce = 'on'")?;
    let finding =
        "SELECT severity || ': ' || problem FROM custodian.check() WHERE code = 'region-unknown'";
    assert_eq!(
        node.text(finding)?,
        "error: The region of this node is unknown: no \"node\" line names an address of this node."
    );
    node.alter_system("custodian.region", "fr")?;
    node.restart()?;
    assert!(
        node.text(finding)?
            .contains("which the rules do not define")
    );
    node.alter_system("custodian.region", "eu")?;
    node.restart()?;
    assert_eq!(node.text(finding)?, "");
    Ok(())
}
