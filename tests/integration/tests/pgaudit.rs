//! pgaudit uses the same hooks: both libraries must do their work, whichever is loaded first.

use integration::{Cluster, Result, host};

#[test]
fn preloaded_after_pgaudit() -> Result<()> {
    both_work(["pgaudit", "pg_custodian"])
}

#[test]
fn preloaded_before_pgaudit() -> Result<()> {
    both_work(["pg_custodian", "pgaudit"])
}

fn both_work(order: [&str; 2]) -> Result<()> {
    let library = format!("{}/pgaudit.so", host::pg_config("--pkglibdir")?);
    if !std::path::Path::new(&library).exists() {
        integration::not_run("pgaudit is not installed");
        return Ok(());
    }
    let node = Cluster::builder("audited")
        .preload(order[0])
        .preload(order[1])
        .conf("pgaudit.log = 'ddl, read'")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian; CREATE EXTENSION pgaudit")?;
    node.exec("CREATE TABLE audited (id int)")?;
    node.wait_for_log("CREATE TABLE,TABLE,public.audited", 10);
    node.text("SELECT id FROM audited")?;
    node.wait_for_log("READ,SELECT,,,SELECT id FROM audited", 10);
    let refused =
        node.exec(r#"SECURITY LABEL FOR custodian ON COLUMN audited.id IS '{"no_such_field":1}'"#);
    let text = refused.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(text.contains("no_such_field"), "{text}");
    Ok(())
}
