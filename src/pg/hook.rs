//! Hooks of the server: what was installed before is kept and called, and ours takes its place.

use std::cell::UnsafeCell;

/// What a hook held before ours was installed: `T` is the server's type of it, without the option.
pub struct Hook<T>(UnsafeCell<Option<T>>);

// SAFETY: written once, by `install`, while no statement runs that would call it; only read after that, in the one thread that
// runs them.
unsafe impl<T> Sync for Hook<T> {}

impl<T: Copy> Hook<T> {
    pub const fn new() -> Self {
        Hook(UnsafeCell::new(None))
    }

    /// Puts `ours` into the server's hook.
    ///
    /// # Safety
    /// Once in a process: from _PG_init, or between two statements. `hook` must be the server's variable of this type, and `ours` must call [`Hook::previous`].
    pub unsafe fn install(&self, hook: *mut Option<T>, ours: T) {
        // SAFETY: by the caller's promise.
        unsafe {
            *self.0.get() = *hook;
            *hook = Some(ours);
        }
    }

    /// What was there before.
    #[inline(always)]
    pub fn previous(&self) -> Option<T> {
        // SAFETY: as above: nobody writes any more.
        unsafe { *self.0.get() }
    }
}
