//! Applying a logical subscription: which one this process applies, and how one is disabled.

use pgrx::pg_sys;

/// The server's struct for a subscription: its first field in every version, which is all that is read.
#[repr(C)]
struct Subscription {
    oid: pg_sys::Oid,
}

unsafe extern "C-unwind" {
    static MySubscription: *const Subscription;
    fn DisableSubscription(subscription: pg_sys::Oid);
}

/// The subscription that this process applies; `None` in every other process.
pub fn subscription() -> Option<pg_sys::Oid> {
    // SAFETY: reads backend-local state. The pointer is NULL or valid for as long as the worker runs.
    unsafe {
        if !pg_sys::IsLogicalWorker() {
            return None;
        }
        MySubscription.as_ref().map(|subscription| subscription.oid)
    }
}

/// Disables a subscription as `disable_on_error` does: in force when the transaction commits. Checks no
/// privilege. The subscription must exist.
pub fn disable(subscription: pg_sys::Oid) {
    // SAFETY: inside a transaction with an active snapshot; an unknown subscription raises an error.
    unsafe {
        DisableSubscription(subscription);
        pg_sys::CommandCounterIncrement();
    }
}
