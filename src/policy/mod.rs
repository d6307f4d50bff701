//! The policy: what it says, how it is compiled with the catalog into a plan, and the plan's two readings.

pub mod affected;
pub mod along;
pub mod basis;
pub mod basis_store;
pub mod cascade;
pub mod compile;
pub mod declare;
mod defence;
pub mod enforcement;
pub mod epoch;
pub mod evaluate;
pub mod explain;
#[cfg(test)]
pub mod fixture;
pub mod foreign_code;
pub mod hold;
pub mod hold_read;
pub mod hold_value;
mod hold_wait;
pub mod holds;
pub mod law_clock;
pub mod load;
pub mod maximum;
pub mod minimum;
pub mod model;
#[cfg(test)]
mod model_tests;
pub mod once;
pub mod order;
pub mod period;
pub mod preview;
pub mod publication;
pub mod purpose;
#[cfg(any(test, feature = "pg_test"))]
#[allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]
mod random;
pub mod reach;
mod reads;
pub mod relation_ref;
pub mod render;
mod simulate;
pub mod subject_use;
pub mod subscribers;
#[cfg(any(test, feature = "pg_test"))]
#[allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]
mod tests;
pub mod unrecorded;
