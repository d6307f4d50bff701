//! Which rows of a leaf a pass looks at: what became due since the last one, and what was reopened behind it. Pure.

use serde::{Deserialize, Serialize};

use crate::policy::model::{Hold, RelId};
use crate::policy::period::Instant;

/// Where a pass begins that does not look at everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// What was due at this moment was seen by an earlier pass.
    pub after: Instant,
    /// Rows that are looked at again all the same: those whose clock has such a value.
    pub windows: Vec<Window>,
    /// And those that lay under one of these holds, which were released.
    pub released: Vec<Hold>,
}

impl Reach {
    /// What became due since `after`, and nothing else.
    pub const fn since(after: Instant) -> Reach {
        Reach {
            after,
            windows: Vec::new(),
            released: Vec::new(),
        }
    }

    /// Whether rows behind `after` are looked at.
    pub fn looks_back(&self) -> bool {
        !self.windows.is_empty() || !self.released.is_empty()
    }
}

/// Values of a clock, both ends included: that of a column of the leaf's table, or of one that its clocks lead to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The relation that has the column: any of the family of the table that a clock reads.
    pub relation: RelId,
    pub column: String,
    /// Microseconds since 1970-01-01 00:00 UTC.
    pub from: i64,
    pub until: i64,
    /// The clock has no value, or an infinite one; `from` and `until` say nothing.
    #[serde(default)]
    pub missing: bool,
}

/// What was reopened behind a watermark since the last pass, as it is stored beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    #[serde(default)]
    pub windows: Vec<Window>,
    /// Numbers of holds that were released.
    #[serde(default)]
    pub released: Vec<i64>,
}

/// More windows, or holds, than this are not looked for one by one.
const MOST: usize = 64;

impl Again {
    /// Adds a window, as part of one that it touches where there is one. With too many, those of a clock become one.
    pub fn add(&mut self, window: Window) {
        let mut window = window;
        self.windows.retain(|known| {
            let touches = known.relation == window.relation
                && known.column == window.column
                && known.missing == window.missing
                && known.from <= window.until
                && window.from <= known.until;
            if touches {
                window.from = window.from.min(known.from);
                window.until = window.until.max(known.until);
            }
            !touches
        });
        self.windows.push(window);
        if self.windows.len() > MOST {
            let mut wide: Vec<Window> = Vec::new();
            for window in self.windows.drain(..) {
                let same = wide.iter_mut().find(|known| {
                    known.relation == window.relation
                        && known.column == window.column
                        && known.missing == window.missing
                });
                match same {
                    Some(known) => {
                        known.from = known.from.min(window.from);
                        known.until = known.until.max(window.until);
                    }
                    None => wide.push(window),
                }
            }
            self.windows = wide;
        }
    }

    /// Adds a hold that was released.
    pub fn release(&mut self, hold: i64) {
        if !self.released.contains(&hold) {
            self.released.push(hold);
        }
    }

    /// Whether looking for what was reopened is no better than looking at everything.
    pub fn is_too_much(&self) -> bool {
        self.windows.len() > MOST || self.released.len() > MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(column: &str, from: i64, until: i64) -> Window {
        Window {
            relation: 1,
            column: column.to_owned(),
            from,
            until,
            missing: false,
        }
    }

    #[test]
    fn windows_that_touch_are_one() {
        let mut again = Again::default();
        for (from, until) in [(0, 10), (20, 30), (5, 20)] {
            again.add(window("at", from, until));
        }
        again.add(window("other", 5, 20));
        assert_eq!(again.windows, [window("at", 0, 30), window("other", 5, 20)]);
    }

    #[test]
    fn too_many_windows_of_a_clock_become_one() {
        let mut again = Again::default();
        for at in 0..=MOST as i64 {
            again.add(window("at", at * 10, at * 10 + 1));
        }
        assert_eq!(again.windows, [window("at", 0, MOST as i64 * 10 + 1)]);
        assert!(!again.is_too_much());
        for column in 0..=MOST {
            again.add(window(&column.to_string(), 0, 1));
        }
        assert!(again.is_too_much());
    }

    #[test]
    fn it_is_stored_and_read_back() {
        let mut again = Again::default();
        again.add(window("Seen:at", -5, 5));
        again.release(7);
        again.release(7);
        let text = serde_json::to_string(&again).expect("it is plain data");
        assert_eq!(serde_json::from_str::<Again>(&text).ok(), Some(again));
        assert!(serde_json::from_str::<Again>("{}").is_ok_and(|again| again == Again::default()));
    }
}
