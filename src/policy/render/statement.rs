//! A statement and its parameters: values never become part of SQL text.

use crate::policy::period::{Instant, Period};

/// A value bound to a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Param {
    /// `text`
    Text(String),
    /// `text[]`
    TextArray(Vec<String>),
    /// `timestamptz`
    Instant(Instant),
    /// `interval`
    Period(Period),
    /// `tid`
    Tid { block: u32, offset: u16 },
}

/// A query with the values of its `$1`, `$2`, …
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    pub sql: String,
    pub params: Vec<Param>,
}

impl Statement {
    /// The statement with the block range `[first, end)` bound to the two parameters that [`super::batch`]
    /// left open.
    #[must_use]
    pub fn with_blocks(&self, first: u32, end: u32) -> Statement {
        let mut statement = self.clone();
        for block in [first, end] {
            statement.params.push(Param::Tid { block, offset: 0 });
        }
        statement
    }
}

/// Collects parameters while a statement is written. Equal values share one.
#[derive(Debug, Default)]
pub struct Binder {
    params: Vec<Param>,
}

impl Binder {
    /// The placeholder of a value, such as `$3`.
    pub fn bind(&mut self, param: Param) -> String {
        let position = match self.params.iter().position(|bound| *bound == param) {
            Some(position) => position,
            None => {
                self.params.push(param);
                self.params.len() - 1
            }
        };
        format!("${}", position + 1)
    }

    /// The placeholder of the `ahead`th parameter after all bound ones, which the caller of the statement adds.
    pub fn open(&self, ahead: usize) -> String {
        format!("${}", self.params.len() + ahead)
    }

    pub fn finish(self, sql: String) -> Statement {
        Statement {
            sql,
            params: self.params,
        }
    }
}
