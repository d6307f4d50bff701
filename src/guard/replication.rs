//! Replication command gate: a walsender from outside may ship what a lane says, and nothing else.
//!
//! The server has no hook for replication commands. But it announces each one in the log before it acts on
//! it, and a hook on log messages may raise an error there, which refuses the command and leaves the session
//! usable. So the announcement must be made, whatever the settings say: it is forced on at login, and check
//! hooks keep the session from turning it off. Where the administrator did not ask for it, it is not written.
//!
//! Inside the hook no catalog can be read, nothing may be logged, and no panic may pass.

use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use pgrx::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::guard::command::{self, Command};
use crate::guard::lane::session as lane;
use crate::guard::refuse::{self, Flow};
use crate::guard::sentinel::registry;
use crate::guard::session;
use crate::guard::verdict::Verdict;
use crate::guc::{self, Enforce, Gate};
use crate::pg::message::{self, Message};
use crate::pg::{activity, guc_hook};

const ANNOUNCEMENT: &CStr = c"received replication command: %s";

/// Whether this process is a walsender whose commands are gated.
static WATCHING: AtomicBool = AtomicBool::new(false);
/// Whether the administrator wants the announcements in the log.
static ANNOUNCE: AtomicBool = AtomicBool::new(false);
/// The lowest level of messages that the administrator wants in the log of this process, where it is above
/// the announcements'; otherwise 0.
static LOWEST: AtomicI32 = AtomicI32::new(0);

/// Whether this process is a walsender whose commands are gated.
#[inline]
pub fn is_watching() -> bool {
    WATCHING.load(Ordering::Relaxed)
}

/// Whether messages of level LOG do not reach the log under `log_min_messages = level`.
fn hides_announcements(level: i32) -> bool {
    level != PgLogLevel::LOG as i32 && level > PgLogLevel::ERROR as i32
}

/// Starts to watch the commands of this walsender. Called at login.
pub fn watch() -> Result<()> {
    let (announce, lowest) = message::settings();
    ANNOUNCE.store(announce, Ordering::Relaxed);
    guc_hook::force(c"log_replication_commands", c"on");
    if hides_announcements(lowest) {
        LOWEST.store(lowest, Ordering::Relaxed);
        guc_hook::force(c"log_min_messages", c"log");
    }
    WATCHING.store(true, Ordering::Relaxed);
    let (announced, lowest) = message::settings();
    if !announced || hides_announcements(lowest) {
        return Err(
            Error::internal("replication commands cannot be watched in this session")
                .detail("log_replication_commands or log_min_messages could not be set."),
        );
    }
    Ok(())
}

/// What is to be said in the server's log about a command that passes only because the gate warns.
fn decide() -> Result<Option<String>> {
    if guc::enforce(Gate::Replication) == Enforce::Off {
        return Ok(None);
    }
    let session = session::as_published();
    let judgement = &session.judgement;
    if judgement.verdict == Verdict::Inside {
        return Ok(None);
    }
    // The server sets it to the command before it announces it.
    let command = activity::statement().and_then(|text| command::parse(&text));
    if command.as_ref().is_some_and(Command::is_harmless) {
        return Ok(None);
    }
    let no_lane = match &command {
        None => String::new(),
        Some(command) => match lane::allows(&session, command) {
            Ok(lane) => {
                registry::on_lane(lane);
                return Ok(None);
            }
            Err(reason) => reason,
        },
    };
    let object = command.as_ref().map_or_else(
        || "a replication command that the guard does not know".to_owned(),
        Command::describe,
    );
    let error = Error::new(
        Kind::RegionRefused,
        format!("{object} is not allowed by the region rules"),
    )
    .detail(format!("{} {no_lane}", judgement.reason).trim_end())
    .hint(judgement.remedy.clone());
    let mut warning = None;
    refuse::unless_only_warned(
        Flow::of(&session, Gate::Replication, object, error),
        |error| warning = Some(error.to_string()),
    )?;
    Ok(warning)
}

/// Looks at a message that this walsender is about to write.
pub fn inspect(message: &mut Message) {
    if message.level() >= PgLogLevel::ERROR as i32 {
        if message.level() < LOWEST.load(Ordering::Relaxed) {
            message.hide();
        }
        return;
    }
    if LOWEST.load(Ordering::Relaxed) != 0 {
        message.hide();
    }
    if !message.is(ANNOUNCEMENT) {
        return;
    }
    if !ANNOUNCE.load(Ordering::Relaxed) {
        message.hide();
    }
    match catch_unwind(AssertUnwindSafe(decide)) {
        Ok(Ok(None)) => {}
        Ok(Ok(Some(warning))) => {
            if let Ok(text) = std::ffi::CString::new(warning) {
                message.show_with(&text);
            }
        }
        Ok(Err(error)) => message::raise_instead(error),
        Err(_) => message::raise_instead(
            Error::internal("the region guard failed on a replication command")
                .detail("The command was refused."),
        ),
    }
}

/// Why a walsender may not turn its announcements off.
pub const REFUSED: &CStr =
    c"The region guard watches replication commands through the log, so a walsender may not turn them off.";

/// Whether a walsender may not set `log_min_messages` so.
pub fn refuses_level(level: i32) -> bool {
    is_watching() && hides_announcements(level)
}
