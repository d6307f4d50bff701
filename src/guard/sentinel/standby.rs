//! The sentinel of a standby: ends walsenders that its rules do not let in. The launcher runs on primaries only.

use std::time::Duration;

use pgrx::prelude::*;

use crate::guard::lane::archive;
use crate::guard::{active, sentinel};
use crate::pg::{bgworker, latch, xact};

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(5);

/// Registers the worker. Only while preloading.
pub fn init() {
    bgworker::register_on_standbys(&bgworker::Worker {
        name: "pg_custodian sentinel",
        function: c"custodian_sentinel_main",
        argument: 0,
        extra: &[],
        restart: Some(1),
        notify: 0,
    });
}

/// The worker's main function. On a primary it has nothing to do and ends, for good: with exit code 0 the postmaster does
/// not start it again.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn custodian_sentinel_main(_arg: pg_sys::Datum) {
    bgworker::accept_signals();
    if !xact::in_recovery() {
        return;
    }
    bgworker::connect(None);
    archive::forget();
    let mut ending = archive::Ending::default();
    while xact::in_recovery() {
        bgworker::reload_settings();
        active::reload();
        active::look_again();
        let rules = active::current();
        sentinel::settings(&rules);
        sentinel::by_rules(&rules);
        ending.look();
        bgworker::report_idle();
        latch::wait(INTERVAL);
    }
}
