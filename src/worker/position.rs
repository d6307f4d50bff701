//! Where a run is: what `custodian.progress` shows of it, and up to which block a pass has come, from which it goes on after
//! an interruption.

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::{fresh, sandbox, spi};

/// What a sweep does at the moment. While it waits, `custodian.progress` says that instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    DroppingPartitions,
    /// Tries rows of the quarantine again whose time has come.
    RetryingRows,
    ChoosingWay,
    Disposing,
    /// Looks whether anything due is left behind it.
    Verifying,
}

impl Phase {
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::DroppingPartitions => "dropping partitions",
            Phase::RetryingRows => "retrying rows",
            Phase::ChoosingWay => "choosing the way",
            Phase::Disposing => "disposing",
            Phase::Verifying => "verifying",
        }
    }
}

/// Shows what a run does.
pub fn enter(id: i64, phase: Phase) -> Result<()> {
    sandbox::as_extension_owner(|| {
        fresh::repeated_write(
            "UPDATE custodian.run SET phase = $2 WHERE run_id = $1 AND phase IS DISTINCT FROM $2",
            &[id.into(), phase.as_str().into()],
        )?;
        Ok(())
    })
}

/// A place on the way of a run.
pub struct Position<'a> {
    pub leaf: &'a str,
    pub action: &'a str,
    pub phase: Phase,
    /// Blocks of the way that were passed, and all of them.
    pub passed: u64,
    pub total: u64,
}

/// Shows where a run is.
pub fn show(id: i64, position: &Position) -> Result<()> {
    let number = |blocks: u64| i64::try_from(blocks).unwrap_or(i64::MAX);
    sandbox::as_extension_owner(|| {
        fresh::repeated_write(
            "UPDATE custodian.run
             SET at_leaf = $2, at_action = $3, phase = $4, blocks_done = $5, blocks_total = $6
             WHERE run_id = $1",
            &[
                id.into(),
                position.leaf.into(),
                position.action.into(),
                position.phase.as_str().into(),
                number(position.passed).into(),
                number(position.total).into(),
            ],
        )?;
        Ok(())
    })
}

/// Notes that all blocks of an item's leaf before `block` were passed, in the file `filenode`. In a transaction that begins
/// after the batches on them have committed: a crash that takes one of them back takes this back as well, whose WAL is
/// behind theirs.
pub fn reach(id: i64, item: i32, block: u32, filenode: pg_sys::Oid) -> Result<()> {
    sandbox::as_extension_owner(|| {
        fresh::repeated_write(
            "UPDATE custodian.run_item SET passed_to = $3, filenode = $4 WHERE run_id = $1 AND item = $2",
            &[
                id.into(),
                item.into(),
                i64::from(block).into(),
                filenode.into(),
            ],
        )?;
        Ok(())
    })
}

/// The file of a leaf, and the first block of it that an earlier attempt of the run has not passed: 0 where it was
/// written anew since, as by VACUUM FULL, which moves rows.
pub fn reached(id: i64, item: i32, leaf: pg_sys::Oid) -> Result<(Option<pg_sys::Oid>, u32)> {
    sandbox::as_extension_owner(|| {
        let found = spi::select_one(
            "SELECT now.filenode, CASE WHEN i.filenode = now.filenode THEN i.passed_to END
             FROM custodian.run_item i, pg_catalog.pg_relation_filenode($3) AS now (filenode)
             WHERE i.run_id = $1 AND i.item = $2",
            &[id.into(), item.into(), leaf.into()],
            |row| Ok((row.get::<pg_sys::Oid>(1)?, row.get::<i64>(2)?)),
        )?;
        let (filenode, block) = found.unwrap_or((None, None));
        let block = block.and_then(|block| u32::try_from(block).ok());
        Ok((filenode, block.unwrap_or(0)))
    })
}
