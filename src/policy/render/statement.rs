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
    /// `timestamptz[]`
    Instants(Vec<Instant>),
    /// `interval`
    Period(Period),
    /// `tid`
    Tid(Tid),
    /// `tid[]`
    Tids(Vec<Tid>),
}

/// Where a row version lies in its heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tid {
    pub block: u32,
    pub offset: u16,
}

impl Tid {
    /// Before the first row of a block.
    pub const fn start_of(block: u32) -> Tid {
        Tid { block, offset: 0 }
    }

    /// The place right behind this one.
    #[must_use]
    pub const fn next(self) -> Tid {
        Tid {
            block: self.block,
            offset: self.offset.saturating_add(1),
        }
    }
}

/// A query with the values of its `$1`, `$2`, …
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    pub sql: String,
    pub params: Vec<Param>,
    /// Where the condition on the leaf's rows ends, if it does not end the statement.
    pub condition_end: Option<usize>,
}

impl Statement {
    /// The statement, whose condition on the leaf's rows ends before the statement does.
    #[must_use]
    pub fn with_condition_end(mut self, end: usize) -> Statement {
        self.condition_end = Some(end);
        self
    }

    /// The statement with the block range `[first, end)` bound to the two parameters that [`super::Due::batch`]
    /// left open.
    #[must_use]
    pub fn with_blocks(&self, first: u32, end: u32) -> Statement {
        self.within(Tid::start_of(first), Tid::start_of(end))
    }

    /// The same with any range `[first, end)` of rows.
    #[must_use]
    pub fn within(&self, first: Tid, end: Tid) -> Statement {
        let mut statement = self.clone();
        statement
            .params
            .extend([Param::Tid(first), Param::Tid(end)]);
        statement
    }

    /// The statement without these rows.
    #[must_use]
    pub fn without(&self, rows: &[Tid]) -> Statement {
        self.and_rows("<> ALL", rows)
    }

    /// The statement for these rows alone.
    #[must_use]
    pub fn only(&self, rows: &[Tid]) -> Statement {
        self.and_rows("= ANY", rows)
    }

    fn and_rows(&self, operator: &str, rows: &[Tid]) -> Statement {
        let mut statement = self.clone();
        if rows.is_empty() && operator == "<> ALL" {
            return statement;
        }
        statement.params.push(Param::Tids(rows.to_vec()));
        let more = format!(
            " AND {}.ctid {operator} (${})",
            super::ROW,
            statement.params.len()
        );
        let end = statement.condition_end.unwrap_or(statement.sql.len());
        statement.sql.insert_str(end, &more);
        statement.condition_end = statement.condition_end.map(|end| end + more.len());
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
            condition_end: None,
        }
    }
}
