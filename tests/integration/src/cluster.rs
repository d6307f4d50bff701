//! A running cluster: how to talk to it, and how to end it, gently or not.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use postgres::{Client, NoTls};

use crate::builder::Builder;
use crate::client::{Sql, quote_literal};
use crate::error::{Error, Result};
use crate::host::{WorkDir, bindir, processes_in, signal, write_private};
use crate::net::Place;
use crate::program::{Output, Program, spawn};
use crate::wait::poll;

/// Seconds that a server may take to start or stop.
const PATIENCE: u64 = 90;

/// A PostgreSQL cluster in a temporary directory; it is stopped and removed when the value is dropped.
#[derive(Debug)]
pub struct Cluster {
    settings: Settings,
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

/// How to stop a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Waits for the end of all sessions.
    Smart,
    /// Ends all sessions, and shuts down.
    Fast,
    /// Ends all processes at once: the next start recovers.
    Immediate,
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

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    // ----- its life -----

    /// Starts it (again), and waits until it accepts connections.
    ///
    /// # Errors
    /// If it is running, or does not start; the text shows the end of its log.
    pub fn start(&self) -> Result<()> {
        let mut child = self.child();
        if child.is_some() {
            return Err(Error::new(format!("{} is running", self.name())));
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let mut command = Command::new(bindir()?.join("postgres"));
        command
            .arg("-D")
            .arg(self.data_dir())
            .env("LC_ALL", "C.UTF-8")
            .envs(self.settings.env.iter().cloned())
            .current_dir(self.dir())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut started = spawn(command, self.settings.place.as_ref(), libc::SIGQUIT)?;
        let outcome = poll(PATIENCE, || match started.try_wait() {
            Ok(None) => self.accepts_connections().then_some(true),
            _ => Some(false),
        });
        if outcome.is_none() {
            let _ = started.kill();
            let _ = started.wait();
        }
        match outcome {
            Some(true) => {
                *child = Some(started);
                Ok(())
            }
            Some(false) => Err(self.failure("ended while it started")),
            None => Err(self.failure("did not start in time")),
        }
    }

    /// Whether the postmaster says in its pid file that it accepts connections.
    fn accepts_connections(&self) -> bool {
        let file = fs::read_to_string(self.data_dir().join("postmaster.pid")).unwrap_or_default();
        file.lines()
            .nth(7)
            .is_some_and(|status| status.trim() == "ready")
    }

    fn failure(&self, what: &str) -> Error {
        Error::new(format!(
            "{} {what}; its log ends with:\n{}",
            self.name(),
            self.log_tail()
        ))
    }

    /// Whether the postmaster runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.child().as_mut().map(Child::try_wait), Some(Ok(None)))
    }

