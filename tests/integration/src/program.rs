//! Programs that tests run: servers and client programs, as the server's user, in a network namespace if asked.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, mpsc};

use crate::certs::ClientCert;
use crate::error::{Error, Result};
use crate::host::{account, bindir, signal, write_private};
use crate::net::Place;
use crate::wait::poll;

/// Seconds after which [`Program::run`] gives up, unless told otherwise.
const DEFAULT_TIMEOUT: u64 = 120;

/// A program to be run. Made by [`Cluster::program`](crate::Cluster::program), which points it at that cluster.
#[derive(Debug)]
pub struct Program {
    command: Command,
    name: String,
    dir: PathBuf,
    address: Option<String>,
    place: Option<Place>,
    stdin: Option<String>,
    timeout: u64,
}

impl Program {
    /// A program of PostgreSQL by its name, or another by its path; `dir` takes its output and is where it runs.
    ///
    /// # Errors
    /// If PostgreSQL is not found.
    pub fn new(name: &str, dir: &Path) -> Result<Self> {
        let path = if name.contains('/') {
            PathBuf::from(name)
        } else {
            let ours = bindir()?.join(name);
            if ours.exists() {
                ours
            } else {
                PathBuf::from(name)
            }
        };
        let mut command = Command::new(path);
        for (key, _) in std::env::vars_os() {
            let key = key.to_string_lossy();
            if (key.starts_with("PG") && key != "PG_CONFIG")
                || key.starts_with("LC_")
                || key == "LANG"
            {
                command.env_remove(&*key);
            }
        }
        command
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", dir)
            .env("PGCONNECT_TIMEOUT", "20")
            .current_dir(dir);
        Ok(Self {
            command,
            name: name.to_owned(),
            dir: dir.to_owned(),
            address: None,
            place: None,
            stdin: None,
            timeout: DEFAULT_TIMEOUT,
        })
    }

    /// Remembers the address that [`Program::over_tcp`] and [`Program::from`] connect to.
    pub(crate) fn address(mut self, address: Option<String>) -> Self {
        self.address = address;
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Connects as this role (otherwise `postgres`).
    #[must_use]
    pub fn role(self, role: &str) -> Self {
        self.env("PGUSER", role)
    }

    /// Connects to this database (otherwise `postgres`).
    #[must_use]
    pub fn database(self, database: &str) -> Self {
        self.env("PGDATABASE", database)
    }

    /// Runs in this network namespace, and connects to the cluster's address instead of its socket.
    #[must_use]
    pub fn from(mut self, place: &Place) -> Self {
        self.place = Some(place.clone());
        self.over_tcp()
    }

    /// Runs in this network namespace, without a change of where it connects to.
    #[must_use]
    pub fn inside(mut self, place: Option<&Place>) -> Self {
        self.place = place.cloned();
        self
    }

    /// Connects to the cluster's address instead of its socket.
    ///
    /// # Panics
    /// If the cluster has none: it must be built with `place` or `loopback`.
    #[must_use]
    pub fn over_tcp(self) -> Self {
        let Some(address) = self.address.clone() else {
            panic!("{}: this cluster listens on its socket only", self.name);
        };
        self.env("PGHOST", address)
    }

    /// Presents this certificate, and verifies that of the server against the regions' authorities.
    #[must_use]
    pub fn cert(self, cert: &ClientCert) -> Self {
        self.env("PGSSLMODE", "verify-ca")
            .env("PGSSLCERT", &cert.cert)
            .env("PGSSLKEY", &cert.key)
            .env("PGSSLROOTCERT", &cert.authorities)
    }

    /// Gives it this text to read.
    #[must_use]
    pub fn stdin(mut self, text: &str) -> Self {
        self.stdin = Some(text.to_owned());
        self
    }

    /// Changes after how many seconds [`Program::run`] ends it and returns an error.
    #[must_use]
    pub fn timeout(mut self, seconds: u64) -> Self {
        self.timeout = seconds;
        self
    }

    /// Runs it to its end. A program that fails is no error here: see [`Output::success`] and [`Output::ok`].
    ///
    /// # Errors
    /// If it cannot be started, or does not end in time.
    pub fn run(self) -> Result<Output> {
        let timeout = self.timeout;
        self.start()?.wait(timeout)
    }

    /// Starts it and lets it run; it is ended when the value is dropped.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(self) -> Result<Running> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let base = self.name.rsplit('/').next().unwrap_or_default().to_owned();
        let path = |end: &str| self.dir.join(format!("{base}.{number}.{end}"));
        let (stdout, stderr) = (path("stdout"), path("stderr"));
        let input = match &self.stdin {
            Some(text) => {
                let file = path("stdin");
                write_private(&file, text)?;
                Stdio::from(File::open(file)?)
            }
            None => Stdio::null(),
        };
        let mut command = self.command;
        command
            .stdin(input)
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?);
        let child = spawn(command, self.place.as_ref(), libc::SIGTERM)
            .map_err(|e| Error::new(format!("could not start {}: {e}", self.name)))?;
        Ok(Running {
            child,
            name: self.name,
            stdout,
            stderr,
        })
    }
}

