//! Who may change a tag: an owner adds and tightens, only a steward loosens. Pure.
//!
//! Tightening is what makes data go earlier, stay in fewer places, or count as more sensitive. Where a change
//! has no clear direction, it counts as loosening: a steward can always make it.

use crate::anonymize::method::Method;
use crate::tag::grammar::{
    ColumnLabel, ColumnTag, DerivedTag, DisposalMode, NullClock, RowExpiry, Sensitivity, TableTag,
};
use crate::tag::names;

/// What a change of a label amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Nothing changes.
    Same,
    /// There was no label.
    Add,
    /// The owner may.
    Tighten,
    /// Only a steward may.
    Loosen,
}

/// A change with the reasons why it loosens, if it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub class: Class,
    pub reasons: Vec<Reason>,
}

/// A field that was loosened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub field: &'static str,
    /// A clause whose subject is the field: `adds "shop.marketing"`.
    pub what: String,
}

impl Change {
    /// The reasons as sentences, for the detail of an error.
    pub fn sentences(&self) -> String {
        let sentences: Vec<String> = self
            .reasons
            .iter()
            .map(|reason| format!("Field \"{}\" {}.", reason.field, reason.what))
            .collect();
        sentences.join(" ")
    }
}

/// Collects the effect of each field.
#[derive(Default)]
struct Effects {
    tightened: bool,
    reasons: Vec<Reason>,
}

impl Effects {
    fn tighten(&mut self) {
        self.tightened = true;
    }

    fn loosen(&mut self, field: &'static str, what: impl Into<String>) {
        self.reasons.push(Reason {
            field,
            what: what.into(),
        });
    }

    fn change(self) -> Change {
        let class = match (self.reasons.is_empty(), self.tightened) {
            (false, _) => Class::Loosen,
            (true, true) => Class::Tighten,
            (true, false) => Class::Same,
        };
        Change {
            class,
            reasons: self.reasons,
        }
    }

    /// A field that has no order: setting it for the first time, changing and removing it are all a
    /// steward's.
    fn fixed(&mut self, field: &'static str, old: Option<&String>, new: Option<&String>) {
        match (old, new) {
            (None, None) => {}
            (None, Some(new)) => self.loosen(field, format!("becomes \"{new}\"")),
            (Some(_), None) => self.loosen(field, "is removed"),
            (Some(old), Some(new)) if old == new => {}
            (Some(old), Some(new)) => {
                self.loosen(field, format!("changes from \"{old}\" to \"{new}\""));
            }
        }
    }
}

fn plain(class: Class) -> Change {
    Change {
        class,
        reasons: Vec::new(),
    }
}

fn whole(what: &str) -> Change {
    let mut effects = Effects::default();
    effects.loosen("not_personal", what);
    effects.change()
}

fn removal() -> Change {
    Change {
        class: Class::Loosen,
        reasons: Vec::new(),
    }
}

fn missing_from<'a>(names: &'a [String], other: &[String]) -> Option<&'a String> {
    names.iter().find(|name| !other.contains(name))
}

/// Classifies a change of a column's label.
pub fn classify_column(old: Option<&ColumnLabel>, new: Option<&ColumnLabel>) -> Change {
    match (old, new) {
        (None, None) | (Some(ColumnLabel::NotPersonal), Some(ColumnLabel::NotPersonal)) => {
            plain(Class::Same)
        }
        // What is cleared may cross every border and is never disposed: always a steward's decision.
        (_, Some(ColumnLabel::NotPersonal)) => whole("clears the column"),
        // Removing a clearing undoes a steward's decision.
        (Some(_), None) => removal(),
        (None, Some(_)) => plain(Class::Add),
        (Some(ColumnLabel::NotPersonal), Some(_)) => plain(Class::Tighten),
        // What was derived stays until a steward confirms what the column is.
        (Some(ColumnLabel::Derived(_)), Some(ColumnLabel::Tag(_))) => {
            let mut effects = Effects::default();
            effects.loosen("derived", "is replaced by a tag");
            effects.change()
        }
        (Some(ColumnLabel::Tag(_)), Some(ColumnLabel::Derived(_))) => {
            let mut effects = Effects::default();
            effects.loosen("derived", "takes the place of the column's tag");
            effects.change()
        }
        (Some(ColumnLabel::Derived(old)), Some(ColumnLabel::Derived(new))) => derived(old, new),
        (Some(ColumnLabel::Tag(old)), Some(ColumnLabel::Tag(new))) => column_tag(old, new),
    }
}

