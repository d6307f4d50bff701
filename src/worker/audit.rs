//! Whether the pass that looks at everything comes round in its time: the bound on whatever nothing noticed.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::guc::{self, Disposal};
use crate::pg::{sandbox, spi};
use crate::policy::load;
use crate::policy::model::{Finding, RelId, Severity};
use crate::worker::decide;

/// Leaves whose last pass over everything is older than twice `custodian.audit_interval`, with when that was: one interval
/// until it is due, and one in which it may come round. Leaves that were never passed as a whole have no watermark yet, and
/// everything in them is looked at anyway.
fn late() -> Result<Vec<(u32, String)>> {
    sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT leaf, to_char(max(audited_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')
             FROM custodian.watermark GROUP BY leaf
             HAVING isfinite(max(audited_at)) AND max(audited_at) < clock_timestamp() - 2 * make_interval(secs => $1)
             ORDER BY max(audited_at)",
            &[f64::from(guc::audit_interval()).into()],
            |row| Ok((row.must::<pgrx::pg_sys::Oid>(1)?.to_u32(), row.must::<String>(2)?)),
        )
    })
}

/// One finding for each table that sweeps dispose of, and that was not looked at as a whole for so long.
pub fn findings(findings: &mut Vec<Finding>) -> Result<()> {
    if !guc::preloaded() || guc::disposal() != Disposal::On {
        return Ok(());
    }
    let late = late()?;
    if late.is_empty() {
        return Ok(());
    }
    let schema = load::schema(None)?;
    let mut table_of: BTreeMap<u32, RelId> = BTreeMap::new();
    for table in schema.tables.values() {
        table_of.extend(table.leaves.iter().map(|leaf| (leaf.id, table.id)));
    }
    // Of each table since when the first of its leaves is late, which comes first, and how many more there are.
    let mut late_of: BTreeMap<RelId, (String, usize)> = BTreeMap::new();
    for (leaf, since) in late {
        if let Some(table) = table_of.get(&leaf) {
            late_of
                .entry(*table)
                .and_modify(|(_, more)| *more += 1)
                .or_insert((since, 0));
        }
    }
    for table in schema.tables.values() {
        let own = table.tag.as_ref().and_then(|tag| tag.disposal);
        if !table.is_tagged() || decide::mode(own) != Disposal::On {
            continue;
        }
        let Some((since, more)) = late_of.get(&table.id) else {
            continue;
        };
        let more = match more {
            0 => String::new(),
            more => format!(" ({more} more of its partitions are late)"),
        };
        findings.push(Finding {
            severity: Severity::Warning,
            code: "audit-late",
            object: table.ident.name.clone(),
            problem: format!(
                "It was last looked at as a whole at {since} UTC{more}, and custodian.audit_interval is {} seconds: what became due and was not noticed otherwise would still be there.",
                guc::audit_interval()
            ),
            remedy: "After a time in which the server was down, or when custodian.audit_interval was just made shorter, the next pass ends this by itself. Otherwise see in custodian.pauses, custodian.overdue, custodian.runs and custodian.progress what keeps sweeps of the table from their end."
                .to_owned(),
        });
    }
    Ok(())
}
