//! What a transaction has queued to be looked at again, so that it queues nothing twice, nor without bound. Pure.

use std::collections::{BTreeSet, HashMap};

/// How many rows beside the one in question are looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// All whose clocks lie on the same day: many such rows come together.
    Day,
    /// All whose clocks have the same value.
    Value,
}

/// A clock, by its relation and column, and how exactly its values are queued.
pub type Of = (u32, String, Precision);

/// How many days of a clock a transaction queues one by one.
const MOST_DAYS: usize = 64;

/// And how many values of it.
const MOST_VALUES: usize = 4096;

/// What the innermost transaction that is writing has queued so far, so that it queues nothing twice: days of clocks, by
/// relation and column. Another one, also one that was left for it, begins anew: it may be undone by itself, and there may
/// be any number of them.
#[derive(Default)]
pub struct Queued {
    writer: (u64, u32),
    days: HashMap<Of, BTreeSet<i64>>,
}

/// Of a day on which a clock lies: the first one that was queued already, and so on.
pub enum Day {
    Known,
    New,
    /// Too many: all are queued instead.
    Every,
}

impl Queued {
    /// What is to be queued for a day of a clock, or a value.
    pub fn look(&mut self, writer: (u64, u32), clock: &Of, day: i64) -> Day {
        if self.writer != writer {
            self.writer = writer;
            self.days.clear();
        }
        let most = match clock.2 {
            Precision::Day => MOST_DAYS,
            Precision::Value => MOST_VALUES,
        };
        let days = self.days.entry(clock.clone()).or_default();
        if days.len() > most || days.contains(&day) {
            Day::Known
        } else if days.len() == most {
            Day::Every
        } else {
            Day::New
        }
    }

    /// Notes that it was queued.
    pub fn note(&mut self, writer: (u64, u32), clock: &Of, day: i64) {
        if self.writer == writer
            && let Some(days) = self.days.get_mut(clock)
        {
            days.insert(day);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_of_many_subtransactions_keeps_what_the_last_one_queued() {
        let mut queued = Queued::default();
        let of = (1, "at".to_owned(), Precision::Day);
        for subtransaction in 1..1000 {
            let writer = (7, subtransaction);
            assert!(matches!(queued.look(writer, &of, 5), Day::New));
            queued.note(writer, &of, 5);
            assert!(matches!(queued.look(writer, &of, 5), Day::Known));
        }
        assert_eq!(queued.days.len(), 1);
        // What was noted for another one is not known: that may have been undone.
        queued.note((7, 1), &of, 6);
        assert!(matches!(queued.look((7, 999), &of, 6), Day::New));
    }
}
