//! Functions of the server that hand out values past the tables: decoded changes, slots that keep WAL for
//! somebody, large objects and files, statements of other sessions; and of extensions that read pages or WAL, or reach the network. A session from
//! outside may not call them.

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::guard::refuse::{self, Flow};
use crate::guard::session;
use crate::guard::tls;
use crate::guard::verdict::Verdict;
use crate::guc::{self, Enforce, Gate};
use crate::pg::{extension, sandbox, xact};

/// The name of a function that is gated, and its gate. The numbers are those of the server's pg_proc.dat.
const fn gated(function: pg_sys::Oid) -> Option<(&'static str, Gate)> {
    Some(match function.to_u32() {
        3779 => ("pg_create_physical_replication_slot", Gate::Replication),
        3786 => ("pg_create_logical_replication_slot", Gate::Replication),
        4220 | 4221 => ("pg_copy_physical_replication_slot", Gate::Replication),
        4222..=4224 => ("pg_copy_logical_replication_slot", Gate::Replication),
        3782 => ("pg_logical_slot_get_changes", Gate::Replication),
        3783 => ("pg_logical_slot_get_binary_changes", Gate::Replication),
        3784 => ("pg_logical_slot_peek_changes", Gate::Replication),
        3785 => ("pg_logical_slot_peek_binary_changes", Gate::Replication),
        // Statements of other sessions, with the values in them.
        1940 => ("pg_stat_get_backend_activity", Gate::Access),
        2022 => ("pg_stat_get_activity", Gate::Access),
        765 => ("lo_export", Gate::Access),
        954 => ("loread", Gate::Access),
        3458 | 3459 => ("lo_get", Gate::Access),
        // 6208 and 6209 exist from 16 on.
        2624 | 3293 | 3826 | 4100 | 6208 => ("pg_read_file", Gate::Access),
        3295 | 3827 | 3828 | 6209 => ("pg_read_binary_file", Gate::Access),
        _ => return None,
    })
}

/// Extensions whose functions read past tables, show statements of others, reach other servers and files, or have workers of the
/// server run statements, which are inside.
const EXTENSIONS: [&str; 12] = [
    "adminpack",
    "dblink",
    "http",
    "pageinspect",
    "pg_background",
    "pg_cron",
    "pg_dirtyread",
    "pg_net",
    "pg_qualstats",
    "pg_stat_statements",
    "pg_walinspect",
    "pgagent",
];

/// Whether an extension is one of these.
pub fn is_known(extension: &str) -> bool {
    EXTENSIONS.contains(&extension)
}

/// A function of such an extension, with the name of the extension.
fn of_extension(function: pg_sys::Oid) -> Option<String> {
    if function.to_u32() < pg_sys::FirstNormalObjectId {
        return None;
    }
    let extension = extension::of_object(pg_sys::ProcedureRelationId, function)?;
    EXTENSIONS
        .contains(&extension.as_str())
        .then_some(extension)
}

/// Whether a call must be looked at: not for other functions, nor from inside.
#[inline]
pub fn concerns(function: pg_sys::Oid) -> bool {
    if function.to_u32() >= pg_sys::FirstNormalObjectId {
        !session::is_known_in_region()
    } else {
        gated(function).is_some() && !session::is_known_inside()
    }
}

/// Before a function is called for the first time in a statement.
pub fn before_execute(function: pg_sys::Oid) -> Result<()> {
    let (object, gate) = match gated(function) {
        Some((name, gate)) => (format!("{name}()"), gate),
        None if !guc::preloaded() => return Ok(()),
        None => match of_extension(function) {
            Some(extension) => (format!("a function of {extension}"), Gate::Access),
            None => return Ok(()),
        },
    };
    // The extension asks for callers who may not; nothing of a user runs inside that.
    if !guc::preloaded() || guc::enforce(gate) == Enforce::Off || sandbox::is_extension_owner() {
        return Ok(());
    }
    let session = session::current();
    let judgement = &session.judgement;
    let inside = judgement.verdict == Verdict::Inside;
    // What such functions hand out is not told column by column.
    let in_the_clear = session.plaintext && tls::demanded(Some(xact::database()));
    let (reason, remedy) = match (inside, in_the_clear) {
        (true, false) => return Ok(()),
        (true, true) => (tls::REASON.to_owned(), tls::REMEDY.to_owned()),
        (false, _) => (judgement.reason.clone(), judgement.remedy.clone()),
    };
    let error = Error::new(
        Kind::RegionRefused,
        format!("calling {object} from {} is not allowed", session.peer),
    )
    .detail(reason)
    .hint(remedy);
    refuse::unless_only_warned(Flow::of(&session, gate, object, error), |_| {})
}
