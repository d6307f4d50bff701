//! What the views tell in the middle of a sweep is what is the case.

use integration::Result;

use super::killed::{ASLEEP, prepared, process};
use super::{all_gone_once, truth};

#[test]
fn progress_and_metrics_are_true_in_mid_sweep() -> Result<()> {
    let node = prepared("views", &[])?;
    node.exec("INSERT INTO hold VALUES ('200')")?;
    node.alter_system("custodian.disposal", "on")?;
    process(&node, "a batch is held", ASLEEP);
    truth(&node)?;
    assert_eq!(
        node.text(
            "SELECT state, phase, leaf, action, rows_planned, blocks_total,
                    rows_done = (SELECT count(*) FROM gone) AND rows_done BETWEEN 100 AND 199,
                    -- A block has one row; it is shown once a second.
                    blocks_done BETWEEN 1 AND rows_done,
                    abs(rows_per_second * extract(epoch FROM clock_timestamp() - started_at) - rows_done) < 1,
                    estimated_end > clock_timestamp()
             FROM custodian.progress"
        )?,
        "running|disposing|public.log|delete row|300|400|t|t|t|t"
    );
    assert_eq!(
        node.text(
            "SELECT m.value = p.rows_planned - p.rows_done FROM custodian.metrics m, custodian.progress p
             WHERE m.name = 'custodian_overdue_rows' AND m.labels ->> 'relation' = p.relation_name"
        )?,
        "t"
    );
    // What is counted as done is so for good: it does not wait for the batch that is held.
    assert_eq!(
        node.text("SELECT rows = 300 - (SELECT count(*) FROM gone) FROM custodian.overdue")?,
        "t"
    );
    node.exec("DELETE FROM hold")?;
    node.exec("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")?;
    all_gone_once(&node, "log")
}
