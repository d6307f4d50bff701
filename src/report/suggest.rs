//! `custodian.suggest_tags()` and `custodian.review_coverage()`: which columns look personal.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{PgRelation, pg_sys};

use crate::error::{Error, Kind, Result};
use crate::pg::args::required;
use crate::pg::regclass::Regclass;
use crate::pg::{relation, spi};
use crate::policy::model::{Finding, Severity};
use crate::policy::preview;
use crate::report::columns::{self, Column, State, Table};
use crate::report::sample::{self, Sample};
use crate::tag::detect::{self, Counts, Suggestion};
use crate::tag::grammar::Sensitivity;
use crate::tag::target;

/// The most rows that are looked at.
const MOST: i32 = 100_000;

fn check_rows(rows: i32) -> Result<i32> {
    if (0..=MOST).contains(&rows) {
        return Ok(rows);
    }
    Err(Error::new(
        Kind::InvalidParameter,
        format!("argument \"sample_rows\" must be between 0 and {MOST}"),
    )
    .hint("0 goes by names, types and comments alone."))
}

const fn sensitivity(of: Sensitivity) -> &'static str {
    match of {
        Sensitivity::Personal => "personal",
        Sensitivity::Sensitive => "sensitive",
    }
}

/// The call that tags the column, as text, quoted by the server.
fn statement(table: &Table, column: &Column, found: &Suggestion) -> Result<String> {
    let on_expiry = if column.generated {
        None
    } else if !column.not_null {
        Some("set_null")
    } else if column.is_network() {
        Some("network")
    } else {
        None
    };
    let purposes = table
        .purposes
        .clone()
        .unwrap_or_else(|| vec!["your.purpose".to_owned()]);
    let ident = relation::qualified(table.relation)?
        .ok_or_else(|| Error::internal("a table of a report is gone"))?;
    spi::select_one(
        "SELECT format('SELECT custodian.tag_column(%L, %L, %L, %L, sensitivity => %L', $1, $2, $3, $4, $5)
                || coalesce(format(', on_expiry => %L', $6), '') || ')'",
        &[
            ident.quoted.into(),
            column.name.as_str().into(),
            found.category.into(),
            purposes.into(),
            sensitivity(found.sensitivity).into(),
            on_expiry.into(),
        ],
        |row| row.must::<String>(1),
    )?
    .ok_or_else(|| Error::internal("format() yielded no row"))
}

/// The columns of a table that look personal and are not tagged.
fn found<'a>(table: &'a Table, sample: &'a Sample) -> Vec<(&'a Column, &'a Counts, Suggestion)> {
    table
        .columns
        .iter()
        .zip(&sample.counts)
        .filter(|(column, _)| column.state != State::Tagged)
        .filter_map(|(column, counts)| {
            let suggestion = detect::suggest(&column.described(table), counts)?;
            Some((column, counts, suggestion))
        })
        .collect()
}

/// The columns of a table that look personal and are not tagged: by their names and comments, in English and Chinese, by
/// their types, and by the values of up to `sample_rows` rows, at most 100,000, 0 for none. Columns that were cleared are
/// told as well.
///
/// `evidence` says why; it counts values and never shows one: `matched` of `sampled`, NULL and empty values aside.
/// `suggestion` is a call to run, after you named the purposes in it, unless the table has them already; nothing is
/// tagged by itself. Values are read with the rights of the table's owner, in a security-restricted operation. For the
/// owner and for stewards.
///
/// Errors: 42501 for others, 22023 for a wrong number of rows, 42809 for what is no table.
#[pg_extern(schema = "custodian")]
#[allow(clippy::type_complexity)]
fn suggest_tags(
    rel: Option<PgRelation>,
    sample_rows: default!(Option<i32>, "1000"),
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(column_name, String),
            name!(category, String),
            name!(sensitivity, String),
            name!(state, String),
            name!(evidence, String),
            name!(matched, Option<i64>),
            name!(sampled, i64),
            name!(ratio, Option<f64>),
            name!(suggestion, String),
        ),
    >,
    ErrorReport,
> {
    let rel = required("rel", rel)?.oid();
    let rows = check_rows(required("sample_rows", sample_rows)?)?;
    target::check_kind(rel)?;
    preview::require_owner(rel)?;
    let mut lines = Vec::new();
    for table in columns::tables(Some(rel))? {
        let sample = sample::sample(&table, rows);
        if let Some(problem) = &sample.problem {
            warning!("values could not be read everywhere: {problem}");
        }
        for (column, counts, found) in found(&table, &sample) {
            let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
            let ratio = found
                .matched
                .map(|matched| (matched as f64 / counts.sampled as f64 * 1000.0).round() / 1000.0);
            let state = match column.state {
                State::Cleared => "cleared",
                _ => "unreviewed",
            };
            lines.push((
                column.name.clone(),
                found.category.to_owned(),
                sensitivity(found.sensitivity).to_owned(),
                state.to_owned(),
                found.evidence.join("; "),
                found.matched.map(count),
                count(counts.sampled),
                ratio,
                statement(&table, column, &found)?,
            ));
        }
    }
    Ok(TableIterator::new(lines))
}

