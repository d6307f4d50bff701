//! Plain comparisons of clocks and subjects that an index can serve, beside the exact conditions. Pure.

use crate::policy::model::{Clock, Cover, Group, SubjectKey, TypeClass};
use crate::policy::period::{Instant, Period};
use crate::policy::render::condition::{FIRST, Scope, all, any, latest_start};
use crate::policy::render::statement::Param;

/// For clocks of the row itself the latest value that a row which is past can have.
type Bounds<'g> = Vec<(&'g Clock, Instant)>;

fn own(clock: &Clock) -> bool {
    clock.path.is_empty()
}

/// What withdrawals mean for a comparison of clocks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Withdrawals {
    /// They can end a purpose by consent at any time.
    Anytime,
    /// Rows of subjects that made one are looked for beside it.
    Beside,
}

fn live(cover: &Cover, cutoff: Instant) -> bool {
    cover.ended_at.is_none_or(|ended| ended > cutoff)
}

/// What must hold of clocks for all purposes to have ended; `None` where they cannot have.
fn covers_ended(group: &Group, cutoff: Instant, withdrawals: Withdrawals) -> Option<Bounds<'_>> {
    let mut bounds: Bounds = Vec::new();
    for cover in group.covers.iter().filter(|cover| live(cover, cutoff)) {
        if cover.consent.is_some() && withdrawals == Withdrawals::Anytime {
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
fn past(group: &Group, cutoff: Instant, withdrawals: Withdrawals) -> Option<Bounds<'_>> {
    let limits = group.limits.iter().filter_map(|limit| {
        let latest = latest_start(cutoff, limit.period)?;
        Some(if own(&limit.clock) {
            vec![(&limit.clock, latest)]
        } else {
            Vec::new()
        })
    });
    covers_ended(group, cutoff, withdrawals)
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

/// The values that can be compared with a column of the type, as their text forms; `None` for a type of which it is
/// not known that values are equal when their texts are.
pub(super) fn comparable(base: &str, values: Vec<String>) -> Option<(Vec<String>, &'static str)> {
    let (cast, fits): (&str, fn(&str) -> bool) = match base {
        "int2" => ("::pg_catalog.int2[]", |text| text.parse::<i16>().is_ok()),
        "int4" => ("::pg_catalog.int4[]", |text| text.parse::<i32>().is_ok()),
        "int8" => ("::pg_catalog.int8[]", |text| text.parse::<i64>().is_ok()),
        "uuid" => ("::pg_catalog.uuid[]", is_uuid),
        "text" | "varchar" => ("", |_| true),
        _ => return None,
    };
    Some((values.into_iter().filter(|text| fits(text)).collect(), cast))
}

/// Whether this is how the server writes a uuid.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

impl Scope<'_> {
    /// Plain comparisons that an index can serve. They let through every row for which the exact condition holds,
    /// as far as rows that became due after `after`, or by a withdrawal, are concerned.
    pub fn index_bounds(
        &mut self,
        row: &str,
        groups: &[&Group],
        after: Option<Instant>,
    ) -> Vec<String> {
        let mut erased = Vec::new();
        if groups.iter().any(|group| group.erasure.is_some()) {
            // An erasure is no matter of time: what it concerns was erased when it was made. Rows that came later
            // are found by the passes that look at everything.
            let Some(newly) = after.and_then(|after| self.newly_free(row, groups, after)) else {
                return Vec::new();
            };
            erased = newly;
        }
        let timely = self.timely_bounds(row, groups, after);
        if erased.is_empty() || timely.is_empty() {
            return timely;
        }
        let timely = all(timely);
        vec![any(std::iter::once(timely)
            .filter(|timely| timely != "false")
            .chain(erased))]
    }

    /// The same without regard to erasures.
    fn timely_bounds(
        &mut self,
        row: &str,
        groups: &[&Group],
        after: Option<Instant>,
    ) -> Vec<String> {
        let Some(withdrawn) = self.withdrawn(row, groups) else {
            return self.clock_bounds(row, groups, after, Withdrawals::Anytime);
        };
        let clocks = self.clock_bounds(row, groups, after, Withdrawals::Beside);
        if withdrawn.is_empty() || clocks.is_empty() {
            return clocks;
        }
        let clocks = all(clocks);
        vec![any(std::iter::once(clocks)
            .filter(|clocks| clocks != "false")
            .chain(withdrawn))]
    }

    /// The subject withdrew its consent to one of the groups' purposes: alternatives. `None` where that cannot be
    /// asked by an index, or is not known.
    fn withdrawn(&mut self, row: &str, groups: &[&Group]) -> Option<Vec<String>> {
        let mut subjects: Vec<(&SubjectKey, Vec<&str>)> = Vec::new();
        for cover in groups.iter().flat_map(|group| &group.covers) {
            let Some(subject) = cover.consent.as_ref().filter(|_| live(cover, self.cutoff)) else {
                continue;
            };
            match subjects.iter_mut().find(|(known, _)| *known == subject) {
                Some((_, purposes)) => purposes.push(&cover.purpose),
                None => subjects.push((subject, vec![&cover.purpose])),
            }
        }
        if subjects.is_empty() {
            return Some(Vec::new());
        }
        let known = self.policy.withdrawn.as_ref()?;
        let mut alternatives = Vec::new();
        for (subject, purposes) in subjects {
            let ([], [column], [base]) = (
                subject.path.as_slice(),
                subject.columns.as_slice(),
                subject.bases.as_slice(),
            ) else {
                return None;
            };
            let mut keys: Vec<String> = known
                .iter()
                .filter(|withdrawn| {
                    withdrawn.kind == subject.kind && purposes.contains(&withdrawn.purpose.as_str())
                })
                .filter_map(|withdrawn| match withdrawn.key.as_slice() {
                    [key] => Some(key.clone()),
                    _ => None,
                })
                .collect();
            keys.sort();
            keys.dedup();
            let (keys, cast) = comparable(base, keys)?;
            if !keys.is_empty() {
                let keys = self.binder.bind(Param::TextArray(keys));
                alternatives.push(format!("{row}.{} = ANY ({keys}{cast})", column.quoted));
            }
        }
        Some(alternatives)
    }

    /// Rows of erased subjects that something else than the purposes an erasure ends may have kept until `after`, and
    /// no more: alternatives. `None` where clocks do not say.
    fn newly_free(&mut self, row: &str, groups: &[&Group], after: Instant) -> Option<Vec<String>> {
        let mut keeping: Vec<(&Clock, Period)> = Vec::new();
        for group in groups {
            for cover in group.covers.iter().filter(|cover| !cover.ends_on_erasure) {
                match cover.ended_at {
                    Some(ended) if ended <= after => continue,
                    Some(ended) if ended <= self.cutoff => return None,
                    _ => {}
                }
                let periods = cover.periods.iter().map(|entry| entry.period);
                keeping.extend(periods.map(|period| (&cover.clock, period)));
            }
            for keep in &group.keeps {
                // A suspension moves the end by as much as it lasted.
                if !keep.suspensions.is_empty() {
                    return None;
                }
                keeping.push((&keep.clock, keep.period));
            }
            for limit in &group.limits {
                keeping.push((&limit.clock, limit.period));
            }
        }
        let mut alternatives = Vec::new();
        for (clock, period) in keeping {
            if !own(clock) {
                return None;
            }
            let Some(latest) = latest_start(self.cutoff, period) else {
                continue;
            };
            let earliest = after
                .earliest_start(period)
                .filter(|start| *start >= FIRST)?;
            let earliest = self.bound(earliest, clock.class);
            let latest = self.bound(latest, clock.class);
            let column = &clock.column.quoted;
            alternatives.push(format!(
                "({row}.{column} >= {earliest} AND {row}.{column} <= {latest})"
            ));
        }
        Some(alternatives)
    }

    fn clock_bounds(
        &mut self,
        row: &str,
        groups: &[&Group],
        after: Option<Instant>,
        withdrawals: Withdrawals,
    ) -> Vec<String> {
        let mut bounds = Vec::new();
        for group in groups {
            let Some(past) = past(group, self.cutoff, withdrawals) else {
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
            && let Some((clock, earliest)) = self.newly_due_since(groups, after, withdrawals)
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
        withdrawals: Withdrawals,
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
                if cover.consent.is_some() && withdrawals == Withdrawals::Anytime {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::compile::compile;
    use crate::policy::fixture::{at, policy, schema, table, tag};
    use crate::policy::model::{Plan, Policy, Withdrawn};

    const TABLE: &str = r#"{"clock":"at","subject":{"kind":"customer","key":["id"]}}"#;

    /// Ten years by consent, on a table whose key is of this type, and who withdrew.
    fn by_consent(base: &str, withdrawn: Option<&[&str]>) -> (Plan, Policy) {
        let mut policy = policy(&[("p.a", 120)]);
        for purpose in policy.purposes.values_mut() {
            purpose.consent = true;
        }
        policy.withdrawn = withdrawn.map(|keys| {
            keys.iter()
                .map(|key| Withdrawn {
                    purpose: "p.a".to_owned(),
                    kind: "customer".to_owned(),
                    key: vec![(*key).to_owned()],
                })
                .collect()
        });
        let column = tag(&["p.a"], r#""on_expiry":"set_null""#);
        let mut table = table(1, "t", TABLE, &[("a", &column)]);
        for column in &mut table.columns {
            base.clone_into(&mut column.base);
        }
        let plan = compile(&schema(vec![table], vec![]), &policy, 1);
        (plan, policy)
    }

    fn bounds(base: &str, withdrawn: Option<&[&str]>, after: Option<&str>) -> (String, Vec<Param>) {
        let (plan, policy) = by_consent(base, withdrawn);
        let groups: Vec<&Group> = plan.groups.iter().collect();
        let mut scope = Scope::new(&policy, at("2024-01-01T00:00:00Z"));
        let bounds = scope.index_bounds("r", &groups, after.map(at));
        let statement = scope.binder.finish(bounds.join(" AND "));
        (statement.sql, statement.params)
    }

    #[test]
    fn rows_of_subjects_that_withdrew_are_looked_for_beside_the_clock() {
        let after = Some("2023-12-01T00:00:00Z");
        let (sql, params) = bounds("int8", Some(&["7", "x", "7"]), after);
        assert_eq!(
            sql,
            "((r.at <= $2 AND r.at >= $3) OR r.id = ANY ($1::pg_catalog.int8[]))"
        );
        // A key that is no number any more is that of no row.
        assert_eq!(params[0], Param::TextArray(vec!["7".to_owned()]));
        let (sql, _) = bounds("text", Some(&["x"]), None);
        assert_eq!(sql, "(r.at <= $2 OR r.id = ANY ($1))");
    }

    #[test]
    fn where_nobody_withdrew_the_clock_decides_alone() {
        let (sql, _) = bounds("int8", Some(&[]), Some("2023-12-01T00:00:00Z"));
        assert_eq!(sql, "r.at <= $1 AND r.at >= $2");
    }

    #[test]
    fn where_it_is_not_known_who_withdrew_every_row_is_looked_at() {
        let after = Some("2023-12-01T00:00:00Z");
        assert_eq!(bounds("int8", None, after).0, "");
        // Equal numbers may have different texts.
        assert_eq!(bounds("numeric", Some(&["7"]), after).0, "");
    }

    #[test]
    fn only_values_of_the_type_are_cast_to_it() {
        let fits = |base: &str, value: &str| {
            comparable(base, vec![value.to_owned()]).is_some_and(|(values, _)| values.len() == 1)
        };
        assert!(fits("int2", "-7") && !fits("int2", "70000"));
        assert!(fits("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"));
        assert!(!fits("uuid", "a0eebc99-9c0b-4ef8-bb6d06bb9bd380a11"));
        assert!(!fits("bpchar", "a"));
    }
}
