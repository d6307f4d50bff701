//! Which databases have a slot of [`Directory`].

use pgrx::pg_sys;

use crate::worker::shmem::{Directory, Slot, State};

impl Directory {
    /// Marks that a scheduler is about to be started in the database; `false` when there is no room for it.
    pub fn start(&mut self, database: pg_sys::Oid, now: i64) -> bool {
        let Some(slot) = self.find_or_take(database) else {
            return false;
        };
        slot.state = State::Starting;
        slot.since = now;
        slot.wake = false;
        true
    }

    /// See [`shmem::forget`](crate::worker::shmem::forget).
    pub fn forget(
        &mut self,
        now: i64,
        is_there: impl Fn(pg_sys::Oid) -> bool,
        has_extension: impl Fn(pg_sys::Oid) -> bool,
    ) -> bool {
        let mut any = false;
        for slot in &mut self.slots {
            let taken = slot.database != pg_sys::Oid::INVALID;
            let empty = slot.is_left() && slot.state != State::Starting && slot.barred_until <= now;
            let looked_at = !slot.wake && !has_extension(slot.database);
            if taken && empty && (looked_at || !is_there(slot.database)) {
                *slot = Slot::FREE;
                any = true;
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::shmem::SLOTS;

    #[test]
    fn a_slot_of_a_database_that_is_gone_is_another_ones() {
        let oid = |n: usize| u32::try_from(n).unwrap_or_default().into();
        let mut directory = Directory::default();
        assert!((1..=SLOTS).all(|n| directory.start(oid(n), 0)));
        let next = oid(SLOTS + 1);
        assert!(!directory.start(next, 0));
        for slot in &mut directory.slots {
            slot.state = State::Vacant;
        }
        // While all are there nothing becomes free.
        assert!(!directory.forget(10, |_| true, |_| true));
        // A command kept the workers out of this one, which has it looked at again when it is still there.
        let dropped = directory.find(oid(7)).expect("it has a slot");
        dropped.barred_until = 20;
        dropped.wake = true;
        let is_there = |database| database != oid(7);
        assert!(!directory.forget(10, is_there, |_| true));
        assert!(!directory.start(next, 10));
        assert!(directory.forget(20, is_there, |_| true));
        assert!(directory.start(next, 20));
        // Where somebody asked to have a look, none has found yet that the extension is not there.
        directory.find(oid(8)).expect("it has a slot").wake = true;
        assert!(!directory.forget(20, |_| true, |database| database != oid(8)));
        directory.find(oid(8)).expect("it has a slot").wake = false;
        assert!(directory.forget(20, |_| true, |database| database != oid(8)));
    }
}
