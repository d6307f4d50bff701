//! The conditions of a plan as SQL. Each fragment is a boolean expression over one row's alias that is never
//! NULL, so that it may be negated.

use crate::policy::model::{
    Clock, Cover, CoverPeriod, Dependent, Group, Hold, HoldScope, Hop, Keep, Leaf, Limit, Plan,
    Policy, Span, SubjectKey, TypeClass,
};
use crate::policy::period::{Instant, Period};
use crate::policy::render::circle::is_referred_to;
use crate::policy::render::statement::{Binder, Param};

/// What every fragment of one statement shares.
pub struct Scope<'a> {
    pub policy: &'a Policy,
    pub cutoff: Instant,
    pub binder: Binder,
    aliases: u32,
    /// Any row that refers to one keeps it, also one that is itself due: it has a run of its own, which the
    /// fuse may have stopped, and must not go by a cascade.
    pub alone: bool,
    /// The statement is for a range of blocks, which is cheaper to go over than what an index finds in the whole leaf.
    pub ranged: bool,
}

const DAY: i64 = 86_400_000_000;

/// 4713-01-01 BC: no clock of the server is earlier, and it holds no earlier bound.
pub(super) const FIRST: Instant = Instant::from_micros(-210_863_606_400_000_000);

/// The bound from which a period has run out at `cutoff`; `None` where no clock can be that early.
pub(super) fn latest_start(cutoff: Instant, period: Period) -> Option<Instant> {
    cutoff.latest_start(period).filter(|bound| *bound >= FIRST)
}

/// The expressions joined by AND; `true` for none.
pub fn all(parts: impl IntoIterator<Item = String>) -> String {
    join(parts, " AND ", "true")
}

/// The expressions joined by OR; `false` for none.
pub fn any(parts: impl IntoIterator<Item = String>) -> String {
    join(parts, " OR ", "false")
}

fn join(parts: impl IntoIterator<Item = String>, operator: &str, none: &str) -> String {
    let mut seen: Vec<String> = Vec::new();
    for part in parts {
        if !seen.contains(&part) {
            seen.push(part);
        }
    }
    match seen.len() {
        0 => none.to_owned(),
        1 => seen.swap_remove(0),
        _ => format!("({})", seen.join(operator)),
    }
}

pub fn not(part: &str) -> String {
    match part {
        "true" => "false".to_owned(),
        "false" => "true".to_owned(),
        part => format!("NOT {part}"),
    }
}

/// `FROM` item of a relation that a foreign key names: of a plain table only its own rows count, the rows of a
/// partitioned one are in its partitions.
pub(super) fn from(quoted: &str, partitioned: bool, alias: &str) -> String {
    let only = if partitioned { "" } else { "ONLY " };
    format!("{only}{quoted} AS {alias}")
}

impl<'a> Scope<'a> {
    pub fn new(policy: &'a Policy, cutoff: Instant) -> Self {
        Scope {
            policy,
            cutoff,
            binder: Binder::default(),
            aliases: 0,
            alone: false,
            ranged: false,
        }
    }

