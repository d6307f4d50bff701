//! The policies of examples/ as documents: each says exactly what the SQL beside it declares.

use std::fs;
use std::path::{Path, PathBuf};

use integration::{Cluster, Result, Sql, quote_literal};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// Runs the SQL of an example, and compares what it declared with the document.
fn same(name: &str) -> Result<()> {
    let node = Cluster::builder("examples")
        .preload("pg_custodian")
        .conf("custodian.naptime = 3600")
        .start()?;
    let sql = fs::read_to_string(examples().join(format!("{name}.sql")))?;
    let output = node.psql_as("postgres", "postgres", &sql)?;
    assert!(output.success(), "{output}");
    let document = fs::read_to_string(examples().join(format!("{name}.json")))?;
    let document = quote_literal(&document);
    let mut client = node.client()?;
    assert_eq!(
        client.text(&format!("SELECT {document}::jsonb -> 'complete'"))?,
        "true"
    );
    assert_eq!(
        client.text(&format!(
            "SELECT object, change, before, after FROM custodian.apply_policy({document})"
        ))?,
        ""
    );
    // And the difference from a policy in which one of its periods is another is found.
    let purpose = client.text("SELECT min(name) FROM custodian.purposes WHERE ended_at IS NULL")?;
    client.batch_execute(&format!(
        "SELECT custodian.define_purpose(name, basis, '17 days', jurisdiction, required)
         FROM custodian.purposes WHERE name = {}",
        quote_literal(&purpose)
    ))?;
    assert_eq!(
        client.text(&format!(
            "SELECT object, change FROM custodian.apply_policy({document})"
        ))?,
        format!("purpose {purpose}|lengthen the period")
    );
    Ok(())
}

#[test]
fn the_document_of_the_wallpaper_application_is_its_policy() -> Result<()> {
    same("iwallpaper")
}

#[test]
fn the_document_on_logs_and_storage_is_its_policy() -> Result<()> {
    same("log-and-storage")
}
