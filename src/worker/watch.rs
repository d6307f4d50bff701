//! Which rows are written behind a watermark: what the triggers that watch for them look at. Pure.

use std::collections::BTreeMap;

use crate::policy::model::{Clock, Group, Leaf, Plan, Policy, RelId, TypeClass};
use crate::policy::period::{Instant, Period};
use crate::policy::reach::Reach;
use crate::policy::render::{self, rewritten};
use crate::tag::names;

/// One thing that the triggers of a relation look at. Columns are told by their numbers, as the triggers' arguments are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// A clock in the row. Nothing on it can be due before so many seconds have passed: a power of two not above the
    /// shortest period that runs from it, so that small changes of a period leave the trigger as it is.
    Clock {
        column: i16,
        class: TypeClass,
        seconds: i64,
    },
    /// The same for a clock of a row that this one refers to, over any number of foreign keys.
    Distant {
        path: String,
        class: TypeClass,
        seconds: i64,
    },
    /// A cell that is rewritten: a new value in an old row is due at once.
    Cell { column: i16 },
    /// A column that says which period counts for the row.
    Decides { column: i16 },
    /// Rows are due as soon as they are written, whatever their clocks.
    Always,
}

/// What the triggers of a relation look at, by the names of its columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    clocks: Vec<(String, TypeClass, i64)>,
    distant: Vec<(String, TypeClass, i64)>,
    cells: Vec<String>,
    decide: Vec<String>,
    always: bool,
}

/// What is to be watched for a plan's watermarks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// In its leaves.
    pub own: Rows,
    /// In the tables that its clocks lead through, and at or below these.
    pub others: BTreeMap<RelId, Rows>,
}

/// Adds an entry, or lowers the seconds of the one that is there.
fn add(entries: &mut Vec<(String, TypeClass, i64)>, name: &str, class: TypeClass, seconds: i64) {
    match entries.iter_mut().find(|(known, ..)| known == name) {
        Some((.., known)) => *known = seconds.min(*known),
        None => entries.push((name.to_owned(), class, seconds)),
    }
}

impl Watch {
    /// Watches a clock, and whatever leads to it, for a period that runs from it.
    fn clock(&mut self, clock: &Clock, period: Period) {
        let seconds = power_below(at_least(period));
        let name = &clock.column.name;
        if clock.path.is_empty() {
            add(&mut self.own.clocks, name, clock.class, seconds);
        }
        for at in 0..clock.path.len() {
            let steps = clock.path.iter().skip(at);
            let mut parts: Vec<String> = steps.map(|hop| hop.foreign_key.clone()).collect();
            parts.push(name.clone());
            let rows = match at.checked_sub(1).and_then(|before| clock.path.get(before)) {
                None => &mut self.own,
                Some(hop) => self.others.entry(hop.parent).or_default(),
            };
            let path = names::clock_text(&parts);
            add(&mut rows.distant, &path, clock.class, seconds);
        }
        if let Some(last) = clock.path.last() {
            let rows = self.others.entry(last.parent).or_default();
            add(&mut rows.clocks, name, clock.class, seconds);
        }
    }
}

/// A lower bound of a period, in seconds: a month has at least 28 days.
fn at_least(period: Period) -> i64 {
    let days = i64::from(period.months) * 28 + i64::from(period.days);
    days.saturating_mul(86_400)
        .saturating_add(period.micros / 1_000_000)
}

/// The largest power of two that is not above `seconds`; 0 for less than one second.
fn power_below(seconds: i64) -> i64 {
    match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => 1 << (63 - seconds.leading_zeros()).min(40),
        _ => 0,
    }
}

/// Whether a watermark narrows any statement of the plan.
fn is_narrowed(plan: &Plan, policy: &Policy, leaf: &Leaf, now: Instant) -> bool {
    render::steps(plan).iter().any(|step| {
        render::count(plan, step, leaf, policy, now, Some(&Reach::since(now)))
            != render::count(plan, step, leaf, policy, now, None)
    })
}

