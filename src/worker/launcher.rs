//! The launcher: one per cluster. It finds the databases, and starts a scheduler in each.

use std::time::Duration;

use pgrx::prelude::*;

use crate::pg::{bgworker, latch};
use crate::worker::shmem;

/// Registers the launcher. Only while preloading.
pub fn init() {
    bgworker::register_static(&bgworker::Worker {
        name: "pg_custodian launcher",
        function: c"custodian_launcher_main",
        argument: 0,
        extra: &[],
        restart: Some(1),
        notify: 0,
    });
}

#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, _arg: pg_sys::Datum) {
    shmem::release_launcher(latch::my_pid());
}

/// The launcher's main function. It ends only on SIGTERM, and then with exit code 1, so that the postmaster
/// restarts it unless the server shuts down.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn custodian_launcher_main(_arg: pg_sys::Datum) {
    bgworker::accept_signals();
    bgworker::before_exit(on_exit);
    if !shmem::claim_launcher(latch::my_pid()) {
        bgworker::exit_for_restart();
    }
    bgworker::connect(None);
    loop {
        bgworker::reload_settings();
        latch::wait(Duration::from_secs(60));
    }
}
