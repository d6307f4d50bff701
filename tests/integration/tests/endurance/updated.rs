//! The extension is updated to another version, and back, while a sweep is at work.

use std::path::PathBuf;

use integration::host::pg_config;
use integration::{Result, wait_for_answer};

use super::{SLOW, all_gone_once, cluster, mid_sweep, truth};

/// Scripts of versions that only this test knows.
struct Scripts(Vec<PathBuf>);

impl Scripts {
    fn install(version: &str, other: &str) -> Result<Scripts> {
        let directory = PathBuf::from(pg_config("--sharedir")?).join("extension");
        let mut scripts = Scripts(Vec::new());
        for (from, to) in [(version, other), (other, version)] {
            let path = directory.join(format!("pg_custodian--{from}--{to}.sql"));
            std::fs::write(&path, "SELECT 1;\n")?;
            scripts.0.push(path);
        }
        Ok(scripts)
    }
}

impl Drop for Scripts {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[test]
fn an_update_in_mid_sweep_ends_the_worker_and_the_sweep_goes_on_once_versions_fit() -> Result<()> {
    let node = cluster("updated", &[])?;
    node.exec(SLOW)?;
    let version =
        node.text("SELECT extversion FROM pg_extension WHERE extname = 'pg_custodian'")?;
    let other = format!("{version}t");
    let _scripts = Scripts::install(&version, &other)?;
    mid_sweep(&node, 0);
    node.exec(&format!("ALTER EXTENSION pg_custodian UPDATE TO '{other}'"))?;
    // The worker left before the script ran.
    const SWEEPS: &str =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg\\_custodian sweep%'";
    assert_eq!(node.text(SWEEPS)?, "0");
    truth(&node)?;
    let gone = node.text("SELECT count(*) FROM gone")?;
    assert_ne!(gone, "300");
    // A library and an extension of different versions keep still.
    wait_for_answer(
        &node,
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_custodian scheduler'",
        "1",
    );
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(node.text(SWEEPS)?, "0");
    assert_eq!(node.text("SELECT count(*) FROM gone")?, gone);
    truth(&node)?;
    node.exec(&format!(
        "ALTER EXTENSION pg_custodian UPDATE TO '{version}'"
    ))?;
    all_gone_once(&node, "log")
}
