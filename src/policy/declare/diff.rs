//! What a document would change in a declared policy. Pure.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::parse::{Wanted, WantedLaw, WantedPurpose, at};
use super::state::{
    Law, LawKind, Permit, Purpose, State, TableName, column_json, instant, table_json,
};
use super::subscribers;
use crate::error::{Error, Kind, Result};
use crate::policy::enforcement::Enforcement;
use crate::policy::period::{Instant, Period, never_shorter};
use crate::tag::grammar::{ColumnLabel, TableTag};
use crate::tag::rules::{self, Class};

/// What is to be done for one change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A new purpose, with the periods it had; none of them: its period is in force from now on.
    Define {
        name: String,
        purpose: Purpose,
        period: Period,
    },
    Period {
        name: String,
        period: Period,
    },
    End {
        name: String,
        at: Instant,
    },
    Law {
        kind: LawKind,
        name: String,
        law: Law,
    },
    Table {
        table: TableName,
        tag: Option<TableTag>,
    },
    Column {
        table: TableName,
        column: String,
        label: Option<ColumnLabel>,
    },
    Permit {
        name: String,
        permit: Permit,
    },
    Forbid {
        name: String,
    },
    /// That the subscribers of a publication dispose by themselves; without a reason that is taken back.
    Subscribers {
        publication: String,
        reason: Option<String>,
    },
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it is about: `purpose shop.account`, `column shop.customer.email`.
    pub object: String,
    /// What happens, in a few words.
    pub change: &'static str,
    pub before: Option<Value>,
    pub after: Option<Value>,
    /// Data may stay longer, or go further, than before.
    pub loosens: bool,
    pub op: Op,
}

fn stays(what: &str, name: &str) -> Error {
    Error::new(
        Kind::InvalidParameter,
        format!("{what} \"{name}\" is not in the document, which says that it is complete"),
    )
    .hint(match what {
        "purpose" => "A purpose is never removed: list it, with \"ended_at\" where it should end, or leave \"complete\" out.",
        _ => "What a law demands is never removed: list it, or leave \"complete\" out and drop it from the tags.",
    })
}

fn missing(path: &str, member: &str) -> Error {
    at(&format!("{path}.{member}"), "is missing").hint("Something new needs all of it: a purpose \"basis\" and \"period\", a law \"period\" and \"citation\".")
}

/// A minimum or defence may rise, a maximum may fall: otherwise something would be due that the law still keeps, or
/// kept that it does not allow.
fn may_change(kind: LawKind, name: &str, old: Period, new: Period) -> Result<()> {
    let (allowed, may, ends) = if kind.keeps() {
        (never_shorter(old, new), "rise, but not fall", "earlier")
    } else {
        (never_shorter(new, old), "fall, but not rise", "later")
    };
    if allowed {
        return Ok(());
    }
    Err(Error::new(
        Kind::InvalidParameter,
        format!("the period of {} \"{name}\" may {may}", kind.noun()),
    )
    .detail(format!(
        "It is {} and would be {}, which ends {ends} at least from some days.",
        old.iso(),
        new.iso()
    ))
    .hint("Where the law itself was changed, require one with a new name; tags then drop the old one by a steward's decision."))
}

struct Differ<'a> {
    state: &'a State,
    wanted: &'a Wanted,
    now: Instant,
    found: Vec<Change>,
    /// Ends come last: until then nothing that is tagged meanwhile is due by them.
    ends: Vec<Change>,
}

