//! The rules in force: read when the server starts and when it reloads.
//!
//! A file with an error is not used; the last good rules stay in force. They are kept as a copy in the data
//! directory, so that they survive a restart too. Nothing in the file can keep the server from starting. A
//! file that does not exist means that there are no rules, and that nothing is known about any peer.
//!
//! Shared memory holds a generation, which moves when other rules come into force; each process reads the
//! copy when it sees a new one.

use std::cell::{OnceCell, RefCell};
use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};

use pgrx::pg_shmem_init;
use pgrx::prelude::*;

use crate::error::{Error, Kind};
use crate::guard::files::{self, Disk, read_text};
use crate::guard::inherited;
use crate::guard::lane::archive;
use crate::guard::rules::{self, Noting, Own, Rules};
use crate::guard::settings;
use crate::guc;
use crate::pg::shared::{plain, shared};
use crate::pg::{host, report, xact};

/// Errors listed in one log message.
const MAX_LISTED: usize = 20;
/// Of the copy of the last good rules, in the data directory.
const DIRECTORY: &str = "pg_custodian";
const COPY: &str = "region_rules.active";

/// Where the rules in force come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The library is not preloaded, so there is no guard.
    Inactive,
    /// There is no file.
    Missing,
    /// The file as it is.
    Current,
    /// The file has errors; what was read before stays in force.
    Kept,
    /// The file has errors, and nothing was read before.
    Broken,
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Inactive => "inactive",
            State::Missing => "missing",
            State::Current => "current",
            State::Kept => "errors, last good rules kept",
            State::Broken => "errors, no rules",
        }
    }

    const fn from_number(number: u8) -> State {
        match number {
            1 => State::Missing,
            2 => State::Current,
            3 => State::Kept,
            4 => State::Broken,
            _ => State::Inactive,
        }
    }

    const fn number(self) -> u8 {
        match self {
            State::Inactive => 0,
            State::Missing => 1,
            State::Current => 2,
            State::Kept => 3,
            State::Broken => 4,
        }
    }
}

struct Shared {
    /// Moves when other rules come into force. Starts at 1.
    generation: AtomicU64,
    /// When the file was read last, on the server's clock.
    read_at: AtomicI64,
    state: AtomicU8,
}

plain!(struct Shared { generation, read_at, state });
shared!(atomic SHARED: Shared = c"pg_custodian rules");
// The value means nothing: the lock keeps two processes from reading the file at once.
shared!(lock READING: bool = c"pg_custodian rules lock");

/// The rules in force, as one process sees them.
pub struct Active {
    pub generation: u64,
    /// `None` when there are no rules.
    pub rules: Option<Rules>,
    own: OnceCell<Own>,
    /// What counts while the addresses of this machine could not be read.
    lost: OnceCell<Own>,
}

impl Active {
    fn new(generation: u64, rules: Option<Rules>) -> Rc<Active> {
        Rc::new(Active {
            generation,
            rules,
            own: OnceCell::new(),
            lost: OnceCell::new(),
        })
    }

    /// Where this node is. Looked up once, but see [`look_again`]; where the addresses cannot be read, each time.
    pub fn own(&self) -> &Own {
        if let Some(own) = self.own.get() {
            return own;
        }
        match self.look_up_own() {
            Ok(own) => self.own.get_or_init(|| own),
            Err(error) => self.lost.get_or_init(|| Own::unreadable(&error)),
        }
    }

    /// Whether it was looked up, and the addresses of this machine could not be read.
    pub fn is_lost(&self) -> bool {
        self.lost.get().is_some() && self.own.get().is_none()
    }

    fn look_up_own(&self) -> std::io::Result<Own> {
        let region = guc::region();
        let Some(rules) = &self.rules else {
            let problem = region
                .is_none()
                .then(|| "no region rules are loaded".to_owned());
            return Ok(Own {
                region,
                problem,
                ..Own::default()
            });
        };
        // Nobody asks where no line could answer.
        let addresses = if rules.has_nodes() {
            own_addresses()?
        } else {
            Vec::new()
        };
        let copied = rules.has_nodes() && inherited::file().is_some();
        Ok(rules.own(region.as_deref(), copied, &addresses))
    }

    /// The same rules, of a node that is there.
    fn placed(&self, own: Own) -> Rc<Active> {
        let active = self.unplaced();
        active.own.get_or_init(|| own);
        active
    }

    /// The same, with where this node is not looked up yet.
    fn unplaced(&self) -> Rc<Active> {
        Active::new(self.generation, self.rules.clone())
    }
}

