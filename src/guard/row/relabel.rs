//! Changes of tags while holds are in force.

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::evidence::events::Outcome;
use crate::guard::row::probe::{self, Minimums};
use crate::guard::row::verdict::Act;
use crate::guard::row::veto::{installed, tree};
use crate::guard::row::{fire, sync};
use crate::pg::relation;
use crate::policy::hold_read;
use crate::tag::read;
use crate::tag::target::Label;

/// Before a label changes: while holds are in force, the tags by which they find and protect rows stay, for
/// stewards too, since releasing a hold takes two people.
pub fn before_change(
    relation: pg_sys::Oid,
    attnum: i16,
    old: Option<&Label>,
    new: Option<&Label>,
) -> Result<()> {
    if !installed() {
        return Ok(());
    }
    match (old, new) {
        (Some(Label::Table(old)), new) => {
            let after = match new {
                Some(Label::Table(new)) => new.subject.as_ref(),
                _ => None,
            };
            match &old.subject {
                Some(before) if Some(before) != after => subject_changed(relation, &before.kind),
                _ => Ok(()),
            }
        }
        (Some(Label::Column(old)), new) if old.tag().is_some() => {
            if matches!(new, Some(Label::Column(new)) if new.tag().is_some()) {
                return Ok(());
            }
            let column = relation::column_name(relation, attnum).unwrap_or_default();
            let name = relation::describe(relation);
            refuse_if_any_held(
                relation,
                &format!("remove the tag of column \"{column}\" of table \"{name}\""),
            )
        }
        (_, Some(Label::Column(new))) if new.tag().is_some() && !relation::is_steward() => {
            // The first tag of a column, also of one that was cleared, would free the other columns of held rows.
            if read::labels(relation).column_tags().is_empty() {
                let name = relation::describe(relation);
                return refuse_if_any_held(
                    relation,
                    &format!("tag the first column of table \"{name}\""),
                );
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn subject_changed(relation: pg_sys::Oid, kind: &str) -> Result<()> {
    if !hold_read::subject_kinds()?.iter().any(|held| held == kind) {
        return Ok(());
    }
    let name = relation::describe(relation);
    let error = Error::new(
        Kind::Kept,
        format!(
            "the subjects of table \"{name}\" cannot be tagged otherwise: legal holds on subjects of kind \"{kind}\" are in force"
        ),
    )
    .hint("A data steward can end them with custodian.release_hold().");
    fire::record(&name, Outcome::Refused, &error);
    Err(error)
}

fn refuse_if_any_held(relation: pg_sys::Oid, what: &str) -> Result<()> {
    for relation in tree(relation) {
        if !sync::is_guarded(relation)? {
            continue;
        }
        let keeping = fire::keeping(relation)?;
        if keeping.has_holds()
            && let Some(keeper) = probe::any(&keeping, true, Minimums::Disregarded, None)?
        {
            return fire::object(&keeping.name, Act::Table(what), &keeper);
        }
    }
    Ok(())
}
