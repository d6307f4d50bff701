//! Tags name columns and foreign keys; when those are renamed, the tags follow. Otherwise a rename would end
//! disposal, and two renames would put another column in a clock's place.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::fresh::{self, Seen};
use crate::pg::statement::{self, node, text};
use crate::pg::utility::Utility;
use crate::pg::{inherit, label, relation, xact};
use crate::policy::compile::path;
use crate::policy::load;
use crate::policy::model::Schema;
use crate::tag::change;
use crate::tag::grammar::{ColumnLabel, ColumnTag};
use crate::tag::names;
use crate::tag::target::{Label, Target};

/// A name that was changed.
struct Renamed {
    old: String,
    new: String,
    /// For a column: the tables that have it. For an attribute: its composite type, as a relation.
    family: Vec<pg_sys::Oid>,
}

impl Renamed {
    fn rewrite<'a>(&'a self, table: pg_sys::Oid, leads: &'a dyn Fn(&str) -> bool) -> Rewrite<'a> {
        Rewrite {
            old: &self.old,
            new: &self.new,
            own: self.family.contains(&table),
            leads,
        }
    }

    /// Whether a label of the table names it, or could.
    fn is_in(&self, table: pg_sys::Oid, label: &Label) -> bool {
        mentions(&self.old, self.family.contains(&table), label)
    }
}

/// Whether a label names `old`, or could: as a column, of its `own` table, or on a clock's way.
fn mentions(old: &str, own: bool, label: &Label) -> bool {
    let asked = Cell::new(false);
    let leads = |_: &str| {
        asked.set(true);
        false
    };
    // A name that no label has, since none is without one.
    let rewrite = Rewrite {
        old,
        new: "",
        own,
        leads: &leads,
    };
    rewrite.label(label) != *label || asked.get()
}

/// The tables of a composite type, whose columns follow its attributes.
pub fn typed_tables(composite: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
    let rows = fresh::rows(
        "SELECT c.oid FROM pg_class c JOIN pg_type t ON t.oid = c.reloftype WHERE t.typrelid = $1",
        &[composite.into()],
        Seen::Everything,
        0,
    )?;
    rows.iter().map(|row| fresh::oid(row, 0)).collect()
}

fn renamed(rename: &pg_sys::RenameStmt) -> Option<Renamed> {
    let name = |text: Option<&CStr>| Some(text?.to_string_lossy().into_owned());
    let range: &pg_sys::RangeVar = node!(rename.relation)?;
    let (old, family) = match rename.renameType {
        // The server takes a table for the type of its rows, too.
        pg_sys::ObjectType::OBJECT_COLUMN | pg_sys::ObjectType::OBJECT_ATTRIBUTE => {
            let relation = relation::named(Some(range))?;
            let root = inherit::root(relation);
            let mut family = inherit::descendants(root);
            family.push(root);
            (name(text!(rename.subname))?, family)
        }
        pg_sys::ObjectType::OBJECT_TABCONSTRAINT => (name(text!(rename.subname))?, Vec::new()),
        kind if statement::names_relation(kind) => (name(text!(range.relname))?, Vec::new()),
        _ => return None,
    };
    Some(Renamed {
        old,
        new: name(text!(rename.newname))?,
        family,
    })
}

/// Renames within the fields of a label. `own` says that the label is of a table whose column was renamed;
/// `leads` whether a clock leads to a column now.
struct Rewrite<'a> {
    old: &'a str,
    new: &'a str,
    own: bool,
    leads: &'a dyn Fn(&str) -> bool,
}

impl Rewrite<'_> {
    fn column(&self, name: &mut String) {
        if self.own && name == self.old {
            self.new.clone_into(name);
        }
    }

    fn clock(&self, clock: &mut String) {
        if self.own && clock == self.old {
            *clock = names::clock_text(&[self.new.to_owned()]);
            return;
        }
        let Ok(mut parts) = names::clock_path(clock) else {
            return;
        };
        if !parts.iter().any(|part| part == self.old) {
            return;
        }
        if let [only] = parts.as_mut_slice() {
            self.column(only);
            *clock = names::clock_text(&parts);
        } else if !(self.leads)(clock) {
            for part in &mut parts {
                if part == self.old {
                    self.new.clone_into(part);
                }
            }
            let candidate = names::clock_text(&parts);
            if (self.leads)(&candidate) {
                *clock = candidate;
            }
        }
    }

    fn cells(&self, tag: &mut ColumnTag) {
        let laws = tag.minimums.iter_mut().chain(&mut tag.maximums);
        let clocks = laws.filter_map(|law| law.clock.as_mut());
        for clock in tag.clock.iter_mut().chain(clocks) {
            self.clock(clock);
        }
        for inner in &mut tag.paths {
            self.cells(&mut inner.tag);
        }
    }

    fn label(&self, label: &Label) -> Label {
        let mut label = label.clone();
        match &mut label {
            Label::Column(ColumnLabel::NotPersonal | ColumnLabel::Derived(_)) => {}
            Label::Column(ColumnLabel::Tag(tag)) => self.cells(tag),
            Label::Table(tag) => {
                if let Some(clock) = &mut tag.clock {
                    self.clock(clock);
                }
                let subject = tag
                    .subject
                    .iter_mut()
                    .flat_map(|subject| subject.key.iter_mut().chain(&mut subject.via).flatten());
                for column in tag
                    .collected
                    .iter_mut()
                    .chain(&mut tag.residency_column)
                    .chain(subject)
                {
                    self.column(column);
                }
            }
        }
        label
    }
}

