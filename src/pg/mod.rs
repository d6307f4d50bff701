//! Safe wrappers over the server's C interface: most of the extension's `unsafe` lives here.

pub mod args;
pub mod bgworker;
pub mod catalog;
pub mod clock;
pub mod database;
pub mod fresh;
pub mod heap;
pub mod inherit;
pub mod label;
pub mod latch;
pub mod lock;
pub mod object_access;
pub mod random;
pub mod regclass;
pub mod relation;
pub mod report;
pub mod sandbox;
pub mod spi;
pub mod subxact;
pub mod textform;
pub mod time;
pub mod timeout;
pub mod trigger;
pub mod utility;
pub mod xact;
