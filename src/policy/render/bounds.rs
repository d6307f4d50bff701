//! Plain comparisons of clocks and subjects that an index can serve, beside the exact conditions. Pure.

use crate::policy::model::{Clock, Cover, Group, Hold, HoldScope, Plan, SubjectKey, TypeClass};
use crate::policy::period::Instant;
use crate::policy::reach::Reach;
use crate::policy::render::condition::{Scope, all, any, latest_start};
use crate::policy::render::events::{Event, events, last_start};
use crate::policy::render::facts;
use crate::policy::render::range::ClockRange;
use crate::policy::render::statement::Param;

/// For clocks of the row itself the latest value that a row which is due can have.
type Bounds<'g> = Vec<(&'g Clock, Instant)>;

fn own(clock: &Clock) -> bool {
    clock.path.is_empty()
}

/// What withdrawals mean for a comparison of clocks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Withdrawals {
    /// They can end a purpose by consent at any time.
    Anytime,
    /// Rows of subjects that made one are looked for beside it.
    Beside,
}

fn live(cover: &Cover, cutoff: Instant) -> bool {
    cover.ended_at.is_none_or(|ended| ended > cutoff)
}

/// Adds a bound; of two on one clock the earlier one.
fn bind<'g>(bounds: &mut Bounds<'g>, clock: &'g Clock, latest: Instant) {
    match bounds.iter_mut().find(|(known, _)| *known == clock) {
        Some((_, bound)) => *bound = latest.min(*bound),
        None => bounds.push((clock, latest)),
    }
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
        if own(&cover.clock) {
            bind(&mut bounds, &cover.clock, latest);
        }
    }
    Some(bounds)
}

