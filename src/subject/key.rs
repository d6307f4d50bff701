//! The keys of subjects, in the text form that the columns of the subject's own table give them.

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::pg::label;
use crate::policy::hold_value;
use crate::tag::grammar;

/// The longest key accepted, in bytes of all its parts: an entry of an index must hold it.
const LONGEST: usize = 1000;

/// The table whose tag says that its rows are the subjects of a kind, and the columns that identify them.
fn own_table(kind: &str) -> Option<(pg_sys::Oid, Vec<String>)> {
    label::everywhere()
        .into_iter()
        .filter(|(_, attnum, text)| *attnum == 0 && text.contains(kind))
        .find_map(|(relation, _, text)| {
            let subject = grammar::parse_table(&text).ok()?.subject?;
            (subject.kind == kind).then_some((relation, subject.key?))
        })
}

/// The key as it stands in the columns of the subject's own table.
///
/// Errors: 42704 where no table is tagged as that of the kind; 22023 for a key with another number of parts, a NULL,
/// or a value that is not of its column's type; 42809 for a column whose equal values have different texts; 54000
/// for a key that is too long.
pub fn normalize(kind: &str, key: Vec<Option<String>>) -> Result<Vec<String>> {
    let (table, columns) = own_table(kind).ok_or_else(|| {
        Error::new(
            Kind::UndefinedObject,
            format!("no table is tagged as the one of subjects of kind \"{kind}\""),
        )
        .hint("Tag it with custodian.tag_table(rel, subject_kind => kind, subject_key => columns).")
    })?;
    if columns.len() != key.len() {
        return Err(Error::new(
            Kind::InvalidParameter,
            format!(
                "subjects of kind \"{kind}\" have {} key columns, not {}",
                columns.len(),
                key.len()
            ),
        )
        .hint(format!("Give the values of: {}.", columns.join(", "))));
    }
    let key = crate::pg::args::elements("key", key)?;
    if key.iter().map(String::len).sum::<usize>() > LONGEST {
        return Err(Error::new(
            Kind::ProgramLimitExceeded,
            format!("the key of a subject is longer than {LONGEST} bytes"),
        )
        .hint("Identify subjects by a shorter column, such as a number."));
    }
    let mut normal = Vec::with_capacity(key.len());
    for (column, value) in columns.iter().zip(key) {
        normal.extend(hold_value::normalize(table, column, vec![value])?);
    }
    Ok(normal)
}
