//! Column and table tags: their grammar, the label provider, and the functions that write them.

mod change;
pub mod effective;
pub mod grammar;
pub mod names;
mod parse;
pub mod provider;
pub mod read;
pub mod rules;
pub mod target;

/// Registers the label provider.
pub fn init() {
    provider::init();
}