    pub(super) fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("x{}", self.aliases)
    }

    pub fn instant(&mut self, instant: Instant) -> String {
        self.binder.bind(Param::Instant(instant))
    }

    /// The relations that `path` leads through from `row` with their join conditions, and the last one's alias.
    pub(super) fn walk(&mut self, row: &str, path: &[Hop]) -> (Vec<String>, Vec<String>, String) {
        let mut items = Vec::new();
        let mut joins = Vec::new();
        let mut at = row.to_owned();
        for hop in path {
            let alias = self.alias();
            items.push(from(
                &hop.parent_ident.quoted,
                hop.parent_partitioned,
                &alias,
            ));
            for ((column, parent), operator) in hop
                .columns
                .iter()
                .zip(&hop.parent_columns)
                .zip(&hop.operators)
            {
                joins.push(format!(
                    "{alias}.{} {operator} {at}.{}",
                    parent.quoted, column.quoted
                ));
            }
            at = alias;
        }
        (items, joins, at)
    }

    /// `inner` holds for the row that `path` leads to from `row`; false where it leads nowhere.
    pub(super) fn along(
        &mut self,
        row: &str,
        path: &[Hop],
        inner: impl FnOnce(&mut Self, &str) -> String,
    ) -> String {
        let (items, joins, at) = self.walk(row, path);
        let condition = inner(self, &at);
        if path.is_empty() {
            return condition;
        }
        format!(
            "EXISTS (SELECT FROM {} WHERE {} AND {condition})",
            items.join(", "),
            joins.join(" AND ")
        )
    }

    /// An expression over the row that `path` leads to from `row`; NULL where it leads nowhere.
    pub fn value(&mut self, row: &str, path: &[Hop], inner: impl FnOnce(&str) -> String) -> String {
        let (items, joins, at) = self.walk(row, path);
        let value = inner(&at);
        if path.is_empty() {
            return value;
        }
        format!(
            "(SELECT {value} FROM {} WHERE {})",
            items.join(", "),
            joins.join(" AND ")
        )
    }

    /// The value of a clock as `timestamptz`.
    fn as_timestamptz(raw: &str, class: TypeClass) -> String {
        match class {
            TypeClass::Date => format!("({raw}::timestamp AT TIME ZONE 'UTC')"),
            TypeClass::Timestamp => format!("({raw} AT TIME ZONE 'UTC')"),
            _ => raw.to_owned(),
        }
    }

    /// A bound in the type of the clock, so that an index on it can be used. For dates it is rounded down.
    pub(super) fn bound(&mut self, instant: Instant, class: TypeClass) -> String {
        let bound = self.instant(instant);
        match class {
            TypeClass::Date => format!("({bound} AT TIME ZONE 'UTC')::date"),
            TypeClass::Timestamp => format!("({bound} AT TIME ZONE 'UTC')"),
            _ => bound,
        }
    }

    /// `period` has run out at the cutoff, counted from the clock. A clock that is NULL or infinite never runs
    /// out. The exact sum stands behind the looser bound, since a clock near the end of the calendar would
    /// make it fail.
    fn run_out(&mut self, row: &str, clock: &Clock, period: Period) -> String {
        self.run_out_with(row, clock, period, &[])
    }

    /// The same for a period that does not run while it is suspended: the suspended time between the clock and
    /// the cutoff is added to it.
    fn run_out_with(
        &mut self,
        row: &str,
        clock: &Clock,
        period: Period,
        suspensions: &[Span],
    ) -> String {
        let cutoff = self.cutoff;
        let Some(latest) = latest_start(cutoff, period) else {
            return "false".to_owned();
        };
        let class = clock.class;
        self.along(row, &clock.path, |scope, at| {
            let raw = format!("{at}.{}", clock.column.quoted);
            let bound = scope.bound(latest, class);
            let sum = Self::as_timestamptz(&raw, class);
            let mut end = format!("{sum} + {}", scope.binder.bind(Param::Period(period)));
            for suspension in suspensions.iter().filter(|span| span.from < cutoff) {
                let until = suspension.until.map_or(cutoff, |until| until.min(cutoff));
                let (from, until) = (scope.instant(suspension.from), scope.instant(until));
                end.push_str(&format!(
                    " + greatest({until} - greatest({from}, {sum}), interval '0')"
                ));
            }
            let certain = cutoff
                .earliest_start(period)
                .filter(|start| suspensions.is_empty() && *start >= FIRST);
            let cutoff = scope.instant(cutoff);
            // The sum is dear: it is asked for only where a comparison does not tell already.
            let past = match certain {
                Some(certain) => {
                    let certain = scope.bound(certain, class);
                    format!("{raw} <= {certain} OR {end} <= {cutoff}")
                }
                None => format!("{end} <= {cutoff}"),
            };
            let exact = format!(
                "CASE WHEN isfinite({raw}) AND {raw} <= {bound} THEN {past} ELSE false END"
            );
            if clock.path.is_empty() {
                return exact;
            }
            // Plainly as well, so that an index on the clock can lead to the rows that refer to it.
            format!("{raw} <= {bound} AND {exact}")
        })
    }

    /// The clock is NULL or infinite, or leads nowhere.
    pub fn clock_missing(&mut self, row: &str, clock: &Clock) -> String {
        let known = self.along(row, &clock.path, |_, at| {
            format!("coalesce(isfinite({at}.{}), false)", clock.column.quoted)
        });
        not(&known)
    }

    /// The row was collected before `moment`, or it is not known when.
    fn collected_before(&mut self, row: &str, collected: &Clock, moment: Instant) -> String {
        let class = collected.class;
        let moment = match class {
            // The first day that does not begin before the moment.
            TypeClass::Date => {
                let micros = moment.micros();
                let rest = micros.rem_euclid(DAY);
                Instant::from_micros(if rest == 0 {
                    micros
                } else {
                    micros + DAY - rest
                })
            }
            _ => moment,
        };
        let later = self.along(row, &collected.path, |scope, at| {
            let raw = format!("{at}.{}", collected.column.quoted);
            let bound = scope.bound(moment, class);
            format!("CASE WHEN isfinite({raw}) THEN {raw} >= {bound} ELSE false END")
        });
        not(&later)
    }

    /// The purpose does not cover the cell any more, whoever was erased.
    pub(super) fn cover_ended(&mut self, row: &str, cover: &Cover) -> String {
        if cover.ended_at.is_some_and(|ended| ended <= self.cutoff) {
            return "true".to_owned();
        }
        let mut alternatives = Vec::new();
        for CoverPeriod {
            period,
            collected_before,
            ..
        } in &cover.periods
        {
            let run_out = self.run_out(row, &cover.clock, *period);
            let applies = match (collected_before, &cover.collected) {
                (Some(moment), Some(collected)) => self.collected_before(row, collected, *moment),
                _ => "true".to_owned(),
            };
            alternatives.push(match (applies.as_str(), run_out.as_str()) {
                ("true", _) | (_, "false") => run_out,
                _ => all([run_out, applies]),
            });
        }
        if let Some(subject) = &cover.consent {
            alternatives.push(self.consent_is(row, subject, &cover.purpose, "withdrawn"));
        }
        any(alternatives)
    }

    /// The key of the subject whose columns the row with this alias has, in text form.
    pub(super) fn key_of(at: &str, subject: &SubjectKey) -> String {
        let columns: Vec<String> = subject
            .columns
            .iter()
            .map(|column| format!("{at}.{}::text", column.quoted))
            .collect();
        format!("ARRAY[{}]", columns.join(", "))
    }

    /// The subject's consent to the purpose is in this state at the cutoff: `given`, `withdrawn`, or `none` on
    /// record, as also for a row whose subject cannot be told.
    pub fn consent_is(
        &mut self,
        row: &str,
        subject: &SubjectKey,
        purpose: &str,
        state: &str,
    ) -> String {
        let (kind, purpose) = self.asked(subject, purpose);
        let cutoff = self.cutoff;
        let cutoff = self.instant(cutoff);
        let state = self.binder.bind(Param::Text(state.to_owned()));
        let found = self.value(row, &subject.path, |at| {
            let key = Self::key_of(at, subject);
            format!("custodian.sweep_consent({kind}, {purpose}, {key}, {cutoff})")
        });
        format!("(coalesce({found}, 'none') = {state})")
    }

    /// What is on record of the subject's consent to the purpose, as `subject::lend` writes it.
    pub fn consents(&mut self, row: &str, subject: &SubjectKey, purpose: &str) -> String {
        let (kind, purpose) = self.asked(subject, purpose);
        self.value(row, &subject.path, |at| {
            let key = Self::key_of(at, subject);
            format!("custodian.sweep_consents({kind}, {purpose}, {key})")
        })
    }

    fn asked(&mut self, subject: &SubjectKey, purpose: &str) -> (String, String) {
        (
            self.binder.bind(Param::Text(subject.kind.clone())),
            self.binder.bind(Param::Text(purpose.to_owned())),
        )
    }

    /// No purpose covers the group's cells any more: each has ended, or a maximum has passed.
    pub fn past(&mut self, row: &str, group: &Group) -> String {
        let parts: Vec<String> = group
            .covers
            .iter()
            .map(|cover| self.cover_ended(row, cover))
            .filter(|part| part != "true")
            .collect();
        let ended = self.or_erased(row, group, all(parts));
        if group.limits.is_empty() || ended == "true" {
            return ended;
        }
        let mut alternatives: Vec<String> = group
            .limits
            .iter()
            .map(|limit| self.limit_passed(row, limit))
            .chain([ended])
            .filter(|part| part != "false")
            .collect();
        alternatives.reverse();
        any(alternatives)
    }

    /// The maximum has passed.
    pub fn limit_passed(&mut self, row: &str, limit: &Limit) -> String {
        self.run_out(row, &limit.clock, limit.period)
    }

    /// The minimum or defence still keeps the cell.
    pub fn keep_in_force(&mut self, row: &str, keep: &Keep) -> String {
        let lapsed = self.run_out_with(row, &keep.clock, keep.period, &keep.suspensions);
        not(&lapsed)
    }

    /// Some minimum or defence keeps the group's cells.
    pub fn kept(&mut self, row: &str, group: &Group) -> String {
        let parts: Vec<String> = group
            .keeps
            .iter()
            .map(|keep| self.keep_in_force(row, keep))
            .collect();
        any(parts)
    }

    /// The row is held by one of `holds`.
    pub fn held_by(&mut self, row: &str, plan: &Plan, holds: &[&Hold]) -> String {
        let mut parts = Vec::new();
        let mut subjects: Vec<&[String]> = Vec::new();
        for hold in holds {
            match &hold.scope {
                HoldScope::Table { .. } => return "true".to_owned(),
                HoldScope::Subject { key, .. } => subjects.push(key),
                HoldScope::Rows { matching, .. } => {
                    let mut columns = Vec::new();
                    for (name, values) in matching {
                        let Some(column) = plan.columns.get(name) else {
                            // The hold cannot be read on this table: everything in it is held.
                            return "true".to_owned();
                        };
                        columns.push(
                            self.equals_any(&format!("{row}.{}", column.quoted), values.clone()),
                        );
                    }
                    parts.push(all(columns));
                }
            }
        }
        if !subjects.is_empty() {
            match &plan.subject {
                Some(subject) => parts.push(self.subject_in(row, subject, &subjects)),
                None => return "true".to_owned(),
            }
        }
        any(parts)
    }

    fn equals_any(&mut self, raw: &str, values: Vec<String>) -> String {
        let values = self.binder.bind(Param::TextArray(values));
        format!("((({raw}::text COLLATE pg_catalog.\"C\") = ANY ({values})) IS TRUE)")
    }

    pub(super) fn subject_in(
        &mut self,
        row: &str,
        subject: &SubjectKey,
        keys: &[&[String]],
    ) -> String {
        let width = subject.columns.len();
        if keys.iter().any(|key| key.len() != width) {
            // A hold whose key has another number of columns cannot be read: everything is held.
            return "true".to_owned();
        }
        self.along(row, &subject.path, |scope, at| {
            if let [column] = subject.columns.as_slice() {
                let values = keys.iter().filter_map(|key| key.first().cloned()).collect();
                return scope.equals_any(&format!("{at}.{}", column.quoted), values);
            }
            let arrays: Vec<String> = (0..width)
                .map(|position| {
                    let values = keys
                        .iter()
                        .filter_map(|key| key.get(position).cloned())
                        .collect();
                    scope.binder.bind(Param::TextArray(values))
                })
                .collect();
            let columns: Vec<String> = subject
                .columns
                .iter()
                .map(|column| format!("{at}.{}::text COLLATE pg_catalog.\"C\"", column.quoted))
                .collect();
            let names: Vec<String> = (1..=width).map(|n| format!("k{n}")).collect();
            format!(
                "((({}) IN (SELECT {} FROM unnest({}) AS keys ({}))) IS TRUE)",
                columns.join(", "),
                names.join(", "),
                arrays.join(", "),
                names.join(", ")
            )
        })
    }

    /// The holds that may lie on rows of a plan (of one leaf, where one is given).
    pub fn holds(&self, plan: &Plan, leaf: Option<&Leaf>) -> Vec<&'a Hold> {
        let policy = self.policy;
        policy
            .holds
            .iter()
            .filter(|hold| super::concerns(hold, plan, leaf))
            .collect()
    }

    /// The row is under any hold.
    pub fn held(&mut self, row: &str, plan: &Plan, leaf: Option<&Leaf>) -> String {
        let holds = self.holds(plan, leaf);
        let mut held = Vec::new();
        let mut everywhere = Vec::new();
        for hold in holds {
            let outside: Vec<String> = match (&hold.scope, leaf) {
                (HoldScope::Table { table } | HoldScope::Rows { table, .. }, None) => plan
                    .leaves
                    .iter()
                    .filter(|leaf| !leaf.within.contains(table))
                    .map(|leaf| leaf.id.to_string())
                    .collect(),
                _ => Vec::new(),
            };
            if outside.is_empty() {
                everywhere.push(hold);
                continue;
            }
            // It lies on some leaves only, and the row may be in any.
            let within = format!("{row}.tableoid <> ALL ('{{{}}}'::oid[])", outside.join(","));
            held.push(match self.held_by(row, plan, &[hold]).as_str() {
                "true" => within,
                matching => all([within, matching.to_owned()]),
            });
        }
        if !everywhere.is_empty() {
            match self.held_by(row, plan, &everywhere).as_str() {
                "true" => return "true".to_owned(),
                "false" => {}
                lies => held.push(lies.to_owned()),
            }
        }
        any(held)
    }

    /// Every cell is past and nothing keeps one; says nothing about holds and dependents.
    pub fn row_past(&mut self, row: &str, plan: &Plan) -> String {
        let past: Vec<String> = plan
            .groups
            .iter()
            .map(|group| self.past(row, group))
            .collect();
        all(past)
    }

    /// Some minimum or defence keeps a cell of the row.
    pub fn row_kept(&mut self, row: &str, plan: &Plan) -> String {
        let kept: Vec<String> = plan
            .groups
            .iter()
            .map(|group| self.kept(row, group))
            .filter(|part| part != "false")
            .collect();
        any(kept)
    }

    /// A row refers to this one of the plan's by the foreign key and is not itself due for deletion, or not gone yet where
    /// the row must stand alone.
    pub fn referenced(&mut self, row: &str, plan: &Plan, dependent: &Dependent) -> String {
        let key = &dependent.foreign_key;
        let alias = self.alias();
        let mut conditions: Vec<String> = is_referred_to(row, plan, key).into_iter().collect();
        for ((column, parent), operator) in key
            .columns
            .iter()
            .zip(&key.parent_columns)
            .zip(&key.operators)
        {
            conditions.push(format!(
                "{row}.{} {operator} {alias}.{}",
                parent.quoted, column.quoted
            ));
        }
        if dependent.reflexive {
            conditions.push(format!(
                "NOT ({alias}.tableoid = {row}.tableoid AND {alias}.ctid = {row}.ctid)"
            ));
        }
        // What was declared to go with the row has no run of its own.
        if let Some(plan) = &dependent.plan
            && (!self.alone || plan.declared)
        {
            let due = self.row_due(&alias, plan, None);
            conditions.push(not(&due));
        }
        format!(
            "EXISTS (SELECT FROM {} WHERE {})",
            from(&key.child_ident.quoted, key.child_partitioned, &alias),
            conditions.join(" AND ")
        )
    }

    /// The row is due for deletion.
    pub fn row_due(&mut self, row: &str, plan: &Plan, leaf: Option<&Leaf>) -> String {
        let free = self.row_free(row, plan, leaf);
        if plan.circle.is_empty() || free == "false" {
            return free;
        }
        let kept = self.kept_in_circle(row, plan);
        all([free, not(&kept)])
    }

    /// The row is due for deletion, as far as rows of the same table that refer to it let it.
    pub fn row_free(&mut self, row: &str, plan: &Plan, leaf: Option<&Leaf>) -> String {
        if !plan.delete_rows || plan.groups.is_empty() && !plan.declared {
            return "false".to_owned();
        }
        let mut parts = vec![self.row_past(row, plan)];
        if self.policy.erasing.is_some() && !plan.declared {
            parts.push(self.erased(row, plan));
        }
        let kept = self.row_kept(row, plan);
        parts.push(not(&kept));
        let held = self.held(row, plan, leaf);
        parts.push(not(&held));
        for dependent in &plan.dependents {
            let referenced = self.referenced(row, plan, dependent);
            parts.push(not(&referenced));
        }
        if parts.iter().any(|part| part == "false") {
            return "false".to_owned();
        }
        all(parts.into_iter().filter(|part| part != "true"))
    }
}
