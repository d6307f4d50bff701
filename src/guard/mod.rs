//! The region guard: where data may go.
//!
//! [`rules`], [`verdict`], [`command`] and [`conninfo`] decide and know no server. [`active`] keeps the rules
//! in force, [`session`] says who the client is, and each gate has a file of its own.

pub mod access;
pub mod active;
mod advice;
pub mod break_glass;
mod catalogs;
mod columns;
pub mod command;
pub mod computed;
pub mod conninfo;
pub mod ddl;
mod destination;
pub mod exposure;
mod files;
pub mod foreign;
pub mod function;
pub mod inherited;
pub mod lane;
pub mod login;
pub mod notification;
pub mod opening;
pub mod own_residency;
mod published;
mod refuse;
pub mod replaced;
pub mod replication;
pub mod residency_column;
pub mod row;
pub mod rules;
pub mod scripts;
pub mod seen;
pub mod sentinel;
pub mod session;
pub mod settings;
pub mod shipping;
pub mod standing;
pub mod tls;
pub mod verdict;
pub mod view;
pub mod widening;
pub mod written;

use pgrx::prelude::*;

use crate::guc;
use crate::pg::{
    authentication, executor, message, parallel, permissions, planner, report, setting_check,
};

extension_sql_file!(
    "../../sql/guard.sql",
    name = "guard",
    requires = [view::read_region_files]
);

/// Installs the gates. Without preloading there is no shared memory, and no client could be judged in time.
pub fn init() {
    if !guc::preloaded() {
        return;
    }
    parallel::init();
    break_glass::init();
    active::init();
    sentinel::init();
    authentication::init();
    lane::session::init();
    lane::archive::telling::init();
    permissions::init();
    executor::init();
    planner::init();
    if let Err(error) = message::init().and_then(|()| setting_check::init()) {
        report::raise(error);
    }
}
