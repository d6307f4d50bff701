//! Plain comparisons of clocks that an index can serve, beside the exact conditions. Pure.

use crate::policy::model::{Clock, Cover, Group, TypeClass};
use crate::policy::period::{Instant, Period};
use crate::policy::render::condition::{FIRST, Scope, latest_start};

/// For clocks of the row itself the latest value that a row which is past can have.
type Bounds<'g> = Vec<(&'g Clock, Instant)>;

fn own(clock: &Clock) -> bool {
    clock.path.is_empty()
}

/// What must hold of clocks for all purposes to have ended; `None` where they cannot have.
fn covers_ended(group: &Group, cutoff: Instant) -> Option<Bounds<'_>> {
    let mut bounds: Bounds = Vec::new();
    let live = |cover: &&Cover| cover.ended_at.is_none_or(|ended| ended > cutoff);
    for cover in group.covers.iter().filter(live) {
        // A withdrawal can end it at any time.
        if cover.consent.is_some() {
            continue;
        }
        // It ended by one of its periods.
        let latest = cover
            .periods
            .iter()
            .filter_map(|entry| latest_start(cutoff, entry.period))
            .max()?;
        if !own(&cover.clock) {
            continue;
        }
        match bounds.iter_mut().find(|(clock, _)| *clock == &cover.clock) {
            Some((_, bound)) => *bound = latest.min(*bound),
            None => bounds.push((&cover.clock, latest)),
        }
    }
    Some(bounds)
}

/// What must hold of clocks for the group to be past, in whichever way; `None` where it cannot be.
fn past(group: &Group, cutoff: Instant) -> Option<Bounds<'_>> {
    let limits = group.limits.iter().filter_map(|limit| {
        let latest = latest_start(cutoff, limit.period)?;
        Some(if own(&limit.clock) {
            vec![(&limit.clock, latest)]
        } else {
            Vec::new()
        })
    });
    covers_ended(group, cutoff)
        .into_iter()
        .chain(limits)
        .reduce(|one, other| {
            // Only what holds in both ways holds.
            one.into_iter()
                .filter_map(|(clock, bound)| {
                    let (_, beside) = other.iter().find(|(known, _)| *known == clock)?;
                    Some((clock, bound.max(*beside)))
                })
                .collect()
        })
}

impl Scope<'_> {
    /// Plain comparisons of the clock that an index on it can serve. They let through every row for which the
    /// exact condition holds, as far as rows that became due after `after` are concerned.
    pub fn index_bounds(
        &mut self,
        row: &str,
        groups: &[&Group],
        after: Option<Instant>,
    ) -> Vec<String> {
        let mut bounds = Vec::new();
        for group in groups {
            let Some(past) = past(group, self.cutoff) else {
                return vec!["false".to_owned()];
            };
            for (clock, latest) in past {
                let bound = self.bound(latest, clock.class);
                let bound = format!("{row}.{} <= {bound}", clock.column.quoted);
                if !bounds.contains(&bound) {
                    bounds.push(bound);
                }
            }
        }
        if let Some(after) = after
            && let Some((clock, earliest)) = self.newly_due_since(groups, after)
        {
            let class: TypeClass = clock.class;
            let column = clock.column.quoted.clone();
            let bound = self.bound(earliest, class);
            bounds.push(format!("{row}.{column} >= {bound}"));
        }
        bounds
    }

    /// The earliest clock of a row that was not due at `after` and may be due now; `None` where one clock does
    /// not decide alone.
    fn newly_due_since<'g>(
        &self,
        groups: &[&'g Group],
        after: Instant,
    ) -> Option<(&'g Clock, Instant)> {
        let mut clock: Option<&'g Clock> = None;
        let mut earliest: Option<Instant> = None;
        let mut add = |candidate: &'g Clock, period: Period| -> Option<()> {
            if !own(candidate) || clock.is_some_and(|clock| clock != candidate) {
                return None;
            }
            clock = Some(candidate);
            let start = after
                .earliest_start(period)
                .filter(|start| *start >= FIRST)?;
            earliest = Some(earliest.map_or(start, |earliest: Instant| earliest.min(start)));
            Some(())
        };
        for group in groups {
            for cover in &group.covers {
                match cover.ended_at {
                    Some(ended) if ended <= after => continue,
                    Some(ended) if ended <= self.cutoff => return None,
                    _ => {}
                }
                if cover.consent.is_some() {
                    return None;
                }
                for entry in &cover.periods {
                    add(&cover.clock, entry.period)?;
                }
            }
            for limit in &group.limits {
                add(&limit.clock, limit.period)?;
            }
            for keep in &group.keeps {
                // A suspension moves the end by as much as it lasted.
                if !keep.suspensions.is_empty() {
                    return None;
                }
                add(&keep.clock, keep.period)?;
            }
        }
        Some((clock?, earliest?))
    }
}
