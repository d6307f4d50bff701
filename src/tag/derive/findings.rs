//! Copies of personal data that somebody must look at.

use crate::error::Result;
use crate::guc;
use crate::pg::{label, relation, sandbox, spi};
use crate::policy::model::{Finding, Severity};
use crate::tag::grammar::{self, ColumnLabel};
use crate::tag::target::Target;

/// Entries at the end of the ledger that are looked at for copies.
const RECENT: i64 = 20_000;

/// Columns whose derived tags nobody has confirmed, and unreviewed columns that tagged data was copied into.
pub fn findings() -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (table, attnum, text) in label::everywhere() {
        if attnum == 0 || !matches!(grammar::parse_column(&text), Ok(ColumnLabel::Derived(_))) {
            continue;
        }
        let Ok(target) = Target::attribute(table, i32::from(attnum)) else {
            continue;
        };
        findings.push(if relation::is_materialized_view(table) {
            Finding {
                severity: Severity::Warning,
                code: "tag-derived",
                object: target.name,
                problem: "It is a copy of tagged columns. The guard goes by its derived tag; what is disposed of in the tables stays in it until it is refreshed.".to_owned(),
                remedy: "Refresh it after each sweep, or drop it. Clear the column with custodian.clear_column() if it holds no personal data.".to_owned(),
            }
        } else {
            Finding {
                severity: Severity::Warning,
                code: "tag-derived",
                object: target.name,
                problem: "It is a copy of tagged columns. The guard goes by its derived tag; nothing is disposed of in it.".to_owned(),
                remedy: "Tag it with custodian.tag_column(), or clear it with custodian.clear_column(), or drop the table.".to_owned(),
            }
        });
    }
    if guc::preloaded() {
        findings.extend(copied()?);
    }
    Ok(findings)
}

/// What is recorded of copies, by column. Events may name a column that is gone, nothing at all where several are told as
/// one, or the beginning of a long name and an ellipsis: so names are made of the catalog's, and compared.
const COPIED: &str = "
    WITH seen AS MATERIALIZED (
        SELECT object, pg_catalog.min(reason) AS reason FROM (
            SELECT b.body ->> 'object' AS object, b.body -> 'detail' ->> 'reason' AS reason
            FROM custodian.ledger_entry e
            CROSS JOIN LATERAL (SELECT custodian.ledger_body(e.body) AS body OFFSET 0) b
            WHERE e.entry > (SELECT pg_catalog.max(entry) FROM custodian.ledger_entry) - $1
              AND e.body LIKE '%guard.warned%' AND e.body LIKE '%\"copy\"%'
              AND b.body -> 'detail' ->> 'gate' = 'copy'
            UNION ALL
            SELECT p.object, p.reason FROM custodian.pending_events() p WHERE p.gate = 'copy') event
        GROUP BY object),
    unlabelled AS (
        SELECT pg_catalog.format('%I.%I.%I', n.nspname, c.relname, a.attname) AS name
        FROM pg_catalog.pg_attribute a
        JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE a.attnum > 0 AND NOT a.attisdropped AND EXISTS (SELECT FROM seen)
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_seclabel l
                          WHERE l.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND l.objoid = c.oid
                            AND l.objsubid = a.attnum AND l.provider = 'custodian'))
    SELECT s.object, s.reason FROM seen s JOIN unlabelled u ON u.name = s.object
    UNION ALL
    SELECT u.name, s.reason FROM seen s JOIN unlabelled u
        ON pg_catalog.right(s.object, 1) = '…'
       AND pg_catalog.starts_with(u.name, pg_catalog.left(s.object, -1))
    UNION ALL
    SELECT NULL, s.reason FROM seen s WHERE coalesce(s.object, '') = ''
    ORDER BY 1";

/// Columns that INSERT filled from tagged ones, as recorded, and that still have no label.
fn copied() -> Result<Vec<Finding>> {
    if relation::own_relation(c"ledger_entry").is_none() {
        return Ok(Vec::new());
    }
    sandbox::as_extension_owner(|| {
        spi::select(COPIED, &[RECENT.into()], |row| {
            Ok(match row.get::<String>(1)? {
                Some(object) => Finding {
                    severity: Severity::Warning,
                    code: "copy-untagged",
                    object,
                    problem: format!("It has no label. {}", row.must::<String>(2)?),
                    remedy: "Tag it with custodian.tag_column(), or clear it with custodian.clear_column().".to_owned(),
                },
                None => Finding {
                    severity: Severity::Warning,
                    code: "copies-untold",
                    object: "INSERT".to_owned(),
                    problem: "Tagged columns were copied into more columns without a label than could be recorded one by one.".to_owned(),
                    remedy: "Look at custodian.coverage for columns that are neither tagged nor cleared.".to_owned(),
                },
            })
        })
    })
}
