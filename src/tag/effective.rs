//! Tags of partitions and inheritance children: the parent's tag governs, the child's may only tighten.
//! Pure.
//!
//! Where a child's label asks for less than its parent's, the parent's wins silently: labels are restored
//! before partitions are attached, so such a label cannot be refused when it is written.

use crate::tag::grammar::{
    ColumnLabel, ColumnTag, DerivedTag, DisposalMode, MinimumRef, NullClock, PathTag, TableTag,
};
use crate::tag::parse;

/// The label that governs a child's column, given the parent's label in force and the child's own.
pub fn column(parent: &ColumnLabel, child: &ColumnLabel) -> ColumnLabel {
    match (parent, child) {
        (ColumnLabel::NotPersonal, child) => child.clone(),
        (parent, ColumnLabel::NotPersonal) => parent.clone(),
        (ColumnLabel::Derived(parent), ColumnLabel::Derived(child)) => {
            ColumnLabel::Derived(parent.and(child))
        }
        (ColumnLabel::Tag(tag), ColumnLabel::Derived(derived))
        | (ColumnLabel::Derived(derived), ColumnLabel::Tag(tag)) => {
            ColumnLabel::Tag(narrowed(tag, derived))
        }
        (ColumnLabel::Tag(parent), ColumnLabel::Tag(child)) => {
            ColumnLabel::Tag(column_tag(parent, child))
        }
    }
}

/// A tag whose data is also what was derived.
fn narrowed(tag: &ColumnTag, derived: &DerivedTag) -> ColumnTag {
    let mut tag = tag.clone();
    let narrow = |cell: &mut ColumnTag| {
        cell.sensitivity = cell.sensitivity.max(derived.sensitivity);
        cell.tls |= derived.tls;
        cell.residency = match (&cell.residency, &derived.residency) {
            (Some(own), Some(derived)) => Some(common(own, derived)),
            _ => None,
        };
    };
    narrow(&mut tag);
    for inner in &mut tag.paths {
        narrow(&mut inner.tag);
    }
    tag
}

fn column_tag(parent: &ColumnTag, child: &ColumnTag) -> ColumnTag {
    let own = match (parent.derived, child.derived) {
        (true, true) => return parse::document(paths(parent, child)),
        // Only one of them says something about the whole document.
        (true, false) => child.clone(),
        (false, true) => parent.clone(),
        (false, false) => own_members(parent, child),
    };
    ColumnTag {
        paths: paths(parent, child),
        ..own
    }
}

fn own_members(parent: &ColumnTag, child: &ColumnTag) -> ColumnTag {
    let both = |parent: &[MinimumRef], child: &[MinimumRef]| {
        let mut laws = parent.to_vec();
        for law in child {
            if !laws.iter().any(|there| there.name == law.name) {
                laws.push(law.clone());
            }
        }
        laws
    };
    ColumnTag {
        category: parent.category.clone(),
        sensitivity: parent.sensitivity.max(child.sensitivity),
        // A purpose that the child does not name does not cover its cells. None left is an unresolved tag:
        // kept, and a finding.
        purposes: common(&parent.purposes, &child.purposes),
        // Not stated is the most restrictive already.
        residency: match (&parent.residency, &child.residency) {
            (Some(parent), Some(child)) => Some(common(parent, child)),
            (None, _) | (_, None) => None,
        },
        on_expiry: parent.on_expiry.clone().or_else(|| child.on_expiry.clone()),
        clock: parent.clock.clone().or_else(|| child.clock.clone()),
        minimums: both(&parent.minimums, &child.minimums),
        maximums: both(&parent.maximums, &child.maximums),
        tls: parent.tls || child.tls,
        paths: Vec::new(),
        derived: false,
    }
}

/// The paths of both. Where the parent holds the whole document for purposes, a path that only the child names
/// is held for no others.
fn paths(parent: &ColumnTag, child: &ColumnTag) -> Vec<PathTag> {
    let mut paths = parent.paths.clone();
    for inner in &child.paths {
        match paths.iter_mut().find(|there| there.path == inner.path) {
            Some(there) => there.tag = column_tag(&there.tag, &inner.tag),
            None => {
                let overlaps = |there: &PathTag| {
                    there.path.starts_with(&inner.path) || inner.path.starts_with(&there.path)
                };
                if parent.paths.iter().any(overlaps) {
                    continue;
                }
                let mut added = inner.clone();
                if !parent.derived {
                    added.tag.purposes = common(&parent.purposes, &added.tag.purposes);
                }
                paths.push(added);
            }
        }
    }
    paths.sort_unstable_by(|left, right| left.path.cmp(&right.path));
    paths
}

fn common(left: &[String], right: &[String]) -> Vec<String> {
    left.iter()
        .filter(|name| right.contains(name))
        .cloned()
        .collect()
}