/// What must hold of clocks for the group to be past, in whichever way, and for nothing to keep it; `None` where that
/// cannot be.
fn free(group: &Group, cutoff: Instant, withdrawals: Withdrawals) -> Option<Bounds<'_>> {
    let limits = group.limits.iter().filter_map(|limit| {
        let latest = latest_start(cutoff, limit.period)?;
        Some(if own(&limit.clock) {
            vec![(&limit.clock, latest)]
        } else {
            Vec::new()
        })
    });
    let mut bounds = covers_ended(group, cutoff, withdrawals)
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
        })?;
    for keep in &group.keeps {
        let latest = last_start(cutoff, keep.period, &keep.suspensions)?;
        if own(&keep.clock) {
            bind(&mut bounds, &keep.clock, latest);
        }
    }
    Some(bounds)
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
    /// as far as rows are concerned that `after` looks at, or that are due by a withdrawal.
    pub fn index_bounds(
        &mut self,
        row: &str,
        plan: &Plan,
        groups: &[&Group],
        after: Option<&Reach>,
    ) -> Vec<String> {
        let mut erased = Vec::new();
        if groups.iter().any(|group| group.erasure.is_some()) {
            // An erasure is no matter of time: what it concerns was erased when it was made. Rows that came later
            // are found by the passes that look at everything.
            let Some(newly) = after.and_then(|after| self.newly_free(row, plan, groups, after))
            else {
                return Vec::new();
            };
            erased = newly;
        }
        let timely = self.timely_bounds(row, plan, groups, after);
        or(timely, erased)
    }

    /// The same without regard to erasures.
    fn timely_bounds(
        &mut self,
        row: &str,
        plan: &Plan,
        groups: &[&Group],
        after: Option<&Reach>,
    ) -> Vec<String> {
        let Some(withdrawn) = self.withdrawn(row, groups) else {
            return self.clock_bounds(row, plan, groups, after, Withdrawals::Anytime);
        };
        let clocks = self.clock_bounds(row, plan, groups, after, Withdrawals::Beside);
        or(clocks, withdrawn)
    }

    /// The same bounds as ranges of clocks of the row itself, each of which alone holds every row that they let through;
    /// none where other rows are looked for beside them.
    pub(super) fn clock_ranges(
        &mut self,
        groups: &[&Group],
        after: Option<&Reach>,
    ) -> Vec<ClockRange> {
        let withdrawals = match self.withdrawn("", groups) {
            None => Withdrawals::Anytime,
            Some(beside) if beside.is_empty() => Withdrawals::Beside,
            Some(_) => return Vec::new(),
        };
        if groups.iter().any(|group| group.erasure.is_some()) {
            return Vec::new();
        }
        let mut latest: Bounds = Vec::new();
        for group in groups {
            for (clock, bound) in free(group, self.cutoff, withdrawals).unwrap_or_default() {
                bind(&mut latest, clock, bound);
            }
        }
        let events = after
            .filter(|after| !after.looks_back())
            .and_then(|after| events(groups, |_| true, after.after, self.cutoff, withdrawals))
            .unwrap_or_default();
        // What became due did so by its clock alone.
        let earliest = |clock: &Clock| match events.as_slice() {
            [event] if event.clock == clock && !event.missing => event.from,
            _ => None,
        };
        latest
            .into_iter()
            .map(|(clock, latest)| ClockRange {
                column: clock.column.name.clone(),
                class: clock.class,
                latest,
                earliest: earliest(clock),
            })
            .collect()
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

    /// Rows of erased subjects that something else than the purposes an erasure ends may have kept until the last pass,
    /// or that were reopened: alternatives. `None` where clocks do not say.
    fn newly_free(
        &mut self,
        row: &str,
        plan: &Plan,
        groups: &[&Group],
        after: &Reach,
    ) -> Option<Vec<String>> {
        let required = |cover: &Cover| !cover.ends_on_erasure;
        let beside = Withdrawals::Beside;
        let events = events(groups, required, after.after, self.cutoff, beside)?;
        let mut alternatives: Vec<String> = events
            .iter()
            .map(|event| self.event(row, plan, event, false))
            .collect();
        alternatives.extend(self.reopened(row, plan, groups, after));
        (!alternatives.iter().any(|part| part == "true")).then_some(alternatives)
    }

    fn clock_bounds(
        &mut self,
        row: &str,
        plan: &Plan,
        groups: &[&Group],
        after: Option<&Reach>,
        withdrawals: Withdrawals,
    ) -> Vec<String> {
        let mut latest: Bounds = Vec::new();
        for group in groups {
            let Some(free) = free(group, self.cutoff, withdrawals) else {
                return vec!["false".to_owned()];
            };
            for (clock, bound) in free {
                bind(&mut latest, clock, bound);
            }
        }
        let mut bounds: Vec<String> = Vec::new();
        for (clock, latest) in &latest {
            let bound = self.bound(*latest, clock.class);
            bounds.push(format!("{row}.{} <= {bound}", clock.column.quoted));
        }
        if let Some(after) = after
            && let Some(events) = events(groups, |_| true, after.after, self.cutoff, withdrawals)
        {
            let possible = |event: &&Event| {
                let bound = latest.iter().find(|(clock, _)| *clock == event.clock);
                event.missing
                    || bound.is_none_or(|(_, latest)| event.from.is_none_or(|from| from <= *latest))
            };
            let events: Vec<&Event> = events.iter().filter(possible).collect();
            let alone = events.len() <= 1 && !after.looks_back();
            let mut alternatives: Vec<String> = events
                .into_iter()
                .map(|event| {
                    let bound = latest.iter().find(|(clock, _)| *clock == event.clock);
                    let latest = bound.map(|(_, latest)| *latest);
                    // Beside others it says itself where it ends: the planner could not tell how few rows it is for.
                    let until = match (event.until, latest) {
                        (Some(until), Some(latest)) if alone => {
                            Some(until).filter(|_| until < latest)
                        }
                        (Some(until), Some(latest)) => Some(until.min(latest)),
                        (until, _) => until,
                    };
                    self.event(row, plan, &Event { until, ..*event }, alone)
                })
                .collect();
            alternatives.extend(self.reopened(row, plan, groups, after));
            if !alternatives.iter().any(|part| part == "true") {
                bounds.push(any(alternatives));
            }
        }
        bounds
    }

    /// The clock has a value by which the event lies between the last pass and this one.
    fn event(&mut self, row: &str, plan: &Plan, event: &Event, alone: bool) -> String {
        let Event {
            clock,
            from,
            until,
            missing,
        } = *event;
        self.where_clock(row, plan, clock, alone, |scope, raw| {
            let range = scope.between(raw, clock.class, from, until);
            if missing {
                any([range, unknown(raw)])
            } else {
                range
            }
        })
    }

    /// The value lies between these, both included.
    pub(super) fn between(
        &mut self,
        raw: &str,
        class: TypeClass,
        from: Option<Instant>,
        until: Option<Instant>,
    ) -> String {
        let from = from.map(|from| format!("{raw} >= {}", self.bound(from, class)));
        let until = until.map(|until| format!("{raw} <= {}", self.bound(until, class)));
        match (from, until) {
            (None, None) => "true".to_owned(),
            (from, until) => all(from.into_iter().chain(until)),
        }
    }

    /// `condition` holds for the value of the clock. For one over foreign keys the rows that have such a value are looked
    /// up first, and then those that refer to them, unless the condition stands `alone`, and the planner can choose, or the
    /// statement is for a range of blocks: then each of its rows asks for its own.
    pub(super) fn where_clock(
        &mut self,
        row: &str,
        plan: &Plan,
        clock: &Clock,
        alone: bool,
        condition: impl FnOnce(&mut Self, &str) -> String,
    ) -> String {
        let Some((hop, rest)) = clock.path.split_first() else {
            return condition(self, &format!("{row}.{}", clock.column.quoted));
        };
        let plain = hop
            .operators
            .iter()
            .all(|operator| operator == "OPERATOR(pg_catalog.=)");
        if !plain || self.ranged {
            return self.along(row, &clock.path, |scope, at| {
                condition(scope, &format!("{at}.{}", clock.column.quoted))
            });
        }
        let parent = self.alias();
        let (items, joins, at) = self.walk(&parent, rest);
        let condition = condition(self, &format!("{at}.{}", clock.column.quoted));
        let source =
            super::condition::from(&hop.parent_ident.quoted, hop.parent_partitioned, &parent);
        let sources: Vec<String> = std::iter::once(source).chain(items).collect();
        let conditions: Vec<String> = joins.into_iter().chain([condition]).collect();
        let (sources, conditions) = (sources.join(", "), conditions.join(" AND "));
        // Each column must have the value of such a row: for keys of several columns that lets more rows through.
        all(hop
            .columns
            .iter()
            .zip(&hop.parent_columns)
            .map(|(column, target)| {
                let rows = format!(
                    "SELECT {parent}.{} FROM {sources} WHERE {conditions}",
                    target.quoted
                );
                let rows = if !alone && plan.indexed.contains(&column.quoted) {
                    format!("ARRAY({rows})")
                } else {
                    rows
                };
                format!(
                    "{row}.{} OPERATOR(pg_catalog.=) ANY ({rows})",
                    column.quoted
                )
            }))
    }

    /// The row lay under a hold that was released: by the subject's key where an index can serve that.
    pub(super) fn was_held(&mut self, row: &str, plan: &Plan, hold: &Hold) -> String {
        if let (HoldScope::Subject { key, .. }, Some(subject)) = (&hold.scope, &plan.subject)
            && let ([], [column], [base], [key]) = (
                subject.path.as_slice(),
                subject.columns.as_slice(),
                subject.bases.as_slice(),
                key.as_slice(),
            )
            && let Some((keys, cast)) = comparable(base, vec![key.clone()])
            && !keys.is_empty()
        {
            let keys = self.binder.bind(Param::TextArray(keys));
            return format!("{row}.{} = ANY ({keys}{cast})", column.quoted);
        }
        self.held_by(row, plan, &[hold])
    }
}

