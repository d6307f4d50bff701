//! Changes of tags and laws as SQL, on tables that have rows.

use integration::quote_literal;
use retention_model::Period;
use retention_model::change::Change;
use retention_model::generate::{self, Tape};
use retention_model::world::{Reference, World};

use crate::dress::Dress;
use crate::sql::{interval, local, localized, relation};
use crate::story::FEATURES;

/// Such a change, now and then.
pub fn next(tape: &mut Tape, world: &World, dress: &Dress) -> Option<Change> {
    if !tape.chance(40) {
        return None;
    }
    let change = generate::relabel(tape, world, FEATURES)?;
    // Nothing rewrites a generated column.
    match &change {
        Change::Retag(table, column, tag)
            if tag.method.is_some() && dress.is_generated(world, *table, column) =>
        {
            None
        }
        _ => Some(change),
    }
}

/// A call of the function that puts the law on a cell.
fn require(
    (function, citation): (&str, &str),
    dress: &Dress,
    table: &str,
    cell: &str,
    (law, period): (&Reference, Period),
) -> String {
    let clock = law.clock.as_ref().map(|clock| {
        let steps = clock.over.iter().chain([&clock.column]);
        let steps: Vec<&str> = steps.map(String::as_str).collect();
        format!(", clock => {}", quote_literal(&steps.join(".")))
    });
    format!(
        "SELECT custodian.{function}({}, {}, ARRAY[{}], {}, '{citation}'{})",
        quote_literal(&local(&dress.schema, &law.name)),
        quote_literal(table),
        quote_literal(cell),
        interval(period),
        clock.unwrap_or_default()
    )
}

/// The statement that makes it; none for what is no such change.
pub fn change(dress: &Dress, world: &World, change: &Change) -> Option<String> {
    let mut after = world.clone();
    after.apply(change);
    let label = |label: Option<&String>| match label {
        Some(label) => quote_literal(&localized(&dress.schema, label)),
        None => "NULL".to_owned(),
    };
    let sql = match change {
        Change::RequireMinimum(table, cell, law, period) => require(
            ("require_minimum", "a law"),
            dress,
            &relation(dress, world, *table),
            cell,
            (law, *period),
        ),
        Change::RequireMaximum(table, cell, law, period) => require(
            ("require_maximum", "another law"),
            dress,
            &relation(dress, world, *table),
            cell,
            (law, *period),
        ),
        Change::Retag(table, cell, _) => {
            let column = cell.split('.').next().unwrap_or_default();
            let labels = after.tables[*table].column_labels();
            let new = labels.iter().find(|(name, _)| name == column);
            format!(
                "SECURITY LABEL FOR custodian ON COLUMN {}.{} IS {}",
                relation(dress, world, *table),
                column,
                label(new.map(|(_, label)| label))
            )
        }
        Change::SetDelete(table, _) => format!(
            "SECURITY LABEL FOR custodian ON TABLE {} IS {}",
            relation(dress, world, *table),
            label(after.tables[*table].label().as_ref())
        ),
        _ => return None,
    };
    Some(sql)
}
