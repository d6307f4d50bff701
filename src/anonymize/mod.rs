//! How a cell is disposed.

pub mod fits;
pub mod json;
pub mod key;
pub mod method;
pub mod pseudonym;
pub mod sql;