/// What to watch for a plan; `None` where no watermark narrows what is looked at.
pub fn watch(plan: &Plan, policy: &Policy, now: Instant) -> Option<Watch> {
    let leaf = plan.leaves.first()?;
    if !is_narrowed(plan, policy, leaf, now) {
        return None;
    }
    let mut watch = Watch::default();
    for Group {
        covers,
        keeps,
        limits,
        ..
    } in &plan.groups
    {
        for cover in covers {
            for entry in &cover.periods {
                watch.clock(&cover.clock, entry.period);
            }
        }
        for keep in keeps {
            watch.clock(&keep.clock, keep.period);
        }
        for limit in limits {
            watch.clock(&limit.clock, limit.period);
        }
        let over = |ended: Option<Instant>| ended.is_some_and(|ended| ended <= now);
        watch.own.always |= covers.iter().all(|cover| over(cover.ended_at));
    }
    let mut cells: Vec<String> = plan
        .groups
        .iter()
        .flat_map(rewritten)
        .map(|column| column.ident.name.clone())
        .collect();
    cells.sort();
    cells.dedup();
    watch.own.cells = cells;
    let collected = plan.collected.iter().filter(|clock| clock.path.is_empty());
    watch.own.decide = collected.map(|clock| clock.column.name.clone()).collect();
    Some(watch)
}

impl Rows {
    /// What is looked at in a relation whose columns `number` finds; `None` when one is missing.
    pub fn looks(&self, number: impl Fn(&str) -> Option<i16>) -> Option<Vec<Look>> {
        let mut looks = Vec::new();
        for (name, class, seconds) in &self.clocks {
            looks.push(Look::Clock {
                column: number(name)?,
                class: *class,
                seconds: *seconds,
            });
        }
        for (path, class, seconds) in &self.distant {
            looks.push(Look::Distant {
                path: path.clone(),
                class: *class,
                seconds: *seconds,
            });
        }
        for name in &self.cells {
            let column = number(name)?;
            looks.push(Look::Cell { column });
        }
        for name in &self.decide {
            let column = number(name)?;
            looks.push(Look::Decides { column });
        }
        if self.always {
            looks.push(Look::Always);
        }
        Some(looks)
    }

    /// The columns whose clocks are watched.
    pub fn clocks(&self) -> impl Iterator<Item = &str> {
        self.clocks.iter().map(|(name, ..)| name.as_str())
    }

    /// The clocks over foreign keys that are watched.
    pub fn distant(&self) -> impl Iterator<Item = &str> {
        self.distant.iter().map(|(path, ..)| path.as_str())
    }
}

impl Look {
    /// The argument of a trigger.
    pub fn arg(&self) -> String {
        let kind = |class: TypeClass| match class {
            TypeClass::Date => "date",
            TypeClass::Timestamp => "timestamp",
            _ => "timestamptz",
        };
        match self {
            Look::Clock {
                column,
                class,
                seconds,
            } => format!("clock:{column}:{}:{seconds}", kind(*class)),
            Look::Distant {
                path,
                class,
                seconds,
            } => format!("distant:{}:{seconds}:{path}", kind(*class)),
            Look::Cell { column } => format!("cell:{column}"),
            Look::Decides { column } => format!("decides:{column}"),
            Look::Always => "always".to_owned(),
        }
    }

    /// Reads back what [`Look::arg`] wrote.
    pub fn read(arg: &str) -> Option<Look> {
        let class = |text: &str| match text {
            "date" => Some(TypeClass::Date),
            "timestamp" => Some(TypeClass::Timestamp),
            "timestamptz" => Some(TypeClass::TimestampTz),
            _ => None,
        };
        let (what, rest) = arg.split_once(':').unwrap_or((arg, ""));
        let mut parts = rest.splitn(3, ':');
        let mut part = || parts.next();
        Some(match what {
            "clock" => Look::Clock {
                column: part()?.parse().ok()?,
                class: class(part()?)?,
                seconds: part()?.parse().ok()?,
            },
            "distant" => Look::Distant {
                class: class(part()?)?,
                seconds: part()?.parse().ok()?,
                path: part()?.to_owned(),
            },
            "cell" => Look::Cell {
                column: rest.parse().ok()?,
            },
            "decides" => Look::Decides {
                column: rest.parse().ok()?,
            },
            "always" if rest.is_empty() => Look::Always,
            _ => return None,
        })
    }

