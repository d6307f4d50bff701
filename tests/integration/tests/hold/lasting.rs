//! Who places and releases holds, and what they outlast.

use std::sync::mpsc;

use integration::{Cluster, Result, Sql, wait_until};

use crate::shop::{MATTER, hold_customer, kept, kept_by, shop};

#[test]
fn two_people_place_and_release_a_hold() -> Result<()> {
    let node = shop()?;
    let mut client = node.client()?;
    let place = |approver: &str, date: &str, scope: &str| {
        format!("SELECT custodian.place_hold('m', '{approver}', {date}, 'r', {scope})")
    };
    let customer = "subject_kind => 'customer', subject_key => ARRAY['2']";
    for (sql, state) in [
        (place("postgres", "current_date + 1", customer), "42501"),
        (place("nobody", "current_date + 1", customer), "42704"),
        (place("counsel", "current_date", customer), "22023"),
        (place("counsel", "current_date + 1", "rel => NULL"), "22023"),
        (place("counsel", "current_date + 1", "rel => 0"), "42704"),
        (
            place(
                "counsel",
                "current_date + 1",
                &format!("{customer}, rel => 'shop.ticket'"),
            ),
            "22023",
        ),
        (
            place(
                "counsel",
                "current_date + 1",
                "subject_kind => 'client', subject_key => ARRAY['2']",
            ),
            "42704",
        ),
        (
            place(
                "counsel",
                "current_date + 1",
                "subject_kind => 'customer', subject_key => ARRAY['2', '3']",
            ),
            "22023",
        ),
        (
            place("counsel", "current_date + 1", "rel => 'custodian.hold'"),
            "42809",
        ),
    ] {
        let error = client.refused(&sql);
        assert_eq!(error.sqlstate(), state, "{sql}: {error}");
    }
    let mut owner = node.client_as("shop", "postgres")?;
    let error = owner.refused(&place("counsel", "current_date + 1", customer));
    assert_eq!(error.sqlstate(), "42501");
    assert_eq!(
        owner.refused("SELECT * FROM custodian.holds").sqlstate(),
        "42501"
    );

    // ' 2' is the key 2, as the column's type has it.
    let hold = node.text(&place(
        "counsel",
        "current_date + 1",
        "subject_kind => 'customer', subject_key => ARRAY[' 2']",
    ))?;
    kept_by(&mut owner, "DELETE FROM shop.ticket WHERE id = 2", "\"m\"");
    let release =
        |approver: &str| format!("SELECT custodian.release_hold({hold}, '{approver}', 'settled')");
    assert_eq!(client.refused(&release("postgres")).sqlstate(), "42501");
    assert_eq!(owner.refused(&release("counsel")).sqlstate(), "42501");
    client.batch_execute(&release("counsel"))?;
    assert_eq!(client.refused(&release("counsel")).sqlstate(), "42704");
    assert_eq!(
        node.text(
            "SELECT matter, released_by, release_approver, release_reason FROM custodian.holds"
        )?,
        "m|postgres|counsel|settled"
    );
    owner.batch_execute("DELETE FROM shop.ticket WHERE id = 2")?;
    // Nothing needs the triggers any more.
    assert_eq!(
        node.text("SELECT count(*) FROM pg_trigger WHERE tgfoid = 'custodian.row_guard'::regproc")?,
        "0"
    );
    // The ledger knows the matter, not the key.
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.ledger WHERE kind IN ('hold.placed', 'hold.released') AND object = 'm' AND detail ->> 'subject_kind' = 'customer' AND NOT detail ? 'subject_key'")?,
        "2"
    );
    Ok(())
}