impl Differ<'_> {
    fn purpose(&mut self, name: &str, wanted: &WantedPurpose) -> Result<()> {
        match self.state.purposes.get(name) {
            None => self.new_purpose(name, wanted),
            Some(old) => self.old_purpose(name, old, wanted),
        }
    }

    fn new_purpose(&mut self, name: &str, wanted: &WantedPurpose) -> Result<()> {
        let path = format!("purposes.{name}");
        let history = wanted.history.clone().unwrap_or_default();
        if let Some(index) = history.iter().position(|(since, _)| *since > self.now) {
            return Err(at(
                &format!("{path}.history[{index}].since"),
                "is still to come",
            )
            .hint("A period is in force from the moment it is set."));
        }
        let last = history.last().map(|(_, period)| *period);
        let period = wanted
            .period
            .or(last)
            .ok_or_else(|| missing(&path, "period"))?;
        if last.is_some_and(|last| last != period) {
            return Err(at(
                &format!("{path}.period"),
                "is not the last one of its history",
            )
            .hint("Leave the history out to begin one now."));
        }
        let jurisdiction = wanted
            .jurisdiction
            .clone()
            .unwrap_or_else(|| "cn".to_owned());
        let basis_name = wanted
            .basis
            .clone()
            .ok_or_else(|| missing(&path, "basis"))?;
        let purpose = Purpose {
            basis: basis_name,
            jurisdiction,
            required: wanted.required.unwrap_or(true),
            description: wanted.description.clone().flatten(),
            history,
            ended_at: None,
        };
        let mut after = purpose.json();
        if let Value::Object(members) = &mut after {
            members.insert("period".to_owned(), period.iso().into());
            if purpose.history.is_empty() {
                members.remove("history");
            }
        }
        self.found.push(Change {
            object: format!("purpose {name}"),
            change: "define",
            before: None,
            after: Some(after),
            loosens: false,
            op: Op::Define {
                name: name.to_owned(),
                purpose,
                period,
            },
        });
        if let Some(Some(end)) = wanted.ended_at {
            self.end(name, None, end);
        }
        Ok(())
    }

    fn end(&mut self, name: &str, old: Option<Instant>, end: Instant) {
        self.ends.push(Change {
            object: format!("purpose {name}"),
            change: if old.is_some() { "move the end" } else { "end" },
            before: old.map(|old| json!({ "ended_at": instant(old) })),
            after: Some(json!({ "ended_at": instant(end) })),
            loosens: old.is_some_and(|old| end > old),
            op: Op::End {
                name: name.to_owned(),
                at: end,
            },
        });
    }

    fn old_purpose(&mut self, name: &str, old: &Purpose, wanted: &WantedPurpose) -> Result<()> {
        let path = format!("purposes.{name}");
        let mut differs = Vec::new();
        if wanted.basis.as_ref().is_some_and(|new| *new != old.basis) {
            differs.push("basis");
        }
        if wanted
            .jurisdiction
            .as_ref()
            .is_some_and(|new| *new != old.jurisdiction)
        {
            differs.push("jurisdiction");
        }
        if wanted.required.is_some_and(|new| new != old.required) {
            differs.push("required");
        }
        if wanted
            .description
            .as_ref()
            .is_some_and(|new| *new != old.description)
        {
            differs.push("description");
        }
        if !differs.is_empty() {
            return Err(Error::new(
                Kind::DuplicateObject,
                format!("purpose \"{name}\" is already defined, and differs in more than its period"),
            )
            .detail(format!("It has another {}.", differs.join(", another ")))
            .hint("A purpose is immutable but for its period. Define one with a new name, tag with it, and end this one."));
        }
        if let Some(history) = &wanted.history
            && history.iter().any(|period| !old.history.contains(period))
        {
            return Err(Error::new(
                Kind::InvalidParameter,
                format!("the history of purpose \"{name}\" is another one"),
            )
            .detail(format!("Member \"{path}.history\" has a period that it did not have."))
            .hint("What was in force cannot be rewritten. Leave \"history\" out; \"period\" is what counts from now on."));
        }
        let period = wanted.period.unwrap_or_else(|| old.period());
        let ended = old.ended_at.is_some_and(|end| end <= self.now);
        let gone = || {
            Error::new(
                Kind::NotInPrerequisiteState,
                format!("purpose \"{name}\" has ended"),
            )
            .hint("A purpose that has ended stays so. Define one with a new name.")
        };
        if period != old.period() {
            if ended {
                return Err(gone());
            }
            let loosens = !never_shorter(period, old.period());
            self.found.push(Change {
                object: format!("purpose {name}"),
                change: if loosens {
                    "lengthen the period"
                } else {
                    "shorten the period"
                },
                before: Some(json!({ "period": old.period().iso() })),
                after: Some(json!({ "period": period.iso() })),
                loosens,
                op: Op::Period {
                    name: name.to_owned(),
                    period,
                },
            });
        }
        match (old.ended_at, wanted.ended_at) {
            (_, None) | (None, Some(None)) => Ok(()),
            (Some(old), Some(Some(new))) if old == new => Ok(()),
            (Some(_), Some(_)) if ended => Err(gone()),
            (Some(_), Some(None)) => Err(Error::new(
                Kind::InvalidParameter,
                format!("the end of purpose \"{name}\" cannot be taken back"),
            )
            .hint("It can be moved while it is still to come: write a later \"ended_at\".")),
            (old, Some(Some(new))) => {
                self.end(name, old, new);
                Ok(())
            }
        }
    }

    fn law(&mut self, kind: LawKind, name: &str, wanted: &WantedLaw) -> Result<()> {
        let path = format!("{}.{name}", kind.section());
        let old = self.state.laws.get(&(kind, name.to_owned()));
        let law = Law {
            period: wanted
                .period
                .or(old.map(|old| old.period))
                .ok_or_else(|| missing(&path, "period"))?,
            citation: wanted
                .citation
                .clone()
                .or_else(|| old.map(|old| old.citation.clone()))
                .ok_or_else(|| missing(&path, "citation"))?,
            suspensions: wanted
                .suspensions
                .clone()
                .unwrap_or_else(|| old.map(|old| old.suspensions.clone()).unwrap_or_default()),
            enforcement: (kind == LawKind::Minimum).then(|| {
                let old = old.and_then(|old| old.enforcement);
                wanted.enforcement.or(old).unwrap_or_default()
            }),
        };
        if old == Some(&law) {
            return Ok(());
        }
        let mut loosens = false;
        if let Some(old) = old {
            if old.suspensions != law.suspensions {
                return Err(Error::new(
                    Kind::InvalidParameter,
                    format!("the suspensions of defence \"{name}\" are others"),
                )
                .hint("Leave \"suspensions\" out; custodian.suspend_defence() and custodian.resume_defence() record them."));
            }
            let warns = |law: &Law| law.enforcement == Some(Enforcement::Warn);
            loosens = !never_shorter(law.period, old.period) || (warns(&law) && !warns(old));
            may_change(kind, name, old.period, law.period)?;
        } else if let Some(index) = law
            .suspensions
            .iter()
            .position(|(from, until)| *from > self.now || until.is_some_and(|end| end > self.now))
        {
            return Err(
                at(&format!("{path}.suspensions[{index}]"), "is still to come")
                    .hint("Suspend or resume the defence when that comes."),
            );
        }
        self.found.push(Change {
            object: format!("{} {name}", kind.noun()),
            change: if old.is_some() { "change" } else { "require" },
            before: old.map(Law::json),
            after: Some(law.json()),
            loosens,
            op: Op::Law {
                kind,
                name: name.to_owned(),
                law,
            },
        });
        Ok(())
    }

    fn tag(&mut self, table: &TableName, new: Option<&TableTag>) -> Result<()> {
        let old = self
            .state
            .tables
            .get(table)
            .and_then(|labels| labels.tag.as_ref());
        let class = rules::classify_table(old, new).class;
        if old == new {
            return Ok(());
        }
        self.found.push(Change {
            object: format!("table {table}"),
            change: verb(old.is_some(), new.is_some()),
            before: old.map(table_json).transpose()?,
            after: new.map(table_json).transpose()?,
            loosens: class == Class::Loosen,
            op: Op::Table {
                table: table.clone(),
                tag: new.cloned(),
            },
        });
        Ok(())
    }

    fn column(&mut self, table: &TableName, column: &str, new: Option<&ColumnLabel>) -> Result<()> {
        let old = self
            .state
            .tables
            .get(table)
            .and_then(|labels| labels.columns.get(column));
        if old == new {
            return Ok(());
        }
        self.found.push(Change {
            object: format!("column {}", table.column(column)),
            change: match new {
                Some(ColumnLabel::NotPersonal) => "clear",
                new => verb(old.is_some(), new.is_some()),
            },
            before: old.map(column_json).transpose()?,
            after: new.map(column_json).transpose()?,
            loosens: rules::classify_column(old, new).class == Class::Loosen,
            op: Op::Column {
                table: table.clone(),
                column: column.to_owned(),
                label: new.cloned(),
            },
        });
        Ok(())
    }

    fn tables(&mut self) -> Result<()> {
        let mut names: BTreeSet<&TableName> = self.wanted.tables.keys().collect();
        if self.wanted.complete {
            names.extend(self.state.tables.keys());
        }
        for name in names {
            let wanted = self.wanted.tables.get(name);
            match wanted.and_then(|wanted| wanted.tag.as_ref()) {
                Some(tag) => self.tag(name, tag.as_ref())?,
                None if self.wanted.complete => self.tag(name, None)?,
                None => {}
            }
            let mut columns: BTreeSet<&String> = wanted
                .iter()
                .flat_map(|wanted| wanted.columns.keys())
                .collect();
            if self.wanted.complete {
                let there = self.state.tables.get(name);
                columns.extend(there.iter().flat_map(|labels| labels.columns.keys()));
            }
            for column in columns {
                let label = wanted.and_then(|wanted| wanted.columns.get(column)?.as_ref());
                self.column(name, column, label)?;
            }
        }
        Ok(())
    }

    fn publications(&mut self) {
        for (name, permit) in &self.wanted.publications {
            let old = self.state.publications.get(name);
            if old == Some(permit) {
                continue;
            }
            let further =
                |old: &Permit| permit.regions.iter().any(|new| !old.regions.contains(new));
            self.found.push(Change {
                object: format!("publication {name}"),
                change: "permit",
                before: old.map(Permit::json),
                after: Some(permit.json()),
                loosens: old.is_none_or(further),
                op: Op::Permit {
                    name: name.clone(),
                    permit: permit.clone(),
                },
            });
        }
        if !self.wanted.complete {
            return;
        }
        for (name, permit) in &self.state.publications {
            if !self.wanted.publications.contains_key(name) {
                self.found.push(Change {
                    object: format!("publication {name}"),
                    change: "forbid",
                    before: Some(permit.json()),
                    after: None,
                    loosens: false,
                    op: Op::Forbid { name: name.clone() },
                });
            }
        }
    }
}

