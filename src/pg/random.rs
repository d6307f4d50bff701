//! Randomness for pace, not for secrets.

use pgrx::pg_sys;

/// A number from 0 up to 1.
pub fn fraction() -> f64 {
    // SAFETY: the backend's own generator, seeded when the process started.
    unsafe { pg_sys::pg_prng_double(&raw mut pg_sys::pg_global_prng_state) }
}
