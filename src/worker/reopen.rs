//! What makes rows behind a watermark due again is queued in custodian.reopening by whoever causes it, and lowers
//! the watermarks in the next round.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::datum::TimestampWithTimeZone;
use pgrx::{JsonB, pg_sys};

use crate::error::{Error, Result};
use crate::pg::lock::{Lock, Mode};
use crate::pg::{fresh, inherit, sandbox, spi, time};
use crate::policy::compile;
use crate::policy::model::{RelId, Schema};
use crate::policy::period::Instant;
use crate::policy::reach::{Again, Window};
use crate::worker::mark;

/// Queues that rows may be due although sweeps have passed them: of the relation, and of tables above or below it,
/// all rows; or, with the name of a column and a span of its values (`None`: none, or an infinite one), those rows
/// of any table whose clock it is. `cause` is a short stable code. For statements of anybody: the caller checks
/// whether they may cause it.
pub fn relation(
    relation: pg_sys::Oid,
    clock: Option<(&str, Option<(Instant, Instant)>)>,
    cause: &str,
) -> Result<()> {
    let (column, values) = clock.unzip();
    let (from, until) = values.flatten().unzip();
    sandbox::as_extension_owner(|| {
        fresh::repeated_write(
            "INSERT INTO custodian.reopening (relation, clock, low, high, cause)
             VALUES ($1, $2, $3, $4, $5)",
            &[
                relation.into(),
                column.into(),
                from.and_then(time::timestamp).into(),
                until.and_then(time::timestamp).into(),
                cause.into(),
            ],
        )?;
        Ok(())
    })
}

struct Reopening {
    relation: RelId,
    /// `None`: every row.
    clock: Option<String>,
    /// `None`: the clock has no value.
    values: Option<(Instant, Instant)>,
}

/// What is to be looked at again in a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Look {
    Everything,
    Windows(Vec<Window>),
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

/// More than this is not told apart: as where disposal was off for long.
const MOST: i64 = 100_000;

/// Takes what is queued, and notes it beside the watermarks of the leaves it is about. A pass that began before does
/// not take it for done: it was noted behind the pass's horizon, or their generation has changed. Waits for others that do the
/// same, or move these watermarks.
pub fn apply(schema: &Schema) -> Result<()> {
    if !pending()? {
        return Ok(());
    }
    take(schema, Busy::Wait)
}

/// The same in a worker. What another transaction has taken, and what is about a leaf whose watermarks another one holds, stays
/// queued for the next round: a transaction in which somebody sweeps keeps such rows until it ends, and who does not wait for it
/// cannot have it end in a deadlock.
pub fn apply_unless_busy(schema: &Schema) -> Result<()> {
    if !pending()? {
        return Ok(());
    }
    take(schema, Busy::Leave)
}

/// What is done with rows that another transaction has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Busy {
    Wait,
    Leave,
}

fn take(schema: &Schema, busy: Busy) -> Result<()> {
    let free = match busy {
        Busy::Wait => "",
        Busy::Leave => {
            "WHERE reopening = ANY (ARRAY(SELECT reopening FROM custodian.reopening FOR UPDATE SKIP LOCKED))"
        }
    };
    sandbox::as_extension_owner(|| {
        let queued = spi::write(
            // Many transactions, and subtransactions, may have queued the same. Of too many each clock has one span.
            &format!(
                "WITH gone AS (DELETE FROM custodian.reopening {free} RETURNING relation, clock, low, high),
                      many AS (SELECT count(*) > $1 AS many FROM gone)
                 SELECT DISTINCT relation, clock, low, high FROM gone, many WHERE NOT many
                 UNION ALL
                 SELECT relation, clock, min(low), max(high) FROM gone, many WHERE many
                 GROUP BY relation, clock, low IS NULL"
            ),
            &[MOST.into()],
            |row| {
                let low = row.get::<TimestampWithTimeZone>(3)?.map(time::instant);
                let high = row.get::<TimestampWithTimeZone>(4)?.map(time::instant);
                Ok(Reopening {
                    relation: row.must::<pg_sys::Oid>(1)?.to_u32(),
                    clock: row.get(2)?,
                    values: low.zip(high),
                })
            },
        )?;
        let looks = concerned(schema, &queued);
        let kept = match busy {
            Busy::Wait => BTreeSet::new(),
            Busy::Leave => {
                let mut kept = mark::held_by_others(looks.keys().copied())?;
                kept.extend(swept_by_others(schema, |leaf| looks.contains_key(&leaf))?);
                kept
            }
        };
        for (leaf, look) in looks {
            let is_kept = kept.contains(&leaf);
            let leaf = pg_sys::Oid::from(leaf);
            match look {
                look if is_kept => queue_again(leaf, look)?,
                Look::Everything => lower(leaf, None)?,
                Look::Windows(windows) => note(leaf, |again| {
                    for window in windows.iter().cloned() {
                        again.add(window);
                    }
                })?,
            }
        }
        Ok(())
    })
}