thread_local! {
    static LOCAL: RefCell<Option<Rc<Active>>> = const { RefCell::new(None) };
}

/// The addresses of this machine. Without them nothing shows whether a `node` line contradicts the setting.
fn own_addresses() -> std::io::Result<Vec<IpAddr>> {
    let interfaces = if_addrs::get_if_addrs()?.into_iter();
    Ok(interfaces
        .filter(|interface| !interface.is_loopback())
        .map(|interface| interface.ip())
        .collect())
}

fn data_directory() -> Option<PathBuf> {
    Some(PathBuf::from(std::ffi::OsStr::new(
        host::data_directory()?.to_str().ok()?,
    )))
}

/// Whether the server was told to be a standby, or to restore an archive, as it starts: its files are copies of another's.
pub fn is_a_copy() -> bool {
    data_directory().is_some_and(|data| {
        ["standby.signal", "recovery.signal"]
            .iter()
            .any(|signal| data.join(signal).exists())
    })
}

/// The rules file.
pub fn file_path() -> Option<PathBuf> {
    Some(data_directory()?.join(guc::region_rules_file()?))
}

/// The directory of the guard's own files, in the data directory.
pub fn own_directory() -> Option<PathBuf> {
    Some(data_directory()?.join(DIRECTORY))
}

fn copy_path() -> Option<PathBuf> {
    Some(own_directory()?.join(COPY))
}

/// What the rules file holds now. `Ok(None)` when there is none; an error when it cannot be read at all.
pub fn read_file() -> Result<Option<rules::File>, String> {
    match file_path() {
        None => Ok(None),
        Some(path) => {
            let text = read_text(&path)?;
            Ok(text.map(|text| rules::parse_with(&text, &mut Disk::new(&path))))
        }
    }
}

/// The text of the copy of the last good rules.
fn read_copy() -> Option<String> {
    files::read_copy(&copy_path()?).ok().flatten()
}

fn parse_copy() -> Option<Rules> {
    rules::parse_kept(&read_copy()?).rules()
}

/// Writes the copy, so that it is either the old one or the new one, whatever happens.
fn write_copy(text: &str) -> std::io::Result<()> {
    match copy_path() {
        Some(path) => files::replace(&path, text),
        None => Err(std::io::Error::other("the data directory is unknown")),
    }
}

fn remove_copy() {
    if let Some(path) = copy_path() {
        // Where it cannot be removed it is not read either: the state says that there are no rules.
        let _ = std::fs::remove_file(path);
    }
}

/// Says in the log that other rules are in force.
fn announce(state: State) {
    let message = match state {
        State::Current => "other region rules are in force",
        State::Missing => "no region rules are in force, since there is no rules file",
        // Said already.
        State::Kept | State::Broken | State::Inactive => return,
    };
    report::log(PgLogLevel::LOG, Error::new(Kind::ConfigFile, message));
}

fn complain(problem: &str, detail: Option<String>, kept: bool) {
    let consequence = if kept {
        "the rules read before stay in force"
    } else {
        "no rules are in force"
    };
    let mut error = Error::new(
        Kind::ConfigFile,
        format!("region rules file {problem}: {consequence}"),
    )
    .hint("Correct the file and reload the server. custodian.region_rules shows each line.");
    error.detail = detail;
    report::log(PgLogLevel::LOG, error);
}

/// Reads the file and, when it is without error, its rules, with the state that results.
fn load() -> (State, Option<Rules>) {
    let Some(path) = file_path() else {
        remove_copy();
        return (State::Missing, None);
    };
    let text = match read_text(&path) {
        Ok(Some(text)) => text,
        Ok(None) => {
            remove_copy();
            return (State::Missing, None);
        }
        Err(problem) => return keep(&problem, None),
    };
    let mut files = Noting::new(Disk::new(&path));
    let file = rules::parse_with(&text, &mut files);
    let text = files.kept(&text);
    let Some(rules) = file.rules() else {
        let mut errors: Vec<String> = file
            .errors()
            .take(MAX_LISTED)
            .map(|(line, error)| format!("Line {line}: {error}."))
            .collect();
        let more = file.errors().count().saturating_sub(errors.len());
        if more > 0 {
            errors.push(format!("{more} more lines are wrong."));
        }
        return keep("has errors", Some(errors.join("\n")));
    };
    if read_copy().as_deref() != Some(text.as_str())
        && let Err(error) = write_copy(&text)
    {
        // Rules that other processes could not read must not come into force in this one alone.
        return keep(
            &format!("cannot be copied to \"{DIRECTORY}\" ({error})"),
            None,
        );
    }
    (State::Current, Some(rules))
}