    /// Whether both look at the same thing; seconds aside.
    fn is_about(&self, other: &Look) -> bool {
        match (self, other) {
            (
                Look::Clock { column, class, .. },
                Look::Clock {
                    column: of,
                    class: known,
                    ..
                },
            ) => column == of && class == known,
            (
                Look::Distant { path, class, .. },
                Look::Distant {
                    path: of,
                    class: known,
                    ..
                },
            ) => path == of && class == known,
            (one, other) => one == other,
        }
    }

    fn seconds(&self) -> i64 {
        match self {
            Look::Clock { seconds, .. } | Look::Distant { seconds, .. } => *seconds,
            _ => 0,
        }
    }
}

/// How far what is installed goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Covers {
    Less,
    /// Everything for longer periods than there are now.
    LongerPeriods,
    Everything,
}

/// Whether `installed` looks at all that is wanted.
pub fn covers(installed: &[Look], wanted: &[Look]) -> Covers {
    let mut covers = Covers::Everything;
    for look in wanted {
        match installed.iter().find(|known| known.is_about(look)) {
            None => return Covers::Less,
            Some(known) if known.seconds() > look.seconds() => covers = Covers::LongerPeriods,
            Some(_) => {}
        }
    }
    covers
}

/// What looks at everything that either does.
pub fn both(one: Vec<Look>, other: &[Look]) -> Vec<Look> {
    let mut looks = one;
    for look in other {
        match looks.iter_mut().find(|known| known.is_about(look)) {
            Some(known) if known.seconds() > look.seconds() => *known = look.clone(),
            Some(_) => {}
            None => looks.push(look.clone()),
        }
    }
    looks
}

fn any(parts: impl IntoIterator<Item = String>) -> String {
    let parts: Vec<String> = parts.into_iter().collect();
    if parts.is_empty() {
        return "false".to_owned();
    }
    format!("({})", parts.join(" OR "))
}

fn all(parts: impl IntoIterator<Item = String>) -> String {
    let parts: Vec<String> = parts.into_iter().collect();
    format!("({})", parts.join(" AND "))
}

/// The conditions of a relation's triggers, after an INSERT and after an UPDATE. `quoted` gives a column's name as SQL
/// has it, `starts` those of the columns that the first foreign key of a path is on. `None` when one is missing.
pub fn conditions(
    looks: &[Look],
    quoted: impl Fn(i16) -> Option<String>,
    starts: impl Fn(&str) -> Option<Vec<String>>,
) -> Option<(String, String)> {
    // The new row's clock may be past already. `now()` is the beginning of the transaction: a row that becomes past
    // while it runs lies behind no watermark, since those wait for it.
    let mut past: Vec<String> = Vec::new();
    let mut changed: Vec<String> = Vec::new();
    // It refers to a row whose clock may be past.
    let mut refers: Vec<String> = Vec::new();
    for look in looks {
        match look {
            Look::Clock {
                column,
                class,
                seconds,
            } => {
                let column = quoted(*column)?;
                let raw = format!("NEW.{column}");
                let instant = match class {
                    TypeClass::Date => format!("({raw}::timestamp AT TIME ZONE 'UTC')"),
                    TypeClass::Timestamp => format!("({raw} AT TIME ZONE 'UTC')"),
                    _ => raw,
                };
                past.push(format!(
                    "({instant} <= now() - make_interval(secs => {seconds}))"
                ));
                changed.push(format!("(OLD.{column} IS DISTINCT FROM NEW.{column})"));
            }
            Look::Distant { path, .. } => {
                let starts = starts(path)?;
                refers.push(all(starts
                    .iter()
                    .map(|column| format!("NEW.{column} IS NOT NULL"))));
                // As text, since not every type has an equality.
                changed.extend(starts.iter().map(|column| differs(column)));
            }
            Look::Cell { column } => {
                let column = quoted(*column)?;
                // What was emptied is no new value.
                changed.push(format!(
                    "(NEW.{column} IS NOT NULL AND {})",
                    differs(&column)
                ));
            }
            Look::Decides { column } => {
                let column = quoted(*column)?;
                changed.push(format!("(OLD.{column} IS DISTINCT FROM NEW.{column})"));
            }
            Look::Always => past.push("true".to_owned()),
        }
    }
    let written = any(past.into_iter().chain(refers));
    let updated = all([written.clone(), any(changed)]);
    Some((written, updated))
}

