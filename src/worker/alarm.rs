//! When the same trouble is said again. Pure.

use std::collections::BTreeMap;

const SECOND: i64 = 1_000_000;

/// Microseconds until what is still so is said once more.
const AGAIN: i64 = 3600 * SECOND;

/// What was said, and when.
#[derive(Debug)]
pub struct Alarm<K> {
    said: BTreeMap<K, i64>,
}

impl<K> Alarm<K> {
    pub const fn new() -> Self {
        Alarm {
            said: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Copy> Alarm<K> {
    /// Whether to say that there is trouble with `key` at `now`, in microseconds: when it is new, and every hour.
    pub fn says(&mut self, key: K, now: i64) -> bool {
        let again = self
            .said
            .get(&key)
            .is_none_or(|said| now.saturating_sub(*said) >= AGAIN);
        if again {
            self.said.insert(key, now);
        }
        again
    }

    /// Forgets trouble that is over: should it come back, it is new.
    pub fn keep(&mut self, still: impl Fn(&K) -> bool) {
        self.said.retain(|key, _| still(key));
    }
}

/// Whether something that has been so since `since` (0 is not) has lasted for a nap of `naptime` seconds: looked at in
/// every nap, it is said within two of them.
pub fn lasts(since: i64, now: i64, naptime: i32) -> bool {
    since != 0 && now.saturating_sub(since) >= i64::from(naptime) * SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_said_when_it_is_new_and_every_hour_while_it_lasts() {
        let mut alarm = Alarm::new();
        assert!(alarm.says("disk", 0));
        assert!(!alarm.says("disk", AGAIN - 1));
        assert!(alarm.says("slot", AGAIN - 1));
        assert!(alarm.says("disk", AGAIN));
        assert!(!alarm.says("disk", AGAIN + 1));
    }

    #[test]
    fn trouble_that_comes_back_is_new() {
        let mut alarm = Alarm::new();
        assert!(alarm.says(1, 0));
        assert!(alarm.says(2, 0));
        alarm.keep(|key| *key == 2);
        assert!(alarm.says(1, 1));
        assert!(!alarm.says(2, 1));
    }

    #[test]
    fn what_lasts_for_a_nap_is_told_from_a_moment_and_from_never() {
        assert!(!lasts(0, i64::MAX, 1));
        assert!(!lasts(5, 5 + SECOND - 1, 1));
        assert!(lasts(5, 5 + SECOND, 1));
        assert!(!lasts(5, 4, 1), "a clock that went back");
    }
}