fn derived(old: &DerivedTag, new: &DerivedTag) -> Change {
    let mut effects = Effects::default();
    if let Some(lost) = missing_from(&old.categories, &new.categories) {
        effects.loosen("derived", format!("drops the category \"{lost}\""));
    }
    sensitivity(&mut effects, old.sensitivity, new.sensitivity);
    residency(
        &mut effects,
        old.residency.as_deref(),
        new.residency.as_deref(),
    );
    tls(&mut effects, old.tls, new.tls);
    if missing_from(&new.categories, &old.categories).is_some() {
        effects.tighten();
    }
    effects.change()
}

fn sensitivity(effects: &mut Effects, old: Sensitivity, new: Sensitivity) {
    match (old, new) {
        (Sensitivity::Personal, Sensitivity::Sensitive) => effects.tighten(),
        (Sensitivity::Sensitive, Sensitivity::Personal) => {
            effects.loosen("sensitivity", "falls from \"sensitive\" to \"personal\"");
        }
        _ => {}
    }
}

fn tls(effects: &mut Effects, old: bool, new: bool) {
    match (old, new) {
        (false, true) => effects.tighten(),
        (true, false) => effects.loosen("tls", "no longer demands encrypted connections"),
        _ => {}
    }
}

fn residency(effects: &mut Effects, old: Option<&[String]>, new: Option<&[String]>) {
    match (old, new) {
        (None, None) => {}
        (Some(_), None) => effects.tighten(),
        (None, Some(_)) => {
            effects.loosen(
                "residency",
                "is stated, and was not: not stated is the most restrictive",
            );
        }
        (Some(old), Some(new)) => {
            if let Some(added) = missing_from(new, old) {
                effects.loosen("residency", format!("adds \"{added}\""));
            }
            if missing_from(old, new).is_some() {
                effects.tighten();
            }
        }
    }
}

fn column_tag(old: &ColumnTag, new: &ColumnTag) -> Change {
    let mut effects = Effects::default();
    paths(&mut effects, old, new);
    match (old.derived, new.derived) {
        (false, false) => own_members(&mut effects, old, new),
        // The document becomes a cell, or is none any more, and its paths are compared above.
        (true, false) => effects.tighten(),
        (false, true) => effects.loosen("paths", "takes the place of the column's own tag"),
        (true, true) => {}
    }
    effects.change()
}

/// Paths inside documents, one by one.
fn paths(effects: &mut Effects, old: &ColumnTag, new: &ColumnTag) {
    for inner in &old.paths {
        let name = names::path_text(&inner.path);
        match new.paths.iter().find(|other| other.path == inner.path) {
            None => effects.loosen("paths", format!("drops \"{name}\"")),
            Some(other) => {
                let change = column_tag(&inner.tag, &other.tag);
                match change.class {
                    Class::Same => {}
                    Class::Add | Class::Tighten => effects.tighten(),
                    Class::Loosen => {
                        for reason in change.reasons {
                            effects.loosen(
                                "paths",
                                format!("at \"{name}\": \"{}\" {}", reason.field, reason.what),
                            );
                        }
                    }
                }
            }
        }
    }
    for inner in &new.paths {
        if old.paths.iter().any(|other| other.path == inner.path) {
            continue;
        }
        // The document stays as long as anything in it does.
        let longer = missing_from(&inner.tag.purposes, &old.purposes).is_some()
            || !inner.tag.minimums.is_empty();
        if !old.derived && longer {
            let name = names::path_text(&inner.path);
            effects.loosen(
                "paths",
                format!("adds \"{name}\", which may keep the document longer"),
            );
        } else {
            effects.tighten();
        }
    }
}

