//! Plans that a session keeps of the extension's own queries that are run again and again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_int};

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

/// Arguments in the form SPI takes them.
pub struct Args {
    pub types: Vec<pg_sys::Oid>,
    pub values: Vec<pg_sys::Datum>,
    pub nulls: Vec<u8>,
}

impl Args {
    pub fn of(args: &[DatumWithOid]) -> Args {
        let value = |arg: &DatumWithOid| arg.datum().map(|datum| datum.sans_lifetime());
        Args {
            types: args.iter().map(DatumWithOid::oid).collect(),
            values: args
                .iter()
                .map(|arg| value(arg).unwrap_or_else(pg_sys::Datum::null))
                .collect(),
            nulls: args
                .iter()
                .map(|arg| if value(arg).is_some() { b' ' } else { b'n' })
                .collect(),
        }
    }
}

/// How many plans are kept at most; then all are given up.
const MAX_PLANS: usize = 128;

/// The kept plans of this session.
#[derive(Default)]
struct Plans {
    by_query: HashMap<(CString, Vec<pg_sys::Oid>), pg_sys::SPIPlanPtr>,
    /// How many of them are being executed: a query may call code that comes back here.
    in_use: usize,
}

thread_local! {
    static PLANS: RefCell<Plans> = RefCell::default();
}

/// A kept plan that is being executed, until it is dropped, also while an error unwinds.
pub struct Prepared(pg_sys::SPIPlanPtr);

impl Prepared {
    /// The plan of a query, made if there is none. Inside SPI. The server plans the query anew when what the plan depends on
    /// changes, and, unless it is `generic`, for the arguments where that may pay.
    pub fn of(sql: &CString, args: &mut Args, generic: bool) -> Prepared {
        let types = &mut args.types;
        let key = (sql.clone(), types.clone());
        let known = PLANS.with_borrow_mut(|plans| {
            if plans.in_use == 0 && plans.by_query.len() >= MAX_PLANS {
                for (_, plan) in plans.by_query.drain() {
                    // SAFETY: a plan that was kept, and that nobody executes.
                    unsafe { pg_sys::SPI_freeplan(plan) };
                }
            }
            plans.in_use += 1;
            plans.by_query.get(&key).copied()
        });
        let mut plan = Prepared(known.unwrap_or(std::ptr::null_mut()));
        if plan.0.is_null() {
            let options = if generic {
                pg_sys::CURSOR_OPT_GENERIC_PLAN
            } else {
                0
            };
            // SAFETY: connected to SPI; the query is NUL-terminated, and there is one type for each argument.
            unsafe {
                plan.0 = pg_sys::SPI_prepare_cursor(
                    sql.as_ptr(),
                    types.len() as i32,
                    types.as_mut_ptr(),
                    options as i32,
                );
                if !plan.0.is_null() && pg_sys::SPI_keepplan(plan.0) == 0 {
                    PLANS.with_borrow_mut(|plans| plans.by_query.insert(key, plan.0));
                }
            }
        }
        plan
    }

    /// Executes it with the arguments that it was made for; gives SPI's code, which is an error where there is no plan. The
    /// result is SPI's.
    ///
    /// # Safety
    /// Inside SPI; with `read_only` there must be an active snapshot.
    pub unsafe fn execute(&self, args: &mut Args, read_only: bool, limit: i64) -> c_int {
        // SAFETY: all arrays have one element per argument and outlive the call; a plan that is NULL is refused.
        unsafe {
            pg_sys::SPI_execute_plan(
                self.0,
                args.values.as_mut_ptr(),
                args.nulls.as_ptr().cast(),
                read_only,
                limit,
            )
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        PLANS.with_borrow_mut(|plans| plans.in_use -= 1);
    }
}