/// After a utility statement: follows RENAME of a column, an attribute of a type, a constraint or a table.
pub fn after(utility: Utility) -> Result<()> {
    let statement = utility.cast::<pg_sys::RenameStmt>();
    let Some(mut renamed) = statement.and_then(renamed) else {
        return Ok(());
    };
    // A label that never mentions the name, however JSON writes it, is not looked at.
    let quoted = serde_json::Value::from(renamed.old.as_str()).to_string();
    let mention = quoted.trim_matches('"');
    let labels: Vec<_> = label::everywhere()
        .into_iter()
        .filter(|(_, _, text)| text.contains(mention) || text.contains('\\'))
        .collect();
    if labels.is_empty() || relation::extension_oid().is_none() {
        return Ok(());
    }
    xact::command_done();
    for member in std::mem::take(&mut renamed.family) {
        renamed.family.extend(typed_tables(member)?);
        renamed.family.push(member);
    }
    let mut naming = Vec::new();
    for (table, attnum, _) in labels {
        let target = Target::attribute(table, i32::from(attnum))?;
        if let Some(Ok(label)) = target.current()
            && renamed.is_in(table, &label)
        {
            naming.push((table, attnum, target, label));
        }
    }
    // Most renames, as those of indexes, are of what no tag names, and load no policy.
    if naming.is_empty() {
        return Ok(());
    }
    let schema = load::schema(None)?;
    for (table, attnum, target, label) in naming {
        follow(&renamed, &schema, (table, attnum), &target, &label)?;
    }
    Ok(())
}

fn follow(
    renamed: &Renamed,
    schema: &Schema,
    (table, attnum): (pg_sys::Oid, i16),
    target: &Target,
    old: &Label,
) -> Result<()> {
    let leads = |clock: &str| {
        schema
            .tables
            .get(&table.to_u32())
            .is_some_and(|table| path::clock(schema, table, clock, false).is_ok())
    };
    let new = renamed.rewrite(table, &leads).label(old);
    if new == *old {
        return Ok(());
    }
    change::begin_renamed(target, old, &new)?;
    label::set(table, attnum, Some(&new.text()?))?;
    change::finish(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tag::grammar::{parse_column, parse_table};

    fn rewritten(label: &Label, own: bool, leads: &dyn Fn(&str) -> bool) -> String {
        let rewrite = Rewrite {
            old: "seen",
            new: "last.seen",
            own,
            leads,
        };
        rewrite
            .label(label)
            .text()
            .expect("a label that can be written")
    }

    #[test]
    fn a_table_follows_its_own_columns_only() {
        let label = Label::Table(
            parse_table(
                r#"{"subject":{"kind":"customer","key":["id","seen"]},"clock":"seen","collected":"seen","residency_column":"seen"}"#,
            )
            .expect("valid"),
        );
        assert_eq!(
            rewritten(&label, true, &|_| true),
            r#"{"subject":{"kind":"customer","key":["id","last.seen"]},"clock":"\"last.seen\"","collected":"last.seen","residency_column":"last.seen"}"#
        );
        assert_eq!(
            rewritten(&label, false, &|_| false),
            label.text().expect("valid")
        );
    }

    #[test]
    fn a_clock_over_a_foreign_key_follows_where_it_led() {
        let label = Label::Column(
            parse_column(
                r#"{"category":"user","sensitivity":"personal","purposes":["a.b"],"clock":"fk.seen","minimums":[{"name":"x.y","clock":"other.seen"}]}"#,
            )
            .expect("valid"),
        );
        // fk leads to the table whose column was renamed, other to one that still has it.
        let leads = |clock: &str| clock == r#"fk."last.seen""# || clock == "other.seen";
        assert_eq!(
            rewritten(&label, false, &leads),
            r#"{"category":"user","sensitivity":"personal","purposes":["a.b"],"clock":"fk.\"last.seen\"","minimums":[{"name":"x.y","clock":"other.seen"}]}"#
        );
    }

    #[test]
    fn what_no_tag_names_is_looked_at_no_further() {
        let is_in = |old: &str, own: bool, clock: &str| {
            let text = format!(r#"{{"clock":"{clock}"}}"#);
            let label = Label::Table(parse_table(&text).expect("valid"));
            mentions(old, own, &label)
        };
        // As a column of its own, and on a way that may lead over what was renamed.
        assert!(is_in("seen", true, "seen"));
        assert!(is_in("person", false, "person.seen"));
        // A part of a name, another table's column, and the words of tags are none.
        assert!(!is_in("see", true, "seen"));
        assert!(!is_in("seen", false, "seen"));
        assert!(!is_in("clock", false, "person.seen"));
    }
}
