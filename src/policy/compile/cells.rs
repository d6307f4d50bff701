//! Resolves the tag of one column: its purposes, clock, minimums and method. Pure.

use crate::anonymize::fits::{fits, holds_paths};
use crate::anonymize::method::Method;
use crate::error::Error;
use crate::policy::compile::connections::clock_texts;
use crate::policy::compile::{Compiler, Context, deletes, path, period};
use crate::policy::model::{
    Clock, Column, Cover, Disposal, Keep, Limit, PlannedColumn, Severity, SubjectKey, Table,
};
use crate::policy::period::never_shorter;
use crate::policy::subject_use;
use crate::tag::grammar::{ColumnTag, NullClock};
use crate::tag::names;

/// A resolved cell: its group's decision and its own column.
pub(super) struct Cell {
    pub covers: Vec<Cover>,
    pub keeps: Vec<Keep>,
    pub limits: Vec<Limit>,
    pub column: PlannedColumn,
}

/// Why a tag is not resolved, and what to do.
pub(super) struct Unresolved {
    pub problem: String,
    pub remedy: String,
}

pub(super) fn unresolved(problem: impl Into<String>, remedy: &str) -> Unresolved {
    Unresolved {
        problem: problem.into(),
        remedy: remedy.to_owned(),
    }
}

fn misfit(error: Error) -> Unresolved {
    Unresolved {
        problem: error.message,
        remedy: error.hint.unwrap_or_default(),
    }
}

/// A document stays for as long as anything that is tagged in it does.
fn keep_inside(
    whole: &mut Result<Cell, Unresolved>,
    inside: &[(String, Result<Cell, Unresolved>)],
) {
    for (name, cell) in inside {
        match (&mut *whole, cell) {
            (Err(_), _) => return,
            (Ok(_), Err(_)) => {
                *whole = Err(unresolved(
                    format!("the tag of {name}, which lies in it, is not resolved"),
                    "Correct that tag.",
                ));
            }
            (Ok(whole), Ok(cell)) => {
                let covers = cell.covers.iter();
                for cover in covers {
                    if !whole.covers.contains(cover) {
                        whole.covers.push(cover.clone());
                    }
                }
                for keep in &cell.keeps {
                    if !whole.keeps.contains(keep) {
                        whole.keeps.push(keep.clone());
                    }
                }
                whole.limits.retain(|limit| cell.limits.contains(limit));
            }
        }
    }
}

/// Laws that contradict each other: what one forbids to keep, another forbids to destroy. Where the clocks differ
/// it depends on the row, and previews count those.
fn conflicts(context: &mut Context, name: &str, keeps: &[Keep], limits: &[Limit]) {
    for limit in limits {
        let longer = keeps
            .iter()
            .filter(|keep| keep.clock == limit.clock && !never_shorter(keep.period, limit.period));
        for keep in longer {
            context.find(
                Severity::Warning,
                "maximum-below-minimum",
                Some(name),
                format!(
                    "maximum \"{}\" ({}) is shorter than \"{}\" ({}): it is blocked until the latter has passed, not destroyed",
                    limit.maximum, limit.citation, keep.minimum, keep.citation
                ),
                "Have a lawyer decide which of the two applies, and take the other off the tag.",
            );
        }
    }
}

