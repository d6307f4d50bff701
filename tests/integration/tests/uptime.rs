//! What was in force from when to when is written down by the scheduler, and so is that nothing was.

use integration::{Cluster, Result, Stop, wait_for_answer};

#[test]
fn an_auditor_sees_when_modes_changed_and_when_the_library_was_not_there() -> Result<()> {
    let node = Cluster::builder("uptime")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    let shown = "SELECT string_agg(concat_ws(' ', working, disposal, enforce_ddl, enforce_access, enforce_settings), ', ' ORDER BY began_at, until)
                 FROM custodian.enforcement_uptime";
    wait_for_answer(&node, shown, "t observe warn warn warn");
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(
        &node,
        shown,
        "t observe warn warn warn, t on warn warn warn",
    );
    node.alter_system("custodian.enforce_ddl", "on")?;
    let changed = "t observe warn warn warn, t on warn warn warn, t on on warn warn";
    wait_for_answer(&node, shown, changed);
    node.alter_system("custodian.enforce_settings", "off")?;
    let changed = format!("{changed}, t on on warn off");
    wait_for_answer(&node, shown, &changed);
    assert_eq!(
        node.text("SELECT enforce_ddl, enforce_settings FROM custodian.status")?,
        "on|off"
    );
    // One period ends where the next begins.
    assert_eq!(
        node.text(
            "SELECT count(*) FROM (SELECT until, lead(began_at) OVER (ORDER BY began_at) AS next FROM custodian.enforcement_uptime) p
             WHERE next <> until"
        )?,
        "0"
    );
    assert_eq!(
        node.text("SELECT string_agg(detail ->> 'disposal', ',' ORDER BY entry) FROM custodian.ledger WHERE kind = 'status.modes'")?,
        "observe,on,on,on"
    );

    // Without the library nothing is written down, and nothing was in force.
    node.alter_system("shared_preload_libraries", "plpgsql")?;
    node.stop(Stop::Fast)?;
    node.start()?;
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(node.text(shown)?, changed);
    node.alter_system("shared_preload_libraries", "pg_custodian")?;
    node.stop(Stop::Fast)?;
    node.start()?;
    wait_for_answer(&node, shown, &format!("{changed}, f, t on on warn off"));
    assert_eq!(
        node.text("SELECT until - began_at > interval '3 seconds' FROM custodian.enforcement_uptime WHERE NOT working")?,
        "t"
    );
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.ledger WHERE kind = 'status.modes' AND detail ->> 'unseen_since' IS NOT NULL")?,
        "1"
    );
    Ok(())
}
