//! The one error type of the extension: SQLSTATE, message, detail and hint.
//!
//! Errors are part of the interface. A message says what is wrong, the detail says where, and the hint
//! says what to do next; none of them may hold a personal value. This file is pure: `pg::report` turns an
//! [`Error`] into a PostgreSQL error report.

use std::fmt::{self, Display};

/// Kinds of errors a caller can tell apart, each with its SQLSTATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 22023: an argument that no caller may pass.
    InvalidParameter,
    /// 22023: a security label that cannot be parsed or means nothing.
    InvalidTag,
    /// 42501: the role may not do this.
    InsufficientPrivilege,
    /// 42501: the region guard refuses the flow.
    RegionRefused,
    /// 23001: a legal hold or a statutory minimum keeps the data.
    Kept,
    /// 42704: a named object does not exist.
    UndefinedObject,
    /// 42710: a named object exists already.
    DuplicateObject,
    /// 42809: the object is of a kind that cannot be used here.
    WrongObjectType,
    /// 55000: something must be done first (library not preloaded, keys missing, …).
    NotInPrerequisiteState,
    /// 55P03: a lock could not be had in time.
    LockNotAvailable,
    /// 09000: a trigger or a rule of a table does not let happen what must.
    TriggeredAction,
    /// 25001: not inside a transaction block or a function.
    ActiveTransaction,
    /// 53000: the server has none left of what this needs.
    InsufficientResources,
    /// 54000: larger than the extension accepts.
    ProgramLimitExceeded,
    /// XX001: stored evidence contradicts itself.
    DataCorrupted,
    /// F0000: a configuration file is wrong.
    ConfigFile,
    /// XX000: a mistake of ours, or a server call that failed unexpectedly.
    Internal,
}

impl Kind {
    /// The five characters of the SQLSTATE.
    pub const fn sqlstate(self) -> &'static str {
        match self {
            Kind::InvalidParameter | Kind::InvalidTag => "22023",
            Kind::InsufficientPrivilege | Kind::RegionRefused => "42501",
            Kind::Kept => "23001",
            Kind::UndefinedObject => "42704",
            Kind::DuplicateObject => "42710",
            Kind::WrongObjectType => "42809",
            Kind::NotInPrerequisiteState => "55000",
            Kind::LockNotAvailable => "55P03",
            Kind::TriggeredAction => "09000",
            Kind::ActiveTransaction => "25001",
            Kind::InsufficientResources => "53000",
            Kind::ProgramLimitExceeded => "54000",
            Kind::DataCorrupted => "XX001",
            Kind::ConfigFile => "F0000",
            Kind::Internal => "XX000",
        }
    }
}

/// An error as the user will see it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    pub kind: Kind,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        Ok(())
    }
}

impl Error {
    /// An error of `kind` with a primary message in PostgreSQL's style: lower case, no full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error {
            kind,
            message: message.into(),
            detail: None,
            hint: None,
        }
    }

    /// Adds the detail: full sentences on what exactly and where, without personal values.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds the hint: full sentences on what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An error that only a mistake in the extension can cause.
    pub fn internal(message: impl Display) -> Self {
        Error::new(Kind::Internal, message.to_string())
            .hint("This is a mistake in pg_custodian. Please report it with the server log.")
    }
}

/// The result type of everything in the extension that can fail.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_carries_message_and_detail_but_not_the_hint() {
        let error = Error::new(Kind::Kept, "row is kept")
            .detail("Matter M1.")
            .hint("Wait.");
        assert_eq!(error.to_string(), "row is kept (Matter M1.)");
        assert_eq!(error.kind.sqlstate(), "23001");
    }
}
