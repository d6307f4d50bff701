//! What makes rows behind a watermark due again is queued in custodian.reopening by whoever causes it, and lowers
//! the watermarks in the next round.

use std::collections::BTreeMap;

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::{sandbox, spi, time};
use crate::policy::model::Schema;
use crate::policy::period::Instant;

/// Queues that rows of a relation, or of a table above or below it, may be due although sweeps have passed
/// them: those that would have become due after `since`, or all for `None`. `cause` is a short stable code. For
/// statements of anybody: the caller checks whether they may cause it.
pub fn relation(relation: pg_sys::Oid, since: Option<Instant>, cause: &str) -> Result<()> {
    let since = since.and_then(time::timestamp);
    sandbox::as_extension_owner(|| {
        spi::execute(
            "INSERT INTO custodian.reopening (relation, since, cause)
             VALUES ($1, coalesce($2, '-infinity'), $3)",
            &[relation.into(), since.into(), cause.into()],
        )?;
        Ok(())
    })
}

struct Reopening {
    relation: Option<u32>,
    subject_kind: Option<String>,
    /// `None`: everything.
    since: Option<Instant>,
}

/// Whether anything is queued. Assigns no transaction id.
pub fn pending() -> Result<bool> {
    sandbox::as_extension_owner(|| {
        Ok(spi::select_one(
            "SELECT EXISTS (SELECT FROM custodian.reopening)",
            &[],
            |row| row.must::<bool>(1),
        )?
        .unwrap_or(false))
    })
}

/// Takes what is queued, and lowers the watermarks of the leaves it is about. A pass that began before does not
/// raise them again: their generation has changed.
pub fn apply(schema: &Schema) -> Result<()> {
    if !pending()? {
        return Ok(());
    }
    sandbox::as_extension_owner(|| {
        let queued = spi::write(
            "DELETE FROM custodian.reopening
             RETURNING relation, subject_kind, CASE WHEN isfinite(since) THEN since END",
            &[],
            |row| {
                Ok(Reopening {
                    relation: row.get::<pg_sys::Oid>(1)?.map(pg_sys::Oid::to_u32),
                    subject_kind: row.get(2)?,
                    since: row.get::<TimestampWithTimeZone>(3)?.map(time::instant),
                })
            },
        )?;
        for (leaf, since) in concerned(schema, &queued) {
            lower(pg_sys::Oid::from(leaf), since)?;
        }
        Ok(())
    })
}

/// Each leaf concerned, with the earliest instant from which it is to be looked at again; `None` is everything.
fn concerned(schema: &Schema, queued: &[Reopening]) -> BTreeMap<u32, Option<Instant>> {
    let mut leaves: BTreeMap<u32, Option<Instant>> = BTreeMap::new();
    let mut add = |leaf: u32, since: Option<Instant>| {
        leaves
            .entry(leaf)
            .and_modify(|known| *known = known.zip(since).map(|(known, since)| known.min(since)))
            .or_insert(since);
    };
    for reopening in queued {
        // A leaf that nothing governs at present keeps its watermark for when it is attached again.
        if let Some(relation) = reopening.relation {
            add(relation, reopening.since);
        }
        for table in schema.tables.values() {
            let of_kind = reopening.subject_kind.is_some()
                && table
                    .tag
                    .as_ref()
                    .and_then(|tag| tag.subject.as_ref())
                    .map(|subject| &subject.kind)
                    == reopening.subject_kind.as_ref();
            for leaf in &table.leaves {
                let within = reopening
                    .relation
                    .is_some_and(|relation| leaf.within.contains(&relation));
                if of_kind || within {
                    add(leaf.id, reopening.since);
                }
            }
        }
    }
    leaves
}

/// Lowers every watermark of a leaf to `since`; with `None` nothing counts as looked at.
pub fn lower(leaf: pg_sys::Oid, since: Option<Instant>) -> Result<()> {
    sandbox::as_extension_owner(|| {
        spi::execute(
            "UPDATE custodian.watermark
             SET cutoff = least(cutoff, coalesce($2, '-infinity')), generation = generation + 1
             WHERE leaf = $1",
            &[leaf.into(), since.and_then(time::timestamp).into()],
        )?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::model::{Ident, Leaf, Table};
    use crate::tag::grammar::{SubjectTag, TableTag};

    fn table(id: u32, leaves: &[u32], kind: Option<&str>) -> Table {
        Table {
            id,
            ident: Ident::default(),
            owner: 10,
            columns: Vec::new(),
            primary_key: Vec::new(),
            tag: Some(TableTag {
                subject: kind.map(|kind| SubjectTag {
                    kind: kind.to_owned(),
                    key: Some(vec!["id".to_owned()]),
                    via: None,
                }),
                ..TableTag::default()
            }),
            column_tags: BTreeMap::new(),
            leaves: leaves
                .iter()
                .map(|leaf| Leaf {
                    id: *leaf,
                    ident: Ident::default(),
                    owner: 10,
                    within: vec![*leaf, id],
                })
                .collect(),
            above: Vec::new(),
            family: Vec::new(),
            split: false,
            unreadable: BTreeMap::new(),
            refused: Default::default(),
            findings: Vec::new(),
        }
    }

    fn reopening(relation: Option<u32>, kind: Option<&str>, since: Option<i64>) -> Reopening {
        Reopening {
            relation,
            subject_kind: kind.map(str::to_owned),
            since: since.map(Instant::from_micros),
        }
    }

    #[test]
    fn a_reopening_reaches_its_leaves_and_no_others() {
        let mut schema = Schema::default();
        for table in [
            table(1, &[11, 12], Some("customer")),
            table(2, &[2], Some("device")),
            table(3, &[3], None),
        ] {
            schema.tables.insert(table.id, table);
        }
        let at = |leaf: u32, since: Option<i64>| (leaf, since.map(Instant::from_micros));
        let reached = |queued: &[Reopening]| -> Vec<(u32, Option<Instant>)> {
            concerned(&schema, queued)
                .into_iter()
                .filter(|(leaf, _)| *leaf != 1)
                .collect()
        };
        assert_eq!(
            reached(&[reopening(Some(1), None, Some(5))]),
            [at(11, Some(5)), at(12, Some(5))]
        );
        assert_eq!(
            reached(&[reopening(None, Some("device"), None)]),
            [at(2, None)]
        );
        // The earliest counts, and everything is earlier than any instant.
        assert_eq!(
            reached(&[
                reopening(Some(12), None, Some(5)),
                reopening(Some(12), None, Some(3)),
                reopening(Some(11), None, Some(3)),
                reopening(Some(1), None, None),
            ]),
            [at(11, None), at(12, None)]
        );
    }
}
