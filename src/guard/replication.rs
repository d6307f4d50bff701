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

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::evidence::events::Database;
use crate::guard::command::{self, Command};
use crate::guard::lane::session as lane;
use crate::guard::refuse::{self, Flow};
use crate::guard::sentinel::registry;
use crate::guard::session;
use crate::guard::verdict::Verdict;
use crate::guc::{self, Enforce, Gate};
use crate::pg::{guc_hook, report};

const ANNOUNCEMENT: &CStr = c"received replication command: %s";

/// Whether this process is a walsender whose commands are gated.
static WATCHING: AtomicBool = AtomicBool::new(false);
/// Whether the administrator wants the announcements in the log.
static ANNOUNCE: AtomicBool = AtomicBool::new(false);
/// The lowest level of messages that the administrator wants in the log of this process, where it is above
/// the announcements'; otherwise 0.
static LOWEST: AtomicI32 = AtomicI32::new(0);

static mut PREVIOUS_EMIT: pg_sys::emit_log_hook_type = None;
static mut PREVIOUS_ANNOUNCE_CHECK: pg_sys::GucBoolCheckHook = None;
static mut PREVIOUS_LEVEL_CHECK: pg_sys::GucEnumCheckHook = None;

/// Whether messages of level LOG do not reach the log under `log_min_messages = level`.
fn hides_announcements(level: i32) -> bool {
    level != PgLogLevel::LOG as i32 && level > PgLogLevel::ERROR as i32
}

/// Starts to watch the commands of this walsender. Called at login.
pub fn watch() -> Result<()> {
    // SAFETY: reads variables of this process.
    let (announce, lowest) =
        unsafe { (pg_sys::log_replication_commands, pg_sys::log_min_messages) };
    ANNOUNCE.store(announce, Ordering::Relaxed);
    guc_hook::force(c"log_replication_commands", c"on");
    if hides_announcements(lowest) {
        LOWEST.store(lowest, Ordering::Relaxed);
        guc_hook::force(c"log_min_messages", c"log");
    }
    WATCHING.store(true, Ordering::Relaxed);
    // SAFETY: as above.
    let (announced, lowest) =
        unsafe { (pg_sys::log_replication_commands, pg_sys::log_min_messages) };
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
    // SAFETY: set by the server to the command before it announces it.
    let text = unsafe { pg_sys::debug_query_string };
    let command = if text.is_null() {
        None
    } else {
        // SAFETY: not NULL, NUL-terminated, and valid while the command runs.
        command::parse(&unsafe { CStr::from_ptr(text) }.to_string_lossy())
    };
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
        Flow {
            gate: Gate::Replication,
            database: Database::current(),
            role: session.role.clone(),
            peer: session.peer.clone(),
            region: judgement.region.clone(),
            object,
            error,
        },
        |error| warning = Some(error.to_string()),
    )?;
    Ok(warning)
}

fn raise(error: Error) -> ! {
    // SAFETY: the memory of the message being written is about to be discarded, so the new error must not be
    // made there. MessageContext lives as long as the session's main loop.
    unsafe { pg_sys::MemoryContextSwitchTo(pg_sys::MessageContext) };
    report::raise(error)
}

#[pg_guard]
extern "C-unwind" fn inspect(data: *mut pg_sys::ErrorData) {
    // SAFETY: the server hands over the message that it is about to write.
    let Some(data) = (unsafe { data.as_mut() }) else {
        return;
    };
    if data.elevel >= PgLogLevel::ERROR as i32 {
        if data.elevel < LOWEST.load(Ordering::Relaxed) {
            data.output_to_server = false;
        }
        return;
    }
    if LOWEST.load(Ordering::Relaxed) != 0 {
        data.output_to_server = false;
    }
    // SAFETY: message_id is NULL or the untranslated format string.
    if data.message_id.is_null() || unsafe { CStr::from_ptr(data.message_id) } != ANNOUNCEMENT {
        return;
    }
    if !ANNOUNCE.load(Ordering::Relaxed) {
        data.output_to_server = false;
    }
    match catch_unwind(AssertUnwindSafe(decide)) {
        Ok(Ok(None)) => {}
        Ok(Ok(Some(warning))) => {
            if let Ok(text) = std::ffi::CString::new(warning) {
                // SAFETY: the copy is made in the message's own memory and goes with it.
                data.detail_log =
                    unsafe { pg_sys::MemoryContextStrdup(data.assoc_context, text.as_ptr()) };
                data.output_to_server = true;
            }
        }
        Ok(Err(error)) => raise(error),
        Err(_) => raise(
            Error::internal("the region guard failed on a replication command")
                .detail("The command was refused."),
        ),
    }
}

/// Unguarded on purpose, without a local that needs dropping: errors pass through unchanged.
unsafe extern "C-unwind" fn emit(data: *mut pg_sys::ErrorData) {
    if WATCHING.load(Ordering::Relaxed) {
        inspect(data);
    }
    // SAFETY: PREVIOUS_EMIT is written once, in the postmaster.
    unsafe {
        if let Some(previous) = PREVIOUS_EMIT {
            previous(data);
        }
    }
}

const REFUSED: &CStr =
    c"The region guard watches replication commands through the log, so a walsender may not turn them off.";

unsafe extern "C-unwind" fn check_announce(
    new: *mut bool,
    extra: *mut *mut std::ffi::c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: the server passes a valid value; PREVIOUS_ANNOUNCE_CHECK is written once, in the postmaster.
    unsafe {
        if WATCHING.load(Ordering::Relaxed) && !*new {
            return guc_hook::refuse_value(REFUSED);
        }
        match PREVIOUS_ANNOUNCE_CHECK {
            Some(previous) => previous(new, extra, source),
            None => true,
        }
    }
}

unsafe extern "C-unwind" fn check_level(
    new: *mut i32,
    extra: *mut *mut std::ffi::c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: as above.
    unsafe {
        if WATCHING.load(Ordering::Relaxed) && hides_announcements(*new) {
            return guc_hook::refuse_value(REFUSED);
        }
        match PREVIOUS_LEVEL_CHECK {
            Some(previous) => previous(new, extra, source),
            None => true,
        }
    }
}

/// Installs the hooks. Only while preloading.
pub fn init() -> Result<()> {
    // SAFETY: called once from _PG_init, in the postmaster.
    unsafe {
        PREVIOUS_EMIT = pg_sys::emit_log_hook;
        pg_sys::emit_log_hook = Some(emit);
        PREVIOUS_ANNOUNCE_CHECK =
            guc_hook::chain_bool(c"log_replication_commands", Some(check_announce))?;
        PREVIOUS_LEVEL_CHECK = guc_hook::chain_enum(c"log_min_messages", Some(check_level))?;
    }
    Ok(())
}
