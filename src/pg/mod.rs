//! Safe wrappers over the server's C interface: most of the extension's `unsafe` lives here.

pub mod bgworker;
pub mod catalog;
pub mod clock;
pub mod inherit;
pub mod label;
pub mod latch;
pub mod lock;
pub mod relation;
pub mod report;
pub mod sandbox;
pub mod spi;
pub mod subxact;
pub mod time;
pub mod utility;
pub mod xact;
