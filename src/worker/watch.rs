//! Which rows are written behind a watermark: the conditions of the triggers that watch for them. Pure.

use crate::policy::model::{Clock, Group, Leaf, Plan, Policy, TypeClass};
use crate::policy::period::{Instant, Period};
use crate::policy::reach::Reach;
use crate::policy::render::{self, rewritten};

/// A clock in the row, and how long after it nothing on it can be due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    pub column: String,
    pub quoted: String,
    pub class: TypeClass,
    /// Seconds: a power of two not above the shortest period that runs from the clock, so that small changes of
    /// a period leave the trigger as it is.
    pub seconds: i64,
}

/// What the triggers of a table watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    pub clocks: Vec<Watched>,
    /// Quoted names of the columns whose cells are rewritten: a new value in an old row is due at once.
    pub cells: Vec<String>,
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

/// What to watch for in the leaves of a plan; `None` where no watermark narrows what is looked at.
pub fn watch(plan: &Plan, policy: &Policy, now: Instant) -> Option<Watch> {
    let leaf = plan.leaves.first()?;
    if !is_narrowed(plan, policy, leaf, now) {
        return None;
    }
    let mut clocks: Vec<Watched> = Vec::new();
    let mut add = |clock: &Clock, period: Period| {
        if !clock.path.is_empty() {
            return;
        }
        let seconds = power_below(at_least(period));
        let name = &clock.column.name;
        match clocks.iter_mut().find(|watched| watched.column == *name) {
            Some(watched) => watched.seconds = watched.seconds.min(seconds),
            None => clocks.push(Watched {
                column: name.clone(),
                quoted: clock.column.quoted.clone(),
                class: clock.class,
                seconds,
            }),
        }
    };
    for Group {
        covers,
        keeps,
        limits,
        ..
    } in &plan.groups
    {
        for cover in covers {
            for entry in &cover.periods {
                add(&cover.clock, entry.period);
            }
        }
        for keep in keeps {
            add(&keep.clock, keep.period);
        }
        for limit in limits {
            add(&limit.clock, limit.period);
        }
    }
    let mut cells: Vec<String> = plan
        .groups
        .iter()
        .flat_map(rewritten)
        .map(|column| column.ident.quoted.clone())
        .collect();
    cells.sort();
    cells.dedup();
    (!clocks.is_empty()).then_some(Watch { clocks, cells })
}

fn any(parts: Vec<String>) -> String {
    format!("({})", parts.join(" OR "))
}

impl Watch {
    /// The new row's clock may be past already. `now()` is the beginning of the transaction: a row that becomes
    /// past while it runs lies behind no watermark, since those wait for it.
    fn past(&self) -> String {
        any(self
            .clocks
            .iter()
            .map(|watched| {
                let raw = format!("NEW.{}", watched.quoted);
                let instant = match watched.class {
                    TypeClass::Date => format!("({raw}::timestamp AT TIME ZONE 'UTC')"),
                    TypeClass::Timestamp => format!("({raw} AT TIME ZONE 'UTC')"),
                    _ => raw,
                };
                format!(
                    "({instant} <= now() - make_interval(secs => {}))",
                    watched.seconds
                )
            })
            .collect())
    }

    /// The condition after an INSERT.
    pub fn inserted(&self) -> String {
        self.past()
    }

    /// The condition after an UPDATE: a clock or a cell has changed, and the row may be past.
    pub fn updated(&self) -> String {
        let mut changed: Vec<String> = self
            .clocks
            .iter()
            .map(|watched| format!("(OLD.{0} IS DISTINCT FROM NEW.{0})", watched.quoted))
            .collect();
        // As text, since not every type has an equality; what was emptied is no new value.
        changed.extend(self.cells.iter().map(|quoted| {
            format!(
                "(NEW.{quoted} IS NOT NULL AND NEW.{quoted}::text COLLATE \"C\" \
                 IS DISTINCT FROM OLD.{quoted}::text COLLATE \"C\")"
            )
        }));
        format!("({} AND {})", self.past(), any(changed))
    }

    /// What the trigger function is told about the clocks, with their attribute numbers in the leaf: `number`
    /// finds them. And, so that a trigger made for other cells is told from this one, the cells.
    pub fn args(&self, number: impl Fn(&str) -> Option<i16>) -> Option<Vec<String>> {
        let mut args = Vec::new();
        for watched in &self.clocks {
            let class = match watched.class {
                TypeClass::Date => "date",
                _ => "timestamp",
            };
            args.push(format!(
                "{}:{class}:{}",
                number(&watched.column)?,
                watched.seconds
            ));
        }
        args.push(self.cells.join(","));
        Some(args)
    }
}

/// Reads back one argument of [`Watch::args`]: attribute number, class, seconds. `None` for the one on cells.
pub fn clock_arg(arg: &str) -> Option<(i16, TypeClass, i64)> {
    let mut parts = arg.split(':');
    let attnum = parts.next()?.parse().ok()?;
    let class = match parts.next()? {
        "date" => TypeClass::Date,
        "timestamp" => TypeClass::Timestamp,
        _ => return None,
    };
    let seconds = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some((attnum, class, seconds))
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

    fn watch() -> Watch {
        Watch {
            clocks: vec![Watched {
                column: "Seen:at".to_owned(),
                quoted: "\"Seen:at\"".to_owned(),
                class: TypeClass::Timestamp,
                seconds: 64,
            }],
            cells: vec!["email".to_owned()],
        }
    }

    #[test]
    fn arguments_are_read_back() {
        let args = watch().args(|_| Some(3)).expect("the column is there");
        let clocks: Vec<_> = args.iter().filter_map(|arg| clock_arg(arg)).collect();
        assert_eq!(clocks, [(3, TypeClass::Timestamp, 64)]);
        assert_eq!(watch().args(|_| None), None);
        assert_eq!(clock_arg("email"), None);
        assert_eq!(clock_arg("1:date:2:3"), None);
    }

    #[test]
    fn conditions_name_columns_as_the_server_quotes_them() {
        assert_eq!(
            watch().inserted(),
            "(((NEW.\"Seen:at\" AT TIME ZONE 'UTC') <= now() - make_interval(secs => 64)))"
        );
        assert!(
            watch()
                .updated()
                .contains("(OLD.\"Seen:at\" IS DISTINCT FROM NEW.\"Seen:at\")")
        );
    }
}
