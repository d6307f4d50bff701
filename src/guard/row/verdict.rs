//! What a refusal of the row guard says, and the decisions that need no server. Pure.

use std::collections::BTreeSet;

use crate::error::{Error, Kind};
use crate::policy::period::{Instant, Period};

/// What keeps a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keeper {
    Hold {
        id: i64,
        matter: String,
    },
    Minimum {
        name: String,
        citation: String,
        /// Policy and tags do not say until when: the row is kept until they do.
        open: bool,
        /// A steward chose that users' statements are warned only.
        warns: bool,
    },
}

impl Keeper {
    /// Completes "rows … are kept …".
    pub fn phrase(&self) -> String {
        match self {
            Keeper::Hold { matter, .. } => format!("by the legal hold of matter \"{matter}\""),
            Keeper::Minimum {
                name, open: true, ..
            } => format!("under the statutory minimum \"{name}\", whose end cannot be told"),
            Keeper::Minimum { name, citation, .. } => {
                format!("under the statutory minimum \"{name}\" ({citation})")
            }
        }
    }

    fn hint(&self) -> String {
        match self {
            Keeper::Hold { id, .. } => format!(
                "A data steward can end the hold with custodian.release_hold({id}, approver, reason)."
            ),
            Keeper::Minimum { open: true, .. } => {
                "Correct the tag of the table, or define the minimum: custodian.check() says what is missing.".to_owned()
            }
            Keeper::Minimum { .. } => {
                "Wait until its period has passed: custodian.explain_row() says when that is."
                    .to_owned()
            }
        }
    }

    pub fn is_hold(&self) -> bool {
        matches!(self, Keeper::Hold { .. })
    }

    /// A minimum of which a steward chose that users' statements are warned only.
    pub fn warns(&self) -> bool {
        matches!(self, Keeper::Minimum { warns: true, .. })
    }
}

