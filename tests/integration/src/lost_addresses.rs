//! Addresses of the machine that the processes of one server cannot read for a while.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tempfile::TempDir;

use crate::error::{Error, Result};

/// The switch; its library is compiled for it.
#[derive(Debug)]
pub struct LostAddresses {
    directory: TempDir,
}

impl LostAddresses {
    /// A switch by which they can be read.
    ///
    /// # Errors
    /// If there is no C compiler.
    pub fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let source = directory.path().join("lost_addresses.c");
        fs::write(&source, include_str!("lost_addresses.c"))?;
        let made = Command::new("gcc")
            .args(["-O2", "-shared", "-fPIC", "-o"])
            .arg(directory.path().join("addresses.so"))
            .arg(&source)
            .arg("-ldl")
            .status()?;
        if !made.success() {
            return Err(Error::new(
                "the library that hides addresses does not compile",
            ));
        }
        // The server may be run by another user, who notes its attempts here.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777))?;
        Ok(LostAddresses { directory })
    }

    /// What the server needs in its environment.
    #[must_use]
    pub fn env(&self) -> [(&'static str, String); 2] {
        let directory = self.directory.path();
        [
            (
                "LD_PRELOAD",
                directory.join("addresses.so").display().to_string(),
            ),
            ("CUSTODIAN_TEST_ADDRESSES", directory.display().to_string()),
        ]
    }

    fn set(&self, flickers: bool, lost: bool) -> Result<()> {
        for (name, wanted) in [("flickers", flickers), ("lost", lost)] {
            let file = self.directory.path().join(name);
            match (wanted, file.exists()) {
                (true, false) => fs::write(file, "")?,
                (false, true) => fs::remove_file(file)?,
                _ => {}
            }
        }
        let _none = fs::remove_file(self.directory.path().join("tried"));
        Ok(())
    }

    /// From now on they cannot be read; nor has anybody tried.
    ///
    /// # Errors
    /// If the directory is gone.
    pub fn lose(&self) -> Result<()> {
        self.set(false, true)
    }

    /// From now on each process reads them each second time.
    ///
    /// # Errors
    /// As above.
    pub fn flicker(&self) -> Result<()> {
        self.set(true, false)
    }

    /// From now on they can be read again.
    ///
    /// # Errors
    /// As above.
    pub fn find(&self) -> Result<()> {
        self.set(false, false)
    }

    /// How often a process has tried in vain since that was changed.
    #[must_use]
    pub fn tried_by(&self, process: &str) -> usize {
        let tried = fs::read_to_string(self.directory.path().join("tried")).unwrap_or_default();
        tried.lines().filter(|line| *line == process).count()
    }
}
