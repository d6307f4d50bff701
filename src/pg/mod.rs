//! Safe wrappers over the server's C interface: most of the extension's `unsafe` lives here.

pub mod args;
pub mod bgworker;
pub mod catalog;
pub mod clock;
<<<<<<< HEAD
pub mod database;
pub mod fresh;
=======
pub mod guc_hook;
>>>>>>> 797f2c6 (Gate walsenders, replication commands, publications, subscriptions and reads)
pub mod inherit;
pub mod label;
pub mod latch;
pub mod list;
pub mod lock;
<<<<<<< HEAD
pub mod object_access;
=======
pub mod port;
>>>>>>> 797f2c6 (Gate walsenders, replication commands, publications, subscriptions and reads)
pub mod relation;
pub mod report;
pub mod sandbox;
pub mod spi;
pub mod subxact;
pub mod textform;
pub mod time;
pub mod trigger;
pub mod utility;
pub mod xact;
