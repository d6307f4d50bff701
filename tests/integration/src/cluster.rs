//! A running cluster: where it is, and how to talk to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};

use postgres::{Client, NoTls};

use crate::builder::Builder;
use crate::client::Sql;
use crate::error::Result;
use crate::host::WorkDir;
use crate::net::Place;
use crate::program::{Output, Program};

/// A PostgreSQL cluster in a temporary directory; it is stopped and removed when the value is dropped.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) settings: Settings,
    child: Mutex<Option<Child>>,
    // Last, so that the directory goes when everything else has gone.
    dir: WorkDir,
}

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) address: Option<String>,
    pub(crate) place: Option<Place>,
    pub(crate) env: Vec<(String, String)>,
}

impl Cluster {
    /// Describes a new cluster with this name (its `cluster_name`).
    #[must_use]
    pub fn builder(name: &str) -> Builder {
        Builder::new(name)
    }

    /// Describes a standby of this cluster, with this name (also its `application_name`).
    #[must_use]
    pub fn standby(&self, name: &str) -> Builder {
        Builder::standby_of(name, self)
    }

    pub(crate) fn new(dir: WorkDir, settings: Settings) -> Self {
        Self {
            settings,
            child: Mutex::new(None),
            dir,
        }
    }

    // ----- where it is -----

    /// Has it run in another network namespace, or in none, from its next start on.
    pub fn move_to(&mut self, place: Option<&Place>) {
        self.settings.place = place.cloned();
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.settings.port
    }

    /// The address on which it listens, if it does.
    #[must_use]
    pub fn address(&self) -> Option<String> {
        self.settings.address.clone()
    }

    /// Its own temporary directory, which the server's user may write; it goes away with the cluster.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir().join("data")
    }

    /// The directory of its unix socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        self.dir()
    }

    /// A connection string for its address, or if it has none its socket: for subscriptions and the like.
    #[must_use]
    pub fn conninfo(&self, role: &str, database: &str) -> String {
        let socket = self.socket_dir().display().to_string();
        let host = self.address().unwrap_or(socket);
        format!(
            "host={host} port={} user={role} dbname={database}",
            self.port()
        )
    }

    // ----- talking to it -----

    /// Connects as the superuser to the database postgres, over the unix socket.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn client(&self) -> Result<Client> {
        self.client_as("postgres", "postgres")
    }

    /// Connects over the unix socket.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn client_as(&self, role: &str, database: &str) -> Result<Client> {
        let mut config = self.client_config(role, database);
        config.host_path(self.socket_dir());
        Ok(config.connect(NoTls)?)
    }

    /// Connects from another place to the address of the cluster, without TLS.
    ///
    /// # Errors
    /// If the server refuses, or the cluster has no address.
    pub fn client_from(&self, place: &Place, role: &str, database: &str) -> Result<Client> {
        let address = self
            .address()
            .ok_or("this cluster listens on its socket only")?;
        let mut config = self.client_config(role, database);
        config.host(&address);
        place.enter(|| Ok(config.connect(NoTls)?))
    }

    fn client_config(&self, role: &str, database: &str) -> postgres::Config {
        let mut config = Client::configure();
        config
            .port(self.port())
            .user(role)
            .dbname(database)
            .connect_timeout(std::time::Duration::from_secs(20));
        config
    }

    /// Runs statements as the superuser in the database postgres, in a session of their own. Several statements are
    /// one transaction, so those that allow none (CREATE DATABASE, CALL with COMMIT) come alone.
    ///
    /// # Errors
    /// If one fails.
    pub fn exec(&self, sql: &str) -> Result<()> {
        Ok(self.client()?.batch_execute(sql)?)
    }

    /// What a query of the superuser in the database postgres gives, as text: see [`Sql::text`].
    ///
    /// # Errors
    /// If it fails.
    pub fn text(&self, sql: &str) -> Result<String> {
        self.client()?.text(sql)
    }

    /// Makes a database, and connects to it as the superuser.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn create_database(&self, name: &str) -> Result<Client> {
        self.exec(&format!(
            "CREATE DATABASE \"{}\"",
            name.replace('"', "\"\"")
        ))?;
        self.client_as("postgres", name)
    }

    /// A program that connects to this cluster (by its socket, as `postgres`, to the database postgres), unless it is
    /// told otherwise: `psql`, `pg_dump`, `pg_basebackup`, `pg_recvlogical`, `pgbench`, …
    ///
    /// # Errors
    /// If PostgreSQL is not found.
    pub fn program(&self, name: &str) -> Result<Program> {
        let program = Program::new(name, self.dir())?
            .address(self.address())
            .env("PGHOST", self.socket_dir())
            .env("PGPORT", self.port().to_string())
            .role("postgres")
            .database("postgres");
        Ok(program)
    }

    /// Runs psql as the superuser, with unaligned output, and stops at the first error.
    ///
    /// # Errors
    /// If psql cannot be run. That a statement fails shows in the output.
    pub fn psql(&self, sql: &str) -> Result<Output> {
        self.psql_as("postgres", "postgres", sql)
    }

    /// Runs psql as another role or in another database.
    ///
    /// # Errors
    /// If psql cannot be run. That a statement fails shows in the output.
    pub fn psql_as(&self, role: &str, database: &str, sql: &str) -> Result<Output> {
        self.program("psql")?
            .role(role)
            .database(database)
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-"])
            .stdin(sql)
            .run()
    }

    // ----- its log -----

    /// The file with the log of all its runs.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.dir().join("log")
    }

    /// The log of all its runs.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// Waits until the log contains `text`.
    ///
    /// # Panics
    /// If it does not within `seconds`.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str, seconds: u64) {
        crate::wait::wait_until(
            &format!("the log of {} contains {text:?}", self.name()),
            seconds,
            || self.log().contains(text),
        );
    }

    pub(crate) fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    pub(crate) fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
