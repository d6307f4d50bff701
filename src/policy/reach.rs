//! Which rows of a leaf a pass looks at: what became due since the last one, and what was reopened behind it. Pure.

use std::collections::BTreeSet;

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
    pub points: Vec<Points>,
    /// And those that lay under one of these holds, which were released.
    pub released: Vec<Hold>,
}

impl Reach {
    /// What became due since `after`, and nothing else.
    pub const fn since(after: Instant) -> Reach {
        Reach {
            after,
            windows: Vec::new(),
            points: Vec::new(),
            released: Vec::new(),
        }
    }

    /// Whether rows behind `after` are looked at.
    pub fn looks_back(&self) -> bool {
        !self.windows.is_empty() || !self.points.is_empty() || !self.released.is_empty()
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

/// Single values of a clock, as for rows that came free one by one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Points {
    /// As in [`Window`].
    pub relation: RelId,
    pub column: String,
    /// Microseconds since 1970-01-01 00:00 UTC.
    pub at: BTreeSet<i64>,
}

/// What was reopened behind a watermark since the last pass, as it is stored beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    #[serde(default)]
    pub windows: Vec<Window>,
    #[serde(default)]
    pub points: Vec<Points>,
    /// Numbers of holds that were released.
    #[serde(default)]
    pub released: Vec<i64>,
}

/// More windows, or holds, than this are not looked for one by one.
const MOST: usize = 64;

/// More values of a clock than this are not looked for one by one.
const MOST_POINTS: usize = 4096;

/// Into so many windows they are gathered then.
const GATHERED: usize = MOST / 4;

/// The spans of some values that leave out the widest gaps between them: at most [`GATHERED`].
fn gathered(at: &BTreeSet<i64>) -> Vec<(i64, i64)> {
    let values: Vec<i64> = at.iter().copied().collect();
    let mut gaps: Vec<(i64, usize)> = values
        .windows(2)
        .zip(1..)
        .filter_map(|(pair, next)| match pair {
            [one, other] => Some((other.saturating_sub(*one), next)),
            _ => None,
        })
        .collect();
    gaps.sort_unstable_by(|one, other| other.cmp(one));
    gaps.truncate(GATHERED - 1);
    let mut starts: Vec<usize> = gaps.into_iter().map(|(_, next)| next).collect();
    starts.push(0);
    starts.sort_unstable();
    let ends = starts.iter().skip(1).copied().chain([values.len()]);
    starts
        .iter()
        .zip(ends)
        .filter_map(|(start, end)| {
            let span = values.get(*start..end)?;
            Some((*span.first()?, *span.last()?))
        })
        .collect()
}

impl Again {
    /// Adds a window, or, where it is of a single value, that. With too many values of a clock, the spans in which they lie
    /// are added.
    pub fn add(&mut self, window: Window) {
        if window.missing || window.from != window.until {
            self.add_window(window);
            return;
        }
        let Window {
            relation,
            column,
            from,
            ..
        } = window;
        let of = |points: &Points| points.relation == relation && points.column == column;
        let at = match self.points.iter().position(of) {
            Some(at) => at,
            None => {
                self.points.push(Points {
                    relation,
                    column: column.clone(),
                    at: BTreeSet::new(),
                });
                self.points.len() - 1
            }
        };
        let Some(points) = self.points.get_mut(at) else {
            return;
        };
        points.at.insert(from);
        if points.at.len() > MOST_POINTS {
            let points = self.points.swap_remove(at);
            for (from, until) in gathered(&points.at) {
                self.add_window(Window {
                    relation,
                    column: column.clone(),
                    from,
                    until,
                    missing: false,
                });
            }
        }
    }

    /// Adds a window, as part of one that it touches where there is one. With too many, those of a clock become one.
    fn add_window(&mut self, window: Window) {
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
        self.windows.len() > MOST || self.points.len() > MOST || self.released.len() > MOST
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
    fn too_many_values_become_the_spans_they_lie_in() {
        let mut again = Again::default();
        for at in 0..MOST_POINTS as i64 {
            // Three heaps, far from each other.
            again.add(window(
                "at",
                at + at % 3 * 1_000_000,
                at + at % 3 * 1_000_000,
            ));
        }
        assert!(again.windows.is_empty());
        assert_eq!(again.points[0].at.len(), MOST_POINTS);
        again.add(window("at", 5_000_000, 5_000_000));
        assert!(again.points.is_empty());
        assert_eq!(again.windows.len(), GATHERED);
        let covered: i64 = again.windows.iter().map(|w| w.until - w.from).sum();
        assert!(covered <= 3 * MOST_POINTS as i64, "{covered}");
        let lies = |at: i64| again.windows.iter().any(|w| w.from <= at && at <= w.until);
        assert!((0..MOST_POINTS as i64).all(|at| lies(at + at % 3 * 1_000_000)));
        assert!(lies(5_000_000));
    }

    #[test]
    fn it_is_stored_and_read_back() {
        let mut again = Again::default();
        again.add(window("at", 7, 7));
        again.add(window("Seen:at", -5, 5));
        again.release(7);
        again.release(7);
        let text = serde_json::to_string(&again).expect("it is plain data");
        assert_eq!(serde_json::from_str::<Again>(&text).ok(), Some(again));
        assert!(serde_json::from_str::<Again>("{}").is_ok_and(|again| again == Again::default()));
    }
}
