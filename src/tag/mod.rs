//! Column and table tags: their grammar, the label provider, and the functions that write them.

pub mod effective;
pub mod grammar;
pub mod names;
mod parse;
pub mod read;
pub mod rules;
