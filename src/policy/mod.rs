//! The policy: what it says, how it is compiled with the catalog into a plan, and the plan's two readings.

pub mod compile;
pub mod epoch;
pub mod model;
pub mod period;
pub mod render;
