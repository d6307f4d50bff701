//! Reads transfers and lanes from the extension's tables.

use ipnet::IpNet;

use crate::error::{Error, Result};
use crate::guard::lane::model::{Lane, Transfer};
use crate::pg::{relation, sandbox, spi, time};

/// The columns of a transfer `t`, in the order of [`transfer`]. Purposes that have ended are left out.
const TRANSFER: &str = "t.transfer, t.organisation, t.region, \
    ARRAY(SELECT p.name FROM custodian.purpose p WHERE p.name = ANY (t.purposes) \
          AND (p.ended_at IS NULL OR p.ended_at > pg_catalog.clock_timestamp()) ORDER BY 1), \
    t.categories, t.consent_column, t.residencies, t.valid_until";
/// What makes a transfer `t` one that may be used.
const USABLE: &str = "t.approved_at IS NOT NULL AND t.revoked_at IS NULL \
    AND t.valid_until > pg_catalog.clock_timestamp()";

fn transfer(row: &spi::Row, at: usize) -> Result<Transfer> {
    Ok(Transfer {
        name: row.must(at)?,
        organisation: row.must(at + 1)?,
        region: row.must(at + 2)?,
        purposes: row.must(at + 3)?,
        categories: row.must(at + 4)?,
        consent_column: row.get(at + 5)?,
        residencies: row.must(at + 6)?,
        valid_until: time::raw(time::instant(row.must(at + 7)?)),
    })
}

/// The transfers that may be used now. Here and below rows of tables that inherit from the extension's own do not count: nobody
/// looks at who writes them.
pub fn usable_transfers() -> Result<Vec<Transfer>> {
    if relation::own_relation(c"transfer").is_none() {
        return Ok(Vec::new());
    }
    sandbox::as_extension_owner(|| {
        spi::select(
            &format!(
                "SELECT {TRANSFER} FROM ONLY custodian.transfer t WHERE {USABLE} ORDER BY t.transfer"
            ),
            &[],
            |row| transfer(row, 1),
        )
    })
}

/// A transfer by its name, whether or not it may be used.
pub fn transfer_named(name: &str) -> Result<Option<Transfer>> {
    sandbox::as_extension_owner(|| {
        spi::select_one(
            &format!("SELECT {TRANSFER} FROM ONLY custodian.transfer t WHERE t.transfer = $1"),
            &[name.into()],
            |row| transfer(row, 1),
        )
    })
}

/// The lanes of this database that are open now, under transfers that may be used. Empty where the extension is not
/// installed, or in a version without lanes.
pub fn open_lanes() -> Result<Vec<Lane>> {
    if relation::own_relation(c"lane").is_none() {
        return Ok(Vec::new());
    }
    sandbox::as_extension_owner(|| {
        spi::select(
            &format!(
                "SELECT l.lane, l.role, l.network::pg_catalog.text, l.issuer, l.slot, l.plugin, l.publications, {TRANSFER} \
                 FROM ONLY custodian.lane l JOIN ONLY custodian.transfer t ON t.transfer = l.transfer \
                 WHERE l.closed_at IS NULL AND l.database = pg_catalog.current_database()::pg_catalog.text AND {USABLE} \
                 ORDER BY l.lane"
            ),
            &[],
            |row| {
                let network = match row.get::<String>(3)? {
                    None => None,
                    Some(text) => Some(text.parse::<IpNet>().map_err(Error::internal)?.trunc()),
                };
                Ok(Lane {
                    id: row.must(1)?,
                    role: row.must(2)?,
                    network,
                    issuer: row.get(4)?,
                    slot: row.must(5)?,
                    plugin: row.must(6)?,
                    publications: row.must(7)?,
                    transfer: transfer(row, 8)?,
                })
            },
        )
    })
}
