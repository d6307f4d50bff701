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

/// Columns that INSERT filled from tagged ones, as recorded, and that still have no label.
fn copied() -> Result<Vec<Finding>> {
    if relation::own_relation(c"ledger_entry").is_none() {
        return Ok(Vec::new());
    }
    sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT seen.object, pg_catalog.min(seen.reason) FROM (
                 SELECT b.body ->> 'object' AS object, b.body -> 'detail' ->> 'reason' AS reason
                 FROM custodian.ledger_entry e
                 CROSS JOIN LATERAL (SELECT custodian.ledger_body(e.body) AS body OFFSET 0) b
                 WHERE e.entry > (SELECT pg_catalog.max(entry) FROM custodian.ledger_entry) - $1
                   AND e.body LIKE '%guard.warned%' AND e.body LIKE '%\"copy\"%'
                   AND b.body -> 'detail' ->> 'gate' = 'copy'
                 UNION ALL
                 SELECT p.object, p.reason FROM custodian.pending_events() p WHERE p.gate = 'copy') seen
             CROSS JOIN LATERAL (SELECT pg_catalog.parse_ident(seen.object) AS part) name
             JOIN pg_catalog.pg_namespace n ON n.nspname = name.part[1]
             JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = name.part[2]
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = name.part[3] AND NOT a.attisdropped
             WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_seclabel l
                               WHERE l.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND l.objoid = c.oid
                                 AND l.objsubid = a.attnum AND l.provider = 'custodian')
             GROUP BY 1 ORDER BY 1",
            &[RECENT.into()],
            |row| {
                Ok(Finding {
                    severity: Severity::Warning,
                    code: "copy-untagged",
                    object: row.must(1)?,
                    problem: format!("It has no label. {}", row.must::<String>(2)?),
                    remedy: "Tag it with custodian.tag_column(), or clear it with custodian.clear_column().".to_owned(),
                })
            },
        )
    })
}
