//! What `custodian.check()` says about rows that nobody could reach, and about consents and clocks that nobody recorded.

use integration::{Cluster, Result, Sql};

fn found(code: &str) -> String {
    format!(
        "SELECT severity, object, problem, remedy FROM custodian.check() WHERE code = '{code}' ORDER BY object"
    )
}

#[test]
fn foreign_partitions_and_owners_without_their_schema_are_told_before_a_deletion_fails()
-> Result<()> {
    let node = Cluster::builder("out_of_reach")
        .preload("pg_custodian")
        .conf("custodian.naptime = 3600")
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian;
         CREATE ROLE \"Own er\" LOGIN;
         CREATE SCHEMA \"Sh op\";
         CREATE TABLE \"Sh op\".bill (id int, name text, at timestamptz) PARTITION BY LIST (id);
         CREATE TABLE \"Sh op\".bill_1 PARTITION OF \"Sh op\".bill FOR VALUES IN (1);
         CREATE FOREIGN DATA WRAPPER elsewhere;
         CREATE SERVER elsewhere FOREIGN DATA WRAPPER elsewhere;
         CREATE FOREIGN TABLE \"Sh op\".bill_2 PARTITION OF \"Sh op\".bill FOR VALUES IN (2) SERVER elsewhere;
         INSERT INTO \"Sh op\".bill VALUES (1, 'n', '2000-01-01');
         SELECT custodian.define_purpose('shop.account', 'contract', '1 year');
         SELECT custodian.tag_table('\"Sh op\".bill', clock => 'at');
         SELECT custodian.tag_column('\"Sh op\".bill', 'name', 'user.name', '{shop.account}', on_expiry => 'set_null')",
    )?;
    assert_eq!(node.text(&found("row-guard-foreign"))?, "");
    assert_eq!(node.text(&found("owner-without-schema"))?, "");
    node.exec(
        "SELECT custodian.require_minimum('law.bill', '\"Sh op\".bill', '{name}', '10 years', 'Art. 1');
         ALTER TABLE \"Sh op\".bill_1 OWNER TO \"Own er\"",
    )?;
    let foreign = node.text(&found("row-guard-foreign"))?;
    assert!(
        foreign.starts_with("error|Sh op.bill_2|") && foreign.lines().count() == 1,
        "{foreign}"
    );
    let shut_out = node.text(&found("owner-without-schema"))?;
    assert!(
        shut_out.starts_with("error|Sh op.bill_1|") && shut_out.lines().count() == 1,
        "{shut_out}"
    );
    // What the finding advises ends it.
    let advice = shut_out.rsplit('|').next().unwrap_or_default();
    node.exec(advice.trim_end_matches('.'))?;
    assert_eq!(node.text(&found("owner-without-schema"))?, "");
    Ok(())
}

#[test]
fn rows_without_a_consent_or_clock_on_record_are_a_finding_until_it_is_recorded() -> Result<()> {
    let node = Cluster::builder("unrecorded")
        .preload("pg_custodian")
        .conf("custodian.naptime = 3600")
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian;
         CREATE ROLE app;
         CREATE TABLE customer (id bigint PRIMARY KEY, email text, phone text, seen timestamptz NOT NULL);
         ALTER TABLE customer OWNER TO app;
         INSERT INTO customer SELECT n, 'e', 'p', CASE WHEN n = 4 THEN '2000-01-01' ELSE now() END FROM generate_series(1, 4) n;
         SELECT custodian.define_purpose('shop.mail', 'consent', '10 years', required => false);
         SELECT custodian.define_purpose('shop.account', 'contract', '1 year');
         SELECT custodian.tag_table('customer', clock => 'seen', subject_kind => 'customer', subject_key => '{id}');
         SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.mail}', on_expiry => 'set_null');
         SELECT custodian.tag_column('customer', 'phone', 'user.contact.phone_number', '{shop.account}', on_expiry => 'set_null');
         SELECT custodian.record_consent('customer', '{1}', 'shop.mail')",
    )?;
    // The fourth is past by its period: nothing covers it.
    let told = node.text(&found("consent-unrecorded"))?;
    assert!(
        told.starts_with(
            "warning|public.customer|2 rows are kept for a purpose by consent without one: no consent on record: shop.mail."
        ),
        "{told}"
    );
    node.exec(
        "SELECT custodian.record_consent('customer', '{2}', 'shop.mail');
         SELECT custodian.withdraw_consent('customer', '{3}', 'shop.mail')",
    )?;
    assert_eq!(node.text(&found("consent-unrecorded"))?, "");
    // Of a big table a part is looked at, and the finding says so.
    node.exec("INSERT INTO customer SELECT n, repeat('e', 1000), 'p', now() FROM generate_series(10, 5000) n")?;
    let told = node.text(&found("consent-unrecorded"))?;
    assert!(
        told.contains(" in the part of the table that was looked at"),
        "{told}"
    );
    assert_eq!(node.text(&found("consents-not-looked-at"))?, "");
    clocks_that_are_missing(&node)
}

