//! A region that nodes inherit: `custodian.region` set in a file of the data directory, which every base backup and
//! `pg_rewind` copies. A standby elsewhere takes its primary's region for its own then, and nothing else tells it otherwise
//! unless a `node` line names an address of it. Where one does, the two must agree ([`super::rules::Rules::own`]).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use pgrx::prelude::*;

use crate::error::{Error, Kind};
use crate::guard::active::{self, Active};
use crate::guc;
use crate::pg::{guc_hook, host, report, xact};
use crate::policy::model::{Finding, Severity};

const REMEDY: &str = "Write a \"node\" line with an address of this node into the region rules, and take custodian.region out of the \
     file; where its addresses say nothing, set it on the command line of the server, or in a file outside of the data directory that \
     each machine has for itself (include_if_exists). Then restart the server.";

/// Whether a file is below a directory; links are followed, since a copy takes what is there and leaves links out. What
/// cannot be followed is taken by its name.
fn lies_in(file: &Path, directory: &Path) -> bool {
    let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    resolved(file).starts_with(resolved(directory))
}

/// The file of the data directory that `custodian.region` is set in.
pub fn file() -> Option<PathBuf> {
    guc::region()?;
    let file = guc_hook::source_file(c"custodian.region")?;
    let data = Path::new(OsStr::from_bytes(host::data_directory()?.to_bytes()));
    lies_in(&file, data).then_some(file)
}

/// The same, where nothing else says the region.
fn source(active: &Active) -> Option<PathBuf> {
    let own = active.own();
    // A contradiction is a finding of its own, and refuses.
    if own.line.is_some() || own.problem.is_some() {
        return None;
    }
    file()
}

fn problem(file: &Path) -> String {
    format!(
        "custodian.region is set in \"{}\", which lies in the data directory: a standby elsewhere takes it for its own with the copy",
        file.file_name().unwrap_or_default().to_string_lossy()
    )
}

/// Says in the log of a server that starts as a standby, or from a backup, that it may have another's region. In the postmaster,
/// once the rules are read.
pub fn at_start(active: &Active) {
    if !active::is_a_copy() {
        return;
    }
    if let Some(file) = source(active) {
        report::log(
            PgLogLevel::WARNING,
            Error::new(
                Kind::ConfigFile,
                "this node may have taken over the region of the node that it was copied from",
            )
            .detail(format!("{}.", problem(&file)))
            .hint(REMEDY),
        );
    }
}

/// For `custodian.check()`: an error on a standby, which may have it from another node; a warning on a primary.
pub fn finding(active: &Active) -> Option<Finding> {
    source(active).map(|file| Finding {
        severity: if xact::in_recovery() {
            Severity::Error
        } else {
            Severity::Warning
        },
        code: "region-in-data-directory",
        object: "custodian.region".to_owned(),
        problem: format!("{}.", problem(&file)),
        remedy: REMEDY.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_in_a_directory_by_where_it_is_and_not_by_its_name() {
        let root = std::env::temp_dir().join(format!("inherited-{}", std::process::id()));
        let data = root.join("data");
        std::fs::create_dir_all(&data).unwrap();
        for file in [root.join("region.conf"), data.join("region.conf")] {
            std::fs::write(file, "").unwrap();
        }
        let link = |from: &Path, to: &Path| std::os::unix::fs::symlink(to, from).unwrap();
        link(&data.join("out.conf"), &root.join("region.conf"));
        link(&root.join("in.conf"), &data.join("region.conf"));
        link(&root.join("same"), &data);
        for (file, inside) in [
            (data.join("region.conf"), true),
            (root.join("region.conf"), false),
            (data.join("../region.conf"), false),
            (data.join("out.conf"), false),
            (root.join("in.conf"), true),
            (root.join("same/region.conf"), true),
            (data.join("missing.conf"), true),
            (root.join("data2"), false),
        ] {
            assert_eq!(lies_in(&file, &data), inside, "{}", file.display());
        }
        std::fs::remove_dir_all(root).unwrap();
    }
}
