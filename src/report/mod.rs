//! What stewards, DBAs and auditors ask for: findings with waivers, the schedule of retention, what is overdue, and
//! what was never reviewed.

mod columns;
mod overdue;
pub mod residency;
mod sample;
mod schedule;
pub mod since;
pub mod suggest;
pub mod uptime;
pub mod waive;
mod waiver;

pgrx::extension_sql_file!(
    "../../sql/report.sql",
    name = "report",
    requires = [
        "tag",
        "basis",
        "law",
        "evidence",
        schedule::scheduled_columns,
        suggest::review_coverage
    ]
);

pgrx::extension_sql_file!(
    "../../sql/uptime.sql",
    name = "uptime",
    requires = ["bootstrap"]
);