/// A missing clock is a finding where the tag calls it a violation, until there is one or nothing is left to dispose of.
fn clocks_that_are_missing(node: &Cluster) -> Result<()> {
    node.exec(
        "CREATE TABLE visit (id int PRIMARY KEY, customer bigint REFERENCES customer, ip text, place text, at timestamptz, left_at date);
         ALTER TABLE visit OWNER TO app;
         INSERT INTO visit VALUES (1, 1, 'secret', 'secret', now(), '2000-01-01'), (2, 1, 'secret', 'secret', NULL, NULL),
             (3, 1, 'secret', NULL, '-infinity', NULL), (4, 1, NULL, NULL, NULL, NULL);
         SELECT custodian.tag_table('visit', clock => 'at');
         SELECT custodian.tag_column('visit', 'ip', 'user.device.ip_address', '{shop.account}', on_expiry => 'set_null');
         SELECT custodian.tag_column('visit', 'place', 'user.location', '{shop.account}', on_expiry => 'set_null', clock => 'left_at')",
    )?;
    // The fourth has nothing left, and the third nothing of the second clock.
    let lines = |found: &str| -> Vec<String> {
        let mut lines: Vec<String> = found.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let told = lines(&node.text(&found("clock-missing"))?);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[1].starts_with(
            "warning|public.visit|No period runs for some of its rows: no clock: left_at, in 1."
        ) && told[0].starts_with(
            "warning|public.visit|No period runs for some of its rows: no clock: at, in 2."
        ),
        "{told:?}"
    );
    assert!(told.iter().all(|line| !line.contains("secret")), "{told:?}");
    // Who asks in a transaction keeps no lock of what was looked at.
    let mut asking = node.client()?;
    asking.batch_execute("BEGIN")?;
    asking.text("SELECT count(*) FROM custodian.check()")?;
    assert_eq!(
        asking.text(
            "SELECT DISTINCT relation::regclass FROM pg_locks
             WHERE pid = pg_backend_pid() AND relation IN ('visit'::regclass, 'visit_pkey'::regclass, 'customer'::regclass, 'customer_pkey'::regclass)"
        )?,
        ""
    );
    asking.batch_execute("ROLLBACK")?;
    // Somebody who has locked the table does not hold the checks up, nor are they silent about it.
    let mut other = node.client()?;
    other.batch_execute("BEGIN; LOCK TABLE visit")?;
    let shut = node.text(&found("clocks-not-looked-at"))?;
    assert!(shut.starts_with("warning|public.visit|"), "{shut}");
    assert_eq!(node.text(&found("clock-missing"))?, "");
    other.batch_execute("ROLLBACK")?;
    assert_eq!(node.text(&found("clocks-not-looked-at"))?, "");
    // A waiver takes both off the list.
    node.exec(
        "SELECT custodian.waive('clock-missing', 'public.visit', 'an import', 'postgres', now() + interval '1 day')",
    )?;
    assert_eq!(node.text(&found("clock-missing"))?, "");
    node.exec("SELECT custodian.revoke_waiver(waiver, 'over') FROM custodian.waivers")?;
    assert_eq!(lines(&node.text(&found("clock-missing"))?), told);
    node.exec(
        "UPDATE visit SET at = now(), left_at = '2000-01-01' WHERE id = 2; UPDATE visit SET ip = NULL WHERE id = 3",
    )?;
    assert_eq!(node.text(&found("clock-missing"))?, "");
    // So it is over another table's clock, and where that row is not there.
    node.exec(
        "SELECT custodian.tag_table('visit', clock => 'customer.seen'); INSERT INTO visit (id, ip) VALUES (5, 'secret')",
    )?;
    let told = node.text(&found("clock-missing"))?;
    assert!(
        told.starts_with(
            "warning|public.visit|No period runs for some of its rows: no clock: seen, in 1."
        ),
        "{told}"
    );
    node.exec(
        "SELECT custodian.tag_table('visit', clock => 'customer.seen', null_clock => 'not_started')",
    )?;
    assert_eq!(node.text(&found("clock-missing"))?, "");
    what_bounds_rule_out(node)
}

/// A partition whose bounds leave no row without a clock is not looked at, and not counted among those that are.
fn what_bounds_rule_out(node: &Cluster) -> Result<()> {
    node.exec(
        "CREATE TABLE trace (id int, ip text, at timestamptz) PARTITION BY RANGE (at);
         CREATE TABLE trace_rest PARTITION OF trace DEFAULT;
         DO $$ BEGIN FOR year IN 2010 .. 2029 LOOP
             EXECUTE format('CREATE TABLE trace_%s PARTITION OF trace FOR VALUES FROM (%L) TO (%L)', year, year || '-01-01', year + 1 || '-01-01');
         END LOOP; END $$;
         INSERT INTO trace VALUES (1, 'secret', now()), (2, 'secret', NULL), (3, 'secret', 'infinity');
         SELECT custodian.tag_table('trace', clock => 'at');
         SELECT custodian.tag_column('trace', 'ip', 'user.device.ip_address', '{shop.account}', on_expiry => 'set_null')",
    )?;
    let told = node.text(&found("clock-missing"))?;
    assert!(
        told.starts_with(
            "warning|public.trace|No period runs for some of its rows: no clock: at, in 2. "
        ) && told.lines().count() == 1,
        "{told}"
    );
    // Their bounds are not waited for either where somebody has locked one.
    let mut other = node.client()?;
    other.batch_execute("BEGIN; LOCK TABLE ONLY trace_2010")?;
    let shut = node.text(&found("clocks-not-looked-at"))?;
    assert!(shut.starts_with("warning|public.trace|"), "{shut}");
    other.batch_execute("ROLLBACK")?;
    Ok(())
}
