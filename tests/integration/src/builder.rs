//! How a cluster comes to be: by initdb, or as a copy of another one.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use crate::certs::Certs;
use crate::cluster::{Cluster, Settings};
use crate::error::{Error, Result};
use crate::host::{WorkDir, write_private};
use crate::net::Place;
use crate::program::Program;

/// What every cluster starts with; later lines win.
const BASE: &str = "\
fsync = off
wal_level = logical
max_wal_senders = 10
max_replication_slots = 10
wal_keep_size = 128MB
max_worker_processes = 16
shared_buffers = 32MB
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %b %q%u@%d '
lc_messages = 'C'
wal_retrieve_retry_interval = 500ms
";

/// Describes a cluster to be made. See [`Cluster::builder`] and [`Cluster::standby`].
#[derive(Debug)]
pub struct Builder {
    name: String,
    conf: Vec<String>,
    preload: Vec<String>,
    hba: Vec<String>,
    files: Vec<(String, String)>,
    initdb: Vec<String>,
    env: Vec<(String, String)>,
    place: Option<Place>,
    loopback: bool,
    source: Option<Source>,
}

/// The cluster that a standby copies and follows.
#[derive(Debug)]
struct Source {
    socket: PathBuf,
    port: u16,
    address: Option<String>,
    role: String,
    conninfo: String,
    copy_locally: bool,
}

impl Builder {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            conf: Vec::new(),
            preload: Vec::new(),
            hba: Vec::new(),
            files: Vec::new(),
            initdb: Vec::new(),
            env: Vec::new(),
            place: None,
            loopback: false,
            source: None,
        }
    }

    pub(crate) fn standby_of(name: &str, primary: &Cluster) -> Self {
        let mut builder = Self::new(name);
        builder.source = Some(Source {
            socket: primary.socket_dir().to_owned(),
            port: primary.port(),
            address: primary.address(),
            role: "postgres".to_owned(),
            conninfo: String::new(),
            copy_locally: false,
        });
        builder
    }

    /// Adds a line to postgresql.conf; of several lines for one setting the last one counts.
    #[must_use]
    pub fn conf(mut self, line: &str) -> Self {
        self.conf.push(line.to_owned());
        self
    }

    /// Adds a library to `shared_preload_libraries`; the order of the calls is kept.
    #[must_use]
    pub fn preload(mut self, library: &str) -> Self {
        self.preload.push(library.to_owned());
        self
    }

    /// Adds a line to pg_hba.conf, before those that let everybody in.
    #[must_use]
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.to_owned());
        self
    }

    /// Writes a file into the data directory, such as one that a setting names.
    #[must_use]
    pub fn file(mut self, name: &str, content: &str) -> Self {
        self.files.push((name.to_owned(), content.to_owned()));
        self
    }

    /// Adds an argument for initdb, such as `--data-checksums`.
    #[must_use]
    pub fn initdb(mut self, argument: &str) -> Self {
        self.initdb.push(argument.to_owned());
        self
    }

    /// Sets an environment variable of the server.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Runs the cluster in this network namespace, where it listens on the address of that place.
    #[must_use]
    pub fn place(mut self, place: &Place) -> Self {
        self.place = Some(place.clone());
        self
    }

    /// Listens on 127.0.0.1, for a test without namespaces.
    #[must_use]
    pub fn loopback(mut self) -> Self {
        self.loopback = true;
        self
    }

    /// Uses TLS with a certificate of this region's authority, and knows the authorities of all regions.
    ///
    /// # Errors
    /// If the certificate cannot be made.
    pub fn tls(mut self, certs: &Certs, region: &str) -> Result<Self> {
        self.conf.extend(certs.server_settings(region)?);
        Ok(self)
    }

    /// For a standby: copies the primary over its unix socket, whatever the network; only the stream of changes goes
    /// over the network. For tests in which the copy is not the point, or would be refused.
    #[must_use]
    pub fn copy_locally(mut self) -> Self {
        if let Some(source) = &mut self.source {
            source.copy_locally = true;
        }
        self
    }

    /// For a standby: copies and follows the primary as this role (otherwise `postgres`).
    #[must_use]
    pub fn replication_role(mut self, role: &str) -> Self {
        if let Some(source) = &mut self.source {
            source.role = role.to_owned();
        }
        self
    }

    /// For a standby: adds to `primary_conninfo`, as in `sslmode=verify-ca sslcert=…`. The copy uses it, too.
    #[must_use]
    pub fn conninfo(mut self, more: &str) -> Self {
        if let Some(source) = &mut self.source {
            source.conninfo.push(' ');
            source.conninfo.push_str(more);
        }
        self
    }

    /// Makes the cluster, starts it and waits until it accepts connections.
    ///
    /// A standby is ready then, but may not be connected to its primary:
    /// see [`Cluster::wait_for_catchup`].
    ///
    /// # Errors
    /// If it cannot be made or does not start; the text shows the end of its log.
    pub fn start(self) -> Result<Cluster> {
        let cluster = self.prepare()?;
        cluster.start()?;
        Ok(cluster)
    }

    /// Makes the cluster, and does not start it.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn prepare(self) -> Result<Cluster> {
        let dir = WorkDir::new()?;
        let data = dir.path().join("data");
        match &self.source {
            Some(source) => self.copy_primary(source, dir.path(), &data)?,
            None if self.initdb.is_empty() => copy_template(dir.path(), &data)?,
            None => initdb(dir.path(), &data, &self.initdb)?,
        }
        let port = free_port()?;
        self.configure(dir.path(), &data, port)?;
        Ok(Cluster::new(
            dir,
            Settings {
                address: self.address(),
                name: self.name,
                port,
                place: self.place,
                env: self.env,
            },
        ))
    }

    fn address(&self) -> Option<String> {
        let loopback = self.loopback.then(|| "127.0.0.1".to_owned());
        let place = self.place.as_ref().map(|p| p.address().to_string());
        place.or(loopback)
    }

    fn configure(&self, dir: &Path, data: &Path, port: u16) -> Result<()> {
        let mut lines = String::from("\n");
        if self.source.is_none() {
            lines += BASE;
        }
        lines += &format!(
            "cluster_name = '{}'\nport = {port}\nunix_socket_directories = '{}'\nlisten_addresses = '{}'\n",
            self.name,
            dir.display(),
            self.address().unwrap_or_default(),
        );
        if !self.preload.is_empty() {
            lines += &format!("shared_preload_libraries = '{}'\n", self.preload.join(","));
        }
        for line in &self.conf {
            lines += line;
            lines.push('\n');
        }
        let conf = data.join("postgresql.conf");
        OpenOptions::new()
            .append(true)
            .open(conf)?
            .write_all(lines.as_bytes())?;
        for (name, content) in &self.files {
            write_private(&data.join(name), content)?;
        }
        self.write_hba(data)
    }

    fn write_hba(&self, data: &Path) -> Result<()> {
        let file = data.join("pg_hba.conf");
        let mut hba = String::new();
        for line in &self.hba {
            hba += line;
            hba.push('\n');
        }
        if self.source.is_some() {
            hba += &fs::read_to_string(&file)?;
        } else {
            hba += "local all all trust\nlocal replication all trust\n";
            hba += "host all all all trust\nhost replication all all trust\n";
        }
        write_private(&file, &hba)
    }

    fn copy_primary(&self, source: &Source, dir: &Path, data: &Path) -> Result<()> {
        let (role, more) = (&source.role, &source.conninfo);
        let network = match (&self.place, &source.address) {
            (Some(_), None) => {
                let text =
                    "a standby in a network namespace needs a primary that listens on an address";
                return Err(Error::new(text));
            }
            (_, address) => address.clone(),
        };
        let socket = source.socket.display().to_string();
        let host = network.unwrap_or_else(|| socket.clone());
        let (copy_host, copy_more) = match source.copy_locally {
            true => (&socket, ""),
            false => (&host, more.as_str()),
        };
        let port = source.port;
        let output = Program::new("pg_basebackup", dir)?
            .inside(self.place.as_ref())
            .arg(format!(
                "--dbname=host={copy_host} port={port} user={role}{copy_more}"
            ))
            .args(["--checkpoint=fast", "--wal-method=stream", "--no-sync"])
            .arg(format!("--pgdata={}", data.display()))
            .run()?;
        output
            .ok()
            .map_err(|e| Error::new(format!("pg_basebackup for {}: {e}", self.name)))?;
        let conninfo = format!(
            "host={host} port={port} user={role} application_name={}{more}",
            self.name
        );
        let auto = data.join("postgresql.auto.conf");
        let line = format!("primary_conninfo = '{}'\n", conninfo.replace('\'', "''"));
        OpenOptions::new()
            .append(true)
            .open(auto)?
            .write_all(line.as_bytes())?;
        write_private(&data.join("standby.signal"), "")
    }
}