/// What was about to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act<'a> {
    /// A row of the table would be deleted.
    DeleteRow,
    /// A kept column of a row of the table would change, or lose its value.
    UpdateRow,
    /// The clock from which a minimum keeps a row would move so that it ends sooner, or be lost.
    MoveClock,
    /// A row that rows of another table, `0`, refer to would go or change its key.
    Strand(&'a str),
    /// The whole table: completes "cannot …", as in `truncate table "shop.orders"`.
    Table(&'a str),
}

/// The refusal. Names the table and what keeps the row; never a value.
pub fn refusal(table: &str, act: Act, keeper: &Keeper) -> Error {
    let message = match act {
        Act::DeleteRow => format!("row of table \"{table}\" is kept {}", keeper.phrase()),
        Act::UpdateRow => format!(
            "kept values in a row of table \"{table}\" may not change: the row is kept {}",
            keeper.phrase()
        ),
        Act::MoveClock => format!(
            "the clock of a row of table \"{table}\" may not move back or be lost: the row is kept {}",
            keeper.phrase()
        ),
        Act::Strand(child) => format!(
            "row of table \"{table}\" is referenced by a row of table \"{child}\" that is kept {}",
            keeper.phrase()
        ),
        Act::Table(what) => format!("cannot {what}: rows in it are kept {}", keeper.phrase()),
    };
    let hint = match act {
        Act::MoveClock => "Where it was wrong, a data steward can have users' statements warned only while it is corrected, with custodian.enforce_minimum().".to_owned(),
        _ => keeper.hint(),
    };
    Error::new(Kind::Kept, message).hint(hint)
}

/// Whether a minimum still keeps a row at `now`. A row whose clock is NULL is kept, and so is one whose clock is
/// infinite, in either direction, or whose end lies beyond the calendar.
pub fn keeps(clock: Option<Instant>, period: Period, now: Instant) -> bool {
    match clock {
        None => true,
        // -infinity, as the server writes it.
        Some(clock) if clock.micros() <= LONG_PAST => true,
        Some(clock) => clock.plus(period).is_none_or(|end| end > now),
    }
}

/// Whether a minimum ends sooner by another clock of the row, or nobody could say when. A clock that was NULL or infinite was
/// none, and whoever corrects it says for the first time when the period began.
pub fn cuts_short(before: Option<Instant>, after: Option<Instant>, period: Period) -> bool {
    let finite = |clock: &Instant| clock.micros() > LONG_PAST && clock.micros() < i64::MAX;
    let Some(before) = before.filter(finite) else {
        return false;
    };
    let Some(after) = after.filter(finite) else {
        return true;
    };
    match (before.plus(period), after.plus(period)) {
        (Some(before), Some(after)) => after < before,
        (None, Some(_)) => true,
        (_, None) => false,
    }
}

/// Earlier than any finite timestamp of the server (4714-11-24 BC).
const LONG_PAST: i64 = -210_866_803_200_000_001;

/// The columns of a held row that may not change: those with personal data, and those by which the hold
/// finds the row. On a table where nothing is tagged, every column.
pub fn protected<'a>(
    all: impl Iterator<Item = &'a str>,
    tagged: &BTreeSet<String>,
    found_by: &BTreeSet<String>,
) -> BTreeSet<String> {
    if tagged.is_empty() {
        all.map(str::to_owned).collect()
    } else {
        tagged.union(found_by).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_minimum_keeps_until_its_period_has_passed() {
        let clock = Instant::from_micros(0);
        let end = clock.plus(Period::days(1)).expect("in range");
        assert!(keeps(
            Some(clock),
            Period::days(1),
            Instant::from_micros(end.micros() - 1)
        ));
        assert!(!keeps(Some(clock), Period::days(1), end));
    }

    #[test]
    fn a_row_without_a_clock_is_kept_and_an_infinite_one_counts_as_none() {
        let now = Instant::from_micros(1_700_000_000_000_000);
        assert!(keeps(None, Period::days(1), now));
        assert!(keeps(
            Some(Instant::from_micros(i64::MAX)),
            Period::days(1),
            now
        ));
        assert!(keeps(
            Some(Instant::from_micros(i64::MIN)),
            Period::days(1),
            now
        ));
        // The earliest timestamp of the server is finite, and as old as can be.
        assert!(!keeps(
            Some(Instant::from_micros(LONG_PAST + 1)),
            Period::days(1),
            now
        ));
    }

    #[test]
    fn a_clock_moves_later_or_becomes_one_and_never_back() {
        let (early, late) = (Instant::from_micros(1_000), Instant::from_micros(2_000));
        let (minus, plus) = (
            Instant::from_micros(i64::MIN),
            Instant::from_micros(i64::MAX),
        );
        let cut = |before, after| cuts_short(before, after, Period::months(12));
        assert!(cut(Some(late), Some(early)));
        assert!(!cut(Some(early), Some(late)) && !cut(Some(late), Some(late)));
        for none in [None, Some(minus), Some(plus)] {
            assert!(cut(Some(late), none));
            assert!(!cut(none, Some(early)) && !cut(none, None));
        }
    }

    #[test]
    fn held_rows_keep_tagged_columns_and_those_the_hold_finds_them_by() {
        let all = ["id", "email", "note"];
        assert_eq!(
            protected(all.into_iter(), &set(&["email"]), &set(&["id"])),
            set(&["email", "id"])
        );
        assert_eq!(
            protected(all.into_iter(), &set(&[]), &set(&["id"])),
            set(&all)
        );
    }

    #[test]
    fn a_refusal_names_the_matter_and_the_way_out() {
        let hold = Keeper::Hold {
            id: 7,
            matter: "M-1".to_owned(),
        };
        let error = refusal("shop.orders", Act::DeleteRow, &hold);
        assert_eq!(error.kind, Kind::Kept);
        assert_eq!(
            error.message,
            "row of table \"shop.orders\" is kept by the legal hold of matter \"M-1\""
        );
        assert!(
            error
                .hint
                .is_some_and(|hint| hint.contains("release_hold(7"))
        );
        let minimum = Keeper::Minimum {
            name: "cn.tax".to_owned(),
            citation: "Art. 1".to_owned(),
            open: false,
            warns: false,
        };
        assert_eq!(
            refusal("a.b", Act::Table("drop table \"a.b\""), &minimum).message,
            "cannot drop table \"a.b\": rows in it are kept under the statutory minimum \"cn.tax\" (Art. 1)"
        );
    }
}
