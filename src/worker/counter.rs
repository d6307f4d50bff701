//! Counters for `custodian.metrics` that only grow, whatever becomes of the runs they are about.

use crate::error::Result;
use crate::pg::{sandbox, spi};

/// Adds to counters of a table, each with a name, a label and a value.
pub fn add(
    relation_name: &str,
    counts: impl IntoIterator<Item = (String, String, f64)>,
) -> Result<()> {
    let (mut names, mut labels, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for (name, label, value) in counts {
        names.push(name);
        labels.push(label);
        values.push(value);
    }
    if names.is_empty() {
        return Ok(());
    }
    sandbox::as_extension_owner(|| {
        // In one order, so that two workers never wait for each other.
        spi::execute(
            "INSERT INTO custodian.counter AS c (name, relation_name, label, value)
             SELECT n.name, $1, n.label, n.value
             FROM unnest($2, $3, $4) AS n (name, label, value) ORDER BY n.name, n.label
             ON CONFLICT (name, relation_name, label) DO UPDATE SET value = c.value + excluded.value",
            &[
                relation_name.into(),
                names.into(),
                labels.into(),
                values.into(),
            ],
        )?;
        Ok(())
    })
}

/// Keeps the sums of runs that are removed.
pub fn keep(runs: &[i64]) -> Result<()> {
    sandbox::as_extension_owner(|| {
        spi::execute(
            "INSERT INTO custodian.counter AS c (name, relation_name, label, value)
             SELECT 'rows_disposed', r.relation_name, '', sum(r.rows_done) FROM custodian.run r
             WHERE r.run_id = ANY ($1) AND r.rows_done > 0 GROUP BY r.relation_name ORDER BY r.relation_name
             ON CONFLICT (name, relation_name, label) DO UPDATE SET value = c.value + excluded.value",
            &[runs.to_vec().into()],
        )?;
        Ok(())
    })
}