impl Compiler<'_> {
    /// The cells of a column, each under its name: its own, and those inside its documents.
    pub(super) fn column_cells(
        &self,
        context: &mut Context,
        column: &str,
        tag: &ColumnTag,
        subject: Option<&SubjectKey>,
    ) -> Vec<(String, Result<Cell, Unresolved>)> {
        let mut cells: Vec<(String, Result<Cell, Unresolved>)> = tag
            .cells()
            .map(|(path, tag)| {
                let name = names::cell(column, path);
                let cell = self.cell(context, column, path, &name, tag, subject);
                (name, cell)
            })
            .collect();
        if let Some(((_, whole), inside)) = cells.split_first_mut()
            && !tag.derived
        {
            keep_inside(whole, inside);
        }
        cells
    }

    fn cell(
        &self,
        context: &mut Context,
        column: &str,
        path: &[String],
        name: &str,
        tag: &ColumnTag,
        subject: Option<&SubjectKey>,
    ) -> Result<Cell, Unresolved> {
        let table = context.table;
        let column = table
            .column(column)
            .ok_or_else(|| unresolved("the column does not exist", "Clear the label."))?;
        if !path.is_empty() {
            holds_paths(column).map_err(misfit)?;
        }
        let clock = self.clock_of(table, tag)?;
        let covers = self.covers(context, name, tag, &clock, subject)?;
        let keeps = self.keeps(table, tag, &clock)?;
        let limits = self.limits(table, tag, &clock)?;
        conflicts(context, name, &keeps, &limits);
        let disposal = match &tag.on_expiry {
            Some(method) => {
                self.check_method(context, column, path, name, method)?;
                if let Some((why, remedy)) = &table.refused.update {
                    return Err(unresolved(why.clone(), remedy));
                }
                Disposal::Anonymize(method.clone())
            }
            None if deletes(table) => match &table.refused.delete {
                Some((why, remedy)) => return Err(unresolved(why.clone(), remedy)),
                None => Disposal::WithRow,
            },
            None => {
                return Err(unresolved(
                    "it goes with its row, and the table's tag keeps rows",
                    "Give the column on_expiry, or the table on_expiry => 'delete'.",
                ));
            }
        };
        Ok(Cell {
            covers,
            keeps,
            limits,
            column: PlannedColumn {
                ident: column.ident.clone(),
                path: path.to_vec(),
                type_name: column.type_name.clone(),
                typmod: column.typmod,
                class: column.class,
                not_null: column.not_null,
                disposal,
            },
        })
    }

    fn null_means_not_started(table: &Table) -> bool {
        table.tag.as_ref().and_then(|tag| tag.null_clock) == Some(NullClock::NotStarted)
    }

    fn resolve_clock(&self, table: &Table, text: &str) -> Result<Clock, Unresolved> {
        path::clock(
            self.schema,
            table,
            text,
            Self::null_means_not_started(table),
        )
        .map_err(|why| {
            unresolved(
                why,
                "Name a date or timestamp column, or fk_name.column for one of a referenced row.",
            )
        })
    }

    fn clock_of(&self, table: &Table, tag: &ColumnTag) -> Result<Clock, Unresolved> {
        let text = tag
            .clock
            .as_ref()
            .or_else(|| table.tag.as_ref().and_then(|tag| tag.clock.as_ref()))
            .ok_or_else(|| {
                unresolved(
                    "neither the column nor its table names a clock",
                    "Name the clock with custodian.tag_table(…, clock => …).",
                )
            })?;
        self.resolve_clock(table, text)
    }

    fn covers(
        &self,
        context: &mut Context,
        name: &str,
        tag: &ColumnTag,
        clock: &Clock,
        subject: Option<&SubjectKey>,
    ) -> Result<Vec<Cover>, Unresolved> {
        let table = context.table;
        let collected = match table.tag.as_ref().and_then(|tag| tag.collected.as_ref()) {
            Some(text) => Some(self.resolve_clock(table, text)?),
            None => None,
        };
        let mut names: Vec<&String> = tag.purposes.iter().collect();
        names.sort();
        names.dedup();
        let mut covers = Vec::new();
        let mut unknown = Vec::new();
        for purpose in names {
            let Some(known) = self
                .policy
                .purposes
                .get(purpose)
                .filter(|known| !known.periods.is_empty())
            else {
                unknown.push(purpose.as_str());
                continue;
            };
            let (periods, lengthened) = period::counting(&known.periods, collected.is_some());
            if lengthened && collected.is_none() {
                context.find(
                    Severity::Warning,
                    "period-lengthened",
                    Some(name),
                    format!(
                        "the period of purpose \"{purpose}\" was lengthened, and the table does not say when a row was collected: the shortest period ever applies"
                    ),
                    "Name the column with custodian.tag_table(…, collected => …).",
                );
            }
            if known.consent && subject.is_none() {
                context.find(
                    Severity::Warning,
                    "consent-without-subject",
                    Some(name),
                    format!(
                        "purpose \"{purpose}\" is based on consent, and the table's tag names no subject whose consent could be asked for: it covers until its period has passed"
                    ),
                    "Say whom its rows are about with custodian.tag_table(…, subject_kind => …).",
                );
            }
            let bounded = periods.iter().any(|entry| entry.collected_before.is_some());
            covers.push(Cover {
                purpose: purpose.clone(),
                periods,
                history: known.periods.clone(),
                clock: clock.clone(),
                collected: if bounded { collected.clone() } else { None },
                ended_at: known.ended_at,
                consent: subject.filter(|_| known.consent).cloned(),
                ends_on_erasure: (known.consent || !known.required)
                    && subject
                        .is_some_and(|subject| self.policy.erased_kinds.contains(&subject.kind)),
            });
        }
        if covers.is_empty() {
            return Err(unresolved(
                if unknown.is_empty() {
                    "it names no purpose".to_owned()
                } else {
                    format!("none of its purposes is defined: {}", unknown.join(", "))
                },
                "Define the purpose with custodian.define_purpose(), or tag the column again.",
            ));
        }
        if !unknown.is_empty() {
            context.find(
                Severity::Warning,
                "purpose-unknown",
                Some(name),
                format!("its tag names purposes that are not defined: {}", unknown.join(", ")),
                "Define them with custodian.define_purpose(), or tag the column again: only the defined ones cover it.",
            );
        }
        Ok(covers)
    }

    fn keeps(
        &self,
        table: &Table,
        tag: &ColumnTag,
        clock: &Clock,
    ) -> Result<Vec<Keep>, Unresolved> {
        let mut keeps = Vec::new();
        for reference in &tag.minimums {
            let minimum = self.policy.minimums.get(&reference.name).ok_or_else(|| {
                unresolved(
                    format!("minimum \"{}\" is not defined", reference.name),
                    "Define it with custodian.require_minimum().",
                )
            })?;
            let clock = match &reference.clock {
                Some(text) => self.resolve_clock(table, text)?,
                None => clock.clone(),
            };
            keeps.push(Keep {
                minimum: minimum.name.clone(),
                citation: minimum.citation.clone(),
                period: minimum.period,
                clock,
                defence: minimum.defence,
                suspensions: minimum.suspensions.clone(),
            });
        }
        keeps.sort_by(|one, other| one.minimum.cmp(&other.minimum));
        Ok(keeps)
    }

    fn limits(
        &self,
        table: &Table,
        tag: &ColumnTag,
        clock: &Clock,
    ) -> Result<Vec<Limit>, Unresolved> {
        let mut limits = Vec::new();
        for reference in &tag.maximums {
            let maximum = self.policy.maximums.get(&reference.name).ok_or_else(|| {
                unresolved(
                    format!("maximum \"{}\" is not defined", reference.name),
                    "Define it with custodian.require_maximum().",
                )
            })?;
            limits.push(Limit {
                maximum: maximum.name.clone(),
                citation: maximum.citation.clone(),
                period: maximum.period,
                clock: match &reference.clock {
                    Some(text) => self.resolve_clock(table, text)?,
                    None => clock.clone(),
                },
            });
        }
        limits.sort_by(|one, other| one.maximum.cmp(&other.maximum));
        Ok(limits)
    }

    fn check_method(
        &self,
        context: &mut Context,
        column: &Column,
        path: &[String],
        name: &str,
        method: &Method,
    ) -> Result<(), Unresolved> {
        let table = context.table;
        fits(method, column, path).map_err(misfit)?;
        if let Some(user) = self.clock_user(table, column) {
            return Err(unresolved(
                format!("it is a clock of \"{user}\", and changing it would change what is due"),
                "Leave out on_expiry and let the value go with its row, or name another clock.",
            ));
        }
        if column.in_check {
            context.find(
                Severity::Warning,
                "check-constraint",
                Some(name),
                "a CHECK constraint looks at it, and may refuse what its method writes".to_owned(),
                "Make sure that the constraint accepts the disposed value.",
            );
        }
        if path.is_empty()
            && let Some(used) = subject_use::of(table.tag.as_ref(), &column.ident.name, method)
        {
            context.find(
                Severity::Warning,
                "subject-disposed",
                Some(name),
                format!("it says whom the row is about, and {}", used.consequence()),
                "Leave out on_expiry and let the value go with its row, or name other columns with custodian.tag_table().",
            );
        }
        if *method == Method::Hmac {
            context.find(
                Severity::Notice,
                "still-personal",
                Some(name),
                "it is pseudonymized when its purposes end, which is still personal data"
                    .to_owned(),
                "Use another method where the policy promises to anonymize or delete.",
            );
        }
        Ok(())
    }

    /// The table that reads a column of `table` as a clock or collection date, or finds a clock over it.
    fn clock_user(&self, table: &Table, column: &Column) -> Option<String> {
        let name = &column.ident.name;
        let same = |clock: &Clock, start: &Table| {
            let ends = match clock.path.last() {
                None => start.id == table.id,
                Some(last) => table.family.contains(&last.parent),
            };
            let mut begins = vec![start.id == table.id];
            begins.extend(
                clock
                    .path
                    .iter()
                    .map(|hop| table.family.contains(&hop.parent)),
            );
            let mut hops = clock.path.iter().zip(begins);
            ends && clock.column.name == *name
                || hops.any(|(hop, begins)| {
                    begins && hop.columns.iter().any(|step| step.name == *name)
                })
        };
        let own = clock_texts(table).map(|text| (table, text.as_str()));
        let distant = self.connections.distant_clocks.get(name);
        // Over a foreign key's column alone does one lead on to the next.
        let long = self.connections.long_clocks.iter();
        let long = long.filter(|_| column.in_foreign_key);
        let distant = distant.into_iter().flatten().chain(long);
        let distant = distant.filter_map(|(user, text)| {
            let user = self.schema.tables.get(user)?;
            Some((user, text.as_str()))
        });
        own.chain(distant)
            .find(|(user, text)| {
                path::clock(self.schema, user, text, false).is_ok_and(|clock| same(&clock, user))
            })
            .map(|(user, _)| user.ident.name.clone())
    }
}