/// Runs initdb.
fn initdb(dir: &Path, data: &Path, arguments: &[String]) -> Result<()> {
    let output = Program::new("initdb", dir)?
        .args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        ])
        .args(["--no-sync", "--no-instructions"])
        .args(arguments)
        .arg(format!("--pgdata={}", data.display()))
        .run()?;
    output.ok().map(drop)
}

/// Copies a freshly made cluster: initdb runs once in each test process.
fn copy_template(dir: &Path, data: &Path) -> Result<()> {
    static TEMPLATE: Mutex<Option<PathBuf>> = Mutex::new(None);
    static KEPT: OnceLock<Mutex<Option<WorkDir>>> = OnceLock::new();
    extern "C" fn remove() {
        if let Some(Ok(mut dir)) = KEPT.get().map(Mutex::lock) {
            dir.take();
        }
    }
    let mut template = TEMPLATE.lock().map_err(|e| e.to_string())?;
    let path = match &*template {
        Some(path) => path.clone(),
        None => {
            let work = WorkDir::new()?;
            let path = work.path().join("data");
            initdb(work.path(), &path, &[])?;
            let _ = KEPT.set(Mutex::new(Some(work)));
            // SAFETY: `remove` is a plain function that touches statics only, and does not unwind.
            unsafe { libc::atexit(remove) };
            *template = Some(path.clone());
            path
        }
    };
    drop(template);
    let output = Program::new("/bin/cp", dir)?
        .arg("-a")
        .args([&path, data])
        .run()?;
    output.ok().map(drop)
}

/// A port that nobody uses now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