/// A program that runs in the background.
#[derive(Debug)]
pub struct Running {
    child: Child,
    name: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> libc::pid_t {
        self.child.id().cast_signed()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// What it has written so far, to both its outputs.
    #[must_use]
    pub fn output_so_far(&self) -> String {
        read(&self.stdout) + &read(&self.stderr)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it does not end within `seconds`; it is killed then.
    pub fn wait(mut self, seconds: u64) -> Result<Output> {
        match poll(seconds, || self.child.try_wait().ok().flatten()) {
            Some(status) => Ok(self.output(status)),
            None => Err(Error::new(format!(
                "{} did not end within {seconds} s; it wrote:\n{}",
                self.name,
                self.output_so_far()
            ))),
        }
    }

    /// Asks it to end (SIGINT, as by Ctrl-C), and waits for that.
    ///
    /// # Errors
    /// If it does not end within a minute.
    pub fn interrupt(self) -> Result<Output> {
        signal(self.pid(), libc::SIGINT);
        self.wait(60)
    }

    fn output(&self, status: ExitStatus) -> Output {
        Output {
            status,
            stdout: read(&self.stdout),
            stderr: read(&self.stderr),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What a program wrote, and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output (bytes that are no UTF-8 are replaced).
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Output {
    /// Whether it ended with exit code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Its exit code; none if a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Both outputs together: in a refused attempt, neither may hold a byte of what was refused.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Its standard output without white space at the end.
    ///
    /// # Errors
    /// If the program failed; the text shows all it wrote.
    pub fn ok(&self) -> Result<String> {
        if self.success() {
            Ok(self.stdout.trim_end().to_owned())
        } else {
            Err(Error::new(self.to_string()))
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => writeln!(f, "exit code {code}")?,
            (None, signal) => writeln!(f, "ended by signal {}", signal.unwrap_or_default())?,
        }
        write!(f, "{}{}", self.stdout, self.stderr)
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Starts `command` as the server's user, in the namespace of `place`; `on_death` is sent to it when we die.
pub(crate) fn spawn(
    mut command: Command,
    place: Option<&Place>,
    on_death: libc::c_int,
) -> Result<Child> {
    let account = account()?;
    let namespace = place.map(Place::descriptor);
    // SAFETY: between fork and exec only async-signal-safe system calls are made; nothing is allocated. The
    // descriptor stays open, because `spawner` answers before `place` can go away.
    unsafe {
        command.pre_exec(move || {
            let check = |result: libc::c_int| match result {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            };
            if let Some(namespace) = namespace {
                check(libc::setns(namespace, libc::CLONE_NEWNET))?;
            }
            if account.switch {
                check(libc::setgroups(0, std::ptr::null()))?;
                check(libc::setgid(account.gid))?;
                check(libc::setuid(account.uid))?;
            }
            check(libc::prctl(libc::PR_SET_PDEATHSIG, on_death))
        });
    }
    let (reply, answer) = mpsc::channel();
    let gone = |_| Error::new("the thread that starts programs has ended");
    spawner().send((command, reply)).map_err(|_| gone(()))?;
    answer.recv().map_err(|_| gone(()))?.map_err(Error::from)
}

type Request = (Command, mpsc::Sender<std::io::Result<Child>>);

/// All programs are started by one thread that lives as long as we do: the signal a program gets on our death is
/// really sent on the death of the thread that started it, and tests run in threads of their own.
fn spawner() -> mpsc::Sender<Request> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Request>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, reply) in requests {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    match spawner.lock() {
        Ok(sender) => sender.clone(),
        Err(poisoned) => poisoned.into_inner().clone(),
    }
}
