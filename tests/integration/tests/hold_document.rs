//! What holds and minimums keep inside JSON documents from users' statements.

use integration::{Cluster, Result, Sql};

/// A document per row, of which `contact.email` and `note` are tagged; row 3 is nobody's who is held.
const TABLES: &str = r#"
CREATE EXTENSION pg_custodian;
CREATE ROLE counsel;
CREATE DOMAIN paper AS jsonb;
CREATE TABLE profile (id int PRIMARY KEY, doc paper, at timestamptz);
INSERT INTO profile SELECT n, '{"contact":{"email":"e","phone":1},"note":1.50,"theme":"dark"}', now() FROM generate_series(1, 3) n;
SELECT custodian.define_purpose('shop.account', 'contract', '50 years');
SELECT custodian.tag_table('profile', clock => 'at', subject_kind => 'customer', subject_key => '{id}');
SELECT custodian.tag_column('profile', 'doc', 'user.contact.email', '{shop.account}', path => '{contact,email}', on_expiry => 'set_null');
SELECT custodian.tag_column('profile', 'doc', 'user.note', '{shop.account}', path => '{note}', on_expiry => 'set_null')"#;

#[test]
fn only_the_kept_paths_of_a_document_are_kept() -> Result<()> {
    let node = Cluster::builder("hold_document")
        .preload("pg_custodian")
        .conf("custodian.naptime = 3600")
        .conf("custodian.disposal = off")
        .start()?;
    node.exec(TABLES)?;
    node.exec(
        "SELECT custodian.place_hold('m', 'counsel', current_date + 1, 'r', subject_kind => 'customer', subject_key => '{1}')",
    )?;
    let mut client = node.client()?;
    let change =
        |document: &str, id: i32| format!("UPDATE profile SET doc = {document} WHERE id = {id}");

    // A hold: no value of a tagged path becomes another one.
    for document in [
        r#"jsonb_set(doc, '{contact,email}', '"f"')"#,
        "doc #- '{contact,email}'",
        "doc - 'contact'",
        // Other text, though the same number.
        "jsonb_set(doc, '{note}', '1.5')",
        // The path leads through objects only.
        r#"jsonb_set(doc, '{contact}', '[{"email":"e"}]')"#,
        "NULL",
        "to_jsonb(1)",
    ] {
        let error = client.refused(&change(document, 1));
        assert_eq!(error.sqlstate(), "23001", "{document}: {error}");
        client.batch_execute(&format!("BEGIN; {}; ROLLBACK", change(document, 3)))?;
    }
    for document in [
        r#"jsonb_set(doc, '{theme}', '"light"')"#,
        "jsonb_set(doc, '{contact,phone}', '2')",
        "doc - 'theme'",
        r#"doc || '{"more": {"note": 7}}'"#,
    ] {
        client.batch_execute(&change(document, 1))?;
    }
    assert_eq!(
        client
            .text("SELECT doc #>> '{contact,email}', doc ->> 'note' FROM profile WHERE id = 1")?,
        "e|1.50"
    );

    // A minimum: a value may be corrected, and not go.
    client.batch_execute(
        "SELECT custodian.require_minimum('law.note', 'profile', '{doc.note}', '10 years', 'Art. 3')",
    )?;
    for document in [
        "doc - 'note'",
        "jsonb_set(doc, '{note}', 'null')",
        "NULL",
        "to_jsonb(1)",
        "'{}'",
    ] {
        let error = client.refused(&change(document, 2));
        assert_eq!(error.sqlstate(), "23001", "{document}: {error}");
        assert!(error.to_string().contains("Art. 3"), "{document}: {error}");
    }
    for document in [
        "jsonb_set(doc, '{note}', '2')",
        "doc - 'contact'",
        r#"'{"note": [1]}'"#,
    ] {
        client.batch_execute(&change(document, 2))?;
    }
    // Nothing is lost where nothing was.
    client.batch_execute(
        "INSERT INTO profile VALUES (4, '{\"theme\":1}', now());
         UPDATE profile SET doc = NULL WHERE id = 4",
    )?;

    // The whole document is kept once the column itself is tagged.
    client.batch_execute(
        "SELECT custodian.tag_column('profile', 'doc', 'user.content', '{shop.account}', on_expiry => 'set_null')",
    )?;
    let error = client.refused(&change(r#"jsonb_set(doc, '{contact,phone}', '3')"#, 1));
    assert_eq!(error.sqlstate(), "23001", "{error}");
    Ok(())
}