fn verb(was: bool, is: bool) -> &'static str {
    match (was, is) {
        (false, _) => "tag",
        (true, true) => "change the tag",
        (true, false) => "remove the label",
    }
}

/// The changes that make a policy what the document wants, in the order in which they can be made: purposes,
/// laws, labels, publications, and ends of purposes last. Nothing when it is so already.
///
/// Errors: 22023 for what cannot be, 42710 for a purpose that would change in more than its period, 55000 for
/// one that has ended.
pub fn diff(state: &State, wanted: &Wanted, now: Instant) -> Result<Vec<Change>> {
    let mut differ = Differ {
        state,
        wanted,
        now,
        found: Vec::new(),
        ends: Vec::new(),
    };
    if wanted.complete {
        if let Some(name) = state
            .purposes
            .keys()
            .find(|name| !wanted.purposes.contains_key(*name))
        {
            return Err(stays("purpose", name));
        }
        if let Some((kind, name)) = state
            .laws
            .keys()
            .find(|law| !wanted.laws.contains_key(*law))
        {
            return Err(stays(kind.noun(), name));
        }
    }
    for (name, purpose) in &wanted.purposes {
        differ.purpose(name, purpose)?;
    }
    for ((kind, name), law) in &wanted.laws {
        differ.law(*kind, name, law)?;
    }
    differ.tables()?;
    differ.publications();
    let Differ {
        mut found, ends, ..
    } = differ;
    found.extend(subscribers::changes(state, wanted));
    found.extend(ends);
    Ok(found)
}

