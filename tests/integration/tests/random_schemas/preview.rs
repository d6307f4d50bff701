//! What previews say, against what the model would do: for each table, column and action, and for whole tables.

use std::collections::{BTreeMap, BTreeSet};

use integration::{Error, Result, Sql};
use postgres::SimpleQueryMessage;
use retention_model::calendar::{self, DAY, HOUR};
use retention_model::world::{Value, World};
use retention_model::{Moment, Period, State};

use crate::session::Session;
use crate::story::Totals;

/// What a preview says: how many rows, by relation, columns and action, for whatever reasons.
type Said = BTreeMap<(String, Vec<String>, String), usize>;

/// What a preview of everything says of the schema, as of a moment.
fn said(session: &mut Session, as_of: Moment) -> Result<Said> {
    let sql = format!(
        "SELECT c.relname, array_to_string(p.column_names, ' '), p.action, coalesce(sum(p.rows), 0), string_agg(p.reason, '; ')
         FROM custodian.preview(as_of => '{}') p JOIN pg_catalog.pg_class c ON c.oid = p.relation
         WHERE c.relnamespace = '{}'::regnamespace GROUP BY 1, 2, 3",
        calendar::text(as_of),
        session.schema()
    );
    let mut said = Said::new();
    for message in session.client.simple_query(&sql)? {
        let SimpleQueryMessage::Row(row) = message else {
            continue;
        };
        let text = |at: usize| row.get(at).unwrap_or_default().to_owned();
        let (relation, columns, action, rows) = (text(0), text(1), text(2), text(3));
        if action == "cannot count" {
            return Err(Error::new(format!("a preview of {relation}: {}", text(4))));
        }
        let rows = rows
            .parse()
            .map_err(|_| Error::new(format!("{rows:?} is no number of rows")))?;
        let columns = columns.split_whitespace().map(str::to_owned).collect();
        said.insert((relation, columns, action), rows);
    }
    Ok(said)
}

/// How many rows of the table, and of what is below it, a preview of it says would be deleted.
fn deleted_of(session: &mut Session, world: &World, table: usize) -> Result<usize> {
    let name = &world.tables[table].name;
    let sql = format!(
        "SELECT coalesce(sum(p.rows), 0) FROM custodian.preview('{}.{name}') p
         JOIN pg_catalog.pg_class c ON c.oid = p.relation
         WHERE p.action = 'delete row' AND split_part(c.relname, '_', 1) = '{name}'",
        session.schema()
    );
    let text = session.client.text(&sql)?;
    text.parse()
        .map_err(|_| Error::new(format!("{text:?} is no number of rows")))
}

/// Whether partitions or children of a table that refers to others have tags of their own: its rows go first, and the others in
/// the next sweep; until then their cells are told, and not they.
fn goes_in_turn(world: &World) -> bool {
    world.foreign_keys.iter().any(|key| {
        (0..world.tables.len())
            .any(|at| world.tables[at].own.is_some() && world.is_within(at, key.child))
    })
}

/// Compares what previews of single tables say will be deleted.
pub fn compare_each(session: &mut Session, world: &World, totals: &mut Totals) -> Result<()> {
    let decision = world.decide();
    let in_turn = goes_in_turn(world);
    for (at, table) in world.tables.iter().enumerate() {
        if table.above.is_some() || !table.tag.as_ref().is_some_and(|tag| tag.delete) {
            continue;
        }
        let rows = decision.deleted.iter().map(|row| &world.rows[*row]);
        let expected = rows.filter(|row| world.is_within(row.table, at)).count();
        let found = deleted_of(session, world, at)?;
        if found > expected || found < expected && !in_turn {
            return Err(Error::new(format!(
                "a preview of {} says {found} rows instead of {expected}: {:?}\nin {world:#?}",
                table.name, decision.deleted
            )));
        }
        totals.previewed += found;
    }
    Ok(())
}

/// How many moments are tried.
const TRIED: usize = 40;

/// How long from the present a moment lies at which it matters that tags and policy are no more what they were, or else some days.
pub fn where_it_matters(before: &World, world: &World) -> Moment {
    let some_days = [31, 100, 400, 1200][world.rows.len() % 4] * DAY;
    until_it_matters(before, world).unwrap_or(some_days)
}

/// How long from the present a moment lies at which the same rows would be decided otherwise.
pub fn until_it_matters(before: &World, world: &World) -> Option<Moment> {
    let columns = |world: &World| -> Vec<usize> {
        let tables = world.tables.iter();
        tables.map(|table| table.columns.len()).collect()
    };
    // Tables came or went, or columns did.
    if columns(before) != columns(world) {
        return None;
    }
    let mut then = before.clone();
    then.rows.clone_from(&world.rows);
    let policy = &before.policy;
    // What minimums keep, first.
    let minimums = policy.minimums.values().map(|law| law.period);
    let purposes = policy
        .purposes
        .values()
        .filter_map(|purpose| Some(purpose.periods.last()?.1));
    let periods: Vec<Period> = minimums
        .chain(policy.maximums.values().copied())
        .chain(purposes)
        .collect();
    let values = || world.rows.iter().flat_map(|row| row.values.values());
    let ends = periods.iter().flat_map(|period| {
        values().filter_map(|value| match value {
            Value::Time(clock) => Some(calendar::add(*clock, *period)),
            _ => None,
        })
    });
    let mut now = world.clone();
    ends.filter(|end| *end > world.now)
        .take(TRIED)
        .find(|end| {
            (then.now, now.now) = (*end, *end);
            then.decide() != now.decide()
        })
        .map(|end| end - world.now + HOUR / 2)
}

