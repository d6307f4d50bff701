//! How a cell is disposed.

pub mod method;
