//! When data must go: an independent reading of the retention rules, written from the design and not from the
//! extension, to compare the extension with. It is small, slow and obvious on purpose: it looks at every row
//! whenever it needs one, caches nothing, and knows nothing of SQL, plans or indexes.
//!
//! A [`World`] is a whole small database: tables, foreign keys, rows, tags, policy, and the present moment.
//! [`World::decide`] says the state of each cell and which rows go; [`World::sweep`] makes it happen.
//! [`generate`] makes worlds, and changes of them, from a [`generate::Tape`] of choices.
//!
//! What it leaves out: how a method computes its value (a method is the value that it leaves), privileges,
//! triggers, and everything about when a sweep takes place.

pub mod calendar;
pub mod change;
pub mod decide;
pub mod example;
pub mod generate;
mod keys;
mod label;
pub mod refuse;
pub mod relabel;
#[cfg(test)]
mod relabel_tests;
mod structure;
#[cfg(test)]
mod tests;
mod tighten;
pub mod world;

pub use calendar::{Moment, Period};
pub use decide::{Decision, State};
pub use world::World;
