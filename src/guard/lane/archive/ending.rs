//! Has the server stop archiving where lanes have ended: it is told to read its configuration again, in which the gate on
//! settings empties the command, and looked at whether it did. What it cannot do is said.

use std::time::{Duration, Instant};

use pgrx::prelude::*;

use crate::error::{Error, Kind};
use crate::guard::{active, settings};
use crate::guc::{self, Enforce, Gate};
use crate::pg::{bgworker, guc_hook, report};

/// How long it is waited before the server is told again: each time all of its processes read their configuration.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take the server to have done so.
const GRACE: Duration = Duration::from_secs(10);

/// Why a command is still in force, for people.
pub const WHY_NOT: &str = "The server applies nothing of configuration files with an error, and no file changes what was given on the command line.";
/// What to do about it.
pub const REMEDY: &str = "Correct the configuration files, as the server's log and pg_file_settings show, and reload, or restart the server without that option.";

/// A command that is to end, and was told of.
#[derive(Default)]
pub struct Ending {
    asked: Option<Instant>,
    complained: bool,
}

/// What is to be done now about a command that is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Nothing,
    /// Tell the server.
    Ask,
    /// Say that it did not do so.
    Complain,
}

impl Ending {
    /// What is to be done. Pure.
    pub fn step(&mut self, is_to_end: bool, now: Instant) -> Step {
        if !is_to_end {
            *self = Ending::default();
            return Step::Nothing;
        }
        let waited = self.asked.map(|at| now.saturating_duration_since(at));
        match waited {
            Some(waited) if !self.complained && waited >= GRACE => {
                self.complained = true;
                Step::Complain
            }
            Some(waited) if waited < PATIENCE => Step::Nothing,
            _ => {
                self.asked = Some(now);
                Step::Ask
            }
        }
    }

    /// Whether something is to end that has not.
    pub const fn is_under_way(&self) -> bool {
        self.asked.is_some()
    }

    /// On a standby, which has no lanes.
    pub fn look(&mut self) {
        if guc::enforce(Gate::Settings) != Enforce::On {
            return;
        }
        let command = guc_hook::value(c"archive_command").unwrap_or_default();
        let is_to_end = settings::is_to_end(&active::current(), &command);
        match self.step(is_to_end, Instant::now()) {
            Step::Nothing => {}
            Step::Ask => bgworker::reload_server(),
            Step::Complain => complain("archiving by archive_command"),
        }
    }
}

/// Says that something that is to end goes on.
pub fn complain(object: &str) {
    report::log(
        PgLogLevel::WARNING,
        Error::new(
            Kind::RegionRefused,
            format!("{object} is not allowed any more, and could not be ended"),
        )
        .detail(WHY_NOT)
        .hint(REMEDY),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_told_once_a_minute_and_what_it_does_not_do_is_said_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut ending = Ending::default();
        assert_eq!(ending.step(false, at(0)), Step::Nothing);
        assert!(!ending.is_under_way());
        assert_eq!(ending.step(true, at(0)), Step::Ask);
        assert!(ending.is_under_way());
        for second in 0..10 {
            assert_eq!(ending.step(true, at(second)), Step::Nothing);
        }
        assert_eq!(ending.step(true, at(10)), Step::Complain);
        for second in 10..60 {
            assert_eq!(ending.step(true, at(second)), Step::Nothing);
        }
        assert_eq!(ending.step(true, at(60)), Step::Ask);
        assert_eq!(ending.step(true, at(75)), Step::Nothing);
        assert_eq!(ending.step(true, at(120)), Step::Ask);
        // It ended; another one is told of at once.
        assert_eq!(ending.step(false, at(121)), Step::Nothing);
        assert!(!ending.is_under_way());
        assert_eq!(ending.step(true, at(122)), Step::Ask);
    }
}
