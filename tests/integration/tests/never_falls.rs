//! A minimum may rise and never falls, by whatever way it is asked; and the extension's clock is a superuser's to move.

use integration::{Cluster, Result, Sql};

#[test]
fn a_minimum_never_falls_by_whatever_way_it_is_asked() -> Result<()> {
    let node = Cluster::builder("never_falls")
        .preload("pg_custodian")
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian; CREATE SCHEMA s;
         CREATE TABLE s.bill (id int PRIMARY KEY, at timestamptz, payer text, street text);
         INSERT INTO s.bill VALUES (1, now() - interval '70 days', 'p', 's');
         SELECT custodian.define_purpose('p.a', 'contract', '10 days');
         SELECT custodian.tag_table('s.bill', clock => 'at');
         SELECT custodian.tag_column('s.bill', 'payer', 'user.name', '{p.a}', on_expiry => 'set_null'),
                custodian.tag_column('s.bill', 'street', 'user.contact', '{p.a}', on_expiry => 'set_null');
         SELECT custodian.require_minimum('k.tax', 's.bill', '{payer,street}', '90 days', 'Act A')",
    )?;
    let mut client = node.client()?;
    let kept = "SELECT string_agg(concat_ws(' ', column_name, state, decided_by), ', ' ORDER BY column_name) FROM custodian.explain_row('s.bill', '{\"id\":1}')";
    let before = client.text(kept)?;
    assert_eq!(
        before,
        "payer blocked minimum: k.tax, street blocked minimum: k.tax"
    );
    let stored = "SELECT period, citation FROM custodian.minimums";
    let was = client.text(stored)?;
    for period in ["60 days", "2 mons", "89 days 23:59:59", "0", "-1 day"] {
        for sql in [
            format!(
                "SELECT custodian.require_minimum('k.tax', 's.bill', '{{payer}}', '{period}', 'Act B')"
            ),
            format!(
                "SELECT custodian.apply_policy('{{\"minimums\":{{\"k.tax\":{{\"period\":\"{period}\"}}}}}}', dry_run => false)"
            ),
            format!(
                "SELECT custodian.apply_policy('{{\"minimums\":{{\"k.tax\":{{\"period\":\"{period}\"}}}}}}', dry_run => true)"
            ),
        ] {
            assert_eq!(client.refused(&sql).sqlstate(), "22023", "{sql}");
        }
    }
    assert_eq!(
        (client.text(stored)?, client.text(kept)?),
        (was.clone(), before.clone())
    );
    // The same again for fewer columns takes none away.
    client.batch_execute(
        "SELECT custodian.require_minimum('k.tax', 's.bill', '{payer}', '90 days', 'Act A')",
    )?;
    assert_eq!(client.text(kept)?, before);
    // What a past policy had is no way down, either.
    let moment = client.text("SELECT clock_timestamp()")?;
    client.batch_execute("SELECT custodian.require_minimum('k.tax', 's.bill', '{payer}', '100 days', 'Act A as amended')")?;
    let past = format!(
        "SELECT custodian.apply_policy(custodian.policy_as_of('{moment}'), dry_run => false)"
    );
    assert_eq!(client.refused(&past).sqlstate(), "22023");
    assert_eq!(
        client.text(stored)?,
        was.replace("90 days", "100 days")
            .replace("Act A", "Act A as amended")
    );
    Ok(())
}

#[test]
fn only_a_superuser_moves_the_clock() -> Result<()> {
    let node = Cluster::builder("clock_offset")
        .preload("pg_custodian")
        .conf("custodian.steward_role = 'steward'")
        .start()?;
    node.exec(
        "CREATE ROLE steward; CREATE ROLE li LOGIN IN ROLE steward; CREATE EXTENSION pg_custodian",
    )?;
    let mut li = node.client_as("li", "postgres")?;
    for sql in [
        "SET custodian.clock_offset = '1d'",
        "SET LOCAL custodian.clock_offset = '-1d'",
        "SELECT set_config('custodian.clock_offset', '1d', false)",
        "ALTER ROLE li SET custodian.clock_offset = '1d'",
        "ALTER DATABASE postgres SET custodian.clock_offset = '1d'",
    ] {
        assert_eq!(li.refused(sql).sqlstate(), "42501", "{sql}");
    }
    node.exec("SET custodian.clock_offset = '1d'")
}