/// The leaves of tables that somebody sweeps in a transaction that goes on, of those with a leaf that `is_concerned`: it may have
/// watermarks that nobody else sees yet.
fn swept_by_others(
    schema: &Schema,
    is_concerned: impl Fn(RelId) -> bool,
) -> Result<BTreeSet<RelId>> {
    let mut kept = BTreeSet::new();
    for table in schema.tables.values() {
        let leaves = || table.leaves.iter().map(|leaf| leaf.id);
        if leaves().any(&is_concerned)
            && !Lock::Sweep(pg_sys::Oid::from(table.id)).try_take(Mode::Batch)?
        {
            kept.extend(leaves());
        }
    }
    Ok(kept)
}

/// Queues what is to be looked at in a leaf for another time.
fn queue_again(leaf: pg_sys::Oid, look: Look) -> Result<()> {
    const CAUSE: &str = "busy";
    let Look::Windows(windows) = look else {
        return relation(leaf, None, CAUSE);
    };
    for window in windows {
        let values = (
            Instant::from_micros(window.from),
            Instant::from_micros(window.until),
        );
        let values = (!window.missing).then_some(values);
        let clock = Some((window.column.as_str(), values));
        relation(pg_sys::Oid::from(window.relation), clock, CAUSE)?;
    }
    Ok(())
}