/// The tag that governs a child table, given the parent's tag in force and the child's own.
pub fn table(parent: &TableTag, child: &TableTag) -> TableTag {
    TableTag {
        subject: parent.subject.clone().or_else(|| child.subject.clone()),
        clock: parent.clock.clone().or_else(|| child.clock.clone()),
        // A violation is reported, "not started" is kept in silence: the parent's default may not be undone.
        null_clock: match (parent.null_clock, child.null_clock) {
            (Some(NullClock::NotStarted), Some(NullClock::Violation)) => Some(NullClock::Violation),
            (parent, _) => parent,
        },
        collected: parent.collected.clone().or_else(|| child.collected.clone()),
        on_expiry: parent.on_expiry.or(child.on_expiry),
        residency_column: parent
            .residency_column
            .clone()
            .or_else(|| child.residency_column.clone()),
        dependents: parent.dependents.clone(),
        // Absent means that the setting alone decides, so a child can lift its parent's mode, never lower it.
        disposal: match (parent.disposal, child.disposal) {
            (None, _) => None,
            (Some(parent), child) => Some(parent.max(child.unwrap_or(DisposalMode::Off))),
        },
    }
}

/// The fields of a child's label that its parent's overrules: what the child says there has no effect.
pub fn overruled_column(parent: &ColumnLabel, child: &ColumnLabel) -> Vec<&'static str> {
    let ColumnLabel::Tag(own) = child else {
        return match (parent, child) {
            (ColumnLabel::Tag(_) | ColumnLabel::Derived(_), ColumnLabel::NotPersonal) => {
                vec!["not_personal"]
            }
            _ => Vec::new(),
        };
    };
    let ColumnLabel::Tag(merged) = column(parent, child) else {
        return Vec::new();
    };
    let lost = |of: &[String], from: &[String]| of.iter().any(|name| !from.contains(name));
    let fields = [
        ("category", own.category != merged.category),
        ("sensitivity", own.sensitivity != merged.sensitivity),
        ("purposes", lost(&own.purposes, &merged.purposes)),
        (
            "residency",
            own.residency.as_ref().is_some_and(|own| {
                merged
                    .residency
                    .as_ref()
                    .is_none_or(|merged| lost(own, merged))
            }),
        ),
        (
            "on_expiry",
            own.on_expiry.is_some() && own.on_expiry != merged.on_expiry,
        ),
        ("clock", own.clock.is_some() && own.clock != merged.clock),
        (
            "minimums",
            own.minimums
                .iter()
                .any(|minimum| !merged.minimums.contains(minimum)),
        ),
        (
            "maximums",
            own.maximums
                .iter()
                .any(|maximum| !merged.maximums.contains(maximum)),
        ),
        (
            "paths",
            own.paths.iter().any(|inner| !merged.paths.contains(inner)),
        ),
    ];
    if own.derived {
        // What its own members say was derived from its paths.
        return only(&fields[fields.len() - 1..]);
    }
    only(&fields)
}

/// The same for tables.
pub fn overruled_table(parent: &TableTag, child: &TableTag) -> Vec<&'static str> {
    fn lost<T: PartialEq>(own: Option<&T>, merged: Option<&T>) -> bool {
        own.is_some() && own != merged
    }
    let merged = table(parent, child);
    only(&[
        (
            "subject",
            lost(child.subject.as_ref(), merged.subject.as_ref()),
        ),
        ("clock", lost(child.clock.as_ref(), merged.clock.as_ref())),
        (
            "null_clock",
            lost(
                child.null_clock.as_ref(),
                Some(&merged.null_clock.unwrap_or_default()),
            ),
        ),
        (
            "collected",
            lost(child.collected.as_ref(), merged.collected.as_ref()),
        ),
        (
            "on_expiry",
            lost(child.on_expiry.as_ref(), merged.on_expiry.as_ref()),
        ),
        (
            "residency_column",
            lost(
                child.residency_column.as_ref(),
                merged.residency_column.as_ref(),
            ),
        ),
        (
            "dependents",
            lost(child.dependents.as_ref(), merged.dependents.as_ref()),
        ),
        (
            "disposal",
            lost(
                child.disposal.as_ref(),
                Some(&merged.disposal.unwrap_or(DisposalMode::On)),
            ),
        ),
    ])
}

