//! A clock that a test can set, for the processes of one server.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::Command;

use tempfile::TempDir;

use crate::error::{Error, Result};

/// The clock; its library is compiled for it.
#[derive(Debug)]
pub struct MovedClock {
    directory: TempDir,
}

impl MovedClock {
    /// A clock that is right.
    ///
    /// # Errors
    /// If there is no C compiler.
    pub fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let source = directory.path().join("moved_clock.c");
        fs::write(&source, include_str!("moved_clock.c"))?;
        let made = Command::new("gcc")
            .args(["-O2", "-shared", "-fPIC", "-o"])
            .arg(directory.path().join("clock.so"))
            .arg(&source)
            .status()?;
        if !made.success() {
            return Err(Error::new(
                "the library that moves the clock does not compile",
            ));
        }
        fs::write(directory.path().join("offset"), 0_i64.to_ne_bytes())?;
        // The server may be run by another user.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        Ok(MovedClock { directory })
    }

    /// What the server needs in its environment.
    #[must_use]
    pub fn env(&self) -> [(&'static str, String); 2] {
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        [
            ("LD_PRELOAD", path("clock.so")),
            ("CUSTODIAN_TEST_CLOCK", path("offset")),
        ]
    }

    /// Sets it, while the server runs, to so many seconds after the right time.
    ///
    /// # Errors
    /// If its file is not there.
    pub fn set(&self, seconds: i64) -> Result<()> {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(self.directory.path().join("offset"))?;
        Ok(file.write_all_at(&seconds.to_ne_bytes(), 0)?)
    }
}
