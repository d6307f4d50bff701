//! The life of a cluster: how it starts, stops, crashes, reads its settings again, and becomes a primary.

use std::fs::{self, OpenOptions};
use std::process::{Child, Command, Stdio};

use crate::client::{Sql, quote_literal};
use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::host::{bindir, processes_in, signal, write_private};
use crate::program::spawn;
use crate::wait::poll;

/// Seconds that a server may take to start or stop.
const PATIENCE: u64 = 90;

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
    /// Starts it (again), and waits until it accepts connections.
    ///
    /// # Errors
    /// If it is running, or does not start; the text shows the end of its log.
    pub fn start(&self) -> Result<()> {
        self.start_under(&[])
    }

    /// Starts it (again) under another program, such as a profiler: its words, which `postgres` and its arguments follow.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_under(&self, wrapper: &[String]) -> Result<()> {
        let mut child = self.child();
        if child.is_some() {
            return Err(Error::new(format!("{} is running", self.name())));
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let postgres = bindir()?.join("postgres");
        let mut command = match wrapper.split_first() {
            Some((program, words)) => {
                let mut command = Command::new(program);
                command.args(words).arg(postgres);
                command
            }
            None => Command::new(postgres),
        };
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
        let pid = started.id();
        let outcome = poll(PATIENCE, || match started.try_wait() {
            Ok(None) => self.accepts_connections(pid).then_some(true),
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

    /// Whether this postmaster (the file may still be that of a crashed one) says in its pid file that it accepts
    /// connections, or that it is a standby that accepts none (`hot_standby = off`).
    fn accepts_connections(&self, pid: u32) -> bool {
        let file = fs::read_to_string(self.data_dir().join("postmaster.pid")).unwrap_or_default();
        let mut lines = file.lines();
        let own = lines
            .next()
            .is_some_and(|first| first.trim() == pid.to_string());
        own && lines
            .nth(6)
            .is_some_and(|status| matches!(status.trim(), "ready" | "standby"))
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
