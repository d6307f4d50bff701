//! Publications that were there before the extension came.

use integration::{Cluster, Result, Sql};

fn published(name: &str) -> Result<Cluster> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.region = 'cn'")
        .conf("custodian.enforce = 'on'")
        .conf("wal_level = logical")
        .file(
            "custodian_regions.conf",
            "region cn\nregion eu\nlocal postgres\n",
        )
        .start()?;
    node.exec(
        "CREATE TABLE customer (id int PRIMARY KEY, email text);
         CREATE PUBLICATION everything FOR ALL TABLES; CREATE ROLE dba LOGIN SUPERUSER",
    )?;
    Ok(node)
}

#[test]
fn the_extension_comes_to_a_database_where_all_tables_are_published() -> Result<()> {
    let node = published("published")?;
    // From outside as well.
    node.client_as("dba", "postgres")?
        .batch_execute("BEGIN; CREATE EXTENSION pg_custodian; ROLLBACK")?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    let finding =
        "SELECT severity, object FROM custodian.check() WHERE code = 'publication-of-own-tables'";
    assert_eq!(node.text(finding)?, "error|everything");
    // No more tables join from then on, by whatever: its own script is the only one that is not judged.
    for sql in [
        "CREATE TABLE more (note text)",
        "CREATE TABLE custodian.more (note text)",
        "SELECT id INTO more FROM customer",
    ] {
        let refused = node.client()?.refused(sql);
        assert_eq!(refused.sqlstate(), "42501", "{sql}: {refused}");
    }
    node.exec("DROP PUBLICATION everything; CREATE TABLE more (note text)")?;
    assert_eq!(node.text(finding)?, "");
    Ok(())
}

#[test]
fn the_extension_is_updated_where_all_tables_are_published() -> Result<()> {
    let node = published("updated")?;
    node.exec(
        "CREATE EXTENSION pg_custodian VERSION '0.1.0'; ALTER EXTENSION pg_custodian UPDATE",
    )?;
    assert_eq!(
        node.text("SELECT extversion FROM pg_extension WHERE extname = 'pg_custodian'")?,
        "0.2.0"
    );
    Ok(())
}
