//! Keys of pseudonyms: rotated, carried to another database, and old pseudonyms still recognised.

use integration::{Cluster, Result, Sql, quote_literal};

const SCHEMA: &str = "
    CREATE TABLE person (id int PRIMARY KEY, name text, seen timestamptz NOT NULL);
    SELECT custodian.define_purpose('shop.account', 'contract', '200 days');
    SELECT custodian.tag_table('person', clock => 'seen');
    SELECT custodian.tag_column('person', 'name', 'user.name', '{shop.account}', on_expiry => 'hmac');
    INSERT INTO person SELECT n, 'Wang', now() - interval '1 year' FROM generate_series(1, 3) n";

const SWEEP: &str = "SELECT coalesce(sum(rows), 0) FROM custodian.sweep_now('person')";

/// How many pseudonyms there are, made by how many keys.
const MADE: &str = "SELECT count(*) FILTER (WHERE name LIKE 'ps1.%'), count(DISTINCT split_part(name, '.', 2)) FROM person";

#[test]
fn a_new_key_makes_new_pseudonyms_and_leaves_old_ones_as_they_are() -> Result<()> {
    let node = Cluster::builder("rotate")
        .preload("pg_custodian")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.steward_role = 'steward'")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian; CREATE ROLE steward; CREATE ROLE other")?;
    node.exec(SCHEMA)?;
    assert_eq!(node.text(SWEEP)?, "3");
    let before = node.text("SELECT string_agg(name, ',' ORDER BY id) FROM person")?;
    let earlier = node.text("SELECT custodian.export_keys()")?;

    let mut client = node.client()?;
    client.batch_execute("SET ROLE other")?;
    let rotate = "SELECT custodian.rotate_pseudonym_key()";
    assert_eq!(client.refused(rotate).sqlstate(), "42501");
    client.batch_execute("SET ROLE steward")?;
    let id = client.text(rotate)?;
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.ledger WHERE kind = 'key.rotated'")?,
        "1"
    );

    // Nothing is due: what the old key made is as the method leaves it.
    assert_eq!(node.text(SWEEP)?, "0");
    // It becomes due after what was swept.
    node.exec("INSERT INTO person VALUES (4, 'Wang', now() - interval '199 days')")?;
    let mut later = node.client()?;
    later.batch_execute("SET custodian.clock_offset = '2d'")?;
    assert_eq!(later.text(SWEEP)?, "1");
    assert_eq!(
        node.text("SELECT string_agg(name, ',' ORDER BY id) FROM person WHERE id < 4")?,
        before
    );
    assert_eq!(node.text(MADE)?, "4|2");
    assert_eq!(
        node.text(&format!(
            "SELECT split_part(name, '.', 2) = left({}, 8) FROM person WHERE id = 4",
            quote_literal(&id)
        ))?,
        "t"
    );

    // A copy goes on with the key that was in use last, and an export of before the rotation does not do.
    let keys = node.text("SELECT custodian.export_keys()")?;
    let dump = node.program("pg_dump")?.run()?.ok()?;
    let mut copy = node.create_database("copy")?;
    let output = node.psql_as("postgres", "copy", &dump)?;
    assert!(output.success(), "{output}");
    copy.batch_execute("INSERT INTO person VALUES (5, 'Wang', now() - interval '1 year')")?;
    for (keys, armed) in [(&earlier, "f"), (&keys, "t")] {
        copy.text(&format!(
            "SELECT custodian.import_keys({})",
            quote_literal(keys)
        ))?;
        assert_eq!(copy.text("SELECT armed FROM custodian.status")?, armed);
        let outcome = if armed == "t" {
            assert_eq!(copy.text(SWEEP)?, "1");
            continue;
        } else {
            copy.refused(rotate)
        };
        assert_eq!(outcome.sqlstate(), "55000");
        assert_eq!(copy.refused(SWEEP).sqlstate(), "55000");
    }
    assert_eq!(
        copy.text("SELECT count(DISTINCT name) FROM person WHERE id >= 4")?,
        "1"
    );
    Ok(())
}