/// The table of the world that a relation is, or is a part of, or that governs it.
fn governor(world: &World, relation: &str) -> Option<usize> {
    let named = |name: &str| world.tables.iter().position(|table| table.name == name);
    let table = named(relation).or_else(|| named(relation.rsplit_once('_')?.0))?;
    Some(world.governor(table))
}

/// What a method does to a cell, in the words of previews.
fn action(left: &Value) -> &'static str {
    match left {
        Value::Null => "set null",
        _ => "set constant",
    }
}

/// Whether it is no rewriting of cells: rows that go, and what is kept or goes along.
fn is_of_rows(action: &str) -> bool {
    !action.split(", ").all(|one| one.starts_with("set "))
}

/// Compares what a preview of everything says, for each table, column and action, as of some time after the present.
pub fn compare(
    session: &mut Session,
    world: &World,
    later: Moment,
    totals: &mut Totals,
) -> Result<()> {
    let mut world = world.clone();
    world.now += later;
    let world = &world;
    let (after, decision) = world.sweep();
    let in_turn = goes_in_turn(world);
    let said = said(session, world.now)?;
    let mut wrong = Vec::new();
    let mut check = |what: String, found: usize, least: usize, most: usize| {
        if found < least || found > most {
            wrong.push(format!("{what}: {found} rows instead of {least} to {most}"));
        }
    };

    // Rows that go, whatever takes them along.
    let mut going: BTreeMap<usize, usize> = BTreeMap::new();
    for ((relation, _, action), rows) in &said {
        if action.starts_with("delete row") {
            let table = governor(world, relation)
                .ok_or_else(|| Error::new(format!("a preview of {relation}, which is no table")))?;
            *going.entry(table).or_default() += rows;
        }
    }
    for table in 0..world.tables.len() {
        // Untagged rows that go along are no decisions of their own.
        let rows = |world: &World| {
            let rows = world.rows.iter();
            rows.filter(|row| world.governor(row.table) == table)
                .count()
        };
        let expected = rows(world) - rows(&after);
        let found = going.get(&table).copied().unwrap_or(0);
        let least = if in_turn { 0 } else { expected };
        check(
            format!("{}, delete row", world.tables[table].name),
            found,
            least,
            expected,
        );
        totals.previewed += found;
    }

    // Cells that are rewritten. Columns that share all decisions share a line, with the rows in which one of them is due.
    let due = |table: usize, columns: &[String], with_rows: bool| {
        let rows = decision.states.iter().enumerate();
        rows.filter(|(row, _)| world.governor(world.rows[*row].table) == table)
            .filter(|(row, _)| with_rows || !decision.deleted.contains(row))
            .filter(|(_, states)| {
                let state = |column: &String| states.get(column) == Some(&State::Due);
                columns.iter().any(state)
            })
            .count()
    };
    let mut told: BTreeSet<(usize, String)> = BTreeSet::new();
    for ((relation, columns, action_said), rows) in &said {
        if is_of_rows(action_said) {
            continue;
        }
        let table = governor(world, relation)
            .ok_or_else(|| Error::new(format!("a preview of {relation}, which is no table")))?;
        let tags = &world.tables[table].cells;
        let methods = columns
            .iter()
            .map(|column| tags.get(column).and_then(|tag| tag.method.as_ref()));
        let actions: Option<BTreeSet<&str>> = methods.map(|method| method.map(action)).collect();
        let said: BTreeSet<&str> = action_said.split(", ").collect();
        if actions != Some(said) {
            return Err(Error::new(format!(
                "a preview of {relation} says \"{action_said}\" of {columns:?}\nin {world:#?}"
            )));
        }
        let what = format!("{relation}, {}, {action_said}", columns.join(" and "));
        let least = due(table, columns, false);
        let most = if in_turn {
            due(table, columns, true)
        } else {
            least
        };
        check(what, *rows, least, most);
        totals.previewed_cells += rows;
        told.extend(columns.iter().map(|column| (table, column.clone())));
    }
    for (table, tags) in world.tables.iter().enumerate() {
        if world.governor(table) != table {
            continue;
        }
        for (column, tag) in tags.cells.iter().filter(|(_, tag)| tag.method.is_some()) {
            if !told.contains(&(table, column.clone())) {
                let rows = due(table, std::slice::from_ref(column), false);
                let method = tag.method.as_ref().map_or("", action);
                check(format!("{}, {column}, {method}", tags.name), 0, rows, rows);
            }
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!(
        "previews differ from {decision:?}:\n{}\nsaid {said:?}\nin {world:#?}",
        wrong.join("\n")
    )))
}
