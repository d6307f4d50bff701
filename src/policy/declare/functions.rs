//! The SQL functions on the policy as one document.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{JsonB, name};

use super::{apply, read};
use crate::pg::args::required;
use crate::pg::report::SqlResult;

/// Everything that is declared in this database, as one document: purposes with every period they had, laws, the
/// labels of tables and columns, permitted publications, and those whose subscribers dispose by themselves. By names,
/// never by OIDs; two exports of the same policy are equal. Legal holds, consents and keys are not in it: they are about
/// persons and matters, and are kept where they are; nor are lawful bases that stewards added. A label that cannot be
/// read is left out, with a warning.
#[pg_extern(schema = "custodian", stable)]
fn export_policy() -> SqlResult<JsonB> {
    let (state, unreadable) = read::state()?;
    for object in unreadable {
        warning!("the label of {object} cannot be read, and is left out");
    }
    Ok(JsonB(state.json()?))
}

/// Makes the declared policy what a document says, and returns the difference, one row for each change: the
/// object, what happens to it, how it was and will be, and whether data may stay longer or go further than before.
/// All changes are made, or none. With `dry_run` (the default) none is; the document is checked all the same.
///
/// A document has the form that `export_policy()` gives. What it leaves out stays as it is, and `null` in a label's
/// place removes the label; with `"complete": true` labels and permissions that it does not list are removed, and it
/// must list every purpose and law, since those are never removed. Periods are ISO 8601 durations or words
/// (`90 days`). Rights are those of the single functions: owners add and tighten tags, stewards do the rest.
///
/// Errors: 22023 for a document that is wrong, with the member; 42501 without rights; 42704 for a table, column,
/// purpose or law that does not exist; 42710 for a purpose that would change in more than its period; 55000 for one
/// that has ended; 55P03 when others changed the policy meanwhile.
#[pg_extern(schema = "custodian")]
#[allow(clippy::type_complexity)]
fn apply_policy(
    policy: Option<JsonB>,
    dry_run: default!(Option<bool>, "true"),
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(object, String),
            name!(change, &'static str),
            name!(before, Option<JsonB>),
            name!(after, Option<JsonB>),
            name!(loosens, bool),
        ),
    >,
    ErrorReport,
> {
    let document = required("policy", policy)?.0;
    let changes = if required("dry_run", dry_run)? {
        let plan = apply::plan(document)?;
        plan.check()?;
        plan.changes
    } else {
        apply::apply(document)?
    };
    Ok(TableIterator::new(changes.into_iter().map(|change| {
        (
            change.object,
            change.change,
            change.before.map(JsonB),
            change.after.map(JsonB),
            change.loosens,
        )
    })))
}
