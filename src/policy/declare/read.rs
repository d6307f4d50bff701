//! The policy that is declared in this database, with the rights of the extension's owner and a snapshot of
//! this moment. No row of a user's table is read.

use std::collections::BTreeMap;

use super::state::{Law, LawKind, Permit, Purpose, State, TableLabels, TableName};
use crate::error::Result;
use crate::pg::fresh::{self, Row, Seen};
use crate::pg::sandbox;
use crate::policy::enforcement::Enforcement;
use crate::policy::load;
use crate::tag::grammar;

/// A label that cannot be read, and so is no part of what is declared: the name of what carries it.
pub type Unreadable = Vec<String>;

fn rows(sql: &str) -> Result<Vec<Row>> {
    fresh::rows(sql, &[], Seen::Everything, 0)
}

fn text(row: &Row, column: usize) -> Result<String> {
    Ok(fresh::must(row, column)?.to_owned())
}

fn purposes() -> Result<BTreeMap<String, Purpose>> {
    let mut purposes = BTreeMap::new();
    for row in &rows(
        "SELECT name, basis, jurisdiction, required, description,
                CASE WHEN isfinite(ended_at) THEN (extract(epoch FROM ended_at) * 1000000)::bigint END
         FROM custodian.purpose",
    )? {
        purposes.insert(
            text(row, 0)?,
            Purpose {
                basis: text(row, 1)?,
                jurisdiction: text(row, 2)?,
                required: fresh::must(row, 3)? == "t",
                description: row.get(4).cloned().flatten(),
                history: Vec::new(),
                ended_at: load::instant(row, 5)?,
            },
        );
    }
    for row in &rows(
        "SELECT purpose, (extract(epoch FROM in_force_since) * 1000000)::bigint,
                encode(interval_send(period), 'hex')
         FROM custodian.purpose_period WHERE isfinite(in_force_since) ORDER BY purpose, in_force_since",
    )? {
        if let (Some(purpose), Some(since)) =
            (purposes.get_mut(fresh::must(row, 0)?), load::instant(row, 1)?)
        {
            purpose.history.push((since, load::period(row, 2)?));
        }
    }
    Ok(purposes)
}

fn laws() -> Result<BTreeMap<(LawKind, String), Law>> {
    let mut laws = BTreeMap::new();
    for row in &rows(
        "SELECT name, CASE WHEN defence THEN 'defence' ELSE 'minimum' END, encode(interval_send(period), 'hex'), citation,
                enforcement
         FROM custodian.minimum
         UNION ALL
         SELECT name, 'maximum', encode(interval_send(period), 'hex'), citation, NULL FROM custodian.maximum",
    )? {
        let kind = match fresh::must(row, 1)? {
            "defence" => LawKind::Defence,
            "maximum" => LawKind::Maximum,
            _ => LawKind::Minimum,
        };
        let law = Law {
            period: load::period(row, 2)?,
            citation: text(row, 3)?,
            suspensions: Vec::new(),
            enforcement: (kind == LawKind::Minimum)
                .then(|| row.get(4).and_then(Option::as_deref).and_then(Enforcement::parse).unwrap_or_default()),
        };
        laws.insert((kind, text(row, 0)?), law);
    }
    for row in &rows(
        "SELECT minimum, (extract(epoch FROM suspended_at) * 1000000)::bigint,
                (extract(epoch FROM resumed_at) * 1000000)::bigint
         FROM custodian.suspension ORDER BY minimum, suspended_at",
    )? {
        let defence = laws.get_mut(&(LawKind::Defence, text(row, 0)?));
        if let (Some(law), Some(from)) = (defence, load::instant(row, 1)?) {
            law.suspensions.push((from, load::instant(row, 2)?));
        }
    }
    Ok(laws)
}

fn publications() -> Result<BTreeMap<String, Permit>> {
    rows("SELECT publication, to_json(regions), reason FROM custodian.publication_permit")?
        .iter()
        .map(|row| {
            let permit = Permit {
                regions: fresh::json(row, 1)?,
                reason: text(row, 2)?,
            };
            Ok((text(row, 0)?, permit))
        })
        .collect()
}

fn subscribers() -> Result<BTreeMap<String, String>> {
    rows("SELECT publication, reason FROM custodian.subscriber_disposal")?
        .iter()
        .map(|row| Ok((text(row, 0)?, text(row, 1)?)))
        .collect()
}

fn tables() -> Result<(BTreeMap<TableName, TableLabels>, Unreadable)> {
    let mut tables: BTreeMap<TableName, TableLabels> = BTreeMap::new();
    let mut unreadable = Vec::new();
    for row in &rows(
        "SELECT n.nspname, c.relname, a.attname, l.label
         FROM pg_seclabel l
         JOIN pg_class c ON c.oid = l.objoid AND c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
         JOIN pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_attribute a ON a.attrelid = l.objoid AND a.attnum = l.objsubid AND l.objsubid > 0
         WHERE l.provider = 'custodian' AND l.classoid = 'pg_class'::regclass
           AND (l.objsubid = 0 OR NOT a.attisdropped)
         ORDER BY 1, 2, a.attnum NULLS FIRST",
    )? {
        let name = TableName {
            schema: text(row, 0)?,
            name: text(row, 1)?,
        };
        let label = fresh::must(row, 3)?;
        let labels = tables.entry(name.clone()).or_default();
        match row.get(2).cloned().flatten() {
            None => match grammar::parse_table(label) {
                Ok(tag) => labels.tag = Some(tag),
                Err(_) => unreadable.push(name.to_string()),
            },
            Some(column) => match grammar::parse_column(label) {
                Ok(label) => {
                    labels.columns.insert(column, label);
                }
                Err(_) => unreadable.push(name.column(&column)),
            },
        }
    }
    tables.retain(|_, labels| !labels.is_empty());
    Ok((tables, unreadable))
}

/// What is declared, and the labels that cannot be read.
pub fn state() -> Result<(State, Unreadable)> {
    sandbox::as_extension_owner(|| {
        let (tables, unreadable) = tables()?;
        // A purpose without a period is what a restore that went wrong leaves; the checks report it.
        let mut purposes = purposes()?;
        purposes.retain(|_, purpose| !purpose.history.is_empty());
        let state = State {
            purposes,
            laws: laws()?,
            tables,
            publications: publications()?,
            subscribers: subscribers()?,
        };
        Ok((state, unreadable))
    })
}
