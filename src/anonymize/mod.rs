//! How a cell is disposed.

pub mod method;
pub mod sql;
