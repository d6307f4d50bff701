//! Lawful lanes: registered and approved transfers, and the exact openings for them.
//!
//! [`model`] decides and knows no server. A peer from outside that wants logical replication is let in when a
//! lane is for it ([`session`]), and its commands pass when they are what the lane says. Physical replication
//! has no lanes: it ships everything. So does an archive of WAL, whose lanes are of another kind ([`archive`]).

pub mod archive;
pub mod keep;
pub mod model;
pub mod open;
pub mod qualify;
pub mod session;
pub mod store;
pub mod transfer;

pgrx::extension_sql_file!(
    "../../../sql/lane.sql",
    name = "lane",
    requires = ["bootstrap", "evidence"]
);