    /// The process id of the postmaster.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&self) -> Result<libc::pid_t> {
        let child = self.child();
        let child = child
            .as_ref()
            .ok_or_else(|| Error::new(format!("{} is stopped", self.name())))?;
        Ok(child.id().cast_signed())
    }

    /// Stops it, and waits until all its processes have ended. A stopped one stays stopped.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn stop(&self, how: Stop) -> Result<()> {
        let signal_number = match how {
            Stop::Smart => libc::SIGTERM,
            Stop::Fast => libc::SIGINT,
            Stop::Immediate => libc::SIGQUIT,
        };
        self.end(signal_number)
    }

    /// Kills all its processes at once, as when the machine loses power. Start it again with [`Cluster::start`].
    ///
    /// # Errors
    /// If they do not end.
    pub fn crash(&self) -> Result<()> {
        if let Ok(pid) = self.pid() {
            signal(pid, libc::SIGKILL);
        }
        for pid in processes_in(&self.data_dir()) {
            signal(pid, libc::SIGKILL);
        }
        self.end(libc::SIGKILL)
    }

    /// Kills one backend or worker (SIGKILL): the postmaster ends the others and starts over by itself.
    ///
    /// # Errors
    /// If the process is none of this cluster's.
    pub fn kill_backend(&self, pid: i32) -> Result<()> {
        if !processes_in(&self.data_dir()).contains(&pid) || Some(pid) == self.pid().ok() {
            return Err(Error::new(format!(
                "process {pid} is no backend of {}",
                self.name()
            )));
        }
        signal(pid, libc::SIGKILL);
        Ok(())
    }

    fn end(&self, signal_number: libc::c_int) -> Result<()> {
        let mut guard = self.child();
        let Some(child) = guard.as_mut() else {
            return Ok(());
        };
        if matches!(child.try_wait(), Ok(None)) {
            signal(child.id().cast_signed(), signal_number);
        }
        let ended = poll(PATIENCE, || child.try_wait().ok().flatten());
        let all = ended.and_then(|_| {
            poll(PATIENCE, || {
                processes_in(&self.data_dir()).is_empty().then_some(())
            })
        });
        if all.is_none() {
            return Err(self.failure("did not stop in time"));
        }
        *guard = None;
        Ok(())
    }

    /// Stops (fast) and starts it.
    ///
    /// # Errors
    /// If it does not stop or start.
    pub fn restart(&self) -> Result<()> {
        self.stop(Stop::Fast)?;
        self.start()
    }

    /// Makes it read its configuration files again, and waits until new sessions see them.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub fn reload(&self) -> Result<()> {
        let mut client = self.client()?;
        let before = client.text("SELECT pg_conf_load_time()")?;
        client.batch_execute("SELECT pg_reload_conf()")?;
        poll(PATIENCE, || {
            let now = self.text("SELECT pg_conf_load_time()").ok()?;
            (now != before).then_some(())
        })
        .ok_or_else(|| self.failure("did not reload"))
    }

    /// `ALTER SYSTEM SET name = 'value'`, and [`Cluster::reload`].
    ///
    /// # Errors
    /// If the server refuses.
    pub fn alter_system(&self, name: &str, value: &str) -> Result<()> {
        self.exec(&format!(
            "ALTER SYSTEM SET {name} = {}",
            quote_literal(value)
        ))?;
        self.reload()
    }

    /// Adds a line to postgresql.conf, without reloading.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn append_conf(&self, line: &str) -> Result<()> {
        use std::io::Write;
        let file = self.data_dir().join("postgresql.conf");
        let mut file = OpenOptions::new().append(true).open(file)?;
        Ok(writeln!(file, "{line}")?)
    }

    /// Writes a file into the data directory, in place of one of that name.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_file(&self, name: &str, content: &str) -> Result<()> {
        write_private(&self.data_dir().join(name), content)
    }

    // ----- replication -----

    /// Makes a standby a primary, and waits for that.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn promote(&self) -> Result<()> {
        let done = self.text("SELECT pg_promote(true, 60)")?;
        if done == "t" {
            Ok(())
        } else {
            Err(self.failure("was not promoted in time"))
        }
    }

    /// Waits until `standby` has replayed all that this cluster has written by now.
    ///
    /// # Errors
    /// If it does not within `seconds`; the text shows the end of the standby's log.
    pub fn wait_for_catchup(&self, standby: &Self, seconds: u64) -> Result<()> {
        // The standby stops at the last record, which may be before the insert position; so there is one more record.
        self.text("SELECT pg_logical_emit_message(true, 'wait_for_catchup', '')")?;
        let end = self.text("SELECT pg_current_wal_flush_lsn()")?;
        let question = format!("SELECT pg_last_wal_replay_lsn() >= {}", quote_literal(&end));
        poll(seconds, || {
            (standby.text(&question).ok()? == "t").then_some(())
        })
        .ok_or_else(|| standby.failure("did not catch up"))
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "----- log of {} ends with:\n{}\n-----",
                self.name(),
                self.log_tail()
            );
        }
        if self.stop(Stop::Immediate).is_err() && self.crash().is_err() {
            eprintln!("some processes of {} are still there", self.name());
        }
    }
}
