//! Column and table tags: their grammar, the label provider, and the functions that write them.

pub mod change;
pub mod dependents;
pub mod derive;
pub mod detach;
pub mod detect;
pub mod effective;
pub mod findings;
pub mod functions;
pub mod grammar;
pub mod meaning;
pub mod names;
mod parse;
pub mod provider;
pub mod read;
pub mod rename;
pub mod rename_dependents;
pub mod rules;
pub mod target;
#[cfg(any(test, feature = "pg_test"))]
#[allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]
mod tests;
pub mod view;

use crate::pg::{label, parse_analysis};

pgrx::extension_sql_file!(
    "../../sql/tag.sql",
    name = "tag",
    requires = [view::read_tags, "law"]
);

/// Registers the label provider, and follows what is copied.
pub fn init() {
    label::init();
    parse_analysis::init();
}
