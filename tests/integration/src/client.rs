//! Small conveniences over the `postgres` client.

use postgres::{Client, SimpleQueryMessage};

use crate::error::{Error, Result};

/// What tests want of a client beyond what it has.
pub trait Sql {
    /// What a query gives, as text like that of `psql -At`: rows on lines, columns separated by `|`, NULL as nothing.
    /// Several statements may be given; the rows of all are returned.
    ///
    /// # Errors
    /// If it fails.
    fn text(&mut self, sql: &str) -> Result<String>;

    /// The error that the server raises on these statements.
    ///
    /// # Panics
    /// If they succeed.
    fn refused(&mut self, sql: &str) -> Error;
}

impl Sql for Client {
    fn text(&mut self, sql: &str) -> Result<String> {
        let mut lines = Vec::new();
        for message in self.simple_query(sql)? {
            if let SimpleQueryMessage::Row(row) = message {
                let columns: Vec<_> = (0..row.len()).map(|i| row.get(i).unwrap_or("")).collect();
                lines.push(columns.join("|"));
            }
        }
        Ok(lines.join("\n"))
    }

    #[track_caller]
    fn refused(&mut self, sql: &str) -> Error {
        match self.batch_execute(sql) {
            Ok(()) => panic!("this should have been refused: {sql}"),
            Err(e) => e.into(),
        }
    }
}

/// A string literal of SQL (for servers with `standard_conforming_strings`, as all of ours).
#[must_use]
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
