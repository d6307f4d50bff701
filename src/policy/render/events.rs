//! When the state of a row can change: a period runs out, or a purpose ends. Pure.
//!
//! A row that is due and was not at an earlier cutoff has seen one of these events since. So a pass looks for rows
//! by the values that their clocks have when an event lies between the two.

use crate::policy::model::{Clock, Cover, Group, Span};
use crate::policy::period::{Instant, Period};
use crate::policy::render::bounds::Withdrawals;
use crate::policy::render::condition::{FIRST, latest_start};

/// Values of a clock, both ends included, by which one event lies between two cutoffs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event<'g> {
    pub clock: &'g Clock,
    /// `None`: any value.
    pub from: Option<Instant>,
    pub until: Option<Instant>,
    /// Also a clock that has no value.
    pub missing: bool,
}

/// The events of the groups between two cutoffs, of the purposes that count; `None` where they cannot be told by clocks.
pub(super) fn events<'g>(
    groups: &[&'g Group],
    counts: impl Fn(&Cover) -> bool,
    after: Instant,
    cutoff: Instant,
    withdrawals: Withdrawals,
) -> Option<Vec<Event<'g>>> {
    let mut events: Vec<Event<'g>> = Vec::new();
    let mut add = |event: Event<'g>| {
        if !events.contains(&event) {
            events.push(event);
        }
    };
    for group in groups {
        for cover in group.covers.iter().filter(|cover| counts(cover)) {
            if cover.ended_at.is_some_and(|ended| ended <= after) {
                continue;
            }
            if cover.consent.is_some() && withdrawals == Withdrawals::Anytime {
                return None;
            }
            if cover.ended_at.is_some_and(|ended| ended <= cutoff) {
                // Whatever it still covered, rows without a clock included.
                if !cover.clock.path.is_empty() {
                    return None;
                }
                add(Event {
                    clock: &cover.clock,
                    from: first_start(cover, after, None),
                    until: None,
                    missing: true,
                });
                continue;
            }
            for entry in &cover.periods {
                if let Some(until) = latest_start(cutoff, entry.period) {
                    add(Event {
                        clock: &cover.clock,
                        from: first_start(cover, after, Some((entry.since, entry.period))),
                        until: Some(until),
                        missing: false,
                    });
                }
            }
        }
        for limit in &group.limits {
            if let Some(until) = latest_start(cutoff, limit.period) {
                add(Event {
                    clock: &limit.clock,
                    from: start(after, limit.period),
                    until: Some(until),
                    missing: false,
                });
            }
        }
        for keep in &group.keeps {
            if let Some(until) = last_start(cutoff, keep.period, &keep.suspensions) {
                let from = start(after, keep.period);
                add(Event {
                    clock: &keep.clock,
                    from: from.map(|from| resumed(from, after, &keep.suspensions)),
                    until: Some(until),
                    missing: false,
                });
            }
        }
    }
    Some(events)
}

/// No clock that is earlier has a period that runs out after `after`.
fn start(after: Instant, period: Period) -> Option<Instant> {
    after.earliest_start(period).filter(|start| *start >= FIRST)
}

/// The same for a purpose and the periods that may have counted then: `entry`, if that was in force, and otherwise the
/// last one that was, or whichever came since.
fn first_start(cover: &Cover, after: Instant, entry: Option<(Instant, Period)>) -> Option<Instant> {
    let first = cover.history.first().map(|(since, _)| *since);
    let known = |since: Instant| since <= after || Some(since) == first;
    if let Some((since, period)) = entry
        && known(since)
    {
        return start(after, period);
    }
    let last = cover.history.iter().rfind(|(since, _)| known(*since));
    let later = cover.history.iter().filter(|(since, _)| !known(*since));
    last.into_iter()
        .chain(later)
        .map(|(_, period)| start(after, *period))
        .min()
        .flatten()
}

/// The latest clock from which `period` has run out at `cutoff`, where it does not run while it is suspended.
pub(super) fn last_start(cutoff: Instant, period: Period, suspensions: &[Span]) -> Option<Instant> {
    latest_start(cutoff, period).map(|latest| resumed(latest, cutoff, suspensions))
}

/// The latest clock such that it and all suspended time between it and `now` come to no more than `sum`.
fn resumed(sum: Instant, now: Instant, suspensions: &[Span]) -> Instant {
    let mut rest = sum.micros();
    for span in suspensions.iter().rev().filter(|span| span.from < now) {
        let until = span.until.map_or(now, |until| until.min(now));
        if rest >= until.micros() {
            break;
        }
        rest = rest.saturating_sub(until.micros().saturating_sub(span.from.micros()));
    }
    Instant::from_micros(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::compile::compile;
    use crate::policy::fixture::{at, policy, schema, table, tag};

    const DAY: i64 = 86_400_000_000;

    fn day(day: i64) -> Instant {
        Instant::from_micros(day * DAY)
    }

    fn span(from: i64, until: Option<i64>) -> Span {
        Span {
            from: day(from),
            until: until.map(day),
        }
    }

    /// A clock's day with the suspended days behind it.
    fn sum(clock: i64, now: i64, spans: &[Span]) -> i64 {
        let suspended: i64 = spans
            .iter()
            .filter(|span| span.from < day(now))
            .map(|span| {
                let until = span.until.map_or(day(now), |until| until.min(day(now)));
                (until.micros() - span.from.micros().max(clock * DAY)).max(0) / DAY
            })
            .sum();
        clock + suspended
    }

    #[test]
    fn suspended_time_is_taken_back() {
        let spans = [span(10, Some(15)), span(20, Some(22)), span(40, None)];
        for now in [5, 12, 21, 30, 41, 60] {
            for wanted in 0..60 {
                let latest = resumed(day(wanted), day(now), &spans).micros() / DAY;
                let fits: Vec<i64> = (-90..=60)
                    .filter(|clock| sum(*clock, now, &spans) <= wanted)
                    .collect();
                assert_eq!(fits.last(), Some(&latest), "{wanted} at {now}");
            }
        }
    }

    #[test]
    fn the_last_period_in_force_decides_where_a_new_one_came() {
        let (mut policy, after) = (policy(&[("p.a", 12)]), at("2024-01-01T00:00:00Z"));
        let purpose = policy.purposes.get_mut("p.a").expect("it is there");
        purpose.periods = vec![
            (at("2000-01-01T00:00:00Z"), Period::days(100)),
            (at("2024-02-01T00:00:00Z"), Period::days(90)),
        ];
        let column = tag(&["p.a"], r#""on_expiry":"set_null""#);
        let table = table(1, "t", r#"{"clock":"at"}"#, &[("a", &column)]);
        let plan = compile(&schema(vec![table], vec![]), &policy, 1);
        let groups: Vec<&Group> = plan.groups.iter().collect();
        let cutoff = at("2024-03-01T00:00:00Z");
        let found =
            events(&groups, |_| true, after, cutoff, Withdrawals::Anytime).expect("clocks tell");
        let [event] = found.as_slice() else {
            panic!("{found:?}")
        };
        // Of what was judged by 100 days, and is judged by 90.
        assert_eq!(event.from, after.earliest_start(Period::days(100)));
        assert_eq!(event.until, cutoff.latest_start(Period::days(90)));
    }
}
