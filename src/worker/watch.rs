//! Which rows are written behind a watermark: what the triggers that watch for them look at. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::model::{Clock, Group, Leaf, Plan, Policy, RelId, TypeClass};
use crate::policy::period::{Instant, Period};
use crate::policy::reach::Reach;
use crate::policy::render::{self, Due, rewritten};
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
    /// A column that says which period counts for the row, or by which others refer to it.
    Decides { column: i16 },
    /// A column by which others refer to the row, which may then go whatever its clock.
    Key { column: i16 },
    /// Rows are due as soon as they are written, whatever their clocks.
    Always,
    /// The clock of a row that one of these referred to, over the foreign keys at the beginning of the path, until it was
    /// deleted or its key changed: that row may go by then. `table` is the one whose rows wait so.
    Freed {
        path: String,
        class: TypeClass,
        /// [`ANY_TIME`]: whatever the clock says.
        seconds: i64,
        table: RelId,
    },
}

/// As the seconds of a clock: no clock is too late.
pub const ANY_TIME: i64 = i64::MIN;

/// What the triggers of a relation look at, by the names of its columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    clocks: Vec<(String, TypeClass, i64)>,
    distant: Vec<(String, TypeClass, i64)>,
    cells: Vec<String>,
    decide: Vec<String>,
    keys: Vec<String>,
    always: bool,
    /// Clocks of rows that these refer to: path, class, seconds, and the table whose rows wait for them to go.
    freed: Vec<(String, TypeClass, i64, RelId)>,
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
pub(super) fn at_least(period: Period) -> i64 {
    let days = i64::from(period.months) * 28 + i64::from(period.days);
    days.saturating_mul(86_400)
        .saturating_add(period.micros / 1_000_000)
}

/// The largest power of two that is not above `seconds`; 0 for less than one second.
pub(super) fn power_below(seconds: i64) -> i64 {
    match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => 1 << (63 - seconds.leading_zeros()).min(40),
        _ => 0,
    }
}

/// Whether a watermark narrows any statement of the plan.
fn is_narrowed(plan: &Plan, policy: &Policy, leaf: &Leaf, now: Instant) -> bool {
    let since = Reach::since(now);
    // There may be thousands, and the statements are not executed.
    let policy = &policy.with_holds(policy.holds.kinds().to_vec());
    render::steps(plan).into_iter().any(|step| {
        let all = Due::all(plan, step, leaf, policy, now);
        let after = Some(&since);
        Due { after, ..all }.count() != all.count()
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
    // Rows that go in circles are looked at whenever they are past.
    if plan.delete_rows && plan.circle.is_empty() {
        watch.referring(plan, now);
    }
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
        for name in &self.keys {
            let column = number(name)?;
            looks.push(Look::Key { column });
        }
        if self.always {
            looks.push(Look::Always);
        }
        for (path, class, seconds, table) in &self.freed {
            looks.push(Look::Freed {
                path: path.clone(),
                class: *class,
                seconds: *seconds,
                table: *table,
            });
        }
        Some(looks)
    }

    /// The columns whose clocks are watched.
    pub fn clocks(&self) -> impl Iterator<Item = &str> {
        self.clocks.iter().map(|(name, ..)| name.as_str())
    }

    /// The tables whose rows wait for some of these to go.
    pub fn waited_for_by(&self) -> BTreeSet<RelId> {
        self.freed.iter().map(|(.., table)| *table).collect()
    }

    /// Watches for these to go, for a clock of rows of `table` to which a path of keys leads.
    pub(super) fn frees(&mut self, path: &str, class: TypeClass, seconds: i64, table: RelId) {
        let known = self
            .freed
            .iter_mut()
            .find(|(known, .., of)| known == path && *of == table);
        match known {
            Some((_, _, known, _)) => *known = seconds.min(*known),
            None => self.freed.push((path.to_owned(), class, seconds, table)),
        }
    }

    /// Watches a column by which other rows refer to these: when it changes, nothing refers to the row any more.
    pub(super) fn key(&mut self, name: &str, any_time: bool) {
        let columns = match any_time {
            true => &mut self.keys,
            false => &mut self.decide,
        };
        if !columns.iter().any(|known| known == name) {
            columns.push(name.to_owned());
        }
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
            Look::Key { column } => format!("key:{column}"),
            Look::Always => "always".to_owned(),
            Look::Freed {
                path,
                class,
                seconds,
                table,
            } => format!("freed:{}:{seconds}:{table}:{path}", kind(*class)),
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
            "key" => Look::Key {
                column: rest.parse().ok()?,
            },
            "always" if rest.is_empty() => Look::Always,
            "freed" => {
                let (class, seconds) = (class(part()?)?, part()?.parse().ok()?);
                let (table, path) = part()?.split_once(':')?;
                Look::Freed {
                    path: path.to_owned(),
                    class,
                    seconds,
                    table: table.parse().ok()?,
                }
            }
            _ => return None,
        })
    }

    /// Whether both look at the same thing; seconds aside.
    pub fn is_about(&self, other: &Look) -> bool {
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
            (
                Look::Freed {
                    path, class, table, ..
                },
                Look::Freed {
                    path: of,
                    class: known,
                    table: waiting,
                    ..
                },
            ) => path == of && class == known && table == waiting,
            (one, other) => one == other,
        }
    }

    fn seconds(&self) -> i64 {
        match self {
            Look::Clock { seconds, .. }
            | Look::Distant { seconds, .. }
            | Look::Freed { seconds, .. } => *seconds,
            _ => 0,
        }
    }

    /// Whether it is about rows that go, rather than rows that are written.
    pub const fn is_of_freed(&self) -> bool {
        matches!(self, Look::Freed { .. })
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

    fn freed(path: &str, seconds: i64) -> Look {
        Look::Freed {
            path: path.to_owned(),
            class: TypeClass::TimestampTz,
            seconds,
            table: 7,
        }
    }

    #[test]
    fn arguments_are_read_back() {
        let looks = [
            clock(3, 64),
            distant(8),
            Look::Cell { column: 4 },
            Look::Decides { column: 5 },
            Look::Key { column: 6 },
            Look::Always,
            freed("k:1.at", ANY_TIME),
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
}