#[test]
fn the_extension_goes_only_without_holds() -> Result<()> {
    let node = shop()?;
    let hold = hold_customer(&node, 2)?;
    let mut client = node.client()?;
    for sql in [
        "DROP EXTENSION pg_custodian",
        "DROP EXTENSION pg_custodian CASCADE",
    ] {
        kept(&mut client, sql);
    }
    kept(
        &mut client,
        "ALTER EXTENSION pg_custodian DROP TABLE custodian.hold; DROP TABLE custodian.hold CASCADE",
    );
    node.exec(
        "SELECT custodian.require_minimum('cn.tax.invoice', 'shop.orders', ARRAY['amount'], '10 years', 'Art. 60')",
    )
    .or_else(|_needs_tag| {
        node.exec(
            "SELECT custodian.tag_column('shop.orders', 'amount', 'user.financial', ARRAY['shop.account'], clock => 'at');
             SELECT custodian.require_minimum('cn.tax.invoice', 'shop.orders', ARRAY['amount'], '10 years', 'Art. 60')",
        )
    })?;
    node.exec(&format!(
        "SELECT custodian.release_hold({hold}, 'counsel', 'settled')"
    ))?;
    assert_ne!(
        node.text("SELECT count(*) FROM pg_trigger WHERE tgfoid = 'custodian.row_guard'::regproc")?,
        "0",
        "the minimum still needs the guard"
    );
    // Minimums go with it, and whoever drops it is told which.
    let (said, notices) = mpsc::channel();
    let mut config: postgres::Config = node.conninfo("postgres", "postgres").parse()?;
    config.notice_callback(move |notice| {
        let _nobody_listens = said.send(format!(
            "{} {} {}",
            notice.severity(),
            notice.message(),
            notice.detail().unwrap_or_default()
        ));
    });
    config
        .connect(postgres::NoTls)?
        .batch_execute("DROP EXTENSION pg_custodian")?;
    let told: Vec<String> = notices.try_iter().collect();
    assert!(
        told.iter()
            .any(|told| told.starts_with("WARNING") && told.contains("cn.tax.invoice (Art. 60)")),
        "{told:?}"
    );
    node.exec("DELETE FROM shop.orders; DROP TABLE shop.ticket")?;
    Ok(())
}

#[test]
fn a_restored_database_keeps_its_holds() -> Result<()> {
    let node = shop()?;
    hold_customer(&node, 2)?;
    node.exec(&format!(
        "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'r', rel => 'shop.orders', match => '{{\"invoice_no\":[\"A1\"]}}')"
    ))?;
    let dump = node.dir().join("dump");
    node.program("pg_dump")?
        .args(["-Fc", "-f"])
        .arg(dump.to_str().expect("a UTF-8 path"))
        .run()?
        .ok()?;
    // With several jobs the tables come in any order that their foreign keys leave open.
    for (database, jobs) in [
        ("copy", "1"),
        ("copy2", "2"),
        ("copy4", "4"),
        ("copy8", "8"),
    ] {
        restored(&node, dump.to_str().expect("a UTF-8 path"), database, jobs)?;
    }
    Ok(())
}

fn restored(node: &Cluster, dump: &str, database: &str, jobs: &str) -> Result<()> {
    node.exec(&format!("CREATE DATABASE {database}"))?;
    // OIDs differ from those of the first database.
    let mut copy = node.client_as("postgres", database)?;
    copy.batch_execute("CREATE TABLE filler (); DROP TABLE filler")?;
    node.program("pg_restore")?
        .args(["-d", database, "--jobs", jobs, "--exit-on-error", dump])
        .run()?
        .ok()?;
    // A table that another job was using gets its guard from the scheduler, which has been told.
    wait_until("the guard is in place", 60, || {
        copy.text("SELECT count(*) FROM custodian.check() WHERE code = 'row-guard-missing'")
            .is_ok_and(|missing| missing == "0")
    });
    kept(&mut copy, "DELETE FROM shop.customer WHERE id = 2");
    kept(&mut copy, "DELETE FROM shop.orders WHERE invoice_no = 'A1'");
    kept(
        &mut copy,
        "SET session_replication_role = replica; DELETE FROM shop.customer WHERE id = 1",
    );
    // The name is followed from here on.
    copy.batch_execute("ALTER TABLE shop.orders RENAME TO purchase")?;
    kept(
        &mut copy,
        "DELETE FROM shop.purchase WHERE invoice_no = 'A1'",
    );
    assert_eq!(
        copy.text("SELECT count(*) FROM custodian.check() WHERE code IN ('row-guard-missing', 'hold-without-table')")?,
        "0"
    );
    Ok(())
}

