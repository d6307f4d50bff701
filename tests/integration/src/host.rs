//! The machine: where PostgreSQL is, which user runs it, and temporary directories which that user can enter.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::error::{Error, Result};

/// Set this variable to keep the directories of all clusters for a look at them.
pub const KEEP: &str = "CUSTODIAN_TEST_KEEP";

/// The start of the names of our directories in /tmp; the process id follows.
const PREFIX: &str = "pgcust-";

/// The system user that runs servers and client programs.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    /// Its user id.
    pub uid: libc::uid_t,
    /// Its group id.
    pub gid: libc::gid_t,
    /// Whether a process of ours must change to it.
    pub switch: bool,
}

/// `postgres` when the tests run as root, since the server refuses to run as root; otherwise the user of the tests.
///
/// # Errors
/// If the tests run as root and there is no user `postgres`.
pub fn account() -> Result<Account> {
    static ACCOUNT: OnceLock<Option<Account>> = OnceLock::new();
    ACCOUNT
        .get_or_init(find_account)
        .ok_or_else(|| Error::new("the tests run as root, and there is no user postgres"))
}

fn find_account() -> Option<Account> {
    // SAFETY: these calls have no preconditions and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    if uid != 0 {
        return Some(Account {
            uid,
            gid,
            switch: false,
        });
    }
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd.lines().find(|l| l.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    Some(Account {
        uid: fields.next()?.parse().ok()?,
        gid: fields.next()?.parse().ok()?,
        switch: true,
    })
}

/// Where PostgreSQL's programs are: what `pg_config --bindir` says, for the pg_config named by `PG_CONFIG`,
/// or else Debian's for PostgreSQL 15.
///
/// # Errors
/// If pg_config cannot be run.
pub fn bindir() -> Result<PathBuf> {
    static BINDIR: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    BINDIR
        .get_or_init(|| {
            pg_config("--bindir")
                .map(PathBuf::from)
                .map_err(|e| e.to_string())
        })
        .clone()
        .map_err(Error::from)
}

/// One answer of pg_config, such as that to `--pkglibdir`.
///
/// # Errors
/// If pg_config cannot be run.
pub fn pg_config(question: &str) -> Result<String> {
    let program = std::env::var("PG_CONFIG")
        .unwrap_or_else(|_| "/usr/lib/postgresql/15/bin/pg_config".to_owned());
    let output = Command::new(&program)
        .arg(question)
        .output()
        .map_err(|e| Error::new(format!("could not run {program}: {e}")))?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A temporary directory that belongs to the server's user and goes away with its owner.
///
/// It lies directly in /tmp, because socket paths are limited to 107 bytes, and because the checkout may lie where
/// the server's user cannot enter.
#[derive(Debug)]
pub struct WorkDir {
    dir: Option<TempDir>,
    path: PathBuf,
}

impl WorkDir {
    /// Makes a new, empty one.
    ///
    /// # Errors
    /// If it cannot be made or given to the server's user.
    pub fn new() -> Result<Self> {
        static STALE: OnceLock<()> = OnceLock::new();
        STALE.get_or_init(remove_stale);
        let dir = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", std::process::id()))
            .tempdir_in("/tmp")?;
        give(dir.path())?;
        let path = dir.path().to_owned();
        Ok(Self {
            dir: Some(dir),
            path,
        })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        let Some(dir) = self.dir.take() else { return };
        if std::env::var_os(KEEP).is_some() {
            eprintln!("kept: {}", dir.keep().display());
        } else if let Err(e) = dir.close() {
            eprintln!("could not remove {}: {e}", self.path.display());
        }
    }
}

/// Gives a file or directory to the server's user, closed to others.
///
/// # Errors
/// If the owner cannot be changed.
pub fn give(path: &Path) -> Result<()> {
    let account = account()?;
    if account.switch {
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
        // SAFETY: `name` is a NUL-terminated string that lives until the call returns.
        if unsafe { libc::chown(name.as_ptr(), account.uid, account.gid) } != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
    }
    Ok(())
}

/// Writes a file that belongs to the server's user and that nobody else can read. Who reads it meanwhile finds the old
/// one or the new one.
///
/// # Errors
/// If it cannot be written.
pub fn write_private(path: &Path, content: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut next = path.as_os_str().to_owned();
    next.push(".next");
    let next = Path::new(&next);
    fs::write(next, content)?;
    fs::set_permissions(next, fs::Permissions::from_mode(0o600))?;
    give(next)?;
    Ok(fs::rename(next, path)?)
}

/// Removes the directories that killed test processes of ours left behind.
fn remove_stale() {
    for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let name = entry.file_name();
        if owner_is_gone(&name.to_string_lossy(), PREFIX) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether `name` is `prefix`, a process id, a hyphen and more, and that process does not exist any more.
#[must_use]
pub fn owner_is_gone(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .and_then(|rest| rest.split_once('-'))
        .and_then(|(pid, _)| pid.parse::<u32>().ok())
        .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// The processes that have their working directory in `dir`: a postmaster and all its children do.
#[must_use]
pub fn processes_in(dir: &Path) -> Vec<libc::pid_t> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
                && !is_zombie(*pid)
        })
        .collect()
}

/// Whether there is such a process, and it has not ended.
#[must_use]
pub fn is_alive(pid: libc::pid_t) -> bool {
    !is_zombie(pid)
}

/// Whether the process has ended and only waits to be collected (or is not there at all).
fn is_zombie(pid: libc::pid_t) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, s)| s.chars().next());
    matches!(state, None | Some('Z' | 'X'))
}

/// Sends a signal; whether the process was there to get it.
pub fn signal(pid: libc::pid_t, signal: libc::c_int) -> bool {
    // SAFETY: kill has no memory preconditions; pids of ours are positive, never a group.
    pid > 0 && unsafe { libc::kill(pid, signal) } == 0
}
