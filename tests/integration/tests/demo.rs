//! The demo holds with pgaudit beside the extension, in both orders, over both kinds of evidence of where a peer
//! is, and leaves nothing behind.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use integration::{Net, Result, host};

/// Processes that this run of the demo started and that are still there.
fn left_behind(pid: u32) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let mark = format!("DEMO_TEST={pid}\0");
        if environment
            .windows(mark.len())
            .any(|window| window == mark.as_bytes())
        {
            found.insert(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found
}

fn holds(preload: &str, network: &str) -> Result<()> {
    let library = format!("{}/pgaudit.so", host::pg_config("--pkglibdir")?);
    if !Path::new(&library).exists() {
        integration::not_run("pgaudit is not installed");
        return Ok(());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/run");
    let mark = std::process::id() * 10 + u32::from(network == "namespaces");
    let output = Command::new("bash")
        .arg(script)
        .env("DEMO_PRELOAD", preload)
        .env("DEMO_NETWORK", network)
        .env("DEMO_TEST", mark.to_string())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| integration::Error::new(format!("demo/run: {error}")))?;
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{told}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for step in 1..=6 {
        assert!(told.contains(&format!("Step {step}:")), "{told}");
    }
    assert_eq!(left_behind(mark), BTreeSet::new());
    Ok(())
}

#[test]
fn holds_with_pgaudit_before_it_and_namespaces() -> Result<()> {
    if let Err(reason) = Net::available() {
        integration::not_run(&format!("no network namespaces: {reason}"));
        return Ok(());
    }
    holds("pgaudit,pg_custodian", "namespaces")
}

#[test]
fn holds_with_pgaudit_after_it_and_certificates() -> Result<()> {
    holds("pg_custodian,pgaudit", "certificates")
}
