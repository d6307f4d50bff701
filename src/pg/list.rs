//! Lists of the server's parse trees.

use pgrx::pg_sys;

/// The elements of a list of pointers, without NULLs.
///
/// # Safety
/// `list` must be NULL or a list of valid pointers to `T` that outlives `'a`.
pub unsafe fn items<'a, T>(list: *mut pg_sys::List) -> Vec<&'a T> {
    // SAFETY: by the caller's promise; a list has as many elements as its length says.
    unsafe {
        let Some(list) = list.as_ref() else {
            return Vec::new();
        };
        let length = usize::try_from(list.length).unwrap_or(0);
        (0..length)
            .filter_map(|at| (*list.elements.add(at)).ptr_value.cast::<T>().as_ref())
            .collect()
    }
}

/// Whether `test` holds for all elements of a list of pointers that are not NULL: takes no memory.
///
/// # Safety
/// `list` must be NULL or a list of valid pointers to `T`.
#[inline]
pub unsafe fn all<T>(list: *mut pg_sys::List, mut test: impl FnMut(&T) -> bool) -> bool {
    // SAFETY: by the caller's promise; a list has as many elements as its length says.
    unsafe {
        let Some(list) = list.as_ref() else {
            return true;
        };
        (0..usize::try_from(list.length).unwrap_or(0)).all(|at| {
            let element = (*list.elements.add(at)).ptr_value.cast::<T>();
            match element.as_ref() {
                Some(element) => test(element),
                None => true,
            }
        })
    }
}

/// The elements of a list of OIDs.
///
/// # Safety
/// `list` must be NULL or a list of OIDs.
pub unsafe fn oids(list: *mut pg_sys::List) -> Vec<pg_sys::Oid> {
    // SAFETY: as above.
    unsafe {
        let Some(list) = list.as_ref() else {
            return Vec::new();
        };
        let length = usize::try_from(list.length).unwrap_or(0);
        (0..length)
            .map(|at| (*list.elements.add(at)).oid_value)
            .collect()
    }
}
