//! Which relation and constraint an error is about: names that the server sets beside the message. The message
//! itself, which may carry values, is never read.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};

use pgrx::pg_sys;

/// What an error of the server names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Schema-qualified.
    pub relation: Option<String>,
    pub constraint: Option<String>,
    /// The server's own storage raised it, as when a disk is full. Code of users cannot pretend that: it goes by the
    /// source file of the server.
    pub storage: bool,
}

/// Source files of the server that read and write files of relations.
const STORAGE: [&str; 4] = ["md.c", "fd.c", "smgr.c", "slru.c"];

thread_local! {
    static NOTED: RefCell<Option<Names>> = const { RefCell::new(None) };
}

fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: strings of an error's data are NUL-terminated.
    Some(
        unsafe { CStr::from_ptr(pointer) }
            .to_string_lossy()
            .into_owned(),
    )
}

/// Called by the server while it finishes an error or a message, before that is thrown.
unsafe extern "C-unwind" fn callback(_argument: *mut c_void) {
    // SAFETY: an error is being finished, so that there is one to copy; the copy lives in a context other than
    // the one for errors, and is freed at once.
    unsafe {
        let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let data = pg_sys::CopyErrorData();
        if (*data).elevel >= pgrx::PgLogLevel::ERROR as i32 {
            let table = text((*data).table_name);
            let relation = match (text((*data).schema_name), table) {
                (Some(schema), Some(table)) => Some(format!("{schema}.{table}")),
                (_, table) => table,
            };
            NOTED.replace(Some(Names {
                relation,
                constraint: text((*data).constraint_name),
                storage: text((*data).filename).is_some_and(|file| {
                    STORAGE.contains(&file.rsplit('/').next().unwrap_or_default())
                }),
            }));
        }
        pg_sys::FreeErrorData(data);
        pg_sys::MemoryContextSwitchTo(before);
    }
}

/// Takes the callback off again, also while an error unwinds.
struct Listening {
    previous: *mut pg_sys::ErrorContextCallback,
}

impl Drop for Listening {
    fn drop(&mut self) {
        // SAFETY: the callback that was pushed is the innermost one that is left, or is gone already.
        unsafe { pg_sys::error_context_stack = self.previous };
    }
}

/// Runs `work`, and gives what the last error raised in it names. For background workers: `work` must hand errors
/// over, not raise them.
pub fn noting<T>(work: impl FnOnce() -> T) -> (T, Option<Names>) {
    NOTED.replace(None);
    let mut entry = pg_sys::ErrorContextCallback::default();
    // SAFETY: the entry outlives its place on the stack of callbacks: `Listening` takes it off before it is dropped.
    let value = unsafe {
        entry.previous = pg_sys::error_context_stack;
        entry.callback = Some(callback);
        let listening = Listening {
            previous: entry.previous,
        };
        pg_sys::error_context_stack = &mut entry;
        let value = work();
        drop(listening);
        value
    };
    (value, NOTED.take())
}
