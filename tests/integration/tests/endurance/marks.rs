//! Watermarks survive whatever ends a server: nothing is looked at as a whole again, and what comes late behind them goes.

use integration::{Cluster, Result, Stop, wait_for_answer, wait_until_swept};

use super::{SLOW, cluster};

const MARKS: &str = "SELECT leaf, swept_until, audited_at FROM custodian.watermarks";

/// A late row goes, and the leaf was not looked at as a whole for that.
fn goes_on_from(node: &Cluster, marks: &str) -> Result<()> {
    assert_eq!(node.text(MARKS)?, marks);
    node.exec("INSERT INTO log VALUES (0, 'x', now() - interval '1 year')")?;
    wait_for_answer(node, "SELECT count(*), min(id) FROM log", "100|301");
    wait_until_swept(node, "log");
    let audited = |marks: &str| marks.rsplit('|').next().map(str::to_owned);
    assert_eq!(audited(&node.text(MARKS)?), audited(marks));
    assert_eq!(
        node.text("SELECT count(*), count(DISTINCT id), max(id) FROM gone WHERE id > 0")?,
        "300|300|300"
    );
    Ok(())
}

#[test]
fn watermarks_survive_a_restart_a_crash_and_a_promotion() -> Result<()> {
    let node = cluster("marks", &[])?;
    node.exec(SLOW)?;
    wait_for_answer(&node, "SELECT count(*) FROM log", "100");
    wait_until_swept(&node, "log");
    let marks = node.text(MARKS)?;
    node.restart()?;
    goes_on_from(&node, &marks)?;

    let marks = node.text(MARKS)?;
    node.stop(Stop::Immediate)?;
    node.start()?;
    goes_on_from(&node, &marks)?;

    let standby = node.standby("promoted").start()?;
    node.wait_for_catchup(&standby, 60)?;
    let marks = node.text(MARKS)?;
    node.stop(Stop::Fast)?;
    standby.promote()?;
    goes_on_from(&standby, &marks)?;
    assert_eq!(standby.text("SELECT count(*) FROM custodian.pauses")?, "0");
    Ok(())
}
