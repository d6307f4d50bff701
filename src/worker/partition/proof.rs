//! What the bounds of a partition alone tell about the rows that it can hold: that each is past, or that none is due. Pure.

use crate::policy::model::{Clock, Plan};
use crate::policy::period::{Instant, Period};
use crate::policy::render::ClockRange;

/// A partition by range of a column of time, between two finite moments: every row's value lies there, and none
/// is NULL or infinite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub column: String,
    /// No row has an earlier value.
    pub from: Instant,
    /// No row has a later value.
    pub until: Instant,
}

/// The first values of the bounds of a partition by range, as `pg_get_expr` writes them: `FOR VALUES FROM ('a', 1)
/// TO ('b', 2)` gives `a` and `b`. `None` where one of them is open, infinite or no literal.
pub fn first_values(bound: &str) -> Option<(&str, &str)> {
    let rest = bound.strip_prefix("FOR VALUES FROM (")?;
    let (from, rest) = literal(rest)?;
    let at = rest.find(") TO (")?;
    let (to, _) = literal(rest.get(at + ") TO (".len()..)?)?;
    Some((from, to))
}

/// A literal at the beginning, and what follows. Values of time hold no quote.
fn literal(text: &str) -> Option<(&str, &str)> {
    let (value, rest) = text.strip_prefix('\'')?.split_once('\'')?;
    let infinite = value.ends_with("infinity");
    (!infinite && !rest.starts_with('\'')).then_some((value, rest))
}

/// Whether a period has run out at `cutoff` for every clock up to `until`. Adding months is not monotone at the
/// end of a month, so it may say so some days late.
fn over(until: Instant, period: Period, cutoff: Instant) -> bool {
    if period.months == 0 {
        until.plus(period).is_some_and(|end| end <= cutoff)
    } else {
        cutoff
            .earliest_start(period)
            .is_some_and(|start| until <= start)
    }
}

/// Whether every row in `range` is past under the plan at `cutoff`, and neither a minimum nor a defence keeps one.
/// Holds, and rows that refer to these, are not looked at.
pub fn all_past(plan: &Plan, range: &Range, cutoff: Instant) -> bool {
    let runs_from_it = |clock: &Clock| clock.path.is_empty() && clock.column.name == range.column;
    plan.groups.iter().all(|group| {
        let covered_no_more = group.covers.iter().all(|cover| {
            cover.ended_at.is_some_and(|ended| ended <= cutoff)
                || (runs_from_it(&cover.clock)
                    && cover.periods.iter().any(|entry| {
                        // One that counts for every row, whenever it was collected.
                        entry.collected_before.is_none() && over(range.until, entry.period, cutoff)
                    }))
        });
        let kept_no_more = group.keeps.iter().all(|keep| {
            !keep.defence
                && keep.suspensions.is_empty()
                && runs_from_it(&keep.clock)
                && over(range.until, keep.period, cutoff)
        });
        covered_no_more && kept_no_more
    })
}