/// The clocks by which rows of the groups that were written late are found: of such a row each has passed, but where
/// nothing goes by a clock any more.
pub(super) fn deciding<'p>(
    plan: &'p Plan,
    groups: &[&'p Group],
    cutoff: Instant,
) -> Vec<&'p Clock> {
    let live = |group: &&Group| group.covers.iter().any(|cover| live(cover, cutoff));
    if !groups.iter().all(live) {
        return facts::clocks(plan);
    }
    let mut clocks: Vec<&Clock> = Vec::new();
    for group in groups {
        let covers = group.covers.iter().map(|cover| &cover.clock);
        let keeps = group.keeps.iter().map(|keep| &keep.clock);
        let limits = group.limits.iter().map(|limit| &limit.clock);
        for clock in covers.chain(keeps).chain(limits) {
            if !clocks.contains(&clock) {
                clocks.push(clock);
            }
        }
    }
    clocks
}

/// All of `bounds`, or one of the alternatives; no alternatives are none beside the bounds.
fn or(bounds: Vec<String>, alternatives: Vec<String>) -> Vec<String> {
    if alternatives.is_empty() || bounds.is_empty() {
        return bounds;
    }
    let impossible = bounds.iter().any(|part| part == "false");
    let bounds = (!impossible).then(|| all(bounds));
    vec![any(bounds.into_iter().chain(alternatives))]
}

/// A clock that has not begun to run.
pub(super) fn unknown(raw: &str) -> String {
    format!("({raw} IS NULL OR {raw} IN ('infinity', '-infinity'))")
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
        let after = after.map(|after| Reach::since(at(after)));
        let bounds = scope.index_bounds("r", &plan, &groups, after.as_ref());
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
