//! What a copy of columns is, from the labels of the columns that it was made of. Pure.

use crate::tag::grammar::{ColumnLabel, DerivedTag};

/// The derived tag of a column that was computed from the columns labelled `direct`, by a query that uses the columns
/// labelled `used` to choose its rows. `None` where no personal data went into it: then it is unreviewed, as any
/// new column.
///
/// Categories and sensitivity are those of what the column was computed from. Which rows there are tells of every column
/// that the query uses, so regions are those that all of these may be in: where one is unreviewed, or the query is
/// `opaque` (it calls functions that may read anything), the residency is not stated.
pub fn derive(
    direct: &[Option<ColumnLabel>],
    used: &[Option<ColumnLabel>],
    opaque: bool,
) -> Option<DerivedTag> {
    let tags = |labels: &[Option<ColumnLabel>]| -> Vec<DerivedTag> {
        let labels = labels.iter().flatten();
        labels.filter_map(ColumnLabel::derive).collect()
    };
    let own = tags(direct)
        .into_iter()
        .reduce(|one, other| one.and(&other))?;
    let all = tags(used)
        .into_iter()
        .fold(own.clone(), |one, other| one.and(&other));
    let known = !opaque && direct.iter().chain(used).all(Option::is_some);
    Some(DerivedTag {
        residency: all.residency.filter(|_| known),
        ..own
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tag::grammar::{Sensitivity, parse_column};

    fn tag(category: &str, sensitivity: &str, residency: &str) -> Option<ColumnLabel> {
        let label = format!(
            r#"{{"category":"{category}","sensitivity":"{sensitivity}","purposes":["a.b"]{residency}}}"#
        );
        parse_column(&label).ok()
    }

    fn email() -> Option<ColumnLabel> {
        tag(
            "user.contact.email",
            "personal",
            r#","residency":["cn","eu"]"#,
        )
    }

    fn health() -> Option<ColumnLabel> {
        tag("user.health", "sensitive", r#","residency":["eu","us"]"#)
    }

    const CLEARED: Option<ColumnLabel> = Some(ColumnLabel::NotPersonal);

    fn regions(names: &[&str]) -> Option<Vec<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn several_sources_give_all_categories_the_strictest_sensitivity_and_common_regions() {
        let derived = derive(&[email(), health(), CLEARED], &[], false).unwrap();
        assert_eq!(derived.categories, ["user.contact.email", "user.health"]);
        assert_eq!(derived.sensitivity, Sensitivity::Sensitive);
        assert_eq!(derived.residency, regions(&["eu"]));
        let apart = tag("user.name", "personal", r#","residency":["us"]"#);
        let nowhere = derive(&[email(), apart], &[], false).unwrap();
        assert_eq!(nowhere.residency, regions(&[]));
    }

    #[test]
    fn what_only_chooses_rows_narrows_regions_and_adds_no_category() {
        let derived = derive(&[email()], &[email(), health()], false).unwrap();
        assert_eq!(derived.categories, ["user.contact.email"]);
        assert_eq!(derived.sensitivity, Sensitivity::Personal);
        assert_eq!(derived.residency, regions(&["eu"]));
    }

    #[test]
    fn what_is_unknown_leaves_the_residency_unstated() {
        let unstated = tag("user.name", "personal", "");
        for (direct, used, opaque) in [
            (vec![email()], vec![None], false),
            (vec![email(), None], vec![], false),
            (vec![email()], vec![unstated], false),
            (vec![email()], vec![], true),
        ] {
            let derived = derive(&direct, &used, opaque).unwrap();
            assert_eq!(derived.residency, None);
        }
    }

    #[test]
    fn what_holds_nothing_personal_stays_unreviewed() {
        assert_eq!(derive(&[CLEARED, None], &[email()], false), None);
        assert_eq!(derive(&[], &[email()], false), None);
    }

    #[test]
    fn a_copy_of_a_copy_is_what_the_copy_was() {
        let first = derive(&[email(), health()], &[], false).unwrap();
        let label = ColumnLabel::Derived(first.clone());
        assert_eq!(derive(&[Some(label)], &[], false), Some(first));
    }

    #[test]
    fn a_derived_tag_is_read_as_it_was_written() {
        for residency in [None, regions(&[]), regions(&["cn", "eu"])] {
            let label = ColumnLabel::Derived(DerivedTag {
                categories: vec!["user.name".to_owned()],
                sensitivity: Sensitivity::Sensitive,
                residency,
                tls: true,
            });
            assert_eq!(parse_column(&label.to_label().unwrap()), Ok(label));
        }
        for wrong in [
            r#"{"derived":{"categories":[],"sensitivity":"personal"}}"#,
            r#"{"derived":{"categories":["user"],"sensitivity":"personal","x":1}}"#,
            r#"{"derived":[["user"],"personal"]}"#,
            r#"{"derived":{"categories":["user"],"sensitivity":"personal"},"not_personal":true}"#,
            r#"{"derived":{"categories":["user"],"sensitivity":"personal"},"category":"user","sensitivity":"personal","purposes":["a.b"]}"#,
        ] {
            assert!(parse_column(wrong).is_err(), "{wrong}");
        }
    }
}
