//! The region guard: where data may go.

pub mod command;
pub mod conninfo;
pub mod row;
pub mod rules;
pub mod verdict;