fn own_members(effects: &mut Effects, old: &ColumnTag, new: &ColumnTag) {
    // What the data is: reviews and permits go by it, and categories have no order.
    effects.fixed("category", Some(&old.category), Some(&new.category));

    sensitivity(effects, old.sensitivity, new.sensitivity);

    // The longest purpose wins, so each one added can only keep the cell longer.
    if let Some(added) = missing_from(&new.purposes, &old.purposes) {
        effects.loosen("purposes", format!("adds \"{added}\""));
    }
    if missing_from(&old.purposes, &new.purposes).is_some() {
        effects.tighten();
    }

    residency(effects, old.residency.as_deref(), new.residency.as_deref());

    tls(effects, old.tls, new.tls);

    // Methods leave more or less behind, but in no common order; only `set_null` leaves nothing. Without a
    // method the cell waits for its row, so a first method can only make it go earlier.
    match (&old.on_expiry, &new.on_expiry) {
        (None, None) => {}
        (Some(old), Some(new)) if old == new => {}
        (None, Some(_)) | (Some(_), Some(Method::SetNull)) => effects.tighten(),
        (Some(_), None) => effects.loosen("on_expiry", "is removed"),
        (Some(_), Some(_)) => effects.loosen("on_expiry", "changes its method"),
    }

    // Another clock may run later, also one that takes the place of the table's.
    effects.fixed("clock", old.clock.as_ref(), new.clock.as_ref());

    // A minimum forbids destruction, so that adding one keeps data longer and dropping one gives up what a
    // law demands: neither is tightening.
    if old.minimums != new.minimums {
        let names = |tag: &ColumnTag| -> Vec<String> {
            tag.minimums
                .iter()
                .map(|minimum| minimum.name.clone())
                .collect()
        };
        let (before, after) = (names(old), names(new));
        if let Some(dropped) = missing_from(&before, &after) {
            effects.loosen("minimums", format!("drops \"{dropped}\""));
        } else if let Some(added) = missing_from(&after, &before) {
            effects.loosen("minimums", format!("adds \"{added}\""));
        } else {
            effects.loosen("minimums", "changes a clock");
        }
    }

    // A maximum only makes cells go earlier.
    if old.maximums.iter().any(|law| !new.maximums.contains(law)) {
        effects.loosen("maximums", "drops a maximum, or changes its clock");
    } else if old.maximums != new.maximums {
        effects.tighten();
    }
}

/// Classifies a change of a table's label.
pub fn classify_table(old: Option<&TableTag>, new: Option<&TableTag>) -> Change {
    match (old, new) {
        (None, None) => plain(Class::Same),
        // What each row says of where it may be takes the place of what the tags of columns say, those that come later too.
        (None, Some(new)) if new.residency_column.is_some() => {
            let mut effects = Effects::default();
            effects.fixed("residency_column", None, new.residency_column.as_ref());
            effects.change()
        }
        (None, Some(_)) => plain(Class::Add),
        (Some(_), None) => removal(),
        (Some(old), Some(new)) => table_tag(old, new),
    }
}

fn table_tag(old: &TableTag, new: &TableTag) -> Change {
    let mut effects = Effects::default();

    // Holds and erasures find rows by their subject: naming it adds, another one may lose rows.
    match (&old.subject, &new.subject) {
        (old, new) if old == new => {}
        (None, _) => effects.tighten(),
        (Some(_), None) => effects.loosen("subject", "is removed"),
        (Some(_), Some(_)) => effects.loosen("subject", "changes"),
    }

    // Without a clock nothing is ever due, so a first one tightens; another one may run later.
    match (&old.clock, &new.clock) {
        (None, Some(_)) => effects.tighten(),
        (old, new) => effects.fixed("clock", old.as_ref(), new.as_ref()),
    }

    let silent = |tag: &TableTag| tag.null_clock == Some(NullClock::NotStarted);
    match (silent(old), silent(new)) {
        (false, true) => effects.loosen("null_clock", "no longer reports rows whose clock is null"),
        (true, false) => effects.tighten(),
        _ => {}
    }

    // With it a longer period reaches the rows collected since; without it the shortest period ever counts.
    match (&old.collected, &new.collected) {
        (Some(_), None) => effects.tighten(),
        (old, new) => effects.fixed("collected", old.as_ref(), new.as_ref()),
    }

    let deletes = |tag: &TableTag| tag.on_expiry == Some(RowExpiry::Delete);
    match (deletes(old), deletes(new)) {
        (false, true) => effects.tighten(),
        (true, false) => effects.loosen("on_expiry", "no longer deletes rows"),
        _ => {}
    }

    // It decides for each row where it may be.
    effects.fixed(
        "residency_column",
        old.residency_column.as_ref(),
        new.residency_column.as_ref(),
    );

    // Rows that nobody reviewed go with those that are due.
    if old.dependents != new.dependents {
        effects.loosen("dependents", "changes");
    }

    // Lowering it keeps data; raising it lets go of a brake that may have been put on for a reason.
    let mode = |tag: &TableTag| match tag.disposal {
        Some(DisposalMode::Off) => Some("off".to_owned()),
        Some(DisposalMode::Observe) => Some("observe".to_owned()),
        Some(DisposalMode::On) => Some("on".to_owned()),
        None => None,
    };
    effects.fixed("disposal", mode(old).as_ref(), mode(new).as_ref());

    let mut change = effects.change();
    // What is written differently and means the same (a default that is spelled out) is still written.
    if change.class == Class::Same && old != new {
        change.class = Class::Tighten;
    }
    change
}

#[cfg(test)]
mod tests;
