//! The machine and the cluster that this server runs on.

use std::ffi::CStr;

use pgrx::pg_sys;

/// Which boot of the machine this is; `None` where the system does not tell.
pub fn boot() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Microseconds since the machine was started, also while it slept, on a clock that cannot be set; 0 where there is none.
pub fn uptime() -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is valid for the call, which fills the struct or fails.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) } != 0;
    if failed {
        return 0;
    }
    time.tv_sec
        .saturating_mul(1_000_000)
        .saturating_add(time.tv_nsec / 1000)
}

/// The data directory; `None` before the server knows it.
pub fn data_directory() -> Option<&'static CStr> {
    // SAFETY: set before libraries are preloaded, NUL-terminated, and never changed after.
    unsafe {
        let directory = pg_sys::DataDir;
        (!directory.is_null()).then(|| CStr::from_ptr(directory))
    }
}

/// Whether this is a process that the postmaster started, and not the postmaster itself.
pub fn is_child_of_postmaster() -> bool {
    // SAFETY: reads a variable that each process has.
    unsafe { pg_sys::IsUnderPostmaster }
}

/// The number that initdb gave to the cluster.
pub fn system_identifier() -> i64 {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::GetSystemIdentifier() as i64 }
}

/// Which copy of its files the cluster runs on: the numbers that the file system gave to the data directory and to a file
/// in it that is never made anew. They stay when the directory is moved, or mounted elsewhere, and no copy has them.
pub fn directory() -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    // A backend's working directory is the data directory.
    let number = |path: &str| std::fs::metadata(path).ok().map(|found| found.ino());
    Some(format!("{}:{}", number(".")?, number("PG_VERSION")?))
}

/// The server's own history of a timeline; `None` when its file is not there.
pub fn timeline_history(timeline: i64) -> Option<String> {
    // A backend's working directory is the data directory.
    std::fs::read_to_string(format!("pg_wal/{timeline:08X}.history")).ok()
}
