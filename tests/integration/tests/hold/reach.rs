//! Which rows holds and minimums reach, and how the guard comes back.

use integration::{Result, Sql, wait_until};

use crate::shop::{MATTER, hold_customer, kept, kept_by, shop};

#[test]
fn subjects_are_found_over_foreign_keys_and_among_many() -> Result<()> {
    let node = shop()?;
    // The subject's key is not what the foreign key refers to.
    node.exec(
        "CREATE TABLE shop.person (id int PRIMARY KEY, number text UNIQUE, born date);
         CREATE TABLE shop.visit (id int PRIMARY KEY, person_id int REFERENCES shop.person, at timestamptz);
         CREATE TABLE shop.click (visit_id int REFERENCES shop.visit ON DELETE CASCADE, at timestamptz);
         INSERT INTO shop.person SELECT n, 'P-' || n, '1990-01-01' FROM generate_series(1, 3) n;
         INSERT INTO shop.visit SELECT n, n, now() FROM generate_series(1, 3) n;
         INSERT INTO shop.click SELECT n, now() FROM generate_series(1, 3) n;
         SELECT custodian.tag_table('shop.person', clock => 'born', subject_kind => 'person', subject_key => ARRAY['number']);
         SELECT custodian.tag_table('shop.visit', clock => 'at', subject_kind => 'person', subject_via => ARRAY['person_id']);
         SELECT custodian.tag_table('shop.click', clock => 'at', subject_kind => 'person', subject_via => ARRAY['visit_id'])",
    )?;
    node.exec(&format!(
        "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'r', subject_kind => 'person', subject_key => ARRAY['P-2'])"
    ))?;
    let check = || -> Result<()> {
        let mut client = node.client()?;
        kept(&mut client, "DELETE FROM shop.click WHERE visit_id = 2");
        kept(&mut client, "TRUNCATE shop.click");
        kept(&mut client, "DELETE FROM shop.visit WHERE id = 2");
        kept(
            &mut client,
            "SET session_replication_role = replica; DELETE FROM shop.visit WHERE id = 2",
        );
        kept(
            &mut client,
            "UPDATE shop.person SET number = 'P-9' WHERE id = 2",
        );
        kept(&mut client, "DROP TABLE shop.click");
        client.batch_execute("BEGIN; DELETE FROM shop.visit WHERE id = 1; ROLLBACK")?;
        Ok(())
    };
    check()?;
    // More holds than are kept in memory.
    node.exec(
        "INSERT INTO custodian.hold (matter, scope, subject_kind, subject_key, reason, approver, review_on)
         SELECT 'another', 'subject', 'person', ARRAY['Q-' || n], 'r', 'counsel', current_date + 30 FROM generate_series(1, 1100) n",
    )?;
    check()
}

#[test]
fn a_child_of_several_parents_obeys_holds_on_each() -> Result<()> {
    let node = shop()?;
    node.exec(
        "CREATE TABLE shop.one (a int); CREATE TABLE shop.two (b int);
         CREATE TABLE shop.both () INHERITS (shop.one, shop.two);
         INSERT INTO shop.both VALUES (1, 1), (2, 2)",
    )?;
    node.exec("SELECT custodian.place_hold('first', 'counsel', current_date + 30, 'r', rel => 'shop.two', match => '{\"b\":[7]}')")?;
    let mut writer = node.client()?;
    writer.batch_execute("BEGIN; DELETE FROM shop.both WHERE a = 1")?;
    let mut steward = node.client()?;
    let place = format!(
        "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'r', rel => 'shop.two')"
    );
    let error = steward.refused(&format!("SET lock_timeout = '300ms'; {place}"));
    assert_eq!(error.sqlstate(), "55P03", "{error}");
    writer.batch_execute("ROLLBACK")?;
    steward.batch_execute(&place)?;
    kept(&mut writer, "DELETE FROM shop.both WHERE a = 2");
    kept(&mut writer, "DELETE FROM shop.one");
    Ok(())
}