#[test]
fn tags_by_which_holds_work_cannot_be_taken_away() -> Result<()> {
    let node = shop()?;
    let hold = hold_customer(&node, 2)?;
    let mut client = node.client()?;
    kept(
        &mut client,
        "SELECT custodian.untag_column('shop.customer', 'email')",
    );
    kept(
        &mut client,
        "SELECT custodian.clear_column('shop.customer', 'email')",
    );
    kept(
        &mut client,
        "SECURITY LABEL FOR custodian ON COLUMN shop.customer.email IS NULL",
    );
    for sql in [
        "SELECT custodian.untag_table('shop.ticket')",
        "SELECT custodian.tag_table('shop.ticket', clock => 'at', subject_kind => 'customer', subject_via => ARRAY['id'])",
        "SECURITY LABEL FOR custodian ON TABLE shop.customer IS NULL",
    ] {
        kept_by(&mut client, sql, "legal holds on subjects of kind");
    }
    // A table that is tagged while the hold is in force is guarded from then on.
    client.batch_execute(
        "CREATE TABLE shop.visit (customer_id int REFERENCES shop.customer, page text, at timestamptz);
         INSERT INTO shop.visit VALUES (1, 'a', now()), (2, 'b', now());
         SELECT custodian.tag_table('shop.visit', clock => 'at', subject_kind => 'customer', subject_via => ARRAY['customer_id'])",
    )?;
    client.batch_execute("DELETE FROM shop.visit WHERE customer_id = 1")?;
    kept(&mut client, "DELETE FROM shop.visit");
    // An owner's first column tag would free the rest of held rows.
    let mut owner = node.client_as("shop", "postgres")?;
    kept(
        &mut owner,
        "SELECT custodian.tag_column('shop.ticket', 'at', 'user.behavior', ARRAY['shop.account'], clock => 'at')",
    );
    node.exec(&format!(
        "SELECT custodian.release_hold({hold}, 'counsel', 'settled')"
    ))?;
    client.batch_execute("SELECT custodian.untag_column('shop.customer', 'email'); SELECT custodian.untag_table('shop.ticket')")?;
    Ok(())
}

#[test]
fn a_hold_does_not_end_by_itself_however_long_its_review_is_past() -> Result<()> {
    let node = shop()?;
    node.exec(
        "SELECT custodian.define_purpose('shop.short', 'contract', '1 day');
         SELECT custodian.tag_column('shop.ticket', 'body', 'user.behavior', ARRAY['shop.short'], clock => 'at');
         SELECT custodian.tag_table('shop.ticket', clock => 'at', subject_kind => 'customer', subject_via => ARRAY['customer_id'], on_expiry => 'delete')",
    )?;
    // To be reviewed in 30 days.
    hold_customer(&node, 2)?;
    node.alter_system("custodian.max_disposal_fraction", "1")?;
    node.alter_system("custodian.disposal", "on")?;
    wait_until("the settings are read", 60, || {
        node.text("SELECT current_setting('custodian.disposal') || current_setting('custodian.max_disposal_fraction')")
            .is_ok_and(|mode| mode == "on1")
    });
    let mut later = node.client()?;
    later.batch_execute("SET custodian.clock_offset = '60d'; SELECT count(*) FROM custodian.sweep_now('shop.ticket')")?;
    assert_eq!(node.text("SELECT id FROM shop.ticket ORDER BY id")?, "2");
    kept(&mut later, "DELETE FROM shop.ticket WHERE id = 2");
    kept(
        &mut later,
        "UPDATE shop.customer SET email = NULL WHERE id = 2",
    );
    assert_eq!(
        later.text("SELECT count(*) FROM custodian.holds WHERE released_at IS NULL")?,
        "1"
    );
    Ok(())
}