/// Whether no row within all of `bounds` has its clocks where `due` says that those of every row lie that is due.
pub fn leaves_out(bounds: &[Range], due: &[ClockRange]) -> bool {
    bounds.iter().any(|bound| {
        let mut clocks = due.iter().filter(|clock| clock.column == bound.column);
        clocks.any(|clock| {
            clock.latest < bound.from
                || clock
                    .earliest
                    .is_some_and(|earliest| bound.until < earliest)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixture::{at, ident};
    use crate::policy::model::{Cover, CoverPeriod, Group, Keep, TypeClass};

    fn clock(column: &str) -> Clock {
        Clock {
            path: Vec::new(),
            column: ident(column),
            class: TypeClass::TimestampTz,
            null_means_not_started: false,
        }
    }

    fn plan(column: &str, period: Period) -> Plan {
        Plan {
            groups: vec![Group {
                columns: Vec::new(),
                covers: vec![Cover {
                    purpose: "a.b".to_owned(),
                    periods: vec![CoverPeriod {
                        period,
                        since: at("2020-01-01T00:00:00Z"),
                        collected_before: None,
                    }],
                    history: Vec::new(),
                    ends_on_erasure: false,
                    clock: clock(column),
                    collected: None,
                    ended_at: None,
                    consent: None,
                }],
                keeps: Vec::new(),
                limits: Vec::new(),
                erasure: None,
            }],
            ..Plan::default()
        }
    }

    fn january() -> Range {
        Range {
            column: "seen".to_owned(),
            from: at("2024-01-01T00:00:00Z"),
            until: at("2024-02-01T00:00:00Z"),
        }
    }

    fn due(column: &str, earliest: Option<&str>, latest: &str) -> ClockRange {
        ClockRange {
            column: column.to_owned(),
            class: TypeClass::TimestampTz,
            latest: at(latest),
            earliest: earliest.map(at),
        }
    }

    #[test]
    fn a_partition_is_left_out_where_no_clock_that_is_due_fits_its_bounds() {
        let left_out = |due: &ClockRange| leaves_out(&[january()], std::slice::from_ref(due));
        for (clock, expected) in [
            (due("seen", None, "2023-12-31T23:59:59Z"), true),
            (due("seen", None, "2024-01-01T00:00:00Z"), false),
            (due("seen", None, "2025-01-01T00:00:00Z"), false),
            // Partitions by several columns hold their upper bound's first value.
            (
                due("seen", Some("2024-02-01T00:00:00Z"), "2025-01-01T00:00:00Z"),
                false,
            ),
            (
                due("seen", Some("2024-02-01T00:00:01Z"), "2025-01-01T00:00:00Z"),
                true,
            ),
            (due("changed", None, "2023-12-31T23:59:59Z"), false),
        ] {
            assert_eq!(left_out(&clock), expected, "{clock:?}");
        }
        assert!(!leaves_out(
            &[],
            &[due("seen", None, "2020-01-01T00:00:00Z")]
        ));
        assert!(!leaves_out(&[january()], &[]));
    }

    #[test]
    fn bounds_are_read_as_the_server_writes_them() {
        assert_eq!(
            first_values(
                "FOR VALUES FROM ('2024-01-01 00:00:00+00') TO ('2024-02-01 00:00:00+00')"
            ),
            Some(("2024-01-01 00:00:00+00", "2024-02-01 00:00:00+00"))
        );
        assert_eq!(
            first_values("FOR VALUES FROM ('2024-01-01', 5) TO ('2024-02-01', 'it''s')"),
            Some(("2024-01-01", "2024-02-01"))
        );
        assert_eq!(
            first_values("FOR VALUES FROM ('2024-01-01', MINVALUE) TO ('2024-02-01', MAXVALUE)"),
            Some(("2024-01-01", "2024-02-01"))
        );
    }

    #[test]
    fn a_bound_that_is_open_or_infinite_shows_nothing() {
        for bound in [
            "FOR VALUES FROM (MINVALUE) TO ('2024-02-01')",
            "FOR VALUES FROM ('2024-01-01') TO (MAXVALUE)",
            "FOR VALUES FROM ('-infinity') TO ('2024-02-01')",
            "FOR VALUES FROM ('2024-01-01') TO ('infinity')",
            "FOR VALUES FROM (1) TO (2)",
            "FOR VALUES IN ('2024-01-01')",
            "FOR VALUES WITH (modulus 2, remainder 0)",
            "DEFAULT",
        ] {
            assert_eq!(first_values(bound), None, "{bound}");
        }
    }

    #[test]
    fn all_rows_are_past_once_the_last_could_be() {
        let plan = plan("seen", Period::days(30));
        assert!(all_past(&plan, &january(), at("2024-03-02T00:00:00Z")));
        assert!(!all_past(&plan, &january(), at("2024-03-01T23:59:59Z")));
    }

    #[test]
    fn months_are_never_taken_for_shorter_than_they_are() {
        let plan = plan("seen", Period::months(1));
        assert!(!all_past(&plan, &january(), at("2024-03-01T00:00:00Z")));
        assert!(all_past(&plan, &january(), at("2024-03-12T00:00:00Z")));
    }

    #[test]
    fn another_clock_is_not_bounded() {
        let plan = plan("changed", Period::days(1));
        assert!(!all_past(&plan, &january(), at("2034-01-01T00:00:00Z")));
    }

    #[test]
    fn a_period_that_counts_for_some_rows_only_shows_nothing_about_the_others() {
        let mut plan = plan("seen", Period::days(30));
        plan.groups[0].covers[0].periods = vec![
            CoverPeriod {
                period: Period::days(30),
                since: at("2020-01-01T00:00:00Z"),
                collected_before: Some(at("2024-01-15T00:00:00Z")),
            },
            CoverPeriod {
                period: Period::days(300),
                since: at("2020-01-01T00:00:00Z"),
                collected_before: None,
            },
        ];
        assert!(!all_past(&plan, &january(), at("2024-06-01T00:00:00Z")));
        assert!(all_past(&plan, &january(), at("2025-06-01T00:00:00Z")));
    }

    #[test]
    fn a_purpose_that_ended_covers_nothing() {
        let mut plan = plan("changed", Period::days(1));
        plan.groups[0].covers[0].ended_at = Some(at("2024-03-01T00:00:00Z"));
        assert!(all_past(&plan, &january(), at("2024-03-01T00:00:00Z")));
    }

    #[test]
    fn a_minimum_on_the_same_clock_lapses_and_a_defence_is_looked_up_row_by_row() {
        let mut plan = plan("seen", Period::days(30));
        plan.groups[0].keeps = vec![Keep {
            minimum: "law".to_owned(),
            citation: "s. 1".to_owned(),
            period: Period::days(365),
            clock: clock("seen"),
            defence: false,
            suspensions: Vec::new(),
        }];
        assert!(!all_past(&plan, &january(), at("2024-06-01T00:00:00Z")));
        assert!(all_past(&plan, &january(), at("2025-06-01T00:00:00Z")));
        plan.groups[0].keeps[0].defence = true;
        assert!(!all_past(&plan, &january(), at("2025-06-01T00:00:00Z")));
    }
}
