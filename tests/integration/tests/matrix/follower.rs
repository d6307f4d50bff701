//! A standby that follows the node, or the node's own standby, as a peer does. It has no guard of its own, and comes to be where
//! each peer is: what it has got of an attempt is in its data directory.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;

use integration::{Cluster, Output, Place, Result, Sql, Stop, poll, quote_literal};

#[derive(Debug)]
pub struct Follower {
    cluster: Cluster,
}

impl Follower {
    /// A copy that was made on the machine itself, before there is anything to be found.
    pub fn new(node: &Cluster) -> Result<Self> {
        let cluster = node
            .standby("follower")
            .copy_locally()
            .conf("shared_preload_libraries = ''")
            .conf("wal_retrieve_retry_interval = '1h'")
            .prepare()?;
        Ok(Self { cluster })
    }

    pub fn data(&self) -> PathBuf {
        self.cluster.data_dir()
    }

    /// Starts it at a place, and stops it when it has WAL up to `lsn`, or could not connect. Whether it has, and its log.
    pub fn follow(&mut self, place: Option<&Place>, conninfo: &str, lsn: &str) -> Result<Output> {
        self.cluster.move_to(place);
        self.cluster.write_file(
            "postgresql.auto.conf",
            &format!("primary_conninfo = {}\n", quote_literal(conninfo)),
        )?;
        let start = std::fs::metadata(self.cluster.log_file()).map_or(0, |file| file.len());
        self.cluster.start()?;
        let question = format!("SELECT pg_last_wal_replay_lsn() >= {}", quote_literal(lsn));
        let mut client = self.cluster.client()?;
        let outcome = poll(60, || {
            if client.text(&question).is_ok_and(|answer| answer == "t") {
                return Some(true);
            }
            let log = self.log_since(start).unwrap_or_default();
            log.contains("could not connect to the primary server")
                .then_some(false)
        });
        drop(client);
        self.cluster.stop(Stop::Immediate)?;
        Ok(Output {
            status: ExitStatus::from_raw(if outcome == Some(true) { 0 } else { 1 << 8 }),
            stdout: String::new(),
            stderr: self.log_since(start)?,
        })
    }

    fn log_since(&self, start: u64) -> Result<String> {
        let mut file = File::open(self.cluster.log_file())?;
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
