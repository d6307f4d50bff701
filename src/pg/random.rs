//! Randomness from the server.

use pgrx::pg_sys;

/// A number from 0 up to 1, for pace and not for secrets.
pub fn fraction() -> f64 {
    // SAFETY: the backend's own generator, seeded when the process started.
    unsafe { pg_sys::pg_prng_double(&raw mut pg_sys::pg_global_prng_state) }
}

/// Fills the buffer with randomness fit for secrets; false where the server has none to give.
pub fn fill(buffer: &mut [u8]) -> bool {
    // SAFETY: the buffer is writable for its length.
    unsafe { pg_sys::pg_strong_random(buffer.as_mut_ptr().cast(), buffer.len()) }
}
