//! The error of this crate: a text that a failed test can show, and the server's own report if there was one.

use std::fmt;

use postgres::error::DbError;

/// What went wrong, in words; for an error of the server also its fields.
///
/// `Debug` prints the same text as `Display`, so that a test returning `Result` shows it readably.
pub struct Error {
    text: String,
    db: Option<Box<DbError>>,
}

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with this text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            db: None,
        }
    }

    /// The server's report (SQLSTATE, message, detail, hint), if the server raised the error.
    #[must_use]
    pub fn db(&self) -> Option<&DbError> {
        self.db.as_deref()
    }

    /// The SQLSTATE, or an empty string if the error is none of the server's.
    #[must_use]
    pub fn sqlstate(&self) -> &str {
        self.db().map_or("", |d| d.code().code())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

impl From<postgres::Error> for Error {
    fn from(error: postgres::Error) -> Self {
        let Some(db) = error.as_db_error().cloned() else {
            return Self::new(format!("{error}"));
        };
        let mut text = format!(
            "{}: {} (SQLSTATE {})",
            db.severity(),
            db.message(),
            db.code().code()
        );
        for (name, value) in [
            ("DETAIL", db.detail()),
            ("HINT", db.hint()),
            ("CONTEXT", db.where_()),
        ] {
            if let Some(value) = value {
                text.push_str(&format!("\n{name}: {value}"));
            }
        }
        Self {
            text,
            db: Some(Box::new(db)),
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<std::string::FromUtf8Error> for Error {
    fn from(error: std::string::FromUtf8Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<String> for Error {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Error {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}
