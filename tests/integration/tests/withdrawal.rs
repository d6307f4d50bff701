//! A withdrawal of consent makes a subject's rows due, wherever sweeps have passed: they are found by the subject's
//! key, and the rest of the table is not read.
//!
//! The table is one that the fuse estimates rather than counts.

use integration::{Cluster, Result, wait_for_answer};

const PASSED: &str = "SELECT count(*) FROM custodian.watermarks
    WHERE leaf = 'visit'::regclass AND watched AND swept_until > now() - interval '1 hour'";

/// Of the table that is looked at: others may be passed after it.
const AUDITED: &str = "SELECT audited_at FROM custodian.watermarks WHERE leaf = 'visit'::regclass";

#[test]
fn a_withdrawal_reopens_the_subjects_rows_and_no_others() -> Result<()> {
    let node = Cluster::builder("withdrawal_reopens")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("autovacuum = off")
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian;
         CREATE TABLE customer (id bigint PRIMARY KEY, seen timestamptz NOT NULL);
         CREATE TABLE visit (id bigint PRIMARY KEY, customer bigint REFERENCES customer, ip text,
                             at timestamptz NOT NULL, padding text);
         INSERT INTO customer SELECT n, now() FROM generate_series(1, 2000) n;
         INSERT INTO visit SELECT n, n % 2000 + 1, 'ip', now() - n * interval '1 minute', repeat('x', 1000)
         FROM generate_series(1, 40000) n;
         CREATE INDEX ON visit (at); CREATE INDEX ON visit (customer);
         SELECT custodian.define_purpose('shop.mail', 'consent', '10 years', required => false);
         SELECT custodian.tag_table('customer', clock => 'seen', subject_kind => 'customer', subject_key => '{id}');
         SELECT custodian.tag_table('visit', clock => 'at', subject_kind => 'customer', subject_via => '{customer}');
         SELECT custodian.tag_column('visit', 'ip', 'user.device.ip_address', '{shop.mail}', on_expiry => 'set_null');
         SELECT custodian.record_consent('customer', ARRAY[n::text], 'shop.mail', now() - interval '1 hour')
         FROM generate_series(1, 20) n;
         ANALYZE",
    )?;
    wait_for_answer(&node, PASSED, "1");
    let audited = node.text(AUDITED)?;
    node.exec(
        "SELECT pg_sleep(2.5); SELECT pg_stat_reset_single_table_counters('visit'::regclass)",
    )?;

    node.exec("SELECT custodian.withdraw_consent('customer', '{7}', 'shop.mail')")?;
    let left = "SELECT customer, count(ip) FROM visit WHERE customer IN (7, 8, 1500) GROUP BY 1 ORDER BY 1";
    wait_for_answer(&node, left, "7|0\n8|20\n1500|20");
    // One who withdraws without a consent on record, and rows that come after a withdrawal.
    node.exec(
        "SELECT custodian.withdraw_consent('customer', '{1500}', 'shop.mail');
         INSERT INTO visit SELECT 50000 + n, 7, 'late', now(), 'x' FROM generate_series(1, 3) n",
    )?;
    wait_for_answer(&node, left, "7|0\n8|20\n1500|0");
    assert_eq!(
        node.text(AUDITED)?,
        audited,
        "none of that was the audit pass"
    );
    node.exec("SELECT pg_sleep(2.5)")?;
    assert_eq!(
        node.text(
            "SELECT seq_scan, idx_scan > 0, n_tup_upd FROM pg_stat_user_tables WHERE relid = 'visit'::regclass"
        )?,
        "0|t|43",
        "no round read the table as a whole"
    );
    assert_eq!(node.text("SELECT count(ip) FROM visit")?, "39960");

    // The fuse compares with an estimate of so large a table, and says so.
    node.alter_system("custodian.max_disposal_fraction", "0.5")?;
    node.exec("SELECT custodian.end_purpose('shop.mail')")?;
    wait_for_answer(
        &node,
        "SELECT rows_planned, table_rows BETWEEN 38000 AND 42000, reason ~ '^39960 of about [0-9]+ rows are due,'
         FROM custodian.runs WHERE state = 'waiting'",
        "39960|t|t",
    );
    Ok(())
}
