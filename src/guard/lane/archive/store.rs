//! Reads archive lanes from the extension's table.

use super::model::{Destination, Open, digest};
use super::qualify;
use crate::error::Result;
use crate::guard::lane::model::Transfer;
use crate::guard::lane::store;
use crate::pg::{relation, sandbox, spi};

/// An archive lane of this database that is open, under a transfer that may be used.
#[derive(Clone, Debug)]
pub struct Lane {
    pub id: i64,
    pub destination: Destination,
    pub transfer: Transfer,
}

/// The archive lanes of this database that are open now. Empty where the extension is not installed, or in a version
/// without them.
pub fn open_lanes() -> Result<Vec<Lane>> {
    if relation::own_relation(c"archive_lane").is_none() {
        return Ok(Vec::new());
    }
    let found = sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT a.lane, a.command, a.region, a.organisation, a.transfer FROM ONLY custodian.archive_lane a \
             WHERE a.closed_at IS NULL AND a.database = pg_catalog.current_database()::pg_catalog.text ORDER BY a.lane",
            &[],
            |row| {
                Ok((
                    row.must::<i64>(1)?,
                    Destination {
                        command: digest(&row.must::<String>(2)?),
                        region: row.must(3)?,
                        organisation: row.must(4)?,
                    },
                    row.must::<String>(5)?,
                ))
            },
        )
    })?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let transfers = store::usable_transfers()?;
    Ok(found
        .into_iter()
        .filter_map(|(id, destination, transfer)| {
            let transfer = transfers.iter().find(|known| known.name == transfer)?;
            Some(Lane {
                id,
                destination,
                transfer: transfer.clone(),
            })
        })
        .collect())
}

/// The archive lanes of this database that are open, and whose transfer covers all that it holds.
pub fn usable() -> Result<Vec<Open>> {
    let mut usable = Vec::new();
    for lane in open_lanes()? {
        if qualify::fault(&lane.transfer)?.is_none() {
            usable.push(Open {
                destination: lane.destination,
                until: lane.transfer.valid_until,
            });
        }
    }
    usable.sort_unstable();
    usable.dedup();
    Ok(usable)
}
