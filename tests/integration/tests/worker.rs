//! The life of launcher and schedulers: they start by themselves, come back, and are never in the way.

use std::time::{Duration, Instant};

use integration::{Cluster, Result, Sql, Stop, wait_until};

const SCHEDULERS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_custodian scheduler'";

fn cluster(name: &str) -> Result<Cluster> {
    Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .start()
}

fn schedulers_of(node: &Cluster, database: &str) -> String {
    node.text(&format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE backend_type = 'pg_custodian scheduler' AND datname = '{database}'"
    ))
    .unwrap_or_default()
}

fn wait_for_scheduler(node: &Cluster, database: &str) {
    wait_until("a scheduler runs", 30, || {
        schedulers_of(node, database) == "1"
    });
}

fn wait_for_none(node: &Cluster, database: &str) {
    wait_until("no scheduler runs", 30, || {
        schedulers_of(node, database) == "0"
    });
}

/// The process id of a worker that is not `before`.
fn new_pid(node: &Cluster, kind: &str, before: &str) -> String {
    let mut pid = String::new();
    wait_until(&format!("a new {kind} runs"), 60, || {
        pid = node
            .text(&format!(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_custodian {kind}'"
            ))
            .unwrap_or_default();
        !pid.is_empty() && pid != before
    });
    pid
}

#[test]
fn scheduler_follows_create_and_drop_extension() -> Result<()> {
    let node = cluster("follows")?;
    new_pid(&node, "launcher", "");
    wait_until("the databases were looked into", 30, || {
        node.text(SCHEDULERS).is_ok_and(|n| n == "0")
    });

    node.exec("CREATE EXTENSION pg_custodian")?;
    wait_for_scheduler(&node, "postgres");

    // One that was rolled back starts nothing.
    node.exec("CREATE DATABASE other")?;
    let mut other = node.client_as("postgres", "other")?;
    other.text("BEGIN; CREATE EXTENSION pg_custodian; ROLLBACK")?;
    other.text("CREATE EXTENSION pg_custodian")?;
    wait_for_scheduler(&node, "other");

    other.text("DROP EXTENSION pg_custodian")?;
    wait_for_none(&node, "other");
    assert_eq!(schedulers_of(&node, "postgres"), "1");
    other.text("CREATE EXTENSION pg_custodian")?;
    wait_for_scheduler(&node, "other");
    Ok(())
}

#[test]
fn commands_on_databases_are_not_held_up() -> Result<()> {
    let node = cluster("databases")?;
    node.exec("CREATE DATABASE app")?;
    node.client_as("postgres", "app")?
        .text("CREATE EXTENSION pg_custodian")?;
    wait_for_scheduler(&node, "app");

    node.exec("CREATE DATABASE copy TEMPLATE app")?;
    // The copy has the extension, and so gets a scheduler; the original gets its own back.
    wait_for_scheduler(&node, "app");

    node.exec("ALTER DATABASE app RENAME TO renamed")?;
    wait_for_scheduler(&node, "renamed");

    let start = Instant::now();
    node.exec("DROP DATABASE renamed")?;
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(
        node.text("SELECT count(*) FROM pg_database WHERE datname IN ('app', 'renamed')")?,
        "0"
    );
    wait_for_scheduler(&node, "copy");
    Ok(())
}

#[test]
fn a_role_that_may_not_drop_the_database_cannot_stop_its_scheduler() -> Result<()> {
    let node = cluster("refused")?;
    node.exec("CREATE ROLE mallory LOGIN")?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    let pid = new_pid(&node, "scheduler", "");
    wait_for_scheduler(&node, "postgres");
    let mut mallory = node.client_as("mallory", "template1")?;
    assert_eq!(
        mallory.refused("DROP DATABASE postgres").sqlstate(),
        "42501"
    );
    assert_eq!(
        mallory
            .refused("ALTER DATABASE postgres RENAME TO mine")
            .sqlstate(),
        "42501"
    );
    assert_eq!(
        mallory
            .refused("CREATE DATABASE mine TEMPLATE postgres")
            .sqlstate(),
        "42501"
    );
    assert_eq!(
        node.text(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_custodian scheduler'"
        )?,
        pid
    );
    Ok(())
}

#[test]
fn terminated_workers_come_back() -> Result<()> {
    let node = cluster("back")?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    wait_for_scheduler(&node, "postgres");
    let scheduler = new_pid(&node, "scheduler", "");
    let launcher = new_pid(&node, "launcher", "");

    node.exec(&format!("SELECT pg_terminate_backend({launcher})"))?;
    let launcher = new_pid(&node, "launcher", &launcher);
    // The scheduler outlives its launcher, and stays the only one.
    wait_for_scheduler(&node, "postgres");
    assert_eq!(new_pid(&node, "scheduler", ""), scheduler);

    node.exec(&format!("SELECT pg_terminate_backend({scheduler})"))?;
    let scheduler = new_pid(&node, "scheduler", &scheduler);
    node.exec(&format!(
        "SELECT pg_terminate_backend({launcher}), pg_terminate_backend({scheduler})"
    ))?;
    new_pid(&node, "launcher", &launcher);
    new_pid(&node, "scheduler", &scheduler);
    wait_for_scheduler(&node, "postgres");
    Ok(())
}

#[test]
fn a_fast_shutdown_does_not_wait_for_the_nap() -> Result<()> {
    let node = Cluster::builder("shutdown")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1h")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    wait_for_scheduler(&node, "postgres");
    let start = Instant::now();
    node.stop(Stop::Fast)?;
    assert!(start.elapsed() < Duration::from_secs(10));
    node.start()?;
    wait_for_scheduler(&node, "postgres");
    node.stop(Stop::Immediate)?;
    node.start()?;
    wait_for_scheduler(&node, "postgres");
    Ok(())
}

#[test]
fn a_standby_has_schedulers_once_it_is_promoted() -> Result<()> {
    let node = cluster("primary")?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    let standby = node.standby("standby").start()?;
    node.wait_for_catchup(&standby, 60)?;
    assert_eq!(
        standby.text(
            "SELECT string_agg(backend_type, ',') FROM pg_stat_activity WHERE backend_type LIKE 'pg\\_custodian%'"
        )?,
        "pg_custodian sentinel"
    );
    standby.promote()?;
    wait_for_scheduler(&standby, "postgres");
    Ok(())
}

#[test]
fn without_preload_the_extension_and_its_settings_are_there() -> Result<()> {
    let node = Cluster::builder("plain").start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    let mut client = node.client()?;
    client.text("LOAD 'pg_custodian'")?;
    assert_eq!(client.text("SHOW custodian.naptime")?, "1min");
    assert_eq!(node.text(SCHEDULERS)?, "0");
    Ok(())
}
