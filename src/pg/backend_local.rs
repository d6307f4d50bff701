//! A variable of the backend. Unlike one of the thread it costs no call to reach, which matters in hooks that run for each
//! statement: the library is loaded at run time, where variables of a thread are looked up by a function.

/// A value that only the thread of the backend that runs queries touches.
pub struct BackendLocal<T>(T);

// SAFETY: by the promise that `new` asks for, there is but one thread.
unsafe impl<T> Sync for BackendLocal<T> {}

impl<T> BackendLocal<T> {
    /// # Safety
    /// It may be used only from the thread that runs queries, as all hooks are that the server calls.
    pub const unsafe fn new(value: T) -> Self {
        BackendLocal(value)
    }

    /// The value.
    #[inline]
    pub const fn get(&self) -> &T {
        &self.0
    }
}

/// Declares a static of the backend.
macro_rules! backend_local {
    ($name:ident: $type:ty = $value:expr) => {
        // SAFETY: this library makes no threads, and the server calls it in the one that runs queries.
        static $name: $crate::pg::backend_local::BackendLocal<$type> =
            unsafe { $crate::pg::backend_local::BackendLocal::new($value) };
    };
}
pub(crate) use backend_local;