#[test]
fn tables_whose_minimums_have_passed_can_be_dropped_together() -> Result<()> {
    let node = shop()?;
    let make = "
        CREATE SCHEMA books AUTHORIZATION shop; SET ROLE shop;
        CREATE TABLE books.invoice (id int PRIMARY KEY, name text, issued_at date);
        CREATE TABLE books.line (invoice_id int CONSTRAINT line_invoice REFERENCES books.invoice, text text);
        INSERT INTO books.invoice VALUES (1, repeat('long', 10000), '1990-01-01');
        INSERT INTO books.line VALUES (1, 'line');
        RESET ROLE;
        SELECT custodian.tag_column('books.invoice', 'name', 'user.name', ARRAY['shop.account'], clock => 'issued_at', on_expiry => 'set_null');
        SELECT custodian.tag_column('books.line', 'text', 'user.behavior.purchase', ARRAY['shop.account'], clock => 'line_invoice.issued_at', on_expiry => 'set_null');
        SELECT custodian.require_minimum('cn.tax.invoice', 'books.invoice', ARRAY['name'], '10 years', 'Art. 60', clock => 'issued_at');
        SELECT custodian.require_minimum('cn.tax.invoice', 'books.line', ARRAY['text'], '10 years', 'Art. 60', clock => 'line_invoice.issued_at')";
    let mut owner = node.client_as("shop", "postgres")?;
    for drop in [
        "DROP TABLE books.invoice, books.line; DROP SCHEMA books",
        "DROP TABLE books.line, books.invoice; DROP SCHEMA books",
        "DROP SCHEMA books CASCADE",
    ] {
        node.exec(make)?;
        node.exec("UPDATE books.invoice SET issued_at = current_date")?;
        kept_by(&mut owner, drop, "Art. 60");
        // A statement that failed clears nothing for the next one.
        kept_by(
            &mut owner,
            &format!(
                "DO $$ BEGIN EXECUTE 'DROP TABLE books.line, missing'; EXCEPTION WHEN OTHERS THEN NULL; END $$; {drop}"
            ),
            "Art. 60",
        );
        node.exec(
            "SELECT custodian.enforce_minimum('cn.tax.invoice', 'warn');
             UPDATE books.invoice SET issued_at = '1990-01-01';
             SELECT custodian.enforce_minimum('cn.tax.invoice', 'refuse')",
        )?;
        owner.batch_execute(drop)?;
        node.exec("SELECT custodian.install_row_guard()")?;
    }
    Ok(())
}

#[test]
fn the_scheduler_puts_a_missing_guard_back() -> Result<()> {
    let node = shop()?;
    hold_customer(&node, 2)?;
    let mut client = node.client()?;
    // As after a restore that no hook of ours saw.
    client.batch_execute(
        "SET allow_system_table_mods = on;
         DELETE FROM pg_depend WHERE classid = 'pg_trigger'::regclass AND objid IN
             (SELECT oid FROM pg_trigger WHERE tgrelid = 'shop.ticket'::regclass AND tgfoid = 'custodian.row_guard'::regproc);
         DELETE FROM pg_trigger WHERE tgrelid = 'shop.ticket'::regclass AND tgfoid = 'custodian.row_guard'::regproc",
    )?;
    assert_eq!(
        client.text("SELECT object FROM custodian.check() WHERE code = 'row-guard-missing'")?,
        "shop.ticket"
    );
    node.alter_system("custodian.naptime", "1")?;
    wait_until("the guard is back", 60, || {
        node.text("SELECT count(*) FROM custodian.check() WHERE code = 'row-guard-missing'")
            .is_ok_and(|missing| missing == "0")
    });
    kept(&mut node.client()?, "DELETE FROM shop.ticket WHERE id = 2");
    Ok(())
}