/// The last good rules, after a complaint about the file.
fn keep(problem: &str, detail: Option<String>) -> (State, Option<Rules>) {
    let rules = parse_copy();
    complain(problem, detail, rules.is_some());
    let state = if rules.is_some() {
        State::Kept
    } else {
        State::Broken
    };
    (state, rules)
}

/// What shared memory begins with. Runs in the postmaster when the server starts, and again after a crash:
/// processes started later inherit the rules read here.
fn start() -> Shared {
    let read_at = xact::server_now();
    let (state, rules) = load();
    let active = Active::new(1, rules);
    archive::at_start();
    settings::at_start(&active);
    inherited::at_start(&active);
    // Processes inherit it, also those that start when the machine has got its address.
    LOCAL.with(|local| local.replace(Some(active.unplaced())));
    Shared {
        generation: AtomicU64::new(1),
        read_at: AtomicI64::new(read_at),
        state: AtomicU8::new(state.number()),
    }
}

/// Reads the file again and puts it into force for all processes, unless it has errors, which are logged.
/// For the launcher, when the server reloads; other processes do it where the launcher has not.
pub fn reload() {
    if !guc::preloaded() {
        return;
    }
    let _reading = READING.exclusive();
    if !is_stale() {
        return;
    }
    read_again();
}

fn read_again() {
    let shared = SHARED.get();
    let read_at = xact::server_now();
    let before = read_copy();
    let state_before = State::from_number(shared.state.load(Ordering::Relaxed));
    let (state, rules) = load();
    shared.state.store(state.number(), Ordering::Relaxed);
    if read_copy() != before || state != state_before {
        let generation = shared.generation.load(Ordering::Relaxed) + 1;
        LOCAL.with(|local| local.replace(Some(Active::new(generation, rules))));
        shared.generation.store(generation, Ordering::Release);
        announce(state);
    }
    shared.read_at.store(read_at, Ordering::Release);
}

/// Has this process look again where this node is: an address can come and go while it runs. For processes that last. Where the
/// addresses cannot be read now it stays where it was known to be, since that says nothing against it.
pub fn look_again() {
    LOCAL.with_borrow_mut(|local| {
        if let Some(active) = local
            && let Ok(own) = active.look_up_own()
            && active.own.get() != Some(&own)
        {
            *active = active.placed(own);
        }
    });
}

/// Whether this process has seen a reload since the file was read last. Only when preloaded.
#[inline]
pub fn is_stale() -> bool {
    xact::configuration_read_at() > SHARED.get().read_at.load(Ordering::Acquire)
}

/// The generation of the rules in force; 0 when the library is not preloaded.
#[inline]
pub fn generation() -> u64 {
    if guc::preloaded() {
        SHARED.get().generation.load(Ordering::Acquire)
    } else {
        0
    }
}

/// The state of the rules.
pub fn state() -> State {
    if guc::preloaded() {
        State::from_number(SHARED.get().state.load(Ordering::Relaxed))
    } else {
        State::Inactive
    }
}

/// The rules in force. Reads the file first when this process has seen a reload that nobody acted on.
pub fn current() -> Rc<Active> {
    if guc::preloaded() && is_stale() {
        reload();
    }
    as_published()
}

/// What will be in force: the file as it is when it has no error, else the rules in force. For decisions of a reload,
/// which sees the new settings before the new rules are in force.
pub fn upcoming() -> Rc<Active> {
    match read_file().ok().flatten().and_then(|file| file.rules()) {
        Some(rules) => Active::new(0, Some(rules)),
        // The postmaster asks too, and what it remembered its children would inherit.
        None => as_published().unplaced(),
    }
}

/// Rules that are not in force, to see what they would do.
pub fn of(rules: Rules) -> Rc<Active> {
    Active::new(0, Some(rules))
}

/// The rules in force without looking at the file: takes no lock and logs nothing, for use in any hook.
pub fn as_published() -> Rc<Active> {
    let generation = generation();
    let known = LOCAL.with_borrow(|local| {
        local
            .as_ref()
            .filter(|active| active.generation == generation)
            .cloned()
    });
    if let Some(active) = known {
        return active;
    }
    let rules = match state() {
        State::Current | State::Kept => parse_copy(),
        State::Missing | State::Broken | State::Inactive => None,
    };
    let active = Active::new(generation, rules);
    LOCAL.with(|local| local.replace(Some(Rc::clone(&active))));
    active
}

/// Asks for shared memory. Only while preloading.
pub fn init() {
    pg_shmem_init!(READING = false);
    pg_shmem_init!(SHARED = start());
}