/// Makes the changes in a policy that is only looked at.
pub fn apply(state: &mut State, changes: &[Change], now: Instant) {
    for change in changes {
        match change.op.clone() {
            Op::Define {
                name,
                mut purpose,
                period,
            } => {
                if purpose.history.is_empty() {
                    purpose.history.push((now, period));
                }
                state.purposes.insert(name, purpose);
            }
            Op::Period { name, period } => {
                if let Some(purpose) = state.purposes.get_mut(&name) {
                    purpose.history.push((next(&purpose.history, now), period));
                }
            }
            Op::End { name, at } => {
                if let Some(purpose) = state.purposes.get_mut(&name) {
                    purpose.ended_at = Some(at);
                }
            }
            Op::Law { kind, name, law } => {
                state.laws.insert((kind, name), law);
            }
            Op::Table { table, tag } => {
                state.tables.entry(table.clone()).or_default().tag = tag;
                forget(state, &table);
            }
            Op::Column {
                table,
                column,
                label,
            } => {
                let labels = state.tables.entry(table.clone()).or_default();
                match label {
                    Some(label) => labels.columns.insert(column, label),
                    None => labels.columns.remove(&column),
                };
                forget(state, &table);
            }
            Op::Permit { name, permit } => {
                state.publications.insert(name, permit);
            }
            Op::Forbid { name } => {
                state.publications.remove(&name);
            }
            Op::Subscribers {
                publication,
                reason,
            } => subscribers::apply(state, publication, reason),
        }
    }
}

/// When a new period begins to be in force: the newest of a history is, also when the clock was moved back.
pub fn next(history: &[(Instant, Period)], now: Instant) -> Instant {
    history.last().map_or(now, |(since, _)| {
        now.max(Instant::from_micros(since.micros().saturating_add(1)))
    })
}

fn forget(state: &mut State, table: &TableName) {
    if state
        .tables
        .get(table)
        .is_some_and(super::state::TableLabels::is_empty)
    {
        state.tables.remove(table);
    }
}
