//! Column and table tags: their grammar, the label provider, and the functions that write them.

pub mod grammar;