#[test]
fn a_statutory_minimum_keeps_rows_until_its_period_has_passed() -> Result<()> {
    let node = shop()?;
    node.exec(
        "CREATE TABLE shop.invoice (id int PRIMARY KEY, name text, issued_at timestamptz);
         CREATE TABLE shop.line (id int PRIMARY KEY, invoice_id int CONSTRAINT line_invoice REFERENCES shop.invoice ON DELETE CASCADE, text text, price int);
         INSERT INTO shop.invoice VALUES (1, 'new', now() - interval '1 year'), (2, 'old', now() - interval '20 years'), (3, 'undated', NULL);
         INSERT INTO shop.line SELECT 10 * i + n, i, 'line', 1 FROM generate_series(1, 3) i, generate_series(1, 2) n;
         ALTER TABLE shop.invoice OWNER TO shop; ALTER TABLE shop.line OWNER TO shop;
         SELECT custodian.tag_column('shop.invoice', 'name', 'user.name', ARRAY['shop.account'], clock => 'issued_at', on_expiry => 'set_null');
         SELECT custodian.tag_column('shop.line', 'text', 'user.behavior.purchase', ARRAY['shop.account'], clock => 'line_invoice.issued_at', on_expiry => 'set_null');
         SELECT custodian.require_minimum('cn.tax.invoice', 'shop.invoice', ARRAY['name'], '10 years', 'Art. 60', clock => 'issued_at');
         SELECT custodian.require_minimum('cn.tax.invoice', 'shop.line', ARRAY['text'], '10 years', 'Art. 60', clock => 'line_invoice.issued_at')",
    )?;
    let mut owner = node.client_as("shop", "postgres")?;
    for sql in [
        "DELETE FROM shop.invoice WHERE id = 1",
        "DELETE FROM shop.invoice WHERE id = 3",
        "DELETE FROM shop.line WHERE invoice_id = 1",
        "UPDATE shop.invoice SET name = NULL WHERE id = 1",
        "UPDATE shop.line SET text = NULL WHERE id = 11",
        "TRUNCATE shop.line",
        "TRUNCATE shop.invoice CASCADE",
        "DROP TABLE shop.line",
        "ALTER TABLE shop.line DROP COLUMN text",
        "ALTER TABLE shop.invoice DROP COLUMN issued_at",
        "ALTER TABLE shop.line DROP COLUMN invoice_id",
        "ALTER TABLE shop.line DROP CONSTRAINT line_invoice",
        "ALTER TABLE shop.invoice DROP CONSTRAINT invoice_pkey CASCADE",
    ] {
        kept_by(&mut owner, sql, "Art. 60");
    }
    // A column that the minimum does not keep can change, and a kept one can be corrected.
    owner.batch_execute(
        "UPDATE shop.line SET price = 2; UPDATE shop.line SET text = 'corrected' WHERE id = 11",
    )?;
    // The old invoice may go, and takes its lines along: their clock went with it in the same statement.
    owner.batch_execute("DELETE FROM shop.invoice WHERE id = 2")?;
    assert_eq!(
        node.text("SELECT count(*) FROM shop.line WHERE invoice_id = 2")?,
        "0"
    );
    kept_by(
        &mut node.client()?,
        "SET session_replication_role = replica; DELETE FROM shop.invoice WHERE id = 1",
        "Art. 60",
    );
    // Without its clock a row is kept, and the rest of it can change as before.
    node.alter_system("custodian.minimum_guard", "warn")?;
    node.exec("ALTER TABLE shop.invoice DROP CONSTRAINT invoice_pkey CASCADE")?;
    node.alter_system("custodian.minimum_guard", "on")?;
    let mut owner = node.client_as("shop", "postgres")?;
    kept_by(
        &mut owner,
        "DELETE FROM shop.line WHERE id = 11",
        "cannot be told",
    );
    owner.batch_execute("UPDATE shop.line SET price = 3")?;
    node.exec(
        "ALTER TABLE shop.invoice ADD PRIMARY KEY (id);
         ALTER TABLE shop.line ADD CONSTRAINT line_invoice FOREIGN KEY (invoice_id) REFERENCES shop.invoice ON DELETE CASCADE",
    )?;
    kept_by(&mut owner, "DELETE FROM shop.line WHERE id = 11", "Art. 60");
    node.alter_system("custodian.minimum_guard", "warn")?;
    wait_until("the setting is read", 60, || {
        node.text("SHOW custodian.minimum_guard")
            .is_ok_and(|mode| mode == "warn")
    });
    node.exec("DELETE FROM shop.invoice WHERE id = 1")?;
    node.exec("DELETE FROM shop.invoice")?;
    wait_until("the warnings are recorded", 60, || {
        node.text("SELECT count(*) > 0 FROM custodian.guard_events WHERE gate = 'row' AND outcome = 'warned'")
            .is_ok_and(|some| some == "t")
    });
    assert_eq!(
        node.text("SELECT count(*) > 0 FROM custodian.guard_events WHERE gate = 'row' AND outcome = 'refused' AND reason LIKE '%Art. 60%'")?,
        "t"
    );
    Ok(())
}

