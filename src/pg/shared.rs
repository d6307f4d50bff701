//! Shared memory: which types may lie in it, and what is in it by name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64};

use pgrx::pg_sys;

use crate::guard::verdict::Address;
use crate::policy::period::Instant;

/// A type of fixed size that points nowhere and needs no destructor, so that every process can read what another wrote.
/// Structs and enumerations are declared by [`plain`], which has the compiler look at each of their fields.
///
/// # Safety
/// All of that must be so.
pub unsafe trait Plain {}

macro_rules! primitive {
    ($($name:ty),* $(,)?) => {
        $(
            // SAFETY: numbers, atomic numbers, instants, which are numbers, and addresses, which are arrays of bytes.
            unsafe impl Plain for $name {}
        )*
    };
}

primitive!(
    bool,
    u8,
    u16,
    u32,
    u64,
    usize,
    i32,
    i64,
    AtomicU8,
    AtomicI64,
    AtomicU64,
    pg_sys::Oid,
    Ipv4Addr,
    Ipv6Addr,
    IpAddr,
    Instant,
);

// SAFETY: as the elements are.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}
// SAFETY: as the value is.
unsafe impl<T: Plain> Plain for Option<T> {}
// SAFETY: as both are.
unsafe impl<A: Plain, B: Plain> Plain for (A, B) {}
// SAFETY: as all are.
unsafe impl<A: Plain, B: Plain, C: Plain> Plain for (A, B, C) {}

/// Compiles for a type that is plain.
pub const fn is_plain<T: Plain>() {}

/// The same for the type of a value.
pub const fn is_of_plain<T: Plain>(_: &T) {}

/// Declares structs and enumerations plain. Each field and variant must be named, and be plain itself: whatever else
/// there is in the type, it does not compile.
macro_rules! plain {
    ($(struct $name:ident $(<$size:ident: usize>)? { $($field:tt),* $(,)? })*) => {
        $(
            const _: () = {
                #[allow(dead_code)]
                const fn look $(<const $size: usize>)? (value: &$name $(<$size>)?) {
                    let $name { $($field: _),* } = value;
                    $($crate::pg::shared::is_of_plain(&value.$field);)*
                }
            };
            // SAFETY: the compiler has looked at each field above; a type with a destructor has a field that is not plain.
            unsafe impl $(<const $size: usize>)? $crate::pg::shared::Plain for $name $(<$size>)? {}
        )*
    };
    ($(enum $name:ident { $($variant:ident $(($type:ty))?),* $(,)? })*) => {
        $(
            const _: () = {
                #[allow(dead_code)]
                fn look(value: &$name) {
                    match value {
                        $($name::$variant { .. } => {
                            $(
                                $crate::pg::shared::is_plain::<$type>();
                                let _: fn($type) -> $name = $name::$variant;
                            )?
                        })*
                    }
                }
            };
            // SAFETY: as above; a variant has the fields that it is named with, or none.
            unsafe impl $crate::pg::shared::Plain for $name {}
        )*
    };
}
pub(crate) use plain;

/// Declares a static that lies in shared memory: behind a lock of the server's (`lock`), or of atomics alone (`atomic`).
/// The name is what waits for the lock are shown by; no other may have it.
macro_rules! shared {
    (lock $name:ident: bool = $title:literal) => {
        // SAFETY: a name of its own.
        static $name: pgrx::PgLwLock<bool> = unsafe { pgrx::PgLwLock::new($title) };
    };
    (lock $name:ident: $type:ty = $title:literal) => {
        const _: () = $crate::pg::shared::is_plain::<$type>();
        // SAFETY: plain, as the compiler has seen above.
        unsafe impl pgrx::PGRXSharedMemory for $type {}
        // SAFETY: a name of its own.
        static $name: pgrx::PgLwLock<$type> = unsafe { pgrx::PgLwLock::new($title) };
    };
    (atomic $name:ident: $type:ty = $title:literal) => {
        const _: () = $crate::pg::shared::is_plain::<$type>();
        // SAFETY: plain, as the compiler has seen above.
        unsafe impl pgrx::PGRXSharedMemory for $type {}
        // SAFETY: a name of its own.
        static $name: pgrx::PgAtomic<$type> = unsafe { pgrx::PgAtomic::new($title) };
    };
}
pub(crate) use shared;

plain!(
    enum Address {
        Socket,
        Ip(IpAddr),
        Unknown,
    }
);

/// Whether this process has its place in shared memory: without one no lock can be waited for.
#[inline]
pub fn is_attached() -> bool {
    // SAFETY: reads a backend-local pointer.
    unsafe { !pg_sys::MyProc.is_null() }
}
