//! The server's time zones.

use std::ffi::CString;

use pgrx::pg_sys;

/// The zone of that name, from the server's cache or its files.
fn zone(name: &str) -> Option<*mut pg_sys::pg_tz> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name is NUL-terminated; the server keeps what it gives for as long as the process lives.
    let zone = unsafe { pg_sys::pg_tzset(name.as_ptr()) };
    (!zone.is_null()).then_some(zone)
}

/// Whether the server knows a time zone of this name, as the setting TimeZone does.
pub fn exists(name: &str) -> bool {
    zone(name).is_some()
}

/// The minute of the local day in a zone at a moment, in seconds since 1970; `None` when there is no such zone.
pub fn minute_of_day(name: &str, at: i64) -> Option<u16> {
    let zone = zone(name)?;
    // SAFETY: both pointers are valid; the result is static memory of the server, read at once.
    unsafe {
        let local = pg_sys::pg_localtime(&at, zone).as_ref()?;
        u16::try_from(local.tm_hour * 60 + local.tm_min).ok()
    }
}