fn only(fields: &[(&'static str, bool)]) -> Vec<&'static str> {
    fields
        .iter()
        .filter(|(_, overruled)| *overruled)
        .map(|(field, _)| *field)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tag::grammar::{parse_column, parse_table};

    fn col(label: &str) -> ColumnLabel {
        parse_column(label).expect("a test writes valid labels")
    }

    fn tab(label: &str) -> TableTag {
        parse_table(label).expect("a test writes valid labels")
    }

    #[test]
    fn a_child_cannot_clear_what_its_parent_tags() {
        let parent = col(r#"{"category":"user.name","sensitivity":"personal","purposes":["a.b"]}"#);
        assert_eq!(column(&parent, &ColumnLabel::NotPersonal), parent);
        assert_eq!(column(&ColumnLabel::NotPersonal, &parent), parent);
    }

    #[test]
    fn a_child_drops_purposes_and_regions_and_adds_minimums() {
        let parent = col(
            r#"{"category":"user.name","sensitivity":"personal","purposes":["a.b","a.c"],
                "residency":["cn","de"],"on_expiry":"set_null"}"#,
        );
        let child = col(
            r#"{"category":"user.x","sensitivity":"sensitive","purposes":["a.c","a.d"],
                "residency":["de","us"],"on_expiry":"hmac","minimums":[{"name":"de.tax"}]}"#,
        );
        let expected = col(
            r#"{"category":"user.name","sensitivity":"sensitive","purposes":["a.c"],
                "residency":["de"],"on_expiry":"set_null","minimums":[{"name":"de.tax"}]}"#,
        );
        assert_eq!(column(&parent, &child), expected);
    }

    #[test]
    fn a_residency_that_was_not_stated_stays_the_most_restrictive() {
        let parent = col(r#"{"category":"user.x","sensitivity":"personal","purposes":["a.b"]}"#);
        let child = col(
            r#"{"category":"user.x","sensitivity":"personal","purposes":["a.b"],"residency":["us"]}"#,
        );
        for (one, other) in [(&parent, &child), (&child, &parent)] {
            let merged = column(one, other);
            assert_eq!(merged.tag().and_then(|tag| tag.residency.clone()), None);
        }
    }

    #[test]
    fn a_child_table_cannot_lower_disposal_nor_silence_a_null_clock() {
        let parent = tab(r#"{"clock":"at","disposal":"observe"}"#);
        let child = tab(
            r#"{"clock":"other","disposal":"off","null_clock":"not_started","on_expiry":"delete"}"#,
        );
        assert_eq!(
            table(&parent, &child),
            tab(r#"{"clock":"at","disposal":"observe","on_expiry":"delete"}"#)
        );
        assert_eq!(
            table(&parent, &tab(r#"{"disposal":"on"}"#)).disposal,
            Some(DisposalMode::On)
        );
        assert_eq!(table(&TableTag::default(), &child).disposal, None);
    }

    #[test]
    fn what_a_parent_overrules_is_named() {
        let parent = col(
            r#"{"category":"user.name","sensitivity":"sensitive","purposes":["a.b","a.c"],
                "residency":["cn","de"],"on_expiry":"set_null","clock":"at","minimums":[{"name":"de.tax"}]}"#,
        );
        // Left out is not asked for less.
        let child = col(
            r#"{"category":"user.name","sensitivity":"sensitive","purposes":["a.c"],"minimums":[{"name":"de.law"}]}"#,
        );
        assert_eq!(overruled_column(&parent, &child), Vec::<&str>::new());
        let child = col(
            r#"{"category":"user.id","sensitivity":"personal","purposes":["a.c","a.d"],"residency":["us"],
                "on_expiry":"hmac","clock":"other","minimums":[{"name":"de.tax","clock":"at"}]}"#,
        );
        assert_eq!(
            overruled_column(&parent, &child),
            [
                "category",
                "sensitivity",
                "purposes",
                "residency",
                "on_expiry",
                "clock",
                "minimums"
            ]
        );
        assert_eq!(
            overruled_column(&parent, &ColumnLabel::NotPersonal),
            ["not_personal"]
        );
        assert_eq!(
            overruled_column(&ColumnLabel::NotPersonal, &child),
            Vec::<&str>::new()
        );
        let parent = tab(r#"{"clock":"at","on_expiry":"delete"}"#);
        assert_eq!(
            overruled_table(
                &parent,
                &tab(
                    r#"{"clock":"at","collected":"x","on_expiry":"keep","disposal":"off","null_clock":"not_started"}"#
                )
            ),
            ["null_clock", "on_expiry", "disposal"]
        );
        assert_eq!(
            overruled_table(
                &parent,
                &tab(r#"{"disposal":"on","null_clock":"violation"}"#)
            ),
            Vec::<&str>::new()
        );
    }

    #[test]
    fn paths_of_parent_and_child_come_together() {
        let inner = |path: &str, purposes: &str| {
            format!(
                r#"{{"path":[{path}],"category":"user","sensitivity":"personal","purposes":[{purposes}]}}"#
            )
        };
        let paths = |paths: &[String]| col(&format!(r#"{{"paths":[{}]}}"#, paths.join(",")));
        let parent = paths(&[inner(r#""a""#, r#""p.a","p.b""#)]);
        let child = paths(&[
            inner(r#""a""#, r#""p.b","p.c""#),
            inner(r#""b","c""#, r#""p.d""#),
        ]);
        assert_eq!(
            column(&parent, &child),
            paths(&[inner(r#""a""#, r#""p.b""#), inner(r#""b","c""#, r#""p.d""#)])
        );
        assert_eq!(overruled_column(&parent, &child), ["paths"]);
        // A child cannot keep the parent's document longer by a path with other purposes.
        let whole = col(r#"{"category":"user","sensitivity":"personal","purposes":["p.a"]}"#);
        let merged = column(&whole, &child);
        let purposes: Vec<_> = merged
            .tag()
            .into_iter()
            .flat_map(|tag| tag.cells())
            .flat_map(|(_, tag)| tag.purposes.clone())
            .collect();
        assert_eq!(purposes, ["p.a"]);
        // Where one lies inside the other the parent's counts.
        let child = paths(&[inner(r#""a","x""#, r#""p.a""#)]);
        assert_eq!(column(&parent, &child), parent);
    }
}