/// Each leaf concerned, with what is to be looked at in it.
fn concerned(schema: &Schema, queued: &[Reopening]) -> BTreeMap<RelId, Look> {
    let mut leaves: BTreeMap<RelId, Look> = BTreeMap::new();
    let mut add = |leaf: RelId, window: Option<Window>| {
        let look = leaves
            .entry(leaf)
            .or_insert_with(|| Look::Windows(Vec::new()));
        match (look, window) {
            (Look::Everything, _) => {}
            (look, None) => *look = Look::Everything,
            (Look::Windows(windows), Some(window)) => {
                // One and the same reaches a leaf by its own number and as a part of the table.
                if windows.last() != Some(&window) {
                    windows.push(window);
                }
            }
        }
    };
    let distant: Vec<(RelId, Vec<(RelId, String)>)> = schema
        .tables
        .values()
        .map(|table| (table.id, compile::path::distant(schema, table)))
        .collect();
    for reopening in queued {
        let window = |relation: RelId| {
            let (from, until) = reopening
                .values
                .map_or((0, 0), |(from, until)| (from.micros(), until.micros()));
            reopening.clock.as_ref().map(|column| Window {
                relation,
                column: column.clone(),
                from,
                until,
                missing: reopening.values.is_none(),
            })
        };
        // A leaf that nothing governs at present keeps its watermark for when it is attached again.
        add(reopening.relation, window(reopening.relation));
        for table in schema.tables.values() {
            for leaf in &table.leaves {
                if leaf.within.contains(&reopening.relation) {
                    add(leaf.id, window(reopening.relation));
                }
            }
        }
        // And those whose rows read the column over foreign keys.
        for (table, clocks) in &distant {
            for (parent, column) in clocks {
                let read = reopening.clock.as_ref() == Some(column)
                    && schema
                        .tables
                        .get(parent)
                        .is_some_and(|parent| parent.family.contains(&reopening.relation));
                let leaves = schema.tables.get(table).filter(|_| read);
                for leaf in leaves.iter().flat_map(|table| &table.leaves) {
                    add(leaf.id, window(*parent));
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

/// The same for every leaf at or below one of the relations: what became due at `since` or later is looked at again.
pub fn trees(roots: &[pg_sys::Oid], since: Instant) -> Result<()> {
    let before = Instant::from_micros(since.micros().saturating_sub(1));
    for root in roots {
        lower(*root, Some(before))?;
        for below in inherit::descendants(*root) {
            lower(below, Some(before))?;
        }
    }
    Ok(())
}

/// Has the rows looked at again that a hold kept back.
pub fn released(leaf: pg_sys::Oid, hold: i64) -> Result<()> {
    note(leaf, |again| again.release(hold))
}

/// Adds to what is looked at again in a leaf under each of its watermarks. A pass that began before may still raise them: what
/// it did not look at stays noted, as it was noted after the horizon of that pass ([`crate::worker::mark::horizon`]).
fn note(leaf: pg_sys::Oid, change: impl Fn(&mut Again)) -> Result<()> {
    sandbox::as_extension_owner(|| {
        let known = spi::write(
            "SELECT plan, again FROM custodian.watermark WHERE leaf = $1 FOR UPDATE",
            &[leaf.into()],
            |row| Ok((row.must::<String>(1)?, row.must::<JsonB>(2)?.0)),
        )?;
        for (plan, again) in known {
            let Ok(mut again) = serde_json::from_value::<Again>(again) else {
                return lower(leaf, None);
            };
            change(&mut again);
            if again.is_too_much() {
                return lower(leaf, None);
            }
            let again = serde_json::to_value(again).map_err(Error::internal)?;
            spi::execute(
                "UPDATE custodian.watermark SET again = $3, again_at = clock_timestamp()
                 WHERE leaf = $1 AND plan = $2",
                &[leaf.into(), plan.into(), JsonB(again).into()],
            )?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixture;
    use crate::policy::model::{Ident, Leaf, Table};
    use crate::tag::grammar::TableTag;

    fn table(id: u32, leaves: &[u32]) -> Table {
        Table {
            id,
            ident: Ident::default(),
            owner: 10,
            columns: Vec::new(),
            primary_key: Vec::new(),
            tag: Some(TableTag::default()),
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

    fn reopening(relation: RelId, column: Option<&str>, at: i64) -> Reopening {
        let at = Instant::from_micros(at);
        Reopening {
            relation,
            clock: column.map(str::to_owned),
            values: Some((at, at)),
        }
    }

    fn window(relation: RelId, column: &str, at: i64) -> Window {
        Window {
            relation,
            column: column.to_owned(),
            from: at,
            until: at,
            missing: false,
        }
    }

    #[test]
    fn a_reopening_reaches_its_leaves_and_no_others() {
        let mut schema = Schema::default();
        for table in [table(1, &[11, 12]), table(2, &[2])] {
            schema.tables.insert(table.id, table);
        }
        let reached = |queued: &[Reopening]| -> Vec<(RelId, Look)> {
            concerned(&schema, queued)
                .into_iter()
                .filter(|(leaf, _)| *leaf != 1)
                .collect()
        };
        let looks = |windows: Vec<Window>| Look::Windows(windows);
        assert_eq!(
            reached(&[reopening(1, Some("at"), 5)]),
            [
                (11, looks(vec![window(1, "at", 5)])),
                (12, looks(vec![window(1, "at", 5)]))
            ]
        );
        // Everything is more than any window.
        assert_eq!(
            reached(&[
                reopening(12, Some("at"), 5),
                reopening(12, None, 3),
                reopening(11, Some("at"), 3),
                reopening(12, Some("at"), 6),
            ]),
            [
                (11, looks(vec![window(11, "at", 3)])),
                (12, Look::Everything)
            ]
        );
    }

    #[test]
    fn the_clock_of_a_parent_reaches_the_rows_that_read_it() {
        let customer = fixture::table(1, "s.customer", r#"{"clock":"at"}"#, &[]);
        let address = fixture::table(
            2,
            "s.address",
            r#"{"clock":"address_customer_fkey.at"}"#,
            &[("line", &fixture::tag(&["p.a"], r#""on_expiry":"set_null""#))],
        );
        let key = fixture::foreign_key("address_customer_fkey", &address, "id", &customer);
        let other = fixture::table(3, "s.other", r#"{"clock":"at"}"#, &[]);
        let schema = fixture::schema(vec![customer, address, other], vec![key]);
        let at = |column: &str| concerned(&schema, &[reopening(1, Some(column), 5)]);
        assert_eq!(
            at("at").get(&2),
            Some(&Look::Windows(vec![window(1, "at", 5)]))
        );
        assert_eq!(at("at").get(&3), None);
        assert_eq!(at("other").get(&2), None);
    }
}