#[test]
fn among_many_holds_sweeps_find_what_is_due() -> Result<()> {
    let node = shop()?;
    node.exec(
        "CREATE TABLE shop.person (id int PRIMARY KEY, name text, born date);
         CREATE TABLE shop.visit (id int PRIMARY KEY, person_id int REFERENCES shop.person, page text, at timestamptz);
         CREATE TABLE shop.alone (id int PRIMARY KEY, page text, at timestamptz);
         INSERT INTO shop.person SELECT n, 'name', CASE n WHEN 2 THEN date '1990-01-01' ELSE current_date END FROM generate_series(1, 3) n;
         INSERT INTO shop.visit SELECT n, n, 'page', '2020-01-01' FROM generate_series(1, 3) n;
         INSERT INTO shop.alone SELECT n, 'page', '2020-01-01' FROM generate_series(1, 3) n;
         SELECT custodian.define_purpose('shop.short', 'contract', '1 day');
         SELECT custodian.tag_table('shop.person', clock => 'born', subject_kind => 'person', subject_key => ARRAY['id'], on_expiry => 'delete'),
                custodian.tag_table('shop.visit', clock => 'at', subject_kind => 'visitor', subject_key => ARRAY['id'], on_expiry => 'delete'),
                custodian.tag_table('shop.alone', clock => 'at', subject_kind => 'visitor', subject_key => ARRAY['id'], on_expiry => 'delete');
         SELECT custodian.tag_column('shop.person', 'name', 'user.name', ARRAY['shop.short'], on_expiry => 'set_null'),
                custodian.tag_column('shop.visit', 'page', 'user.behavior', ARRAY['shop.short']),
                custodian.tag_column('shop.alone', 'page', 'user.behavior', ARRAY['shop.short'])",
    )?;
    // The guard looks at tables once a hold was placed.
    node.exec(&format!(
        "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'r', subject_kind => 'visitor', subject_key => ARRAY['2'])"
    ))?;
    node.exec(
        "INSERT INTO custodian.hold (matter, scope, subject_kind, subject_key, reason, approver, review_on)
         SELECT 'another', 'subject', 'visitor', ARRAY[(100 + n)::text], 'r', 'counsel', current_date + 30 FROM generate_series(1, 1500) n",
    )?;
    node.alter_system("custodian.max_disposal_fraction", "1")?;
    wait_until("the setting is read", 60, || {
        node.text("SHOW custodian.max_disposal_fraction")
            .is_ok_and(|fraction| fraction == "1")
    });
    let sweep = |table: &str| {
        node.exec(&format!(
            "SELECT * FROM custodian.sweep_now('shop.{table}')"
        ))
    };
    sweep("alone")?;
    sweep("alone")?;
    assert_eq!(node.text("SELECT id FROM shop.alone")?, "2");
    sweep("visit")?;
    assert_eq!(node.text("SELECT id FROM shop.visit")?, "2");
    // Its row cannot go, since the held one refers to it: it becomes a shell.
    sweep("person")?;
    assert_eq!(
        node.text("SELECT id, name IS NULL FROM shop.person ORDER BY id")?,
        "1|f\n2|t\n3|f"
    );
    // Nobody was held who is due now.
    node.exec("INSERT INTO shop.alone VALUES (4, 'page', '2020-01-01')")?;
    sweep("alone")?;
    assert_eq!(node.text("SELECT id FROM shop.alone")?, "2");
    Ok(())
}
