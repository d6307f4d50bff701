//! What is wrong with labels as they are, whatever they refer to.

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::{inherit, label, relation};
use crate::policy::model::{Finding, Severity};
use crate::tag::target::{Label, Target};
use crate::tag::{effective, read};

/// Labels that cannot be parsed, and labels of children that ask for less than their parents'.
pub fn findings() -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (table, attnum, _) in label::everywhere() {
        let Ok(target) = Target::attribute(table, i32::from(attnum)) else {
            continue;
        };
        match target.current() {
            None => {}
            Some(Err(error)) => findings.push(Finding {
                severity: Severity::Error,
                code: "tag-malformed",
                object: target.name,
                problem: error.to_string(),
                remedy: "Tag it again with custodian.tag_column() or custodian.tag_table(). Until then it is kept, and counts as unreviewed.".to_owned(),
            }),
            Some(Ok(label)) => findings.extend(overruled(target, &label)),
        }
    }
    Ok(findings)
}

fn overruled(target: Target, label: &Label) -> Option<Finding> {
    let (parent, fields) = overruling(&target, label)?;
    Some(Finding {
        severity: Severity::Warning,
        code: "tag-overruled",
        object: target.name,
        problem: format!(
            "The tag of \"{}\" governs in {}, where this one says something else that does not tighten it.",
            relation::describe(parent),
            fields.join(", ")
        ),
        remedy: "Tag the parent, and remove this tag with custodian.untag_column() or custodian.untag_table().".to_owned(),
    })
}

/// The first parent whose tag overrules fields of a label, and those fields.
pub fn overruling(target: &Target, label: &Label) -> Option<(pg_sys::Oid, Vec<&'static str>)> {
    inherit::parents(target.relation)
        .into_iter()
        .find_map(|parent| {
            let labels = read::labels(parent);
            let fields = match (label, &target.column) {
                (Label::Table(own), _) => effective::overruled_table(&labels.table?, own),
                (Label::Column(own), Some(column)) => {
                    effective::overruled_column(labels.columns.get(column)?, own)
                }
                (Label::Column(_), None) => return None,
            };
            (!fields.is_empty()).then_some((parent, fields))
        })
}