fn differs(column: &str) -> String {
    format!("(NEW.{column}::text COLLATE \"C\" IS DISTINCT FROM OLD.{column}::text COLLATE \"C\")")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_is_never_above_the_period() {
        for period in [Period::months(1), Period::days(7), Period::months(36)] {
            let seconds = power_below(at_least(period));
            assert!(seconds <= at_least(period) && seconds * 2 > at_least(period));
        }
        assert_eq!(power_below(at_least(Period::default())), 0);
        assert_eq!(power_below(-5), 0);
    }

    #[test]
    fn a_period_that_changes_a_little_keeps_its_trigger() {
        assert_eq!(
            power_below(at_least(Period::days(100))),
            power_below(at_least(Period::days(120)))
        );
    }

    fn clock(column: i16, seconds: i64) -> Look {
        Look::Clock {
            column,
            class: TypeClass::Timestamp,
            seconds,
        }
    }

    fn distant(seconds: i64) -> Look {
        Look::Distant {
            path: "a:b.\"Seen:at\"".to_owned(),
            class: TypeClass::Date,
            seconds,
        }
    }

    #[test]
    fn arguments_are_read_back() {
        let looks = [
            clock(3, 64),
            distant(8),
            Look::Cell { column: 4 },
            Look::Decides { column: 5 },
            Look::Always,
        ];
        for look in looks {
            assert_eq!(Look::read(&look.arg()), Some(look));
        }
        for wrong in ["", "clock:1:date", "clock:x:date:2", "cell:", "always:1"] {
            assert_eq!(Look::read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_installed_for_one_plan_stays_for_another() {
        let installed = vec![clock(3, 64), distant(8)];
        assert_eq!(covers(&installed, &[clock(3, 128)]), Covers::Everything);
        assert_eq!(covers(&installed, &[clock(3, 32)]), Covers::LongerPeriods);
        assert_eq!(covers(&installed, &[clock(4, 64)]), Covers::Less);
        assert_eq!(
            both(installed, &[clock(3, 32), clock(4, 1), distant(16)]),
            [clock(3, 32), distant(8), clock(4, 1)]
        );
    }

    #[test]
    fn conditions_name_columns_as_the_server_quotes_them() {
        let quoted = |column: i16| (column == 3).then(|| "\"Seen:at\"".to_owned());
        let starts = |_: &str| Some(vec!["customer".to_owned()]);
        let found = conditions(&[clock(3, 64)], quoted, starts).expect("the column is there");
        let past = "(((NEW.\"Seen:at\" AT TIME ZONE 'UTC') <= now() - make_interval(secs => 64)))";
        assert_eq!(found.0, past);
        assert_eq!(
            found.1,
            format!("({past} AND ((OLD.\"Seen:at\" IS DISTINCT FROM NEW.\"Seen:at\")))")
        );
        assert_eq!(conditions(&[clock(4, 64)], quoted, starts), None);
        let found = conditions(&[distant(8)], quoted, starts).expect("nothing is missing");
        assert_eq!(found.0, "((NEW.customer IS NOT NULL))");
        assert_eq!(
            conditions(&[], quoted, starts),
            Some(("false".to_owned(), "(false AND false)".to_owned()))
        );
    }
}