/// How far the columns of tables were reviewed.
struct Coverage {
    relation: pg_sys::Oid,
    columns: i64,
    tagged: i64,
    cleared: i64,
    personal: Vec<String>,
}

fn coverage(table: &Table, sample: &Sample) -> Coverage {
    let count = |state: State| {
        let columns = table.columns.iter().filter(|column| column.state == state);
        i64::try_from(columns.count()).unwrap_or(i64::MAX)
    };
    let (tagged, cleared) = (count(State::Tagged), count(State::Cleared));
    Coverage {
        relation: table.relation,
        columns: tagged + cleared + count(State::Unreviewed),
        tagged,
        cleared,
        personal: found(table, sample)
            .into_iter()
            .filter(|(column, _, _)| column.state == State::Unreviewed)
            .map(|(column, _, _)| column.name.clone())
            .collect(),
    }
}

/// One row for each table, its partitions included: how many columns it has, how many are tagged, cleared and
/// unreviewed, and which of the unreviewed look personal. With `sample_rows`, also by the values of so many rows of each
/// table, which reads every table that is asked for; without, by names, types and comments alone, from catalogs.
/// Stewards see all tables, members of pg_monitor too where no values are read, others those they own.
///
/// Errors: 42501 for a table of another owner, 22023 for a wrong number of rows.
#[pg_extern(schema = "custodian")]
#[allow(clippy::type_complexity)]
fn review_coverage(
    rel: default!(Option<PgRelation>, "NULL"),
    sample_rows: default!(Option<i32>, "0"),
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(relation, Regclass),
            name!(columns, i64),
            name!(tagged, i64),
            name!(cleared, i64),
            name!(unreviewed, i64),
            name!(looks_personal, i64),
            name!(personal_columns, Vec<String>),
        ),
    >,
    ErrorReport,
> {
    let rel = rel.map(|rel| rel.oid());
    let rows = check_rows(required("sample_rows", sample_rows)?)?;
    let everything = relation::is_steward() || rows == 0 && relation::is_monitor();
    if let Some(rel) = rel {
        target::check_kind(rel)?;
        if !everything {
            preview::require_owner(rel)?;
        }
    }
    let mut lines = Vec::new();
    for table in columns::tables(rel)? {
        if !everything && !relation::is_owner(table.relation) {
            continue;
        }
        let sample = sample::sample(&table, rows);
        if let Some(problem) = &sample.problem {
            let name = relation::describe(table.relation);
            warning!("values of {name} could not be read everywhere: {problem}");
        }
        let line = coverage(&table, &sample);
        lines.push((
            Regclass(line.relation),
            line.columns,
            line.tagged,
            line.cleared,
            line.columns - line.tagged - line.cleared,
            i64::try_from(line.personal.len()).unwrap_or(i64::MAX),
            line.personal,
        ));
    }
    Ok(TableIterator::new(lines))
}

/// Tables with unreviewed columns that look personal by name, type or comment; values are not looked at. And how many
/// tables nobody ever reviewed.
pub fn findings() -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut never = 0u64;
    for table in columns::tables(None)? {
        let line = coverage(&table, &sample::sample(&table, 0));
        if line.tagged + line.cleared == 0 {
            never += 1;
        }
        if line.personal.is_empty() {
            continue;
        }
        let object = relation::describe(table.relation);
        findings.push(Finding {
            severity: Severity::Warning,
            code: "personal-unreviewed",
            problem: format!(
                "Columns look personal, and are neither tagged nor cleared: {}.",
                line.personal.join(", ")
            ),
            remedy: "See custodian.suggest_tags() for the table; tag the columns, or clear them with custodian.clear_column()."
                .to_owned(),
            object,
        });
    }
    if never > 0 {
        findings.push(Finding {
            severity: Severity::Notice,
            code: "tables-unreviewed",
            object: "custodian.coverage".to_owned(),
            problem: format!("Tables without a column that was tagged or cleared: {never}."),
            remedy: "Go through SELECT * FROM custodian.coverage WHERE tagged + cleared = 0."
                .to_owned(),
        });
    }
    Ok(findings)
}
