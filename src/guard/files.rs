//! Reads rules files, and what they include; writes the guard's own files.

use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::guard::rules::{Files, Found, Include, MAX_BYTES};

/// The largest copy of rules with all that they include, in bytes: a byte takes six at most in JSON, and names of files
/// come to it.
const MAX_COPY: usize = 8 * MAX_BYTES;

/// The text of a file with rules; `Ok(None)` when there is none.
pub fn read_text(path: &Path) -> Result<Option<String>, String> {
    read(path, MAX_BYTES)
}

/// The text of a copy of rules with all that they include.
pub fn read_copy(path: &Path) -> Result<Option<String>, String> {
    read(path, MAX_COPY)
}

fn read(path: &Path, most: usize) -> Result<Option<String>, String> {
    // To open a pipe would wait for somebody who writes into it.
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => return Err("is not an ordinary file".to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        _ => {}
    }
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot be opened: {error}")),
    };
    let mut bytes = Vec::new();
    file.take(most as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() > most {
        return Err(format!("is larger than {most} bytes"));
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| "is not UTF-8".to_owned())
}

/// Writes a file of the guard's own, so that it is either the old one or the new one, whatever happens.
pub fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let Some(directory) = path.parent() else {
        return Err(std::io::Error::other("the file has no directory"));
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    std::fs::File::open(directory)?.sync_all()
}

/// Files on disk; relative paths are relative to the file that includes them.
pub struct Disk {
    rules: PathBuf,
}

impl Disk {
    /// For the rules file at this path.
    pub fn new(rules: &Path) -> Disk {
        Disk {
            rules: rules.to_owned(),
        }
    }

    fn place(&self, path: &str, from: Option<&str>) -> PathBuf {
        let from = from.map_or(self.rules.as_path(), Path::new);
        match from.parent() {
            Some(directory) => directory.join(path),
            None => PathBuf::from(path),
        }
    }
}

fn named(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The files of a directory that count.
fn listed(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let wrong = |error| format!("directory \"{}\" cannot be read: {error}", named(directory));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(wrong)? {
        let entry = entry.map_err(wrong)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".conf") && !name.starts_with('.') && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    files.sort_unstable();
    Ok(files)
}

impl Files for Disk {
    fn read(&mut self, how: Include, path: &str, from: Option<&str>) -> Result<Found, String> {
        let place = self.place(path, from);
        let paths = match how {
            Include::Directory => listed(&place)?,
            Include::File | Include::IfExists => vec![place.clone()],
        };
        let mut found = Vec::new();
        let mut bytes = 0;
        for path in paths {
            match read_text(&path) {
                Ok(Some(text)) => {
                    bytes += text.len();
                    if bytes > MAX_BYTES {
                        return Err(format!(
                            "the files of directory \"{}\" are larger than {MAX_BYTES} bytes",
                            named(&place)
                        ));
                    }
                    found.push((named(&path), text));
                }
                Ok(None) if how == Include::IfExists => {}
                Ok(None) => return Err(format!("file \"{}\" does not exist", named(&path))),
                Err(problem) => return Err(format!("file \"{}\" {problem}", named(&path))),
            }
        }
        Ok(found)
    }
}
