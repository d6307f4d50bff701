//! Real clusters for tests: primaries, standbys, network namespaces and certificates, each in one line.
//!
//! ```no_run
//! use integration::{Cluster, Net, Result, Sql, Stop, wait_until};
//!
//! # fn main() -> Result<()> {
//! let node = Cluster::builder("primary")
//!     .preload("pg_custodian")
//!     .conf("log_min_messages = debug1")
//!     .start()?;
//! node.exec("CREATE EXTENSION pg_custodian; CREATE TABLE t (a int); INSERT INTO t VALUES (1)")?;
//! assert_eq!(node.text("SELECT a, a + 1 FROM t")?, "1|2"); // as psql -At prints it
//!
//! let mut client = node.client()?; // a `postgres::Client`; see also `client_as`, `client_from`
//! let error = client.refused("SELECT * FROM missing");
//! assert_eq!(error.sqlstate(), "42P01");
//!
//! let standby = node.standby("standby").start()?;
//! node.wait_for_catchup(&standby, 60)?;
//!
//! let output = node.program("pg_dump")?.arg("--schema-only").run()?; // what a real program writes
//! assert!(output.ok()?.contains("CREATE TABLE"));
//!
//! node.alter_system("work_mem", "8MB")?; // with a reload
//! node.stop(Stop::Fast)?;
//! node.start()?;
//! node.crash()?; // SIGKILL for all processes
//! node.start()?;
//! wait_until("the standby streams again", 60, || {
//!     node.text("SELECT count(*) FROM pg_stat_replication").is_ok_and(|n| n == "1")
//! });
//!
//! // Namespaces: `cn-a` and `cn-b` are in region cn (10.86.0.0/16), `eu` is in region eu (10.33.0.0/16).
//! let net = Net::new(&["cn-a", "cn-b", "eu"])?;
//! let node = Cluster::builder("primary").place(net.at("cn-a")).start()?;
//! let standby = node.standby("standby").place(net.at("cn-b")).start()?;
//! let outside = node.program("psql")?.from(net.at("eu")).args(["-c", "SELECT 1"]).run()?;
//! let mut client = node.client_from(net.at("eu"), "postgres", "postgres")?;
//! # Ok(())
//! # }
//! ```
//!
//! Everything goes away when the values are dropped, also when a test panics; the end of the log is printed then.
//! Declare a [`Net`] and [`Certs`] before the clusters that use them. Set `CUSTODIAN_TEST_KEEP=1` to keep the
//! directories. When the tests run as root, servers and programs run as user `postgres`. PostgreSQL is the one of
//! `PG_CONFIG`, into which the extension must have been installed (`make install` or `make test` do that).
//!
//! A test that needs namespaces begins with [`needs_net!`], which ends it where the machine cannot make them.

pub mod builder;
pub mod certs;
pub mod client;
pub mod cluster;
pub mod error;
pub mod host;
pub mod life;
mod lost_addresses;
mod moved_clock;
pub mod net;
pub mod program;
pub mod wait;

pub use builder::Builder;
pub use certs::{Certs, ClientCert};
pub use client::{Sql, quote_literal};
pub use cluster::Cluster;
pub use error::{Error, Result};
pub use life::Stop;
pub use lost_addresses::LostAddresses;
pub use moved_clock::MovedClock;
pub use net::{Net, Place};
pub use program::{Output, Program, Running};
pub use wait::{
    blocked, poll, wait_for, wait_for_answer, wait_for_two_rounds, wait_until, wait_until_swept,
};

/// Says that a test is not run here, past the harness that would hide what a passed test prints; `make test` counts it.
pub fn not_run(reason: &str) {
    use std::io::Write;
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "not run: {test}: {reason}");
}

/// Ends a test (successfully) where no network namespaces can be made, and says so. With `CUSTODIAN_TEST_NEEDS_NET=1`,
/// as where namespaces are known to work, it fails instead.
#[macro_export]
macro_rules! needs_net {
    () => {
        if let Err(reason) = $crate::Net::available() {
            assert!(
                std::env::var_os("CUSTODIAN_TEST_NEEDS_NET").is_none(),
                "no network namespaces: {reason}"
            );
            $crate::not_run(&format!("no network namespaces: {reason}"));
            return Ok(());
        }
    };
}
